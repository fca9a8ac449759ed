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
from gateway.quota.gauge import Gauge, Moment
from gateway.quota.rules import (
    NEVER,
    NOW,
    PARALLEL,
    TOTAL,
    Blame,
    Given,
    Level,
    Limit,
    Why,
    amount,
    at,
    in_words,
    limits_of,
    span_words,
)
from gateway.quota.windows import (
    ENDLESS,
    REQUESTS,
    Bounds,
    Bucket,
    Minute,
    Windows,
)

MODEST = 1.0  # seconds that a client is told to wait for what others hold


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


class Holder(Protocol):
    """Who takes from this account and others together."""

    inside: int  # requests under way

    def take_limits(self) -> None:
        """Those of some account are others now."""


class Account:
    """`name` is what metrics show, `title` what people read. `restored`: what it used before the
    start is known, and so was any warning given for it."""

    __slots__ = (
        *("_default", "_limits", "_own", "_restored", "bucket", "holders", "key", "most"),
        *("name", "on_requests", "on_spending", "parallel", "shown", "tightest", "title"),
        *("waiting", "windows"),
    )

    def __init__(self, key: AccountKey, bounds: Bounds, *, restored: bool = False) -> None:
        self.key, self.windows = key, Windows(bounds)
        self._limits: tuple[Limit, ...] = ()
        self.most: Limit | None = None  # on requests at a time; `parallel` is counted with it alone
        self.parallel = 0
        self.holders: list[Holder] = []
        self.tightest: Gauge | None = None  # on requests
        self.bucket = Bucket(-1, self.windows)  # of the second in which it was asked for last
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

    def take_limits(self, own: Given, default: Given) -> bool:
        """What holds from now on; False: the same as before."""
        if own == self._own and default == self._default:
            return False
        self._own, self._default = own, default
        self._limits = limits_of(own, default)
        self.attach()
        if self._restored:
            self._restored = False
            for gauge in self.gauges:
                if gauge.used >= gauge.warn_at:
                    gauge.note_warning()
        return True

    def roll(self, bounds: Bounds, second: int) -> None:
        """Bring its windows to this moment."""
        self.fold()
        if self.windows.roll(bounds, second):
            self.attach()

    def turn(self, second: int) -> Bucket:
        """Where to count in this second; `roll` comes first."""
        self.bucket = self.windows.bucket(second)
        self.weigh()
        return self.bucket

    def attach(self) -> None:
        """Put each limit beside its window, where either is new: nothing is looked for on the way
        of a request."""
        most = next((one for one in self._limits if one.unit == PARALLEL), None)
        self.most, self.parallel = most, self.under_way
        gauges = [Gauge(one, self.windows) for one in self._limits if one.span != NOW]
        self.on_requests = tuple(one for one in gauges if one.limit.unit == REQUESTS)
        self.on_spending = tuple(one for one in gauges if one.limit.unit != REQUESTS)
        for holder in self.holders:
            holder.take_limits()
        self.weigh()

    @property
    def gauges(self) -> tuple[Gauge, ...]:
        """All of its limits but that on requests at a time."""
        return self.on_requests + self.on_spending

    @property
    def under_way(self) -> int:
        """Requests."""
        return sum(holder.inside for holder in self.holders)

    def fold(self) -> None:
        """Count what is fresh in its windows."""
        bucket = self.bucket
        if bucket.fresh:
            bucket.count(bucket.fresh)
            bucket.fresh = 0

    def weigh(self) -> None:
        """See how many more requests this second may have."""
        self.fold()
        bucket, tightest = self.bucket, None
        bucket.full = bucket.top = ENDLESS
        for gauge in self.on_requests:
            left = gauge.left
            if left < bucket.top:
                bucket.top, tightest = left, gauge
            if gauge.may_warn:
                left = min(left, ceil(gauge.warn_at) - gauge.used - 1)
            bucket.full = min(bucket.full, left)
        self.tightest = tightest

    def standing(self, now: Moment) -> Iterator[tuple[Level, float | None]]:
        """Each limit, and in how many seconds it is whole again; None: never, or it is."""
        for gauge in self.gauges:
            resets = gauge.resets_in(now)
            yield gauge.level(), resets if 0 < resets < NEVER else None
        if self.most is not None:
            yield Level(self.most, self.under_way, 0), None

    # -- refusing ----------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """`max_parallel` has something against one more."""
        return self.most is not None and self.parallel >= self.most.amount

    def refuse_entry(self) -> Iterator[Refusal]:
        """What `max_parallel` has against one more."""
        limit, count = self.most, self.parallel
        if limit is not None and self.is_full:
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
            if gauge.used >= gauge.amount:
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
        if isinstance(meter, Minute):
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
        if not gauge.note_warning():
            return None
        limit, resets = gauge.limit, gauge.resets_in(now)
        until = "it does not reset"
        if resets < NEVER:
            until = f"it resets at {at(now.wall + resets)}, in {in_words(resets)}"
        return (
            f"{self.title} has used {amount(limit, gauge.used)} of its "
            f"{amount(limit, limit.amount)} {span_words(limit)}; {until}"
        )


def _largest(fits: int) -> str:
    if fits > 0:
        return f"The largest max_completion_tokens that fits is {fits:,}."
    return "Its prompt alone does not fit: shorten it."
