"""`ledger.db` as its writer has it open: rows in, nothing out. Used by one thread alone.

Few statements write a batch, and one adds up its sums: beside a busy event loop each statement more
waits for the interpreter's lock. Values are bound, not read from JSON: that cost 25 us a row.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.exchange import Reservation, ulid
from gateway.usage import calendar
from gateway.usage.columns import FOUND_BY, HELD, SERIES
from gateway.usage.migrations import (
    FIGURES,
    PART,
    migrate,
    refuse_newer,
    version_of,
)
from gateway.usage.rows import Row, flat
from gateway.usage.statements import FORMS, NAMES, OF_ONE_KIND, RESERVATION, Form, sorted_by_form
from gateway.usage.sums import prepare

BUSY = 250  # milliseconds that SQLite waits for a lock, before it is tried again
FIRST_BUSY = 5000  # at the start, which is tried once
SLICE = 500  # rows deleted at once: a few ms in which no row is written
VACUUM = 200  # pages given back to the disk after each
WAL_LIMIT = 64 * 1024 * 1024  # bytes that an emptied log may keep
BEHIND = timedelta(days=2500)  # days of the calendar before the file was made, and ahead
AHEAD = timedelta(days=1100)

# The file's fault, or the disk's; everything else is a row's own.
ENVIRONMENT = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_NOLFS),
    }
)

SIZES = (256, 64, 16, 4, 1)  # rows in one statement: few forms of it, each compiled once
KNOWN, PARTS = 4000, 100  # series that are remembered, and beginnings of ids
ADD_UP = "INSERT INTO newest VALUES (?)"


# From name to name, since all that is old of one stands together.
EMPTY_PLACES = (
    "DELETE FROM places WHERE (what, name, part) IN (WITH RECURSIVE names (name) AS ("
    "SELECT min(name) FROM places WHERE what = ?1 UNION ALL SELECT (SELECT min(p.name) FROM "
    "places p WHERE p.what = ?1 AND p.name > names.name) FROM names WHERE name IS NOT NULL) "
    "SELECT what, places.name, part FROM names CROSS JOIN places "
    "ON what = ?1 AND places.name = names.name AND part < ?2 LIMIT ?3)"
)


class LedgerFile:
    """The open file. Its methods raise sqlite3.Error and OSError as they come."""

    def __init__(self, path: Path, zone: str, *, full_sync: bool) -> None:
        self._path, self._full_sync = path, full_sync
        self._zone_name, self._zone = zone, ZoneInfo(zone)
        self._db: sqlite3.Connection | None = None
        # Known to be in the file: series of names, those with rows in a place, and reservations
        # without a row.
        self._series: dict[tuple[Any, ...], int] = {}
        self._known: defaultdict[str, dict[tuple[Any, ...], int]] = defaultdict(dict)
        self._open: set[Any] = set()

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def open(self, now: float, *, first: bool = False) -> None:
        """Open it, or make it (0600), and bring it to the form of today. LedgerError."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._execute(f"PRAGMA busy_timeout = {FIRST_BUSY if first else BUSY}")
        version = version_of(self._db)
        refuse_newer(version, self._path)  # before anything is written
        if version == 0:
            self._execute("PRAGMA auto_vacuum = INCREMENTAL")  # heard only while it is empty
        self._execute("PRAGMA journal_mode = WAL")
        self._execute(f"PRAGMA synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
        self._execute("PRAGMA temp_store = MEMORY")
        self._execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        self._execute("PRAGMA mmap_size = 0")
        migrate(self._db, self._path)
        prepare(self._db)
        self.keep_calendar(now)
        self._execute(f"PRAGMA busy_timeout = {BUSY}")

    def close(self) -> None:
        """Let go of it. Idempotent; what is committed stays."""
        if self._db is not None:
            try:
                self._db.close()
            finally:
                self._db = None

    # -- rows --------------------------------------------------------------------------------------

    def insert(self, rows: Sequence[Row], held: Sequence[Row]) -> None:
        """Commit rows, what they add to the sums, and reservations, all or none; those that are
        there already stay as they are, and add nothing."""
        formed, kinds = sorted_by_form(rows)
        settled = self._open.intersection(row[0] for row in rows) if self._open else ()
        try:
            self._execute("BEGIN IMMEDIATE")
            self._write(RESERVATION, held)
            fresh = 0
            for size, alike in formed.items():
                form = FORMS[size]
                fresh += self._write(form, self._with_series(form, alike))
            for alike in kinds:
                shared = self._shared(alike)
                fresh += self._write(OF_ONE_KIND, [row[:-1] for row in alike], shared)
            if fresh:
                self._execute(ADD_UP, (fresh,))
            if settled:
                self._settle(settled)
            self._execute("COMMIT")
        except BaseException:
            self._forget()  # what this batch has learnt is not there
            self._roll_back()
            raise
        self._open.update(row[0] for row in held)
        self._open.difference_update(settled)
        if len(self._known) > PARTS or len(self._series) > KNOWN:
            self._forget()

    def _with_series(self, form: Form, rows: Sequence[Row]) -> list[Row]:
        """Rows as they are bound; where they can be found is written down."""
        made, part, known = [], "", self._known[""]
        for row, named in zip(rows, map(form.named, rows), strict=True):
            if (begins := str(row[0])[:PART]) != part:
                part, known = begins, self._known[begins]
            made.append((*row, known.get(named) or self._learn(part, named, form)))
        return made

    def _shared(self, rows: Sequence[Row]) -> Row:
        """What rows of one kind share; where they can be found is written down."""
        named, series = OF_ONE_KIND.named(flat(rows[0])), 0
        for part in {str(row[0])[:PART] for row in rows}:
            series = self._known[part].get(named) or self._learn(part, named, OF_ONE_KIND)
        return *rows[0][-1], series

    def _learn(self, part: str, named: tuple[Any, ...], form: Form) -> int:
        """The number of these names' series; from now on rows of them are found in this place."""
        given = dict.fromkeys(NAMES, 0) | dict(zip(form.names, named, strict=True))
        places = [(w, given[w], part) for w in FOUND_BY if isinstance(given[w], str)]
        self._execute(
            "INSERT INTO places SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) "
            "WHERE true ON CONFLICT DO NOTHING",
            (msgspec.json.encode(places).decode(),),
        )
        series = self._series.get(named) or self._number(given)
        self._series[named] = self._known[part][named] = series
        return series

    def _number(self, given: Mapping[str, Any]) -> int:
        """The series of these names. A request that no upstream was chosen for counts under no
        model: its name is anybody's guess, and sums are kept for ever."""
        nowhere = not isinstance(given["upstream"], str)
        values = ["" if nowhere and name == "model" else given[name] or "" for name in SERIES]
        self._execute(
            f"INSERT INTO series ({', '.join(SERIES)}) VALUES ({', '.join('?' * len(SERIES))}) "
            "ON CONFLICT DO NOTHING",
            values,
        )
        found = f"SELECT id FROM series WHERE {' AND '.join(f'{name} = ?' for name in SERIES)}"
        return int(self._execute(found, values).fetchone()[0])

    def _forget(self) -> None:
        """What was learnt of the file."""
        self._known.clear()
        self._series.clear()

    def _settle(self, ids: Iterable[str]) -> None:
        """Their rows are there."""
        self._execute(
            "DELETE FROM reservations WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(list(ids)).decode(),),
        )

    def _write(self, form: Form, rows: Sequence[Row], shared: Row = ()) -> int:
        """How many of them are new."""
        fresh = at = 0
        for size in SIZES:
            while at + size <= len(rows):
                values = list(chain(chain.from_iterable(rows[at : at + size]), shared))
                fresh += self._execute(form.insert(size), values).rowcount
                at += size
        return fresh

    def left_open(self, boot: str) -> list[Reservation]:
        """Reservations of other processes than `boot`."""
        found = self._execute(
            f"SELECT {', '.join(HELD)} FROM reservations WHERE boot != ?", (boot,)
        )
        left = [reservation(values) for values in found.fetchall()]
        self._open.update(one.id for one in left)
        return left

    # -- what is too old ---------------------------------------------------------------------------

    def end_leases(self, boot: str, now: float) -> None:
        """Forget reservations of our own whose time is over: their rows come by themselves."""
        self._execute(
            "DELETE FROM reservations WHERE boot = ? AND until < ?", (boot, int(now * 1000))
        )

    def delete_before(self, then: float) -> int:
        """Delete some of the rows that arrived before `then`; SLICE of them: there may be more."""
        oldest = ulid(max(0, int(then * 1000)), bytes(10))
        deleted = self._execute(
            "DELETE FROM requests WHERE seq IN "
            "(SELECT seq FROM requests WHERE id < ? ORDER BY id LIMIT ?)",
            (oldest, SLICE),
        ).rowcount
        if deleted:
            self._execute(f"PRAGMA incremental_vacuum({VACUUM})").fetchall()
        return deleted

    def delete_places_before(self, then: float) -> int:
        """Delete some of those whose rows are gone; SLICE of a kind: there may be more."""
        oldest = ulid(max(0, int(then * 1000)), bytes(10))
        return max(
            self._execute(EMPTY_PLACES, (what, oldest[:PART], SLICE)).rowcount for what in FOUND_BY
        )

    # -- days --------------------------------------------------------------------------------------

    def calendar_ends(self, now: float) -> bool:
        """Half of the days ahead are used up."""
        soon = calendar.start_of(calendar.day_at(now, self._zone) + AHEAD / 2, self._zone)
        [last] = self._execute("SELECT max(first) FROM calendar").fetchone()
        return bool(last < soon)

    def keep_calendar(self, now: float) -> None:
        """Write down where the days ahead begin, by the time zone data of today; and all days,
        with their sums, where these were kept in another zone."""
        today = calendar.day_at(now, self._zone)
        known = self._execute("SELECT value FROM meta WHERE name = 'timezone'").fetchone()
        same = known is not None and known[0] == self._zone_name
        since = today if same else today - BEHIND
        days = list(calendar.starts(since, today + AHEAD, self._zone))
        self._execute("BEGIN IMMEDIATE")
        try:
            self._execute("DELETE FROM calendar WHERE first >= ?", (days[0] if same else 0,))
            self._execute(
                "INSERT INTO calendar (first) SELECT value FROM json_each(?)",
                (msgspec.json.encode(days).decode(),),
            )
            if not same:
                self._rebuild_days()
            self._execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _rebuild_days(self) -> None:
        sums = ", ".join(f"sum({name})" for name in FIGURES)
        self._execute("DELETE FROM days")
        self._execute(
            "INSERT INTO days SELECT ifnull((SELECT max(first) FROM calendar WHERE first <= "
            f"quarter), quarter / 96 * 96), series, {sums} FROM quarters WHERE true GROUP BY 1, 2"
        )
        self._execute(
            "INSERT INTO meta VALUES ('timezone', ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (self._zone_name,),
        )

    # -- within ------------------------------------------------------------------------------------

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        assert self._db is not None, "it is not open"
        return self._db.execute(statement, values)

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            try:
                self._execute("ROLLBACK")
            except sqlite3.Error:
                self.close()


def is_environment(error: BaseException) -> bool:
    """The file or the disk failed; else it was what was written."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, OSError) or (code is not None and code & 0xFF in ENVIRONMENT)


def reservation(values: Sequence[Any]) -> Reservation:
    """The reservation of a row in HELD's order."""
    given = dict(zip(HELD, values, strict=True))
    del given["boot"]
    return Reservation(**given | {"at": given["at"] / 1000, "until": given["until"] / 1000})
