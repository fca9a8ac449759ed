"""Sums equal the rows, in every combination, over every day; rows are found and paged."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.exchange import CacheState, Exchange, Usage, UsageSource, ulid
from gateway.usage.calendar import QUARTER, day_at
from gateway.usage.columns import COLUMNS
from gateway.usage.file import LedgerFile
from gateway.usage.ledger import NAME
from gateway.usage.questions import LogQuestion, UsageQuestion
from gateway.usage.reader import Spent, no_books, reading
from gateway.usage.rows import row_of
from tests.usage.samples import (
    NOON,
    book,
    call,
    held,
    hit,
    open_ledger,
    open_reader,
    read,
    reserve,
    sums_are_the_rows,
)

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400
NAMES = ("key", "team", "model", "day", "tag:a", "tag:b")


def summed(
    exchanges: list[Exchange], by: tuple[str, ...], zone: ZoneInfo
) -> dict[tuple[str | None, ...], tuple[int, ...]]:
    """The same sums by hand, from the exchanges themselves."""

    def named(x: Exchange, name: str) -> str | None:
        assert x.caller is not None
        found = {
            "key": x.caller.name,
            "team": x.caller.team,
            "model": None if x.upstream is None else x.model,
            "day": day_at(x.at, zone).isoformat(),
        }
        return found[name] if name in found else x.tags.get(name.removeprefix("tag:"))

    totals: dict[tuple[str | None, ...], Counter[str]] = {}
    for x in exchanges:
        total = totals.setdefault(tuple(named(x, name) for name in by), Counter())
        free = x.attempts == 0
        total.update(
            requests=1,
            prompt=x.usage.prompt_tokens,
            completion=x.usage.completion_tokens,
            nano=0 if free else x.cost.nano_usd or 0,
            saved=x.saved.prompt_tokens + x.saved.completion_tokens,
        )
    names = ("requests", "prompt", "completion", "nano", "saved")
    return {group: tuple(total[name] for name in names) for group, total in totals.items()}


async def asked(
    data: Path, zone: str, question: UsageQuestion
) -> dict[tuple[str | None, ...], tuple[int, ...]]:
    async with open_reader(data, zone) as reader:
        rows = await reader.usage(question)
    return {
        tuple(row[name] for name in question.by): (
            row["requests"],
            row["prompt_tokens"],
            row["completion_tokens"],
            round((row["cost_usd"] or 0) * 10**9),
            row["saved_tokens"],
        )
        for row in rows
    }


def a_year() -> list[Exchange]:
    """Calls around both changes of the clock in Europe, and far apart."""
    spring = int(datetime(2026, 3, 28, 20, tzinfo=UTC).timestamp())
    autumn = int(datetime(2026, 10, 24, 20, tzinfo=UTC).timestamp())
    times = [t + n * 1777 for t in (spring, autumn) for n in range(60)] + [NOON + 200 * DAY]
    return [
        (hit if n % 4 == 0 else call)(
            n,
            float(at),
            key=("alice", "bob")[n % 2],
            team=(None, "blue")[n % 3 == 0],
            model=("gpt-4o", "o3", None)[n % 3],
            tags=({}, {"a": "1"}, {"a": "2", "b": "\"quoted' [x]"})[n % 3],
            tokens=(n, 2 * n),
            nano=n * 17,
        )
        for n, at in enumerate(times)
    ]


@pytest.fixture(scope="module", params=["UTC", "Europe/Berlin", "Asia/Kathmandu"])
def filled(request, tmp_path_factory) -> tuple[Path, str]:
    data = tmp_path_factory.mktemp("books")
    exchanges = [replace(x, usage=Usage()) if x.cache is CacheState.HIT else x for x in a_year()]
    asyncio.run(book(data, *exchanges, zone=request.param))
    sums_are_the_rows(data)
    return data, request.param


@pytest.mark.parametrize(
    "by", [pick for size in range(4) for pick in combinations(NAMES, size)], ids=",".join
)
async def test_every_combination_is_what_the_requests_were(filled, by):
    """Over both days on which the clock changes; Kathmandu is 5:45 from UTC."""
    data, zone = filled
    exchanges = [replace(x, usage=Usage()) if x.cache is CacheState.HIT else x for x in a_year()]
    assert await asked(data, zone, UsageQuestion(by)) == summed(exchanges, by, ZoneInfo(zone))


@settings(max_examples=40)
@given(st.integers(-5, 700), st.integers(0, 400), st.sampled_from([(), ("day",), ("key", "day")]))
def test_any_span_is_the_rows_in_it(tmp_path_factory, start, length, by):
    """Whole days from sums by day, the ends from quarters: no row twice, none left out."""
    data = tmp_path_factory.getbasetemp() / "spans"
    exchanges = [
        call(n, NOON + n * 1000.0, key=("alice", "bob")[n % 2], tokens=(n, 1)) for n in range(600)
    ]
    if not data.exists():
        data.mkdir()
        asyncio.run(book(data, *exchanges, zone="Europe/Berlin"))
    since, until = NOON + start * QUARTER, NOON + (start + length) * QUARTER
    found = asyncio.run(asked(data, "Europe/Berlin", UsageQuestion(by, since=since, until=until)))
    within = [x for x in exchanges if since <= x.at < until]
    wanted = summed(within, by, BERLIN)
    assert found == (wanted or ({} if by else {(): (0, 0, 0, 0, 0)}))


async def test_days_of_the_clock_s_change_are_23_and_25_hours(tmp_path):
    """F6: one call each quarter-hour; the days of Berlin have 92, 96 and 100 of them."""
    first = datetime(2026, 3, 28, tzinfo=BERLIN).timestamp()
    autumn = datetime(2026, 10, 24, tzinfo=BERLIN).timestamp()
    times = [t + n * QUARTER for t in (first, autumn) for n in range(96 * 3)]
    await book(tmp_path, *(call(n, t) for n, t in enumerate(times)), zone="Europe/Berlin")
    async with open_reader(tmp_path, "Europe/Berlin") as reader:
        rows = await reader.usage(UsageQuestion(("day",)))
    assert {row["day"]: row["requests"] for row in rows} == {
        "2026-03-28": 96,
        "2026-03-29": 92,
        "2026-03-30": 96,
        "2026-03-31": 4,
        "2026-10-24": 96,
        "2026-10-25": 100,
        "2026-10-26": 92,
    }


async def test_another_time_zone_sums_all_days_anew(tmp_path):
    await book(tmp_path, *a_year())
    async with open_ledger(tmp_path, zone="America/New_York"):
        pass
    sums_are_the_rows(tmp_path)
    exchanges = [replace(x, usage=Usage()) if x.cache is CacheState.HIT else x for x in a_year()]
    wanted = summed(exchanges, ("day",), ZoneInfo("America/New_York"))
    found = await asked(tmp_path, "America/New_York", UsageQuestion(("day",)))
    assert {day: sums[0] for day, sums in found.items()} == {d: s[0] for d, s in wanted.items()}


async def test_an_unknown_cost_is_never_zero_and_an_estimate_is_told(tmp_path):
    """Requirement A10; issue 4, money."""
    estimated = Usage(4, 3, source=UsageSource.ESTIMATED)
    await book(
        tmp_path, call(1, nano=None), call(2, key="bob"), call(3, key="bob", nano=None),
        call(4, key="carl", usage=estimated, nano=0),
    )  # fmt: skip
    async with open_reader(tmp_path) as reader:
        rows = await reader.usage(UsageQuestion(("key",)))
    assert [
        (row["key"], row["cost_usd"], row["unpriced_requests"], row["estimated_tokens"])
        for row in rows
    ] == [("alice", None, 1, 0), ("bob", 0.000001, 1, 0), ("carl", 0.0, 0, 7)]


async def test_filters_narrow_sums(tmp_path):
    await book(
        tmp_path, call(1), call(2, key="bob"), call(3, model="gpt-4o-mini"), call(4, model="[x]")
    )
    for question, number in (
        (UsageQuestion(key="alice"), 3),
        (UsageQuestion(model="gpt-4o"), 2),
        (UsageQuestion(model="gpt-4*"), 3),
        (UsageQuestion(model="[x]*"), 1),
        (UsageQuestion(key="bob", model="gpt-*"), 1),
        (UsageQuestion(key="' OR 1"), 0),
    ):
        assert next(iter((await asked(tmp_path, "UTC", question)).values()))[0] == number


# Rows ---------------------------------------------------------------------------------------------


async def ids(data: Path, **given) -> list[str]:
    async with open_reader(data) as reader:
        return [row["id"] for row in await reader.logs(LogQuestion(**given))]


async def test_rows_are_found_newest_first(tmp_path):
    rows = [
        call(1, NOON + 1),
        call(2, NOON + 2, status=503),
        call(3, NOON + 3, status=429, key="bob"),
        hit(4, NOON + 4),
        call(5, NOON + 5, model="o3"),
    ]
    await book(tmp_path, *reversed(rows))
    one, two, three, four, five = (row.id for row in rows)
    for given_, wanted in (
        ({}, [five, four, three, two, one]),
        ({"limit": 2}, [five, four]),
        ({"before": three}, [two, one]),
        ({"key": "bob"}, [three]),
        ({"model": "gpt*"}, [four, three, two, one]),
        ({"model": "o3"}, [five]),
        ({"model": "*o*", "limit": 2}, [five, four]),
        ({"model": "*4*", "until": NOON + 4, "before": three}, [two, one]),
        ({"model": "g*", "status": (500, 599)}, [two]),
        ({"model": "g*", "key": "bob"}, [three]),
        ({"model": "*x*"}, []),
        ({"status": (500, 599)}, [two]),
        ({"status": (429, 429)}, [three]),
        ({"status": (200, 299)}, [five, four, one]),
        ({"cache": "hit"}, [four]),
        ({"since": NOON + 2, "until": NOON + 4}, [three, two]),
        ({"key": "alice", "status": (400, 599)}, [two]),
    ):
        assert await ids(tmp_path, **given_) == wanted, given_


async def test_pages_are_all_rows_once(tmp_path):
    await book(tmp_path, *(call(n, NOON + n % 7) for n in range(103)))
    found, before = [], None
    while page := await ids(tmp_path, limit=10, before=before):
        found += page
        before = page[-1]
    assert len(found) == len(set(found)) == 103
    assert found == sorted(found, reverse=True)


async def test_whatever_is_asked_together_is_what_the_rows_say(tmp_path):
    """In whatever seconds they stand, with late ones among them, and pages within a second."""
    dice = Random(7)
    states, models = [CacheState.HIT, CacheState.MISS, CacheState.NONE], ["m1", "m2", "n1", None]
    rows = [
        call(
            n,
            NOON + dice.randrange(40) / 3,
            key=dice.choice("ab"),
            model=dice.choice(models),
            cache=dice.choice(states),
            status=dice.choice([200, 200, 503]),
        )
        for n in range(200)
    ]
    await book(tmp_path, *rows)
    asked: dict[str, list[Any]] = {
        "key": ["a", "b", "nobody"],
        "model": ["m1", "n1", "m*", "*1", "zz*"],
        "cache": ["hit", "miss", "joined"],
        "status": [(200, 299), (400, 599)],
        "since": [NOON + n / 3 for n in range(0, 40, 7)],
        "until": [NOON + n / 3 for n in range(0, 40, 7)],
        "before": [row.id for row in rows[:40]],
    }
    async with open_reader(tmp_path) as reader:
        for _ in range(400):
            given = {n: dice.choice(v) for n, v in asked.items() if dice.random() < 0.35}
            question = LogQuestion(**given, limit=dice.choice([3, 500]))
            found = [row["id"] for row in await reader.logs(question)]
            wanted = sorted((x.id for x in rows if matches(x, **given)), reverse=True)
            assert found == wanted[: question.limit], question


def matches(
    x: Exchange,
    *,
    key: str | None = None,
    model: str | None = None,
    cache: str | None = None,
    status: tuple[int, int] = (0, 999),
    since: float = 0.0,
    until: float = 1e12,
    before: str = "~",
) -> bool:
    """What is asked of a row, by hand."""
    named = model is None or (x.model is not None and fnmatchcase(x.model, model))
    whose = x.caller is not None and key in {None, x.caller.name}
    in_time = ulid(int(since * 1000), bytes(10)) <= x.id < ulid(int(until * 1000), bytes(10))
    state = cache in {None, str(x.cache)}
    return (
        named
        and whose
        and in_time
        and state
        and status[0] <= x.status <= status[1]
        and x.id < before
    )


async def test_what_follows_comes_in_the_order_of_booking(tmp_path):
    """A long request is booked after younger ones, and is not missed."""
    async with open_ledger(tmp_path) as ledger, open_reader(tmp_path) as reader:
        for n in (5, 6):
            await ledger.commit(call(n, NOON + n))
        page = await reader.logs(LogQuestion(follow=True, limit=10))
        assert [row["id"] for row in page] == [call(5, NOON + 5).id, call(6, NOON + 6).id]
        await ledger.commit(call(1, NOON + 1))
        later = await reader.logs(LogQuestion(follow=True, after=page[-1]["seq"]))
        assert [row["id"] for row in later] == [call(1, NOON + 1).id]
        assert await reader.logs(LogQuestion(follow=True, after=later[-1]["seq"])) == []


async def test_a_row_is_shown_in_the_access_log_s_words(tmp_path):
    await book(tmp_path, call(1, tags={"b": "2"}))
    async with open_reader(tmp_path) as reader:
        row = await reader.log(call(1).id)
        assert await reader.log("nobody") is None
    assert row is not None
    assert row["time"] == "2026-03-28T12:00:00.000Z"
    assert row["tags"] == {"b": "2"}
    assert row["stream"] is True
    assert row["cost_usd"] == 0.000001
    assert row["finish_reasons"] == ["stop"]
    assert row["ms"]["total"] == 902.0


@pytest.mark.parametrize(
    ("question", "index"),
    [
        (LogQuestion(), "INDEX sqlite_autoindex_requests_1"),
        (LogQuestion(key="a", before="x"), "places USING PRIMARY KEY (what=? AND name=? AND part<"),
        (LogQuestion(model="a", since=1.0), "places USING PRIMARY KEY (what=? AND name=? AND part"),
        (LogQuestion(model="a*", key="k"), "places USING PRIMARY KEY (what=? AND name=?"),
        (LogQuestion(cache="hit"), "places USING PRIMARY KEY (what=? AND name=?"),
        (LogQuestion(cache="hit"), "INDEX sqlite_autoindex_requests_1 (id>? AND id<?)"),
        (LogQuestion(status=(500, 599)), "INDEX requests_failed"),
        (LogQuestion(follow=True, after=5), "INTEGER PRIMARY KEY (rowid>?)"),
    ],
)
async def test_a_page_is_read_off_an_index_and_nothing_is_sorted(tmp_path, question, index):
    """G5: keyset pages."""
    from gateway.usage.questions import log_statement

    await book(tmp_path, call(1))
    statement, values = log_statement(question)
    plan = [row[3] for row in read(tmp_path, f"EXPLAIN QUERY PLAN {statement}", *values)]
    assert any(index in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan)


# Balances, and who reads --------------------------------------------------------------------------


async def test_open_windows_are_what_balances_need(tmp_path):
    """Sunday the 29th: the week began on Monday the 23rd, the month on the 1st."""
    sunday = datetime(2026, 3, 29, 12, tzinfo=BERLIN).timestamp()
    times = {"minute": 30, "day": 3600, "week": 2 * DAY, "month": 10 * DAY, "total": 50 * DAY}
    counts: dict[str, Any] = {"counted": True, "counted_tokens": 30}
    rows = [call(n, sunday - ago, team="blue", **counts) for n, ago in enumerate(times.values())]
    rows.append(hit(7, sunday - 20, team="blue", counted=True))
    rows.append(call(8, sunday - 10, team="blue"))  # counts against nothing but a budget
    rows.append(call(9, sunday - 10, upstream=None, attempts=0, tokens=(0, 0), counted=True))
    async with open_ledger(tmp_path, zone="Europe/Berlin", wall=sunday) as ledger:
        for row in rows:
            ledger.add(row)
        reserve(ledger, held(99, sunday))
        await ledger.flush(20)
        async with open_reader(tmp_path, "Europe/Berlin") as reader:
            found = await reader.open_windows(sunday)
    whose = ("id-alice", "id-blue", "openai")
    assert {name: spent[whose].requests for name, spent in found.spent.items()} == {
        "day": 3,
        "week": 4,
        "month": 5,
        "total": 6,
    }
    assert found.spent["week"][whose] == Spent(4, 90, 4000)
    assert found.spent["week"]["id-alice", "", ""] == Spent(1, 0, 0)
    assert found.starts["day"] == datetime(2026, 3, 29, tzinfo=BERLIN).timestamp()
    assert found.starts["week"] == datetime(2026, 3, 23, tzinfo=BERLIN).timestamp()
    assert found.minute == [
        (sunday - 30, *whose, 1, 30),
        (sunday - 20, *whose, 1, 0),
        (sunday - 10, "id-alice", "", "", 1, 0),
    ]
    assert found.held == [held(99, sunday)]


async def test_a_correction_corrects_tokens_too(tmp_path):
    """And is no request."""
    await book(tmp_path, call(1, counted=True, counted_tokens=30))
    row = dict(zip(COLUMNS, row_of(call(2, tokens=(-3, -5), counted_tokens=-8)), strict=True))
    row |= {"corrects": call(1).id}
    file = LedgerFile(tmp_path / NAME, "UTC", full_sync=False)
    file.open(NOON)
    file.insert([tuple(row.values())], [])
    file.close()
    async with open_reader(tmp_path) as reader:
        found = await reader.open_windows(NOON)
    whose = ("id-alice", "", "openai")
    assert found.spent["day"][whose].tokens == 22
    assert [tuple(counts) for _, _, _, _, *counts in found.minute] == [(1, 30), (0, -8)]


async def test_what_was_booked_before_the_clock_was_set_back_counts(tmp_path):
    await book(tmp_path, call(1, NOON + 40 * DAY, counted=True, counted_tokens=30))
    async with open_reader(tmp_path) as reader:
        found = await reader.open_windows(NOON)
    assert {spent["id-alice", "", "openai"].tokens for spent in found.spent.values()} == {30}
    assert len(found.minute) == 1


async def test_without_a_file_all_is_empty():
    reader = no_books()
    assert await reader.usage(UsageQuestion()) == []
    assert await reader.logs(LogQuestion()) == []
    assert (await reader.open_windows(NOON)).held == []
    reader.close()


async def test_a_reader_writes_nothing_and_checkpoints_nothing(tmp_path):
    """Reliability 0.3: with one connection for commits and checkpoints, no reader may join in."""
    async with open_ledger(tmp_path) as ledger:
        await ledger.commit(call(1))
        with reading(tmp_path / "ledger.db") as base:
            assert base.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
            with pytest.raises(Exception, match="readonly"):
                base.execute("DELETE FROM requests")
