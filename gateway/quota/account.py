"""One account, a key's or a team's: its limits, its windows, and what people are told of them.

Rule: nothing here awaits or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from gateway.errors import GatewayError, InsufficientQuota, RateLimited
from gateway.quota.rules import (
    MINUTE,
    NEVER,
    NOW,
    PARALLEL,
    TOTAL,
    WARN_AT,
    Blame,
    Given,
    Level,
    Limit,
    Why,
    amount,
    at,
    in_words,
    limits_of,
    reset_words,
    span_words,
)
from gateway.quota.windows import MONEY, REQUESTS, TOKENS, Bounds, Period, Sliding, Windows

MODEST = 1.0  # seconds that a client is told to wait for what others hold


class Moment:
    """Both clocks in seconds, the whole `second` of the one that never jumps, and the calendar's
    windows. There is one, which is brought up to date."""

    __slots__ = ("bounds", "second", "steady", "wall")

    def __init__(self, wall: float, steady: float, bounds: Bounds) -> None:
        self.wall, self.steady, self.second, self.bounds = wall, steady, int(steady), bounds


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error, how hard it is (seconds until it may be tried again, NEVER), whose limit it is and
    which."""

    error: GatewayError
    hardness: float
    name: str
    kind: str


KEY, TEAM, CALLER, SHARED = "key", "team", "caller", "shared"
AccountKey = tuple[str, str]
"""What an account is of, and its id. SHARED is of all callers without an issued key together, on
upstreams that need none (contract, "Callers")."""


class Waiting(Protocol):
    """A call that waits for room in all of its accounts."""

    def may_go(self) -> bool:
        """Nobody who came before it waits for any of its accounts."""

    def try_now(self) -> bool:
        """Take what it waits for; False: there is no room yet."""


class Gauge:
    """A limit beside the window that measures it, and its headers, as far as they stay the same."""

    __slots__ = (
        *("_remaining", "_reset", "_total", "_whole", "amount", "limit", "meter", "warn_at"),
    )

    def __init__(self, limit: Limit, meter: Sliding | Period) -> None:
        self.limit, self.amount, self.meter = limit, limit.amount, meter
        # A minute is over before a warning is read.
        self.warn_at = WARN_AT * limit.amount if isinstance(meter, Period) else NEVER
        self._total = f"x-ratelimit-limit-{limit.unit}", str(limit.amount)
        self._remaining = f"x-ratelimit-remaining-{limit.unit}"
        self._reset, self._whole = (f"x-ratelimit-reset-{limit.unit}", ""), -1

    def level(self) -> Level:
        """How it stands."""
        return Level(self.limit, self.meter.used, self.meter.held)

    def resets_in(self, now: Moment) -> float:
        """Seconds until it is as if nothing had been used; NEVER: it never is."""
        meter = self.meter
        resets = meter.end - now.wall if isinstance(meter, Period) else meter.resets_in(now.steady)
        return resets if resets > 0 else 0.0

    def headers(self, left: int, now: Moment) -> tuple[tuple[str, str], ...]:
        """Limit, what is left of it, and when it is whole again, in OpenAI's form."""
        resets = self.resets_in(now)
        whole = ceil(resets)
        if whole != self._whole or whole < 2:
            self._whole, self._reset = whole, (self._reset[0], reset_words(resets))
        return self._total, (self._remaining, str(left)), self._reset


class Account:
    """`name` is what metrics show, `title` what people read. `restored`: what it used before the
    start is known, and so was any warning given for it."""

    __slots__ = (
        *("_default", "_limits", "_most", "_own", "_restored", "bounds", "day", "key"),
        *("minute", "money", "name", "on_requests", "on_spending", "requests", "second"),
        *("shown", "title", "tokens", "told", "waiting", "warns", "windows"),
    )

    def __init__(self, key: AccountKey, bounds: Bounds, *, restored: bool = False) -> None:
        self.key, self.windows = key, Windows(bounds)
        self._limits: tuple[Limit, ...] = ()
        self._most: Limit | None = None  # on requests at a time
        self.minute = self.windows.minute
        self.bounds, self.second = bounds, -1  # of the last roll
        self.attach()
        self.waiting: deque[Waiting] = deque()  # the first come first
        self._own: Given | None = None
        self._default: Given | None = None
        self._restored = restored
        self.show_as(key[1])

    def show_as(self, name: str) -> None:
        """Its name may be given or changed later."""
        kind, self.shown = self.key[0], name
        self.name, self.title = {
            KEY: (name, f"Key '{name}'"),
            TEAM: (f"team:{name}", f"Team '{name}'"),
            # Their names are anybody's to invent, so they are no label (M1).
            CALLER: ("other", f"Caller '{name}'"),
            SHARED: ("shared:", "The quota that callers without an issued key share"),
        }[kind]

    def take_limits(self, own: Given, default: Given) -> None:
        """What holds from now on; the same objects as before cost nothing."""
        if own is self._own and default is self._default:
            return
        self._own, self._default = own, default
        self._limits = limits_of(own, default)
        self.attach()
        if self._restored:
            self._restored = False
            for gauge in self.on_requests + self.on_spending:
                if gauge.meter.used >= gauge.warn_at:
                    self._warned(gauge)

    def roll(self, now: Moment) -> None:
        """Bring its windows to this moment. A request asks for it only where `second` or `bounds`
        are not the moment's, which is once in a second."""
        self.second, self.bounds = now.second, now.bounds
        if self.windows.roll(now.bounds, now.second):
            self.attach()

    def attach(self) -> None:
        """Put each limit beside its window, where either is new: nothing is looked for on the way
        of a request."""
        periods, minute = self.windows.periods, self.windows.minute
        self.requests, self.day = minute[REQUESTS], periods["day", REQUESTS]
        self.tokens = tuple(one for (_, unit), one in periods.items() if unit == TOKENS)
        self.money = tuple(one for (_, unit), one in periods.items() if unit == MONEY)
        self._most = next((one for one in self._limits if one.unit == PARALLEL), None)
        gauges = [
            Gauge(
                one,
                minute[one.unit] if one.span == MINUTE else periods[one.span, one.unit],
            )
            for one in self._limits
            if one.span != NOW
        ]
        self.on_requests = tuple(one for one in gauges if one.limit.unit == REQUESTS)
        self.on_spending = tuple(one for one in gauges if one.limit.unit != REQUESTS)
        self.warns = tuple(one for one in self.on_requests if one.warn_at < NEVER)
        # What headers tell of: those on requests, those on tokens.
        self.told = self.on_requests, tuple(one for one in gauges if one.limit.unit == TOKENS)

    def standing(self, now: Moment) -> Iterator[tuple[Level, float | None]]:
        """Each limit, and in how many seconds it is whole again; None: never, or it is."""
        for gauge in self.on_requests + self.on_spending:
            resets = gauge.resets_in(now)
            yield gauge.level(), resets if 0 < resets < NEVER else None
        if self._most is not None:
            yield Level(self._most, self.windows.parallel, 0), None

    # -- refusing ----------------------------------------------------------------------------------

    def is_full(self, *, counts: bool) -> bool:
        """Some limit has something against one more request, which counts as one or does not."""
        most = self._most
        if most is not None and self.windows.parallel >= most.amount:
            return True
        if counts:
            for gauge in self.on_requests:
                if gauge.meter.used >= gauge.limit.amount:
                    return True
        return False

    def refuse_entry(self) -> Iterator[Refusal]:
        """What `max_parallel` has against one more."""
        limit, count = self._most, self.windows.parallel
        if limit is not None and count >= limit.amount:
            text = f"{self.title} has {count:,} {span_words(limit)}, its limit. Wait for one."
            yield self._refusal(limit, RateLimited(text, retry_after=MODEST), MODEST)

    def refuse_request(self, now: Moment) -> Iterator[Refusal]:
        """What its limits on the number of requests have against one more."""
        return self._refuse_any(self.on_requests, now)

    def refuse_spent(self, now: Moment) -> Iterator[Refusal]:
        """What its limits on tokens and money have against any more, when nothing is left."""
        return self._refuse_any(self.on_spending, now)

    def _refuse_any(self, gauges: Iterable[Gauge], now: Moment) -> Iterator[Refusal]:
        for gauge in gauges:
            if gauge.meter.used >= gauge.limit.amount:
                yield self._used_up(gauge, Blame(gauge.level(), Why.USED, -1), 1, now)

    def refuse_call(self, gauge: Gauge, found: Blame, least: int, now: Moment) -> Refusal:
        """A limit on tokens or money refuses a call that takes at least `least` of it."""
        limit = gauge.limit
        if found.why is Why.HELD:
            text = (
                f"{self.title} has {amount(limit, limit.amount)} {span_words(limit)}; calls under "
                f"way hold {amount(limit, found.level.held)} of it. Try again when they have ended."
            )
            return self._refusal(limit, RateLimited(text, retry_after=MODEST), MODEST)
        if found.why is Why.WHOLE:
            text = (
                f"{self.title} has {amount(limit, limit.amount)} {span_words(limit)}, and this "
                f"request alone may take {amount(limit, least)}. {_largest(found.fits)}"
            )
            return self._refusal(limit, InsufficientQuota(text), NEVER)
        return self._used_up(gauge, found, least, now)

    def _used_up(self, gauge: Gauge, found: Blame, least: int, now: Moment) -> Refusal:
        level, limit, meter = found.level, gauge.limit, gauge.meter
        text = (
            f"{self.title} has used {amount(limit, level.used)} of its "
            f"{amount(limit, limit.amount)} {span_words(limit)}"
        )
        if limit.unit != REQUESTS and level.used < limit.amount:
            text += f", and this request may take {amount(limit, least)}"
        if isinstance(meter, Sliding):
            wait = max(0.001, meter.room_in(least, limit.amount, now.steady))
            text += f". There is room again in {in_words(wait)}."
            return self._refusal(limit, RateLimited(text, retry_after=wait), wait)
        if found.fits > 0:
            text += f". {_largest(found.fits).removesuffix('.')}"
        if limit.span == TOTAL:
            text += ". It does not reset."
            return self._refusal(limit, InsufficientQuota(text), NEVER)
        wait = max(0.001, gauge.resets_in(now))
        text += f". It resets at {at(now.wall + wait)}, in {in_words(wait)}."
        return self._refusal(limit, InsufficientQuota(text, retry_after=wait), wait)

    def _refusal(self, limit: Limit, error: GatewayError, hardness: float) -> Refusal:
        return Refusal(error, hardness, self.name, limit.kind)

    # -- telling -----------------------------------------------------------------------------------

    def warning(self, gauge: Gauge, now: Moment) -> str | None:
        """That most of it is used, in words; None: it was said before in this window."""
        if not self._warned(gauge):
            return None
        limit, resets = gauge.limit, gauge.resets_in(now)
        until = "it does not reset"
        if resets < NEVER:
            until = f"it resets at {at(now.wall + resets)}, in {in_words(resets)}"
        return (
            f"{self.title} has used {amount(limit, gauge.meter.used)} of its "
            f"{amount(limit, limit.amount)} {span_words(limit)}; {until}"
        )

    def _warned(self, gauge: Gauge) -> bool:
        """Note the warning; False: it was given before."""
        warned = self.windows.periods[gauge.limit.span, gauge.limit.unit].warned
        before = len(warned)
        warned.add((gauge.limit.kind, gauge.limit.amount))
        return len(warned) > before


def _largest(fits: int) -> str:
    if fits > 0:
        return f"The largest max_completion_tokens that fits is {fits:,}."
    return "Its prompt alone does not fit: shorten it."
