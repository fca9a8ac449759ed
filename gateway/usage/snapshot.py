"""The price data of the package genai-prices, as whole numbers.

Rule: its data file alone is run, its classes replaced by one that keeps what it is given: importing
the package would load pydantic and an HTTP client (150 ms, 30 MiB) to read a table (30 ms, 2 MiB).
"""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from gateway.config import Price
from gateway.usage.rules import Rates, Steps, dearest, flat

PACKAGE = "genai-prices"
MODULE = "genai_prices"

# The data's words for what `Rates` has; those without tokens (searches, hours) are not metered.
NAMES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
}
PICO_PER_MTOK_DOLLAR = 10**6

Match = tuple[str, Any]
"""What names it takes: ("equals", text), ("or_", (match, ...)), ..."""


@dataclass(frozen=True, slots=True)
class Since:
    """From the beginning of that day on, in UTC."""

    day: date

    def holds(self, at: datetime) -> bool:
        return at.date() >= self.day


@dataclass(frozen=True, slots=True)
class Daily:
    """Between two times of each day, in UTC; the end is not in it."""

    start: time
    end: time

    def holds(self, at: datetime) -> bool:
        now = at.time()
        if self.end < self.start:
            return now >= self.start or now < self.end
        return self.start <= now < self.end


When = Since | Daily | None


@dataclass(frozen=True, slots=True)
class Model:
    """One model's prices: of `dated` the last that holds counts, else the first. `tiers` say what
    is different for a service tier: the first that holds and says it."""

    match: Match
    dated: tuple[tuple[When, Mapping[str, Steps]], ...]
    tiers: tuple[tuple[str, When, Mapping[str, Steps]], ...] = ()

    def rates(self, at: datetime, tier: str | None) -> Rates | None:
        """What holds at `at` (UTC); None: it has no price for tokens."""
        held = [prices for when, prices in self.dated if when is None or when.holds(at)]
        found = dict(held[-1] if held else self.dated[0][1])
        for name, when, prices in reversed(self.tiers):
            if name == tier and (when is None or when.holds(at)):
                found |= prices
        if "input" not in found and "output" not in found:
            return None
        return Rates(found.pop("input", FREE), found.pop("output", FREE), **found)

    def dearest(self, now: datetime, *, own_tiers: bool) -> tuple[int, int] | None:
        """The highest prices of an input and an output token from `now` (UTC) on, in 10^-12
        dollars; None: at times it has no price for tokens."""
        sure = [i for i, (when, _) in enumerate(self.dated) if _lasts(when, now)]
        held = [prices for _, prices in self.dated[sure[-1] if sure else 0 :]]
        if any("input" not in prices and "output" not in prices for prices in held):
            return None
        tiers = [prices for _, _, prices in self.tiers] if own_tiers else []
        return dearest([*held, *tiers])


def _lasts(when: When, now: datetime) -> bool:
    """It holds at `now` and ever after."""
    return when is None or (isinstance(when, Since) and when.holds(now))


FREE = flat(Price(0))


@dataclass(frozen=True, slots=True)
class Provider:
    """Who sells models. `others`: whose prices hold for models that it has not itself."""

    id: str
    url: re.Pattern[str]
    match: Match | None
    others: tuple[str, ...]
    models: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it. `version` is the package's."""

    version: str
    providers: tuple[Provider, ...] = ()

    def find(self, base_url: str, name: str) -> tuple[Model, bool] | None:
        """The model by who serves it, else by who makes models of that name; and whether service
        tiers are its own (another provider's do not hold)."""
        name = name.lower()
        seller = next((p for p in self.providers if p.url.match(base_url)), None)
        if seller is None:
            makers = (p for p in self.providers if p.match is not None)
            seller = next((p for p in makers if p.match and takes(p.match, name)), None)
        if seller is None:
            return None
        return next(self._among(seller, name), None)

    def _among(self, seller: Provider, name: str) -> Iterator[tuple[Model, bool]]:
        for spelling in dict.fromkeys((name, _dashed(name))):
            yield from ((model, True) for model in seller.models if takes(model.match, spelling))
            for other in seller.others:
                provider = next((p for p in self.providers if p.id == other), None)
                models = () if provider is None else provider.models
                yield from ((model, False) for model in models if takes(model.match, spelling))


_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def _dashed(name: str) -> str:
    """Some services write `-20251211` where the data has `-2025-12-11`."""
    return _COMPACT_DATE.sub(r"-\1-\2-\3", name)


def takes(match: Match, name: str) -> bool:
    """Does `match` take this name, which is in lower case."""
    kind, given = match
    if kind == "equals":
        return bool(name == given)
    if kind == "starts_with":
        return name.startswith(given)
    if kind == "ends_with":
        return name.endswith(given)
    if kind == "contains":
        return given in name
    if kind == "regex":
        return re.search(given, name) is not None
    return (any if kind == "or_" else all)(takes(one, name) for one in given)


# Reading ------------------------------------------------------------------------------------------


def load() -> Snapshot:
    """Read the installed data: some 30 ms. ImportError: it is not there, or of a form that is not
    known here."""
    spec = importlib.util.find_spec(MODULE)  # finds, and does not import
    if spec is None or spec.origin is None:
        raise ImportError(f"{PACKAGE} is not installed")
    path = Path(spec.origin).with_name("data.py")
    try:
        version = importlib.metadata.version(PACKAGE)
        return Snapshot(version, tuple(map(_provider, _run(path))))
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{path} cannot be read: {error!r}") from error


class _Thing:
    """What a call in the data file was given."""

    __slots__ = ("given", "kind")

    def __init__(self, kind: str, given: dict[str, Any]) -> None:
        self.kind, self.given = kind, given


class _Names(dict[str, Any]):
    """The data file's names: each class that it calls is a `_Thing` of that kind."""

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or hasattr(builtins, name):
            raise KeyError(name)
        return lambda **given: _Thing(name, given)


def _import(name: str, *more: Any) -> Any:
    """What stands for `import` in the data file: nothing of its own package."""
    level = more[3] if len(more) > 3 else 0
    return ModuleType(name) if level else builtins.__import__(name, *more)


def _run(path: Path) -> list[_Thing]:
    """Its list of providers. The loader takes Python's own compiled copy where there is one."""
    code = SourceFileLoader(f"{MODULE}.data", str(path)).get_code(f"{MODULE}.data")
    if code is None:
        raise ImportError(f"{path} has no code")
    names = _Names(__name__=f"{MODULE}.data")
    exec(code, {"__builtins__": {**vars(builtins), "__import__": _import}}, names)
    found: list[_Thing] = names["providers"]
    return found


def _provider(found: _Thing) -> Provider:
    given = found.given
    match = given.get("model_match")
    return Provider(
        id=given["id"],
        url=re.compile(given["api_pattern"]),
        match=None if match is None else _match(match),
        others=tuple(given.get("fallback_model_providers") or ()),
        models=tuple(map(_model, given.get("models") or ())),
    )


def _match(found: _Thing) -> Match:
    [(kind, given)] = found.given.items()
    if isinstance(given, list):
        return kind, tuple(map(_match, given))
    return kind, given if kind == "regex" else given.lower()


def _model(found: _Thing) -> Model:
    given = found.given
    prices = given.get("prices") or []
    dated = prices if isinstance(prices, list) else [_Thing("ConditionalPrice", {"prices": prices})]
    return Model(
        match=_match(given["match"]),
        dated=tuple((_when(one), _prices(one.given["prices"])) for one in dated) or ((None, {}),),
        tiers=tuple(
            (one.given["when"]["service_tier"], _when(one), _prices(one.given["prices"]))
            for one in given.get("price_variants") or ()
            if one.given["when"].keys() == {"service_tier"}
        ),
    )


def _when(found: _Thing) -> When:
    constraint = found.given.get("constraint")
    if constraint is None:
        return None
    if constraint.kind == "StartDateConstraint":
        return Since(constraint.given["start_date"])
    return Daily(_utc(constraint.given["start_time"]), _utc(constraint.given["end_time"]))


def _utc(at: time) -> time:
    if at.tzinfo is None:
        return at
    return datetime.combine(date(1970, 1, 1), at).astimezone(UTC).time()


def _prices(found: _Thing) -> dict[str, Steps]:
    return {NAMES[name]: _steps(price) for name, price in found.given.items() if name in NAMES}


def _steps(price: Decimal | _Thing) -> Steps:
    if isinstance(price, Decimal):
        return flat(_pico(price))
    tiers = sorted(
        (tier.given["start"], _pico(tier.given["price"])) for tier in price.given["tiers"]
    )
    return ((0, _pico(price.given["base"])), *tiers)


def _pico(dollars: Decimal) -> Price:
    """Per million tokens in dollars, as 10^-12 dollars per token; rounded half up past that."""
    return Price(int((dollars * PICO_PER_MTOK_DOLLAR).to_integral_value(ROUND_HALF_UP)))
