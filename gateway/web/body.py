"""A request's body as it arrives: read whole, within a budget, or streamed with back-pressure.

Rule: the client is hurried only while somebody waits for its bytes; our pauses are not its fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

from msgspec import Struct

from gateway.config import Server
from gateway.errors import Overloaded, RequestTimeout, RequestTooLarge
from gateway.leash import Pause
from gateway.ports import ClientGone

UNASKED_LIMIT: Final = 64 * 1024  # bytes kept before anybody asks for the body
STREAM_LIMIT: Final = 256 * 1024  # bytes kept ahead of a reader of `chunks`


class Budget:
    """Bytes of all buffered bodies in flight together (requirement H7)."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Take all of `size`, or nothing and return False."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size


class Feeder(Protocol):
    """What a body needs of its connection."""

    @property
    def last_read(self) -> float:
        """Monotonic seconds: when the client's latest bytes came."""

    @property
    def budget(self) -> Budget: ...

    @property
    def settings(self) -> Server: ...

    def body_asked(self) -> None:
        """Somebody wants the body: answer an expectation."""

    def body_wait(self) -> float:
        """Somebody waits: read on. Returns monotonic seconds."""

    def body_due(self, at: float) -> None:
        """Look at `due` again at `at`, monotonic seconds, and call `overdue` if it has passed."""

    def body_waited(self) -> float:
        """Nobody waits any more. Returns monotonic seconds."""

    def pause(self) -> None:
        """Read no more until somebody waits."""


class RequestBody(Struct, eq=False):
    """The `Body` port. Where all of it is here from the start, that is its data, with `eof`."""

    _feeder: Feeder
    length: int | None  # declared bytes; None when chunked
    received: int  # bytes that came so far
    _eof: bool  # it is whole
    _data: bytes | bytearray = b""
    reserved: int = 0  # bytes taken from the budget; whoever made this body gives them back
    _error: Exception | None = None
    _asked: bool = False
    _high: int | None = UNASKED_LIMIT  # None: somebody reads the whole
    _limit: int = 0
    _waiter: Pause | None = None
    _since: float = 0.0
    _waited: float = 0.0

    def __repr__(self) -> str:
        return f"<RequestBody {self.received} of {self.length}>"

    # The port ------------------------------------------------------------------------------------

    async def read(self, limit: int) -> bytes:
        """The whole body; does not suspend when it is already here.

        RequestTooLarge past `limit` bytes, Overloaded past the budget, RequestTimeout,
        InvalidRequest for broken chunks, ClientGone.
        """
        data = self.at_once(limit)
        return await self._read(limit) if data is None else data

    def at_once(self, limit: int) -> bytes | None:
        """The same, where it is here; None where it has to be waited for, or will not come."""
        if not self._eof or self._error is not None:
            return None
        size, budget = self.received, self._feeder.budget
        if size > limit:
            raise _too_large(limit)
        if not self.reserved:
            used = budget.used + size
            if used > budget.limit:
                raise _over_budget()
            budget.used, self.reserved = used, size
        data, self._data = self._data, b""
        return bytes(data)

    async def _read(self, limit: int) -> bytes:
        self._check(limit)
        self._reserve(self.received if self.length is None else self.length)
        self._ask()  # what answers 100 Continue: only what will be taken is asked for
        self._high = None
        await self._wait()
        if self._error is not None:
            raise self._error
        data, self._data = self._data, b""
        return bytes(data)

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it comes, never more than about 256 KiB of it here; errors as in `read`."""
        self._check(limit)
        self._ask()
        self._high = STREAM_LIMIT
        while True:
            if self._data:
                data, self._data = self._data, b""
                yield bytes(data)
            elif self._error is not None:
                raise self._error
            elif self._eof:
                return
            else:
                await self._wait()

    def _check(self, limit: int) -> None:
        if self._error is not None:
            raise self._error
        self._limit = limit
        if self._too_large():
            raise _too_large(limit)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            if not self._eof:
                self._feeder.body_asked()

    def _too_large(self) -> bool:
        return self.received > self._limit or (self.length or 0) > self._limit

    def _reserve(self, size: int) -> None:
        if size > self.reserved:
            if not self._feeder.budget.take(size - self.reserved):
                raise _over_budget()
            self.reserved = size

    async def _wait(self) -> None:
        self._waiter = pause = Pause()
        self._since = self._feeder.body_wait()
        self._feeder.body_due(self.due())
        try:
            await pause
        finally:
            self._waiter = None
            self._waited += self._feeder.body_waited() - self._since

    # The connection's side -----------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what came. A list of pieces would let a client make one object of each byte."""
        self.received += len(data)
        if self._error is not None:
            return
        if self._asked and self._too_large():
            self.spoil(_too_large(self._limit))
            return
        if self._high is None and self.length is None:
            if not self._feeder.budget.take(len(data)):
                self.spoil(_over_budget())
                return
            self.reserved += len(data)
        if not self._data:
            self._data = data
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
        if self._high is not None and len(self._data) > self._high:
            self._feeder.pause()

    def feed_eof(self) -> None:
        """The body is whole."""
        self._eof = True

    def spoil(self, error: Exception) -> None:
        """The body will not come. What is already here counts for nothing."""
        if not self._eof or isinstance(error, ClientGone):
            if self._error is None:
                self._error = error
            self._data = b""

    def wake(self) -> None:
        """Let who waits go on, if there is something: before this returns, so call it last."""
        waiter = self._waiter
        if waiter is not None and (self._eof or self._error or (self._data and self._high)):
            waiter.end()

    def fail(self, error: Exception) -> None:
        """`spoil` and `wake`."""
        self.spoil(error)
        self.wake()

    def due(self) -> float:
        """Monotonic seconds: when the client is too slow, if nothing more comes until then."""
        timeout, rate = self._feeder.settings.body_timeout, self._feeder.settings.body_min_rate
        silent = max(self._since, self._feeder.last_read) + timeout
        if not rate:
            return silent
        allowed = max(timeout, self.received / rate)
        return min(silent, self._since + allowed - self._waited)

    def overdue(self) -> None:
        """The client was too slow."""
        settings = self._feeder.settings
        self.fail(
            RequestTimeout(
                "The request's body came too slowly: nothing for "
                f"{settings.body_timeout:g} seconds, "
                f"or fewer than {settings.body_min_rate} bytes per second."
            )
        )


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's body exceeds {limit} bytes.")


def _over_budget() -> Overloaded:
    return Overloaded("Too many request bodies are being read at once. Try again.", retry_after=1)
