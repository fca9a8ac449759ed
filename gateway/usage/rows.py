"""The row of a request, in the order of its columns. Pure: an exchange in, plain values out."""

from __future__ import annotations

from typing import Any

from gateway.exchange import NO_USAGE, Exchange, Outcome, Reservation, Usage
from gateway.usage.rules import booked_cost

TEXT = 256  # characters of a name that a client or an upstream chose

Row = list[Any]

# What stands for NULL, and what may not be one, is in `migrations.py`.
COLUMNS = {
    "id": "TEXT NOT NULL UNIQUE",  # the request's ULID
    "at": "INTEGER NOT NULL",  # of its arrival, milliseconds since the epoch
    "key_id": "TEXT NOT NULL",
    "key": "TEXT NOT NULL",  # its name
    "team_id": "TEXT",
    "team": "TEXT",  # its name
    "tags": "TEXT",  # a JSON object, names sorted
    "model": "TEXT",  # as asked
    "model_served": "TEXT",  # as sent upstream
    "upstream": "TEXT",
    "upstream_request_id": "TEXT",
    "endpoint": "TEXT NOT NULL",
    "stream": "INTEGER NOT NULL",
    "status": "INTEGER NOT NULL",
    "outcome": "TEXT NOT NULL",
    "error": "TEXT",
    "cache": "TEXT NOT NULL",
    "cache_key": "TEXT",  # 16 hex digits
    "prompt_tokens": "INTEGER NOT NULL",
    "completion_tokens": "INTEGER NOT NULL",
    "cached_tokens": "INTEGER NOT NULL",
    "reasoning_tokens": "INTEGER NOT NULL",
    "usage_source": "TEXT NOT NULL",
    "cost_nano": "INTEGER",  # 10^-9 dollars; NULL: not known
    "saved_tokens": "INTEGER NOT NULL",
    "saved_cost_nano": "INTEGER",
    "admitted_ms": "REAL",  # milliseconds from the arrival
    "looked_up_ms": "REAL",
    "connected_ms": "REAL",
    "first_byte_ms": "REAL",
    "last_byte_ms": "REAL",
    "booked_ms": "REAL",
    "total_ms": "REAL NOT NULL",
    "overhead_ms": "REAL NOT NULL",
    "bytes_in": "INTEGER NOT NULL",
    "bytes_out": "INTEGER NOT NULL",
    "attempts": "INTEGER NOT NULL",
    "finish_reasons": "TEXT",  # with commas
    "price_version": "TEXT",
    "corrects": "TEXT",  # the id of the row that this one's figures are added to; it is no request
    "counted": "INTEGER NOT NULL",  # 1: against limits on requests
    "counted_tokens": "INTEGER NOT NULL",  # against limits on tokens
    "clamped": "INTEGER",  # the output cap that it was lowered to
    "bound_exceeded": "INTEGER NOT NULL",  # 1: it took more than was reserved
}


def row_of(exchange: Exchange) -> Row:
    """The row of a request that had a valid caller."""
    x, usage, times, caller = exchange, exchange.usage, exchange.timings, exchange.caller
    assert caller is not None
    reasons = () if x.summary is None else x.summary.finish_reasons
    return [
        x.id,
        int(x.at * 1000),
        *(caller.id, caller.name, caller.team_id, caller.team),
        _tags(x),
        *map(_text, (x.model, x.model_served, x.upstream, x.upstream_request_id)),
        *(x.endpoint, x.stream, x.status, x.outcome.value, _text(x.error)),
        *(x.cache.value, x.cache_key),
        *_tokens(usage),
        usage.source.value,
        booked_cost(x),
        x.saved.prompt_tokens + x.saved.completion_tokens,
        0 if x.saved is NO_USAGE or x.saved == NO_USAGE else x.saved_cost.nano_usd,
        *map(_ms, (times.admitted, times.looked_up, times.connected)),
        *map(_ms, (times.first_byte, times.last_byte, times.booked, times.total, times.overhead)),
        *(x.bytes_in, x.bytes_out, x.attempts),
        _text(",".join(reasons)) or None,
        x.cost.version or x.saved_cost.version,
        None,
        *(x.counted, x.counted_tokens, x.clamped, x.bound_exceeded),
    ]


def row_of_lost(held: Reservation, usage: Usage, nano_usd: int | None) -> Row:
    """The row of a call whose gateway died: its end is not known, its usage is a guess."""
    known: dict[str, Any] = {
        "id": held.id,
        "at": int(held.at * 1000),
        "key_id": held.key_id,
        "key": held.key or held.key_id,
        "team_id": held.team_id,
        "team": held.team,
        "model": _text(held.model),
        "model_served": None,
        "upstream": held.upstream or "",
        "endpoint": "other",
        "status": 499,
        "outcome": Outcome.INTERNAL.value,
        "error": "crashed",
        "cache": "none",
        "usage_source": usage.source.value,
        "cost_nano": nano_usd,
        "attempts": 1,
        "counted": 1,
        "counted_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    tokens = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    known |= dict(zip(tokens, _tokens(usage), strict=True))
    return [known.get(name, _nothing(kind)) for name, kind in COLUMNS.items()]


def _nothing(kind: str) -> int | None:
    return 0 if "NOT NULL" in kind else None


def _tokens(usage: Usage) -> tuple[int, int, int, int]:
    return (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    )


def _tags(x: Exchange) -> dict[str, str] | None:
    """As a member of the row's JSON: SQLite keeps it as text."""
    return dict(sorted(x.tags.items())) or None


def _text(value: str | None) -> str | None:
    return value if value is None else value[:TEXT]


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def scrubbed(value: Any) -> Any:
    """The same without what UTF-8 cannot write (lone surrogates of a client's JSON)."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if isinstance(value, dict):
        return {scrubbed(name): scrubbed(item) for name, item in value.items()}
    return value
