"""The one thread that writes `ledger.db`: it takes from a queue, and lets go of what is committed.

All commits and checkpoints are on its one connection: SQLite before 3.51.3 can lose commits where a
checkpoint on one connection meets a commit on another (sqlite.org/wal.html#walresetbug).

Rule: what was taken is let go of only when it is committed, or cannot be written even alone. And
little is done between two statements: beside a busy event loop, a thread that has lost the
interpreter's lock waits long to get it back. Rows are made here, in one run before the statements.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct

from gateway.config import Durability, Usage
from gateway.exchange import Exchange, Reservation
from gateway.leash import Pause
from gateway.ports import Clock
from gateway.usage.file import SLICE, LedgerFile, is_environment
from gateway.usage.migrations import LedgerError
from gateway.usage.rows import Row, row_of_held, row_of_lost, rows_of
from gateway.usage.rules import after_crash

log = logging.getLogger("gateway.usage")

BATCH = 2000  # rows in one transaction
BACKOFF = (0.05, 1.0)  # seconds between tries while nothing can be written: first, longest
TEND = 60.0  # seconds between two looks at what is too old


Waiting = tuple[Pause, float]
"""Who waits for a row, and the monotonic second at which that began."""


class Batch(Struct, eq=False):
    """What is to be written: the rows of these, and reservations. `waiting` and `flush` are those
    who are told of it (`ledger.py`): the first after each try, the other when all is written."""

    booked: Sequence[Exchange]
    held: Sequence[Reservation]
    waiting: Sequence[Waiting] = ()
    flush: Future[bool] | None = None

    @property
    def size(self) -> int:
        return len(self.booked) + len(self.held)


Tell = Callable[[bool, Sequence[Batch]], None]


@dataclass(slots=True)
class Figures:
    """What became of rows since the start; failures by SQLite's own name for them."""

    written: int = 0
    batches: int = 0
    poisoned: int = 0  # could not be written even alone
    lost: int = 0  # were not written when the process had to end
    recovered: int = 0  # booked for calls that a crash had left open
    deleted: int = 0  # were too old
    failures: dict[str, int] = field(default_factory=dict)


class Writer:
    """`put` from any thread. `tell` is called in its own thread, after each try to write."""

    def __init__(
        self, path: Path, section: Usage, zone: str, clock: Clock, boot: str, tell: Tell
    ) -> None:
        self.section = section
        self.figures = Figures()
        self._path, self._clock, self._boot, self._tell = path, clock, boot, tell
        self._file = LedgerFile(path, zone, full_sync=section.durability is Durability.POWER)
        self._queue: queue.SimpleQueue[Batch | float] = queue.SimpleQueue()
        self._given = 0  # rows and reservations, ever: counted by who gives them,
        self._gone = 0  # and by the thread
        self._rows: list[Row] = []
        self._held: list[Row] = []
        self._told: list[Batch] = []  # those that are waited for
        self._retry_at: float | None = None  # it cannot be written at present
        self._backoff = BACKOFF[0]
        self._tend_at = 0.0
        self._close_at: float | None = None
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway-ledger", daemon=True)

    # -- from other threads ------------------------------------------------------------------------

    def start(self) -> None:
        """Open the file, bring it up to date, take in what a crash left. Blocking. LedgerError."""
        self._thread.start()
        self._opened.wait()
        if self._error is not None:
            raise self._error

    def put(self, batch: Batch) -> None:
        """Queue it. Never blocks; by one thread only."""
        self._given += batch.size
        self._queue.put(batch)

    @property
    def backlog(self) -> int:
        """What is not committed yet."""
        return self._given - self._gone

    def close(self, within: float) -> None:
        """Write everything and end; what is not written within so many seconds is lost. Blocking,
        a second longer where the disk does not answer."""
        self._queue.put(self._clock.monotonic() + within)
        self._thread.join(within + 1.0)
        if self._thread.is_alive():
            self.figures.lost = self.backlog
        if self.figures.lost:
            log.error("%d rows could not be written to %s", self.figures.lost, self._path)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._file.open(self._clock.now(), first=True)
            self._recover()
        except Exception as error:
            self._error = error if isinstance(error, LedgerError) else self._cannot_open(error)
            self._file.close()
            return
        finally:
            self._opened.set()
        while not self._is_over():
            self._take()
            now = self._clock.monotonic()
            if self._retry_at is None or now >= self._retry_at or self._close_at is not None:
                self._work(now)
        self.figures.lost = len(self._rows)
        self._file.close()

    def _cannot_open(self, error: Exception) -> LedgerError:
        return LedgerError(f"{self._path} cannot be used: {_words(error)}")

    def _recover(self) -> None:
        """Book the calls that another process left open. `data/lock` says that it is dead."""
        found = self._file.left_open(self._boot)
        for held in found:
            self._rows.append(row_of_lost(held, *after_crash(self.section.after_crash, held)))
        self._given = self.figures.recovered = len(found)
        if found:
            log.warning("%d calls were open when the gateway died; booked as estimates", len(found))

    def _is_over(self) -> bool:
        if self._close_at is None or not self._queue.empty():
            return False
        return not (self._rows or self._held) or self._clock.monotonic() >= self._close_at

    # -- taking ------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Wait for something to do; take all that is there."""
        timeout, waiting = self._patience(), self._queue
        try:
            self._keep(waiting.get(timeout=timeout) if timeout > 0 else waiting.get_nowait())
            while not waiting.empty():  # nobody else takes from it
                self._keep(waiting.get_nowait())
        except queue.Empty:
            return

    def _patience(self) -> float:
        """Seconds until there is something to do although nothing comes."""
        now = self._clock.monotonic()
        if self._retry_at is not None:
            wait = self._retry_at - now
            return wait if self._close_at is None else min(wait, BACKOFF[0])
        if self._rows or self._held or self._told or self._close_at is not None:
            return 0.0
        return self._tend_at - now

    def _keep(self, batch: Batch | float) -> None:
        if not isinstance(batch, Batch):
            self._close_at = batch
            return
        try:
            rows = rows_of(batch.booked)
        except Exception:  # a fault of ours in one of them must not take the others along
            rows = [row for one in batch.booked for row in self._row_of(one)]
        self._gone += len(batch.booked) - len(rows)
        self._rows += rows
        for reservation in batch.held:
            self._held.append(row_of_held(reservation, self._boot))
        if batch.waiting or batch.flush is not None:
            self._told.append(batch)

    def _row_of(self, exchange: Exchange) -> list[Row]:
        try:
            return rows_of([exchange])
        except Exception:
            log.exception("%s cannot be booked", exchange.id)
            self.figures.poisoned += 1
            return []

    # -- writing -----------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        """Write one batch, else look after what is too old."""
        try:
            if not self._file.is_open:
                self._file.open(self._clock.now())
            if self._rows or self._held or self._told:
                self._write_batch()
            if now >= self._tend_at and self._close_at is None:
                self._tend(now)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        else:
            self._retry_at, self._backoff = None, BACKOFF[0]

    def _write_batch(self) -> None:
        rows, held = self._rows[:BATCH], self._held[:BATCH]
        if rows or held:
            self._insert(rows, held)
            del self._rows[:BATCH], self._held[:BATCH]
            self._gone += len(rows) + len(held)
            self.figures.batches += 1
        if not (self._rows or self._held) and (self._told or self._retry_at is not None):
            told, self._told = self._told, []
            self._tell(True, told)

    def _insert(self, rows: Sequence[Row], held: Sequence[Row]) -> None:
        """Commit all of it; in halves, where some of it can never be written."""
        try:
            self._file.insert(rows, held)
            self.figures.written += len(rows)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if is_environment(error):
                raise
            if len(rows) + len(held) == 1:
                self.figures.poisoned += 1
                log.error("%s cannot be booked: %s", (rows or held)[0][0], _words(error))
            elif rows and held:
                self._insert([], held)
                self._insert(rows, [])
            else:
                middle = (len(rows) + len(held)) // 2
                self._insert(rows[:middle], held[:middle])
                self._insert(rows[middle:], held[middle:])

    def _failed(self, error: Exception) -> None:
        """Say so once, let nobody wait, try again later; with a new connection, if it may help."""
        name = str(getattr(error, "sqlite_errorname", type(error).__name__))
        if self._retry_at is None:
            log.error("rows wait: %s cannot be written: %s", self._path, _words(error))
        self.figures.failures[name] = self.figures.failures.get(name, 0) + 1
        if not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
            self._file.close()
        self._retry_at = self._clock.monotonic() + self._backoff
        self._backoff = min(BACKOFF[1], self._backoff * 2)
        told, self._told = self._told, [one for one in self._told if one.flush is not None]
        self._tell(False, told)

    def _tend(self, now: float) -> None:
        """Let go of what is too old, some rows at a time: rows to be written come between."""
        wall, deleted = self._clock.now(), 0
        self._file.end_leases(self._boot, wall)
        if self.section.keep is not None:
            deleted = self._file.delete_before(wall - self.section.keep)
            self.figures.deleted += deleted
            if deleted < SLICE:
                deleted = self._file.delete_places_before(wall - self.section.keep)
        if deleted < SLICE:
            self._tend_at = now + TEND
            if self._file.calendar_ends(wall):
                self._file.keep_calendar(wall)


def _words(error: BaseException) -> str:
    return f"{getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}"
