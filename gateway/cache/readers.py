"""A few threads that read, each a handful at a time, and what is asked of them in between.

Not an executor: here each thread cleans up after itself (it owns a database connection), what
nobody waits for any more is not begun, and a thread that hangs does not hold up the end of the
process. By the handful, since waking a thread, being woken by one, and coming back from a statement
beside a busy loop each cost more than reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from msgspec import Struct

from gateway.leash import Pause

T = TypeVar("T")

THREADS = 2
WAITING = 256  # reads that may wait for a thread
HANDFUL = 16  # reads that a thread does together
FEW = 6  # reads in one turn that are spread over the threads: there is time for each of them


class Read(Pause, Generic[T], eq=False):
    """One read, to be waited for. `asked` and `due` in the loop's seconds, `took` in seconds. Once
    it is over it is `late`, having missed its deadline, or has an `error`, or a `value`."""

    key: bytes = b""
    asked: float = 0.0
    due: float = 0.0
    took: float = 0.0
    late: bool = False
    unwanted: bool = False
    error: BaseException | None = None
    value: T | None = None
    begun: Handful[T] | None = None


class Handful(Struct, Generic[T], eq=False):
    """Reads that a thread does together."""

    reads: list[Read[T]]
    done: bool = False


class Readers(Generic[T]):
    """`read` runs on one of the threads (a value or an error for each key), `leave` on each of them
    at its end. All else is for the thread of the loop that they were started on."""

    def __init__(
        self, read: Callable[[list[bytes]], list[T | Exception]], leave: Callable[[], None]
    ) -> None:
        self._read, self._leave = read, leave
        self._loop: asyncio.AbstractEventLoop
        self._queue: SimpleQueue[Handful[T] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"cache-reader-{number}", daemon=True)
            for number in range(THREADS)
        ]
        self._asked: list[Read[T]] = []  # in this turn of the loop
        self._open: dict[Read[T], None] = {}  # somebody waits for them
        self._late: set[Handful[T]] = set()  # begun, and given up
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def submit(self, key: bytes, deadline: float) -> Read[T] | None:
        """A read that is over within so many seconds; None where it would only wait: too many
        do, or every thread is at a read that has missed its deadline."""
        if self._late:
            self._late = {late for late in self._late if not late.done}
        if len(self._late) >= THREADS or len(self._open) >= WAITING:
            return None
        now = self._loop.time()
        read: Read[T] = Read(key=key, asked=now, due=now + deadline)
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
        begun = read.begun
        if self._open.pop(read, read) is None and begun is not None and not begun.done:
            self._late.add(begun)

    def close(self) -> None:
        """Let the threads end after what is queued; does not wait."""
        for _ in self._threads:
            self._queue.put(None)

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        few = len(asked) <= FEW
        size = -(-len(asked) // THREADS) if few else HANDFUL
        for at in range(0, len(asked), size):
            self._queue.put(Handful(asked[at : at + size]))

    def _hear(self, handful: Handful[T]) -> None:
        reads, handful.reads = handful.reads, []  # else each would lead to all, and back
        now, still_open = self._loop.time(), self._open
        for read in reads:
            if still_open.pop(read, read) is None:
                read.took = now - read.asked
                read.end()

    def _watch_for(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._watch)

    def _watch(self) -> None:
        """One timer for all of them: it rings when the first may be due, answered or not."""
        self._timer, now = None, self._loop.time()
        for read in [read for read in self._open if read.due <= now]:
            read.late, read.took = True, now - read.asked
            self.give_up(read)
            read.end()
        if self._open:
            self._watch_for(max(0.0, min(read.due for read in self._open) - now))

    # In a thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (handful := self._queue.get()) is not None:
            reads = [read for read in handful.reads if not read.unwanted]
            for read in reads:
                read.begun = handful
            try:
                for read, found in zip(reads, self._read([r.key for r in reads]), strict=True):
                    if isinstance(found, Exception):
                        read.error = found
                    else:
                        read.value = found
            except BaseException as error:  # for who waits to tell
                for read in reads:
                    read.error = error
            handful.done = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hear, handful)
        self._leave()
