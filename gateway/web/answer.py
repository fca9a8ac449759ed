"""The `Client` port: one answer, from its head to its end, as bytes on its connection.

Rules: what was declared is what is sent, or the connection is cut where the client can see it; a
header that could split the answer is not emitted; what is written in one turn leaves in one piece.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from msgspec import Struct

from gateway.exchange import HeaderList
from gateway.web.writer import LARGE, Writer
from gateway.wire.fields import lines_of

log = logging.getLogger("gateway.web")

SMALL: Final = 64 * 1024  # bytes; to copy them costs less than to hand them on one by one

_END: Final = b"\r\n0\r\n\r\n"  # of the last chunk, and of all of them
_BODILESS: Final = frozenset({204, 304})
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class Wire(Protocol):
    """What an answer needs of its connection, besides the writer."""

    @property
    def gone(self) -> bool: ...

    @property
    def persists(self) -> bool:
        """The connection could carry another request after this answer."""

    def date(self) -> str:
        """The Date header, with its end of line."""

    def answered(self) -> None:
        """The answer is whole, and the connection ends with it."""

    def cut(self, *, reset: bool) -> None:
        """End the connection in the middle of the answer."""


class Answer(Struct, eq=False):
    """The waiting end of one request (`gateway.ports.Client`); `send` is a short cut."""

    _wire: Wire
    _writer: Writer
    bytes_out: int = 0  # body bytes handed to the transport
    started: bool = False  # a head was written
    done: bool = False  # finished or aborted
    _last: bool = False
    _chunked: bool = False
    _bodiless: bool = False
    _body_left: int | None = None  # declared bytes still to come
    _on_ready: Callable[[], None] | None = None
    _on_gone: Callable[[], None] | None = None
    _head_request: bool = False
    _version_10: bool = False

    def fit(self, method: str, version: str) -> None:
        """The request was of this method and version, if these are not the usual ones."""
        self._head_request = method == "HEAD"
        self._version_10 = version == "1.0"

    # The port ------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """The client has left; what is written from now on is dropped."""
        return self._wire.gone

    def watch(self, on_ready: Callable[[], None], on_gone: Callable[[], None]) -> None:
        """Be told when a full buffer has drained, and once when the client leaves (or has)."""
        self._on_ready = on_ready
        self._on_gone = on_gone
        if self._wire.gone:
            self.client_left()

    def start(self, status: int, headers: HeaderList, length: int | None, lines: str = "") -> None:
        """Write the head. `length` in bytes; None: chunked, or until the close for HTTP/1.0.
        `lines`: headers as `wire/fields.py` writes them, to stand before the others; no Date."""
        if not self.done:
            self._writer.push(self._head(status, headers, length, lines))

    def write(self, data: bytes) -> bool:
        """Hand over body bytes; False when the transport's buffer is full."""
        if self.done or self._bodiless or not data or self._wire.gone:
            return True
        size, writer = len(data), self._writer
        if self._chunked:
            if size <= SMALL:
                writer.push(b"%x\r\n%b\r\n" % (size, data))
            else:
                writer.push(b"%x\r\n" % size)
                writer.push(data)
                writer.push(b"\r\n")
        elif self._may_write(size):
            writer.push(data)
        else:
            return True
        self.bytes_out += size
        return not writer.paused

    def finish(self) -> None:
        """The answer is whole: write its end."""
        if self.done:
            return
        if not self.started:
            raise RuntimeError("an end before the head")
        if self._body_left and not self._bodiless and not self._wire.gone:
            log.error("an answer is shorter than it declared: the connection is cut")
            self.abort()
            return
        self._end(b"0\r\n\r\n" if self._chunked else b"")

    def abort(self) -> None:
        """Close without an end, so that the client sees a cut."""
        if self.done:
            return
        self.done = True
        # Only a reset tells a cut from an end that is the close itself.
        until_close = self.started and not self._chunked and self._body_left is None
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
        if self.done:
            return
        size = sum(map(len, pieces))
        if length is not None and length != size:
            raise RuntimeError("an answer of another length than it declares")
        head = self._head(status, headers, length, lines)
        if self._bodiless or self._wire.gone:
            size, pieces = 0, ()
        self.bytes_out = size
        if size >= LARGE:
            if self._chunked:
                head += b"%x\r\n" % size
                pieces, size = (*pieces, _END), size + len(_END)
            self._over()
            self._writer.end_large([head, *pieces], len(head) + size)
            if self._last:
                self._wire.answered()
        elif not self._chunked:
            self._end(b"".join((head, *pieces)))
        elif size:
            self._end(b"".join((head, b"%x\r\n" % size, *pieces, _END)))
        else:
            self._end(head + b"0\r\n\r\n")

    # Short cuts ----------------------------------------------------------------------------------

    def send(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole answer in one go."""
        self.whole(status, headers, (body,), len(body))

    # The connection's side -----------------------------------------------------------------------

    def client_left(self) -> None:
        """Tell whoever watches, once."""
        call, self._on_gone = self._on_gone, None
        if call is not None and not self.done:
            call()

    def writable(self) -> None:
        """Tell whoever watches that the buffer has drained."""
        if self._on_ready is not None and not self.done:
            self._on_ready()

    # Inside --------------------------------------------------------------------------------------

    def _may_write(self, size: int) -> bool:
        """So many bytes fit into what was declared, if anything was."""
        if not self.started:
            raise RuntimeError("a body byte before the head")
        if self._body_left is not None:
            self._body_left -= size
            if self._body_left < 0:
                log.error("an answer is longer than it declared: the connection is cut")
                self.abort()
                return False
        return True

    def _end(self, data: bytes) -> None:
        self._over()
        self._writer.end(data)
        if self._last:
            self._wire.answered()

    def _over(self) -> None:
        self.done = True
        if self._on_ready is not None:
            self._on_ready = self._on_gone = None

    def _head(self, status: int, headers: HeaderList, length: int | None, lines: str) -> bytes:
        if self.started:
            raise RuntimeError("a second head")
        self.started = True
        wire = self._wire
        start, date = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n", wire.date()
        if headers:
            lines += lines_of(headers)
            if "\r\ndate: " in f"\r\n{lines}" or "\r\nDate: " in f"\r\n{lines}":
                date = ""
        if length is None or self._head_request or status in _BODILESS:
            framing = self._frame(status, length)
        else:
            self._body_left = length
            framing = f"Content-Length: {length}\r\n"
        if self._last or not wire.persists:
            self._last = True
            framing += "Connection: close\r\n"
        return f"{start}{lines}{date}{framing}\r\n".encode("latin-1")

    def _frame(self, status: int, length: int | None) -> str:
        """Where the body ends (RFC 9112 section 6.3)."""
        if status in _BODILESS:
            self._bodiless = True
            return ""
        if self._head_request:
            self._bodiless = True
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
