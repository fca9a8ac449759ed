"""Balances in memory: check all limits, take all; reserve a bound, settle to the truth.

Rule: everything here is on the event loop's thread, so between a check and what it allows nothing
else can come.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.config import AtLimit, CountHits
from gateway.config import Quota as QuotaSection
from gateway.exchange import Caller, CallerKind
from gateway.ports import Clock, Permit
from gateway.quota.account import (
    CALLER,
    KEY,
    SHARED,
    TEAM,
    Account,
    AccountKey,
    Refusal,
)
from gateway.quota.gauge import Gauge, Moment
from gateway.quota.permit import FREE, CountedPermit
from gateway.quota.purse import Purse
from gateway.quota.rules import Given, Level, at
from gateway.quota.windows import MONEY, PERIODS, Bounds

log = logging.getLogger("gateway.quota")

ACCOUNTS = 100_000  # of callers without an issued key; the one not seen for longest goes first
NO_LIMITS: Given = {}
NANO = 10**9  # in a dollar


@dataclass(slots=True)
class Figures:
    """Since the start, by the name of the account (and the limit's kind), or of the upstream."""

    rejections: Counter[tuple[str, ...]] = field(default_factory=Counter)
    warnings: Counter[tuple[str, ...]] = field(default_factory=Counter)
    clamped: Counter[str] = field(default_factory=Counter)
    exceeded: Counter[str] = field(default_factory=Counter)
    overrun: Counter[str] = field(default_factory=Counter)  # tokens


@dataclass(slots=True)
class Spent:
    """What an account used before the start, in windows that are still open: by `PERIODS`; and of
    the last minute, (seconds ago, requests, tokens), the oldest first."""

    periods: dict[tuple[str, str], int] = field(default_factory=dict)
    minute: list[tuple[float, int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reading:
    """One limit at one moment, money in dollars; `reset` in wall seconds, None: never."""

    name: str
    kind: str
    limit: float
    used: float
    held: float
    reset: float | None


class Quotas:
    """The `Quota` port, in this process's memory."""

    def __init__(
        self, section: QuotaSection, clock: Clock, bounds: Callable[[float], Bounds]
    ) -> None:
        """`bounds` gives the calendar's windows at a wall second."""
        self.figures = Figures()
        self.timed: Callable[[float], None] = _untimed  # hears how long each call waited
        self._find_bounds = bounds
        self._accounts: dict[AccountKey, Account] = {}
        self._strangers: OrderedDict[AccountKey, None] = OrderedDict()
        self._purses: dict[tuple[AccountKey, ...], Purse] = {}
        self._met: dict[str, Purse] = {}  # by the id of an issued key, as it was asked for last
        self.waiting = 0  # places taken by calls that wait
        self.steady, self.wall = clock.monotonic, clock.now
        # For purses: in `second`, until `until` (steady), nothing changes but by what is taken.
        # `tick` is another one after that and when limits change, `stamp` also when something is
        # taken but a request. `since` and `end` are the day's, in wall seconds.
        self.tick = self.stamp = self.second = 0
        self.until, self.since, self.end = 0.0, 0.0, 0.0
        self.bounds: Bounds = {}
        self.advance()
        self.reconfigure(section)

    def reconfigure(self, section: QuotaSection) -> None:
        """Take a new `quota` section, from the next request on."""
        self.section = section
        self.counts_hits = section.count_hits is not CountHits.NONE
        self.counts_hits_plainly = section.count_hits is CountHits.REQUESTS
        self.crosses = section.at_limit is AtLimit.LAST_REQUEST
        self.strict = not section.hits_when_spent
        self._default: Given = section.default.by_name
        self._met.clear()

    # -- the port ----------------------------------------------------------------------------------

    def permit(self, caller: Caller, *, shared: bool) -> Permit:
        """See `ports.Quota`."""
        purse = self._met.get(caller.id)
        if purse is None or purse.caller is not caller:
            accounts = self._accounts_of(caller, shared)
            if not accounts:
                return FREE
            purse = self._purse_of(accounts)
            if caller.kind is CallerKind.ISSUED:
                purse.caller, self._met[caller.id] = caller, purse
        return CountedPermit(purse)

    def _purse_of(self, accounts: tuple[Account, ...]) -> Purse:
        key = tuple([account.key for account in accounts])
        purse = self._purses.get(key)
        if purse is None:
            purse = self._purses[key] = Purse(self, accounts)
        return purse

    def _accounts_of(self, caller: Caller, shared: bool) -> tuple[Account, ...]:
        grant = caller.grant
        if caller.kind is CallerKind.ISSUED and grant is not None:
            mine = self._account((KEY, caller.id), caller.name, grant.limits, self._default)
            if caller.team_id is None:
                return (mine,)
            team, limits = caller.team or "", grant.team_limits
            return mine, self._account((TEAM, caller.team_id), team, limits, NO_LIMITS)
        if not self._default:
            return ()
        if shared:
            return (self._account((SHARED, ""), "", NO_LIMITS, self._default),)
        return (self._account((CALLER, caller.id), caller.name, NO_LIMITS, self._default),)

    def _account(self, key: AccountKey, name: str, own: Given, default: Given) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(key, self.bounds)
        if account.shown != name:
            account.show_as(name)
        if key[0] == CALLER:
            self._strangers[key] = None
            self._strangers.move_to_end(key)
            self._forget_strangers()
        if account.take_limits(own, default):
            self.tick += 1
            self.stamp += 1
        return account

    def _forget_strangers(self) -> None:
        """Callers without an issued key are anybody's to invent: their number is bounded."""
        for _ in range(len(self._strangers) - ACCOUNTS):
            key, _ = self._strangers.popitem(last=False)
            account = self._accounts[key]
            if account.under_way or account.waiting:
                self._strangers[key] = None  # in use; the next one then
            else:
                del self._accounts[key]
                self._purses.pop((key,), None)

    # -- for purses --------------------------------------------------------------------------------

    def advance(self) -> None:
        """Another second, of either clock, or another day."""
        wall, steady = self.wall(), self.steady()
        self.second = int(steady)
        self.until = min(self.second + 1, steady + 1 - wall % 1)
        if not self.since <= wall < self.end:
            self.bounds = self._find_bounds(wall)
            self.since, self.end = self.bounds["day"]
        self.tick += 1
        self.stamp += 1

    def moment(self) -> Moment:
        """Now, for what people are told."""
        return Moment(self.wall(), self.steady())

    def refuse(self, found: Sequence[Refusal]) -> None:
        """Count and raise the one that holds for longest, if there is one."""
        refusal = max(found, key=lambda one: one.hardness, default=None)
        if refusal is not None:
            self.figures.rejections[refusal.name, refusal.kind] += 1
            raise refusal.error

    def warn(self, account: Account, gauge: Gauge, now: Moment) -> None:
        """Say that most of a limit is used, once in its window (F9)."""
        if (text := account.warning(gauge, now)) is not None:
            self.figures.warnings[account.name, gauge.limit.kind] += 1
            log.warning("%s", text)

    def wake(self, accounts: Sequence[Account]) -> None:
        """Something was given back: those that wait go on, the first come first. Each that does
        wakes those behind it in its other accounts, when it leaves."""
        for account in accounts:
            waiting = account.waiting
            while waiting and waiting[0].may_go() and waiting[0].try_now():
                pass

    # -- the past ----------------------------------------------------------------------------------

    @property
    def counts_strangers(self) -> bool:
        """A limit may hold for callers without an issued key, so what they use is counted."""
        return bool(self._default)

    def restore_strangers(self, spent: Mapping[AccountKey, Spent]) -> None:
        """What they used while no limit held for them; what was counted of them is forgotten."""
        strange = (CALLER, SHARED)
        self._strangers.clear()
        self._accounts = {k: one for k, one in self._accounts.items() if k[0] not in strange}
        self._purses = {k: one for k, one in self._purses.items() if k[0][0] not in strange}
        self.restore({key: past for key, past in spent.items() if key[0] in strange})

    def restore(self, spent: Mapping[AccountKey, Spent]) -> None:
        """What was used before, by account, of which nothing is counted yet."""
        self.advance()
        steady = self.steady()
        for key, past in spent.items():
            account = self._accounts[key] = Account(key, self.bounds, restored=True)
            if key[0] == CALLER:
                self._strangers[key] = None
            for name in PERIODS:
                account.windows.restore(name, past.periods.get(name, 0))
            for ago, requests, tokens in past.minute:
                account.windows.refill(int(steady - max(0.0, ago)), requests, tokens)
        self._forget_strangers()

    # -- telling -----------------------------------------------------------------------------------

    def standing(self, kind: str, id: str, name: str, limits: Given) -> list[dict[str, Any]]:
        """What an account (`key` or `team`) may still use, one entry for each of its limits; money
        in dollars. `limits` are its own."""
        account, now = self._look_at(kind, id, name, limits)
        return [_shown(level, resets, now) for level, resets in account.standing(now)]

    def levels(self, kind: str, id: str, name: str, limits: Given) -> Iterator[Reading]:
        """The same as figures for metrics, cheaply."""
        account, now = self._look_at(kind, id, name, limits)
        for level, resets in account.standing(now):
            limit = level.limit
            scale = NANO if limit.unit == MONEY else 1
            yield Reading(
                account.name,
                limit.kind,
                limit.amount / scale,
                level.used / scale,
                level.held / scale,
                None if resets is None else now.wall + resets,
            )

    def _look_at(self, kind: str, id: str, name: str, limits: Given) -> tuple[Account, Moment]:
        default = NO_LIMITS if kind == TEAM else self._default
        account = self._account((kind, id), name, limits, default)
        if int(self.steady()) != self.second or not self.since <= self.wall() < self.end:
            self.advance()
        account.roll(self.bounds, self.second)
        account.weigh()
        return account, self.moment()

    def shared_levels(self) -> Iterator[Reading]:
        """Of what callers without an issued key share."""
        return self.levels(SHARED, "", "", NO_LIMITS)

    @property
    def open(self) -> tuple[int, int]:
        """Requests in flight, and all that is held of any window, of all accounts together."""
        accounts = self._accounts.values()
        return sum(one.under_way for one in accounts), sum(one.windows.held for one in accounts)


def _untimed(seconds: float) -> None:
    """Nobody asks."""


def _shown(level: Level, resets: float | None, now: Moment) -> dict[str, Any]:
    limit = level.limit
    scale = NANO if limit.unit == MONEY else 1

    def figure(value: int) -> float | int:
        return value / scale if scale > 1 else value

    return {
        "kind": limit.kind,
        "per": limit.span,
        "limit": figure(limit.amount),
        "used": figure(level.used),
        "reserved": figure(level.held),
        "left": figure(max(0, limit.amount - level.used - level.held)),
        "reset": None if resets is None else at(now.wall + resets),
    }
