"""What one upstream has seen, as plain numbers for whoever exports them (requirement H3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counters since the start, and gauges of now.

    Each ended call is in `outcomes` once: 2xx, 3xx, 4xx, 429, 5xx, timeout, connect_error, error,
    cut, abandoned (let go before its end).
    """

    in_flight: int = 0  # gauge: calls that hold a connection, or are getting one
    waiting: int = 0  # gauge: calls that wait for their turn
    waits: int = 0  # calls that had to wait
    wait_seconds: float = 0.0
    attempts: int = 0
    retries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    remaining: dict[str, float] = field(default_factory=dict)  # of its limits, as it last said

    def told(self, headers: Mapping[str, str]) -> None:
        """An answer's head is here: it may say what is left of the upstream's own limits."""
        for kind in ("requests", "tokens"):
            left = headers.get(f"x-ratelimit-remaining-{kind}")
            if left is not None and left.isascii() and left.isdecimal() and len(left) <= 15:
                self.remaining[kind] = int(left)


def status_class(status: int) -> str:
    return "429" if status == 429 else f"{status // 100}xx"
