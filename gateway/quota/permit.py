"""One request's way through the limits of its key and its team.

Rule: a permit gives back what it holds exactly once, in every ending (F3); a request that is
refused has taken nothing from any limit (F4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.config import AtLimit, CountHits
from gateway.exchange import Bound, HeaderList
from gateway.leash import own_task
from gateway.quota.account import Account, Gauge, Moment, Refusal
from gateway.quota.rules import Blame, Decision, Step, Why, blame, decide, need
from gateway.quota.windows import MONEY, TOKENS, Bucket, Period

if TYPE_CHECKING:
    from gateway.quota.store import Quotas


class FreePermit:
    """For who can meet no limit."""

    __slots__ = ("counted",)
    spends = budgeted = bound_exceeded = False
    clamped: int | None = None
    hit_tokens = 0
    waited = 0.0

    def __init__(self, *, counted: bool) -> None:
        self.counted = counted

    def headers(self) -> HeaderList:
        """None."""
        return []

    def admit(self, *, reads: bool) -> None:
        """Always."""

    def count(self) -> None:
        """Nothing."""

    def uncount(self) -> None:
        """Nothing."""

    def hit(self, tokens: int) -> None:
        """Nothing."""

    async def reserve(self, bound: Bound) -> bool:
        """Without waiting."""
        return False

    def cancel(self) -> None:
        """Nothing."""

    def settle(self, tokens: int, nano_usd: int, upstream: str) -> None:
        """Nothing."""

    def depart(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


FREE = FreePermit(counted=True)
NOBODY = FreePermit(counted=False)  # before it is known who asks


class CountedPermit:
    """The `Permit` port. Every request has one, most of them for a hit: what is not yet so stands
    at the class."""

    counted = bound_exceeded = False
    clamped: int | None = None
    hit_tokens = 0
    waited = 0.0
    _inside = _held = False
    _tokens = _money = 0  # held

    def __init__(self, quotas: Quotas, accounts: Sequence[Account]) -> None:
        self._quotas, self._accounts, self._now = quotas, accounts, quotas.now
        self._requests: list[tuple[Bucket, Period]] = []  # where it is counted
        self._slots: list[Slots] = []  # where it holds

    @property
    def spends(self) -> bool:
        """See `ports.Permit`."""
        return any(account.on_spending for account in self._accounts)

    @property
    def budgeted(self) -> bool:
        """See `ports.Permit`."""
        return any(one.limit.unit == MONEY for a in self._accounts for one in a.on_spending)

    # -- the request -------------------------------------------------------------------------------

    def admit(self, *, reads: bool) -> None:
        """See `ports.Permit`: all limits are checked, then all are taken."""
        self.look()
        section = self._quotas.section
        counts = not reads or section.count_hits is not CountHits.NONE
        if not section.hits_when_spent:
            self._refuse_entry(counts=counts)
        for account in self._accounts:
            if account.is_full(counts=counts):
                self._refuse_entry(counts=counts)
        self._inside = True
        for account in self._accounts:
            account.windows.parallel += 1
        if counts:
            self._count()

    def _refuse_entry(self, *, counts: bool) -> None:
        found: list[Refusal] = []
        now = self._now
        for account in self._accounts:
            found += account.refuse_entry()
            if not self._quotas.section.hits_when_spent:
                found += account.refuse_spent(now)
            if counts:
                found += account.refuse_request(now)
        self._quotas.refuse(found)

    def count(self) -> None:
        """It counts as one more; once. RateLimited, InsufficientQuota."""
        if self.counted:
            return
        self.look()
        now = self._now
        self._quotas.refuse([one for a in self._accounts for one in a.refuse_request(now)])
        self._count()

    def _count(self) -> None:
        self.counted, now = True, self._now
        for account in self._accounts:
            bucket, day = account.requests.slot(now.second), account.day
            bucket.settle(0, 1)
            day.used += 1
            self._requests.append((bucket, day))
            for gauge in account.warns:
                if gauge.meter.used >= gauge.warn_at:
                    self._quotas.warn(account, gauge, now)

    def uncount(self) -> None:
        """It was refused later, and has taken nothing (F4)."""
        for bucket, day in self._requests:
            bucket.settle(0, -1)
            day.used -= 1
        self._requests.clear()
        self.counted = False

    def hit(self, tokens: int) -> None:
        """It was answered from the cache, which saved so many tokens."""
        counts = self._quotas.section.count_hits
        if counts is CountHits.NONE:
            self.uncount()
        elif counts is CountHits.ALL:
            self.hit_tokens = tokens
            self._hold(0, 0)
            self._give_back(tokens, 0)

    def depart(self) -> None:
        """Its client has left: it is no longer under way, though its call may be."""
        if self._inside:
            self._inside = False
            for account in self._accounts:
                account.windows.parallel -= 1

    def close(self) -> None:
        """It has ended, however it did."""
        self.depart()
        self.cancel()

    # -- the call ----------------------------------------------------------------------------------

    async def reserve(self, bound: Bound) -> bool:
        """See `ports.Permit`."""
        self.look()
        section = self._quotas.section
        waiter = Waiter(self, bound)
        decision = self.decide(bound, patient=section.wait > 0)
        if decision.step in (Step.GO, Step.CLAMP) and section.wait > 0 and not waiter.may_go():
            decision = Decision(Step.WAIT)  # behind those who came before
        if decision.step is not Step.WAIT:
            self.act(bound, decision)
            return False
        began = self._now.steady
        try:
            await waiter.wait(section.wait)
            self.look()
            if not waiter.went:
                self.act(bound, self.decide(bound, patient=False))
        finally:
            waited = self._quotas.moment().steady - began
            self.waited += waited
            self._quotas.timed(waited)
            waiter.leave()
        return True

    def look(self) -> None:
        """Bring its windows to this moment."""
        now = self._quotas.moment()
        for account in self._accounts:
            if now.second != account.second or now.bounds is not account.bounds:
                account.roll(now)

    def decide(self, bound: Bound, *, patient: bool) -> Decision:
        """What its limits on tokens and money say at this moment."""
        section = self._quotas.section
        levels = [gauge.level() for account in self._accounts for gauge in account.on_spending]
        return decide(bound, levels, section.at_limit, section.clamp_min, patient=patient)

    def act(self, bound: Bound, decision: Decision) -> None:
        """Hold what was decided, or refuse."""
        if decision.step is Step.REFUSE:
            self.uncount()
            self._refuse(bound)
        if decision.step is Step.CLAMP:
            self.clamped = decision.output
            self._quotas.figures.clamped[self._accounts[0].name] += 1
        output = decision.output
        self._hold(need(bound, output, TOKENS), need(bound, output, MONEY))

    def _refuse(self, bound: Bound) -> None:
        section, found = self._quotas.section, []
        for account in self._accounts:
            for gauge in account.on_spending:
                against = blame(bound, gauge.level(), section.at_limit, section.clamp_min)
                if against is not None:
                    least = self._least(bound, against)
                    found.append(account.refuse_call(gauge, against, least, self._now))
        self._quotas.refuse(found)

    def _least(self, bound: Bound, against: Blame) -> int:
        """What would have had to be left."""
        section, output = self._quotas.section, bound.output
        if section.at_limit is AtLimit.LAST_REQUEST:
            return 1
        if section.at_limit is AtLimit.CLAMP and against.why is not Why.WHOLE:
            output = min(output, section.clamp_min)
        return need(bound, output, against.level.limit.unit)

    def _hold(self, tokens: int, nano_usd: int) -> None:
        self._held, self._tokens, self._money = True, tokens, nano_usd
        for account in self._accounts:
            slots = Slots(account, self._now)
            slots.settle(-tokens, 0, -nano_usd, 0)
            self._slots.append(slots)

    def cancel(self) -> None:
        """No call was made, or it took nothing."""
        self.clamped = None
        if self._held:
            self._give_back(0, 0)

    def settle(self, tokens: int, nano_usd: int, upstream: str) -> None:
        """The call has ended, and took that; once."""
        if not self._held:
            return
        if self.spends and (tokens > self._tokens or nano_usd > self._money):
            self.bound_exceeded = True
            self._quotas.figures.exceeded[upstream] += 1
            self._quotas.figures.overrun[upstream] += max(0, tokens - self._tokens)
        self._give_back(tokens, nano_usd)

    def _give_back(self, tokens: int, nano_usd: int) -> None:
        for slots in self._slots:
            slots.settle(self._tokens, tokens, self._money, nano_usd)
        self._slots.clear()
        self._held = False
        self.look()
        if tokens or nano_usd:
            for account in self._accounts:
                for gauge in account.on_spending:
                    if gauge.meter.used >= gauge.warn_at:
                        self._quotas.warn(account, gauge, self._now)
        self._quotas.wake(self._accounts)

    # -- telling -----------------------------------------------------------------------------------

    def headers(self) -> HeaderList:
        """`x-ratelimit-*` of the tightest limits (F8), and the cap where it was lowered."""
        self.look()
        found: HeaderList = []
        for of_requests_or_tokens in (0, 1):
            tightest: Gauge | None = None
            least = 0
            for account in self._accounts:
                for gauge in account.told[of_requests_or_tokens]:
                    meter = gauge.meter
                    left = gauge.amount - meter.used - meter.held
                    if tightest is None or left < least:
                        tightest, least = gauge, left
            if tightest is not None:
                found += tightest.headers(least if least > 0 else 0, self._now)
        if self.clamped is not None:
            found.append(("x-gateway-clamped", str(self.clamped)))
        return found

    # -- for its waiter ----------------------------------------------------------------------------

    @property
    def spending(self) -> list[Account]:
        """Accounts with a limit on tokens or money."""
        return [account for account in self._accounts if account.on_spending]

    def wake(self) -> None:
        """Those behind may go on."""
        self._quotas.wake(self._accounts)


class Slots:
    """The windows of one account that one call holds in: those of its admission, whatever is open
    when it settles (F6)."""

    __slots__ = ("_bucket", "_money", "_tokens")

    def __init__(self, account: Account, now: Moment) -> None:
        self._bucket = account.minute[TOKENS].slot(now.second)
        self._tokens, self._money = account.tokens, account.money

    def settle(self, held: int, used: int, held_money: int, money: int) -> None:
        """So much less is held, so much more is used."""
        self._bucket.settle(held, used)
        for period in self._tokens:
            period.held -= held
            period.used += used
        for period in self._money:
            period.held -= held_money
            period.used += money


class Waiter:
    """A call that waits for open reservations to settle. It holds nothing meanwhile."""

    __slots__ = ("_bound", "_future", "_permit", "accounts", "went")

    def __init__(self, permit: CountedPermit, bound: Bound) -> None:
        self._permit, self._bound = permit, bound
        self.accounts: Sequence[Account] = permit.spending
        self._future: asyncio.Future[None] | None = None
        self.went = False

    def may_go(self) -> bool:
        """Nobody who came before it waits for any of its accounts."""
        return all(not one.waiting or one.waiting[0] is self for one in self.accounts)

    def try_now(self) -> bool:
        """Take what it waits for, or hear that it will never fit; False: there is no room yet."""
        self._permit.look()
        decision = self._permit.decide(self._bound, patient=True)
        if decision.step is Step.WAIT:
            return False
        if decision.step is not Step.REFUSE:
            self.went = True
            self._permit.act(self._bound, decision)
        self._leave()
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        return True

    async def wait(self, seconds: float) -> None:
        """Until it went or was refused, at most so long."""
        self._future = asyncio.get_running_loop().create_future()
        for account in self.accounts:
            account.waiting.append(self)
        try:
            await own_task()
            async with asyncio.timeout(seconds):
                await self._future
        except TimeoutError:
            pass

    def leave(self) -> None:
        """Give up its place."""
        self._leave()
        self._permit.wake()

    def _leave(self) -> None:
        for account in self.accounts:
            if self in account.waiting:
                account.waiting.remove(self)
