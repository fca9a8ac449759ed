"""Asking the journal: what is kept of one request, and which requests' bodies have some words.

Rule: only read, on connections of its own, in a thread of its own, the newest file first. A file
that cannot be read, or has just been deleted, hides no other.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from gateway.exchange import ulid
from gateway.journal.keeper import FOLDER
from gateway.journal.redact import searchable
from gateway.journal.segments import VERSION, segments
from gateway.journal.shape import unpacked

FRESH = 2.0  # seconds that a question waits for records that are on their way
PATIENCE = 2.0  # seconds for a lock
_WORD = re.compile(r"\w")

T = TypeVar("T")
log = logging.getLogger("gateway.journal")


@dataclass(frozen=True, slots=True)
class Search:
    """Records with these words in a row, the last one perhaps only begun, the last booked first
    (with `follow`: the first). `before` is an id; `after` a number of `Found`; times in seconds,
    of arrival."""

    text: str
    since: float | None = None
    until: float | None = None  # not in it
    before: str | None = None
    follow: bool = False
    after: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A request that a search has found; `number` grows in the order of booking."""

    number: int
    id: str


def has_words(text: str) -> bool:
    """Can it be searched for."""
    return _WORD.search(text) is not None


class JournalReader:
    """Asks the files in `data`; without any, all is empty. `flush` waits for what is on its way,
    where a server writes."""

    def __init__(self, data: Path, flush: Callable[[float], Awaitable[bool]] | None = None) -> None:
        self.folder = data / FOLDER
        self._flush = flush
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-journal-read")

    def close(self) -> None:
        """No more questions."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def settled(self) -> None:
        """Return when what was put before can be read, or after FRESH seconds."""
        if self._flush is not None:
            await self._flush(FRESH)

    async def kept(self, request_ids: list[str]) -> dict[str, dict[str, Any]]:
        """What is kept of these requests, by id; those of which nothing is are not in it."""
        return await self._ask(lambda: self._kept(request_ids))

    async def search(self, question: Search) -> list[Found]:
        """Which requests. A text without a word (`has_words`) finds nothing."""
        return await self._ask(lambda: self._search(question))

    # -- in a thread -------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[], T]) -> T:
        await self.settled()
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)

    def _kept(self, request_ids: list[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        left = set(request_ids)

        def look(base: sqlite3.Connection) -> bool:
            for request_id in list(left):
                for [content] in base.execute(_CONTENT, (request_id,)):
                    found[request_id] = unpacked(content)
                    left.discard(request_id)
            return not left

        self._each(look)
        return found

    def _search(self, question: Search) -> list[Found]:
        found: list[Found] = []
        before = None if question.before is None else self._number_of(question.before)

        def look(base: sqlite3.Connection) -> bool:
            found.extend(_matches(base, question, before, question.limit - len(found)))
            return len(found) >= question.limit

        self._each(look, oldest_first=question.follow)
        return found

    def _number_of(self, request_id: str) -> int | None:
        numbers: list[int] = []

        def look(base: sqlite3.Connection) -> bool:
            numbers.extend(n for [n] in base.execute(_NUMBER, (request_id,)))
            return bool(numbers)

        self._each(look)
        return numbers[0] if numbers else None

    def _each(
        self, look: Callable[[sqlite3.Connection], bool], *, oldest_first: bool = False
    ) -> None:
        """Look into the files, one after the other, until `look` has seen enough."""
        for path in segments(self.folder)[:: 1 if oldest_first else -1]:
            try:
                with _reading(path) as base:
                    if base is not None and look(base):
                        return
            except (sqlite3.Error, ValueError) as error:
                if path.exists():
                    name = getattr(error, "sqlite_errorname", type(error).__name__)
                    log.warning("%s cannot be read: %s", path, name)


_CONTENT = "SELECT content FROM records WHERE id = ?"
# Each for itself: asked for at once, SQLite reads them all.
_ENDS = (
    "SELECT (SELECT min(id) FROM records), (SELECT max(id) FROM records), "
    "(SELECT min(seq) FROM records), (SELECT max(seq) FROM records)"
)
_NUMBER = "SELECT seq FROM records WHERE id = ?"


def _matches(
    base: sqlite3.Connection, question: Search, before: int | None, limit: int
) -> list[Found]:
    first = None if question.since is None else _lowest_id(question.since)
    end = None if question.until is None else _lowest_id(question.until)
    lowest, highest, least, most = base.execute(_ENDS).fetchone()
    if lowest is None or (end and lowest >= end) or (first and highest < first):
        return []
    if (before and least >= before) or (question.after and most <= question.after):
        return []
    where: list[str] = ["words MATCH ?"]
    values: list[str | int] = [_match(question.text)]
    for term, value in (
        ("words.rowid < ?", before),
        ("words.rowid > ?", question.after),
        ("id >= ?", first),
        ("id < ?", end),
        ("id < ?", question.before if before is None else None),  # that one has been deleted
    ):
        if value is not None:
            where.append(term)
            values.append(value)
    rows = base.execute(
        "SELECT words.rowid, id FROM words JOIN records ON seq = words.rowid WHERE "
        f"{' AND '.join(where)} ORDER BY words.rowid {'ASC' if question.follow else 'DESC'} "
        "LIMIT ?",
        [*values, limit],
    )
    return [Found(*row) for row in rows]


def no_journal() -> JournalReader:
    """Nothing is kept."""
    return JournalReader(Path("/nonexistent"))


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as base:
        base.execute("PRAGMA wal_autocheckpoint = 0")
        [version] = base.execute("PRAGMA user_version").fetchone()
        yield base if version == VERSION else None


def _match(text: str) -> str:
    """The text as FTS5's phrase: between quotes nothing is syntax, and a zero would end it."""
    quoted = searchable(text).replace("\0", " ").replace('"', '""')
    return f'"{quoted}" *' if has_words(quoted[-1:]) else f'"{quoted}"'


def _lowest_id(seconds: float) -> str:
    """The first id of a request that arrived then."""
    return ulid(max(0, int(seconds * 1000)), bytes(10))
