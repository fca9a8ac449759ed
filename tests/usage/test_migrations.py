"""Steps run once, in order, forwards only; the copy from before stands beside the file (L3)."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing

import pytest

from gateway.config import Usage
from gateway.usage.columns import COLUMNS
from gateway.usage.ledger import NAME, SQLiteLedger
from gateway.usage.migrations import FIGURES, MIGRATIONS, LedgerError, migrate, version_of
from gateway.usage.questions import LogQuestion
from gateway.usage.reader import reading
from tests.usage.samples import (
    SetClock,
    book,
    call,
    open_ledger,
    open_reader,
    read,
    sums_are_the_rows,
)


@pytest.fixture
def base(tmp_path):
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as opened:
        yield opened


def one(connection):
    connection.execute("CREATE TABLE one (a)")


def two(connection):
    connection.execute("INSERT INTO one VALUES (2)")


def broken(connection):
    connection.execute("INSERT INTO one VALUES (3)")
    connection.execute("CREATE TABLE one (a)")


def test_each_step_runs_once(base, tmp_path):
    path = tmp_path / NAME
    migrate(base, path, [one])
    migrate(base, path, [one, two])
    migrate(base, path, [one, two])
    assert base.execute("SELECT * FROM one").fetchall() == [(2,)]
    assert version_of(base) == 2


def test_before_an_upgrade_there_is_a_copy_and_none_for_a_new_file(base, tmp_path):
    path = tmp_path / NAME
    migrate(base, path, [one])
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    migrate(base, path, [one, two])
    copy = tmp_path / f"{NAME}.v1"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT * FROM one").fetchall() == []
        assert version_of(old) == 1


def test_a_step_that_fails_leaves_nothing_of_itself(base, tmp_path):
    path = tmp_path / NAME
    migrate(base, path, [one])
    with pytest.raises(LedgerError, match=r"step 3 .*ledger\.db\.v1"):
        migrate(base, path, [one, two, broken])
    assert version_of(base) == 2
    assert base.execute("SELECT * FROM one").fetchall() == [(2,)]


def test_a_newer_file_is_refused(base, tmp_path):
    path = tmp_path / NAME
    migrate(base, path, [one, two])
    with pytest.raises(LedgerError, match="newer gateway"):
        migrate(base, path, [one])


async def test_the_start_refuses_a_newer_file_and_leaves_it_alone(tmp_path):
    await book(tmp_path, call(1))
    with closing(sqlite3.connect(tmp_path / NAME)) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = (tmp_path / NAME).read_bytes()
    ledger = SQLiteLedger(tmp_path, Usage(), "UTC", SetClock(), "boot")
    with pytest.raises(LedgerError, match="newer gateway"):
        await ledger.start()
    assert (tmp_path / NAME).read_bytes() == before
    with pytest.raises(LedgerError, match="newer gateway"), reading(tmp_path / NAME):
        pass


async def test_an_older_file_is_not_read_before_its_upgrade(tmp_path):
    async with open_ledger(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / NAME)) as other:
        other.execute("PRAGMA user_version = 0")
    with pytest.raises(LedgerError, match="older form"), reading(tmp_path / NAME):
        pass


OLD = """
INSERT INTO requests (id, at, key_id, key, model, upstream, endpoint, stream, status, outcome,
    cache, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, usage_source,
    cost_nano, saved_tokens, total_ms, overhead_ms, bytes_in, bytes_out, attempts, corrects)
VALUES (?, 1774699200000, 'id-alice', 'alice', 'gpt-4o', 'openai', 'chat/completions', 0, 200, 'ok',
    'miss', ?, ?, 0, 0, 'upstream', 1000, 0, 1, 1, 1, 1, 1, ?)
"""


async def test_books_from_before_quotas_count_all_that_is_in_them(tmp_path, base):
    """Each request, and its tokens; a correction is no request. What is new counts as it says."""
    migrate(base, tmp_path / NAME, MIGRATIONS[:1])
    first, second, third = (call(number).id for number in (97, 98, 99))
    base.executemany(OLD, [(first, 10, 20, None), (second, 1, 2, None), (third, -1, -2, second)])
    base.close()
    await book(tmp_path, call(1), call(2, counted=True, counted_tokens=7, clamped=300))
    counted = "SELECT counted, counted_tokens, clamped, bound_exceeded FROM requests ORDER BY seq"
    assert read(tmp_path, counted) == [
        (1, 30, None, 0),
        (1, 3, None, 0),
        (0, -3, None, 0),
        (0, 0, None, 0),
        (1, 7, 300, 0),
    ]
    assert read(tmp_path, "SELECT requests, counted, counted_tokens FROM days") == [(4, 3, 37)]
    sums_are_the_rows(tmp_path)
    assert (tmp_path / f"{NAME}.v1").exists()


async def test_books_whose_rows_added_themselves_up_go_on_where_they_were(tmp_path, base):
    """Sums by row until now, by batch from now on: nothing twice, nothing missing."""
    migrate(base, tmp_path / NAME, MIGRATIONS[:2])
    base.executemany(OLD, [(call(n).id, 10, 20, None) for n in range(90, 100)])
    base.close()
    await book(tmp_path, call(1), call(99), call(2, counted=True, counted_tokens=7))
    assert read(tmp_path, "SELECT requests, prompt_tokens, counted_tokens FROM days") == [
        (12, 120, 7)
    ]
    assert read(tmp_path, "SELECT name FROM sqlite_schema WHERE type = 'trigger'") == []
    sums_are_the_rows(tmp_path)
    assert (tmp_path / f"{NAME}.v2").exists()


async def test_rows_from_before_places_are_found(tmp_path, base):
    """By key, model and cache state; their indexes have gone."""
    migrate(base, tmp_path / NAME, MIGRATIONS[:3])
    base.executemany(OLD, [(call(n).id, 10, 20, None) for n in range(90, 93)])
    base.close()
    await book(tmp_path, call(1, key="bob"))
    wanted = [call(n).id for n in (92, 91, 90)]
    async with open_reader(tmp_path) as reader:
        for question in (
            LogQuestion(key="alice"),
            LogQuestion(cache="miss"),
            LogQuestion(cache="miss", model="gpt-4*"),
        ):
            assert [row["id"] for row in await reader.logs(question)] == wanted
        assert len(await reader.logs(LogQuestion(model="gpt-4o"))) == 4
    assert read(tmp_path, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'requests_by*'") == [
        (0,)
    ]


def test_columns_stand_in_the_order_in_which_they_are_written(base, tmp_path):
    """Sums by day are made anew by place."""
    migrate(base, tmp_path / NAME)

    def named(table):
        return [row[1] for row in base.execute(f"PRAGMA table_info({table})")]

    assert named("requests") == ["seq", *COLUMNS, "series"]
    assert named("quarters") == ["quarter", "series", *FIGURES]
    assert named("days") == ["first", "series", *FIGURES]
