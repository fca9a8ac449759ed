"""`gateway cache` as people and scripts use it: real processes, a real server, real files
(contract, "Command line"; issue 3, "Commands")."""

from __future__ import annotations

import csv
import io
import json
import signal
import stat
import subprocess
from contextlib import ExitStack

import pytest

from gateway.commands.house import Unreachable, open_house
from gateway.config import Config
from tests.cli.conftest import PROVIDER_KEY, House
from tests.e2e.process import ADMIN_TOKEN, environment
from tests.scripted.client import PATIENCE

ALICE, BOB = "canary-own-token-alice", "canary-own-token-bob"
CHATS = {  # name: who asks which model
    "a-one": (ALICE, "one"),
    "a-two": (ALICE, "two"),
    "b-one": (BOB, "one"),
}


def fill(house: House) -> dict[str, str]:
    """The request of each chat, kept in memory and on disk."""
    ids = {}
    for name, (key, model) in CHATS.items():
        ids[name], state = house.chat(name, key=key, model=model)
        assert state == "miss"
    house.written(*ids.values())
    return ids


def left(house: House) -> set[str]:
    return {n for n, (key, model) in CHATS.items() if house.kept(n, key=key, model=model)}


def name_of(house: House, request_id: str) -> str:
    """The caller's name, as it is shown."""
    name = house.read("cache", "show", request_id)["forms"]["json"]["key"]
    assert name.startswith("pass-")
    return str(name)


# Beside a server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["--key", "ALICE"], {"a-one", "a-two"}),
        (["--model", "one"], {"a-one", "b-one"}),
        (["--model", "o*"], {"a-one", "b-one"}),
        (["--request", "ID-a-two"], {"a-two"}),
        (["--key", "ALICE", "--model", "one"], {"a-one"}),
        (["--key", "nobody"], set()),
        (["--all"], set(CHATS)),
    ],
)
def test_a_purge_holds_when_it_returns(house, stack, words, gone):
    """In memory and on disk; and the next server does not know it either."""
    with ExitStack() as server:
        house.serve(server)
        ids = fill(house)
        alice = name_of(house, ids["a-one"])
        given = [alice if word == "ALICE" else word.removeprefix("ID-") for word in words]
        given = [ids.get(word, word) for word in given]
        assert house.read("cache", "purge", *given) == {"purged": len(gone)}
        assert left(house) == set(CHATS) - gone
        assert {name for name, one in ids.items() if not house.on_disk(one)} == gone
    house.serve(stack)
    assert left(house) == set(CHATS) - gone


def test_an_entry_is_found_by_any_request_it_answered(house, stack):
    house.serve(stack)
    first, _ = house.chat("again", key=ALICE)
    second, state = house.chat("again", key=ALICE)
    assert state == "hit"
    shown = house.read("cache", "show", second)
    assert shown == house.read("cache", "show", first) | {"forms": shown["forms"]}
    assert shown["forms"]["json"]["request_id"] == first
    assert shown["model"] == "echo"
    assert "body" not in shown["forms"]["json"]
    shown = house.read("cache", "show", second, "--body")
    said = json.loads(shown["forms"]["json"]["body"])
    assert said["choices"][0]["message"]["content"] == "again"
    assert house.run("cache", "purge", "--request", second) == "1 entry purged\n"
    for words in (["show", first], ["show", second], ["purge", "--request", second]):
        house.run("cache", *words, code=1)
    assert not house.kept("again", key=ALICE)


def test_the_figures(house, stack):
    house.serve(stack)
    fill(house)
    assert house.kept("a-one", key=ALICE, model="one")
    house.chat("far from finished", key=ALICE, most=1)
    found = house.read("cache", "stats")
    assert found["enabled"] is True
    assert found["skipped"] == {"finish_reason": 1}
    assert found["stored"] == found["memory"]["entries"] == found["disk"]["entries"] == len(CHATS)
    assert found["memory"]["hits"] == 1
    assert found["disk"]["state"] == "open"
    rows = list(csv.DictReader(io.StringIO(house.run("cache", "stats", "--format", "csv"))))
    assert {"name": "memory.entries", "value": str(len(CHATS))} in rows
    assert {"name": "disk.errors.locked", "value": "0"} in rows
    table = house.run("cache", "stats")
    assert "256.0 MiB" in table
    assert "disk.errors" not in table


def test_the_socket_is_private_and_goes_with_the_server(house):
    with ExitStack() as server:
        house.serve(server)
        mode = (house.data / "control.sock").lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(house.data.stat().st_mode) == 0o700
    assert not (house.data / "control.sock").exists()


def test_commands_at_once(house, stack):
    """Five purges beside a server: each entry is counted by one of them."""
    house.serve(stack)
    fill(house)
    assert sum(found["purged"] for found in at_once(house, "cache", "purge", "--all")) == 3
    assert left(house) == set()


def at_once(house: House, *words: str, times: int = 5):
    running = [
        subprocess.Popen(
            house.command(*words, "--format", "json"),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(times)
    ]
    ended = [(one, *one.communicate(timeout=PATIENCE)) for one in running]
    assert [one.returncode for one, _, _ in ended] == [0] * times, [said for _, _, said in ended]
    return [json.loads(found) for _, found, _ in ended]


def test_a_path_longer_than_a_socket_s_address(tmp_path, stack):
    data = tmp_path / ("long" * 25) / ("name" * 25)
    data.mkdir(parents=True)
    assert len(str(data)) > 200
    house = House(tmp_path, data)
    house.serve(stack)
    request_id, _ = house.chat("far away", key=ALICE)
    assert (data / "control.sock").is_socket()
    assert house.run("cache", "purge", "--request", request_id) == "1 entry purged\n"


def test_no_secret_is_shown(house, stack):
    """G7: credentials of callers, upstreams and the gateway itself."""
    house.serve(stack)
    ids = fill(house)
    for form in ("table", "json", "csv"):
        house.run("cache", "stats", "--format", form)
        house.run("cache", "show", ids["a-one"], "--body", "--format", form)
        house.run("cache", "purge", "--request", ids["a-one"], "--format", form)
        ids["a-one"], _ = house.chat("a-one", key=ALICE, model="one")
    house.run("cache", "show", "unknown", code=1)
    pepper = (house.data / "secret").read_text().strip()
    for secret in (ALICE, BOB, PROVIDER_KEY, ADMIN_TOKEN, pepper):
        assert not [said for said in house.said if secret in said]


def test_a_terminal_obeys_nothing_that_a_caller_chose(house, stack):
    house.serve(stack)
    request_id, _ = house.chat("\x1b[2Jcleared\x9b", key=ALICE, model="m\x1b[31m\nred")
    table = house.run("cache", "show", request_id, "--body")
    assert r"m\x1b[31m\nred" in table
    assert not set(table) & {"\x1b", "\x9b"}
    assert house.read("cache", "show", request_id)["model"] == "m\x1b[31m\nred"


# Without a server ---------------------------------------------------------------------------------


def test_without_a_server_the_files_are_worked_on(house, stack):
    """And the next server has forgotten it."""
    with ExitStack() as server:
        house.serve(server)
        ids = fill(house)
    assert house.read("cache", "stats")["disk"]["entries"] == len(CHATS)
    assert house.read("cache", "show", ids["a-two"])["model"] == "two"
    assert house.run("cache", "purge", "--model", "one") == "2 entries purged\n"
    house.run("cache", "show", ids["a-one"], code=1)
    assert len(at_once(house, "cache", "purge", "--all")) == 5
    house.serve(stack)
    assert left(house) == set()


def test_a_killed_server_leaves_nothing_in_the_way(house, stack):
    """Its socket's file stays; a command works on the files, and the next server takes its
    place."""
    gateway = house.serve(ExitStack())
    try:
        ids = fill(house)
    finally:
        gateway.kill()
    assert (house.data / "control.sock").is_socket()
    assert house.run("cache", "purge", "--request", ids["a-one"]) == "1 entry purged\n"
    house.serve(stack)
    assert left(house) == {"a-two", "b-one"}
    assert house.run("cache", "purge", "--all") == "2 entries purged\n"


def test_a_command_while_a_server_starts(house, stack):
    """Whoever is first, both do their work."""
    purging = [
        subprocess.Popen(house.command("cache", "purge", "--all"), stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, env=environment(), text=True)
        for _ in range(2)
    ]  # fmt: skip
    house.serve(stack)
    ended = [(one.communicate(timeout=PATIENCE)[1], one.returncode) for one in purging]
    assert [code for _, code in ended] == [0, 0], ended
    assert house.chat("a-one", key=ALICE)[1] == "miss"


def test_a_server_that_hangs_is_said(house, stack):
    gateway = house.serve(stack)
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        with (
            pytest.raises(Unreachable, match="does not answer"),
            open_house(Config(data=str(house.data)), patience=0.1),
        ):
            raise AssertionError("it opened")
    finally:
        gateway.process.send_signal(signal.SIGCONT)


# Wrong usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "purge"],
        ["cache", "purge", "--key", ""],
        ["cache", "purge", "--key", "", "--all"],
        ["cache", "purge", "alice"],
        ["cache", "show"],
        ["cache", "stats", "--format", "xml"],
        ["cache", "empty"],
    ],
)
def test_wrong_usage_is_2_and_touches_nothing(house, words):
    house.run(*words, code=2)
    assert not house.data.exists()


def test_a_purge_of_nothing_names_the_choices(house):
    house.run("cache", "purge", code=2)
    assert all(word in house.said[-1] for word in ("--key", "--model", "--request", "--all"))


def test_a_wrong_configuration_is_2(house):
    (house.folder / "config.yaml").write_text("cache: {ttll: 1h}\n")
    house.run("cache", "stats", code=2)
    assert "config.yaml:1" in house.said[-1]


def test_where_it_is_may_be_said_first_or_last(house):
    where = ["--data", str(house.data), "--config", str(house.folder / "config.yaml")]
    plain = house.command()[:3]
    for words in (["cache", "purge", *where, "--all"], ["cache", "purge", "--all", *where]):
        done = subprocess.run(
            [*plain, *words], env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "0 entries purged\n"), done.stderr
