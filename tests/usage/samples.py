"""Ledgers and exchanges for the tests of the books."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.clock import SystemClock
from gateway.config import Usage as Section
from gateway.exchange import (
    CacheState,
    Caller,
    CallerKind,
    Cost,
    Exchange,
    Reservation,
    Usage,
    UsageSource,
    ulid,
)
from gateway.ports import Ledger
from gateway.usage.ledger import NAME, SQLiteLedger
from gateway.usage.reader import Reader
from tests.exchanges import exchange

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()


class SetClock(SystemClock):
    """Wall time as a test sets it; durations pass by themselves."""

    __slots__ = ("wall",)

    def __init__(self, wall: float = NOON) -> None:
        self.wall = wall

    def now(self) -> float:
        return self.wall


def caller(name: str, team: str | None = None) -> Caller:
    return Caller(CallerKind.ISSUED, f"id-{name}", name, team=team, team_id=team and f"id-{team}")


def call(
    number: int,
    at: float = NOON,
    *,
    key: str = "alice",
    team: str | None = None,
    tokens: tuple[int, int] = (10, 20),
    nano: int | None = 1000,
    **changes: Any,
) -> Exchange:
    """The `number`-th request: an upstream call that went well, unless `changes` say otherwise."""
    given: dict[str, Any] = {
        "id": ulid(int(at * 1000), number.to_bytes(10, "big")),
        "at": at,
        "caller": caller(key, team),
        "usage": Usage(*tokens, source=UsageSource.UPSTREAM),
        "cost": Cost(nano, "1"),
        "tags": {},
    }
    return exchange(**given | changes)


def hit(number: int, at: float = NOON, **changes: Any) -> Exchange:
    """A request that was answered from the cache."""
    given: dict[str, Any] = {
        "cache": CacheState.HIT,
        "attempts": 0,
        "usage": Usage(source=UsageSource.CACHE),
        "saved": Usage(10, 20),
        "saved_cost": Cost(700, "1"),
    }
    return call(number, at, **given | changes)


def held(number: int, at: float = NOON, **changes: Any) -> Reservation:
    given: dict[str, Any] = {
        "id": ulid(int(at * 1000), number.to_bytes(10, "big")),
        "at": at,
        "key_id": "id-alice",
        "team_id": None,
        "model": "gpt-4o",
        "prompt_tokens": 100,
        "completion_tokens": 1000,
        "nano_usd": 5000,
        "until": at + 600,
        "prompt_nano_usd": 300,
        "key": "alice",
        "upstream": "openai",
    }
    return Reservation(**given | changes)


def reserve(ledger: Ledger, reservation: Reservation) -> None:
    """As the pipeline does."""
    ledger.reserve(reservation.id, lambda: reservation)


@asynccontextmanager
async def open_ledger(
    data: Path, *, zone: str = "UTC", boot: str = "boot", wall: float = NOON, **section: Any
) -> AsyncIterator[SQLiteLedger]:
    """A ledger for as long as the context lasts; all is written at its end."""
    ledger = SQLiteLedger(data, Section(**section), zone, SetClock(wall), boot)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


async def book(data: Path, *exchanges: Exchange, **settings: Any) -> None:
    """Write these rows."""
    async with open_ledger(data, **settings) as ledger:
        for one in exchanges:
            ledger.add(one)


@asynccontextmanager
async def open_reader(data: Path, zone: str = "UTC") -> AsyncIterator[Reader]:
    reader = Reader(data, zone)
    try:
        yield reader
    finally:
        reader.close()


def read(data: Path, statement: str, *values: Any) -> list[Any]:
    """Rows of a statement, by a connection that is nobody's."""
    with closing(sqlite3.connect(data / NAME)) as base:
        return base.execute(statement, values).fetchall()


def column(data: Path, statement: str, *values: Any) -> list[Any]:
    return [row[0] for row in read(data, statement, *values)]


def sums_are_the_rows(data: Path) -> None:
    """Rollups, both kinds, say exactly what the rows say; and the file is whole."""
    figures = {
        "requests": "sum(corrects IS NULL)",
        "prompt_tokens": "sum(prompt_tokens)",
        "completion_tokens": "sum(completion_tokens)",
        "cached_tokens": "sum(cached_tokens)",
        "reasoning_tokens": "sum(reasoning_tokens)",
        "cost_nano": "sum(ifnull(cost_nano, 0))",
        "saved_tokens": "sum(saved_tokens)",
        "saved_cost_nano": "sum(ifnull(saved_cost_nano, 0))",
        "counted": "sum(counted)",
        "counted_tokens": "sum(counted_tokens)",
    }
    names = (
        "key, CASE WHEN upstream IS NULL THEN '' ELSE ifnull(model, '') END, "
        "ifnull(team, ''), ifnull(tags, '')"
    )
    rows = read(
        data,
        f"SELECT at / 900000, {names}, {', '.join(figures.values())} FROM requests "
        "GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
    )
    sums = ", ".join(f"sum({name})" for name in figures)
    quarters = read(
        data,
        f"SELECT quarter, key, model, team, tags, {sums} FROM quarters JOIN series "
        "ON series.id = series GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
    )
    assert quarters == rows
    days = read(data, f"SELECT {sums} FROM days")
    assert days == read(data, f"SELECT {sums} FROM quarters")
    assert read(data, "PRAGMA integrity_check") == [("ok",)]
