"""No traces: what stands in their place where there is no collector."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config import Traces, UpstreamSection
from gateway.exchange import Exchange
from gateway.ports import Origin


class NoTraces:
    """Makes nothing; a caller's own headers pass as they are."""

    exported = failed = dropped = waiting = 0

    def begin(self, origin: Origin) -> None:
        """No span of ours."""

    def book(self, exchange: Exchange) -> None:
        """Nothing."""

    def reconfigure(self, section: Traces, upstreams: Sequence[UpstreamSection]) -> None:
        """An endpoint is read at the start only."""

    def close(self, timeout: float) -> bool:
        """Nothing is left to send."""
        return True
