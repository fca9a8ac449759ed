"""The disk below the books is locked, full or read-only: answers go on, then calls are refused, and
every row comes when it can (G3; issue 4, proof 3)."""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.cached import ask, until
from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat
from tests.faults.books import whole
from tests.faults.conftest import Remount
from tests.scripted.client import Scripted
from tests.scripted.replies import completion, reply
from tests.usage.samples import column


def asked(gateway: Gateway, model: str, times: int) -> list[str]:
    """The ids of that many answers."""
    with Raw(gateway.address) as raw:
        answers = [raw.ask(CHAT, chat(model)) for _ in range(times)]
    assert {answer.status for answer in answers} == {200}
    return [answer.id for answer in answers]


def refused(gateway: Gateway, model: str) -> bool:
    answer = ask(gateway, chat(model))
    if answer.status == 200:
        return False
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "ledger_unavailable"
    assert int(str(answer.header("retry-after"))) > 0
    return True


def written(data: Path, ids: list[str]) -> None:
    until(lambda: set(ids) <= set(column(data, "SELECT id FROM requests")), "rows on disk")


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.faults)])
def test_a_locked_ledger_delays_nobody_and_gets_every_row_later(
    start: Start, up: Scripted, tmp_path: Path, seconds: int
) -> None:
    """G3: once it is known to be locked, nobody waits for it, and every row comes later."""
    gateway = start(config_for(up) | {"usage": {"when_down": "none"}})
    model, ids, took = up.play(reply(completion())), list[str](), list[float]()
    ids += asked(gateway, model, 50)
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ids += asked(gateway, model, 1)  # finds out
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            ids += asked(gateway, model, 1)
            took.append(time.monotonic() - began)
        other.execute("ROLLBACK")
    written(tmp_path / "data", ids)
    whole(tmp_path / "data", ids)
    assert statistics.median(took) < 1.0  # and not `commit_wait` (2 s), nor SQLite's own patience


def test_a_ledger_that_stays_locked_refuses_calls_and_recovers_by_itself(
    start: Start, up: Scripted, tmp_path: Path
) -> None:
    gateway = start(config_for(up) | {"usage": {"when_down": "500ms"}})
    model = up.play(reply(completion()))
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ids = asked(gateway, model, 1)
        until(lambda: refused(gateway, model), "a refusal")
        calls = len(up.calls(model))
        assert refused(gateway, model)
        assert len(up.calls(model)) == calls  # nothing is free
        other.execute("ROLLBACK")
    until(lambda: not refused(gateway, model), "calls again")
    whole(tmp_path / "data", ids)


@pytest.fixture
def own_disk(tmp_path: Path) -> Iterator[Remount]:
    """A file system of its own for `data`, 2 MiB; what is yielded mounts it with options."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)

    def mount(*args: str) -> None:
        done = subprocess.run(
            ["mount", *args, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (
            f"{done.stderr.strip()}: run it as root, or as `unshare -Urm make faults`"
        )

    mount("-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
def test_a_full_disk_keeps_what_it_has_and_gets_the_rest_with_room(
    start: Start, up: Scripted, tmp_path: Path, own_disk: Remount
) -> None:
    gateway = start(config_for(up) | {"usage": {"when_down": "1s"}})
    model, ids = up.play(reply(completion())), list[str]()

    def full() -> bool:
        answer = ask(gateway, chat(model))
        if answer.status == 200:
            ids.append(answer.id)
        return answer.status == 503

    filler = (tmp_path / "data" / "filler").open("wb", buffering=0)
    ids += asked(gateway, model, 20)
    with filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(b"x" * 4096)
    until(full, "a refusal")
    assert column(tmp_path / "data", "PRAGMA integrity_check") == ["ok"]
    own_disk("size=100m")
    until(lambda: not full(), "calls again")
    written(tmp_path / "data", ids)
    whole(tmp_path / "data", ids)


@pytest.mark.faults
def test_a_read_only_disk_is_no_start_and_says_why(
    up: Scripted, tmp_path: Path, own_disk: Remount
) -> None:
    with Gateway(tmp_path, config_for(up)) as gateway:
        ids = asked(gateway, up.play(reply(completion())), 3)
    own_disk("ro")
    gateway = Gateway(tmp_path, config_for(up))
    assert gateway.process.wait(20) == 1
    gateway.stderr.until(lambda lines: any("cannot start" in line for line in lines) or None)
    gateway.close()
    own_disk("rw")
    with Gateway(tmp_path, config_for(up)):
        pass
    whole(tmp_path / "data", ids)
