"""An upstream's answer: its head, its bytes as they come, and an end that is told apart from a cut.

Bytes go from the socket to who `pour`s in one call, without a task, a future or a timer for each of
them. What nobody takes waits here, and past `READ_BUFFER` in the socket (requirement I6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gateway.config import Timeouts
from gateway.errors import UpstreamCut, UpstreamTimeout
from gateway.exchange import HeaderList
from gateway.ports import CallTimes, Clock
from gateway.upstream import faults
from gateway.upstream.connection import Connection, RawHeaders
from gateway.upstream.faults import Break
from gateway.upstream.headers import response_head, usable
from gateway.upstream.stats import status_class
from gateway.upstream.upload import Upload

READ_BUFFER = 128 * 1024  # bytes; past it the socket is not read


class HTTPReply:
    """The `Reply` port, and the `Receiver` of its connection: one attempt at one call."""

    __slots__ = (
        "_buffer", "_buffered", "_clock", "_connection", "_done", "_ends", "_loop",
        "_name", "_stopped", "_take", "_timeouts", "_upload", "_waiter", "_waiting_since",
        "encoded", "error", "headed", "headers", "length", "outcome", "stale", "status", "times",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        times: CallTimes,
        timeouts: Timeouts,
        ends: float | None,
    ) -> None:
        """`ends`: the loop's time at which `timeouts.total` is over."""
        self.times = times
        self.status = 0
        self.headers: HeaderList = []
        self.length: int | None = None
        self.encoded = False
        self.error: Exception | None = None
        self.outcome: str | None = None  # once it is over
        self.stale = False  # the connection was dead when it was taken
        self._name = name
        self._loop = loop
        self._clock = clock
        self._timeouts = timeouts
        self._ends = ends
        self._connection: Connection | None = None
        self._upload: asyncio.Task[None] | None = None
        self._done: Callable[[str], None] | None = None
        self.headed = False
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._take: Callable[[bytes], bool] | None = None
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since: float | None = None

    # -- the call ----------------------------------------------------------------------------------

    async def ask(self, connection: Connection, head: bytes, upload: Upload, *, bare: bool) -> None:
        """Send the request; return when the answer's head is here, or `error` says why not."""
        self._connection = connection
        body = upload.whole
        connection.begin(self, head + body if body else head, whole=body is not None, bare=bare)
        self._progress()
        if body is None:
            self._upload = self._loop.create_task(self._send(connection, upload))
        try:
            await self._wait()
        except BaseException:
            self.close()
            raise

    def deliver(self, done: Callable[[str], None]) -> None:
        """From now on it is the caller's. `done` is called once, with the outcome, when the
        connection is let go."""
        if self.outcome is not None:
            done(self.outcome)
        else:
            self._done = done

    async def _send(self, connection: Connection, upload: Upload) -> None:
        try:
            await upload.run(connection, self._progress)
        except ConnectionError:
            pass  # the connection tells
        except Exception as exc:
            self._fail(exc, faults.CUT if self.headed else faults.ABANDONED)

    def _progress(self) -> None:
        """A sign of life of the request: the wait for the answer begins anew."""
        if not self.headed and self._connection is not None:
            due = self._loop.time() + self._timeouts.first_byte
            self._connection.wake(due if self._ends is None else min(due, self._ends))

    # -- the port ----------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """Next bytes as they come, b"" at a clean end. UpstreamCut, UpstreamTimeout."""
        while not self._buffer:
            if self.error is not None:
                raise self.error
            if self.outcome is not None:
                return b""
            await self._wait()
        return self._drain()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand over bytes as they come, until `take` wants no more for now (True) or the clean end
        (False). What `take` raises; UpstreamCut, UpstreamTimeout."""
        while True:
            if self._buffer:
                if not take(self._drain()):
                    return True
            elif self.error is not None:
                raise self.error
            elif self.outcome is not None:
                return False
            else:
                self._take, self._stopped = take, False
                try:
                    await self._wait()
                finally:
                    self._take = None
                if self._stopped:
                    return True

    def close(self) -> None:
        """Let go: an answer that was read to its end has given its connection back, any other
        closes it."""
        let_go = UpstreamCut(f"The answer of upstream '{self._name}' was let go.")
        if self._buffer:
            self._buffer.clear()
            self.error = let_go
        self._fail(let_go, faults.ABANDONED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drain(self) -> bytes:
        buffer = self._buffer
        data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._buffered = 0
        if self._connection is not None:
            self._connection.resume()
        return data

    async def _wait(self) -> None:
        self._waiting_since = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = self._waiting_since = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the connection tells -----------------------------------------------------------------

    def on_first_byte(self) -> None:
        self.times.first_byte = self._clock.monotonic()

    def on_head(self, status: int, headers: RawHeaders) -> None:
        head = response_head(headers)
        if not usable(status, head.transfer_encoding):
            self.on_break(Break.GARBAGE)
            return
        self.status = status
        self.headers, self.length, self.encoded = head.headers, head.length, head.encoded
        self.headed = True
        self._watch()
        self._wake()

    def on_data(self, data: bytes) -> None:
        take = self._take
        if take is None:
            self._buffer.append(data)
            self._buffered += len(data)
            if self._buffered > READ_BUFFER and self._connection is not None:
                self._connection.pause()
            self._wake()
            return
        self._waiting_since = self._loop.time()
        try:
            if take(data):
                return
            self._stopped = True
        except Exception as exc:
            self._fail(exc, faults.ABANDONED)
        self._take = None
        self._wake()

    def on_end(self) -> None:
        self._over(status_class(self.status))

    def on_break(self, why: Break) -> None:
        connection = self._connection
        if self.headed:
            self._fail(faults.cut_short(self._name, why), faults.CUT)
            return
        if connection is not None and connection.uses and not connection.received:
            self.stale = why is Break.CLOSED
        self._fail(faults.no_answer(self._name, why.value), faults.ERROR)

    # -- deadlines ---------------------------------------------------------------------------------

    def on_alarm(self, now: float) -> None:
        name, since = self._name, self._waiting_since
        if self._ends is not None and now >= self._ends:
            self._time_out(f"Upstream '{name}' was not done in time.")
        elif not self.headed:
            self._time_out(f"Upstream '{name}' did not begin to answer in time.")
        elif since is not None and now - since >= self._timeouts.idle:
            self._time_out(f"Upstream '{name}' fell silent.")
        else:
            self._watch()

    def _watch(self) -> None:
        """Silence counts while somebody waits for bytes."""
        if self._connection is not None:
            quiet_since = self._waiting_since
            due = (self._loop.time() if quiet_since is None else quiet_since) + self._timeouts.idle
            self._connection.wake(due if self._ends is None else min(due, self._ends))

    def _time_out(self, message: str) -> None:
        self._fail(UpstreamTimeout(message), faults.TIMEOUT)

    # -- the end -----------------------------------------------------------------------------------

    def _fail(self, error: Exception, outcome: str) -> None:
        """End with `error`: who reads gets it, and the connection closes at once."""
        if self.outcome is None:
            self.error = error
            if self._connection is not None:
                self._connection.abort()
            self._over(outcome)

    def _over(self, outcome: str) -> None:
        self.outcome = outcome
        # It may be another call's from now on: not ours to close.
        self._connection = None
        upload, self._upload = self._upload, None
        if upload is not None and upload is not asyncio.current_task():
            upload.cancel()
        done, self._done = self._done, None
        if done is not None:
            done(outcome)
        self._wake()
