"""The journal: bodies and headers of requests, written by one thread from a bounded queue.

Rule: nothing of it is waited for, and no fault of its disk is a request's. What does not fit is
left out and counted: bodies first, then records (requirement G2). What was taken from the queue is
let go of only when it is committed, or cannot be written even alone (G1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config import Journal as Section
from gateway.exchange import Caller
from gateway.journal.capture import NOT_KEPT, QUEUE_FULL, Recorder, is_kept
from gateway.journal.redact import Blot, Redactor
from gateway.journal.segments import PARTS, Segments, began, is_environment, segments, size_of
from gateway.journal.shape import Captured, Record, record_of
from gateway.ports import Ask, Capture, Clock

FOLDER = "journal"
BATCH = 64  # records in one statement
BATCH_BYTES = 4 * 1024 * 1024  # of what was captured
LINGER = 0.2  # seconds that records may gather
BACKOFF = (0.1, 5.0)  # seconds between tries while nothing can be written: first, longest
TEND = 15.0  # seconds between two looks at what is too old
FLUSH = 10.0  # seconds for everything to be written, at the end

log = logging.getLogger("gateway.journal")


@dataclass(slots=True)
class Figures:
    """What became of records since the start, and the files' bytes. `without_bodies` are among
    those that were put; failures by SQLite's own name for them."""

    written: int = 0
    without_bodies: int = 0
    dropped: int = 0
    failed: int = 0
    deleted: int = 0  # files
    size: int = 0
    files: int = 0
    failures: dict[str, int] = field(default_factory=dict)


class _Mark:
    """In the queue: `done` is called when all that came before is written."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done


class Keeper:
    """The `Journal` port. `secrets` are texts that are never kept, `blot` takes out issued keys."""

    def __init__(
        self, data: Path, section: Section, clock: Clock, secrets: Sequence[str], blot: Blot
    ) -> None:
        self.figures = Figures()
        self._folder, self._clock, self._blot = data / FOLDER, clock, blot
        self._segments = Segments(self._folder)
        self._queue: queue.SimpleQueue[Captured | _Mark] = queue.SimpleQueue()
        self._taken = self._given = 0  # bytes: one counted by the loop, one by the thread
        self._batch: list[Captured] = []
        self._mark: _Mark | None = None
        self._stop_at: float | None = None  # monotonic; what is not written by then is lost
        self._retry_at: float | None = None
        self._backoff = BACKOFF[0]
        self._tend_at = 0.0
        self._sick = False  # the last try to write failed
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-journal", daemon=True)
        self.reconfigure(section, secrets)

    # -- on the loop's thread ----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. Files are opened by it, when there is something to write."""
        self._thread.start()

    def reconfigure(self, section: Section, secrets: Sequence[str]) -> None:
        """Take a new `journal` section, from the next request on."""
        self._section = section
        self._redactor = Redactor(section.redact, secrets, self._blot)

    def keeps(self, caller: Caller, model: str | None) -> bool:
        """The `Journal` port; a header may still say no."""
        return is_kept(self._section, caller, model, None)

    def capture(self, ask: Ask, caller: Caller, model: str | None, body: bytes | None) -> Capture:
        """The `Journal` port."""
        section = self._section
        if not is_kept(section, caller, model, ask.header("x-gateway-log")):
            return NOT_KEPT
        return Recorder(self, ask, caller, body, section.max_body)

    def take(self, size: int) -> bool:
        """Have room for so many bytes more."""
        if self.held + size > self._section.queue.bytes:
            return False
        self._taken += size
        return True

    def put(self, captured: Captured) -> None:
        """Queue what was captured of a request."""
        if QUEUE_FULL in (captured.request.left, captured.response.left):
            self.figures.without_bodies += 1
        if self.waiting >= self._section.queue.records:
            self._taken -= captured.held
            self.figures.dropped += 1
            return
        self._queue.put(captured)

    @property
    def held(self) -> int:
        """Bytes of bodies in memory: of open requests, and of those that wait to be written."""
        return self._taken - self._given

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return self._queue.qsize() + len(self._batch)

    async def flush(self, within: float) -> bool:
        """Wait until all that was put is on the disk; False: it is not, after so many seconds."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()

        def settle() -> None:
            if not waiting.done():
                waiting.set_result(None)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(settle)

        self._queue.put(_Mark(tell))
        self._hurry.set()
        try:
            async with asyncio.timeout(within):
                await waiting
        except TimeoutError:
            return False
        return True

    async def close(self, within: float = FLUSH) -> None:
        """Write everything that waits, within so many seconds."""
        self._stop_at = self._clock.monotonic() + within
        self._queue.put(_Mark(lambda: None))  # wakes it
        self._hurry.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, within + 1.0)
        if self._thread.is_alive() or self.waiting:
            log.error("%d records of the journal were not written", self.waiting)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over():
            self._gather()
            now = self._clock.monotonic()
            if self._retry_at is None or now >= self._retry_at or self._stop_at is not None:
                self._work(now)
            if not self._batch and self._mark is not None:
                self._mark.done()
                self._mark = None
        self._segments.close()

    def _is_over(self) -> bool:
        if self._stop_at is None:
            return False
        return self.waiting == 0 or self._clock.monotonic() >= self._stop_at

    def _gather(self) -> None:
        """Wait for something to do; take what there is, up to a full batch or a mark."""
        self._hurry.clear()
        if self._batch:  # it could not be written: a while later it is tried again
            self._hurry.wait(max(0.0, (self._retry_at or 0.0) - self._clock.monotonic()))
            return
        if not self._take(max(0.01, self._tend_at - self._clock.monotonic())):
            return
        if self._mark is None and self._queue.empty():
            # Asleep, not awake for each record: every waking takes a turn from the event loop.
            self._hurry.wait(LINGER)
        held = 0
        while self._mark is None and len(self._batch) < BATCH and held < BATCH_BYTES:
            if not self._take(0.0):
                return
            held += self._batch[-1].held if self._batch else 0

    def _take(self, timeout: float) -> bool:
        try:
            item = self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
        except queue.Empty:
            return False
        if isinstance(item, Captured):
            self._batch.append(item)
        else:
            self._mark = item
        return True

    def _work(self, now: float) -> None:
        """Write one batch; look after what is too old."""
        try:
            if self._batch:
                self._write_batch()
            elif now >= self._tend_at:
                self._tend()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        except Exception as error:  # the thread outlives a fault of ours; no text of a body is said
            log.error("the journal: %s", type(error).__name__)
            self.figures.failed += len(self._batch)
            self._release()
        else:
            self._retry_at, self._backoff, self._sick = None, BACKOFF[0], False

    def _write_batch(self) -> None:
        if not self._segments.is_open:
            self._segments.open(self._clock.now(), self._fits)
        records = [one for one in map(self._record, self._batch) if one is not None]
        before = self.figures.written
        self._insert(records)
        self.figures.failed += len(self._batch) - len(records)
        if records and self.figures.written == before:
            self._segments.give_up()  # none of them: it is the file
        self._release()
        self._tend()

    def _record(self, captured: Captured) -> Record | None:
        try:
            return record_of(captured, self._redactor, self._section.max_body)
        except Exception as error:  # one odd body costs its own record only (A11)
            log.error("request %s: no record (%s)", captured.id, type(error).__name__)
            return None

    def _insert(self, records: list[Record]) -> None:
        """Commit all of it; in halves, where some of it can never be written."""
        if not records:
            return
        try:
            self._segments.insert(records)
            self.figures.written += len(records)
        except (sqlite3.Error, ValueError) as error:
            if is_environment(error):
                raise
            if len(records) == 1:
                self.figures.failed += 1
                log.error("request %s cannot be written: %s", records[0].id, _name(error))
                return
            middle = len(records) // 2
            self._insert(records[:middle])
            self._insert(records[middle:])

    def _release(self) -> None:
        self._given += sum(one.held for one in self._batch)
        self._batch.clear()

    def _failed(self, error: Exception) -> None:
        """Say so once, try again later, with a new file if the old one is no good."""
        name = _name(error)
        if not self._sick:
            log.error("records wait: %s cannot be written: %s", self._folder, name)
        self._sick = True
        self.figures.failures[name] = self.figures.failures.get(name, 0) + 1
        if not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
            self._segments.close()
        self._retry_at = self._clock.monotonic() + self._backoff
        self._backoff = min(BACKOFF[1], self._backoff * 2)

    # -- what is too old, or too much --------------------------------------------------------------

    def _tend(self) -> None:
        """Let go of the file in use where it is full; delete files."""
        self._tend_at = self._clock.monotonic() + TEND
        current = self._segments.path
        if current is not None and not self._fits(current):
            self._segments.close()
        section, wall = self._section, self._clock.now()
        sizes = {path: size_of(path) for path in segments(self._folder)}
        total = sum(sizes.values())
        for path in list(sizes):
            expired = section.keep is not None and wall - (began(path) or 0.0) > section.keep
            if not expired and total <= section.size_limit:
                break
            self._segments.delete(path)
            self.figures.deleted += 1
            total -= sizes.pop(path)
        self.figures.size, self.figures.files = total, len(sizes)

    def _fits(self, path: Path) -> bool:
        """More may be written to this file: it is there, not full, and not old. So a record is kept
        for 15/16 of `journal.keep` at least, and never longer than that."""
        section = self._section
        if not path.exists() or size_of(path) >= section.size_limit / PARTS:
            return False
        age = self._clock.now() - (began(path) or 0.0)
        return section.keep is None or age <= section.keep / PARTS


def _name(error: BaseException) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))
