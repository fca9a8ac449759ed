"""The `Client` port: one answer, from its head to its end, as bytes on its connection.

Rules: what was declared is what is sent, or the connection is cut where the client can see it; a
header that could split the answer is not emitted; what is written in one turn leaves in one piece.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from gateway.exchange import HeaderList
from gateway.web.writer import Writer
from gateway.wire.fields import lines_of

log = logging.getLogger("gateway.web")

SMALL: Final = 4 * 1024  # bytes; to copy them costs less than to hand them on one by one

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class Wire(Protocol):
    """What an answer needs of its connection, besides the writer."""

    @property
    def gone(self) -> bool: ...

    @property
    def persistent(self) -> bool:
        """The connection could carry another request after this answer."""

    def date(self) -> str:
        """The Date header, with its end of line."""

    def answered(self) -> None:
        """The answer is whole, and the connection ends with it."""

    def cut(self, *, reset: bool) -> None:
        """End the connection in the middle of the answer."""


class Answer:
    """The waiting end of one request (`gateway.ports.Client`); `send` and `raw` are short cuts."""

    __slots__ = (
        "_bodiless",
        "_body_left",
        "_chunked",
        "_done",
        "_head_request",
        "_last",
        "_on_gone",
        "_on_ready",
        "_started",
        "_version_10",
        "_wire",
        "_writer",
        "bytes_out",
    )

    def __init__(self, wire: Wire, writer: Writer, *, head_request: bool, version_10: bool) -> None:
        self.bytes_out = 0  # body bytes handed to the transport
        self._wire = wire
        self._writer = writer
        self._head_request = head_request
        self._version_10 = version_10
        self._started = False
        self._done = False
        self._last = False
        self._chunked = False
        self._bodiless = False
        self._body_left: int | None = None  # declared bytes still to come
        self._on_ready: Callable[[], None] | None = None
        self._on_gone: Callable[[], None] | None = None

    # The port ------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """The client has left; what is written from now on is dropped."""
        return self._wire.gone

    @property
    def started(self) -> bool:
        """A head was written."""
        return self._started

    @property
    def done(self) -> bool:
        """Finished or aborted."""
        return self._done

    def watch(self, on_ready: Callable[[], None], on_gone: Callable[[], None]) -> None:
        """Be told when a full buffer has drained, and once when the client leaves (or has)."""
        self._on_ready = on_ready
        self._on_gone = on_gone
        if self._wire.gone:
            self.client_left()

    def start(self, status: int, headers: HeaderList, length: int | None, lines: str = "") -> None:
        """Write the head. `length` in bytes; None: chunked, or until the close for HTTP/1.0.
        `lines`: headers as `wire/fields.py` writes them, to stand before the others."""
        if self._done:
            return
        self._writer.push(self._head(status, headers, length, lines))

    def write(self, data: bytes) -> bool:
        """Hand over body bytes; False when the transport's buffer is full."""
        if self._done or self._bodiless or not data or self._wire.gone:
            return True
        if not self._started:
            raise RuntimeError("a body byte before the head")
        writer = self._writer
        if self._chunked:
            if len(data) <= SMALL:
                writer.push(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                writer.push(b"%x\r\n" % len(data))
                writer.push(data)
                writer.push(b"\r\n")
        else:
            if self._body_left is not None:
                self._body_left -= len(data)
                if self._body_left < 0:
                    log.error("an answer is longer than it declared: the connection is cut")
                    self.abort()
                    return True
            writer.push(data)
        self.bytes_out += len(data)
        return not writer.paused

    def finish(self) -> None:
        """The answer is whole: write its end."""
        if self._done:
            return
        if not self._started:
            raise RuntimeError("an end before the head")
        if self._body_left and not self._bodiless and not self._wire.gone:
            log.error("an answer is shorter than it declared: the connection is cut")
            self.abort()
            return
        if self._chunked:
            self._writer.hold(b"0\r\n\r\n")
        self._end()

    def abort(self) -> None:
        """Close without an end, so that the client sees a cut."""
        if self._done:
            return
        self._done = True
        # Only a reset tells a cut from an end that is the close itself.
        until_close = self._started and not self._chunked and self._body_left is None
        self._wire.cut(reset=until_close and not self._bodiless)

    def whole(
        self,
        status: int,
        headers: HeaderList,
        pieces: Sequence[bytes | memoryview],
        length: int | None,
        lines: str = "",
    ) -> None:
        """All of a small answer: `start`, each `write` and `finish`, in one write."""
        if self._done:
            return
        size = sum(map(len, pieces))
        if length not in {None, size}:
            raise RuntimeError("an answer of another length than it declares")
        sent: list[bytes | memoryview] = [self._head(status, headers, length, lines)]
        if not (self._bodiless or self._wire.gone):
            self.bytes_out = size
            if self._chunked:
                sent += (b"%x\r\n" % size, *pieces, b"\r\n0\r\n\r\n") if size else (b"0\r\n\r\n",)
            else:
                sent += pieces
        self._writer.send(b"".join(sent))
        self._close()

    # Short cuts ----------------------------------------------------------------------------------

    def send(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole answer in one go."""
        self.whole(status, headers, (body,), len(body))

    def raw(self, data: bytes) -> None:
        """A whole answer that is already in wire form: head with Content-Length, body. No HEAD."""
        if self._done:
            return
        self._started = True
        self._last = not self._wire.persistent
        if not self._wire.gone:
            self._writer.hold(data)
            self.bytes_out = len(data) - (data.find(b"\r\n\r\n") + 4)
        self._end()

    # The connection's side -----------------------------------------------------------------------

    def client_left(self) -> None:
        """Tell whoever watches, once."""
        call, self._on_gone = self._on_gone, None
        if call is not None and not self._done:
            call()

    def writable(self) -> None:
        """Tell whoever watches that the buffer has drained."""
        if self._on_ready is not None and not self._done:
            self._on_ready()

    # Inside --------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._writer.flush()
        self._close()

    def _close(self) -> None:
        self._done = True
        self._on_ready = self._on_gone = None
        if self._last:
            self._wire.answered()

    def _head(self, status: int, headers: HeaderList, length: int | None, lines: str) -> bytes:
        if self._started:
            raise RuntimeError("a second head")
        self._started = True
        wire = self._wire
        start = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
        fields = f"{start}{lines}{lines_of(headers)}"
        date = "" if "\r\ndate: " in fields or "\r\nDate: " in fields else wire.date()
        framing = self._frame(status, length)
        self._last = self._last or not wire.persistent
        end = "Connection: close\r\n\r\n" if self._last else "\r\n"
        return f"{fields}{date}{framing}{end}".encode("latin-1")

    def _frame(self, status: int, length: int | None) -> str:
        """Where the body ends (RFC 9112 section 6.3)."""
        if status in {204, 304}:
            self._bodiless = True
            return ""
        self._bodiless = self._head_request
        if length is not None:
            self._body_left = length
            return f"Content-Length: {length}\r\n"
        if self._bodiless:
            return ""
        if self._version_10:
            self._last = True
            return ""
        self._chunked = True
        return "Transfer-Encoding: chunked\r\n"
