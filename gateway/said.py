"""What a request's head says to the gateway itself, read once for all requests with that head.
Pure; what cannot be read is ignored, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from gateway.keys.rules import blotted
from gateway.ports import Ask
from gateway.upstream.headers import SEMANTIC_PREFIXES
from gateway.wire.headers import read_tags
from gateway.wire.trace import read_trace_id


@dataclass(frozen=True, slots=True)
class Said:
    """`plain`: the body has no Content-Encoding. `asks`: all that decides what a request is to the
    cache, besides its body and its caller. `path`, `retry` and `tags` are fit to be shown."""

    authorization: str | None = field(repr=False)
    api_key: str | None = field(repr=False)
    via: str | None
    plain: bool
    asks: Asks
    path: str
    retry: str | None
    tags: Mapping[str, str]
    trace: str | None


class Asks(Struct, frozen=True, gc=False, cache_hash=True):
    """`semantic`: the forwarded headers that may change an answer."""

    cache_control: str | None
    cache_ttl: str | None
    query: str
    semantic: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Characters that the client chose."""
        said = (self.cache_control or "", self.cache_ttl or "", self.query)
        return sum(map(len, said)) + sum(len(n) + len(v) for n, v in self.semantic)


def said(ask: Ask) -> Said:
    """What this one says."""
    found: Said | None = ask.shared.said
    if found is None:
        found = ask.shared.said = _read(ask)
    return found


def _read(ask: Ask) -> Said:
    header = ask.header
    semantic = tuple([pair for pair in ask.headers if pair[0].startswith(SEMANTIC_PREFIXES)])
    return Said(
        authorization=header("authorization"),
        api_key=header("api-key"),
        via=header("via"),
        plain=(header("content-encoding") or "identity").lower() == "identity",
        asks=Asks(header("cache-control"), header("x-gateway-cache-ttl"), ask.query, semantic),
        path=blotted(f"/v1/{ask.path}"),
        retry=blotted(header("x-stainless-retry-count") or "") or None,
        tags=read_tags(blotted(header("x-gateway-tags") or "")),
        trace=read_trace_id(header("traceparent")),
    )
