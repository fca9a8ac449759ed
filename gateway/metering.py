"""What a request may take, asked of its limits before the call and told to them after it.

Rule: the bound is read from the client's own body; the one edit is a lower output cap (design.md,
"Edits to what passes through"). Balances are the quota room's, the forms `wire/`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec.structs import force_setattr

from gateway.calls import OFF_LOOP, Calls
from gateway.config import ModelSection, Unpriced
from gateway.config import Quota as QuotaSection
from gateway.entry import is_like
from gateway.errors import EndpointNotMetered, ModelNotPriced
from gateway.exchange import Bound, Caller, CallerKind, Reservation
from gateway.keys.rules import blotted
from gateway.leash import Leash, runner
from gateway.ports import Call, ClientGone, Ledger, Permit, Prices, Quota, Upstream
from gateway.quota.permit import NOBODY
from gateway.quota.rules import all_output, nano
from gateway.trip import Trip
from gateway.usage.rules import rough_tokens
from gateway.wire.chat import ChatRequest
from gateway.wire.demand import Demand, demand_of, with_cap

LEASE = 86_400.0  # seconds after which a reservation of ours is no longer believed
NOTHING = Demand(prompt=0, text_bytes=0, output=0, n=1, extra_output=0, metered=True, capped=())
UNKNOWN = Demand(
    prompt=None, text_bytes=0, output=None, n=1, extra_output=0, metered=False, capped=()
)
# Of what takes no tokens, there is nothing to bound or to read.
FREE_PATHS = ("models", "moderations")


class Metering:
    """Between the pipeline and the limits, prices and reservations of a call."""

    def __init__(
        self,
        section: QuotaSection,
        models: Sequence[ModelSection],
        quota: Quota,
        prices: Prices,
        ledger: Ledger,
        calls: Calls,
    ) -> None:
        self._quota, self._prices, self._ledger, self._calls = quota, prices, ledger, calls
        self.reconfigure(section, models)

    def reconfigure(self, section: QuotaSection, models: Sequence[ModelSection]) -> None:
        """Take new sections, from the next request on."""
        self._section = section
        self._models = [model for model in models if model.context_tokens is not None]

    def identify(self, trip: Trip) -> None:
        """It was not let in: whose limits hold is known of an issued key nevertheless."""
        caller = trip.caller
        if trip.permit is NOBODY and caller is not None and caller.kind is CallerKind.ISSUED:
            trip.permit = self._quota.permit(caller, shared=False)

    def admit(self, trip: Trip, caller: Caller, upstream: Upstream | None, *, reads: bool) -> None:
        """Let it in and count it; None: it goes to several upstreams. RateLimited,
        InsufficientQuota."""
        shared = False
        if caller.kind is not CallerKind.ISSUED:
            shared = upstream is not None and upstream.shared_by(caller.kind)
        trip.permit = permit = self._quota.permit(caller, shared=shared)
        permit.admit(reads=reads)

    async def reserve(
        self, trip: Trip, upstream: Upstream, call: Call, request: ChatRequest | None = None
    ) -> bool:
        """Hold what the call may take, and lower its cap where less is left; True: others had their
        turn meanwhile, since it waited or its body was read in a thread. `request` keeps what its
        body asks for, for the next time.

        LedgerUnavailable, RateLimited, InsufficientQuota, EndpointNotMetered, ModelNotPriced;
        ClientGone where its client has left, also while it waits.
        """
        permit, waited = trip.permit, False
        body = trip.body or (call.body if isinstance(call.body, bytes) else b"")
        try:
            self._ledger.admit()
            demand = None if request is None else request.demand
            if demand is None:
                alone = request is not None and request.canonical
                demand = await self._demand(call, body, alone=alone)
                if request is not None:
                    force_setattr(request, "demand", demand)
            bound = self._bound(trip, upstream, permit, demand)
        except BaseException:
            permit.uncount()
            raise
        if trip.client.gone:
            raise ClientGone
        if not permit.hold(bound):
            waited = await self._wait(trip, bound)
        if permit.clamped is not None:
            lower = partial(
                with_cap, cap=permit.clamped, demand=demand, field=upstream.max_tokens_field
            )
            call.body = await self._calls.off_loop(lower, body)
        if demand.metered and demand is not NOTHING:
            held = partial(self._reservation, trip, call.caller, bound, demand, permit.clamped)
            self._ledger.reserve(trip.ask.id, held)
        return waited or len(body) > OFF_LOOP

    async def _wait(self, trip: Trip, bound: Bound) -> bool:
        """It is not simple, and its client may leave meanwhile; True: it waited."""
        leash = Leash()
        trip.client.watch(_nothing, partial(leash.pull, ClientGone()))
        with leash.holding(await runner()):
            leash.check()
            return await trip.permit.reserve(bound)

    async def _demand(self, call: Call, body: bytes, *, alone: bool) -> Demand:
        if call.path.partition("/")[0] in FREE_PATHS:
            return NOTHING
        if not isinstance(call.body, bytes):
            return UNKNOWN
        return await self._calls.off_loop(partial(demand_of, path=call.path, alone=alone), body)

    def _bound(self, trip: Trip, upstream: Upstream, permit: Permit, demand: Demand) -> Bound:
        model, section = trip.served or trip.model or "", self._section
        prompt, input_pico, output_pico = demand.prompt, 0, 0
        if demand is not NOTHING:
            found = self._prices.dearest(upstream.base_url, model)
            if found is not None:
                input_pico, output_pico = found
            elif permit.budgeted and section.unpriced is Unpriced.REJECT:
                raise ModelNotPriced(
                    f"This key has a budget, and the model '{model[:200]}' has no price. Give it "
                    "one in the configuration (models), or allow it (quota.unpriced: allow)."
                )
        if permit.spends:
            if not demand.metered:
                raise EndpointNotMetered(
                    "This key has a limit on tokens or money, and what "
                    f"'/v1/{trip.ask.path[:200]}' takes cannot be read. Use a key without them."
                )
            if prompt is None:
                prompt = self._context(model)
        output = section.default_output if demand.output is None else demand.output
        return Bound(prompt or 0, output, demand.n, demand.extra_output, input_pico, output_pico)

    def _context(self, model: str) -> int:
        for section in self._models:
            if section.context_tokens is not None and is_like(model, section.name):
                return section.context_tokens
        raise EndpointNotMetered(
            "This key has a limit on tokens or money, and how many tokens this prompt takes at "
            "most cannot be told from its text: an image, a sound, a file, or what is not known. "
            f"Say models[].context_tokens for '{model[:200]}' in the configuration."
        )

    def _reservation(
        self, trip: Trip, caller: Caller, bound: Bound, demand: Demand, clamped: int | None
    ) -> Reservation:
        """What the ledger books if a crash ends the call: a bound where limits depend on it, else
        an estimate."""
        prompt = bound.prompt if trip.permit.spends else rough_tokens(demand.text_bytes)
        said = all_output(bound, bound.output if clamped is None else clamped)
        ask = trip.ask
        return Reservation(
            ask.id,
            ask.at,
            caller.id,
            caller.team_id,
            blotted(trip.model or ""),
            prompt,
            said,
            nano(bound, prompt, said),
            ask.at + LEASE,
            nano(bound, prompt, 0),
            caller.name,
            caller.team,
            trip.upstream,
        )

    def settle(self, trip: Trip) -> None:
        """The call has ended: tell its limits what it took, as it is booked."""
        permit = trip.permit
        if permit.held:
            usage = trip.usage
            tokens = usage.prompt_tokens + usage.completion_tokens
            permit.settle(tokens, trip.cost.nano_usd or 0, trip.upstream or "")


def _nothing() -> None:
    """A client that reads has nothing to do with waiting."""
