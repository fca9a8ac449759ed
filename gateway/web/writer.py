"""What a connection sends: pieces joined to few writes, and whether the client takes them."""

from __future__ import annotations

import asyncio
from typing import Final

HIGH_WATER: Final = 64 * 1024  # bytes in the transport's buffer; past it `paused` is set
JOIN_LIMIT: Final = 64 * 1024  # bytes; more than that is not copied together


class Writer:
    """The sending half of one transport. Nothing is sent once the transport closes."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.paused = False  # the transport's buffer is full
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0
        self._soon = False
        self._handed = 0  # bytes given to the transport
        self._taken = 0  # bytes that had left it at the last look
        self._taken_at = 0.0

    def push(self, data: bytes) -> None:
        """Send `data` together with what else is pushed in this turn of the loop."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > JOIN_LIMIT:
            self.flush()
        elif not self._soon:
            self._soon = True
            self._loop.call_soon(self._flush_soon)

    def flush(self) -> None:
        """Send now what was pushed."""
        pieces, size = self._pieces, self._size
        if not pieces:
            return
        self._size = 0
        if self._transport.is_closing():
            pieces.clear()
            return
        self._handed += size
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif size <= JOIN_LIMIT:
            self._transport.write(b"".join(pieces))
        else:
            self._pieces = []  # a write may call back and push
            for piece in pieces:
                self._transport.write(piece)
            return
        pieces.clear()

    def _flush_soon(self) -> None:
        self._soon = False
        self.flush()

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
