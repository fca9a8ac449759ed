"""How long who guesses keys must wait for each refusal.

Rule: only a 401 is ever held back. A valid key is not looked up here, and so few refusals wait at
once that they take no room from anybody.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

from gateway.ports import Clock

FREE = 10  # failures that cost nothing
REFILL = 6.0  # seconds until one more is free
FIRST, MOST = 0.05, 2.0  # seconds of the first delay, and of any; each is twice the one before
REMEMBERED = 4096  # addresses
WAITING = 128  # refusals held back at once, of all addresses; more go out at once

Sleep = Callable[[float], Awaitable[object]]


class Penalty:
    """A bucket of free failures for each address (an IPv6 host's whole /64)."""

    def __init__(self, clock: Clock, sleep: Sleep = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._failures: dict[str, tuple[float, float]] = {}  # how many, as of when (monotonic)
        self._waiting = 0

    async def pay(self, client: str) -> None:
        """A request from the address `client` is to be refused for its key: wait first."""
        seconds = self.failed(client)
        if not seconds or self._waiting >= WAITING:
            return
        self._waiting += 1
        try:
            await self._sleep(seconds)
        finally:
            self._waiting -= 1

    def failed(self, client: str) -> float:
        """Count one failure; seconds to wait before the refusal goes out."""
        client, now = _network(client), self._clock.monotonic()
        count, since = self._failures.pop(client, (0.0, now))
        count = min(max(0.0, count - (now - since) / REFILL) + 1, FREE + 10)
        if len(self._failures) >= REMEMBERED:
            del self._failures[next(iter(self._failures))]
        self._failures[client] = count, now  # last again: who failed longest ago is forgotten first
        return 0.0 if count <= FREE else float(min(MOST, FIRST * 2 ** int(count - FREE - 1e-9)))


def _network(client: str) -> str:
    """One host, by an address it cannot choose: in IPv6 a host has 2^64 of them."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return client
