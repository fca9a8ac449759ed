"""What can be asked of the books, as SQL. Pure: a question in, a statement and its values out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from zoneinfo import ZoneInfo

from gateway.exchange import ulid
from gateway.usage.calendar import DAY, QUARTER, day_of, start_of
from gateway.usage.migrations import FIGURES
from gateway.usage.rows import COLUMNS
from gateway.usage.rules import glob

BY = ("key", "team", "model", "day")  # and tag:NAME
TAG = "tag:"
LOOK_BACK = 10_000  # rows, where the last ones are asked for by order of booking

Statement = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Sums `by` any of BY and tags; times in seconds, widened to whole quarter-hours."""

    by: tuple[str, ...] = ()
    key: str | None = None
    model: str | None = None  # a pattern
    since: float | None = None
    until: float | None = None  # not in it


@dataclass(frozen=True, slots=True)
class LogQuestion:
    """Rows that match all that is given, the newest arrival first, from before the row `before`;
    with `ids` only those.

    With `follow` by order of booking, oldest first: those after the number `after`, or the last.
    """

    key: str | None = None
    model: str | None = None  # a pattern
    status: tuple[int, int] | None = None  # first and last
    cache: str | None = None
    since: float | None = None
    until: float | None = None  # not in it
    before: str | None = None
    ids: tuple[str, ...] | None = None
    follow: bool = False
    after: int | None = None
    limit: int = 50


@dataclass(slots=True)
class _Where:
    terms: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, term: str, *values: Any) -> None:
        self.terms.append(term)
        self.values += values

    def __str__(self) -> str:
        return " AND ".join(self.terms) or "true"


# Sums ---------------------------------------------------------------------------------------------


def usage_statement(question: UsageQuestion, zone: ZoneInfo) -> Statement:
    """Its columns: those of `by`, then FIGURES. A day is its first quarter."""
    values: list[Any] = []
    columns = []
    for name in question.by:
        if name == "day":
            columns.append("part.day")
        elif name.startswith(TAG):
            columns.append(
                "CASE WHEN series.tags = '' THEN NULL ELSE (SELECT value FROM "
                "json_each(series.tags) WHERE key = ?) END"
            )
            values.append(name.removeprefix(TAG))
        else:
            columns.append(f"series.{name}")
    parts = []
    for table, start, first, last, day in _parts(question, zone):
        sums = ", ".join(f"sum({name}) AS {name}" for name in FIGURES)
        parts.append(
            f"SELECT series, {day} AS day, {sums} FROM {table} "
            f"WHERE {start} >= ? AND {start} < ? GROUP BY 1, 2"
        )
        values += [first, last]
    where = _Where()
    _narrow(where, question, "series.")
    values += where.values
    places = ", ".join(str(i + 1) for i in range(len(columns)))
    totals = ", ".join(f"ifnull(sum(part.{name}), 0)" for name in FIGURES)
    group = f" GROUP BY {places} ORDER BY {places}" if columns else ""
    return (
        f"SELECT {', '.join([*columns, totals])} FROM ({' UNION ALL '.join(parts)}) AS part "
        f"JOIN series ON series.id = part.series WHERE {where}{group}",
        values,
    )


_EVER = 1 << 53


def _parts(
    question: UsageQuestion, zone: ZoneInfo
) -> Iterator[tuple[str, str, int, int, str | int]]:
    """Whole days from the sums by day; what is left at both ends from those by quarter-hour."""
    since = 0 if question.since is None else max(0, int(question.since // QUARTER))
    until = _EVER if question.until is None else max(0, int(-(-question.until // QUARTER)))
    first = since if since == 0 else _start_after(since, zone)
    last = until if until == _EVER else start_of(day_of(until, zone), zone)
    if first > last:
        yield "quarters", "quarter", since, until, start_of(day_of(since, zone), zone)
        return
    if since < first:
        yield "quarters", "quarter", since, first, start_of(day_of(since, zone), zone)
    yield "days", "first", first, last, "first"
    if last < until:
        yield "quarters", "quarter", last, until, last


def _start_after(quarter: int, zone: ZoneInfo) -> int:
    """The first day's start that is not before it."""
    day = day_of(quarter, zone)
    start = start_of(day, zone)
    return start if start == quarter else start_of(day + DAY, zone)


def _narrow(where: _Where, question: UsageQuestion | LogQuestion, prefix: str = "") -> None:
    if question.key is not None:
        where.add(f"{prefix}key = ?", question.key)
    if question.model is not None:
        exact = "*" not in question.model
        where.add(
            f"{prefix}model {'=' if exact else 'GLOB'} ?",
            question.model if exact else glob(question.model),
        )


# Rows ---------------------------------------------------------------------------------------------

ROW = ("seq", *COLUMNS)


def log_statement(question: LogQuestion) -> Statement:
    """Its columns are ROW."""
    where = _Where()
    pattern = question.model is not None and "*" in question.model
    failed = question.status is not None and question.status[0] >= 400
    narrow = question.follow or question.key or question.cache or question.ids is not None or failed
    _narrow(where, replace(question, model=None) if pattern else question)
    if pattern and narrow:
        where.add("+model GLOB ?", glob(question.model or ""))  # `+`: by the other index
    if question.status is not None:
        first, last = question.status
        if first >= 400:
            where.add("status >= 400")  # in these words, so that the index of failures serves
        where.add("status BETWEEN ? AND ?", first, last)
    if question.cache is not None:
        where.add("cache = ?", question.cache)
    if question.since is not None:
        where.add("id >= ?", _lowest_id(question.since))
    if question.until is not None:
        where.add("id < ?", _lowest_id(question.until))
    if question.before is not None:
        where.add("id < ?", question.before)
    if question.ids is not None:
        where.add("id IN (SELECT value FROM json_each(?))", json.dumps(question.ids))
    columns = ", ".join(ROW)
    if pattern and not narrow:
        return _of_models(question, where, columns)
    if not question.follow:
        statement = f"SELECT {columns} FROM requests WHERE {where} ORDER BY id DESC LIMIT ?"
    elif question.after is not None:
        where.add("seq > ?", question.after)
        statement = f"SELECT {columns} FROM requests WHERE {where} ORDER BY seq LIMIT ?"
    else:
        where.add("seq > (SELECT ifnull(max(seq), 0) FROM requests) - ?", LOOK_BACK)
        statement = (
            f"SELECT * FROM (SELECT {columns} FROM requests WHERE {where} "
            "ORDER BY seq DESC LIMIT ?) ORDER BY seq"
        )
    return statement, [*where.values, question.limit]


def _of_models(question: LogQuestion, where: _Where, columns: str) -> Statement:
    """Each model that matches by its own index, then the newest of all: the index of models alone
    would give all their rows, to be sorted."""
    pattern = question.model or ""
    statement = (
        "WITH RECURSIVE names (name) AS (SELECT min(model) FROM requests WHERE model >= ? "
        "UNION ALL SELECT (SELECT min(model) FROM requests WHERE model > name) FROM names "
        f"WHERE name IS NOT NULL) SELECT {columns} FROM names JOIN requests ON seq IN "
        f"(SELECT seq FROM requests WHERE model = name AND {where} ORDER BY id DESC LIMIT ?) "
        "WHERE name GLOB ? ORDER BY id DESC LIMIT ?"
    )
    first = pattern.partition("*")[0]
    return statement, [first, *where.values, question.limit, glob(pattern), question.limit]


def _lowest_id(seconds: float) -> str:
    """The first id of a request that arrived then."""
    return ulid(max(0, int(seconds * 1000)), bytes(10))
