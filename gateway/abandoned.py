"""Flights whose clients have all left. asyncio, no I/O, no task."""

from __future__ import annotations

import asyncio

from gateway.config import Abandoned
from gateway.flight import Flight
from gateway.ports import ClientGone


class AbandonedFlights:
    """Flights whose clients have all left, which go on so that their answer is kept: bounded in
    number, bytes and seconds."""

    def __init__(self, limits: Abandoned) -> None:
        self.limits = limits
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._held: dict[int, int] = {}

    def adopt(self, flight: Flight) -> bool:
        """Take a flight; False where there is no room for it."""
        if len(self._timers) >= self.limits.flights:
            return False

        def over() -> None:
            self.release(flight)
            flight.leash.pull(ClientGone())

        def grew(flight: Flight) -> None:
            self._held[id(flight)] = flight.held
            if sum(self._held.values()) > self.limits.bytes:
                over()

        loop = asyncio.get_running_loop()
        self._timers[id(flight)] = loop.call_later(self.limits.time, over)
        flight.on_growth = grew
        grew(flight)
        return id(flight) in self._timers

    def release(self, flight: Flight) -> None:
        """It has landed, or somebody has boarded it."""
        timer = self._timers.pop(id(flight), None)
        self._held.pop(id(flight), None)
        if timer is not None:
            timer.cancel()
            flight.on_growth = None

    def __len__(self) -> int:
        return len(self._timers)
