"""What is on disk: private, whole, and never needed (E1, E3, D2). What needs root or many minutes
is in tests/faults/."""

from __future__ import annotations

import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cached import ask, figures, killed, on_disk, state
from tests.e2e.conftest import Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Events, Raw, chat, request
from tests.faults.kills import kills
from tests.scripted.client import Scripted
from tests.scripted.providers import TEXT
from tests.scripted.replies import reply, stream

ONLY = ("Cache-Control", "only-if-cached")


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in paths}


def test_owner_alone_may_read_it(tmp_path: Path, up: Scripted) -> None:
    """E1: whatever the umask, and where it was open before."""
    model = up.play(reply(TEXT.body))
    with Gateway(tmp_path, caching_config(up)) as gateway:
        ask(gateway, chat(model))
        on_disk(gateway, 1)
        found = modes(tmp_path / "data" / "cache")
    assert found.pop(".") == 0o700
    assert {"cache.db", "cache.db-wal", "cache.db-shm"} == set(found)
    assert set(found.values()) == {0o600}
    folder = tmp_path / "data" / "cache"
    folder.chmod(0o777)
    (folder / "cache.db").chmod(0o666)
    with Gateway(tmp_path, caching_config(up)) as gateway:
        assert state(ask(gateway, chat(model))) == "hit"
        found = modes(folder)
        assert (found.pop("."), set(found.values())) == (0o700, {0o600})
        assert "was writable by others" in gateway.stderr.text


# Broken databases ---------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flipped_head(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:64] = bytes(byte ^ 0xFF for byte in data[:64])
    path.write_bytes(data)


def flipped_everywhere(path: Path) -> None:
    """One bit in each 512 bytes after the file's head."""
    data, dice = bytearray(path.read_bytes()), random.Random(2)
    for start in range(512, len(data), 512):
        data[dice.randrange(start, min(start + 512, len(data)))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def other_words(path: Path) -> None:
    """Only within the answers: to SQLite nothing is wrong."""
    data = path.read_bytes()
    assert b"Regen, 12" in data
    path.write_bytes(data.replace(b"Regen, 12", b"Sonne, 24"))


def another_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE Cache (something TEXT)")
        other.execute("CREATE TABLE Settings (key TEXT, value)")
    other.close()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


READABLE = (empty, other_words, flipped_everywhere)  # at least where it is opened
BREAKS = (*READABLE, garbage, truncated, flipped_head, another_schema, a_folder)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda one: one.__name__)
def test_a_broken_database_costs_hits_and_nothing_else(
    tmp_path: Path, up: Scripted, broken: Callable[[Path], None]
) -> None:
    """E3: the start works, requests are answered, wrong bytes never; what cannot be read at all is
    moved aside; what comes next is kept again, over a restart."""
    folder, config = tmp_path / "data" / "cache", caching_config(up)
    models = [up.play(reply(TEXT.body)) for _ in range(20)]
    with Gateway(tmp_path, config) as gateway:
        for model in models:
            ask(gateway, chat(model))
    for log in folder.glob("cache.db-*"):
        log.unlink()
    broken(folder / "cache.db")
    with Gateway(tmp_path, config) as gateway:
        answers = [ask(gateway, chat(model)) for model in models]
        assert {(answer.status, answer.body) for answer in answers} == {(200, TEXT.body)}
        answers = [ask(gateway, chat(model)) for model in models]
        assert {state(answer) for answer in answers} == {"hit"}
        aside = list(folder.parent.glob("cache.broken-*"))
        assert len(aside) == figures(gateway)["disk"]["rebuilt"]
        if broken is not empty:
            assert sum(figures(gateway)["disk"]["errors"].values())
        if broken not in READABLE:
            assert len(aside) == 1
            assert stat.S_IMODE(aside[0].stat().st_mode) == 0o700
            assert f"{folder} was broken and is now {aside[0]}" in gateway.stderr.text
        new = up.play(reply(TEXT.body))
        ask(gateway, chat(new))
    with Gateway(tmp_path, config) as gateway:
        assert state(ask(gateway, chat(new), ONLY)) == "hit"


def test_it_breaks_while_it_runs(start: Start, up: Scripted) -> None:
    """The files are overwritten under the running gateway; it goes on, and begins anew."""
    gateway = start(caching_config(up, memory="0B"))
    folder = gateway.folder / "data" / "cache"
    models = [up.play(reply(TEXT.body)) for _ in range(5)]
    for model in models:
        ask(gateway, chat(model))
    on_disk(gateway, 5)
    for path in folder.glob("cache.db*"):
        garbage(path)
    for _ in range(2):
        answers = [ask(gateway, chat(model)) for model in models]
        assert {(answer.status, answer.body) for answer in answers} == {(200, TEXT.body)}
    assert sum(figures(gateway)["disk"]["errors"].values())


def test_deleting_it_costs_nothing_but_hits(tmp_path: Path, up: Scripted) -> None:
    """Contract, "Files"."""
    model, config = up.play(reply(TEXT.body)), caching_config(up)
    for _ in range(2):
        with Gateway(tmp_path, config) as gateway:
            assert state(ask(gateway, chat(model))) == "miss"
            assert state(ask(gateway, chat(model))) == "hit"
        shutil.rmtree(tmp_path / "data" / "cache")
    assert len(up.calls(model)) == 2


def test_nothing_on_disk_where_that_is_off(tmp_path: Path, up: Scripted) -> None:
    model = up.play(reply(TEXT.body))
    with Gateway(tmp_path, caching_config(up, size_limit="0B")) as gateway:
        assert [state(ask(gateway, chat(model))) for _ in range(2)] == ["miss", "hit"]
    assert not (tmp_path / "data" / "cache").exists()
    with Gateway(tmp_path, caching_config(up, size_limit="0B")) as gateway:
        assert state(ask(gateway, chat(model))) == "miss"


def test_the_disk_serves_what_memory_has_no_room_for(start: Start, up: Scripted) -> None:
    gateway = start(caching_config(up, memory="0B"))
    one, two = up.play(reply(TEXT.body)), up.play(stream(TEXT.events))
    live = ask(gateway, chat(one)), ask(gateway, chat(two, stream=True))
    on_disk(gateway, 2)
    again = ask(gateway, chat(one)), ask(gateway, chat(two, stream=True))
    assert [state(answer) for answer in again] == ["hit", "hit"]
    assert [answer.body for answer in again] == [answer.body for answer in live]
    found = figures(gateway)
    assert (found["memory"]["entries"], found["disk"]["hits"]) == (0, 2)


# Killed -------------------------------------------------------------------------------------------


def test_half_a_stream_is_not_kept(tmp_path: Path, up: Scripted) -> None:
    """D2: killed while an answer comes in, there is nothing of it afterwards."""
    model = up.play([*stream(TEXT.events[:3], close=False), ("stall",)], stream(TEXT.events))
    config = caching_config(up)
    with killed(tmp_path, config) as gateway, Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        Events(raw).next()
    with Gateway(tmp_path, config) as gateway:
        assert figures(gateway)["disk"]["entries"] == 0
        assert state(ask(gateway, chat(model, stream=True))) == "miss"


def test_three_kills_in_the_middle_of_stores(tmp_path: Path, up: Scripted) -> None:
    """D2: no half entry is ever served (fifty: tests/faults/)."""
    kills(tmp_path, up, 3)
