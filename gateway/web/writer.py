"""What a connection sends: pieces joined to few writes, and whether the client takes them."""

from __future__ import annotations

import asyncio
from typing import Final

HIGH_WATER: Final = 64 * 1024  # bytes in the transport's buffer; past it `paused` is set
JOIN_LIMIT: Final = 64 * 1024  # bytes; more than that is not copied together


class Flusher:
    """Sends at the end of a turn of the loop what was pushed in it: one call for all writers."""

    __slots__ = ("_due", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """Flush `writer` soon."""
        if not self._due:
            self._loop.call_soon(self._flush)
        self._due.append(writer)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for writer in due:
            writer.flush()


class Writer:
    """The sending half of one transport. Nothing is sent once the transport closes."""

    def __init__(self, transport: asyncio.Transport, flusher: Flusher) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.paused = False  # the transport's buffer is full
        self._transport = transport
        self._flusher = flusher
        self._pieces: list[bytes] = []
        self._size = 0
        self._handed = 0  # bytes given to the transport
        self._taken = 0  # bytes that had left it at the last look
        self._taken_at = 0.0

    def push(self, data: bytes) -> None:
        """Send `data` together with what else is pushed in this turn of the loop."""
        if not self._pieces:
            self._flusher.add(self)
        self.hold(data)
        if self._size > JOIN_LIMIT:
            self.flush()

    def hold(self, data: bytes) -> None:
        """Keep `data` for a `flush` that comes in this turn for certain."""
        self._pieces.append(data)
        self._size += len(data)

    def send(self, data: bytes) -> None:
        """Send `data` now, after what was pushed before it."""
        if self._pieces:
            self.flush()
        if not self._transport.is_closing():
            self._handed += len(data)
            self._transport.write(data)

    def flush(self) -> None:
        """Send now what was pushed."""
        pieces, size = self._pieces, self._size
        if not pieces:
            return
        self._pieces = []
        self._size = 0
        if self._transport.is_closing():
            return
        self._handed += size
        if size <= JOIN_LIMIT:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        else:
            for piece in pieces:
                self._transport.write(piece)

    def unsent(self) -> int:
        """Bytes that wait in the transport."""
        return self._transport.get_write_buffer_size()

    def watch(self, now: float) -> None:
        """Begin to look whether the client takes bytes; `now` in monotonic seconds."""
        self._taken = self._handed - self.unsent()
        self._taken_at = now

    def stalled(self, now: float) -> float:
        """Seconds for which the client has taken no byte; 0 when nothing waits."""
        unsent = self.unsent()
        taken = self._handed - unsent
        if not unsent or taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at
