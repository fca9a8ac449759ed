"""One request's way through the limits of its key and its team.

Rule: a permit gives back what it holds exactly once, in every ending (F3); a request that is
refused has taken nothing from any limit (F4).
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config import AtLimit
from gateway.exchange import Bound, HeaderList
from gateway.quota.account import Account, Refusal
from gateway.quota.purse import Purse
from gateway.quota.rules import Blame, Decision, Step, Why, blame, decide, need
from gateway.quota.waiter import Waiter
from gateway.quota.windows import TOKENS, Bucket, hold, settle
from gateway.wire.fields import fields_of


class FreePermit:
    """For who can meet no limit."""

    __slots__ = ("counted",)
    spends = budgeted = bound_exceeded = held = False
    clamped: int | None = None
    hit_tokens = 0
    waited = 0.0

    def __init__(self, *, counted: bool) -> None:
        self.counted = counted

    def headers(self) -> HeaderList:
        """None."""
        return []

    def lines(self) -> str:
        """None."""
        return ""

    def admit(self, *, reads: bool) -> None:
        """Always."""

    def count(self) -> None:
        """Nothing."""

    def uncount(self) -> None:
        """Nothing."""

    def hit(self, tokens: int) -> None:
        """Nothing."""

    def hold(self, bound: Bound) -> bool:
        """Always."""
        return True

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

    counted = held = bound_exceeded = False
    clamped: int | None = None
    hit_tokens = 0
    waited = 0.0
    _inside = False
    _counted_in: Sequence[Bucket] = ()
    _held_in: Sequence[Bucket] = ()
    _tokens = _money = 0  # held

    def __init__(self, purse: Purse) -> None:
        self._purse = purse

    @property
    def spends(self) -> bool:
        """See `ports.Permit`."""
        return self._purse.spends

    @property
    def budgeted(self) -> bool:
        """See `ports.Permit`."""
        return self._purse.budgeted

    # -- the request -------------------------------------------------------------------------------

    def admit(self, *, reads: bool) -> None:
        """See `ports.Permit`: all limits are checked, then all are taken."""
        purse = self._purse
        purse.look()
        quotas = purse.quotas
        counts = quotas.counts_hits or not reads
        if quotas.strict:
            self._refuse_entry(counts=counts)
        for account in purse.capped:
            if account.is_full:
                self._refuse_entry(counts=counts)
        if counts:
            self._counted_in = buckets = purse.buckets
            over = False
            for bucket in buckets:
                bucket.fresh = fresh = bucket.fresh + 1
                if fresh > bucket.full:
                    over = True
            if over:
                for bucket in buckets:
                    bucket.fresh -= 1
                self._count_with_care(entering=True)
            self.counted = True
        self._inside = True
        purse.inside += 1
        for account in purse.capped:
            account.parallel += 1

    def _refuse_entry(self, *, counts: bool) -> None:
        found: list[Refusal] = []
        quotas, accounts = self._purse.quotas, self._purse.accounts
        now = quotas.moment()
        for account in accounts:
            account.weigh()
            found += account.refuse_entry()
            if quotas.strict:
                found += account.refuse_spent(now)
            if counts:
                found += account.refuse_request(now)
        quotas.refuse(found)

    def count(self) -> None:
        """It counts as one more; once. RateLimited, InsufficientQuota."""
        if not self.counted:
            self._purse.look()
            self._count_with_care(entering=False)
            self.counted, self._counted_in = True, self._purse.buckets

    def _count_with_care(self, *, entering: bool) -> None:
        """A limit is reached, or is to be warned of."""
        quotas, accounts = self._purse.quotas, self._purse.accounts
        now = quotas.moment()
        for account in accounts:
            account.weigh()
        if entering:
            self._refuse_entry(counts=True)
        else:
            quotas.refuse([one for account in accounts for one in account.refuse_request(now)])
        for account in accounts:
            account.bucket.fresh += 1
            account.fold()
            for gauge in account.on_requests:
                if gauge.used >= gauge.warn_at:
                    quotas.warn(account, gauge, now)
            account.weigh()

    def uncount(self) -> None:
        """It was refused later, and has taken nothing (F4)."""
        if self.counted:
            self.counted, purse = False, self._purse
            for bucket, account in zip(self._counted_in, purse.accounts, strict=True):
                bucket.count(-1)
                tightest = account.tightest
                account.weigh()
                if account.tightest is not tightest:
                    purse.quotas.tick += 1  # headers tell of another one

    def hit(self, tokens: int) -> None:
        """It was answered from the cache, which saved so many tokens."""
        quotas = self._purse.quotas
        if quotas.counts_hits_plainly:
            return
        if not quotas.counts_hits:
            self.uncount()
        else:
            self.hit_tokens = tokens
            self._purse.look()
            self._hold(0, 0)
            self._give_back(tokens, 0)

    def depart(self) -> None:
        """Its client has left: it is no longer under way, though its call may be."""
        if self._inside:
            self._inside = False
            purse = self._purse
            purse.inside -= 1
            for account in purse.capped:
                account.parallel -= 1

    def close(self) -> None:
        """It has ended, however it did."""
        self.depart()
        if self.held:
            self.cancel()

    # -- the call ----------------------------------------------------------------------------------

    def hold(self, bound: Bound) -> bool:
        """See `ports.Permit`."""
        purse = self._purse
        purse.look()
        quotas = purse.quotas
        if quotas.waiting or quotas.crosses:
            return False
        tokens, nano_usd = need(bound, bound.output)
        for gauge in purse.spending:
            meter, past = gauge.meter, gauge.past
            left = gauge.amount - meter.used - meter.held - past.used - past.held
            if left < (tokens if gauge.in_tokens else nano_usd):
                return False
        self._hold(tokens, nano_usd)
        return True

    async def reserve(self, bound: Bound) -> bool:
        """See `ports.Permit`."""
        if self.hold(bound):
            return False
        quotas = self._purse.quotas
        section = quotas.section
        waiter = Waiter(self, bound)
        decision = self.decide(bound, patient=section.wait > 0)
        if decision.step in (Step.GO, Step.CLAMP) and section.wait > 0 and not waiter.may_go():
            decision = Decision(Step.WAIT)  # behind those who came before
        if decision.step is not Step.WAIT:
            self.act(bound, decision)
            return False
        began = quotas.steady()
        try:
            await waiter.wait(section.wait)
            if not waiter.went:
                self.act(bound, self.decide(bound, patient=False))
        finally:
            waited = quotas.steady() - began
            self.waited += waited
            quotas.timed(waited)
            waiter.leave()
        return True

    def decide(self, bound: Bound, *, patient: bool) -> Decision:
        """What its limits on tokens and money say at this moment."""
        purse, section = self._purse, self._purse.quotas.section
        purse.look()
        levels = [gauge.level() for gauge in purse.spending]
        return decide(bound, levels, section.at_limit, section.clamp_min, patient=patient)

    def act(self, bound: Bound, decision: Decision) -> None:
        """Hold what was decided just now, or refuse."""
        if decision.step is Step.REFUSE:
            self.uncount()
            self._refuse(bound)
        if decision.step is Step.CLAMP:
            self.clamped = decision.output
            self._purse.quotas.figures.clamped[self._purse.accounts[0].name] += 1
        self._hold(*need(bound, decision.output))

    def _refuse(self, bound: Bound) -> None:
        quotas, found = self._purse.quotas, []
        section, now = quotas.section, quotas.moment()
        for account in self._purse.accounts:
            for gauge in account.on_spending:
                against = blame(bound, gauge.level(), section.at_limit, section.clamp_min)
                if against is not None:
                    least = self._least(bound, against)
                    found.append(account.refuse_call(gauge, against, least, now))
        quotas.refuse(found)

    def _least(self, bound: Bound, against: Blame) -> int:
        """What would have had to be left."""
        section, output = self._purse.quotas.section, bound.output
        if section.at_limit is AtLimit.LAST_REQUEST:
            return 1
        if section.at_limit is AtLimit.CLAMP and against.why is not Why.WHOLE:
            output = min(output, section.clamp_min)
        return need(bound, output)[against.level.limit.unit != TOKENS]

    def _hold(self, tokens: int, nano_usd: int) -> None:
        purse = self._purse
        self.held, self._tokens, self._money = True, tokens, nano_usd
        self._held_in = purse.buckets
        hold(purse.buckets, tokens, nano_usd)
        purse.quotas.stamp += 1

    def cancel(self) -> None:
        """No call was made, or it took nothing."""
        if self.held:
            self.clamped = None
            self._give_back(0, 0)

    def settle(self, tokens: int, nano_usd: int, upstream: str) -> None:
        """The call has ended, and took that; once."""
        if not self.held:
            return
        if (tokens > self._tokens or nano_usd > self._money) and self.spends:
            self.bound_exceeded = True
            self._purse.quotas.figures.exceeded[upstream] += 1
            self._purse.quotas.figures.overrun[upstream] += max(0, tokens - self._tokens)
        self._give_back(tokens, nano_usd)

    def _give_back(self, tokens: int, nano_usd: int) -> None:
        self.held, purse = False, self._purse
        settle(self._held_in, self._tokens, tokens, self._money, nano_usd)
        quotas = purse.quotas
        quotas.stamp += 1
        for gauge in purse.warns:
            if gauge.meter.used + gauge.past.used >= gauge.warn_at:
                self._warn()
                break
        if quotas.waiting:
            quotas.wake(purse.accounts)

    def _warn(self) -> None:
        """Some limit is to be warned of, if its window is still open."""
        purse = self._purse
        purse.look()
        now = purse.quotas.moment()
        for account in purse.accounts:
            for gauge in account.on_spending:
                if gauge.used >= gauge.warn_at:
                    purse.quotas.warn(account, gauge, now)

    # -- telling -----------------------------------------------------------------------------------

    def lines(self) -> str:
        """`x-ratelimit-*` of the tightest limits (F8), and the cap where it was lowered."""
        if self.clamped is None:
            return self._purse.lines()
        return f"{self._purse.lines()}x-gateway-clamped: {self.clamped}\r\n"

    def headers(self) -> HeaderList:
        """The same."""
        return fields_of(self.lines())

    # -- for its waiter ----------------------------------------------------------------------------

    @property
    def spending(self) -> list[Account]:
        """Accounts with a limit on tokens or money."""
        return [account for account in self._purse.accounts if account.on_spending]

    def line_up(self, places: int) -> None:
        """So many places more are taken by those who wait."""
        self._purse.quotas.waiting += places

    def wake(self) -> None:
        """Those behind may go on."""
        self._purse.quotas.wake(self._purse.accounts)
