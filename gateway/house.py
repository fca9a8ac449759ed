"""Everything that the pipeline works with, in one place. `app.py` fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.answers import Render
from gateway.boarding import Boarding
from gateway.calls import Calls
from gateway.config import OnMissingUsage
from gateway.journal.capture import NoJournal
from gateway.leash import Leash
from gateway.metering import Metering
from gateway.ports import Clock, Journal, Keys, Ledger, Penalty, Prices, Sink, Upstream


@dataclass(slots=True)
class House:
    """What the pipeline works with; `app.py` fills it, a reload replaces single members."""

    keys: Keys
    upstreams: Sequence[Upstream]
    sinks: Sequence[Sink]
    clock: Clock
    render: Render
    calls: Calls
    boarding: Boarding
    ledger: Ledger
    prices: Prices
    metering: Metering
    penalty: Penalty
    instance: str  # this process's random id, for `Via`
    body_limit: int
    upload_limit: int
    missing_usage: OnMissingUsage | None = None  # what is booked where usage did not come
    journal: Journal = field(default_factory=NoJournal)
    draining: bool = False
    flights: set[Leash] = field(default_factory=set)  # all in the air, to be cut at a stop
    streams: int = 0  # of them, those that answer a request with `stream: true`

    def take_off(self, leash: Leash, *, stream: bool) -> None:
        """A flight, or who waits for one."""
        self.flights.add(leash)
        self.streams += stream

    def landed(self, leash: Leash, *, stream: bool) -> None:
        """It is over."""
        self.flights.discard(leash)
        self.streams -= stream
