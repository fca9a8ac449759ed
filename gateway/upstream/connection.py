"""One connection to an upstream: a request out, an answer in, one call at a time.

llhttp does the grammar, without any of its leniencies. Rules: an answer is whole where its framing
says so, and nowhere else; a connection serves again only if its request was sent whole and its
answer read to exactly that end. Bytes that nobody asked for end it (RFC 9112 section 9.2), or they
would be the next request's answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from gateway.upstream.faults import Break

KiB = 1024
HEAD_LIMIT = 256 * KiB  # bytes of an answer's head, and of those before it (1xx)
FIELD_LIMIT = 128 * KiB  # bytes of one header (requirement I7)
HEADERS_LIMIT = 256
OVERHEAD_LIMIT = 64 * KiB  # bytes of chunk sizes, extensions and trailers without a body byte
BODILESS = frozenset({204, 304})

RawHeaders = list[tuple[bytes, bytes]]


class Receiver(Protocol):
    """Who made the call. Nothing of its own may be raised here."""

    def on_first_byte(self) -> None: ...
    def on_head(self, status: int, headers: RawHeaders) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_break(self, why: Break) -> None: ...

    def on_alarm(self, now: float) -> None:
        """The time that was set with `wake` is over."""


class Home(Protocol):
    """Where a connection comes from and rests between two calls."""

    def rested(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """The protocol of one established socket. Times are the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home) -> None:
        self.uses = 0
        self.received = 0  # bytes since the present call began
        self._loop = loop
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._alarm = Alarm(loop, self._ring)
        self._drained: asyncio.Future[None] | None = None
        self._blocked = False  # the transport's buffer is full
        self._paused = False  # reading is
        self._sent = True  # the request was handed over whole
        self._bare = False  # HEAD: the answer has no body, which llhttp cannot know
        self._headers: RawHeaders = []
        self._pieces: list[bytes] = []
        self._headed = self._told = self._complete = False
        self._surplus = False  # something came after the end
        self._keep_alive = False
        self._status = 0
        self._until_close = False  # the body ends with the connection
        self._overhead = 0

    # -- one call ----------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """It is open and nobody's."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._receiver is None

    def begin(self, receiver: Receiver, request: bytes, *, whole: bool, bare: bool) -> None:
        """Send `request`: its head, and its body if it is `whole`; else `write` brings the rest."""
        assert self._transport is not None
        self._receiver = receiver
        self.received = self._overhead = 0
        self._headers = []
        self._headed = self._told = self._complete = self._until_close = False
        self._sent = whole
        self._bare = bare
        self._transport.write(request)

    async def write(self, data: bytes | memoryview, *, last: bool = False) -> None:
        """More of the request; returns when there is room for more. ConnectionError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        self._sent = last
        if self._blocked:
            self._drained = self._loop.create_future()
            await self._drained

    def wake(self, when: float) -> None:
        """Call `on_alarm` at `when`, unless it is set anew before."""
        self._alarm.at(when)

    def pause(self) -> None:
        """Read no more."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, telling nobody: `close` would wait for unsent bytes and for TLS's goodbye
        (B5, B10)."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    def kill(self) -> None:
        """Close at once; who made the call is told that the connection has closed."""
        self._break(Break.CLOSED)

    def rest(self, until: float) -> None:
        """Nobody's until the next call; closed when it does not come in time."""
        self._alarm.at(until)

    def _ring(self, now: float) -> None:
        if self._receiver is not None:
            self._receiver.on_alarm(now)
        else:
            self.abort()

    # -- the transport's calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.abort()
            return
        if not self.received:
            receiver.on_first_byte()
        self.received += len(data)
        intact = self._parse(data)
        if self._headed and not self._told:
            self._told = True
            receiver.on_head(self._status, self._headers)
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if self._receiver is receiver:
                receiver.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._receiver is not receiver:
            return  # it has let go
        if self._complete:
            self._end(intact)
        elif not intact:
            self._break(Break.GARBAGE)

    def eof_received(self) -> None:
        self._hang_up(reset=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._alarm.cancel()
        self._hang_up(reset=exc is not None)
        self._wake_writer()
        self._home.lost(self)
        del self._parser  # it holds this object

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._wake_writer()

    def _wake_writer(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- how an answer ends ------------------------------------------------------------------------

    def _hang_up(self, *, reset: bool) -> None:
        """The upstream has closed: the end of a body that nothing else delimits, else a cut."""
        if self._receiver is None:
            self.abort()
        elif self._told and self._until_close and not reset:
            self._end(False)
        else:
            self._break(Break.CLOSED)

    def _end(self, intact: bool) -> None:
        receiver, self._receiver = self._receiver, None
        transport = self._transport
        assert receiver is not None
        self.uses += 1
        if (
            intact
            and self._keep_alive
            and self._sent
            and not (self._surplus or self._bare)
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        ):
            self.resume()
            self._home.rested(self)
        else:
            self.abort()
        receiver.on_end()

    def _break(self, why: Break) -> None:
        receiver = self._receiver
        self.abort()
        if receiver is not None:
            receiver.on_break(why)

    # -- the parser --------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> bool:
        """False: from here on it is not HTTP, or past a limit."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        if not self._headed:
            return self.received <= HEAD_LIMIT
        if not self._pieces and self._told:
            self._overhead += len(data)
            return self._overhead <= OVERHEAD_LIMIT
        self._overhead = 0
        return True

    def on_message_begin(self) -> None:
        self._surplus = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # a trailer: read and dropped
        if len(self._headers) >= HEADERS_LIMIT or len(name) + len(value) > FIELD_LIMIT:
            raise ValueError  # httptools makes it its own error
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        parser = self._parser
        status = parser.get_status_code()
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"} or status == 101:
            raise ValueError
        if status < 200:
            return
        self._status = status
        self._keep_alive = parser.should_keep_alive()
        if self._bare:
            self._complete = True
        elif not self._keep_alive and status not in BODILESS:
            self._find_end({name.lower() for name, _ in self._headers}, version)
        self._headed = True

    def _find_end(self, names: set[bytes], version: str) -> None:
        """Of an answer after which the connection closes (RFC 9112 sections 6.1 and 6.3)."""
        if b"transfer-encoding" in names:
            if version == "1.0":
                raise ValueError
        else:
            self._until_close = b"content-length" not in names

    def on_body(self, data: bytes) -> None:
        if self._complete:
            self._surplus = True
        else:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
        else:  # 1xx: the answer is still to come
            self._headers = []


class Alarm:
    """One timer that is set anew only where it rings too early: to put its time off costs none."""

    __slots__ = ("_at", "_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[float], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = self._due = math.inf  # when the timer rings; when it should

    def at(self, due: float) -> None:
        """Ring at `due`, the loop's seconds, and not at the time set before."""
        self._due = due
        if self._timer is not None:
            if self._at <= due:
                return
            self._timer.cancel()
        self._at = due
        self._timer = self._loop.call_at(due, self._rang)

    def cancel(self) -> None:
        """Never ring again; its owner can be forgotten."""
        self._ring = _silent
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rang(self) -> None:
        self._timer = None
        if self._due > self._at:
            self.at(self._due)
        else:
            self._ring(self._loop.time())


def _silent(_: float) -> None:
    """Of an alarm that is of no use any more."""
