"""`gateway usage` and `gateway backup`, as a new user tries them: beside a server, and without."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import stat
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from tests.e2e.process import ADMIN_TOKEN, Gateway

KEY = "sk-canary-caller-1"
OTHER = "sk-canary-caller-2"


def asked(gateway: Gateway, target: str, token: str | None = ADMIN_TOKEN, body=None):
    """Status and JSON of the admin plane."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    url = f"http://127.0.0.1:{gateway.admin_port}{target}"
    request = urllib.request.Request(url, body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def used(house, stack):
    """Three calls and a hit of one caller, a call of another."""
    gateway = house.serve(stack)
    for prompt in ("one", "two", "two"):
        house.chat(prompt, key=KEY, tags="project=red")
    house.chat("three", key=KEY, model="echo-2")
    house.chat("four", key=OTHER)
    return house, gateway


def test_usage_is_there_as_soon_as_it_was_answered_and_after_the_server(used):
    house, gateway = used
    live = house.read("usage", "--by", "key,model,tag:project")
    assert sorted((row["model"], row["tag:project"] or "", row["requests"]) for row in live) == [
        ("echo", "", 1),
        ("echo", "red", 3),
        ("echo-2", "", 1),
    ]
    assert sum(row["saved_tokens"] > 0 for row in live) == 1
    assert all(row["cost_usd"] == 0 and row["key"].startswith("pass-") for row in live)
    assert asked(gateway, "/admin/usage?by=key,model,tag:project") == (200, live)
    gateway.__exit__(None, None, None)
    assert house.read("usage", "--by", "key,model,tag:project") == live
    [total] = house.read("usage")
    assert total["requests"] == 5
    assert total["prompt_tokens"] == sum(row["prompt_tokens"] for row in live)


def test_a_table_is_for_people_and_csv_for_a_bill(used):
    house, _ = used
    table = house.run("usage", "--by", "model", "--since", "1h").splitlines()
    assert table[0].split()[:3] == ["model", "requests", "prompt_tokens"]
    assert [line.split()[:2] for line in table[1:]] == [["echo", "4"], ["echo-2", "1"]]
    text = house.run("usage", "--by", "model,day", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["model"], row["requests"], row["cost_usd"]) for row in rows] == [
        ("echo", "4", "0"),
        ("echo-2", "1", "0"),
    ]
    assert house.read("usage", "--model", "echo-*")[0]["requests"] == 1
    assert house.read("usage", "--until", "2020-01-01")[0]["requests"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("usage", "--by", "weather"),
        ("usage", "--by", "key,key"),
        ("usage", "--by", "tag:"),
        ("usage", "--since", "tomorrow"),
        ("logs", "--status", "6xx"),
        ("logs", "--limit", "0"),
    ],
)
def test_what_cannot_be_meant_is_a_wrong_usage(house, words):
    house.run(*words, code=2)


def test_without_any_books_there_is_nothing_and_nothing_is_made(house):
    assert house.read("usage", "--by", "key") == []
    assert house.read("logs") == []
    assert not house.data.exists()


def test_only_the_admin_token_reads_the_books(used):
    """Issue 4, proof 6: one key's caller cannot read anything there, by any path."""
    house, gateway = used
    [row, *_] = house.read("logs")
    for target in ("/admin/usage", "/admin/logs", f"/admin/logs/{row['id']}"):
        assert asked(gateway, target)[0] == 200
        for token in (None, KEY, "gw_" + "a" * 43):
            status, answer = asked(gateway, target, token)
            assert status == 401
            assert row["id"] not in json.dumps(answer)


# Backup -------------------------------------------------------------------------------------------


def test_a_backup_is_whole_while_it_runs_and_serves_as_data(used, stack, tmp_path):
    house, gateway = used
    copy = tmp_path / "copies" / "today"
    said = house.run("backup", str(copy))
    assert "ledger.db" in said
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    names = {path.name for path in copy.iterdir()}
    assert {"secret", "ledger.db", "keys.db"} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in copy.iterdir()} == {0o600}
    assert (copy / "secret").read_bytes() == (house.data / "secret").read_bytes()
    with closing(sqlite3.connect(copy / "ledger.db")) as base:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert base.execute("SELECT count(*) FROM requests").fetchall() == [(5,)]
    house.run("backup", str(copy), code=2)  # never over another one
    gateway.__exit__(None, None, None)
    house.data = copy  # restored: the copy is a data directory
    house.serve(stack)
    house.chat("five", key=KEY)
    assert house.read("usage")[0]["requests"] == 6


def test_without_a_server_the_files_are_copied(used, tmp_path):
    house, gateway = used
    gateway.__exit__(None, None, None)
    found = house.read("backup", str(tmp_path / "copy"))
    assert found == {"dir": str(tmp_path / "copy"), "files": ["secret", "keys.db", "ledger.db"]}


def test_a_backup_that_fails_leaves_nothing_behind(used, tmp_path):
    house, _ = used
    (tmp_path / "file").write_text("in the way")
    house.run("backup", str(tmp_path / "file" / "below"), code=1)
    house.run("backup", str(tmp_path / "file"), code=2)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_admin_plane_copies_nothing(used, tmp_path):
    """Who may write files on the machine is decided by its files, not by a token."""
    _, gateway = used
    body = json.dumps({"dir": str(tmp_path / "copy")}).encode()
    assert asked(gateway, "/admin/backup", body=body)[0] == 404
    assert asked(gateway, "/admin/backup", token=None, body=body)[0] in {401, 403}
    assert not (tmp_path / "copy").exists()
