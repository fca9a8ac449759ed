"""What can be asked of the books, as SQL. Pure: a question in, a statement and its values out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from gateway.exchange import ulid
from gateway.usage.calendar import DAY, QUARTER, day_of, start_of
from gateway.usage.columns import COLUMNS
from gateway.usage.migrations import FIGURES, PART
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
    where, columns = _Where(), ", ".join(ROW)
    pattern = question.model is not None and "*" in question.model
    failed = question.status is not None and question.status[0] >= 400
    _narrow(where, question)
    if question.status is not None:
        if failed:
            where.add("status >= 400")  # in these words, so that the index of failures serves
        where.add("status BETWEEN ? AND ?", *question.status)
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
    if question.follow:
        return _following(question, where, columns)
    names = (("key", question.key), ("model", question.model), ("cache", question.cache))
    named = {n: v for n, v in names if v is not None and not (pattern and n == "model")}
    if failed or question.ids is not None or not (named or pattern):
        statement = f"SELECT {columns} FROM requests WHERE {where} ORDER BY id DESC LIMIT ?"
        return statement, [*where.values, question.limit]
    if pattern and not named:
        return _of_models(question, where, columns)
    places = _places(question, named)
    statement = (
        f"SELECT {columns} FROM places CROSS JOIN requests ON {_THERE} WHERE {places} AND {where} "
        "ORDER BY part DESC, id DESC LIMIT ?"
    )
    return statement, [*places.values, *where.values, question.limit]


_THERE = "id >= part AND id < part || '~'"  # the rows of a place: `~` is after what ids are made of


def _places(question: LogQuestion, named: Mapping[str, str]) -> _Where:
    """Those where there is something of each name."""
    where = _Where()
    for number, (what, name) in enumerate(named.items()):
        found = "what = ? AND name = ?"
        if number:
            found = f"EXISTS (SELECT 1 FROM places p WHERE p.part = places.part AND {found})"
        where.add(found, what, name)
    if question.since is not None:
        where.add("part >= ?", _lowest_id(question.since)[:PART])
    if question.until is not None:
        where.add("part <= ?", _lowest_id(question.until)[:PART])
    if question.before is not None:
        where.add("part <= ?", question.before[:PART])
    return where


def _following(question: LogQuestion, where: _Where, columns: str) -> Statement:
    if question.after is not None:
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
    """Each model that matches by its own places, then the newest of all."""
    pattern = question.model or ""
    places = _places(question, {})
    narrow = f"AND {places} " if places.terms else ""
    statement = (
        "WITH RECURSIVE names (name) AS ("
        "SELECT min(name) FROM places WHERE what = 'model' AND name >= ? UNION ALL "
        "SELECT (SELECT min(p.name) FROM places p WHERE p.what = 'model' AND p.name > names.name) "
        f"FROM names WHERE name IS NOT NULL) SELECT {columns} FROM names JOIN requests ON seq IN "
        f"(SELECT seq FROM places CROSS JOIN requests ON {_THERE} WHERE what = 'model' "
        f"AND places.name = names.name {narrow}AND model = names.name AND {where} "
        "ORDER BY part DESC, id DESC LIMIT ?) WHERE names.name GLOB ? ORDER BY id DESC LIMIT ?"
    )
    first, matching = pattern.partition("*")[0], glob(pattern)
    values = [first, *places.values, *where.values, question.limit, matching, question.limit]
    return statement, values


def _lowest_id(seconds: float) -> str:
    """The first id of a request that arrived then."""
    return ulid(max(0, int(seconds * 1000)), bytes(10))
