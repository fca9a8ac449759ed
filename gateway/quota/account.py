"""One account, a key's or a team's: its limits, its windows, and what people are told of them.

Rule: nothing here awaits or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    limits_of,
    reset_words,
    span_words,
)
from gateway.quota.windows import MONEY, REQUESTS, TOKENS, Bounds, Period, Sliding, Windows

MODEST = 1.0  # seconds that a client is told to wait for what others hold


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks, in seconds."""

    wall: float
    steady: float


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
    """A call that waits for room in all of `accounts`."""

    accounts: Sequence[Account]

    def may_go(self) -> bool:
        """Nobody who came before it waits for any of its accounts."""

    def try_now(self) -> bool:
        """Take what it waits for; False: there is no room yet."""


class Account:
    """`name` is what metrics show, `title` what people read. `restored`: what it used before the
    start is known, and so was any warning given for it."""

    __slots__ = (
        *("_default", "_own", "_restored", "checked", "key", "name", "shown", "spent"),
        *("title", "waiting", "windows"),
    )

    def __init__(self, key: AccountKey, bounds: Bounds, *, restored: bool = False) -> None:
        self.key, self.windows = key, Windows(bounds)
        self.checked: tuple[Limit, ...] = ()  # limits that each request meets
        self.spent: tuple[Limit, ...] = ()  # limits on tokens and money, that calls meet
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
        limits = limits_of(own, default)
        self.checked = tuple(one for one in limits if one.unit in (REQUESTS, PARALLEL))
        self.spent = tuple(one for one in limits if one.unit in (TOKENS, MONEY))
        if self._restored:
            self._restored = False
            for limit in self._over():
                self._warned(limit)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All of them."""
        return self.checked + self.spent

    def meter(self, limit: Limit) -> Sliding | Period | None:
        """The open window of a limit; None: it has none (`max_parallel`)."""
        if limit.span == NOW:
            return None
        if limit.span == MINUTE:
            return self.windows.minute[limit.unit]
        return self.windows.periods[limit.span, limit.unit]

    def level(self, limit: Limit) -> Level:
        """How it stands."""
        meter = self.meter(limit)
        if meter is None:
            return Level(limit, self.windows.parallel, 0)
        return Level(limit, meter.used, meter.held)

    def resets_in(self, limit: Limit, now: Moment) -> float | None:
        """Seconds until it is as if nothing had been used; None: it never is, or it is now."""
        meter = self.meter(limit)
        if isinstance(meter, Sliding):
            return max(0.0, meter.resets_in(now.steady)) or None
        if meter is None or meter.end == NEVER:
            return None
        return max(0.0, meter.end - now.wall)

    # -- refusing ----------------------------------------------------------------------------------

    def refuse_entry(self) -> Iterator[Refusal]:
        """What `max_parallel` has against one more."""
        for limit in self.checked:
            count = self.windows.parallel
            if limit.unit == PARALLEL and count >= limit.amount:
                text = f"{self.title} has {count:,} {span_words(limit)}, its limit. Wait for one."
                yield self._refusal(limit, RateLimited(text, retry_after=MODEST), MODEST)

    def refuse_request(self, now: Moment) -> Iterator[Refusal]:
        """What its limits on the number of requests have against one more."""
        for limit in self.checked:
            if limit.unit == REQUESTS and (level := self.level(limit)).used >= limit.amount:
                yield self._used_up(Blame(level, Why.USED, -1), 1, now)

    def refuse_spent(self, now: Moment) -> Iterator[Refusal]:
        """What its limits on tokens and money have against any more, when nothing is left."""
        for limit in self.spent:
            level = self.level(limit)
            if level.used >= limit.amount:
                yield self._used_up(Blame(level, Why.USED, -1), 1, now)

    def refuse_call(self, found: Blame, least: int, now: Moment) -> Refusal:
        """A limit on tokens or money refuses a call that takes at least `least` of it."""
        limit = found.level.limit
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
        return self._used_up(found, least, now)

    def _used_up(self, found: Blame, least: int, now: Moment) -> Refusal:
        level, limit = found.level, found.level.limit
        text = (
            f"{self.title} has used {amount(limit, level.used)} of its "
            f"{amount(limit, limit.amount)} {span_words(limit)}"
        )
        if limit.unit != REQUESTS and level.used < limit.amount:
            text += f", and this request may take {amount(limit, least)}"
        if limit.span == MINUTE:
            meter = self.windows.minute[limit.unit]
            wait = max(0.001, meter.room_in(least, limit.amount, now.steady))
            text += f". There is room again in {reset_words(wait)}."
            return self._refusal(limit, RateLimited(text, retry_after=wait), wait)
        if found.fits > 0:
            text += f". {_largest(found.fits).removesuffix('.')}"
        if limit.span == TOTAL:
            text += ". It does not reset."
            return self._refusal(limit, InsufficientQuota(text), NEVER)
        wait = max(0.001, self.resets_in(limit, now) or 0.0)
        text += f". It resets at {at(now.wall + wait)}, in {reset_words(wait)}."
        return self._refusal(limit, InsufficientQuota(text, retry_after=wait), wait)

    def _refusal(self, limit: Limit, error: GatewayError, hardness: float) -> Refusal:
        return Refusal(error, hardness, self.name, limit.kind)

    # -- telling -----------------------------------------------------------------------------------

    def warnings(self, now: Moment) -> list[tuple[Limit, str]]:
        """Of which limits most is used, in words; each once in its window."""
        return [(limit, self._warning(limit, now)) for limit in self._over() if self._warned(limit)]

    def _over(self) -> list[Limit]:
        """Those with a calendar window of which most is used; a minute is over before it is
        read."""
        found = []
        for limit in self.limits:
            meter = self.meter(limit)
            if isinstance(meter, Period) and meter.used >= WARN_AT * limit.amount:
                found.append(limit)
        return found

    def _warned(self, limit: Limit) -> bool:
        """Note the warning; False: it was given before."""
        period = self.windows.periods[limit.span, limit.unit]
        sign = limit.kind, limit.amount
        known = sign in period.warned
        period.warned.add(sign)
        return not known

    def _warning(self, limit: Limit, now: Moment) -> str:
        level, resets = self.level(limit), self.resets_in(limit, now)
        until = "it does not reset"
        if resets is not None:
            until = f"it resets at {at(now.wall + resets)}, in {reset_words(resets)}"
        return (
            f"{self.title} has used {amount(limit, level.used)} of its "
            f"{amount(limit, limit.amount)} {span_words(limit)}; {until}"
        )

    def tightest(self, unit: str) -> tuple[Limit, int] | None:
        """Of its limits on requests or tokens the one with the least left, and how much that is."""
        best: tuple[Limit, int] | None = None
        for limit in self.checked if unit == REQUESTS else self.spent:
            if limit.unit == unit:
                level = self.level(limit)
                left = max(0, limit.amount - level.used - level.held)
                if best is None or left < best[1]:
                    best = limit, left
        return best


def _largest(fits: int) -> str:
    if fits > 0:
        return f"The largest max_completion_tokens that fits is {fits:,}."
    return "Its prompt alone does not fit: shorten it."
