"""The books: the `Ledger` port over SQLite. Nothing here touches the file: its writer does.

Rule: everything here is on the event loop's thread, and nothing blocks it. What is booked is put
into a list; the writer gets it by the batch, since each waking of a thread costs both more than a
row does. Rows that nobody waits for gather for LINGER. A commit goes out at once where it is alone,
else with those that are asked for while the writer works, and for GATHER after.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from pathlib import Path

from gateway.config import Usage
from gateway.errors import LedgerUnavailable
from gateway.exchange import Exchange, Reservation
from gateway.leash import Pause
from gateway.ports import Clock
from gateway.usage.writer import Batch, Figures, Waiting, Writer

NAME = "ledger.db"
MOST = 100_000  # rows that wait in memory, some 70 MB; half of it for those nobody waits for
RETRY_AFTER = 5.0  # seconds, for who is refused
FLUSH = 10.0  # seconds for everything to be written, at the end
LINGER = 0.045  # seconds that rows gather that nobody waits for; a reservation waits two of them
GATHER = 0.001  # seconds that commits gather where several are asked for at a time

_id = attrgetter("id")


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """`down_for` is in seconds: nothing could be written for so long, 0 when all is well."""

    figures: Figures
    backlog: int
    dropped: int
    down_for: float


class SQLiteLedger:
    """One file, one writer. `boot` names this process; `zone` is where days begin."""

    def __init__(self, data: Path, section: Usage, zone: str, clock: Clock, boot: str) -> None:
        self._section, self._clock = section, clock
        self._writer = Writer(data / NAME, section, zone, clock, boot, self._tell)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._down_since: float | None = None
        self._dropped = 0
        # Hears the seconds that each commit was waited for.
        self.timed: Callable[[float], None] = _untimed
        # What the writer has not got yet: rows that nobody waits for, other rows, who waits for
        # them, and reservations; of these the older ones are written next.
        self._added: list[Exchange] = []
        self._rows: list[Exchange] = []
        self._asked: list[Waiting] = []
        self._held: dict[str, Callable[[], Reservation]] = {}
        self._older: dict[str, Callable[[], Reservation]] = {}
        self._flying: list[Batch] = []  # the writer has them, and somebody waits
        self._several = False  # commits are asked for at the same time
        self._tick: asyncio.TimerHandle | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the file. LedgerError: it cannot be used, and the message says what to do."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.start)
        self._loop = loop

    async def close(self, within: float = FLUSH) -> None:
        """Write everything that waits; what is not written within so many seconds is lost."""
        if self._loop is not None:
            self._hand_over_all()
            await self._loop.run_in_executor(None, self._writer.close, within)
            self._loop = None
            for timer in (self._tick, self._gathering, self._watch):
                if timer is not None:
                    timer.cancel()

    def reconfigure(self, section: Usage) -> None:
        """Take a new `usage` section."""
        self._section = self._writer.section = section

    # -- the port ----------------------------------------------------------------------------------

    def admit(self) -> None:
        """LedgerUnavailable once nothing could be written for longer than `usage.when_down`, or
        where no more rows fit into memory."""
        if self._down_since is None and self._writer.backlog < MOST:
            return
        if not self.works():
            raise LedgerUnavailable(
                "Usage cannot be written down at present, so no call is made. Try again soon.",
                retry_after=RETRY_AFTER,
            )

    def reserve(self, id: str, made: Callable[[], Reservation]) -> None:
        """Queue an open reservation; its row settles it, and if that comes soon, neither is it
        made nor written."""
        self._held[id] = made
        if self._tick is None:
            self._wind_up()

    async def commit(self, exchange: Exchange) -> None:
        """Queue the row and return when it is on the disk; after `usage.commit_wait`, or when it
        cannot be written, it waits alone."""
        if exchange.caller is None:
            return
        loop = self._loop
        if self._down_since is not None or loop is None:
            self._queue(exchange)
            return
        waiting = Pause()
        self._rows.append(exchange)
        self._asked.append((waiting, self._clock.monotonic()))
        if self._watch is None:
            self._watch = loop.call_later(self._section.commit_wait, self._lose_patience)
        if not self._flying and self._gathering is None:
            self._send(several=self._several)
        await waiting

    def add(self, exchange: Exchange) -> None:
        """Queue the row of a request that made no call."""
        self._added.append(exchange)
        if self._tick is None:
            self._wind_up()

    # -- for others --------------------------------------------------------------------------------

    def works(self) -> bool:
        """May a call be made now."""
        allowed = self._section.when_down
        too_long = allowed is not None and self._down_since is not None
        too_long = too_long and self._down_for() >= (allowed or 0.0)
        return not too_long and self._backlog() < MOST

    async def flush(self, within: float) -> bool:
        """Wait until all that was given is on the disk; False: it is not, after so many seconds."""
        if self._loop is None:
            return False
        waiting: Future[bool] = Future(loop=self._loop)
        self._hand_over_all(waiting)
        try:
            async with asyncio.timeout(within):
                return await waiting
        except TimeoutError:
            return False

    def stats(self) -> LedgerStats:
        """For metrics."""
        self._limit()
        return LedgerStats(
            self._writer.figures,
            self._backlog() + len(self._held) + len(self._older),
            self._dropped + self._writer.figures.poisoned,
            self._down_for(),
        )

    def _backlog(self) -> int:
        return len(self._added) + len(self._rows) + self._writer.backlog

    def _down_for(self) -> float:
        return 0.0 if self._down_since is None else self._clock.monotonic() - self._down_since

    # -- to the writer -----------------------------------------------------------------------------

    def _wind_up(self) -> None:
        """What nobody waits for goes to the writer soon."""
        if self._loop is not None:
            self._tick = self._loop.call_later(LINGER, self._hand_over_soon)

    def _send(self, *, several: bool) -> None:
        """What is waited for goes to the writer now, or soon."""
        if several and self._loop is not None:
            self._gathering = self._loop.call_later(GATHER, self._hand_over)
        else:
            self._hand_over()

    def _hand_over_soon(self) -> None:
        self._tick = None
        older, self._older, self._held = self._older, self._held, {}
        if self._added or self._rows or older:
            self._hand_over(older.values())
        if self._older:
            self._wind_up()

    def _hand_over_all(self, flush: Future[bool] | None = None) -> None:
        held, self._older, self._held = [*self._older.values(), *self._held.values()], {}, {}
        self._hand_over(held, flush)

    def _hand_over(
        self,
        held: Iterable[Callable[[], Reservation]] = (),
        flush: Future[bool] | None = None,
    ) -> None:
        """Everything that waits, in one batch."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._limit()
        rows, asked = self._added + self._rows, self._asked
        self._added, self._rows, self._asked = [], [], []
        for open_ones in (self._held, self._older):
            if open_ones and rows:  # settled before it was written: it never is
                deque(map(open_ones.pop, map(_id, rows), repeat(None)), 0)
        batch = Batch(rows, [made() for made in held], asked, flush)
        if asked:
            self._flying.append(batch)
            self._several = len(asked) > 1
        self._writer.put(batch)

    def _limit(self) -> None:
        """Rows that nobody waits for find room in half of it."""
        more = min(self._backlog() - MOST // 2, len(self._added))
        if more > 0:
            self._dropped += more
            del self._added[-more:]

    def _queue(self, exchange: Exchange) -> None:
        """A row that nobody waits for since it is in vain."""
        if self._backlog() < MOST:
            self._rows.append(exchange)
            if self._tick is None:
                self._wind_up()
        else:
            self._dropped += 1

    # -- what the writer says ----------------------------------------------------------------------

    def _tell(self, ok: bool, batches: Sequence[Batch]) -> None:
        """In the writer's thread: pass it on to the loop."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._hear, ok, batches)
            except RuntimeError:
                return  # the loop has been closed, nobody waits any more

    def _hear(self, ok: bool, batches: Sequence[Batch]) -> None:
        if ok:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = self._clock.monotonic()
        self._flying = [batch for batch in self._flying if batch not in batches]
        if self._asked and not self._flying and self._gathering is None:
            self._send(several=self._several or len(self._asked) > 1)
        for batch in batches:
            self._release(batch.waiting)
            if ok and batch.flush is not None and not batch.flush.done():
                batch.flush.set_result(True)

    def _release(self, waiting: Sequence[Waiting]) -> None:
        """Let them go on, each up to where it waits next."""
        now, timed, loop = self._clock.monotonic(), self.timed, self._loop
        for pause, since in waiting:
            if not pause.over:
                timed(now - since)
                try:
                    pause.end()
                except Exception as error:  # its own fault, as in a callback of its own
                    if loop is not None:
                        loop.call_exception_handler({"message": "a request", "exception": error})

    def _lose_patience(self) -> None:
        """Nobody waits longer than `usage.commit_wait`; and once one has, nobody does."""
        self._watch = None
        waiting = [one for batch in self._flying for one in batch.waiting] + self._asked
        if not waiting or self._loop is None:
            return
        left = waiting[0][1] + self._section.commit_wait - self._clock.monotonic()
        if left > 0:
            self._watch = self._loop.call_later(left, self._lose_patience)
            return
        if self._down_since is None:
            self._down_since = waiting[0][1]
        self._hand_over()
        self._flying = []
        self._release(waiting)


def _untimed(seconds: float) -> None:
    """Nobody wants to know."""
