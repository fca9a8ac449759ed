"""The books: the `Ledger` port over SQLite. Nothing here touches the file: its writer does.

Rule: everything here is on the event loop's thread, and nothing blocks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.config import Usage
from gateway.errors import LedgerUnavailable
from gateway.exchange import Exchange, Reservation
from gateway.leash import own_task
from gateway.ports import Clock
from gateway.usage.rows import row_of, row_of_held
from gateway.usage.writer import Done, Figures, Item, Writer

NAME = "ledger.db"
MOST = 100_000  # rows that wait in memory, some 70 MB; half of it for those nobody waits for
RETRY_AFTER = 5.0  # seconds, for who is refused
FLUSH = 10.0  # seconds for everything to be written, at the end


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
        self._section, self._clock, self._boot = section, clock, boot
        self._writer = Writer(data / NAME, section, zone, clock, boot, self._tell)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._down_since: float | None = None
        self.timed: Callable[[float], None] = (
            _untimed  # the seconds that each commit was waited for
        )
        self._dropped = 0

    async def start(self) -> None:
        """Open the file. LedgerError: it cannot be used, and the message says what to do."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(None, self._writer.start)

    async def close(self, within: float = FLUSH) -> None:
        """Write everything that waits; what is not written within so many seconds is lost."""
        if self._loop is not None:
            await self._loop.run_in_executor(None, self._writer.close, within)
            self._loop = None

    def reconfigure(self, section: Usage) -> None:
        """Take a new `usage` section."""
        self._section = self._writer.section = section

    # -- the port ----------------------------------------------------------------------------------

    def admit(self) -> None:
        """LedgerUnavailable once nothing could be written for longer than `usage.when_down`, or
        where no more rows fit into memory."""
        if not self.works():
            raise LedgerUnavailable(
                "Usage cannot be written down at present, so no call is made. Try again soon.",
                retry_after=RETRY_AFTER,
            )

    def reserve(self, reservation: Reservation) -> None:
        """Queue an open reservation; its row settles it."""
        if self._writer.backlog < MOST:
            row = row_of_held(reservation, self._boot)
            self._writer.put(Item(reservation.id, row, held=True))

    async def commit(self, exchange: Exchange) -> None:
        """Queue the row and return when it is on the disk; after `usage.commit_wait`, or when it
        cannot be written, it waits alone."""
        if exchange.caller is None:
            return
        if self._writer.backlog >= MOST:
            self._dropped += 1
            return
        if self._down_since is not None:
            self._writer.put(_item(exchange))
            return
        await own_task()
        asked, waiting = self._clock.monotonic(), asyncio.get_running_loop().create_future()
        self._writer.put(_item(exchange, partial(_settle, waiting)))
        try:
            async with asyncio.timeout(self._section.commit_wait):
                await waiting
        except TimeoutError:
            if self._down_since is None:
                self._down_since = asked
        finally:
            self.timed(self._clock.monotonic() - asked)

    def add(self, exchange: Exchange) -> None:
        """Queue the row of a request that made no call."""
        if exchange.caller is None:
            return
        if self._writer.backlog >= MOST // 2:
            self._dropped += 1
            return
        self._writer.put(_item(exchange))

    # -- for others --------------------------------------------------------------------------------

    def works(self) -> bool:
        """May a call be made now."""
        allowed = self._section.when_down
        too_long = allowed is not None and self._down_since is not None
        too_long = too_long and self._down_for() >= (allowed or 0.0)
        return not too_long and self._writer.backlog < MOST

    async def flush(self, within: float) -> bool:
        """Wait until all that was given is on the disk; False: it is not, after so many seconds."""
        waiting = asyncio.get_running_loop().create_future()
        self._writer.put(Item("", None, partial(_settle, waiting)))
        try:
            async with asyncio.timeout(within):
                return bool(await waiting)
        except TimeoutError:
            return False

    def stats(self) -> LedgerStats:
        """For metrics."""
        return LedgerStats(
            self._writer.figures,
            self._writer.backlog,
            self._dropped + self._writer.figures.poisoned,
            0.0 if self._down_since is None else self._down_for(),
        )

    def _down_for(self) -> float:
        return 0.0 if self._down_since is None else self._clock.monotonic() - self._down_since

    # -- what the writer says ----------------------------------------------------------------------

    def _tell(self, ok: bool, told: Sequence[Done]) -> None:
        """In the writer's thread: pass it on to the loop."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._hear, ok, told)
            except RuntimeError:
                return  # the loop has been closed, nobody waits any more

    def _hear(self, ok: bool, told: Sequence[Callable[[bool], None]]) -> None:
        if ok:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = self._clock.monotonic()
        for done in told:
            done(ok)


def _untimed(seconds: float) -> None:
    """Nobody wants to know."""


def _item(exchange: Exchange, done: Done | None = None) -> Item:
    """Made here, not in the writer's thread: that one would keep the loop from its lock for a whole
    batch of them."""
    return Item(exchange.id, row_of(exchange), done)


def _settle(waiting: asyncio.Future[bool], ok: bool) -> None:
    if not waiting.done():
        waiting.set_result(ok)
