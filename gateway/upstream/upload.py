"""A request's body on its way to an upstream: piece by piece, so that nothing is copied whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from gateway.ports import Call
from gateway.upstream.connection import Connection

SLICE = 256 * 1024  # bytes
EXPECTED = frozenset({"POST", "PUT", "PATCH"})  # these say it where there is none


class Upload:
    """One call's body. `framing`: its header line. `whole`: its bytes, where they are few enough to
    leave with the head; None: `run` sends them."""

    __slots__ = ("_chunked", "_left", "_slices", "_stream", "framing", "whole")

    def __init__(self, call: Call) -> None:
        body, length = call.body, call.length
        self.whole: bytes | None = b""
        self.framing = ""
        self._slices: Iterator[memoryview] | None = None
        self._stream: AsyncIterator[bytes] | None = None
        self._chunked = False
        if isinstance(body, bytes) and body:
            length = len(body)
            self.whole = body if length <= SLICE else None
            self._slices = _slices(body)
        elif not body or length == 0:
            length = 0
        else:
            self.whole = None
            self._stream = body
            self._chunked = length is None
        self._left = length or 0
        if self._chunked:
            self.framing = "transfer-encoding: chunked\r\n"
        elif length or call.method in EXPECTED:
            self.framing = f"content-length: {length}\r\n"

    async def run(self, connection: Connection, progress: Callable[[], None]) -> None:
        """Send it, no faster than it is taken. Each piece is a sign of life: `progress`.

        Whatever reading the body raises; ConnectionError.
        """
        while True:
            piece = await self._next()
            if piece is None:
                break
            progress()
            if self._chunked:
                await connection.write(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
                continue
            self._left -= len(piece)
            if self._left < 0:
                break
            await connection.write(piece, last=not self._left)
        if self._chunked:
            await connection.write(b"0\r\n\r\n", last=True)
        elif self._left:
            raise RuntimeError("a body is not as long as it was declared")

    async def _next(self) -> bytes | memoryview | None:
        """No generator: one that is dropped half-way would need a task to end."""
        if self._stream is None:
            return next(self._slices, None) if self._slices else None
        while (piece := await anext(self._stream, None)) == b"":
            pass  # as a chunk it would be the end
        return piece


def _slices(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[at : at + SLICE] for at in range(0, len(view), SLICE))
