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
from typing import TYPE_CHECKING, Final, cast

from gateway.config import Server
from gateway.errors import GatewayError, Overloaded, RequestTimeout
from gateway.ports import ClientGone
from gateway.web.answer import Answer
from gateway.web.body import RequestBody
from gateway.web.deadlines import Deadlines
from gateway.web.heads import NO_HEAD
from gateway.web.parser import Peer, Request, RequestParser
from gateway.web.writer import Writer

if TYPE_CHECKING:
    from gateway.web.server import DataPlane

SMALL_BODY: Final = 64 * 1024  # bytes
APART: Final = 0.5  # seconds between a head and its small body, until they are seen to apart
PIPELINE_LIMIT: Final = 64 * 1024  # unparsed bytes behind the current request
# nginx's lingering_time and lingering_timeout; the bytes bound what a hostile client makes us read.
LINGER_TIME: Final = 30.0  # seconds in all
LINGER_GAP: Final = 5.0  # seconds without a byte
LINGER_BYTES: Final = 256 * 1024 * 1024
REFUSED_GAP: Final = 1.0  # seconds without a byte, for connections beyond the cap

# Nothing of the next request has come; its head has, and its small body will soon; the first one's
# or some of a head has come; a request is being answered whose body is not all here; one that is
# all here; the answer is out, and what still comes is dropped; closed.
_IDLE, _PART, _HEAD, _BODY, _BUSY, _LINGER, _CLOSED = range(7)


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket; `Feeder` of its bodies, `Wire` of its answers."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._parser = RequestParser()
        self._head = NO_HEAD  # of the latest request; the next one's is likely the same
        self._state = _HEAD
        self._transport: asyncio.Transport
        self._writer: Writer
        self._deadlines: Deadlines
        self._peer: Peer
        self._body: RequestBody | None = None
        self._answer: Answer | None = None
        self.budget = plane.budget  # of all bodies together
        self.date = plane.date
        self._broken = False  # what comes cannot be parsed any more
        self._rest = bytearray()  # what follows the current request
        self._read_paused = False
        self._started = 0.0  # first byte of the current request; 0: none came yet
        self._linger_until = 0.0
        self._linger_left = LINGER_BYTES
        self._linger_gap = LINGER_GAP
        self.last_read = 0.0
        self.gone = False  # the client has left
        self.persists = False  # another request may follow the current one

    @property
    def busy(self) -> bool:
        """A request is being answered, or its answer is still on its way."""
        return self._answer is not None or self._state >= _LINGER or self._writer.waits

    @property
    def settings(self) -> Server:
        """Those of now."""
        return self._plane.settings

    # The transport's calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane = self._plane
        self._transport = cast("asyncio.Transport", transport)
        self._deadlines = Deadlines(
            plane.loop, plane.clock, plane.settings.slow_reader, self._too_late, self.abort
        )
        self._writer = Writer(self._transport, plane.flusher, self._deadlines.watch_writes)
        self._writer.file = plane.file_of(transport)
        self._deadlines.writer = self._writer
        self._peer = Peer(transport)
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
        if state == _IDLE:
            at = self._head.begins(data)
            if at:
                self._answer_at_once(data[at:], self._plane.clock.monotonic())
            elif 0 < self._head.lacks(data) <= SMALL_BODY:
                self._await_body(data)
            else:
                self._read_next(data)
        elif state == _PART:
            self._go_on(data)
        elif state == _LINGER:
            self._discard(len(data))
        elif state == _BUSY:
            self._hold(data)
        elif state != _CLOSED and not self._broken:
            self._read(data)

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._state = _CLOSED
        self._deadlines.cancel()
        self._plane.left(self)

    def pause_writing(self) -> None:
        self._writer.paused = True

    def resume_writing(self) -> None:
        self._writer.paused = False
        if self._answer is not None:
            self._answer.writable()

    # Bytes in ------------------------------------------------------------------------------------

    def _answer_at_once(self, body: bytes, started: float) -> None:
        """A whole request is here, with the head of the one before."""
        plane, size = self._plane, len(body)
        self._state = _BUSY
        self.persists = not plane.draining
        asked = Request(self._head, RequestBody(self, size, size, True, body), self._peer, started)
        answer = Answer(self, self._writer)
        if plane.launch(self, asked, answer):
            self.budget.used -= asked.body.reserved
            if self._state == _BUSY:
                self._state = _IDLE  # as before: a timer runs
                self._deadlines.due = started + plane.settings.keepalive_timeout
        else:
            self._body, self._answer = asked.body, answer
            self._deadlines.send_any_time()

    def _await_body(self, data: bytes) -> None:
        """Wait a moment for the small body: httpx, and so OpenAI's client, sends it apart."""
        self._state = _PART
        self._rest += data
        self._started = self._plane.clock.monotonic()
        self._deadlines.send_by(self._started + APART)

    def _go_on(self, more: bytes = b"") -> None:
        """Read what was held."""
        data = bytes(self._rest) + more
        self._rest.clear()
        at = self._head.begins(data)
        if at:
            self._answer_at_once(data[at:], self._started)
        else:
            self._read_next(data, self._started)

    def _read_next(self, data: bytes, started: float = 0.0) -> None:
        """The first bytes of another request."""
        self._parser.next()
        self._state = _HEAD
        self._started = started
        self.persists = False
        self._read(data)
        if self._state == _HEAD:
            self._deadlines.send_by(self._started + self._plane.settings.header_timeout)

    def _read(self, data: bytes) -> None:
        parser = self._parser
        request: Request | None = None
        self.last_read = self._plane.clock.monotonic()
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
            self._body.spoil(error)
            data = b""
        body = self._body
        if body is None:
            return
        if parser.complete:
            self._state = _BUSY
            self.persists = parser.head.keep_alive and not self._plane.draining
            body.feed_eof()
            if data:
                self._hold(data)
            if len(self._rest) <= PIPELINE_LIMIT:
                self._resume()  # only who reads sees a client leave
        if request is None:
            body.wake()
        elif self._answer is not None and self._plane.launch(self, request, self._answer):
            self.ended()

    def _hold(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) > PIPELINE_LIMIT:
            self.pause()

    def _take_rest(self) -> None:
        if self._state == _BUSY and not self.gone:
            data = bytes(self._rest)
            self._rest.clear()
            self._resume()
            self._read_next(data)

    def pause(self) -> None:
        """Read no more until somebody waits."""
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    # One request ---------------------------------------------------------------------------------

    def _begin(self) -> Request:
        parser = self._parser
        self._head = head = parser.head
        self._state = _BODY
        self._deadlines.send_any_time()
        self._body = parser.body = RequestBody(self, parser.length, 0, parser.complete)
        self._answer = Answer(self, self._writer)
        self._answer.fit(head.method, head.version)
        return Request(head, self._body, self._peer, self._started)

    def ended(self) -> None:
        """The handler has returned, or was not asked."""
        plane, body = self._plane, self._body
        if body is not None:
            self.budget.used -= body.reserved
        self._body = self._answer = self._parser.body = None
        if self._state != _BUSY:
            return
        if plane.draining:
            self._hang_up()
        elif self._rest:
            plane.loop.call_soon(self._take_rest)
        else:
            self._state = _IDLE
            self._deadlines.send_by(plane.clock.monotonic() + plane.settings.keepalive_timeout)

    def _refuse(self, error: GatewayError) -> None:
        """Answer what never became a request."""
        Answer(self, self._writer).send(*self._plane.render(error))

    # For the body --------------------------------------------------------------------------------

    def body_asked(self) -> None:
        """Somebody wants the body: RFC 9110 section 10.1.1."""
        answer, body = self._answer, self._body
        if self._parser.expect_continue and answer is not None and body is not None:
            self._parser.expect_continue = False
            if not body.received and not answer.started:
                self._writer.push(b"HTTP/1.1 100 Continue\r\n\r\n")
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
        if self._state < _LINGER:
            self._deadlines.send_any_time()
        return self._plane.clock.monotonic()

    # For the answer ------------------------------------------------------------------------------

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
            self._writer.reset_at_close()
        self._close()

    # Ends ----------------------------------------------------------------------------------------

    def _too_late(self, now: float) -> None:
        """The client has not sent what it should have."""
        if self._state == _HEAD:
            if self._started:
                self._refuse(RequestTimeout("The request's head did not arrive in time."))
            else:
                self._close()
        elif self._state == _IDLE:
            self._close()
        elif self._state == _PART:
            self._go_on()
        elif self._state < _LINGER and self._body is not None:
            due = self._body.due()
            if now >= due:
                self._body.overdue()
            else:
                self._deadlines.send_by(due)
        elif self._writer.waits:  # it is still taking the answer
            self._deadlines.send_by(now + self._linger_gap)
        else:
            self.abort()

    def drain(self) -> None:
        """No other request is to follow: close a connection that waits for one."""
        self.persists = False
        if self._state == _IDLE:
            self._close()

    def _hang_up(self) -> None:
        """The last answer is written: let the client read it, then close."""
        if self._state == _BUSY and not self._rest:
            self._close()
            return
        self._writer.flush()
        now = self._plane.clock.monotonic()
        self._state = _LINGER
        self._rest.clear()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # reset in this moment: connection_lost follows
                self._transport.write_eof()
        self._resume()
        self._linger_until = now + LINGER_TIME
        self._deadlines.send_by(now + self._linger_gap)
        if self._body is not None:
            self._body.fail(ClientGone("The answer is out; the rest of the body is dropped."))

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
        self._writer.flush()
        self._transport.close()

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
        if self._state == _PART:
            self._go_on()
        if self._body is not None:
            self._body.fail(ClientGone("The client has left."))
        if self._answer is not None:
            self._answer.client_left()
