"""What one connection must do by when, on one timer that is re-armed only where it fires early.

Two clocks run apart: the client must send (`send_by`), and take what was sent (`watch_writes`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from gateway.ports import Clock
from gateway.web.writer import Writer


class Deadlines:
    """Calls `late` when `due` has passed, `stalled` when no byte was taken for `patience` s.

    `due` is when the client must have sent something, in monotonic seconds. To put it off is to
    write it; `send_by` is for what may be sooner than the timer.
    """

    __slots__ = (
        *("_at", "_clock", "_late", "_look", "_loop", "_patience", "_stalled", "_timer", "due"),
        "writer",
    )

    writer: Writer  # set before a byte is written

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        patience: float,
        late: Callable[[float], None],
        stalled: Callable[[], None],
    ) -> None:
        self.due = math.inf
        self._loop = loop
        self._clock = clock
        self._patience = patience
        self._late = late
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf  # when the timer fires
        self._look = math.inf  # when to look at the writer again

    def send_by(self, at: float) -> None:
        """The client must have sent something by `at`, monotonic seconds."""
        self.due = at
        self._arm(at)

    def send_any_time(self) -> None:
        """Nobody waits for the client."""
        self.due = math.inf

    def watch_writes(self) -> None:
        """See to it that the client takes what waits in the transport."""
        if self._look == math.inf:
            now = self._clock.monotonic()
            self.writer.watch(now)
            self._look = now + self._patience / 4
            self._arm(self._look)

    def cancel(self) -> None:
        """The connection is closed, or about to be."""
        self.due = self._look = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_later(max(0.0, at - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        if now >= self._look:
            self._look_at_writer(now)
        if now >= self.due:
            self.due = math.inf
            self._late(now)
        due = min(self.due, self._look)
        if due < math.inf:
            self._arm(due)

    def _look_at_writer(self, now: float) -> None:
        self._look = math.inf
        if self.writer.waits:
            if self.writer.stalled(now) >= self._patience:
                self._stalled()
            else:
                self._look = now + self._patience / 4
