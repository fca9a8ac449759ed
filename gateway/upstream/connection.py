"""One connection to an upstream: a request out, an answer in, one call at a time.

Rules: an answer is whole where its framing says so, and nowhere else; a connection serves again
only if its request was sent whole and its answer read to exactly that end. Bytes that nobody asked
for end it (RFC 9112 section 9.2), or they would be the next request's answer. Heads are read in
heads.py; what Content-Length counts is counted here, and llhttp reads chunks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from gateway.bursts import Flusher
from gateway.ports import Clock
from gateway.upstream.faults import Break
from gateway.upstream.heads import BODILESS, HEAD_LIMIT, Answer, KiB, Start, read

OVERHEAD_LIMIT = 64 * KiB  # bytes of chunk sizes, extensions and trailers without a body byte
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Receiver(Protocol):
    """Who made the call. Nothing of its own may be raised here."""

    def on_first_byte(self) -> None: ...
    def on_head(self, answer: Answer) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_break(self, why: Break) -> None: ...

    def on_alarm(self, now: float) -> None:
        """The time that was set with `wake` is over."""

    def go_on(self) -> None:
        """For now that is all: called last, since who waits goes on in it."""


class Home(Protocol):
    """Where a connection comes from and rests between two calls."""

    @property
    def flusher(self) -> Flusher: ...

    def rested(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """The protocol of one established socket. Times are the clock's monotonic seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, home: Home) -> None:
        self.uses = 0
        self.received = 0  # bytes since the present call began
        self._loop = loop
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._alarm = Alarm(loop, clock, self._ring)
        # Call `on_alarm` at a second, unless it is set anew before; where it is nobody's, close.
        self.wake = self._alarm.at
        self._drained: asyncio.Future[None] | None = None
        self._blocked = False  # the transport's buffer is full
        self._paused = False  # reading is
        self._sent = True  # the request was handed over whole
        self._held = b""  # of it, until the end of the loop's turn
        self._bare = False  # HEAD: the answer has no body
        # The answer.
        self._start: Start | None = None  # of a head that is not all there
        self._headed = self._keep_alive = False
        self._left: int | None = 0  # bytes of the body still to come; None: not known
        self._chunks: Chunks | None = None
        self._in_chunks = False
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
        self.received = 0
        self._headed = False
        self._sent = whole
        self._bare = bare
        flusher = self._home.flusher
        if flusher.latest is self:
            self._transport.write(request)
        else:
            flusher.latest = self
            flusher.add(self)
            self._held = request

    def flush(self) -> None:
        """Send what is held back."""
        held, self._held = self._held, b""
        if held and self._transport is not None and not self._transport.is_closing():
            self._transport.write(held)

    async def write(self, data: bytes | memoryview, *, last: bool = False) -> None:
        """More of the request; returns when there is room for more. ConnectionError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self.flush()
        self._transport.write(data)
        self._sent = last
        if self._blocked:
            self._drained = self._loop.create_future()
            await self._drained

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
        receiver = self._receiver
        self._break(Break.CLOSED)
        if receiver is not None:
            receiver.go_on()

    def _ring(self, now: float) -> None:
        receiver = self._receiver
        if receiver is not None:
            receiver.on_alarm(now)
            receiver.go_on()
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
        if not self._headed:
            data = self._read_head(receiver, data)
        if self._headed and self._receiver is receiver:
            self._read_body(receiver, data)
        receiver.go_on()

    def eof_received(self) -> None:
        self._hang_up(reset=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._alarm.cancel()
        if self._chunks is not None:
            self._chunks.close()
        self._wake_writer()
        self._home.lost(self)
        self._hang_up(reset=exc is not None)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._wake_writer()

    def _wake_writer(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- the answer --------------------------------------------------------------------------------

    def _read_head(self, receiver: Receiver, data: bytes) -> bytes:
        """What follows the head, once it is all there (`_headed`)."""
        try:
            if self._start is not None:
                data = self._start.feed(data)
            answer = read(data)
            while answer is not None and answer.head.status < 200:  # the answer is still to come
                self._start, data = None, data[answer.size :]
                answer = read(data)
            if answer is None:
                self._wait_for_head(data)
                return b""
        except ValueError:
            self._break(Break.GARBAGE)
            return b""
        self._start, self._overhead, head = None, 0, answer.head
        self._headed, self._keep_alive = True, head.keep_alive
        self._in_chunks = False
        if self._bare or head.status in BODILESS:
            self._left = 0
        elif head.chunked:
            self._left, self._in_chunks = None, True
            self._chunks = self._chunks or Chunks()
            self._chunks.begin()
        else:
            self._left = answer.length
        receiver.on_head(answer)
        return data[answer.size :]

    def _wait_for_head(self, data: bytes) -> None:
        if self.received > HEAD_LIMIT:
            raise ValueError
        if self._start is None and data:
            self._start = Start()
            self._start.feed(data)

    def _read_body(self, receiver: Receiver, data: bytes) -> None:
        left, size = self._left, len(data)
        if left is not None:
            if size < left:
                self._left = left - size
                if data:
                    receiver.on_data(data)
                return
            if left:
                receiver.on_data(data[:left])
            ended, intact = True, size == left
        elif self._in_chunks and self._chunks is not None:
            data, ended, intact = self._chunks.feed(data)
            if data:
                self._overhead = 0
                receiver.on_data(data)
            else:
                self._overhead += size
                intact = intact and self._overhead <= OVERHEAD_LIMIT
        else:
            ended, intact = False, True
            if data:
                receiver.on_data(data)
        if self._receiver is not receiver:
            return  # it has let go
        if ended:
            self._end(intact)
        elif not intact:
            self._break(Break.GARBAGE)

    # -- how it ends -------------------------------------------------------------------------------

    def _hang_up(self, *, reset: bool) -> None:
        """The upstream has closed: the end of a body that nothing else delimits, else a cut."""
        receiver = self._receiver
        if receiver is None:
            self.abort()
            return
        if self._headed and self._left is None and not (self._in_chunks or reset):
            self._end(False)
        else:
            self._break(Break.CLOSED)
        receiver.go_on()

    def _end(self, intact: bool) -> None:
        receiver, self._receiver = self._receiver, None
        transport = self._transport
        assert receiver is not None
        self.uses += 1
        if (
            intact
            and self._keep_alive
            and self._sent
            and not self._bare
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        ):
            if self._paused:
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


class Chunks:
    """llhttp over chunked bodies, one after the other. Trailers are read and dropped."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # not a frame for each chunk
        self._whole: int | None = None  # pieces of a body that has ended
        self._messages = 0
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """The next body. ValueError: the one before was no HTTP."""
        self._whole, self._messages = None, 0
        self._parser.feed_data(_CHUNKED)

    def feed(self, data: bytes) -> tuple[bytes, bool, bool]:
        """What is in the chunks; has the body ended; is it HTTP, and nothing behind its end."""
        pieces = self._pieces
        try:
            self._parser.feed_data(data)
            intact = self._messages == 1
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            intact = False
        ended = self._whole is not None
        if ended:
            del pieces[self._whole :]
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body, ended, intact

    def close(self) -> None:
        """It can be forgotten: its parser holds it."""
        del self._parser

    def on_message_begin(self) -> None:
        self._messages += 1

    def on_message_complete(self) -> None:
        if self._whole is None:
            self._whole = len(self._pieces)


class Alarm:
    """One timer that is set anew only where it rings too early: to put its time off costs none."""

    __slots__ = ("_at", "_clock", "_due", "_loop", "_ring", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, ring: Callable[[float], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = self._due = math.inf  # when the timer rings; when it should

    def at(self, due: float) -> None:
        """Ring at `due`, by the clock, and not at the time set before."""
        self._due = due
        if self._timer is not None:
            if self._at <= due:
                return
            self._timer.cancel()
        self._at = due
        self._timer = self._loop.call_later(max(0.0, due - self._clock.monotonic()), self._rang)

    def cancel(self) -> None:
        """Never ring again; its owner can be forgotten."""
        self._ring = _silent
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rang(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        if self._due > now:  # put off meanwhile, or the loop's clock is coarser
            self.at(self._due)
        else:
            self._ring(now)


def _silent(_: float) -> None:
    """Of an alarm that is of no use any more."""
