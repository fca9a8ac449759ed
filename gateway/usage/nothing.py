"""No books and no prices: what stands in their place where there are none."""

from __future__ import annotations

from gateway.exchange import Cost, Exchange, Reservation, Usage


class NoLedger:
    """Keeps nothing."""

    def admit(self) -> None:
        """Always."""

    def reserve(self, reservation: Reservation) -> None:
        """Not kept."""

    async def commit(self, exchange: Exchange) -> None:
        """Not kept."""

    def add(self, exchange: Exchange) -> None:
        """Not kept."""


class NoPrices:
    """Knows no price."""

    def cost(
        self, upstream: str, base_url: str, model: str, usage: Usage, service_tier: str | None
    ) -> Cost:
        """Unknown."""
        return Cost()
