"""The spans of a request, made of its Exchange after the fact; and which requests get any. Pure.

Rule: what a span says comes from the Exchange, which holds neither a prompt nor an answer nor a
secret; its texts are cut. Errors are recorded as semantic-conventions' recording-errors.md says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.config import UpstreamSection, host_and_port
from gateway.exchange import CacheState, Exchange, Outcome, Summary, TraceContext, UsageSource
from gateway.traces import names
from gateway.wire.trace import Parent

LONGEST = 256  # characters of a text that a client or an upstream chose
LONGEST_STATE = 512
FLAGS = 0b11  # sampled, and random (level 2); others are not set by who does not know them
OPERATIONS = {
    "chat/completions": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
# Well-known providers (gen_ai.provider.name) by the end of their host's name.
PROVIDERS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "inference.ai.azure.com": "azure.ai.inference",
    "services.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.perplexity.ai": "perplexity",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.x.ai": "x_ai",
}
_FAILED = frozenset(
    {
        *(Outcome.UPSTREAM_ERROR, Outcome.UPSTREAM_TIMEOUT, Outcome.UPSTREAM_TRUNCATED),
        *(Outcome.UPSTREAM_IN_BAND_ERROR, Outcome.DRAINED, Outcome.INTERNAL),
    }
)
# The status sent is the upstream's own.
_PASSED_ON = frozenset(
    {
        *(Outcome.OK, Outcome.UPSTREAM_STATUS),
        *(Outcome.UPSTREAM_TRUNCATED, Outcome.UPSTREAM_IN_BAND_ERROR),
    }
)

Value = str | bool | int | float | tuple[str, ...]
Attributes = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Span:
    """One span. `kind` is one of the three of `names.py`; times are nanoseconds of the epoch.

    `parent` is None for the first of a trace; `remote`: it is the caller's. `error` is a word."""

    name: str
    kind: str
    id: str
    parent: str | None
    start: int
    end: int
    attributes: Attributes
    error: str | None = None
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a span says of an upstream. An address of "" is none: it is in this process."""

    provider: str
    address: str = ""
    port: int = 0


# Which requests -----------------------------------------------------------------------------------


def is_sampled(trace: str, part: float) -> bool:
    """Is this new trace among the `part` that is recorded? Decided as OpenTelemetry's
    TraceIdRatioBased does: services that ask the id itself agree."""
    return int(trace[16:], 16) < part * 2**64


def place(parent: Parent | None, state: str | None, part: float, fresh: str) -> TraceContext:
    """Where a request stands: below its caller's span, or in a trace of its own. The caller says
    whether its trace is recorded. `fresh` is 64 random hex digits.

    A `tracestate` is worth what its `traceparent` is, and is kept up to the 512 characters that
    everybody has to propagate (W3C, section 3.3.1.5).
    """
    trace, server, client = fresh[:32], fresh[32:48], fresh[48:64]
    if parent is None:
        return TraceContext(trace, server, client, int(is_sampled(trace, part)))
    kept = state if state and len(state) <= LONGEST_STATE else None
    return TraceContext(parent.trace, server, client, parent.flags & FLAGS, parent.span, kept)


def is_recorded(exchange: Exchange) -> bool:
    """Not those without a valid caller: a stranger must not fill the collector."""
    context = exchange.context
    return context is not None and context.sampled and exchange.caller is not None


def has_call(exchange: Exchange) -> bool:
    """A call was made upstream for this request alone; a hit or a joined one made none."""
    return exchange.attempts > 0 and exchange.outcome is not Outcome.REFUSED


def count(exchange: Exchange) -> int:
    """How many spans `spans` makes."""
    return 1 + (exchange.timings.looked_up is not None) + has_call(exchange)


# Where it goes, and whence ------------------------------------------------------------------------


def traces_url(endpoint: str) -> str:
    """Where spans are posted: a collector's bare address gets OTLP's usual path."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def targets(upstreams: Iterable[UpstreamSection]) -> dict[str, Target]:
    """By the upstream's name."""
    return {upstream.name: _target(upstream) for upstream in upstreams}


def _target(upstream: UpstreamSection) -> Target:
    place = host_and_port(upstream.base_url)
    if place is None:
        return Target(upstream.name)
    host, port = place
    provider = next(
        (name for end, name in PROVIDERS.items() if f".{host}".endswith((f".{end}", f"-{end}"))),
        upstream.name,
    )
    return Target(provider, host, port)


# Spans --------------------------------------------------------------------------------------------


def spans(exchange: Exchange, context: TraceContext, target: Target, scheme: str) -> list[Span]:
    """The server's span, then those of the cache's look-up and of the call, where there were any.

    The look-up's id is left empty: nobody outside knows it, so the exporter makes one."""
    made = [_server(exchange, context, scheme)]
    if exchange.timings.looked_up is not None:
        made.append(_look_up(exchange, context))
    if has_call(exchange):
        made.append(_client(exchange, context, target))
    return made


def _server(x: Exchange, context: TraceContext, scheme: str) -> Span:
    method = x.method if x.method in METHODS else "_OTHER"
    error = _word(x) if x.status >= 500 or x.outcome in _FAILED else None
    route = f"/v1/{x.endpoint}"
    attributes = _kept(
        {
            names.METHOD: method,
            names.METHOD_ORIGINAL: _text(x.method) if method == "_OTHER" else None,
            names.SCHEME: scheme,
            names.PATH: _text(x.path),
            names.ROUTE: route,
            names.STATUS: None if x.status == 499 else x.status,
            names.ERROR: error,
            names.REQUEST_MODEL: _text(x.model),
            names.STREAM: x.stream or None,
            names.REQUEST_ID: x.id,
            names.KEY: None if x.caller is None else x.caller.name,
            names.TEAM: None if x.caller is None else x.caller.team,
            names.UPSTREAM: x.upstream,
            names.OUTCOME: x.outcome.value,
            names.OVERHEAD: x.timings.overhead / 1000,
            names.CACHE: None if x.cache is CacheState.NONE else x.cache.value,
            names.CACHE_REASON: x.cache_reason,
            names.CACHE_KEY: x.cache_key,
            names.SAVED_TOKENS: (x.saved.prompt_tokens + x.saved.completion_tokens) or None,
            names.SAVED_COST: _dollars(x.saved_cost.nano_usd or None),
            **{f"{names.TAG}{name}": content for name, content in x.tags.items()},
        }
    )
    name = f"{'HTTP' if method == '_OTHER' else method} {route}"
    begin, end = _at(x, 0), _at(x, x.timings.total)
    ours = (names.SERVER, context.server, context.parent, begin, end)
    return Span(name, *ours, attributes, error, remote=True)


def _look_up(x: Exchange, context: TraceContext) -> Span:
    hit = x.cache is CacheState.HIT
    attributes = _kept({names.CACHE: "hit" if hit else "miss", names.CACHE_AGE: x.cache_age})
    begin, end = _at(x, x.timings.admitted), _at(x, x.timings.looked_up)
    return Span("cache.lookup", names.LOOKUP, "", context.server, begin, end, attributes)


def _client(x: Exchange, context: TraceContext, target: Target) -> Span:
    times, said, model = x.timings, x.summary or Summary(), _text(x.model_served or x.model)
    operation = OPERATIONS.get(x.endpoint)
    begun, ended = times.called, times.last_byte
    if ended is None:
        ended = times.total if times.booked is None else times.booked
    attributes = _kept(
        {
            names.OPERATION: operation,
            names.PROVIDER: target.provider if operation else None,
            names.METHOD: None if operation else x.method,
            names.STATUS: x.status if x.outcome in _PASSED_ON else None,
            names.ERROR: _call_error(x),
            names.REQUEST_MODEL: model,
            names.STREAM: x.stream or None,
            names.ADDRESS: target.address or None,
            names.PORT: target.port or None,
            names.RESPONSE_MODEL: _text(said.model),
            names.FINISH_REASONS: tuple(map(_text, said.finish_reasons)),
            names.SERVICE_TIER: _text(said.service_tier),
            names.FIRST_CHUNK: _between(begun, times.first_token) if x.stream else None,
            names.UPSTREAM: x.upstream,
            names.UPSTREAM_ID: _text(x.upstream_request_id),
            names.ATTEMPTS: x.attempts if x.attempts > 1 else None,
            names.QUEUED: times.queued / 1000 or None,
            **_usage(x),
        }
    )
    words = (operation, model) if operation else (x.method, f"/v1/{x.endpoint}")
    name = " ".join(word for word in words if word)
    ours = (names.CLIENT, context.client, context.server, _at(x, begun), _at(x, ended))
    return Span(name, *ours, attributes, _call_error(x))


def _usage(x: Exchange) -> dict[str, Value | None]:
    usage = x.usage
    if usage.source not in {UsageSource.UPSTREAM, UsageSource.ESTIMATED}:
        return {}
    return {
        names.USAGE_SOURCE: usage.source.value,
        names.INPUT_TOKENS: usage.prompt_tokens,
        names.OUTPUT_TOKENS: usage.completion_tokens,
        names.CACHED_TOKENS: usage.cached_tokens or None,
        names.REASONING_TOKENS: usage.reasoning_tokens or None,
        names.COST: _dollars(x.cost.nano_usd),
    }


def _call_error(x: Exchange) -> str | None:
    """What was wrong with the call. A client that left is no fault of it, and what goes wrong after
    its last byte neither."""
    if x.outcome in {Outcome.DRAINED, Outcome.INTERNAL}:
        return _word(x) if x.timings.last_byte is None else None
    return _word(x) if x.outcome in _FAILED or x.outcome is Outcome.UPSTREAM_STATUS else None


def _word(x: Exchange) -> str:
    """As in `gateway_errors_total`: for an error, the same word everywhere."""
    return x.error or x.outcome.value


def _at(x: Exchange, milliseconds: float | None) -> int:
    """Nanoseconds since the epoch; a float holds those of today to the microsecond."""
    return round(x.at * 1e6) * 1000 + round((milliseconds or 0.0) * 1e6)


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else (end - begin) / 1000


def _dollars(nano_usd: int | None) -> float | None:
    return None if nano_usd is None else nano_usd / 1e9


def _text(value: str | None) -> str:
    return (value or "")[:LONGEST]


def _kept(attributes: dict[str, Value | None]) -> Attributes:
    """Without what is not there."""
    return {name: value for name, value in attributes.items() if value not in (None, "", ())}
