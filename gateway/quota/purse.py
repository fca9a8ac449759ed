"""The accounts of one caller together: what is the same for all of its requests of one second.

Rule: nothing here awaits. It is brought up to date by whoever takes from it, once in a second or
when a limit changes; all else on a request's way is arithmetic on its buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.exchange import Caller
from gateway.quota.account import Account
from gateway.quota.gauge import Gauge
from gateway.quota.rules import NEVER
from gateway.quota.windows import MONEY, Bucket

if TYPE_CHECKING:
    from gateway.quota.store import Quotas


class Purse:
    """`caller` is who was seen with it last: an equal object says that no limit has changed."""

    __slots__ = (
        *(
            "_heads",
            "_tail",
            "_told",
            "_tick",
            "accounts",
            "buckets",
            "budgeted",
            "caller",
            "capped",
        ),
        *("inside", "quotas", "spending", "spends", "warns"),
    )

    def __init__(self, quotas: Quotas, accounts: Sequence[Account]) -> None:
        self.quotas, self.accounts = quotas, accounts
        self.caller: Caller | None = None
        self.inside = 0  # requests under way
        self.buckets: tuple[Bucket, ...] = ()  # of this second, one of each account
        self.spending: tuple[Gauge, ...] = ()  # limits on tokens and money
        self.warns: tuple[Gauge, ...] = ()  # of them, those that no warning was given for
        self._tick = self._told = -1
        self._heads: tuple[tuple[Bucket, str], ...] = ()
        self._tail = ""
        for account in accounts:
            account.holders.append(self)
        self.take_limits()

    def take_limits(self) -> None:
        """Those of some account are others now: what holds also for requests under way."""
        self.capped = tuple([account for account in self.accounts if account.most is not None])
        spending = [one.limit.unit for account in self.accounts for one in account.on_spending]
        self.spends, self.budgeted = bool(spending), MONEY in spending

    def look(self) -> None:
        """Bring its windows to this moment."""
        quotas = self.quotas
        if quotas.steady() >= quotas.until or not quotas.since <= quotas.wall() < quotas.end:
            quotas.advance()
        if self._tick != quotas.tick:
            self._roll()

    def _roll(self) -> None:
        quotas, accounts = self.quotas, self.accounts
        self._tick = quotas.tick
        for account in accounts:
            account.roll(quotas.bounds, quotas.second)
        self.buckets = tuple([account.turn(quotas.second) for account in accounts])
        self.spending = tuple([gauge for account in accounts for gauge in account.on_spending])
        self.warns = tuple([gauge for gauge in self.spending if gauge.may_warn])

    # -- telling -----------------------------------------------------------------------------------

    def lines(self) -> str:
        """`x-ratelimit-*` of the tightest limits (F8), as header lines."""
        quotas = self.quotas
        if quotas.steady() >= quotas.until or self._told != quotas.stamp:
            self._tell()
        text, least = self._tail, NEVER
        for bucket, line in self._heads:
            left = bucket.top - bucket.fresh
            if left < least:
                text, least = line, left
        return text % (least if least > 0 else 0) if least < NEVER else text

    def _tell(self) -> None:
        """What stays the same until the second is over, or something is taken."""
        self.look()
        quotas, tightest, least, lasts = self.quotas, None, 0, True
        now, heads, self._tail = quotas.moment(), [], ""
        for gauge in self.spending:
            if gauge.in_tokens:
                left = gauge.left
                if tightest is None or left < least:
                    tightest, least = gauge, left
        if tightest is not None:
            line, lasts = tightest.line(now)
            self._tail = line % (least if least > 0 else 0)
        for account in self.accounts:
            if account.tightest is not None:
                line, lasting = account.tightest.line(now)
                # The first request of a second moves the end of the minute.
                lasts = lasts and lasting and account.bucket.fresh > 0
                heads.append((account.bucket, line + self._tail))
        self._heads = tuple(heads)
        self._told = quotas.stamp if lasts else -1
