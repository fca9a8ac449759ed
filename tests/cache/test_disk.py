"""The tier on disk: whatever it does, a request sees a miss and a counter moves (E3-E6)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.cache import disk as disks
from gateway.cache import folder as folders
from gateway.cache.store import TwoTier
from gateway.cache.table import Table
from gateway.entry import Entry, Selector
from gateway.ports import PurgeFailed
from tests.cache.samples import ALL, MiB, SetClock, ask, entry, keep, key_of, recording, section

A, B = key_of("a"), key_of("b")

Make = Callable[..., Awaitable[TwoTier]]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def make(tmp_path, clock):
    """Starts caches on one folder, without memory: each answer comes from the disk."""
    made: list[TwoTier] = []

    async def start(folder: Path = tmp_path / "cache", **more: int) -> TwoTier:
        cache = TwoTier(section(**{"memory": 0, **more}), folder, clock)
        await cache.start()
        made.append(cache)
        return cache

    yield start
    for cache in made:
        await cache.close()


async def on_disk(cache: TwoTier, work: Callable[[Table], object]) -> None:
    """Do something on the writer's thread."""
    await asyncio.wrap_future(cache._disk._writer.order(work))  # type: ignore[union-attr]


def blocked(cache: TwoTier) -> threading.Event:
    """The writer waits until the event is set."""
    go = threading.Event()
    cache._disk._writer.order(lambda _: go.wait(30))  # type: ignore[union-attr]
    return go


def rows(folder: Path, statement: str = "SELECT key FROM Cache", *values: object) -> list:
    with sqlite3.connect(folder / "cache.db", timeout=10, isolation_level=None) as other:
        found = other.execute(statement, values).fetchall()
    other.close()
    return found


# Kept, and how -----------------------------------------------------------------------------------


async def test_entries_survive_a_restart(make, clock):
    first = await make()
    kept = entry(created=clock.now(), request_id="01STORED")
    keep(first, A, kept)
    await first.close()
    second = await make()
    assert second.find(A) is None
    assert await second.fetch(A) == kept
    assert await second.lookup_request("01STORED") == (A, kept)
    figures = second.stats().disk
    assert (figures.state, figures.entries, figures.hits) == ("open", 1, 2)
    assert figures.oldest is not None


async def test_what_came_from_the_disk_is_in_memory_then(make, clock):
    first = await make()
    keep(first, A, kept := entry(created=clock.now()))
    await first.close()
    second = await make(memory=MiB)
    assert await second.fetch(A) == kept
    assert second.find(A) == kept


async def test_a_pass_over_the_disk_drives_nothing_out_of_memory(make, clock):
    """What comes from there once stays out where there is little room; what comes again, comes in.
    Whatever is stored anew comes in too."""
    first = await make()
    kept = entry(b"x" * 1000, created=clock.wall)
    for number in range(2000):
        keep(first, key_of(number), kept)
        if number % 500 == 0:
            await first.flush()
    await first.close()
    second = await make(memory=200_000)  # some forty of them
    hot = [key_of(number) for number in range(20)]
    for key in hot * 2:
        assert await ask(second, key) == kept
    for number in range(100, 2000):
        assert await ask(second, key_of(number)) == kept
    assert all(second.find(key) for key in hot)
    assert second.find(key_of(150)) is None
    for _ in range(3):
        assert await ask(second, key_of(150)) == kept
    assert second.find(key_of(150)) == kept
    keep(second, key_of("new"), kept)
    assert second.find(key_of("new")) == kept


async def test_nothing_is_opened_before_the_start(tmp_path, clock):
    """E5: a fork before it shares no connection and no lock."""
    threads = threading.active_count()
    cache = TwoTier(section(), tmp_path / "cache", clock)
    assert not (tmp_path / "cache").exists()
    assert threading.active_count() == threads
    await cache.close()
    with pytest.raises(PurgeFailed):
        await cache.purge(ALL)


async def test_the_database_is_as_the_traps_demand(make, tmp_path):
    """design.md, "Traps": no file for a value, short waits, no map, nothing written on a read."""
    cache = await make()
    seen: dict[str, object] = {}

    def look(table: Table) -> None:
        for name in ("auto_vacuum", "mmap_size", "journal_mode", "synchronous", "busy_timeout"):
            ((seen[name],),) = table._sql(f"PRAGMA {name}").fetchall()
        seen["statistics"], seen["policy"] = table.statistics, table.eviction_policy

    await on_disk(cache, look)
    assert seen == {
        "auto_vacuum": 2, "mmap_size": 0, "journal_mode": "wal", "synchronous": 1,
        "busy_timeout": 50, "statistics": 0, "policy": "least-recently-stored",
    }  # fmt: skip


async def test_a_large_entry_makes_no_file(make, tmp_path, clock):
    cache = await make()
    keep(cache, A, kept := entry(os.urandom(MiB), created=clock.now()))
    await cache.flush()
    assert await ask(cache, A) == kept
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {
        "cache.db", "cache.db-wal", "cache.db-shm",
    }  # fmt: skip


async def test_folder_and_files_are_the_owner_s_alone(make, tmp_path, clock, caplog):
    """E1; also where somebody made it otherwise before, and then it is said."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "cache.db").touch(0o666)
    old = os.umask(0)
    try:
        cache = await make()
        keep(cache, A, entry(created=clock.now()))
        await cache.flush()
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert "writable by others" in caplog.text


async def test_expired_rows_go_without_being_read(make, tmp_path, clock):
    """E6."""
    cache = await make()
    for number in range(30):
        keep(cache, key_of(number), entry(created=clock.now(), ttl=60 if number % 3 else 600))
    await cache.flush()
    clock.wall += 61
    for _ in range(2):  # the writer tidies after each order
        await cache.flush()
    assert len(rows(tmp_path / "cache")) == 10
    assert cache.stats().disk.evictions["expired"] == 20


async def test_files_stay_within_the_limit_while_entries_come_and_go(make, tmp_path, clock):
    """E6: within 1.1 times the limit, log included; the oldest go."""
    limit = 4 * MiB
    cache = await make(size_limit=limit, max_entry=limit // 20)
    most = 0
    for number in range(400):
        size = (number * 7919) % (limit // 20 - 1000)
        keep(cache, key_of(number), entry(os.urandom(size), created=clock.now()))
        if number % 8 == 0:
            await cache.flush()
            await cache.fetch(key_of(number))
        files = (path.stat().st_size for path in (tmp_path / "cache").glob("cache.db*"))
        most = max(most, sum(files))
    await cache.flush()
    assert limit * 0.7 < most <= limit * 1.1
    figures = cache.stats().disk
    assert figures.evictions["size"] > 200
    assert figures.dropped["full"] == 0
    assert await cache.fetch(key_of(399)) is not None
    assert await cache.fetch(key_of(0)) is None


async def test_a_smaller_limit_and_a_purge_give_the_space_back(make, tmp_path, clock):
    cache = await make(size_limit=64 * MiB)
    for number in range(16):
        keep(cache, key_of(number), entry(os.urandom(MiB - 1000), created=clock.now()))
        await cache.flush()
    database = tmp_path / "cache" / "cache.db"
    assert database.stat().st_size > 10 * MiB
    assert await cache.purge(ALL) == 16

    def vacuum(table: Table) -> None:
        while table.vacuum_some():
            pass
        table._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    await on_disk(cache, vacuum)
    assert database.stat().st_size < 3 * MiB


async def test_a_disk_without_room_drops_and_counts_and_recovers(make, clock):
    """E3: full is a miss and a counter; no restart is needed."""
    cache = await make()
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    await on_disk(cache, lambda table: table._sql("PRAGMA max_page_count = 20").fetchall())
    keep(cache, B, large := entry(os.urandom(200_000), created=clock.now()))
    await cache.flush()
    assert cache.stats().disk.dropped["full"] == 1
    assert await ask(cache, B) is None
    assert await ask(cache, A) == kept
    await on_disk(cache, lambda table: table._sql("PRAGMA max_page_count = 1000000").fetchall())
    keep(cache, B, large)
    await cache.flush()
    assert await ask(cache, B) == large
    assert cache.stats().disk.rebuilt == 0


async def test_a_locked_database_drops_and_counts_and_recovers(make, tmp_path, clock):
    cache = await make()
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    other = sqlite3.connect(tmp_path / "cache" / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keep(cache, B, entry(created=clock.now()))
    await cache.flush()
    assert cache.stats().disk.dropped["locked"] == 1
    assert await ask(cache, B) is None
    assert await ask(cache, A) == kept  # readers do not wait for a writer
    with pytest.raises(PurgeFailed):
        await cache.purge(ALL)
    other.execute("ROLLBACK")
    other.close()
    keep(cache, B, again := entry(created=clock.now()))
    await cache.flush()
    assert await ask(cache, B) == again


async def test_what_could_not_replace_an_older_row_is_not_undone_by_it(make, tmp_path, clock):
    """The later landing wins: better a miss than the answer that was to go."""
    cache = await make()
    keep(cache, A, entry(b"old", created=clock.now()))
    await cache.flush()
    other = sqlite3.connect(tmp_path / "cache" / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keep(cache, A, entry(b"new", created=clock.now() + 1))
    await cache.flush()
    assert await ask(cache, A) is None
    other.execute("ROLLBACK")
    other.close()
    keep(cache, A, newest := entry(b"newest", created=clock.now() + 2))
    await cache.flush()
    assert await ask(cache, A) == newest


async def test_an_entry_that_no_row_can_hold_is_counted(make, clock):
    """A usage object with a number beyond 64 bits: the rest of its batch is written."""
    cache = await make()
    made = recording(created=clock.now())
    usage = replace(made.usage, details={"prompt_tokens": 2**70})
    keep(cache, A, Entry("s", "m", "u", json=replace(made, usage=usage)))
    keep(cache, B, kept := entry(created=clock.now()))
    await cache.flush()
    assert cache.stats().disk.dropped["encode"] == 1
    assert await cache.fetch(A) is None
    assert await cache.fetch(B) == kept


async def test_a_folder_that_cannot_be_made_is_no_disk(make, tmp_path, clock):
    """Read-only, or not there: memory serves, and a purge says that it cannot promise."""
    (tmp_path / "file").touch()
    cache = await make(tmp_path / "file" / "cache", memory=MiB)
    assert cache.stats().disk.state == "unavailable"
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert cache.find(A) == kept
    assert await cache.fetch(B) is None
    assert cache.stats().disk.dropped["unavailable"] == 1
    with pytest.raises(PurgeFailed, match="not open"):
        await cache.purge(ALL)
    assert cache.find(A) is None


async def test_a_read_has_a_deadline(make, clock, monkeypatch):
    """E4: a disk that hangs is a miss; and while both readers hang nobody waits for it."""
    cache = await make(disk_deadline=0.05)
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    go, real = threading.Event(), Table.read_all
    monkeypatch.setattr(Table, "read_all", lambda table, keys: (go.wait(30), real(table, keys))[1])
    assert not any(await asyncio.gather(cache.fetch(A), cache.fetch(A)))
    assert cache.stats().disk.errors["deadline"] == 2
    assert await cache.fetch(A) is None
    assert cache.stats().disk.errors["busy"] == 1
    late = list(cache._disk._readers._late)
    go.set()
    while not all(handful.done for handful in late):
        await asyncio.sleep(0)
    assert await cache.fetch(A) == kept


async def test_a_full_queue_drops_and_counts(make, clock, monkeypatch):
    """D10; and what is dropped hides the older row."""
    monkeypatch.setattr(disks, "QUEUED", 3)
    monkeypatch.setattr(disks, "QUEUED_BYTES", 10_000)
    cache = await make()
    keep(cache, A, entry(b"old", created=clock.now()))
    await cache.flush()
    go = blocked(cache)
    for number in range(3):
        keep(cache, key_of(number), entry(created=clock.now()))
    assert (cache.stats().disk.queued, cache.stats().disk.dropped["queue"]) == (3, 0)
    keep(cache, A, entry(b"new", created=clock.now() + 1))
    assert cache.stats().disk.dropped["queue"] == 1
    assert await ask(cache, A) is None
    go.set()
    await cache.flush()
    assert cache.stats().disk.queued == cache.stats().disk.queued_bytes == 0
    go = blocked(cache)
    keep(cache, A, entry(b"x" * 9_000, created=clock.now() + 2))
    keep(cache, B, entry(b"x" * 2_000, created=clock.now() + 2))
    assert cache.stats().disk.dropped["queue"] == 2
    go.set()


async def test_a_queued_entry_is_found_although_memory_has_no_room(make, clock):
    cache = await make()
    go = blocked(cache)
    keep(cache, A, kept := entry(created=clock.now()))
    assert cache.find(A) == kept
    go.set()
    await cache.flush()
    assert cache.find(A) is None
    assert await cache.fetch(A) == kept


async def test_what_is_read_while_a_purge_comes_does_not_come_back(make, clock, monkeypatch):
    """C7: the row was read before the purge and arrives after it."""
    cache = await make(memory=0)
    keep(cache, A, entry(created=clock.now()))
    await cache.flush()
    cache._memory.resize(MiB)
    go, reading, real = threading.Event(), asyncio.Event(), Table.read_all
    loop = asyncio.get_running_loop()

    def read(table: Table, keys: list[bytes]):
        found = real(table, keys)
        loop.call_soon_threadsafe(reading.set)
        go.wait(30)
        return found

    monkeypatch.setattr(Table, "read_all", read)
    fetched = asyncio.ensure_future(cache.fetch(A))
    await reading.wait()
    assert await cache.purge(Selector(key="alice")) == 1
    go.set()
    assert await fetched is None
    assert cache.find(A) is None


async def test_what_is_read_while_a_purge_is_under_way_does_not_come_back(make, clock):
    """C7: memory is purged, the row is still there, and somebody asks."""
    cache = await make(memory=MiB)
    keep(cache, A, entry(created=clock.now()))
    keep(cache, B, other := entry(created=clock.now(), key="bob"))
    await cache.flush()
    cache._memory.purge(ALL, [B])
    go = blocked(cache)
    purge = asyncio.ensure_future(cache.purge(Selector(key="alice")))
    await asyncio.sleep(0)
    assert cache.find(A) is None
    assert await cache.fetch(A) is None
    assert await cache.fetch(B) == other
    go.set()
    assert await purge == 1
    assert await ask(cache, A) is None


async def test_what_is_read_from_within_a_purge_until_after_it_does_not_come_back(
    make, clock, monkeypatch
):
    """The row is read while the purge runs, and arrives when it has ended."""
    cache = await make(memory=MiB)
    keep(cache, A, entry(created=clock.now()))
    await cache.flush()
    arrives, reading, real = threading.Event(), asyncio.Event(), Table.read_all
    loop = asyncio.get_running_loop()

    def read(table: Table, keys: list[bytes]):
        found = real(table, keys)
        loop.call_soon_threadsafe(reading.set)
        arrives.wait(30)
        return found

    monkeypatch.setattr(Table, "read_all", read)
    go = blocked(cache)
    purge = asyncio.ensure_future(cache.purge(Selector(key="alice")))
    await asyncio.sleep(0)
    fetched = asyncio.ensure_future(cache.fetch(A))
    await reading.wait()
    go.set()
    assert await purge == 1
    arrives.set()
    assert await fetched is None
    assert cache.find(A) is None


async def test_a_newer_answer_is_not_undone_by_what_was_being_read(make, clock, monkeypatch):
    cache = await make(memory=MiB)
    keep(cache, A, entry(b"old", created=clock.now()))
    await cache.flush()
    cache._memory.purge(ALL, [A])
    new = entry(b"new", created=clock.now() + 1)
    real = Table.read_all
    go = threading.Event()
    monkeypatch.setattr(Table, "read_all", lambda table, keys: (real(table, keys), go.wait(30))[0])
    fetched = asyncio.ensure_future(cache.fetch(A))
    await asyncio.sleep(0)
    keep(cache, A, new)
    go.set()
    assert await fetched == new
    assert cache.find(A) == new


async def test_closing_is_bounded(make, clock, monkeypatch, caplog):
    cache = await make()
    go = blocked(cache)
    keep(cache, A, entry(created=clock.now()))
    await cache._disk.close(wait=0.01)
    assert "1 answers did not reach the disk" in caplog.text
    go.set()
    await cache._disk._writer.ended.wait()


async def test_closing_writes_what_is_queued(make, clock):
    first = await make()
    for number in range(200):
        keep(first, key_of(number), entry(created=clock.now()))
    await first.close()
    second = await make()
    assert second.stats().disk.entries == 200


async def test_purging_everything_takes_what_was_set_aside_too(make, tmp_path, clock):
    """It holds answers in clear."""
    (tmp_path / "cache.broken-20250101T000000Z").mkdir()
    cache = await make()
    assert await cache.purge(ALL) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    "selector", [ALL, Selector(key="alice"), Selector(model="gpt-*"), Selector(request="01OLD")]
)
async def test_a_purge_after_a_restart(make, clock, selector):
    first = await make()
    keep(first, A, entry(created=clock.now(), request_id="01OLD"))
    await first.close()
    second = await make()
    assert await second.purge(selector) == 1
    await second.close()
    assert (await make()).stats().disk.entries == 0


async def test_several_processes_may_write(make, clock):
    """E5: two instances on one folder, each with its own connections."""
    one, other = await make(), await make()
    for number in range(50):
        keep(one, key_of(("one", number)), entry(created=clock.now()))
        keep(other, key_of(("other", number)), entry(created=clock.now()))
    for cache in (one, other, one):  # the last for it to notice what the other one wrote
        await cache.flush()
    for number in range(50):
        assert await one.fetch(key_of(("other", number))) is not None
        assert await other.fetch(key_of(("one", number))) is not None
    assert sum(one.stats().disk.dropped.values()) == 0


# The folder --------------------------------------------------------------------------------------


def test_orphans_of_diskcache_are_swept_and_nothing_else(tmp_path):
    """design.md, "Traps": a kill leaves files that the size limit never counts."""
    orphan = tmp_path / "0a" / "1b" / ("c" * 28 + ".val")
    others = [
        tmp_path / "cache.db", tmp_path / "0a" / "notes.val", tmp_path / "aa" / "bb" / "other.val",
    ]  # fmt: skip
    for path in [orphan, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert folders.sweep_orphans(tmp_path) == 1
    assert not orphan.parent.exists()
    assert all(path.exists() for path in others)


async def test_orphans_are_swept_at_start(make, tmp_path):
    orphan = tmp_path / "cache" / "0a" / "1b" / ("c" * 28 + ".val")
    orphan.parent.mkdir(parents=True)
    orphan.touch()
    cache = await make()
    async with asyncio.timeout(20):
        while orphan.exists():
            await cache.flush()
            await on_disk(cache, lambda _: None)


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 0:5 / {0}/data\\040one rw shared:1 - nfs4 server:/x rw
31 30 0:6 / {0}/data\\040one/local rw - xfs /dev/sdb rw
torn line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [(".", "ext4"), ("data one", "nfs4"), ("data one/cache", "nfs4"), ("data one/local/x", "xfs")],
)
def test_a_network_disk_is_seen(tmp_path, folder, kind):
    """E3: SQLite and NFS do not mix."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(tmp_path))
    assert folders.filesystem(tmp_path / folder, table) == kind


def test_a_system_that_does_not_tell_its_mounts(tmp_path):
    assert folders.filesystem(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize("name", ["$HOME", "~", "a${PATH}b"])
def test_a_path_that_diskcache_would_read_as_another_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="another path"):
        folders.prepare(Path(name))
    assert not list(tmp_path.iterdir())
