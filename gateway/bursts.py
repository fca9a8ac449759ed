"""What is written to sockets in one turn of the loop leaves at its end. asyncio, no I/O.

Each send wakes a peer that sleeps, which costs more than all else of sending; in a burst, most are
awake already. Who alone has something to send has nobody to wait for, and sends it at once.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    """Holds bytes back."""

    def flush(self) -> None:
        """Send them, if there are any. Raises nothing."""


class Flusher:
    """One callback for all that is held back in a turn."""

    __slots__ = ("_loop", "due", "latest")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.due: list[Sender] = []
        self.latest: Sender | None = None  # who sent last: the same again is alone
        self._loop = loop

    def add(self, sender: Sender) -> None:
        """Flush `sender` soon."""
        if not self.due:
            self._loop.call_soon(self._flush)
        self.due.append(sender)

    def _flush(self) -> None:
        due, self.due = self.due, []
        for sender in due:
            sender.flush()
