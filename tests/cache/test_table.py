"""The database below the tiers: what went wrong in a word, and going on after it (E3)."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing
from errno import EIO, ENOSPC
from pathlib import Path

import diskcache
import pytest

from gateway.cache.codec import Corrupt
from gateway.cache.folder import prepare
from gateway.cache.store import TwoTier
from gateway.cache.table import ERRORS, Full, Refused, Row, Table, word_for
from tests.cache.samples import MiB, SetClock, entry, keep, key_of, section

NOW = time.time()
ROW = Row(key_of("a"), b"data", b"labels", NOW + 3600)


@pytest.fixture
def table(tmp_path):
    prepare(tmp_path / "cache")
    made = Table(tmp_path / "cache", 64 * MiB)
    yield made
    made.close()


def error_of(path: Path, *statements: str, mode: str = "rwc") -> sqlite3.Error:
    try:
        connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=0)
        with closing(connection):
            for statement in statements:
                connection.execute(statement)
    except sqlite3.Error as error:
        return error
    raise AssertionError(statements)


def hidden(inner: Exception, outer: Exception) -> Exception:
    """As diskcache does: BEGIN or ROLLBACK fails while another failure is handled."""
    try:
        try:
            raise inner
        except Exception:
            raise outer from None
    except Exception as error:
        return error


def test_words(tmp_path):
    database = tmp_path / "a.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (a UNIQUE)")
    connection.close()
    readonly = error_of(database, "INSERT INTO t VALUES (1)", mode="ro")
    full = error_of(database, "PRAGMA max_page_count = 3", "INSERT INTO t VALUES (zeroblob(99999))")
    no_transaction = error_of(database, "ROLLBACK")
    (tmp_path / "text").write_text("no database " * 100)
    cases = [
        (readonly, "readonly"),
        (full, "full"),
        (error_of(tmp_path / "text", "SELECT * FROM t"), "corrupt"),
        (error_of(tmp_path / "none", "SELECT 1 FROM t", mode="ro"), "io"),
        (error_of(database, "SELECT nothing FROM t"), "corrupt"),
        (diskcache.Timeout(), "locked"),
        (hidden(readonly, diskcache.Timeout()), "readonly"),
        (hidden(full, no_transaction), "full"),
        (error_of(database, "ROLLBACK"), "corrupt"),
        (Refused(), "refused"),
        (hidden(ValueError(), Corrupt()), "digest"),
        (Full(), "full"),
        (OSError(ENOSPC, ""), "full"),
        (OSError(EIO, ""), "io"),
        (PermissionError(13, ""), "readonly"),
        (NotADirectoryError(20, ""), "corrupt"),
        (TypeError(), "corrupt"),
    ]
    assert [word_for(error) for error, _ in cases] == [word for _, word in cases]
    assert {word for _, word in cases} <= set(ERRORS)


def test_a_transaction_that_was_left_open_is_closed(table):
    """diskcache forgets the one whose COMMIT failed, and every later BEGIN would fail."""
    table._sql("BEGIN IMMEDIATE")
    with pytest.raises(diskcache.Timeout):
        table.write([ROW], NOW)
    table.recover()
    table.write([ROW], NOW)
    assert table.read(ROW.key) == (b"data", b"labels")


def test_a_batch_is_written_whole_or_not_at_all(table):
    with pytest.raises(Refused):
        table.write([ROW, ROW._replace(key=key_of("b"), data="text")], NOW)  # type: ignore[arg-type]
    assert len(table) == 0


def test_expiring_goes_in_steps(table):
    for start in range(0, 500, 100):
        table.write([Row(key_of(start + n), b"x", b"", NOW + 5) for n in range(100)], NOW)
    later = NOW + 6
    assert [table.expire_some(later) for _ in range(4)] == [200, 200, 100, 0]


def test_room_is_made_in_bounded_rounds(table):
    for number in range(100):
        table.write([Row(key_of(number), bytes(10_000), b"", NOW + 60)], NOW + number)
    table.room = table.used() // 2
    with pytest.raises(Full):
        table.make_room(0, rounds=1)
    assert table.make_room(0) < 100
    assert table.used() <= table.room
    with pytest.raises(Full):
        table.make_room(10 * table.room)
    assert len(table) == 0


@pytest.mark.faults
async def test_a_full_file_system(tmp_path):
    """A real one of 2 MiB: nothing raises, what was kept stays, and it works again with room."""
    folder = tmp_path / "cache"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        clock = SetClock()
        cache = TwoTier(section(memory=0), folder, clock)
        await cache.start()
        kept = entry(b"kept", created=clock.now())
        keep(cache, key_of("kept"), kept)
        await cache.flush()
        for number in range(40):
            keep(cache, key_of(number), entry(bytes(200_000), created=clock.now()))
            await cache.flush()
        figures = cache.stats().disk
        assert figures.dropped["full"] > 20
        assert figures.rebuilt == 0
        assert await cache.fetch(key_of("kept")) == kept
        subprocess.run(["mount", "-o", "remount,size=50m", folder], check=True)
        keep(cache, key_of("new"), new := entry(bytes(200_000), created=clock.now()))
        await cache.flush()
        assert await cache.fetch(key_of("new")) == new
        await cache.close()
        with sqlite3.connect(folder / "cache.db") as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        other.close()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
