"""`gateway keys` and `gateway teams` as people and scripts use them (contract, "Command line")."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import stat
import subprocess
from contextlib import closing

import pytest

from tests.cli.conftest import House
from tests.e2e.process import environment
from tests.scripted.client import PATIENCE

KEY = re.compile(r"gw_[0-9A-Za-z]{43}")


def said(house: House, *words: str) -> str:
    """Stderr of a command that succeeds."""
    house.run(*words)
    return house.said[-1]


def complaint(house: House, *words: str, code: int) -> str:
    house.run(*words, code=code)
    return house.said[-1]


def rows(page: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(page)))


def test_looking_makes_nothing(house):
    for words in (["keys", "list"], ["teams", "list"]):
        assert house.read(*words) == []
        assert rows(house.run(*words, "--format", "csv")) == []
        house.run(*words)
    for words in (["keys", "show", "x"], ["keys", "revoke", "x"], ["keys", "rotate", "x"],
                  ["keys", "set", "x", "--rpm", "1"], ["teams", "show", "x"]):  # fmt: skip
        assert "'x'" in complaint(house, *words, code=1)
    assert not house.data.exists()


def test_the_first_key_makes_what_it_needs(house):
    made = house.read("keys", "create", "alice")
    assert list(made)[:3] == ["name", "id", "key"]
    assert made["name"] == "alice"
    assert KEY.fullmatch(made["key"])
    assert "not shown again" in house.said[-1]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in house.data.iterdir()}
    assert modes == {"keys.db": 0o600, "secret": 0o600, "lock": 0o600}
    assert stat.S_IMODE(house.data.stat().st_mode) == 0o700


@pytest.mark.parametrize("beside", [True, False], ids=["beside a server", "on the files"])
def test_the_story_of_a_key(house, stack, beside):
    """Both ways give the same words."""
    if beside:
        house.serve(stack)
    house.run("teams", "set", "red", "--tpm", "1000")
    options = ["--team", "red", "--models", "gpt-*,o3", "--expires", "30d", "--cache", "off",
               "--scope", "team", "--cache-controls", "no-store,ttl", "--log-bodies", "on",
               "--rpm", "60", "--budget", "12.50", "--per", "month"]  # fmt: skip
    table = house.run("keys", "create", "alice", *options)
    [key] = KEY.findall(table)
    shown = house.read("keys", "show", "alice")
    assert shown["prefix"] == key[:7]
    assert shown["models"] == ["gpt-*", "o3"]
    assert (shown["budget"], shown["per"], shown["rpm"]) == (12.5, "month", 60)
    assert house.read("keys", "list") == [shown]
    assert house.read("teams", "show", "red")["keys"] == ["alice"]
    assert house.read("teams", "list") == [house.read("teams", "show", "red")]
    [row] = rows(house.run("keys", "list", "--format", "csv"))
    assert (row["name"], row["models"], row["tpm"], row["state"]) == (
        *("alice", "gpt-*,o3", "", "active"),
    )
    changed = json.loads(
        house.run("keys", "set", "alice", "--models", "none", "--rpm", "none", "--team", "none",
                  "--cache-controls", "", "--format", "json")
    )  # fmt: skip
    shown["quota"].pop("rpm")
    assert changed == shown | {"models": None, "rpm": None, "team": None, "cache_controls": []}
    rotated = house.read("keys", "rotate", "alice", "--grace", "24h")
    assert rotated.pop("key") != key
    assert rotated["previous_until"] > rotated["created"]
    assert rotated["id"] == shown["id"]
    revoked = house.read("keys", "revoke", "alice")
    assert (revoked["state"], revoked["purged"]) == ("revoked", 0)
    for words in (["set", "alice", "--rpm", "1"], ["rotate", "alice"], ["revoke", "alice"]):
        assert "revoked" in complaint(house, "keys", *words, code=1)
    again = house.read("keys", "create", "alice")
    assert again["id"] != shown["id"]
    assert [one["state"] for one in house.read("keys", "list")] == ["revoked", "active"]
    assert house.read("keys", "show", "alice")["id"] == again["id"]


def test_a_key_is_shown_by_nothing_but_what_made_it(house):
    """G7."""
    keys = {
        house.read("keys", "create", "alice")["key"],
        house.read("keys", "rotate", "alice")["key"],
    }
    house.said.clear()
    for words in (["list"], ["show", "alice"], ["set", "alice", "--tpm", "9"]):
        for form in ("table", "json", "csv"):
            house.run("keys", *words, "--format", form)
    house.run("keys", "revoke", "alice")
    assert not [key for key in keys if any(key[7:] in text for text in house.said)]
    files = [path.read_bytes() for path in house.data.rglob("*") if path.is_file()]
    assert not [key for key in keys if any(key[7:].encode() in text for text in files)]


def test_what_is_left_is_shown(house):
    """For people as a table of its own, for programs under `quota`."""
    house.run("keys", "create", "a", "--rpm", "30", "--tokens-per-day", "20000")
    table = house.run("keys", "show", "a")
    assert "tokens_per_day  20,000  0     0         20,000" in table
    shown = house.read("keys", "show", "a")["quota"]
    assert shown["rpm"] == {
        "per": "minute", "limit": 30, "used": 0, "reserved": 0, "left": 30, "reset": None
    }  # fmt: skip
    assert shown["tokens_per_day"]["reset"].endswith("T00:00:00Z")
    house.run("teams", "set", "t", "--budget", "5", "--per", "total")
    assert house.read("teams", "show", "t")["quota"]["budget"] == {
        "per": "total", "limit": 5.0, "used": 0.0, "reserved": 0.0, "left": 5.0, "reset": None
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        *(["--rpm", number] for number in ("0", "-1", "1.5", "many", "", "1_0")),
        ["--budget", "5"],
        ["--per", "day"],
        ["--budget", "-5", "--per", "day"],
        ["--budget", "five", "--per", "day"],
        ["--budget", "0", "--per", "day"],
        ["--budget", "5", "--per", "year"],
        ["--scope", "everybody"],
        ["--cache", "maybe"],
        ["--cache-controls", "no-cash"],
        ["--log-bodies", "true"],
        ["--expires", "yesterday"],
        ["--expires", "2020-01-01"],
        ["--models", ","],
        ["--unknown", "1"],
        ["extra"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_changes_nothing(house, options):
    house.run("keys", "create", "alice", *options, code=2)
    if (path := house.data / "keys.db").exists():
        with closing(sqlite3.connect(path)) as base:
            assert base.execute("SELECT * FROM keys").fetchall() == []


def test_names(house):
    for name in ("", "a b", "ä", "a/b", "x" * 65, "anonymous", "none"):
        house.run("keys", "create", name, code=2)
        house.run("teams", "set", name, code=2)
    house.run("keys", "create", "team-a_1.ci@example")
    assert "already" in complaint(house, "keys", "create", "team-a_1.ci@example", code=1)
    assert "teams set" in complaint(house, "keys", "create", "b", "--team", "nobody", code=1)
    assert "Say what" in complaint(house, "keys", "set", "team-a_1.ci@example", code=2)
    assert "grace" in complaint(
        house, "keys", "rotate", "team-a_1.ci@example", "--grace", "soon", code=2
    )


def test_nothing_is_asked(house):
    """Also where there is somebody to ask."""
    done = subprocess.run(
        house.command("keys", "create", "alice"),
        cwd=house.folder,
        env=environment(),
        input="",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert len(KEY.findall(done.stdout)) == 1
    assert not KEY.findall(done.stderr)


def test_a_newer_or_broken_file_is_a_plain_word(house):
    house.run("keys", "create", "alice")
    path = house.data / "keys.db"
    path.write_bytes(b"nonsense" * 100)
    for words in (["list"], ["create", "bob"], ["revoke", "alice"]):
        assert "keys.db" in complaint(house, "keys", *words, code=1)


def test_a_key_without_its_pepper_cannot_be_rotated_but_revoked(house):
    """And nothing makes a new pepper in silence but a new key."""
    house.run("keys", "create", "alice")
    (house.data / "secret").unlink()
    assert house.read("keys", "show", "alice")["pepper"] == "lost"
    assert "pepper" in complaint(house, "keys", "rotate", "alice", code=1)
    assert house.read("keys", "revoke", "alice")["state"] == "revoked"
    assert not (house.data / "secret").exists()
