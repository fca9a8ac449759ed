"""The one thread that changes the cache on disk: stores in batches, purges, what has expired.

Rules: it outlives whatever the disk does; each failure is counted by a word; nothing here runs on
the loop's thread but `start`, `put_store`, `order` and `stop`, and these only queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from msgspec import Struct

from gateway.cache import folder as folders
from gateway.cache.codec import decode, decode_labels, encode, encode_labels
from gateway.cache.presence import Presence
from gateway.cache.table import CORRUPT, ERRORS, Row, Table, word_for
from gateway.entry import Entry
from gateway.ports import Clock

LINGER = 0.1  # seconds that a store waits for others to be written with
BATCH = 256  # stores in one transaction
TICK = 1.0  # seconds between two looks at what has expired
BUSY = 0.01  # seconds between two steps of tidying
TRIES = 5  # of a write that finds the database locked; each waits for the lock
REOPEN = 10.0  # seconds between two tries to open
REBUILD = 60.0  # seconds between two rebuilds

T = TypeVar("T")
log = logging.getLogger("gateway.cache")


class Put(Struct, frozen=True, gc=False):
    """A store on its way; `size` in bytes."""

    key: bytes
    entry: Entry
    size: int


@dataclass(slots=True)
class _Job:
    """Something else to do, in its turn: after all that was stored before it."""

    work: Callable[[Table], Any]
    tries: int
    future: Future[Any] = field(default_factory=Future)


class _Stop:
    """The last of the queue."""


class Writer:
    """The thread and its database. What has no underscore may be read by any thread; the counters'
    words are fixed, so that they may be copied at any time."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        limit: int,
        settled: Callable[[list[Put], float | None], None],
    ) -> None:
        """`limit` in bytes, of all files. `settled` is called on the loop's thread with what was
        taken from the queue, and the seconds that its transaction took; None: it is not on disk.
        Opens nothing."""
        self.table: Table | None = None
        self.state = "closed"
        self.limit = limit
        self.written = self.entries = self.size = self.rebuilt = 0
        self.oldest: float | None = None
        self.errors = dict.fromkeys(ERRORS, 0)
        self.dropped = dict.fromkeys((*ERRORS, "unavailable"), 0)
        self.evictions = {"size": 0, "expired": 0, "purged": 0, "refused": 0}
        self.presence = Presence()
        self.opened, self.ended = asyncio.Event(), asyncio.Event()
        self._folder, self._clock, self._settled = folder.absolute(), clock, settled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: SimpleQueue[Put | _Job | _Stop] = SimpleQueue()
        self._hurry = threading.Event()
        self._next_open = self._next_rebuild = self._next_tidy = 0.0
        self._swept_to: int | None = None
        self._version = 0

    # On the loop's thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; `opened` is set when it has tried to open the database."""
        self._loop = asyncio.get_running_loop()
        self.state = "opening"
        threading.Thread(target=self._run, name="cache-writer", daemon=True).start()

    def stop(self) -> None:
        """End after what is queued; then `ended` is set."""
        self._queue.put(_Stop())
        self._hurry.set()

    def put_store(self, put: Put) -> None:
        """Queue a store. The bounds are the caller's."""
        self._queue.put(put)
        if self._queue.qsize() == BATCH:
            self._hurry.set()

    def order(self, work: Callable[[Table], T], tries: int = 1) -> Future[T]:
        """Queue other work, `tries` times where the database is locked; its result."""
        job = _Job(work, tries)
        if self.state == "closed":
            job.future.set_exception(OSError("it is closed"))
        else:
            self._queue.put(job)
            self._hurry.set()
        return job.future

    # In the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        self._open()
        self._tell(self.opened.set)
        wait = TICK
        while True:
            puts, order = self._collect(wait)
            if self.table is None and self._clock.monotonic() >= self._next_open:
                self._open()
            self._guarded(self._notice)
            if puts:
                self._tell(self._settled, puts, self._guarded(self._write, puts))
            if isinstance(order, _Job):
                self._obey(order)
            elif isinstance(order, _Stop):
                break
            if not puts or self._clock.monotonic() >= self._next_tidy:
                wait = BUSY if self._guarded(self._tidy, not puts) is True else TICK
                self._next_tidy = self._clock.monotonic() + wait
        self.state = "closed"
        if self.table is not None:
            self._guarded(self.table.close)
        self._drain()
        self._tell(self.ended.set)

    def _collect(self, wait: float) -> tuple[list[Put], _Job | _Stop | None]:
        """Wait for something, and take the stores up to the next order or a full batch."""
        puts: list[Put] = []
        try:
            item = self._queue.get(timeout=wait)
            if isinstance(item, Put) and self._queue.qsize() < BATCH:
                self._hurry.wait(LINGER)
            self._hurry.clear()
            size = 0
            while isinstance(item, Put):
                puts.append(item)
                size += item.size
                if len(puts) >= BATCH or size >= max(64 * 1024, self.limit // 64):
                    return puts, None
                item = self._queue.get_nowait()
        except Empty:
            return puts, None
        return puts, item

    def _open(self) -> None:
        """Open the database, in the place of a broken one if need be."""
        for _ in range(2):
            try:
                for warning in folders.prepare(self._folder):
                    log.warning("cache: %s", warning)
                table = Table(self._folder, self.limit)
                table.resize(self.limit)
                self._measure(table)
                self._version = table.version()
                self.presence.begin(self.entries)
            except Exception as error:
                word = word_for(error)
                self.errors[word] += 1
                self.state = "unavailable"
                self._next_open = self._clock.monotonic() + REOPEN
                log.error("cache: %s cannot be opened (%s): %s", self._folder, word, error)
                if word != CORRUPT or not self._set_aside():
                    return
            else:
                self.table, self.state, self._swept_to = table, "open", -(2**63)
                log.info("cache: %s: %d answers, %d of %d bytes",
                         self._folder, self.entries, self.size, self.limit)  # fmt: skip
                return

    def _set_aside(self) -> bool:
        try:
            aside = folders.set_aside(self._folder, self._clock.now())
        except OSError as error:
            log.error("cache: %s cannot be moved aside: %s", self._folder, error)
            return False
        self.rebuilt += 1
        log.error("cache: %s was broken and is now %s; a new one is made", self._folder, aside)
        return True

    def rebuild(self, error: BaseException) -> None:
        """The database breaks while it is used: begin anew, at most once a minute."""
        now = self._clock.monotonic()
        if self.table is None or now < self._next_rebuild:
            return
        self._next_rebuild = now + REBUILD
        log.error("cache: %s is broken: %s", self._folder, error)
        table, self.table, self.state = self.table, None, "unavailable"
        with contextlib.suppress(Exception):
            table.close()
        if self._set_aside():
            self._open()

    def _notice(self) -> None:
        """What another process wrote is not in the filter: it is built anew."""
        if self.table is not None and (version := self.table.version()) != self._version:
            self._version = version
            self.presence.begin(self.entries)

    def _write(self, puts: list[Put]) -> float | None:
        table, now = self.table, self._clock.now()
        rows = self._rows(puts, now)
        if table is None:
            self.dropped["unavailable"] += len(rows)
            return None
        self.presence.add([row.key for row in rows])
        need = sum([len(row.data) for row in rows])
        for attempt in range(TRIES):
            try:
                began = self._clock.monotonic()
                self.evictions["size"] += table.make_room(need)
                table.write(rows, now)
            except Exception as error:
                word = word_for(error)
                self.errors[word] += 1
                self._guarded(table.recover)
                if word == "locked" and attempt + 1 < TRIES:
                    continue
                self.dropped[word] += len(rows)
                if word == CORRUPT:
                    self.rebuild(error)
                return None
            self.written += len(rows)
            return self._clock.monotonic() - began
        return None

    def _rows(self, puts: list[Put], now: float) -> list[Row]:
        """What is to be written; of several for one key the last."""
        rows = []
        for key, entry in {put.key: put.entry for put in puts}.items():
            if (expires := entry.expires) <= now:
                continue
            try:
                rows.append(Row(key, encode(entry, key), encode_labels(entry), expires))
            except Exception:  # a usage object with a number beyond 64 bits: memory keeps it
                self.dropped["encode"] += 1
        return rows

    def _obey(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        for attempt in range(job.tries):
            if self.table is None:
                job.future.set_exception(OSError(f"{self._folder} is not open"))
                return
            try:
                result = job.work(self.table)
                self._measure(self.table)
            except Exception as error:
                word = word_for(error)
                self.errors[word] += 1
                self._guarded(self.table.recover)
                if word == CORRUPT:
                    self.rebuild(error)  # what was to be purged is gone with the rest
                if attempt + 1 == job.tries or word not in ("locked", CORRUPT):
                    job.future.set_exception(error)
                    return
            else:
                job.future.set_result(result)
                return

    def remove_bad(self, table: Table, key: bytes) -> None:
        """Delete a row that is not ours, unless a good one has come in its place."""
        try:
            found = table.read(key)
            if found is None or decode_labels(found[1]) == decode(found[0], key).labels:
                return
        except Exception as error:
            if word_for(error) not in ("refused", "digest"):
                raise
        self.evictions["refused"] += table.remove([key])

    def _tidy(self, idle: bool) -> bool:
        """One step of what nobody waits for; True while there is more to do."""
        table = self.table
        if table is None:
            return False
        expired = table.expire_some(self._clock.now())
        self.evictions["expired"] += expired
        more = expired > 0
        if idle and self._swept_to is not None:
            if self._swept_to < -(2**62):
                folders.sweep_orphans(self._folder)
            planted, self._swept_to = table.remove_planted(self._swept_to)
            self.evictions["refused"] += planted
            more = True
        elif idle and not more:
            more = table.vacuum_some()
        self._measure(table)
        return self.presence.step(table, self.entries) or more

    def _measure(self, table: Table) -> None:
        self.entries, self.oldest = len(table), table.oldest()
        self.size = folders.size_of(self._folder)

    def _guarded(self, work: Callable[..., T], *args: Any) -> T | None:
        """The thread outlives whatever happens."""
        try:
            return work(*args)
        except Exception as error:
            word = word_for(error)
            self.errors[word] += 1
            if word == CORRUPT:
                self.rebuild(error)
            return None

    def _drain(self) -> None:
        """What was ordered after the end."""
        with contextlib.suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, _Job) and item.future.set_running_or_notify_cancel():
                    item.future.set_exception(OSError("it is closed"))

    def _tell(self, what: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended before us
            self._loop.call_soon_threadsafe(what, *args)
