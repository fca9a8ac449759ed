"""The writer: what was given is on the disk once, whatever the disk does; the loop never waits."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.config import AfterCrash, Durability, Duration
from gateway.config import Usage as Section
from gateway.errors import LedgerUnavailable
from gateway.exchange import (
    CacheState,
    Cost,
    Exchange,
    Kind,
    Mold,
    Outcome,
    Summary,
    Timings,
    Usage,
    UsageSource,
    ulid,
)
from gateway.usage import file as ledger_file
from gateway.usage import ledger as ledger_module
from gateway.usage.columns import COLUMNS, HELD, null
from gateway.usage.ledger import NAME, SQLiteLedger
from gateway.usage.migrations import LedgerError
from gateway.usage.rows import row_of, row_of_held
from tests.usage.samples import (
    NOON,
    SetClock,
    book,
    call,
    column,
    held,
    hit,
    open_ledger,
    read,
    reserve,
    sums_are_the_rows,
)

DAY = 86_400
PATIENCE = 20.0


@pytest.fixture
def locked(tmp_path):
    """Another process's writing transaction: nobody else can write until it is rolled back."""
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


async def until(true, *, within: float = PATIENCE) -> None:
    """Return once it holds; what another thread does cannot be awaited."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.005)


# What a row says ----------------------------------------------------------------------------------


async def test_the_books_of_four_requests(tmp_path):
    """A small ledger, as it is on the disk (requirement: snapshot)."""
    await book(
        tmp_path,
        call(
            1,
            team="blue",
            tags={"b": "2", "a": "1"},
            counted=True,
            counted_tokens=30,
            clamped=256,
            bound_exceeded=True,
        ),
        hit(2),
        call(3, nano=None),
        call(4, status=403, upstream=None, model="zzz", attempts=0, tokens=(0, 0)),
    )
    [first] = read(tmp_path, "SELECT * FROM requests WHERE seq = 1")
    assert dict(zip(["seq", *COLUMNS, "series"], first, strict=True)) == {
        "seq": 1,
        "id": "01KMT51FG00000000000000001",
        "at": 1_774_699_200_000,
        "key_id": "id-alice",
        "key": "alice",
        "team_id": "id-blue",
        "team": "blue",
        "tags": '{"a":"1","b":"2"}',
        "model": "gpt-4o",
        "model_served": "gpt-4o-2024",
        "upstream": "openai",
        "upstream_request_id": "req_upstream",
        "endpoint": "chat/completions",
        "stream": 1,
        "status": 200,
        "outcome": "ok",
        "error": None,
        "cache": "bypass",
        "cache_key": None,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "usage_source": "upstream",
        "cost_nano": 1000,
        "saved_tokens": 0,
        "saved_cost_nano": 0,
        "admitted_ms": 1.5,
        "looked_up_ms": None,
        "connected_ms": 3.0,
        "first_byte_ms": 203.25,
        "last_byte_ms": 900.0,
        "booked_ms": 901.0,
        "total_ms": 902.0,
        "overhead_ms": 12.0,
        "bytes_in": 321,
        "bytes_out": 4321,
        "attempts": 1,
        "finish_reasons": "stop",
        "price_version": "1",
        "corrects": None,
        "counted": 1,
        "counted_tokens": 30,
        "clamped": 256,
        "bound_exceeded": 1,
        "series": 1,
    }
    assert read(tmp_path, "SELECT seq, cost_nano, saved_tokens, saved_cost_nano FROM requests") == [
        (1, 1000, 0, 0),
        (2, 0, 30, 700),
        (3, None, 0, 0),
        (4, 0, 0, 0),
    ]
    assert read(
        tmp_path,
        "SELECT quarter * 900, key, team, model, tags, requests, prompt_tokens, cost_nano, "
        "unpriced_requests, saved_tokens FROM quarters JOIN series ON id = series "
        "ORDER BY tags DESC, model DESC",
    ) == [
        (NOON, "alice", "blue", "gpt-4o", '{"a":"1","b":"2"}', 1, 10, 1000, 0, 0),
        (NOON, "alice", "", "gpt-4o", "", 2, 10, 0, 1, 30),
        (NOON, "alice", "", "", "", 1, 0, 0, 0, 0),  # no upstream: under no model
    ]
    sums_are_the_rows(tmp_path)


PLAIN = Timings(0.5, 1.0, 1.5, 2.0, 3.0, 200.0, None, 900.0, 902.0, 902.0, 0.0, 890.0, 0.0)
OF_A_HIT = Timings(0.5, 1.0, 1.5, None, None, None, 1.5, None, 2.0, 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"team": "blue", "counted": True, "counted_tokens": 30, "cache_key": "0" * 16},
        {"model": None, "model_served": None, "stream": False, "summary": Summary()},
        {"upstream_request_id": None, "timings": replace(PLAIN, admitted=None, looked_up=None)},
        {"tags": {"a": "1"}},
        {"clamped": 0, "bound_exceeded": True},
        {"outcome": Outcome.UPSTREAM_STATUS, "error": "upstream_500", "status": 500},
        {"saved": Usage(1, 2), "saved_cost": Cost(5, "1")},
        {"nano": None},
        {"usage": Usage(1, 2, source=UsageSource.ESTIMATED)},
        {"timings": replace(PLAIN, booked=901.0)},
        {"timings": replace(PLAIN, first_byte=None)},
        {"attempts": 0},
        {"cache": CacheState.JOINED},
        {"cost": Cost(None, None)},
    ],
)
@pytest.mark.parametrize("kind", ["call", "hit", "hit again"])
async def test_a_row_that_is_bound_short_says_all_the_same(tmp_path, kind, changes):
    """What is the same in all rows of a kind is not bound; whatever differs, is."""
    if kind == "call":
        booked = call(1, **{"timings": PLAIN} | changes)
    else:
        booked = hit(1, **changes | {"timings": OF_A_HIT})
    if kind == "hit again":
        if {"cache", "clamped", "outcome", "usage"} & set(changes):
            return  # there are no such hits
        like = replace(booked, id=call(2).id, at=0.0, counted=False, counted_tokens=0, tags={})
        kind = Kind(replace(like, cache_key=None, saved=Usage(9, 9), bytes_in=9, bytes_out=9))
        booked = replace(booked, mold=Mold(kind, like, "id", lambda: None))
    await book(tmp_path, booked)
    [row] = read(tmp_path, f"SELECT {', '.join(COLUMNS)} FROM requests")
    kinds = zip(row_of(booked), COLUMNS.values(), strict=True)
    given = [
        None if type(v) is type(null(k)) and v == null(k) and "NOT" not in k else v
        for v, k in kinds
    ]
    assert dict(zip(COLUMNS, row, strict=True)) == dict(zip(COLUMNS, given, strict=True))
    sums_are_the_rows(tmp_path)


async def test_hits_of_many_kinds_in_one_batch_say_all_the_same(tmp_path):
    """Those of a kind are bound together, where they are many and have no tags."""
    booked: list[Exchange] = []
    for caller, count in (("alice", 300), ("bob", 20), ("carol", 3)):
        like = hit(1, key=caller, timings=OF_A_HIT)
        kind = Kind(replace(like, cache_key=None, saved=Usage(9, 9), bytes_in=9, bytes_out=9))
        for number in range(count):
            own = replace(
                like,
                id=ulid(
                    int(NOON * 1000) + number * 10, len(booked).to_bytes(10, "big")
                ),  # many seconds
                at=NOON + number / 100,
                cache_key=f"{number % 7:016x}",
                saved=Usage(number % 7, 1),
                counted=number % 2 == 0,
                counted_tokens=number % 5,
                tags={"a": str(number % 3)} if number % 4 == 0 else {},
            )
            booked.append(replace(own, mold=Mold(kind, own, "id", lambda: None)))
    await book(tmp_path, *booked, booked[0])
    rows = read(tmp_path, f"SELECT {', '.join(COLUMNS)} FROM requests ORDER BY id")
    kinds = list(COLUMNS.values())
    assert rows == [
        tuple(
            None if type(v) is type(null(k)) and v == null(k) and "NOT" not in k else v
            for v, k in zip(row_of(x), kinds, strict=True)
        )
        for x in sorted(booked, key=lambda x: x.id)
    ]
    sums_are_the_rows(tmp_path)
    found = {
        (what, name, part)
        for x in booked
        for what, name, part in [
            ("key", x.caller and x.caller.name, x.id[:8]),
            ("model", x.model, x.id[:8]),
            ("cache", x.cache.value, x.id[:8]),
        ]
    }
    assert set(read(tmp_path, "SELECT what, name, part FROM places")) == found


async def test_a_row_for_each_caller_and_none_for_nobody(tmp_path):
    """Design: an anonymous flood must not fill the disk."""
    async with open_ledger(tmp_path) as ledger:
        ledger.add(call(1, caller=None))
        await ledger.commit(call(2, caller=None))
        ledger.add(call(3))
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1]


async def test_the_file_is_its_owner_s_and_survives_as_told(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
        assert modes == [0o600] * 3  # with its log and that one's index
        assert column(tmp_path, "PRAGMA journal_mode") == ["wal"]
        assert column(tmp_path, "PRAGMA auto_vacuum") == [2]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(("durability", "level"), [(Durability.PROCESS, 1), (Durability.POWER, 2)])
async def test_durability_is_sqlite_s_synchronous(tmp_path, durability, level, monkeypatch):
    """1 is NORMAL, 2 is FULL (sqlite.org/pragma.html#pragma_synchronous)."""
    levels = []
    keep = ledger_file.LedgerFile.keep_calendar

    def look(self, now):
        levels.append(self._db.execute("PRAGMA synchronous").fetchone()[0])
        keep(self, now)

    monkeypatch.setattr(ledger_file.LedgerFile, "keep_calendar", look)
    async with open_ledger(tmp_path, durability=durability):
        assert levels == [level]


# Once, and only once ------------------------------------------------------------------------------


async def test_a_row_that_was_waited_for_is_there(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        assert column(tmp_path, "SELECT id FROM requests") == [call(1).id]


async def test_the_same_id_twice_is_one_row_and_counts_once(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        await ledger.commit(call(1, tokens=(999, 999)))
        await asyncio.gather(*(ledger.commit(call(2)) for _ in range(3)))
        ledger.add(call(1))
    assert read(tmp_path, "SELECT prompt_tokens FROM requests") == [(10,), (10,)]
    sums_are_the_rows(tmp_path)


async def test_a_batch_is_few_statements_and_its_sums_are_one(tmp_path, monkeypatch):
    """Structural: each statement more waits for the interpreter's lock beside a busy loop."""
    statements: list[str] = []
    execute = ledger_file.LedgerFile._execute

    def noted(self, statement, values=()):
        statements.append(statement)
        return execute(self, statement, values)

    file = ledger_file.LedgerFile(tmp_path / NAME, "UTC", full_sync=False)
    file.open(NOON)
    monkeypatch.setattr(ledger_file.LedgerFile, "_execute", noted)
    rows = [row_of(call(n)) for n in range(2000)]
    for given, most in ((rows[:1], 7), (rows[1:100], 3 + 1 + 2 + 0 + 3), (rows, 3 + 7 + 3 + 1)):
        statements.clear()
        file.insert(given, [])
        assert len(statements) <= most
        assert ledger_file.ADD_UP in statements
        assert statements[-1] == "COMMIT"
    statements.clear()
    file.insert(rows, [])  # all there: nothing to add up
    assert ledger_file.ADD_UP not in statements
    file.close()
    sums_are_the_rows(tmp_path)


async def test_a_batch_adds_what_is_new_of_it_in_its_own_quarter_and_day(tmp_path):
    """Rows of two days and three series in one batch, some there already, with reservations."""
    file = ledger_file.LedgerFile(tmp_path / NAME, "UTC", full_sync=False)
    file.open(NOON)
    whose: list[dict[str, Any]] = [{}, {"key": "bob"}, {"tags": {"a": "1"}}]
    rows = [row_of(call(n, NOON + n * 600, tokens=(n, 1), **whose[n % 3])) for n in range(150)]
    open_calls = [row_of_held(held(n), "boot") for n in range(4000, 4010)]
    file.insert(rows[:70], open_calls)
    file.insert([*rows[40:], row_of(call(4000)), row_of(call(4001))], [])
    file.close()
    assert read(tmp_path, "SELECT sum(requests), sum(prompt_tokens) FROM days") == [
        (152, sum(range(150)) + 20)
    ]
    assert column(tmp_path, "SELECT count(*) FROM days") == [2 * 3]
    assert column(tmp_path, "SELECT count(*) FROM reservations") == [8]
    sums_are_the_rows(tmp_path)


async def test_many_are_few_batches(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        await asyncio.gather(*(ledger.commit(call(n)) for n in range(1000)))
        assert ledger.stats().figures.batches < 20
        assert ledger.stats().figures.written == 1000
    sums_are_the_rows(tmp_path)


async def test_a_correction_is_a_row_of_its_own_and_no_request(tmp_path):
    """Append-only; the sums are the rows' all the same."""
    await book(tmp_path, call(1))
    row = dict(zip(COLUMNS, row_of(call(2, tokens=(-3, 5), nano=-40)), strict=True))
    row |= {"corrects": call(1).id}
    book_file = ledger_file.LedgerFile(tmp_path / NAME, "UTC", full_sync=False)
    book_file.open(NOON)
    book_file.insert([tuple(row.values())], [])
    book_file.close()
    assert read(
        tmp_path, "SELECT requests, prompt_tokens, completion_tokens, cost_nano FROM days"
    ) == [(1, 7, 25, 960)]
    sums_are_the_rows(tmp_path)


@pytest.mark.parametrize(
    "text", ["\ud800", "a\x00b", "\x1b[31m", "'; DROP TABLE requests; --", '"']
)
async def test_names_that_clients_choose_are_only_text(tmp_path, text):
    await book(tmp_path, call(1, model=text, tags={text: text}), call(2))
    assert column(tmp_path, "SELECT count(*) FROM requests") == [2]
    sums_are_the_rows(tmp_path)


async def test_a_poison_row_is_set_apart_and_the_rest_is_written(tmp_path, caplog):
    """G1: isolated by splitting the batch, not lost with it."""
    async with open_ledger(tmp_path) as ledger:
        poison = replace(call(500), bytes_in=None)  # NOT NULL
        rows = [call(n) for n in range(100)]
        await asyncio.gather(*map(ledger.commit, [*rows[:50], poison, *rows[50:]]))
        ledger.admit()
        assert ledger.stats().figures.poisoned == ledger.stats().dropped == 1
        assert not ledger.stats().figures.failures
    assert column(tmp_path, "SELECT count(*) FROM requests") == [100]
    assert poison.id in caplog.text
    sums_are_the_rows(tmp_path)


# The disk fails -----------------------------------------------------------------------------------


async def test_while_it_is_locked_nobody_waits_long_and_every_row_comes(tmp_path, locked):
    """G3, F; the policy: calls go on for `when_down`, then 503; it recovers by itself."""
    async with open_ledger(tmp_path, when_down=Duration(1)) as ledger:
        locked.execute("BEGIN IMMEDIATE")
        await ledger.commit(call(1))  # gives up when the writer does, after BUSY
        ledger.admit()  # for some time all goes on
        async with asyncio.timeout(1):
            for n in range(2, 100):
                await ledger.commit(call(n))  # nobody waits any more
        ledger.add(hit(100))
        with pytest.raises(LedgerUnavailable) as refusal:
            await until(ledger.admit)
        assert refusal.value.status == 503
        assert refusal.value.retry_after
        assert ledger.stats().down_for > 0
        assert "SQLITE_BUSY" in ledger.stats().figures.failures
        locked.execute("ROLLBACK")
        assert await ledger.flush(PATIENCE)
        ledger.admit()
        assert ledger.stats().down_for == 0
    assert column(tmp_path, "SELECT count(*) FROM requests") == [100]
    sums_are_the_rows(tmp_path)


@pytest.mark.parametrize("allowed", [None, Duration(10**6)])
async def test_calls_go_on_for_as_long_as_is_allowed(tmp_path, locked, allowed):
    async with open_ledger(tmp_path, when_down=allowed) as ledger:
        locked.execute("BEGIN IMMEDIATE")
        await ledger.commit(call(1))
        ledger.admit()
        locked.execute("ROLLBACK")


async def test_a_disk_that_does_not_answer_lets_the_end_go_after_commit_wait(tmp_path, monkeypatch):
    gate = threading.Event()
    insert = ledger_file.LedgerFile.insert

    def hanging(self, rows, held):
        assert gate.wait(PATIENCE)
        insert(self, rows, held)

    monkeypatch.setattr(ledger_file.LedgerFile, "insert", hanging)
    async with open_ledger(tmp_path, commit_wait=0.05, when_down=Duration(0)) as ledger:
        await ledger.commit(call(1))
        with pytest.raises(LedgerUnavailable):
            ledger.admit()
        gate.set()
        assert await ledger.flush(PATIENCE)
        ledger.admit()
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1]


async def test_a_file_that_cannot_be_written_is_opened_anew_until_it_can(tmp_path, monkeypatch):
    """As after an I/O error or a read-only remount."""
    broken = threading.Event()
    insert, opened = ledger_file.LedgerFile.insert, []

    def failing(self, rows, held):
        opened.append(self._db)
        if not broken.is_set():
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
            error.sqlite_errorname = "SQLITE_IOERR_WRITE"
            raise error
        insert(self, rows, held)

    monkeypatch.setattr(ledger_file.LedgerFile, "insert", failing)
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        await until(lambda: len(opened) >= 3)
        broken.set()
        assert await ledger.flush(PATIENCE)
        assert ledger.stats().figures.failures["SQLITE_IOERR_WRITE"] >= 3
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1]
    assert len(set(map(id, opened))) > 1


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted(tmp_path, locked, monkeypatch):
    """Rows that nobody waits for go first; at the bound no call is made."""
    monkeypatch.setattr(ledger_module, "MOST", 10)
    async with open_ledger(tmp_path, when_down=None) as ledger:
        locked.execute("BEGIN IMMEDIATE")
        for n in range(8):
            ledger.add(hit(n))
        assert ledger.stats().dropped == 3
        for n in range(8, 14):
            await ledger.commit(call(n))
        assert ledger.stats().dropped == 4
        with pytest.raises(LedgerUnavailable):
            ledger.admit()
        locked.execute("ROLLBACK")
        assert await ledger.flush(PATIENCE)
        ledger.admit()
    assert column(tmp_path, "SELECT count(*) FROM requests") == [10]
    sums_are_the_rows(tmp_path)


async def test_a_full_file_keeps_what_it_has_and_takes_the_rest_later(tmp_path):
    """Its size is limited as a full disk would (RLIMIT_FSIZE: EFBIG, which SQLite calls FULL or
    an I/O error)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        size = max(path.stat().st_size for path in tmp_path.iterdir())
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, before[1]))
            await asyncio.gather(*(ledger.commit(call(n)) for n in range(2, 2000)))
            assert ledger.stats().down_for > 0
            assert column(tmp_path, "PRAGMA integrity_check") == ["ok"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert await ledger.flush(PATIENCE)
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1999]
    sums_are_the_rows(tmp_path)


# The loop's thread --------------------------------------------------------------------------------


async def test_no_call_to_the_store_is_on_the_loop_s_thread(tmp_path, monkeypatch):
    """G1, G3, structural: every connection is made and used in another thread; SQLite itself
    refuses one that crosses (check_same_thread)."""
    threads: list[str] = []
    connect = sqlite3.connect

    def noted(*given, **more):
        threads.append(threading.current_thread().name)
        assert "check_same_thread" not in more
        return connect(*given, **more)

    monkeypatch.setattr(sqlite3, "connect", noted)
    async with open_ledger(tmp_path) as ledger:
        reserve(ledger, held(1))
        await ledger.commit(call(1))
        ledger.add(hit(2))
        ledger.admit()
        ledger.stats()
        assert await ledger.flush(PATIENCE)
    assert threads == ["gateway-ledger"]


def test_the_port_s_file_knows_no_database():
    source = Path(ledger_module.__file__).read_text("utf-8")
    assert "sqlite3" not in source
    assert "open(" not in source


# Reservations -------------------------------------------------------------------------------------


async def test_a_row_settles_its_reservation(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        reserve(ledger, held(1))
        reserve(ledger, held(2))
        assert await ledger.flush(PATIENCE)
        assert column(tmp_path, "SELECT id FROM reservations") == [held(1).id, held(2).id]
        await ledger.commit(call(1))
        assert column(tmp_path, "SELECT id FROM reservations") == [held(2).id]
        await ledger.commit(call(2))
        reserve(ledger, held(1))  # late: it is settled already
        assert await ledger.flush(PATIENCE)
    assert read(tmp_path, "SELECT * FROM reservations") == []


@pytest.mark.parametrize(
    ("policy", "booked"), [(AfterCrash.PROMPT, (100, 0, 300)), (AfterCrash.FULL, (100, 1000, 5000))]
)
async def test_what_a_dead_process_left_open_is_booked_once_and_marked(tmp_path, policy, booked):
    """F5: never silently free, and nothing of it rises again."""
    async with open_ledger(tmp_path, boot="first") as ledger:
        reserve(ledger, held(1, team="blue", team_id="id-blue"))
        reserve(ledger, held(2))
        await ledger.commit(call(2))
    for boot in ("second", "third"):
        async with open_ledger(tmp_path, boot=boot, after_crash=policy):
            pass
    assert read(tmp_path, "SELECT * FROM reservations") == []
    assert read(
        tmp_path,
        "SELECT prompt_tokens, completion_tokens, cost_nano, key, team, model, upstream, status, "
        "outcome, error, usage_source FROM requests WHERE id = ?",
        held(1).id,
    ) == [
        (*booked, "alice", "blue", "gpt-4o", "openai", 499, "internal", "crashed", "estimated"),
    ]
    assert column(tmp_path, "SELECT count(*) FROM requests") == [2]
    assert column(tmp_path, "SELECT sum(estimated_tokens) FROM days") == [booked[0] + booked[1]]
    assert read(tmp_path, "SELECT sum(counted), sum(counted_tokens) FROM days") == [
        (1, booked[0] + booked[1])
    ]
    sums_are_the_rows(tmp_path)


async def test_a_lease_of_our_own_that_is_over_is_let_go_and_its_row_still_comes(tmp_path):
    async with open_ledger(tmp_path, wall=NOON + 601) as ledger:
        reserve(ledger, held(1))  # until NOON + 600
        reserve(ledger, held(2, until=NOON + 700))
        await until(lambda: not ledger.stats().backlog)
        ledger._writer._tend_at = 0.0  # as if a minute had passed
        await ledger.commit(call(3))
        await until(lambda: column(tmp_path, "SELECT id FROM reservations") == [held(2).id])
        await ledger.commit(call(1))
    assert column(tmp_path, "SELECT prompt_tokens FROM requests WHERE id = ?", call(1).id) == [10]


# Retention, the end -------------------------------------------------------------------------------


async def test_old_rows_go_in_small_batches_and_their_sums_stay(tmp_path, monkeypatch):
    """G5."""
    old = [call(n, NOON - 91 * DAY + n) for n in range(1200)]
    await book(tmp_path, *old, call(5000), keep=None)
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1201]
    size = (tmp_path / NAME).stat().st_size
    async with open_ledger(tmp_path, keep=Duration(90 * DAY)) as ledger:
        await until(lambda: ledger.stats().figures.deleted == 1200)
        await until(lambda: column(tmp_path, "SELECT count(*) FROM places") == [3])
        await ledger.commit(call(5001))
    assert column(tmp_path, "SELECT id FROM requests") == [call(5000).id, call(5001).id]
    assert column(tmp_path, "SELECT DISTINCT part FROM places") == [call(5000).id[:8]]
    assert column(tmp_path, "SELECT sum(requests) FROM quarters") == [1202]
    assert column(tmp_path, "SELECT sum(requests) FROM days") == [1202]
    assert (tmp_path / NAME).stat().st_size < size  # and the disk has its room back
    assert column(tmp_path, "PRAGMA integrity_check") == ["ok"]


async def test_the_end_writes_all_that_waits(tmp_path):
    """SIGTERM with a full queue loses nothing."""
    async with open_ledger(tmp_path) as ledger:
        for n in range(20_000):
            ledger.add(call(n))
    assert column(tmp_path, "SELECT count(*) FROM requests") == [20_000]


async def test_the_end_is_bounded_and_says_what_is_lost(tmp_path, locked, caplog):
    ledger = SQLiteLedger(tmp_path, Section(), "UTC", SetClock(), "boot")
    await ledger.start()
    locked.execute("BEGIN IMMEDIATE")
    ledger.add(call(1))
    await ledger.close(within=0.5)
    assert ledger.stats().figures.lost == 1
    assert "1 rows could not be written" in caplog.text


async def test_a_commit_that_is_cancelled_is_written_all_the_same(tmp_path):
    async with open_ledger(tmp_path) as ledger:
        waiting = asyncio.get_running_loop().create_task(ledger.commit(call(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert column(tmp_path, "SELECT count(*) FROM requests") == [1]


async def test_what_cannot_be_opened_ends_the_start_with_a_word(tmp_path):
    (tmp_path / NAME).write_bytes(b"this is no database, and long enough to tell" * 100)
    ledger = SQLiteLedger(tmp_path, Section(), "UTC", SetClock(), "boot")
    with pytest.raises(LedgerError, match=NAME):
        await ledger.start()


async def test_a_new_section_holds_at_once(tmp_path, locked):
    async with open_ledger(tmp_path, when_down=None) as ledger:
        locked.execute("BEGIN IMMEDIATE")
        await ledger.commit(call(1))
        ledger.admit()
        ledger.reconfigure(Section(when_down=Duration(0)))
        with pytest.raises(LedgerUnavailable):
            ledger.admit()
        locked.execute("ROLLBACK")


def test_a_row_has_each_column_once():
    made: Exchange = call(1)
    assert len(row_of(made)) == len(COLUMNS)
    assert len(row_of_held(held(1), "boot")) == len(HELD)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": None, "upstream": None, "nano": None, "summary": None, "timings": Timings()},
        {"tags": {"é": "\ud800"}, "team": "blue", "clamped": 0, "error": "", "stream": False},
    ],
)
def test_a_row_is_bound_fast(changes):
    """Structural: of anything but these types sqlite3 binds one in 300 ns, not in 20 to 70."""
    assert {type(value) for value in row_of(call(1, **changes))} <= {int, float, str}
    assert {type(value) for value in row_of_held(held(1), "boot")} <= {int, float, str}


async def test_nothing_is_not_the_same_as_empty(tmp_path):
    """What stands for NULL in a row is never what a column can hold."""
    none: dict[str, Any] = {
        "model": None,
        "error": None,
        "clamped": None,
        "nano": None,
        "upstream": None,
    }
    zero: dict[str, Any] = {"model": "", "error": "0", "clamped": 0, "nano": 0, "upstream": "x"}
    await book(tmp_path, call(1, **none), call(2, **zero))
    names = (
        "SELECT model, error, clamped, cost_nano, upstream, corrects, looked_up_ms FROM requests"
    )
    assert read(tmp_path, names) == [
        (None, None, None, None, None, None, None),
        ("", "0", 0, 0, "x", None, None),
    ]
    sums_are_the_rows(tmp_path)
