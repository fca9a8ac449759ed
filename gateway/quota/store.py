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
    Gauge,
    Moment,
    Refusal,
)
from gateway.quota.permit import FREE, CountedPermit
from gateway.quota.rules import Given, Level, at
from gateway.quota.windows import MONEY, PERIODS, REQUESTS, TOKENS, Bounds

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
        self._clock, self._find_bounds = clock, bounds
        wall = clock.now()
        self.now = Moment(wall, clock.monotonic(), bounds(wall))
        self._day = self.now.bounds["day"]
        self._accounts: dict[AccountKey, Account] = {}
        self._strangers: OrderedDict[AccountKey, None] = OrderedDict()
        # Who asked last, as they were then: equal objects say that no limit has changed.
        self._met: dict[str, tuple[Caller, tuple[Account, ...]]] = {}
        self.reconfigure(section)

    def reconfigure(self, section: QuotaSection) -> None:
        """Take a new `quota` section, from the next request on."""
        self.section = section
        self._default: Given = section.default.by_name
        self._met.clear()

    # -- the port ----------------------------------------------------------------------------------

    def permit(self, caller: Caller, *, shared: bool) -> Permit:
        """See `ports.Quota`."""
        if (met := self._met.get(caller.id)) is not None and met[0] is caller:
            return CountedPermit(self, met[1])
        accounts = self._accounts_of(caller, shared)
        if caller.kind is CallerKind.ISSUED:
            self._met[caller.id] = caller, accounts
        return CountedPermit(self, accounts) if accounts else FREE

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
            account = self._accounts[key] = Account(key, self.now.bounds)
        if account.shown != name:
            account.show_as(name)
        if key[0] == CALLER:
            self._strangers[key] = None
            self._strangers.move_to_end(key)
            self._forget_strangers()
        account.take_limits(own, default)
        return account

    def _forget_strangers(self) -> None:
        """Callers without an issued key are anybody's to invent: their number is bounded."""
        for _ in range(len(self._strangers) - ACCOUNTS):
            key, _ = self._strangers.popitem(last=False)
            account = self._accounts[key]
            if account.windows.parallel or account.waiting:
                self._strangers[key] = None  # in use; the next one then
            else:
                del self._accounts[key]

    # -- for permits -------------------------------------------------------------------------------

    def moment(self) -> Moment:
        """Now, and the calendar brought to it."""
        now, clock = self.now, self._clock
        now.wall = wall = clock.now()
        now.steady = steady = clock.monotonic()
        now.second = int(steady)
        if not self._day[0] <= wall < self._day[1]:
            now.bounds = self._find_bounds(wall)
            self._day = now.bounds["day"]
        return now

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
        self.restore({key: past for key, past in spent.items() if key[0] in strange})

    def restore(self, spent: Mapping[AccountKey, Spent]) -> None:
        """What was used before, by account, of which nothing is counted yet."""
        now = self.moment()
        for key, past in spent.items():
            account = self._accounts[key] = Account(key, self.now.bounds, restored=True)
            if key[0] == CALLER:
                self._strangers[key] = None
            for name in PERIODS:
                account.windows.periods[name].used = past.periods.get(name, 0)
            for ago, requests, tokens in past.minute:
                second = int(now.steady - max(0.0, ago))
                account.windows.minute[REQUESTS].refill(second, requests)
                account.windows.minute[TOKENS].refill(second, tokens)
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
        now = self.moment()
        account.roll(now)
        return account, now

    def shared_levels(self) -> Iterator[Reading]:
        """Of what callers without an issued key share."""
        return self.levels(SHARED, "", "", NO_LIMITS)

    @property
    def open(self) -> tuple[int, int]:
        """Requests in flight, and all that is held of any window, of all accounts together."""
        windows = [account.windows for account in self._accounts.values()]
        meters = [meter for one in windows for meter in one.meters]
        return sum(one.parallel for one in windows), sum(meter.held for meter in meters)


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
