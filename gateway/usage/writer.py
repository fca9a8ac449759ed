"""The one thread that writes `ledger.db`: it takes from a queue, and lets go of what is committed.

All commits and checkpoints are on its one connection: SQLite before 3.51.3 can lose commits where a
checkpoint on one connection meets a commit on another (sqlite.org/wal.html#walresetbug).

Rule: what was taken is let go of only when it is committed, or cannot be written even alone. And
little is done between two statements: beside a busy event loop, a thread that has lost the
interpreter's lock waits long to get it back.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from msgspec import Struct

from gateway.config import Durability, Usage
from gateway.ports import Clock
from gateway.usage.file import SLICE, LedgerFile, is_environment
from gateway.usage.migrations import LedgerError
from gateway.usage.rows import Row, row_of_lost
from gateway.usage.rules import after_crash

log = logging.getLogger("gateway.usage")

BATCH = 2000  # rows in one statement
LINGER = 0.05  # seconds that rows may gather that nobody waits for
BACKOFF = (0.05, 1.0)  # seconds between tries while nothing can be written: first, longest
TEND = 60.0  # seconds between two looks at what is too old

Done = Callable[[bool], None]
"""Hears once whether what it waits for is on the disk."""

Tell = Callable[[bool, Sequence[Done]], None]


class Item(Struct, gc=False):
    """Something to be written; `row` None: all that came before it. `done` None: nobody waits.
    `held`: a reservation."""

    id: str
    row: Row | None
    done: Done | None = None
    held: bool = False
    number: int = 0  # in the order in which they were taken


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
        self._queue: queue.SimpleQueue[Item | float] = queue.SimpleQueue()
        self._rows: dict[str, Item] = {}
        self._held: dict[str, Item] = {}
        self._flushes: list[tuple[int, Done]] = []
        self._taken = 0
        self._awaited = False  # somebody waits for what was taken
        self._retry_at: float | None = None  # it cannot be written at present
        self._backoff = BACKOFF[0]
        self._tend_at = 0.0
        self._close_at: float | None = None
        self._hurry = threading.Event()  # somebody waits
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

    def put(self, item: Item) -> None:
        """Queue it. Never blocks."""
        self._queue.put(item)
        if item.done is not None:
            self._hurry.set()

    @property
    def backlog(self) -> int:
        """What is not committed yet."""
        return self._queue.qsize() + len(self._rows) + len(self._held)

    def close(self, within: float) -> None:
        """Write everything and end; what is not written within so many seconds is lost. Blocking,
        a second longer where the disk does not answer."""
        self._queue.put(self._clock.monotonic() + within)
        self._hurry.set()
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
            self._gather()
            now = self._clock.monotonic()
            if self._retry_at is None or now >= self._retry_at or self._close_at is not None:
                self._work(now)
            self._answer_flushes()
        self.figures.lost = len(self._rows)
        self._file.close()

    def _cannot_open(self, error: Exception) -> LedgerError:
        return LedgerError(f"{self._path} cannot be used: {_words(error)}")

    def _recover(self) -> None:
        """Book the calls that another process left open. `data/lock` says that it is dead."""
        found = self._file.left_open(self._boot)
        for held in found:
            row = row_of_lost(held, *after_crash(self.section.after_crash, held))
            self._keep(Item(held.id, row))
        self.figures.recovered = len(found)
        if found:
            log.warning("%d calls were open when the gateway died; booked as estimates", len(found))

    def _is_over(self) -> bool:
        if self._close_at is None or not self._queue.empty():
            return False
        return not (self._rows or self._held) or self._clock.monotonic() >= self._close_at

    # -- taking ------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Wait for something to do; take all that is there, and a moment longer where nobody
        waits."""
        self._hurry.clear()
        self._take(self._patience())
        self._take_rest()
        if self._may_linger():
            # Asleep until the time is over or somebody waits, not awake for each row: every waking
            # takes a turn from the event loop.
            self._hurry.wait(LINGER)
            self._take_rest()

    def _take_rest(self) -> None:
        take, keep = self._queue.get_nowait, self._keep
        for _ in range(self._queue.qsize()):  # nobody else takes from it
            keep(take())

    def _may_linger(self) -> bool:
        busy = self._awaited or self._flushes or self._retry_at or self._close_at
        return not busy and 0 < len(self._rows) + len(self._held) < BATCH

    def _patience(self) -> float:
        """Seconds until there is something to do although nothing comes."""
        now = self._clock.monotonic()
        if self._retry_at is not None:
            wait = self._retry_at - now
            return wait if self._close_at is None else min(wait, BACKOFF[0])
        if self._rows or self._held or self._close_at is not None:
            return 0.0
        return self._tend_at - now

    def _take(self, timeout: float) -> bool:
        """Take one, if one comes within so many seconds."""
        try:
            item = self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
        except queue.Empty:
            return False
        self._keep(item)
        return True

    def _keep(self, item: Item | float) -> None:
        if not isinstance(item, Item):
            self._close_at = item
            return
        self._taken += 1
        item.number = self._taken
        if item.held:
            if item.id not in self._rows:
                self._held[item.id] = item
            return
        self._awaited |= item.done is not None
        if item.row is not None and item.id not in self._rows:
            self._held.pop(item.id, None)  # settled before it was written
            self._rows[item.id] = item
        elif item.done is not None:  # a row that is given twice is written once
            self._flushes.append((item.number, item.done))

    # -- writing -----------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        """Write one batch, else look after what is too old."""
        try:
            if not self._file.is_open:
                self._file.open(self._clock.now())
            if self._rows or self._held:
                self._write_batch()
            if now >= self._tend_at and self._close_at is None:
                self._tend(now)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        else:
            self._retry_at, self._backoff = None, BACKOFF[0]

    def _write_batch(self) -> None:
        rows = list(islice(self._rows.items(), BATCH))
        held = list(islice(self._held.items(), BATCH))
        self._insert(rows, held)
        for name, _ in rows:
            del self._rows[name]
        for name, _ in held:
            del self._held[name]
        self._awaited = False
        self.figures.batches += 1
        self._tell(True, [kept.done for _, kept in rows if kept.done is not None])

    def _insert(self, rows: list[tuple[str, Item]], held: list[tuple[str, Item]]) -> None:
        """Commit all of it; in halves, where some of it can never be written."""
        try:
            self._file.insert(_rows_of(rows), _rows_of(held))
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
        told = []
        for kept in self._rows.values():
            if kept.done is not None:
                told.append(kept.done)
                kept.done = None
        self._awaited = False
        self._tell(False, told)

    def _answer_flushes(self) -> None:
        if self._flushes:
            oldest = min(
                (next(iter(kept.values())).number for kept in (self._rows, self._held) if kept),
                default=self._taken + 1,
            )
            told = [done for number, done in self._flushes if number < oldest]
            self._flushes = [one for one in self._flushes if one[0] >= oldest]
            self._tell(True, told)

    def _tend(self, now: float) -> None:
        """Let go of what is too old, some rows at a time: rows to be written come between."""
        wall, deleted = self._clock.now(), 0
        self._file.end_leases(self._boot, wall)
        if self.section.keep is not None:
            deleted = self._file.delete_before(wall - self.section.keep)
            self.figures.deleted += deleted
        if deleted < SLICE:
            self._tend_at = now + TEND
            if self._file.calendar_ends(wall):
                self._file.keep_calendar(wall)


def _rows_of(items: list[tuple[str, Item]]) -> list[Row]:
    return [item.row for _, item in items if item.row is not None]


def _words(error: BaseException) -> str:
    return f"{getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}"
