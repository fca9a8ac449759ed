"""No books: what stands in their place where there are none."""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange import Exchange, Reservation


class NoLedger:
    """Keeps nothing."""

    def admit(self) -> None:
        """Always."""

    def reserve(self, id: str, made: Callable[[], Reservation]) -> None:
        """Not kept."""

    async def commit(self, exchange: Exchange) -> None:
        """Not kept."""

    def add(self, exchange: Exchange) -> None:
        """Not kept."""
