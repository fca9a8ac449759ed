"""The one file where time is read. Everything else takes a `Clock` (or a number) as an argument."""

from __future__ import annotations

import time


class SystemClock:
    """Wall and monotonic time, both in seconds."""

    __slots__ = ()

    # Seconds since the epoch: for people and for calendars. It may jump.
    now = staticmethod(time.time)
    # Seconds since some start: for durations and deadlines. It never jumps.
    monotonic = staticmethod(time.monotonic)
