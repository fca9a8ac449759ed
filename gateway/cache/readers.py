"""A few threads that read, each one thing at a time.

Not an executor: here each thread cleans up after itself (it owns a database connection), what
nobody waits for any more is not begun, and a thread that hangs does not hold up the end of the
process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

THREADS = 2
WAITING = 256  # reads that may wait for a thread


class Readers(Generic[T]):
    """`read` runs on one of the threads, `leave` on each of them at its end."""

    def __init__(self, read: Callable[[bytes], T], leave: Callable[[], None]) -> None:
        self._read, self._leave = read, leave
        self._queue: SimpleQueue[tuple[bytes, Future[T]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"cache-reader-{number}", daemon=True)
            for number in range(THREADS)
        ]
        self._late: list[Future[T]] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, key: bytes) -> Future[T] | None:
        """The read's future; None where it would only wait: too many do, or every thread is at a
        read that has missed its deadline."""
        self._late = [late for late in self._late if not late.done()]
        if len(self._late) >= THREADS or self._queue.qsize() >= WAITING:
            return None
        future: Future[T] = Future()
        self._queue.put((key, future))
        return future

    def gave_up(self, future: Future[T]) -> None:
        """Nobody waits for it any more."""
        if not future.cancel():
            self._late.append(future)

    def close(self) -> None:
        """Let the threads end after what is queued; does not wait."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            key, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(key))
            except BaseException as error:  # the future's to tell
                future.set_exception(error)
        self._leave()
