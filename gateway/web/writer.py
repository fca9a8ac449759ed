"""What a connection sends: pieces joined to few writes, and whether the client takes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from gateway.bursts import Flusher

HIGH_WATER: Final = 64 * 1024  # bytes in the transport's buffer; past it `paused` is set
JOIN_LIMIT: Final = 64 * 1024  # bytes; more than that does not wait for the end of a turn
LARGE: Final = 8 * 1024  # bytes; from there on, a copy into one piece is worth avoiding
_RESET: Final = struct.pack("ii", 1, 0)


class Writer:
    """The sending half of one transport. Nothing is sent once the transport closes."""

    __slots__ = (
        *("_flusher", "_handed", "_on_rest", "_pieces", "_size", "_taken", "_taken_at"),
        *("_transport", "file", "paused"),
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        flusher: Flusher,
        on_rest: Callable[[], None],
    ) -> None:
        """`on_rest` is called when the transport could not send all that it was given."""
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.paused = False  # the transport's buffer is full
        self._transport = transport
        self._flusher = flusher
        self._on_rest = on_rest
        # The number of its socket, where nothing but the transport's own buffer stands before that.
        self.file = -1
        self._pieces: list[bytes | memoryview] = []
        self._size = 0  # bytes of them, ends not counted
        self._handed = 0  # bytes given to the transport in writes that it could not send whole
        self._taken = 0  # bytes of these that had left it at the last look
        self._taken_at = 0.0

    def push(self, data: bytes) -> None:
        """Send `data` together with what else is pushed in this turn of the loop."""
        pieces = self._pieces
        if not pieces:
            self._flusher.add(self)
        pieces.append(data)
        self._size = size = self._size + len(data)
        if size > JOIN_LIMIT:
            self.flush()

    def end(self, data: bytes | memoryview) -> None:
        """The same for the end of an answer. Who alone is answered has it now: there is nobody to
        wait for."""
        flusher, pieces = self._flusher, self._pieces
        if flusher.latest is self:
            pieces.append(data)
            self.flush()
            return
        flusher.latest = self
        if not pieces:
            flusher.add(self)
        pieces.append(data)

    def end_large(self, pieces: list[bytes | memoryview], size: int) -> None:
        """The same for pieces of `size` bytes that are not worth copying into one. They are taken
        over."""
        flusher = self._flusher
        alone, flusher.latest = flusher.latest is self, self
        self._size += size
        if self._pieces:
            self._pieces += pieces
        else:
            self._pieces = pieces
            if not alone:
                flusher.add(self)
        if alone:
            self.flush()

    def flush(self) -> None:
        """Send now what was pushed."""
        pieces, transport = self._pieces, self._transport
        if not pieces:
            return
        size, self._size = self._size, 0
        if transport.is_closing():
            pieces.clear()
            return
        data = b"".join(pieces) if size < LARGE else self._left_of(pieces)
        pieces.clear()
        if not data:
            return
        transport.write(data)
        if transport.get_write_buffer_size():
            self._handed += len(data)
            self._on_rest()

    def _left_of(self, pieces: Sequence[bytes | memoryview]) -> bytes:
        """What is left of large pieces for the transport to send. Where it has nothing to send, the
        socket takes what it can of them: they need not be copied into one."""
        if self.file < 0 or self._transport.get_write_buffer_size():
            return b"".join(pieces)
        try:
            sent = os.writev(self.file, pieces)
        except OSError:  # there is no room, or whatever the transport will meet too
            sent = 0
        return b"" if sent == sum(map(len, pieces)) else b"".join(pieces)[sent:]

    def reset_at_close(self) -> None:
        """Let the client see a reset in place of an end."""
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET
            )

    @property
    def waits(self) -> bool:
        """Bytes wait here or in the transport."""
        return bool(self._pieces) or self._transport.get_write_buffer_size() > 0

    def watch(self, now: float) -> None:
        """Begin to look whether the client takes bytes; `now` in monotonic seconds."""
        self._taken = self._handed - self._transport.get_write_buffer_size()
        self._taken_at = now

    def stalled(self, now: float) -> float:
        """Seconds for which the client has taken no byte; 0 when nothing waits."""
        unsent = self._transport.get_write_buffer_size()
        taken = self._handed - unsent  # whatever else was handed over, was sent whole
        if not unsent or taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at
