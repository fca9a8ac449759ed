"""What a chat request is to the cache, and where it goes: worked out before anything is looked up.

What came before is not read again: a body, by its bytes; its plan, where the same caller asks with
the same head; and for another body what such plans have in common. The rules are the cache room's
(`cache/rules.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.cache import rules
from gateway.cache.rules import Policies, Policy, Traits, Wish
from gateway.calls import Calls
from gateway.config import Cache as CacheSection
from gateway.config import Scope
from gateway.exchange import CacheState, Caller, Grant, Kind, Mold
from gateway.forms import beside
from gateway.ports import Ask, Upstream
from gateway.said import Asks, said
from gateway.seen import Seen
from gateway.wire.chat import DECISIVE, ChatRequest, request_of
from gateway.wire.document import read_document

NO_GRANT = Grant()
NO_REQUEST = ChatRequest(b"", "", False, False, False, 1, None, None, False)
KNOWN_LARGEST = 256 * 1024  # bytes of a body that is remembered
PLANNED_LARGEST = 256  # characters of what a head asks, in a plan that is remembered
SHARE = 1024  # bytes for bodies that came before, for each that is remembered to have come once
TERMS = 128  # models, callers and heads whose terms are remembered
# Bytes of Python's own: of a body, and of its plan with a hit's mold and what sinks make of that;
# tests hold them to what tracemalloc sees.
_OF_A_KNOWN, _OF_A_PLAN = 1500, 1200


class Known(Struct, gc=False):
    """A body that was read: what it asks, its traits, the digest of its canonical form; and the
    plan of who asked it last. `weight`: bytes that it takes in memory, by a generous estimate."""

    request: ChatRequest
    traits: Traits
    digest: bytes | None
    weight: int
    plan: Plan | None = None

    def planned(self, caller: Caller, asks: Asks, upstreams: Sequence[Upstream]) -> Plan | None:
        """The plan for the same again: nothing that it depends on has changed."""
        plan = self.plan
        if plan is None or plan.caller is not caller or plan.upstreams is not upstreams:
            return None
        return plan if plan.asks is asks or plan.asks == asks else None


class Plan(Struct):
    """What one request is to the cache, and where it goes if there is nothing. `key` None: nothing,
    for the reason in `bypass`; `shown` is what logs have of it. Never changed, but for `mold` and
    `kinds`."""

    request: ChatRequest
    wish: Wish
    policy: Policy
    scope: str
    key: bytes | None
    bypass: str | None
    upstream: Upstream
    served: str
    # What it depends on, besides the body.
    caller: Caller
    asks: Asks
    upstreams: Sequence[Upstream]
    shown: str | None
    state: CacheState
    reads: bool
    keeps: bool
    logged: bool  # the journal may keep something of it
    kinds: dict[bool, Kind]  # of the hits of such plans, of streams and of JSON
    mold: Mold | None = None  # of the hits of this plan


class Terms(Struct, frozen=True, gc=False):
    """What the plans for one model, caller and head have in common, whatever their bodies: `like`
    is such a plan, but for its body, `passing` one that passes by the cache. `begun`: of their
    identities."""

    like: Plan
    passing: Plan
    begun: bytes


def _planned(known: Known, terms: Terms) -> Plan:
    """The plan for a body."""
    like, digest = terms.like, known.digest
    bypass = rules.bypass_reason(known.traits, like.wish, like.policy)
    if bypass is not None or digest is None:
        return replace(terms.passing, request=known.request, bypass=bypass)
    key = rules.identified(terms.begun, digest)
    return replace(like, request=known.request, key=key, shown=key[:8].hex())


class Plans:
    """Bodies that came before, and the plans that were made."""

    def __init__(self, section: CacheSection, calls: Calls) -> None:
        self._calls = calls
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._terms: dict[tuple[str, Asks, int], Terms] = {}
        self.reconfigure(section)

    def reconfigure(self, section: CacheSection) -> None:
        """Take a new `cache` section: nothing from before is remembered."""
        self._policies = Policies(section)
        self._ignored = frozenset(section.ignore_fields)
        self._known.clear()
        self._terms.clear()
        self._known_bytes, self._known_limit = 0, beside(section.memory)
        self._roomy = self._known_limit - self._known_limit // 16
        self._seen = Seen(self._known_limit // SHARE)

    def at_once(self, body: bytes) -> Known | None:
        """What a body asks; one that came before, byte for byte, is not read again. None: it is
        too large to be read here."""
        known = self._known.get(body)
        if known is not None:
            self._known.move_to_end(body)  # the one not seen for longest goes first
            return known
        if len(body) > KNOWN_LARGEST:
            return None
        known = self._study(body)
        if self._known_bytes < self._roomy or self._seen.before(body):
            self._known[body] = known
            self._take(known.weight)
        return known

    async def know(self, body: bytes) -> Known:
        """The same, however large it is."""
        known = self.at_once(body)
        return await self._calls.off_loop(self._study, body) if known is None else known

    def _take(self, more: int) -> None:
        held = self._known_bytes + more
        while held > self._known_limit:
            held -= self._known.popitem(last=False)[1].weight
        self._known_bytes = held

    def _keep(self, known: Known, plan: Plan) -> None:
        """The plan for the same again."""
        if known.plan is None and self._known.get(known.request.body) is known:
            known.weight += _OF_A_PLAN
            self._take(_OF_A_PLAN)
        known.plan = plan

    def _study(self, body: bytes) -> Known:
        document = read_document(body, DECISIVE)
        request = request_of(document, self._ignored)
        traits = rules.traits_of(document.found, request.reason)
        weight = _OF_A_KNOWN + len(body) + 8 * len(request.model)
        return Known(request, traits, request.digest, weight)

    def alike(
        self, known: Known, caller: Caller, asks: Asks, upstreams: Sequence[Upstream]
    ) -> Plan | None:
        """The plan of a body that is new, where another one of that model, caller and head had one,
        and nothing that it depends on has changed since."""
        terms = self._terms.get((known.request.model, asks, id(caller)))
        if terms is None:
            return None
        like = terms.like
        if like.caller is not caller or like.upstreams is not upstreams:
            return None
        plan = _planned(known, terms)
        self._keep(known, plan)
        return plan

    def make(
        self,
        known: Known,
        caller: Caller,
        ask: Ask,
        upstream: Upstream,
        upstreams: Sequence[Upstream],
        *,
        logged: bool,
    ) -> Plan:
        """What this request is to the cache; its key, its wish, its reason to pass by. `upstream`
        was chosen of `upstreams`; `logged`: the journal may keep something of it."""
        model, asks, grant = known.request.model, said(ask).asks, caller.grant or NO_GRANT
        controls = rules.ALL if grant.controls is None else grant.controls
        wish = rules.read_wish(asks.cache_control, asks.cache_ttl, controls)
        enabled = upstream.cache and grant.cache is not False
        policy = self._policies.of(model, enabled=enabled, ttl=upstream.cache_ttl)
        allowed = policy.scope if grant.scope is None else Scope(grant.scope)
        scope = rules.scope_of(caller, allowed, caller.team_id)
        served = upstream.real_name(model)
        named = served or model
        place = (scope, ask.path, asks.query, upstream.name, upstream.base_url, named)
        like = Plan(
            NO_REQUEST, wish, policy, scope, None, None, upstream, served, caller, asks, upstreams,
            None, CacheState.MISS, reads=wish.reads, keeps=wish.keeps, logged=logged, kinds={},
        )  # fmt: skip
        passing = replace(like, state=CacheState.BYPASS, reads=False, keeps=False, kinds={})
        terms = Terms(like, passing, rules.begin_identity(place, asks.semantic))
        plan = _planned(known, terms)
        if asks.size <= PLANNED_LARGEST:
            self._keep(known, plan)
            if len(model) <= PLANNED_LARGEST:
                if len(self._terms) == TERMS:
                    self._terms.clear()
                self._terms[model, asks, id(caller)] = terms
        return plan
