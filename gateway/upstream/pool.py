"""Connections to one upstream: made, reused, thrown away. It has no limit of its own: calls queue
before it, visibly.
"""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.bursts import Flusher
from gateway.ports import Clock
from gateway.upstream.connection import Connection
from gateway.upstream.dial import Dialer
from gateway.upstream.faults import NoConnection


class Pool:
    """The connections of one upstream within one running loop (`Home` of each)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, dialer: Dialer, keepalive: float
    ) -> None:
        """`keepalive`: seconds after which an idle connection is closed."""
        self.loop = loop
        self.flusher = Flusher(loop)
        self._clock = clock
        self._dialer = dialer
        self._keepalive = keepalive
        self._all: set[Connection] = set()
        self._resting: dict[Connection, None] = {}  # the last one rested least
        self._closed = False

    @property
    def idle(self) -> int:
        """How many wait for a call."""
        return len(self._resting)

    def take(self) -> Connection | None:
        """One that has served before; the one used last, so that the others can end."""
        resting = self._resting
        while resting:
            connection, _ = resting.popitem()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> Connection:
        """A new one. NoConnection; who gives up waiting leaves nothing behind."""
        self._check_open()
        made = Connection(self.loop, self._clock, self)
        self._all.add(made)
        try:
            await self._dialer.dial(made)
            self._check_open()
        except BaseException:
            self._all.discard(made)
            made.abort()
            raise
        return made

    def abort(self) -> None:
        """Close every connection now, those in use too, and make no other."""
        self._closed = True
        for connection in list(self._all):
            connection.kill()

    def _check_open(self) -> None:
        if self._closed:
            raise NoConnection("the call could not be made")

    # -- what a connection tells -------------------------------------------------------------------

    def rested(self, connection: Connection) -> None:
        self._resting[connection] = None
        connection.wake(self._clock.monotonic() + self._keepalive)

    def lost(self, connection: Connection) -> None:
        self._resting.pop(connection, None)
        self._all.discard(connection)


class Turns:
    """At most so many at once; who finds none free stands in line."""

    __slots__ = ("_free", "_line")

    def __init__(self, most: int) -> None:
        self._free = most
        self._line: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a turn, if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Stand in line for a turn, and take it."""
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give()  # it was handed over in this moment
            raise

    def give(self) -> None:
        """Give it back: to who has stood in line longest."""
        line = self._line
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
