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
        *("_heads", "_stamp", "_tail", "_tick", "_told", "accounts", "buckets", "budgeted"),
        *("caller", "capped", "inside", "quotas", "spending", "spends", "tokens", "warns"),
    )

    def __init__(self, quotas: Quotas, accounts: Sequence[Account]) -> None:
        self.quotas, self.accounts = quotas, accounts
        self.caller: Caller | None = None
        self.inside = 0  # requests under way
        self.buckets: tuple[Bucket, ...] = ()  # of this second, one of each account
        self.spending: tuple[Gauge, ...] = ()  # limits on tokens and money
        self.tokens: tuple[Gauge, ...] = ()  # of them, those on tokens
        self.warns: tuple[Gauge, ...] = ()  # of them, those that no warning was given for
        self._tick = self._told = self._stamp = -1
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
        self.tokens = tuple([gauge for gauge in self.spending if gauge.in_tokens])
        self.warns = tuple([gauge for gauge in self.spending if gauge.may_warn])

    # -- telling -----------------------------------------------------------------------------------

    def lines(self) -> str:
        """`x-ratelimit-*` of the tightest limits (F8), as header lines."""
        quotas = self.quotas
        if quotas.steady() >= quotas.until or self._told != quotas.tick:
            self._tell()
        if self._stamp != quotas.stamp:
            self._tell_tokens()
        line, least = "", NEVER
        for bucket, text in self._heads:
            left = bucket.top - bucket.fresh
            if left < least:
                line, least = text, left
        if line:
            line %= least if least > 0 else 0
        return line + self._tail

    def _tell(self) -> None:
        """What stays the same until the second is over."""
        self.look()
        quotas, lasts = self.quotas, True
        now, heads = quotas.moment(), []
        for account in self.accounts:
            if account.tightest is not None:
                # The first request of a second moves the end of the minute.
                lasts = (
                    account.tightest.tell(now, quotas.tick) and account.bucket.fresh > 0 and lasts
                )
                heads.append((account.bucket, account.tightest.text))
        self._heads = tuple(heads)
        self._told = quotas.tick if lasts else -1
        self._stamp = -1

    def _tell_tokens(self) -> None:
        """What stays the same until something is taken, too."""
        quotas, tightest, least, lasts = self.quotas, None, 0, True
        for gauge in self.tokens:
            meter, past = gauge.meter, gauge.past
            left = gauge.amount - meter.used - meter.held - past.used - past.held
            if tightest is None or left < least:
                tightest, least = gauge, left
        self._tail = ""
        if tightest is not None:
            if tightest.told != quotas.tick:
                lasts = tightest.tell(quotas.moment(), quotas.tick)
            self._tail = tightest.text % (least if least > 0 else 0)
        self._stamp = quotas.stamp if lasts else -1
