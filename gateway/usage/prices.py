"""What tokens cost: the configuration's prices, else those of the data snapshot.

Rule: the data is read once, in a thread of its own, after the start; a price that is asked for
before it is there waits for it, which is some 30 ms at most and once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from gateway.config import ModelSection, TierPrice
from gateway.entry import is_like
from gateway.exchange import NO_COST, Cost, Usage, UsageSource
from gateway.ports import Clock
from gateway.usage.rules import Rates, Steps, dearest, flat, nano, tokens_of
from gateway.usage.snapshot import Model, Snapshot, load

log = logging.getLogger("gateway.usage")

BUILTIN = Cost(0, "builtin")  # `echo:` costs nothing
CONFIGURED = "config"  # the version of prices from the configuration
REMEMBERED = 4096  # models met; their names are chosen by clients


class PriceList:
    """The `Prices` port."""

    def __init__(
        self,
        models: Sequence[ModelSection],
        clock: Clock,
        read: Callable[[], Snapshot] = load,
    ) -> None:
        self._clock, self._read = clock, read
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], tuple[Model, bool] | None] = {}
        self.reconfigure(models)

    def reconfigure(self, models: Sequence[ModelSection]) -> None:
        """Take a new `models` section; it holds from the next price on."""
        self._models = [model for model in models if model.input is not None]
        self._dearest: dict[tuple[str, str], tuple[int, int] | None] = {}
        # What holds in one minute: no price begins or ends within one.
        self._held: dict[tuple[str, str, str | None], tuple[Rates, str] | None] = {}
        self._minute = (0.0, 0.0)  # wall seconds: its begin, and its end

    def warm(self) -> None:
        """Read the data now, in a thread of its own."""
        threading.Thread(target=self._data, name="gateway-prices", daemon=True).start()

    def cost(
        self, upstream: str, base_url: str, model: str, usage: Usage, service_tier: str | None
    ) -> Cost:
        """The cost of `usage`; None in it where the model has no price, or the usage is not
        known."""
        if base_url.startswith("echo:"):
            return BUILTIN
        if usage.source is UsageSource.NONE:
            return NO_COST
        found = self._rates(base_url, model, service_tier)
        if found is None:
            return NO_COST
        rates, version = found
        return Cost(nano(rates.pico(tokens_of(usage))), version)

    def knows(self, base_url: str, model: str) -> bool:
        """Has it a price."""
        return base_url.startswith("echo:") or self._rates(base_url, model, None) is not None

    def dearest(self, base_url: str, model: str) -> tuple[int, int] | None:
        """The highest price of an input and of an output token, in 10^-12 dollars, in any service
        tier, size of prompt and time from now on; None where the model has no price."""
        if base_url.startswith("echo:"):
            return 0, 0
        key = base_url, model
        if key not in self._dearest:
            _remember(self._dearest, key, self._highest(base_url, model))
        return self._dearest[key]

    def _highest(self, base_url: str, model: str) -> tuple[int, int] | None:
        for section in self._models:
            if is_like(model, section.name):
                tiers = (None, *section.tiers)
                return dearest(_prices_of(section, tier) for tier in tiers)
        found = self._find(self._data(), base_url, model)
        if found is None:
            return None
        entry, own_tiers = found
        return entry.dearest(datetime.fromtimestamp(self._clock.now(), UTC), own_tiers=own_tiers)

    def _rates(self, base_url: str, model: str, tier: str | None) -> tuple[Rates, str] | None:
        now, (begin, end) = self._clock.now(), self._minute
        if not begin <= now < end:
            self._held.clear()
            self._minute = (now // 60 * 60, now // 60 * 60 + 60)
        key = base_url, model, tier
        if key not in self._held:
            _remember(self._held, key, self._look_up(base_url, model, tier))
        return self._held[key]

    def _look_up(self, base_url: str, model: str, tier: str | None) -> tuple[Rates, str] | None:
        for section in self._models:
            if is_like(model, section.name):
                return _configured(section, tier), CONFIGURED
        data = self._data()
        found = self._find(data, base_url, model)
        if found is None:
            return None
        entry, own_tiers = found
        at = datetime.fromtimestamp(self._clock.now(), UTC)
        rates = entry.rates(at, tier if own_tiers else None)
        return None if rates is None else (rates, data.version)

    def _find(self, data: Snapshot, base_url: str, model: str) -> tuple[Model, bool] | None:
        key = base_url, model
        if key not in self._found:
            _remember(self._found, key, data.find(base_url, model))
        return self._found[key]

    def _data(self) -> Snapshot:
        with self._lock:
            if self._snapshot is None:
                try:
                    self._snapshot = self._read()
                except ImportError as error:
                    log.warning("no price data, so costs are unknown: %s", error)
                    self._snapshot = Snapshot("none")
            return self._snapshot


K = TypeVar("K")
T = TypeVar("T")


def _remember(known: dict[K, T], key: K, value: T) -> None:
    if len(known) >= REMEMBERED:
        del known[next(iter(known))]
    known[key] = value


def _configured(section: ModelSection, tier: str | None) -> Rates:
    return Rates(**_prices_of(section, tier))


def _prices_of(section: ModelSection, tier: str | None) -> dict[str, Steps]:
    special = section.tiers.get(tier or "") or TierPrice()
    cached = special.cached_input if special.cached_input is not None else section.cached_input
    prices = {
        "input": special.input if special.input is not None else section.input,
        "output": special.output if special.output is not None else section.output,
        "cached_input": cached,
    }
    return {name: flat(price) for name, price in prices.items() if price is not None}
