"""The access log: a sink whose one thread makes and writes a line for each exchange.

Rule: `book` never blocks and never fails. What the destination cannot take is dropped and counted;
a request is never slower for it (design.md, "Durable and off the path"). Lines are made many at a
time: one after the other they cost half of what each does between two requests.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from gateway.exchange import Exchange
from gateway.journal.rules import Bucket, line
from gateway.ports import Clock

LINGER = 0.02  # seconds between two batches: waking for each line takes the loop's turns
CAPACITY = 10_000  # lines waiting
BATCH = 512  # lines in one write
SAMPLED = 10  # lines a second of requests without a valid caller
STDOUT = 1

log = logging.getLogger("gateway.journal")


_Waiting = tuple[Exchange, int]
"""What is to be said, and how many lines were left out before it."""


class _Reopen:
    """In the queue: everything before it goes to the old file, everything after it to the new."""


class _Stop:
    """In the queue: the last of it."""


class NoAccessLog:
    """`access_log: none`."""

    written = dropped = failed = suppressed = waiting = 0

    def book(self, exchange: Exchange) -> None:
        """Nothing."""

    def reopen(self) -> None:
        """Nothing."""

    def close(self, timeout: float) -> bool:
        """Nothing is left to write."""
        return True


class AccessLog:
    """Writes to `path`, or to `descriptor` where `path` is None.

    The four counts are lines: `written` whole, `dropped` because the queue was full (or closed),
    `failed` because they could not be encoded or written, `suppressed` by sampling.
    """

    def __init__(
        self, path: str | None, clock: Clock, *, descriptor: int = STDOUT, capacity: int = CAPACITY
    ) -> None:
        """Opens `path` and starts the thread; OSError where it cannot be opened."""
        self.written = self.dropped = self.failed = self.suppressed = 0
        self._path = path
        self._descriptor = descriptor if path is None else _open(path)
        self._clock = clock
        self._capacity = capacity
        self._bucket = Bucket(SAMPLED)
        self._untold = 0  # suppressed since the last line that said so
        self._closed = False
        self._hurry = threading.Event()  # set at the end
        self._torn = False  # the last write broke off inside a line
        self._sick = False  # the last write failed
        self._queue: SimpleQueue[_Waiting | _Reopen | _Stop] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Lines not written yet."""
        return self._queue.qsize()

    # On the loop's thread -----------------------------------------------------------------------

    def book(self, exchange: Exchange) -> None:
        """Queue one line."""
        if exchange.caller is None and not self._bucket.take(self._clock.monotonic()):
            self.suppressed += 1
            self._untold += 1
        elif self._closed or self._queue.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._queue.put((exchange, self._untold))
            self._untold = 0

    def reopen(self) -> None:
        """Open the path anew, for who rotates logs; the old file stays in use where that fails."""
        if self._path is not None:
            self._queue.put(_Reopen())

    def close(self, timeout: float) -> bool:
        """Write what is queued, for at most `timeout` seconds (it blocks); True: all was tried."""
        if not self._closed:
            self._closed = True
            self._hurry.set()
            self._queue.put(_Stop())
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # In the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            batch, order = self._next_batch()
            self._write(batch)
            self._hurry.wait(LINGER)  # lines that come meanwhile are one batch, and one write
            if isinstance(order, _Reopen):
                self._reopen()
            elif isinstance(order, _Stop):
                break
        if self._path is not None:
            os.close(self._descriptor)

    def _next_batch(self) -> tuple[list[bytes], _Reopen | _Stop | None]:
        """Wait for one line and take what else is there, up to an order, which comes after it."""
        batch: list[bytes] = []
        item = self._queue.get()
        while isinstance(item, tuple):
            exchange, suppressed = item
            try:
                batch.append(line(exchange, suppressed))
            except Exception:  # one odd exchange costs its own line only (A11)
                self.failed += 1
                log.exception("request %s: no access line", exchange.id)
            if len(batch) == BATCH:
                return batch, None
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch, None
        return batch, item

    def _write(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        data = memoryview(b"".join([b"\n" if self._torn else b"", *lines]))
        done = 0
        try:
            while done < len(data):
                done += self._write_some(data[done:])
        except OSError as error:
            self._count_partial(lines, done)
            if not self._sick:  # said once, not for every line
                log.error("the access log cannot be written: %s", error.strerror)
            self._sick = True
        else:
            self.written += len(lines)
            self._torn = self._sick = False

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # whoever shares our stdout has made it non-blocking
            room = select.poll()
            room.register(self._descriptor, select.POLLOUT)
            room.poll()
            return 0

    def _count_partial(self, lines: Sequence[bytes], done: int) -> None:
        """A full disk takes a part of a write: the next line must not stick to a torn one."""
        left = done - self._torn
        if left < 0:
            self.failed += len(lines)
            return
        whole = 0
        while whole < len(lines) and left >= len(lines[whole]):
            left -= len(lines[whole])
            whole += 1
        self.written += whole
        self.failed += len(lines) - whole
        self._torn = left > 0

    def _reopen(self) -> None:
        assert self._path is not None
        try:
            fresh = _open(self._path)
        except OSError as error:
            log.error("the access log stays as it is, reopening failed: %s", error.strerror)
            return
        os.close(self._descriptor)
        self._descriptor, self._torn = fresh, False


def open_access_log(destination: str, clock: Clock) -> AccessLog | NoAccessLog:
    """`server.access_log`: `stdout`, `none`, or a path. OSError where the path cannot be opened."""
    if destination == "none":
        return NoAccessLog()
    return AccessLog(None if destination == "stdout" else destination, clock)


def _open(path: str) -> int:
    """For appending; a new file is its owner's alone (C3)."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
