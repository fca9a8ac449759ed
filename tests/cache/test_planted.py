"""Rows that we never wrote, and databases that broke: a miss, gone, counted; never code that runs,
never a wrong byte (E1, E3; CVE-2025-69872; reliability section 0.4)."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.cache.codec import encode, encode_labels
from gateway.cache.store import TwoTier
from gateway.cache.table import BytesDisk, Refused
from gateway.entry import Selector
from tests.cache.samples import ALL, MiB, SetClock, entry, keep, key_of, section

A, B = key_of("a"), key_of("b")
Make = Callable[[], Awaitable[TwoTier]]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def make(folder, clock):
    made: list[TwoTier] = []

    async def start() -> TwoTier:
        cache = TwoTier(section(memory=0), folder, clock)
        await cache.start()
        made.append(cache)
        return cache

    yield start
    for cache in made:
        await cache.close()


def pickle_that_writes(path: Path) -> bytes:
    """Protocol 0, by hand: os.system("touch PATH"). Whoever unpickles it has run it."""
    return f"cos\nsystem\n(S'touch {path}'\ntR.".encode()


def plant(folder: Path, **columns: object) -> None:
    row = {
        "key": A, "raw": 1, "store_time": time.time(), "expire_time": time.time() + 1e6,
        "access_time": 0.0, "tag": None, "size": 0, "mode": 1, "filename": None, "value": b"x",
        **columns,
    }  # fmt: skip
    with sqlite3.connect(folder / "cache.db", timeout=10) as other:
        names, marks = ",".join(row), ",".join("?" * len(row))
        other.execute(f"INSERT OR REPLACE INTO Cache({names}) VALUES ({marks})", list(row.values()))
    other.close()


async def swept(cache: TwoTier) -> None:
    """The writer has looked at what was there at the start; what comes now, it will be asked."""
    while cache._disk._writer._swept_to is not None:  # type: ignore[union-attr]
        await cache.flush()


def rows(folder: Path) -> int:
    with sqlite3.connect(folder / "cache.db", timeout=10) as other:
        ((count,),) = other.execute("SELECT COUNT(*) FROM Cache").fetchall()
    other.close()
    return count


def test_the_pickle_of_these_tests_works(tmp_path):
    """So that the tests below cannot pass for its being harmless."""
    import pickletools

    names = [code.name for code, *_ in pickletools.genops(pickle_that_writes(tmp_path))]
    assert names == ["GLOBAL", "MARK", "STRING", "TUPLE", "REDUCE", "STOP"]


PLANTED: dict[str, Callable[[Path], dict[str, object]]] = {
    "a pickled value": lambda mark: {"mode": 4, "value": pickle_that_writes(mark)},
    "a pickled file": lambda mark: {"mode": 4, "value": None, "filename": "planted"},
    "a pickled value as raw": lambda mark: {"value": pickle_that_writes(mark)},
    "a file's name": lambda mark: {"mode": 2, "value": None, "filename": "../secret"},
    "a text file": lambda mark: {"mode": 3, "value": None, "filename": "/etc/passwd"},
    "a text": lambda mark: {"value": "text"},
    "a number": lambda mark: {"value": 5},
    "nothing": lambda mark: {"value": None},
    "an unknown mode": lambda mark: {"mode": 77},
    "a mode that is text": lambda mark: {"mode": "1; DROP TABLE Cache"},
    "another's entry": lambda mark: {
        "value": encode(entry(created=time.time()), B),
        "tag": encode_labels(entry(created=time.time())),
    },
    "labels that hide it": lambda mark: {
        "value": encode(entry(created=time.time()), A),
        "tag": encode_labels(entry(created=time.time(), key="bob")),
    },
    "no labels": lambda mark: {"value": encode(entry(created=time.time()), A)},
}


@pytest.mark.parametrize("what", PLANTED)
async def test_a_planted_row_is_a_miss_and_goes(make, folder, tmp_path, clock, what):
    cache = await make()
    mark, secret = tmp_path / "mark", tmp_path / "secret"
    secret.touch()
    await swept(cache)
    (folder / "planted").write_bytes(pickle_that_writes(mark))
    plant(folder, **PLANTED[what](mark))
    await cache.flush()  # another's row is noticed with the writer's next turn
    assert await cache.fetch(A) is None
    await cache.flush()
    assert rows(folder) == 0
    assert not mark.exists()
    assert secret.exists()
    errors = cache.stats().disk.errors
    assert errors["refused"] + errors["digest"] == 1
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert await cache.fetch(A) == kept


@pytest.mark.parametrize("what", PLANTED)
async def test_storing_over_a_planted_row_touches_no_file(make, folder, tmp_path, clock, what):
    """diskcache removes the file that the old row names."""
    cache = await make()
    secret = tmp_path / "secret"
    secret.touch()
    plant(folder, **PLANTED[what](tmp_path / "mark"))
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert await cache.fetch(A) == kept
    assert secret.exists()
    assert not (tmp_path / "mark").exists()


KEYS: dict[str, Callable[[Path], dict[str, object]]] = {
    "a pickled key": lambda mark: {"key": pickle_that_writes(mark), "raw": 0},
    "a pickled key of ours": lambda mark: {"key": A, "raw": 0},
    "a text": lambda mark: {"key": "text"},
    "a number": lambda mark: {"key": 5},
    "nothing": lambda mark: {"key": None},
    "no end": lambda mark: {"expire_time": None},
}


@pytest.mark.parametrize("what", KEYS)
async def test_a_planted_key_goes_at_the_next_start(make, folder, tmp_path, what):
    await (await make()).close()
    plant(folder, **KEYS[what](tmp_path / "mark"))
    cache = await make()
    async with asyncio.timeout(20):
        while rows(folder):
            await cache.flush()
        await cache.flush()  # it is counted after it has gone
    assert cache.stats().disk.evictions["refused"] == 1
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("what", [*PLANTED, *KEYS])
async def test_a_purge_takes_what_it_cannot_read(make, folder, tmp_path, what):
    cache = await make()
    plant(folder, **{**PLANTED, **KEYS}[what](tmp_path / "mark"))
    await cache.purge(ALL)
    assert rows(folder) == 0
    assert not (tmp_path / "mark").exists()


async def test_a_broken_label_does_not_save_a_row_from_a_purge(make, folder, clock):
    """A purge may take too much, never too little."""
    cache = await make()
    keep(cache, A, entry(created=clock.now()))
    await cache.flush()
    with sqlite3.connect(folder / "cache.db", timeout=10) as other:
        other.execute("UPDATE Cache SET tag = x'00ff'")
    other.close()
    await cache.purge(Selector(key="alice"))
    assert rows(folder) == 0


def test_the_disk_object_refuses_all_but_bytes(tmp_path):
    disk = BytesDisk(str(tmp_path))
    for value in ("text", 5, 5.0, None, bytearray(b"x"), [1], memoryview(b"x")):
        with pytest.raises(Refused):
            disk.put(value)
        with pytest.raises(Refused):
            disk.store(value, False)
        with pytest.raises(Refused):
            disk.fetch(1, None, value, False)
        with pytest.raises(Refused):
            disk.get(value, 1)
    with pytest.raises(Refused):
        disk.store(b"x", True)
    with pytest.raises(Refused):
        disk.filename()
    with pytest.raises(Refused):
        disk.get(b"x", 0)
    (tmp_path / "file").touch()
    disk.remove("file")
    assert (tmp_path / "file").exists()
    assert disk.fetch(1, None, b"x", False) == b"x"


# Broken databases --------------------------------------------------------------------------------


async def filled(make: Make, clock: SetClock, count: int = 100) -> None:
    cache = await make()
    for number in range(count):
        keep(cache, key_of(number), entry(b"%d" % number * 200, created=clock.now()))
    await cache.close()


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(50_000))


def another_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
        other.execute("CREATE TABLE Cache (other)")
    other.close()


def odd_settings(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO Settings VALUES ('disk_unheard_of', 1)")
    other.close()


def odd_count(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("UPDATE Settings SET value = 'x' WHERE key = 'count'")
    other.close()


BREAKS: dict[str, Callable[[Path], object]] = {
    "garbage": garbage,
    "a torn header": lambda path: overwrite(path, 0, b"\0" * 100),
    "a text": lambda path: path.write_text("not a database, " * 1000),
    "a folder": as_folder,
    "another schema": another_schema,
    "odd settings": odd_settings,
    "an odd count": odd_count,
    "a torn schema": lambda path: overwrite(path, 100, b"\xff" * 2000),
}


@pytest.mark.parametrize("how", BREAKS)
async def test_a_broken_database_is_moved_aside_at_start(make, folder, clock, how, caplog):
    await filled(make, clock)
    BREAKS[how](folder / "cache.db")
    cache = await make()
    figures = cache.stats().disk
    assert (figures.state, figures.entries, figures.rebuilt) == ("open", 0, 1)
    aside = [path.name for path in folder.parent.iterdir() if path != folder]
    assert len(aside) == 1
    assert aside[0].startswith("cache.broken-")
    assert aside[0] in caplog.text
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert await cache.fetch(A) == kept


async def test_something_else_with_the_folder_s_name_is_moved_aside(make, folder, clock):
    folder.write_text("a file")
    cache = await make()
    assert cache.stats().disk.state == "open"


async def test_only_the_latest_broken_folder_is_kept(make, folder, clock):
    """Each may be as large as the cache (D10)."""
    for _ in range(3):
        clock.wall += 1
        await filled(make, clock, 3)
        garbage(folder / "cache.db")
    await make()
    assert len(list(folder.parent.iterdir())) == 2


async def test_a_database_that_breaks_while_it_is_used(make, folder, clock):
    """Nothing raises, nothing wrong is served, and it works again without a restart."""
    cache = await make()
    for number in range(300):
        kept = entry(b"%d" % number * 500, created=clock.now())
        keep(cache, key_of(number), kept)
    await cache.flush()
    for name in ("cache.db", "cache.db-wal"):
        path = folder / name
        overwrite(path, 0, random.Random(2).randbytes(path.stat().st_size))
    for number in range(300):
        found = await cache.fetch(key_of(number))
        assert found is None or found.json.body == b"%d" % number * 500
        keep(cache, key_of(("more", number)), entry(created=clock.now()))
    await cache.flush()
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert await cache.fetch(A) == kept
    assert cache.stats().disk.rebuilt == 1


@pytest.mark.parametrize("seed", range(8))
async def test_flipped_bytes_are_misses(make, folder, clock, seed):
    """diskcache alone served 281 of 4,000 such values wrong (reliability section 0.4)."""
    await filled(make, clock)
    dice = random.Random(seed)
    path = folder / "cache.db"
    for _ in range(40):
        overwrite(path, dice.randrange(path.stat().st_size), dice.randbytes(1))
    cache = await make()
    hits = 0
    for number in range(100):
        found = await cache.fetch(key_of(number))
        assert found is None or found.json.body == b"%d" % number * 200
        hits += found is not None
    keep(cache, A, kept := entry(created=clock.now()))
    await cache.flush()
    assert await cache.fetch(A) in (kept, None)
    await cache.purge(ALL)
    assert await cache.fetch(key_of(1)) is None


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 5000, 30_000])
async def test_a_database_that_was_cut_short(make, folder, clock, size):
    await filled(make, clock)
    with (folder / "cache.db").open("r+b") as file:
        file.truncate(size)
    cache = await make()
    for number in range(100):
        found = await cache.fetch(key_of(number))
        assert found is None or found.json.body == b"%d" % number * 200
    for number in range(5):
        keep(cache, key_of(("new", number)), entry(b"x" * MiB, created=clock.now()))
    await cache.flush()
    assert await cache.fetch(key_of(("new", 4))) is not None
