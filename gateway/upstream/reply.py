"""An upstream's answer: its head, its bytes as they come, and an end that is told apart from a cut.

Bytes go from the socket to who `pour`s in one call, without a task, a future or a timer for each of
them. What nobody takes waits here, and past `READ_BUFFER` in the socket (requirement I6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gateway.config import Timeouts
from gateway.errors import UpstreamCut, UpstreamTimeout
from gateway.exchange import HeaderList
from gateway.leash import Pause
from gateway.ports import CallTimes, Clock
from gateway.upstream import faults
from gateway.upstream.connection import Connection
from gateway.upstream.faults import Break
from gateway.upstream.heads import Answer
from gateway.upstream.upload import Upload

READ_BUFFER = 128 * 1024  # bytes; past it the socket is not read


@dataclass(frozen=True, slots=True)
class Terms:
    """What all calls to one upstream have in common."""

    name: str
    clock: Clock
    timeouts: Timeouts


class HTTPReply:
    """The `Reply` port, and the `Receiver` of its connection: one attempt at one call.

    Most answers come whole: what they do not come to stands on the class.
    """

    status = 0
    headers: HeaderList
    varies = False  # some of them differ from answer to answer
    length: int | None = None
    encoded = False
    headed = False
    error: Exception | None = None
    outcome: str | None = None  # once it is over
    stale = False  # the connection was dead when it was taken
    _class = ""  # of its status
    _connection: Connection | None = None
    _upload: asyncio.Task[None] | None = None
    _done: Callable[[str], None] | None = None
    _buffered = 0
    _take: Callable[[bytes], bool] | None = None
    _stopped = False
    _pause: Pause | None = None  # somebody waits
    _news = False  # for who waits
    _waiting_since: float | None = None

    def __init__(self, terms: Terms, times: CallTimes, ends: float | None) -> None:
        """`ends`: the second, by the clock, at which `timeouts.total` is over."""
        self.times = times
        self._terms = terms
        self._ends = ends
        self._buffer: list[bytes] = []

    # -- the call ----------------------------------------------------------------------------------

    def begin(
        self,
        connection: Connection,
        request: bytes,
        upload: Upload | None,
        now: float,
        *,
        bare: bool,
    ) -> None:
        """Send the request; `upload` brings the rest of it. What comes of it: `answered`."""
        self._connection = connection
        connection.begin(self, request, whole=upload is None, bare=bare)
        self._live_on(now)
        if upload is not None:
            sending = self._send(connection, upload)
            self._upload = asyncio.get_running_loop().create_task(sending)

    async def answered(self) -> None:
        """Return when the answer's head is here, or `error` says why not."""
        try:
            while not (self.headed or self.outcome):
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
            self.go_on()

    def _progress(self) -> None:
        if not self.headed:
            self._live_on(self._terms.clock.monotonic())

    def _live_on(self, now: float) -> None:
        """A sign of life of the request: the wait for the answer begins anew."""
        if self._connection is not None:
            due, ends = now + self._terms.timeouts.first_byte, self._ends
            self._connection.wake(due if ends is None or due < ends else ends)

    # -- the port ----------------------------------------------------------------------------------

    def whole(self) -> bytes | None:
        """The body, where all of it is here; it is read then."""
        if self.outcome is None or self.error is not None:
            return None
        return self._drain() if self._buffer else b""

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
        if self._buffer or self.outcome is None:
            let_go = UpstreamCut(f"The answer of upstream '{self._terms.name}' was let go.")
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

    # -- who waits ---------------------------------------------------------------------------------

    def _wait(self) -> Pause:
        """To be awaited: it is over when there are news."""
        self._waiting_since = self._terms.clock.monotonic()
        self._news = False
        pause = self._pause = Pause()
        if self.headed:
            self._watch()
        return pause

    def go_on(self) -> None:
        """Who waits goes on, if there are news. To be called last."""
        pause = self._pause
        if self._news and pause is not None:
            self._pause = self._waiting_since = None
            pause.end()

    # -- what the connection tells -----------------------------------------------------------------

    def on_first_byte(self) -> None:
        self.times.first_byte = self._terms.clock.monotonic()

    def on_head(self, answer: Answer) -> None:
        head = answer.head
        self.status, self._class, self.encoded = head.status, head.outcome, head.encoded
        self.headers, self.varies, self.length = answer.headers, answer.varies, answer.length
        self.headed = self._news = True

    def on_data(self, data: bytes) -> None:
        take = self._take
        if take is None:
            self._buffer.append(data)
            self._buffered += len(data)
            if self._buffered > READ_BUFFER and self._connection is not None:
                self._connection.pause()
            self._news = True
            return
        self._waiting_since = self._terms.clock.monotonic()
        try:
            if take(data):
                return
            self._stopped = True
        except Exception as exc:
            self._fail(exc, faults.ABANDONED)
        self._take = None
        self._news = True

    def on_end(self) -> None:
        self._over(self._class)

    def on_break(self, why: Break) -> None:
        connection, name = self._connection, self._terms.name
        if self.headed:
            self._fail(faults.cut_short(name, why), faults.CUT)
            return
        if connection is not None and connection.uses and not connection.received:
            self.stale = why is Break.CLOSED
        self._fail(faults.no_answer(name, why.value), faults.ERROR)

    # -- deadlines ---------------------------------------------------------------------------------

    def on_alarm(self, now: float) -> None:
        name, since = self._terms.name, self._waiting_since
        if self._ends is not None and now >= self._ends:
            self._time_out(f"Upstream '{name}' was not done in time.")
        elif not self.headed:
            self._time_out(f"Upstream '{name}' did not begin to answer in time.")
        elif since is not None and now - since >= self._terms.timeouts.idle:
            self._time_out(f"Upstream '{name}' fell silent.")
        else:
            self._watch()

    def _watch(self) -> None:
        """Silence counts while somebody waits for bytes."""
        if self._connection is not None:
            since, ends, terms = self._waiting_since, self._ends, self._terms
            due = (terms.clock.monotonic() if since is None else since) + terms.timeouts.idle
            self._connection.wake(due if ends is None or due < ends else ends)

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
        self._news = True
        # It may be another call's from now on: not ours to close.
        self._connection = None
        upload, self._upload = self._upload, None
        if upload is not None and upload is not asyncio.current_task():
            upload.cancel()
        done, self._done = self._done, None
        if done is not None:
            done(outcome)
