"""No database call on the loop's thread, ever, and no waiting for one (E4)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from gateway.cache.readers import Readers
from gateway.cache.store import TwoTier
from gateway.cache.table import Table
from gateway.entry import Selector
from tests.cache.samples import ALL, MiB, SetClock, entry, keep, key_of, section


@pytest.fixture
def called(monkeypatch) -> dict[str, set[int]]:
    """What was called on which thread. Every connection of this process is watched."""
    seen: dict[str, set[int]] = {}

    def note(what: str) -> None:
        seen.setdefault(what, set()).add(threading.get_ident())

    class Watched(sqlite3.Connection):
        def execute(self, *args):
            note(args[0].split(None, 1)[0])
            return super().execute(*args)

        def commit(self):
            note("commit()")
            super().commit()

        def close(self):
            note("close()")
            super().close()

    real = sqlite3.connect

    def connect(*args, **more):
        note("connect()")
        return real(*args, factory=Watched, **more)

    monkeypatch.setattr(sqlite3, "connect", connect)
    return seen


async def test_the_loop_s_thread_calls_no_database(tmp_path, called):
    clock = SetClock()
    cache = TwoTier(section(memory=0), tmp_path / "cache", clock)
    await cache.start()
    for number in range(20):
        keep(cache, key_of(number), entry(created=clock.now(), request_id=f"01{number}"))
        cache.find(key_of(number))
        await cache.fetch(key_of(number))
    await cache.flush()
    for number in range(20):
        assert await cache.fetch(key_of(number)) is not None
    assert await cache.lookup_request("01UNKNOWN") is None
    for selector in (Selector(digest=key_of(1)), Selector(key="bob"), Selector(request="012"), ALL):
        await cache.purge(selector)
    cache.stats()
    cache.reconfigure(section(size_limit=32 * MiB))
    await cache.close()
    assert called.keys() >= {
        "connect()",
        "SELECT",
        "INSERT",
        "DELETE",
        "BEGIN",
        "COMMIT",
        "close()",
    }
    assert threading.get_ident() not in set().union(*called.values())


async def test_only_one_thread_writes(tmp_path, called):
    """Also because SQLite before 3.51.3 loses rows where two connections commit and checkpoint
    (reliability section 0.3)."""
    clock = SetClock()
    cache = TwoTier(section(memory=0), tmp_path / "cache", clock)
    await cache.start()
    for number in range(20):
        keep(cache, key_of(number), entry(created=clock.now()))
    await cache.flush()
    await asyncio.gather(*(cache.fetch(key_of(number)) for number in range(20)))
    await cache.purge(ALL)
    await cache.close()
    writers = [called[word] for word in ("BEGIN", "COMMIT", "INSERT", "DELETE", "CREATE")]
    assert len(set().union(*writers)) == 1
    assert len(called["SELECT"]) > 1


async def test_a_database_that_hangs_holds_nobody_up(tmp_path, monkeypatch):
    """Every statement hangs from now on: the loop goes on, each request gets its miss."""
    clock, go = SetClock(), threading.Event()
    cache = TwoTier(section(memory=MiB, disk_deadline=0.05), tmp_path / "cache", clock)
    await cache.start()
    keep(cache, key_of("kept"), kept := entry(created=clock.now()))
    await cache.flush()
    await cache.fetch(key_of("open both readers' connections"))
    real = Table._sql.fget

    def hangs(table):
        go.wait(30)
        return real(table)

    monkeypatch.setattr(Table, "_sql", property(hangs))
    try:
        for number in range(50):
            assert await cache.fetch(key_of(number)) is None
            assert keep(cache, key_of(number), entry(created=clock.now()))
            assert cache.find(key_of("kept")) == kept
        figures = cache.stats().disk
        assert figures.errors["deadline"] == 2  # one for each reader; nobody waits after that
        assert figures.errors["busy"] == 48
    finally:
        go.set()
    await cache.close()


async def test_a_hit_creates_no_task_and_no_future(tmp_path, monkeypatch):
    """A hit from memory: no task, no callback, no other thread (design, "The Flight")."""
    clock = SetClock()
    cache = TwoTier(section(memory=MiB), tmp_path / "cache", clock)
    await cache.start()
    keep(cache, key_of("kept"), kept := entry(created=clock.now()))
    loop = asyncio.get_running_loop()

    def forbidden(*args, **more):
        raise AssertionError("a hit from memory asked the loop for something")

    for name in ("create_task", "create_future", "call_soon", "call_later", "call_soon_threadsafe"):
        monkeypatch.setattr(loop, name, forbidden, raising=False)
    monkeypatch.setattr(Readers, "submit", forbidden)
    try:
        assert cache.find(key_of("kept")) == kept
        cache.remember("01HIT", key_of("kept"))
        assert cache.ticket() == 0
    finally:
        monkeypatch.undo()
    await cache.close()
