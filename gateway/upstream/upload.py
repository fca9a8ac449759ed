"""A request's body on its way to an upstream: piece by piece, so that nothing is copied whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from gateway.ports import Call

SLICE = 256 * 1024  # bytes


class Upload:
    """What aiohttp is given for a call's body. Each piece that is taken is a sign of life.

    `data`: bytes where they are few, else this very object; None without a body.
    `length`: what Content-Length says; None: chunked, or no body.
    """

    def __init__(self, call: Call, progress: Callable[[], None]) -> None:
        body = call.body
        self.error: Exception | None = None  # what reading the client's body raised
        self.on_error: Callable[[Exception], None] | None = None
        self.data: bytes | Upload | None = self
        self.length = call.length
        self._progress = progress
        self._slices: Iterator[memoryview] | None = None
        self._stream: AsyncIterator[bytes] | None = None
        if not body or self.length == 0:
            self.data = self.length = None
        elif isinstance(body, bytes):
            self.length = len(body)
            self._slices = _slices(body)
            if self.length <= SLICE:
                self.data = body
        else:
            self._stream = body

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes | memoryview:
        """The next piece. No generator: one that is dropped half-way would need a task to end."""
        piece: bytes | memoryview | None
        if self._stream is None:
            piece = next(self._slices, None) if self._slices else None
        else:
            piece = await self._take(self._stream)
        if piece is None:
            raise StopAsyncIteration
        self._progress()
        return piece

    async def _take(self, stream: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(stream, None)
        except Exception as exc:
            self.error = exc
            if self.on_error is not None:
                self.on_error(exc)
            raise


def _slices(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[at : at + SLICE] for at in range(0, len(view), SLICE))
