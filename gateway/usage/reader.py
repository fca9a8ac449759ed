"""Reading the books: sums, rows, and what balances are made from.

Rule: only read, on connections of its own that checkpoint nothing, in threads of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from zoneinfo import ZoneInfo

from gateway.exchange import Reservation, ulid
from gateway.usage.calendar import QUARTER, day_of, window_starts
from gateway.usage.columns import HELD
from gateway.usage.file import reservation
from gateway.usage.ledger import NAME
from gateway.usage.migrations import FIGURES, MIGRATIONS, LedgerError, refuse_newer, version_of
from gateway.usage.questions import (
    ROW,
    LogQuestion,
    UsageQuestion,
    log_statement,
    usage_statement,
)

THREADS = 2
FRESH = 2.0  # seconds that a question waits for rows that are on their way
MINUTE = 61  # seconds that a window of the last minute looks back (design, "Traps")
NANO = 10**9

T = TypeVar("T")


@dataclass(slots=True)
class Spent:
    """What counts against limits: requests, tokens, and money in 10^-9 dollars."""

    requests: int = 0
    tokens: int = 0
    nano_usd: int = 0


@dataclass(slots=True)
class OpenWindows:
    """What balances are rebuilt from: by window (`day`, `week`, `month`, `total`), then by key id,
    team id and upstream ("" for none); each row of the last minute that counts, as (seconds, key
    id, team id, upstream, requests, tokens); and the open reservations."""

    starts: dict[str, int] = field(default_factory=dict)  # seconds since the epoch
    spent: dict[str, dict[tuple[str, str, str], Spent]] = field(default_factory=dict)
    minute: list[tuple[float, str, str, str, int, int]] = field(default_factory=list)
    held: list[Reservation] = field(default_factory=list)


class Reader:
    """Asks `ledger.db` in `data`; without one, all is empty. `flush` waits for what is on its way
    (the ledger's own), where a server writes."""

    def __init__(
        self, data: Path, zone: str, flush: Callable[[float], Awaitable[bool]] | None = None
    ) -> None:
        self.zone = ZoneInfo(zone)
        self.path = data / NAME
        self._flush = flush
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gateway-books")

    def close(self) -> None:
        """No more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def usage(self, question: UsageQuestion) -> list[dict[str, Any]]:
        """Sums; without `by` one row. Equal to what the rows say, to the token."""
        return await self._ask(lambda db: self._usage(db, question), [])

    async def logs(self, question: LogQuestion) -> list[dict[str, Any]]:
        """Rows, whole."""
        return await self._ask(lambda db: _rows(db, *log_statement(question)), [])

    async def log(self, request_id: str) -> dict[str, Any] | None:
        """One row by its id."""
        statement = f"SELECT {', '.join(ROW)} FROM requests WHERE id = ?"
        nothing: list[dict[str, Any]] = []
        found = await self._ask(lambda db: _rows(db, statement, [request_id]), nothing)
        return found[0] if found else None

    async def open_windows(self, now: float) -> OpenWindows:
        """What balances need to know of the past, at a start."""
        return await self._ask(lambda db: self._windows(db, now), OpenWindows())

    async def settled(self) -> None:
        """Return when what was given to the ledger before can be read, or after FRESH seconds."""
        if self._flush is not None:
            await self._flush(FRESH)

    # -- in a thread -------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[sqlite3.Connection], T], empty: T) -> T:
        await self.settled()

        def ask() -> T:
            if not self.path.exists():
                return empty
            try:
                with reading(self.path) as db:
                    return question(db)
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path} cannot be read: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _usage(self, db: sqlite3.Connection, question: UsageQuestion) -> list[dict[str, Any]]:
        statement, values = usage_statement(question, self.zone)
        found = []
        for row in db.execute(statement, values):
            named = dict(zip(question.by, row, strict=False))
            by: dict[str, Any] = {n: value if value != "" else None for n, value in named.items()}
            if "day" in by:
                by["day"] = day_of(by["day"], self.zone).isoformat()
            figures = dict(zip(FIGURES, row[len(question.by) :], strict=True))
            found.append(by | _figures(figures))
        return found

    def _windows(self, db: sqlite3.Connection, now: float) -> OpenWindows:
        found = OpenWindows()
        starts = {**window_starts(now, self.zone), "total": 0}
        for name, first in starts.items():
            found.starts[name] = first * QUARTER
            found.spent[name] = {
                (key, team, upstream): Spent(*spent)
                for key, team, upstream, *spent in db.execute(
                    "SELECT key_id, team_id, upstream, sum(counted), sum(counted_tokens), "
                    "sum(cost_nano) FROM days JOIN series ON series.id = series "
                    "WHERE first >= ? GROUP BY 1, 2, 3",
                    (first,),
                )
            }
        found.minute = [
            (at / 1000, *rest)
            for at, *rest in db.execute(
                "SELECT at, key_id, ifnull(team_id, ''), ifnull(upstream, ''), counted, "
                "counted_tokens FROM requests WHERE id >= ? "
                "AND (counted != 0 OR counted_tokens != 0)",
                (ulid(max(0, int((now - MINUTE) * 1000)), bytes(10)),),
            )
        ]
        held = db.execute(f"SELECT {', '.join(HELD)} FROM reservations")
        found.held = [reservation(values) for values in held]
        return found


def no_books() -> Reader:
    """There are none."""
    return Reader(Path(os.devnull), "UTC")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, not even by a checkpoint. LedgerError: not this form."""
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=FRESH)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        version = version_of(db)
        refuse_newer(version, path)
        if version < len(MIGRATIONS):
            raise LedgerError(f"{path} is of an older form; start the gateway once: it upgrades it")
        yield db


def _figures(sums: dict[str, int]) -> dict[str, Any]:
    """Money as dollars. Where nothing has a known price, the cost is not known either."""
    unknown = sums["unpriced_requests"] > 0 and sums["cost_nano"] == 0
    return {
        "requests": sums["requests"],
        "prompt_tokens": sums["prompt_tokens"],
        "completion_tokens": sums["completion_tokens"],
        "cached_tokens": sums["cached_tokens"],
        "reasoning_tokens": sums["reasoning_tokens"],
        "cost_usd": None if unknown else dollars(sums["cost_nano"]),
        "saved_tokens": sums["saved_tokens"],
        "saved_cost_usd": dollars(sums["saved_cost_nano"]),
        "unpriced_requests": sums["unpriced_requests"],
        "estimated_tokens": sums["estimated_tokens"],
    }


def dollars(nano_usd: int | None) -> float | None:
    """For JSON: the nearest float, from which the whole number can be had again (to 9 million
    dollars). Nothing is added up in it."""
    return None if nano_usd is None else nano_usd / NANO


def _rows(db: sqlite3.Connection, statement: str, values: list[Any]) -> list[dict[str, Any]]:
    return [_row(dict(zip(ROW, row, strict=True))) for row in db.execute(statement, values)]


_TRUTHS = frozenset({"stream", "counted", "bound_exceeded"})


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """In the words of the access log, times of the day in UTC."""
    shown: dict[str, Any] = {}
    ms: dict[str, float] = {}
    for name, value in row.items():
        if name == "at":
            at = datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")
            shown["time"] = at.replace("+00:00", "Z")
        elif name.endswith("_ms"):
            ms[name.removesuffix("_ms")] = value and round(value, 3)
        elif name.endswith("_nano"):
            shown[name.removesuffix("_nano") + "_usd"] = dollars(value)
        elif name == "tags":
            shown[name] = {} if value is None else json.loads(value)
        elif name == "finish_reasons":
            shown[name] = value.split(",") if value else []
        elif name in _TRUTHS:
            shown[name] = bool(value)
        else:
            shown[name] = value
    return shown | {"ms": ms}
