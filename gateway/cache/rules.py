"""What may be read and kept, for whom, for how long, and what an equal request is. Pure.

Rule: every no is a word of a fixed vocabulary, and on doubt the answer is no: a miss costs a call,
a wrong hit costs trust.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.config import Cache, Scope
from gateway.entry import Entry, is_like
from gateway.exchange import Caller, CallerKind, Summary
from gateway.wire.findings import NOT_JSON, TOO_LARGE

# What a request may ask for ----------------------------------------------------------------------

NO_CACHE, NO_STORE, MAX_AGE = "no-cache", "no-store", "max-age"
ONLY_IF_CACHED, TTL = "only-if-cached", "ttl"
ALL = frozenset({NO_CACHE, NO_STORE, MAX_AGE, ONLY_IF_CACHED, TTL})

_LONGEST = 2**31  # seconds; larger ones mean this one (RFC 9111 section 1.2.2)
_SECONDS = re.compile(r"[0-9]{1,400}")


class Wish(Struct, frozen=True, gc=False):
    """What a request's headers ask of the cache. Seconds.

    `reads`, `keeps`: may an answer come from there, may it be kept there. `only_if_cached`: make no
    call, whatever else is asked. `ttl` 0 keeps nothing, which `keeps` says already.
    """

    reads: bool = True
    keeps: bool = True
    max_age: int | None = None
    only_if_cached: bool = False
    ttl: int | None = None


NO_WISH = Wish()


def read_wish(
    cache_control: str | None, ttl_header: str | None, allowed: frozenset[str] = ALL
) -> Wish:
    """The wish in `Cache-Control` (several are joined by commas) and `X-Gateway-Cache-TTL`.

    Names are read in any case. What is unknown, malformed or not `allowed` is ignored (C8); of two
    ages the smaller counts. `Pragma` says nothing (RFC 9111 section 5.4 lets it go).
    """
    if cache_control is None and ttl_header is None:
        return NO_WISH
    named = _directives(cache_control or "")
    found = {name: value for name, value in named.items() if name in allowed}
    ttl = _seconds(ttl_header) if TTL in allowed else None
    no_store = NO_STORE in found
    return Wish(
        reads=NO_CACHE not in found and not no_store,
        keeps=not no_store and ttl != 0,
        max_age=_seconds(found.get(MAX_AGE)),
        only_if_cached=ONLY_IF_CACHED in found,
        ttl=ttl,
    )


def _directives(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == MAX_AGE:
            ages = [age for age in (_seconds(found.get(name)), _seconds(value)) if age is not None]
            value = str(min(ages)) if ages else ""
        found[name] = value
    return found


def _seconds(text: str | None) -> int | None:
    if text is None or not _SECONDS.fullmatch(text := text.strip()):
        return None
    return min(int(text), _LONGEST)


# What the configuration allows -------------------------------------------------------------------


class Policy(Struct, frozen=True, gc=False):
    """The `cache` section as it holds for one model of one upstream. Seconds, bytes."""

    enabled: bool
    ttl: float
    max_ttl: float
    sampled: bool
    scope: Scope
    finish_reasons: frozenset[str]
    max_entry: int

    def ttl_for(self, wish: Wish) -> float:
        """How long an answer is kept: as asked, up to `max_ttl`."""
        return self.ttl if wish.ttl is None else min(float(wish.ttl), self.max_ttl)


class Policies:
    """The policy of each model. Off anywhere is off; for the rest a model's rule comes before its
    upstream, and that before the section."""

    def __init__(self, section: Cache) -> None:
        self._rules = tuple(section.models)
        self._base = Policy(
            enabled=section.enabled,
            ttl=section.ttl,
            max_ttl=section.max_ttl,
            sampled=section.sampled,
            scope=section.scope,
            finish_reasons=frozenset(section.finish_reasons),
            max_entry=section.max_entry,
        )

    def of(self, model: str, *, enabled: bool = True, ttl: float | None = None) -> Policy:
        """`model` by its public name; `enabled` and `ttl` are its upstream's."""
        rule = next(
            (rule for rule in self._rules if any(is_like(model, one) for one in rule.models)), None
        )
        policy = self._base
        if rule is None and enabled and ttl is None:
            return policy
        if rule is not None:
            enabled = enabled and rule.enabled is not False
            ttl = ttl if rule.ttl is None else rule.ttl
            if rule.sampled is not None:
                policy = replace(policy, sampled=rule.sampled)
        ttl = policy.ttl if ttl is None else min(ttl, policy.max_ttl)
        return replace(policy, enabled=policy.enabled and enabled, ttl=ttl)


# What is neither looked up nor kept --------------------------------------------------------------

BYPASSES = frozenset(
    {
        "disabled",
        "no_store",
        "sampled",
        "not_canonical",
        "store",
        "background",
        "web_search_options",
    }
)


class Traits(Struct, frozen=True, gc=False):
    """What decides about a body: why it never comes near the cache, and is its answer drawn by
    lot."""

    reason: str | None
    sampled: bool


def traits_of(members: Mapping[str, Any], canonical_reason: str | None = None) -> Traits:
    """The traits of a body by its top-level members; `canonical_reason`: why it has no canonical
    form. The same body has the same traits, so they may be kept beside its digest."""
    reason = None if canonical_reason is None else "not_canonical"
    if reason is None and not _APART.isdisjoint(members):
        reason = _reason(members)
    # A temperature that is absent is OpenAI's default of 1. A seed promises "best effort" only.
    temperature, choices = members.get("temperature"), members.get("n")
    is_zero = type(temperature) in _NUMBERS and temperature == 0
    return Traits(reason, not is_zero or (type(choices) is int and choices > 1))


_APART = frozenset({"store", "background", "web_search_options"})
_NUMBERS = (int, float)


def _reason(members: Mapping[str, Any]) -> str | None:
    if members.get("store") is True:  # the answer's id leads to something kept by the upstream
        return "store"
    if members.get("background") is True:
        return "background"
    if members.get("web_search_options") is not None:  # asks for what is new
        return "web_search_options"
    return None


def bypass_reason(traits: Traits, wish: Wish, policy: Policy) -> str | None:
    """Why a request is neither answered from the cache nor kept there: one of BYPASSES."""
    if not policy.enabled:
        return "disabled"
    if not wish.reads and not wish.keeps:
        return "no_store"
    if traits.reason is not None:
        return traits.reason
    return "sampled" if traits.sampled and not policy.sampled else None


# What may be kept --------------------------------------------------------------------------------

REFUSALS = frozenset(
    {
        *("no_store", "status", "encoded", "content_type", "too_large", "not_json", "error"),
        *("incomplete", "no_choices", "clamped", "finish_reason"),
    }
)


class Landing(Struct, frozen=True, gc=False):
    """What has come of a call. `size` in bytes of the body; `choices` is the request's `n`.

    `clamped`: the gateway lowered the cap of the output. The upstream's own `Cache-Control` is
    not asked: theirs forbid keeping by habit, for browsers and what lies between.
    """

    status: int
    content_type: str
    streamed: bool
    summary: Summary
    size: int
    choices: int = 1
    encoded: bool = False
    clamped: bool = False


def may_keep(landing: Landing, wish: Wish, policy: Policy) -> str | None:
    """Why an answer is not kept, one of REFUSALS; None: it is (requirement D1)."""
    summary, kind = landing.summary, landing.content_type
    expected = "text/event-stream" if landing.streamed else "application/json"
    reasons, missing = summary.finish_reasons, summary.missing
    return (
        "no_store" if not wish.keeps
        else "status" if landing.status != 200
        else "encoded" if landing.encoded
        else "content_type" if kind != expected and _media(kind) != expected
        else "too_large" if landing.size > policy.max_entry or missing == TOO_LARGE
        else "error" if summary.error
        else "not_json" if missing == NOT_JSON or summary.observer_errors
        else "incomplete" if not summary.complete
        else "no_choices" if not reasons
        # A stream's end says nothing of a choice that never came; JSON shows all that it has.
        else "incomplete" if landing.streamed and len(reasons) < landing.choices
        else "clamped" if landing.clamped and "length" in reasons
        else "finish_reason" if not policy.finish_reasons.issuperset(reasons)
        else None
    )  # fmt: skip


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def landed(old: Entry | None, new: Entry, *, converts: bool) -> Entry:
    """What to keep when `new`, in one form, lands where `old` is: the other form goes if it is
    older and can be built from the new one (`converts`), else it stays beside it."""
    if old is None:
        return new
    kept = replace(old, stream=None) if new.stream is not None else replace(old, json=None)
    if not kept.recordings or (converts and kept.created <= new.created):
        return new
    return replace(new, stream=new.stream or kept.stream, json=new.json or kept.json)


# What an equal request is ------------------------------------------------------------------------

FORMAT = b"gateway-cache-1"


def scope_of(caller: Caller, scope: Scope, team: str | None = None) -> str:
    """Whose answers these are: the caller's own, unless an issued key shares (requirement C4).

    `team` is the id of the key's team; without one its answers are its own.
    """
    if caller.kind is CallerKind.ISSUED:
        if scope is Scope.GLOBAL:
            return "global"
        if scope is Scope.TEAM and team:
            return f"team:{team}"
    return f"{caller.kind.value}:{caller.id}"


def identity(
    *,
    scope: str,
    path: str,
    query: str,
    upstream: str,
    base_url: str,
    model: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
) -> bytes:
    """The 32-byte digest of a request. ValueError without a scope.

    `model` is the name as it is sent upstream, `headers` those forwarded ones that may change an
    answer, in any order, `body` the canonical form. Each part stands with its length, so no part
    can pretend to be another.
    """
    place = (scope, path, query, upstream, base_url, model)
    return identified(begin_identity(place, headers), body)


def begin_identity(place: tuple[str, ...], headers: Iterable[tuple[str, str]]) -> bytes:
    """What the identities of requests have in common that differ in their bodies alone. `place`:
    scope, path, query, upstream, base_url, model."""
    if not place[0]:
        raise ValueError("a request without a scope has no identity")
    counted = sorted((name.lower(), value) for name, value in headers)
    parts = [FORMAT, *map(_bytes, place), len(counted).to_bytes(4)]
    parts += [_bytes(text) for pair in counted for text in pair]
    return b"".join(map(_framed, parts))


def identified(begun: bytes, body: bytes) -> bytes:
    """The digest of the request that has this body."""
    return sha256(b"%b%b%b" % (begun, len(body).to_bytes(8), body)).digest()


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8) + part


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
