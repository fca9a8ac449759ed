"""One client connection: its bytes in, its deadlines, and one request after the other.

Rules: one request is handled at a time, in a task of its own that a disconnect never cancels;
whoever answers learns of it through `gone`, `on_gone` and ClientGone. An answer to a client that is
still sending is followed by a half-close and a while of reading, since a plain close would reset
the connection and take the answer with it (RFC 9112 section 9.6).

Known limits. The end of the client's stream counts as its leaving: a half-close (`printf | nc -N`)
cannot be told from a close before something is written, and an upstream must be let go within a
second (requirement B5). While the server pauses reading (a body that nobody takes, more than 64 KiB
pipelined) it cannot see a client leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from gateway.errors import GatewayError, Overloaded, RequestTimeout
from gateway.ports import ClientGone
from gateway.web.answer import Answer
from gateway.web.body import RequestBody
from gateway.web.deadlines import Deadlines
from gateway.web.parser import Request, RequestParser
from gateway.web.writer import Writer

if TYPE_CHECKING:
    from gateway.web.server import DataPlane

PIPELINE_LIMIT: Final = 64 * 1024  # unparsed bytes behind the current request
# nginx's lingering_time and lingering_timeout; the bytes bound what a hostile client makes us read.
LINGER_TIME: Final = 30.0  # seconds in all
LINGER_GAP: Final = 5.0  # seconds without a byte
LINGER_BYTES: Final = 256 * 1024 * 1024
REFUSED_GAP: Final = 1.0  # seconds without a byte, for connections beyond the cap

_HEAD, _BUSY, _LINGER, _CLOSED = range(4)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket; `Feeder` of its bodies, `Wire` of its answers."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._parser = RequestParser()
        self._state = _HEAD
        self._transport: asyncio.Transport
        self._writer: Writer
        self._deadlines: Deadlines
        self._body: RequestBody | None = None
        self._answer: Answer | None = None
        self.budget = plane.budget  # of all bodies together
        self._broken = False  # what comes cannot be parsed any more
        self._idle = False  # between two requests
        self._rest = bytearray()  # what follows the current request
        self._read_paused = False
        self._started = 0.0  # first byte of the current request; 0: none came yet
        self._linger_until = 0.0
        self._linger_left = LINGER_BYTES
        self._linger_gap = LINGER_GAP
        self.last_read = 0.0
        self.gone = False  # the client has left

    @property
    def busy(self) -> bool:
        """A request is being answered, or its answer is still on its way."""
        return self._answer is not None or self._state >= _LINGER or self._writer.unsent() > 0

    # The transport's calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane = self._plane
        self._transport = cast("asyncio.Transport", transport)
        self._writer = Writer(self._transport, plane.flusher)
        self._deadlines = Deadlines(
            plane.loop,
            plane.clock,
            self._writer,
            plane.settings.slow_reader,
            self._too_late,
            self.abort,
        )
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._secure = transport.get_extra_info("sslcontext") is not None
        self.last_read = plane.clock.monotonic()
        if plane.joined(self):
            self._deadlines.send_by(self.last_read + plane.settings.header_timeout)
        elif plane.may_explain:
            self._linger_gap = REFUSED_GAP
            self._refuse(Overloaded("There are too many connections. Try again.", retry_after=1))
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _LINGER:
            self._discard(len(data))
        elif self._rest or (state == _BUSY and self._parser.complete):
            self._hold(data)
        elif state != _CLOSED and not self._broken:
            self.last_read = self._plane.clock.monotonic()
            self._read(data)

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self._deadlines.cancel()
        self._leave()
        self._plane.left(self)

    def pause_writing(self) -> None:
        self._writer.paused = True
        self._deadlines.watch_writes()

    def resume_writing(self) -> None:
        self._writer.paused = False
        if self._answer is not None:
            self._answer.writable()

    # Bytes in ------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        parser = self._parser
        request: Request | None = None
        if not self._started:
            self._started = self.last_read
        try:
            data = parser.feed(data)
            if self._state == _HEAD and parser.ready:
                request = self._begin()
                if data and not parser.complete:
                    data = parser.feed(data)
        except GatewayError as error:
            self._broken = True
            if self._body is None:
                self._refuse(error)
                return
            self._body.fail(error)
            data = b""
        if data:
            self._hold(data)
        if self._body is None:
            if self._idle:
                self._idle = False
                self._deadlines.send_by(self._started + self._plane.settings.header_timeout)
            return
        if parser.complete:
            self._body.feed_eof()
            if len(self._rest) <= PIPELINE_LIMIT:
                self._resume()  # only who reads sees a client leave
        if request is not None:
            assert self._answer is not None
            self._plane.launch(request, self._answer, self._ended)

    def _hold(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) > PIPELINE_LIMIT:
            self._pause()

    def _take_rest(self) -> None:
        if self._state == _HEAD and self._rest and not self.gone:
            data = bytes(self._rest)
            self._rest.clear()
            self._resume()
            self.last_read = self._plane.clock.monotonic()
            self._read(data)

    def _pause(self) -> None:
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    # One request ---------------------------------------------------------------------------------

    def _begin(self) -> Request:
        parser, settings = self._parser, self._plane.settings
        head = parser.head
        self._state = _BUSY
        self._idle = False
        self._deadlines.send_any_time()
        self._body = parser.body = RequestBody(
            self,
            parser.length,
            eof=parser.complete,
            timeout=settings.body_timeout,
            min_rate=settings.body_min_rate,
        )
        self._answer = Answer(
            self,
            self._writer,
            head_request=head.method == "HEAD",
            version_10=head.version == "1.0",
        )
        return Request(head, parser.headers, self._body, self._peer, self._started, self._secure)

    def _ended(self) -> None:
        """The handler has returned, or was not asked."""
        body = self._body
        if body is not None and body.reserved:
            self._plane.budget.give(body.reserved)
        self._body = self._answer = self._parser.body = None
        if self._state == _BUSY:
            self._next()

    def _next(self) -> None:
        plane = self._plane
        if plane.draining:
            self._hang_up()
            return
        self._parser.next()
        self._state = _HEAD
        self._started = 0.0
        self._idle = True
        now = plane.clock.monotonic()
        self._deadlines.send_by(now + plane.settings.keepalive_timeout)
        if self._writer.unsent():
            self._deadlines.watch_writes()
        if self._rest:
            plane.loop.call_soon(self._take_rest)

    def _refuse(self, error: GatewayError) -> None:
        """Answer what never became a request."""
        self._broken = True
        answer = Answer(self, self._writer, head_request=False, version_10=False)
        answer.send(*self._plane.render(error))

    # For the body --------------------------------------------------------------------------------

    def body_asked(self) -> None:
        """Somebody wants the body: RFC 9110 section 10.1.1."""
        answer, body = self._answer, self._body
        if self._parser.expect_continue and answer is not None and body is not None:
            self._parser.expect_continue = False
            if not body.received and not answer.started:
                self._writer.hold(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._writer.flush()

    def body_wait(self) -> float:
        """Somebody waits for body bytes: read on. Returns monotonic seconds."""
        self._resume()
        return self._plane.clock.monotonic()

    def body_due(self, at: float) -> None:
        """The client is too slow if nothing comes until `at`."""
        self._deadlines.send_by(at)

    def body_waited(self) -> float:
        """Nobody waits any more. Returns monotonic seconds."""
        if self._state == _BUSY:
            self._deadlines.send_any_time()
        return self._plane.clock.monotonic()

    def body_full(self) -> None:
        """Read no more until somebody waits."""
        self._pause()

    # For the answer ------------------------------------------------------------------------------

    @property
    def persistent(self) -> bool:
        """Another request may follow the current one on this connection."""
        parser = self._parser
        return parser.complete and parser.head.keep_alive and not self._plane.draining

    def date(self) -> str:
        """The Date header, with its end of line."""
        return self._plane.date()

    def answered(self) -> None:
        """The answer is whole, and the connection ends with it."""
        if not self.gone:
            self._hang_up()

    def cut(self, *, reset: bool) -> None:
        """End the connection within an answer; `reset` where a plain end would look whole."""
        if self._state == _CLOSED or self.gone:
            return
        self._writer.flush()
        if reset:
            with contextlib.suppress(OSError, AttributeError):
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                )
        self._close()

    # Ends ----------------------------------------------------------------------------------------

    def _too_late(self, now: float) -> None:
        """The client has not sent what it should have."""
        if self._state == _HEAD:
            if self._started:
                self._refuse(RequestTimeout("The request's head did not arrive in time."))
            else:
                self._close()
        elif self._state == _BUSY and self._body is not None:
            due = self._body.due()
            if now >= due:
                self._body.overdue()
            else:
                self._deadlines.send_by(due)
        elif self._writer.unsent():  # it is still taking the answer
            self._deadlines.send_by(now + self._linger_gap)
        else:
            self.abort()

    def close_if_idle(self) -> None:
        """Close a connection that waits for its next request."""
        if self._state == _HEAD and self._idle and not self._rest:
            self._close()

    def _hang_up(self) -> None:
        """The last answer is written: let the client read it, then close."""
        if self._parser.complete and not self._rest:
            self._close()
            return
        if self._body is not None:
            self._body.fail(ClientGone("The answer is out; the rest of the body is dropped."))
        now = self._plane.clock.monotonic()
        self._state = _LINGER
        self._rest.clear()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # reset in this moment: connection_lost follows
                self._transport.write_eof()
        self._resume()
        self._linger_until = now + LINGER_TIME
        self._deadlines.send_by(now + self._linger_gap)
        if self._writer.unsent():
            self._deadlines.watch_writes()

    def _discard(self, size: int) -> None:
        now = self._plane.clock.monotonic()
        self._linger_left -= size
        if self._linger_left < 0 or now >= self._linger_until:
            self.abort()
        else:
            self._deadlines.send_by(now + self._linger_gap)

    def _close(self) -> None:
        """Close once what was written has left."""
        self._state = _CLOSED
        self._deadlines.send_any_time()
        self._transport.close()
        if self._writer.unsent():
            self._deadlines.watch_writes()

    def abort(self) -> None:
        """Close at once, whatever is going on."""
        self._state = _CLOSED
        self._deadlines.cancel()
        self._transport.abort()

    def _leave(self) -> None:
        """The client has left. Whoever answers it is told once."""
        if self.gone:
            return
        self.gone = True
        if self._body is not None:
            self._body.fail(ClientGone("The client has left."))
        if self._answer is not None:
            self._answer.client_left()
