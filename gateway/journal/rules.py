"""What an access line says (requirement G8), and which are left out. Pure: data in, bytes out.

Rule: one exchange makes one line, whatever its client sent. Text from outside is cut to a length
and holds only what can be printed; no body and no credential is among the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.exchange import Caller, Cost, Exchange, Timings, Usage

PATH = 512  # characters
TEXT = 128
TAGS = 8
FINISH_REASONS = 16
SECRET = 16  # characters from which a caller's token is blotted out of other fields
DETAILS = 32  # members of one level of the upstream's usage object
DEPTH = 3
LARGEST = 2**63 - 1

_encode = msgspec.json.Encoder().encode


class Bucket:
    """At most `rate` lines a second; as many at once after a pause."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._level = rate
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """One line may pass at `now` (monotonic seconds)."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._level = min(self._rate, self._level + passed * self._rate)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


def line(exchange: Exchange, suppressed: int = 0) -> bytes:
    """The access line of one exchange, newline included. `suppressed`: lines left out before it."""
    return _encode(record(exchange, suppressed)) + b"\n"


def record(exchange: Exchange, suppressed: int = 0) -> dict[str, Any]:
    """The fields in their order. Times are milliseconds, sizes are bytes."""
    x, usage, caller = exchange, exchange.usage, exchange.caller

    def text(value: str | None, limit: int = TEXT) -> str | None:
        return None if value is None else clean(_blotted(value, caller), limit)

    fields: dict[str, Any] = {
        "id": x.id,
        "time": rfc3339(x.at),
        "client": text(x.client),
        "key": None if caller is None else clean(caller.name, TEXT),
        "key_kind": None if caller is None else caller.kind.value,
        "team": None if caller is None else text(caller.team),
        "endpoint": text(x.endpoint),
        "method": text(x.method, 32),
        "path": text(x.path.partition("?")[0], PATH),
        "model": text(x.model),
        "model_served": text(x.model_served),
        "upstream": text(x.upstream),
        "upstream_request_id": text(x.upstream_request_id),
        "stream": x.stream,
        "status": x.status,
        "outcome": x.outcome.value,
        "error": text(x.error),
        "cache": x.cache.value,
        "cache_key": x.cache_key,
        "cache_reason": x.cache_reason,
        "cache_age": None if x.cache_age is None else round(x.cache_age, 3),
        "saved_tokens": x.saved.prompt_tokens + x.saved.completion_tokens,
        "cost_usd": _dollars(x.cost),
        "saved_cost_usd": _dollars(x.saved_cost),
        **_tokens(usage),
        "usage_missing": text(x.usage_missing),
        "finish_reasons": [text(reason) for reason in _finish_reasons(x)],
        "attempts": x.attempts,
        "retry": _retry(x.client_retry),
        "bytes_in": x.bytes_in,
        "bytes_out": x.bytes_out,
        "ms": _milliseconds(x.timings),
        "tags": {text(k): text(v) for k, v in list(x.tags.items())[:TAGS]},
        "trace": text(x.trace),
    }
    if x.clamped is not None:
        fields["clamped"] = x.clamped
    if x.bound_exceeded:
        fields["bound_exceeded"] = True
    if suppressed:
        fields["suppressed"] = suppressed
    return fields


def clean(text: str, limit: int) -> str:
    """`text` in at most `limit` characters that can be printed; escapes stand for the others.

    Line ends, terminal sequences and marks that turn the reading direction are among the others.
    """
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit]
    )
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


def rfc3339(at: float) -> str:
    """Seconds since the epoch as UTC with milliseconds."""
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def _blotted(text: str, caller: Caller | None) -> str:
    """Clients do put their key where it does not belong: in a path, a tag, a model's name (G7)."""
    token = None if caller is None else caller.token
    return text.replace(token, "[key]") if token and len(token) >= SECRET else text


def _dollars(cost: Cost) -> float | None:
    """For people and plots; the ledger has the exact figure."""
    return None if cost.nano_usd is None else cost.nano_usd / 1e9


def _tokens(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": min(usage.prompt_tokens, LARGEST),
        "completion_tokens": min(usage.completion_tokens, LARGEST),
        "cached_tokens": min(usage.cached_tokens, LARGEST),
        "reasoning_tokens": min(usage.reasoning_tokens, LARGEST),
        "usage_source": usage.source.value,
        "usage_details": None if usage.details is None else _numbers(usage.details, DEPTH),
    }


def _numbers(details: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The upstream's own usage object, unknown members included (A8), but only what is a number."""
    kept: dict[str, Any] = {}
    for name, value in list(details.items())[:DETAILS]:
        if isinstance(value, Mapping) and depth > 1:
            kept[clean(str(name), TEXT)] = _numbers(value, depth - 1)
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        ):
            kept[clean(str(name), TEXT)] = value
    return kept


def _finish_reasons(exchange: Exchange) -> tuple[str, ...]:
    return () if exchange.summary is None else exchange.summary.finish_reasons[:FINISH_REASONS]


def _retry(count: str | None) -> int | None:
    """The client's own `x-stainless-retry-count`, where it is a count."""
    return int(count) if count and len(count) <= 4 and count.isascii() and count.isdigit() else None


def _milliseconds(timings: Timings) -> dict[str, float | None]:
    points = (
        "received",
        "admitted",
        "looked_up",
        "connected",
        "first_byte",
        "first_token",
        "last_byte",
        "booked",
        "total",
        "queued",
        "upstream",
        "overhead",
    )
    values = ((point, getattr(timings, point)) for point in points)
    return {point: None if value is None else round(value, 3) for point, value in values}
