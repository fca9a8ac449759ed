"""How late the event loop is: a timer that looks at how late it rang.

Rule: what holds the loop up holds up every request, and no request's own timings name it.
"""

from __future__ import annotations

import asyncio

from gateway.metrics.sink import Metrics

EVERY = 0.25  # seconds


class LoopLag:
    """Observes from its making on. Close it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._observe = metrics.timer("gateway_event_loop_lag_seconds")
        self._due = 0.0
        self._arm()

    def _arm(self) -> None:
        self._due = self._loop.time() + EVERY
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._observe(max(0.0, self._loop.time() - self._due))
        self._arm()

    def close(self) -> None:
        """No more."""
        self._timer.cancel()
