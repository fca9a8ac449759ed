"""A few threads that read, each one thing at a time, and what is asked of them in between.

Not an executor: here each thread cleans up after itself (it owns a database connection), what
nobody waits for any more is not begun, and a thread that hangs does not hold up the end of the
process. Reads are handed over and given back by the handful: waking a thread, and being woken by
one, costs more than reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from gateway.leash import Pause

T = TypeVar("T")

THREADS = 2
WAITING = 256  # reads that may wait for a thread
HANDFUL = 8  # reads that a thread does before it gives back any


class Read(Generic[T]):
    """One read. `late`: it missed its deadline; else, once `ended`, a `value` or an `error`."""

    begun = done = late = unwanted = False
    error: BaseException | None = None
    value: T

    def __init__(self, key: bytes, due: float) -> None:
        """`due` in the loop's seconds."""
        self.key, self.due, self.ended = key, due, Pause()


class Readers(Generic[T]):
    """`read` runs on one of the threads, `leave` on each of them at its end. All else is for the
    thread of the loop that they were started on."""

    def __init__(self, read: Callable[[bytes], T], leave: Callable[[], None]) -> None:
        self._read, self._leave = read, leave
        self._loop: asyncio.AbstractEventLoop
        self._queue: SimpleQueue[list[Read[T]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"cache-reader-{number}", daemon=True)
            for number in range(THREADS)
        ]
        self._asked: list[Read[T]] = []  # in this turn of the loop
        self._open: dict[Read[T], None] = {}  # somebody waits for them
        self._late: list[Read[T]] = []  # begun, and given up
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def submit(self, key: bytes, deadline: float) -> Read[T] | None:
        """A read that has `ended` within so many seconds; None where it would only wait: too many
        do, or every thread is at a read that has missed its deadline."""
        if self._late:
            self._late = [late for late in self._late if not late.done]
        if len(self._late) >= THREADS or len(self._open) >= WAITING:
            return None
        read = Read[T](key, self._loop.time() + deadline)
        self._open[read] = None
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append(read)
        if self._timer is None or self._timer.when() > read.due:
            self._watch_for(deadline)
        return read

    def give_up(self, read: Read[T]) -> None:
        """Nobody waits for it any more."""
        read.unwanted = True
        if self._open.pop(read, read) is None and read.begun and not read.done:
            self._late.append(read)

    def close(self) -> None:
        """Let the threads end after what is queued; does not wait."""
        for _ in self._threads:
            self._queue.put(None)

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        size = min(HANDFUL, -(-len(asked) // THREADS))
        for at in range(0, len(asked), size):
            self._queue.put(asked[at : at + size])

    def _hear(self, handful: list[Read[T]]) -> None:
        for read in handful:
            if self._open.pop(read, read) is None:
                read.ended.end()

    def _watch_for(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._watch)

    def _watch(self) -> None:
        """One timer for all of them: it rings when the first may be due, answered or not."""
        self._timer, now = None, self._loop.time()
        for read in [read for read in self._open if read.due <= now]:
            read.late = True
            self.give_up(read)
            read.ended.end()
        if self._open:
            self._watch_for(max(0.0, min(read.due for read in self._open) - now))

    # In a thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (handful := self._queue.get()) is not None:
            for read in handful:
                if read.unwanted:
                    continue
                read.begun = True
                try:
                    read.value = self._read(read.key)
                except BaseException as error:  # for who waits to tell
                    read.error = error
                read.done = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hear, handful)
        self._leave()
