"""The row of a request, in the order of its columns. Pure: an exchange in, plain values out.

Rule: a row is made on the event loop's thread, for every request: one display, few calls. It holds
exact ints, floats and strs alone, of which sqlite3 binds one in 20 to 70 ns; None and bools take it
300, looking for an adapter. So what stands for NULL is of another type: see `null`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec

from gateway.exchange import (
    NO_USAGE,
    CacheState,
    Exchange,
    Mold,
    Outcome,
    Reservation,
    Usage,
    UsageSource,
)
from gateway.usage.columns import COLUMNS, OF_KIND, null
from gateway.usage.rules import booked_cost

TEXT = 256  # characters of a name that a client or an upstream chose
START = slice(TEXT)  # no more is needed of it, nor kept
KEPT = 1024

Row = tuple[Any, ...]  # ints, floats and strs

_of_kind = itemgetter(*map(list(COLUMNS).index, OF_KIND))


def rows_of(exchanges: Iterable[Exchange]) -> list[Row]:
    """The rows of those that had a valid caller: short ones of a hit whose kind came before, and of
    a call that went well, in the orders of AGAIN and of CALL. Of such a hit without tags, the last
    member is a row itself, of what it shares with its kind (see `flat`)."""
    rows: list[Row] = []
    add = rows.append
    for x in exchanges:
        mold = x.mold
        if mold is not None:
            times, same = x.timings, mold.row
            if same is None:
                same = mold.row = _recorded(mold)
            row = (
                x.id,
                int(x.at * 1000),
                _tags(x.tags) if x.tags else 0,
                times.admitted or 0.0,
                times.looked_up or 0.0,
                times.total,
                1 if x.counted else 0,
                x.counted_tokens,
                *same,
            )
            add(flat(row) if x.tags else row)
        elif x.caller is not None:
            add(_row_of_call(x) or row_of(x))
    return rows


def flat(row: Row) -> Row:
    """A row in the order of AGAIN, of one whose last member is what its kind shares."""
    return *row[:-1], *row[-1]


def _row_of_call(x: Exchange) -> Row | None:
    """None: it has more to say."""
    caller, usage, times, summary = x.caller, x.usage, x.timings, x.summary
    cost, version = x.cost.nano_usd, x.cost.version
    connected, first, last = times.connected, times.first_byte, times.last_byte
    if (
        summary is None
        or caller is None
        or cost is None
        or version is None
        or connected is None
        or first is None
        or last is None
        or x.outcome is not Outcome.OK
        or usage.source is not UsageSource.UPSTREAM
        or x.saved is not NO_USAGE
        or x.clamped is not None
        or x.bound_exceeded
        or x.tags
        or times.booked != times.total
        or not x.attempts
        or x.cache is CacheState.JOINED
        or x.cache is CacheState.HIT
    ):
        return None
    request_id, reasons = x.upstream_request_id, summary.finish_reasons
    return (
        x.id,
        int(x.at * 1000),
        caller.id,
        caller.name,
        caller.team_id or 0,
        caller.team or 0,
        *_names(x.model, x.model_served, x.upstream),
        0 if request_id is None else _text(request_id),
        x.endpoint,
        1 if x.stream else 0,
        x.status,
        x.cache._value_,
        x.cache_key or 0,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        cost,
        "" if times.admitted is None else times.admitted,
        "" if times.looked_up is None else times.looked_up,
        connected,
        first,
        last,
        times.total,
        times.overhead,
        x.bytes_in,
        x.bytes_out,
        x.attempts,
        _reasons(reasons),
        version,
        1 if x.counted else 0,
        x.counted_tokens,
    )


@lru_cache(KEPT)
def _reasons(reasons: tuple[str, ...]) -> str | int:
    """Few, and the same again and again."""
    return _text(",".join(reasons)) or 0


def _recorded(mold: Mold) -> Row:
    """What the rows of hits of one recording have in common; last, as one, what their kind has."""
    like, kind = mold.like, mold.kind
    if kind.row is None:
        kind.row = _of_kind(row_of(kind.like))
    saved = like.saved.prompt_tokens + like.saved.completion_tokens
    cost = like.saved_cost.nano_usd if saved else 0
    return (
        like.cache_key or 0,
        saved,
        "" if cost is None else cost,
        like.bytes_in,
        like.bytes_out,
        _reasons(like.summary.finish_reasons) if like.summary is not None else 0,
        like.cost.version or like.saved_cost.version or 0,
        kind.row,
    )


def row_of(exchange: Exchange) -> Row:
    """The row of a request that had a valid caller."""
    x, usage, times, caller = exchange, exchange.usage, exchange.timings, exchange.caller
    assert caller is not None
    saved = x.saved.prompt_tokens + x.saved.completion_tokens
    cost, saved_cost = booked_cost(x), x.saved_cost.nano_usd if saved else 0
    reasons = "" if x.summary is None else ",".join(x.summary.finish_reasons)
    return (
        x.id,
        int(x.at * 1000),
        caller.id,
        caller.name,
        caller.team_id or 0,
        caller.team or 0,
        _tags(x.tags) if x.tags else 0,
        *_names(
            None if x.model is None else x.model[START],
            None if x.model_served is None else x.model_served[START],
            x.upstream,
        ),
        0 if x.upstream_request_id is None else _text(x.upstream_request_id),
        x.endpoint,
        1 if x.stream else 0,
        x.status,
        x.outcome._value_,
        0 if x.error is None else _text(x.error),
        x.cache._value_,
        x.cache_key or 0,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.source._value_,  # plain, where str() is a call
        "" if cost is None else cost,
        saved,
        "" if saved_cost is None else saved_cost,
        "" if times.admitted is None else times.admitted,
        "" if times.looked_up is None else times.looked_up,
        "" if times.connected is None else times.connected,
        "" if times.first_byte is None else times.first_byte,
        "" if times.last_byte is None else times.last_byte,
        "" if times.booked is None else times.booked,
        times.total,
        times.overhead,
        x.bytes_in,
        x.bytes_out,
        x.attempts,
        _text(reasons) if reasons else 0,
        x.cost.version or x.saved_cost.version or 0,
        0,  # it corrects none
        1 if x.counted else 0,
        x.counted_tokens,
        "" if x.clamped is None else x.clamped,
        1 if x.bound_exceeded else 0,
    )


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
        "upstream": held.upstream or "",
        "endpoint": "other",
        "status": 499,
        "outcome": str(Outcome.INTERNAL),
        "error": "crashed",
        "cache": str(CacheState.NONE),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_source": str(usage.source),
        "cost_nano": nano_usd,
        "attempts": 1,
        "counted": 1,
        "counted_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    row = ((kind, known.get(name)) for name, kind in COLUMNS.items())
    return tuple(null(kind) if value is None else value for kind, value in row)


def row_of_held(held: Reservation, boot: str) -> Row:
    """The row of an open reservation; `boot` is the process that holds it."""
    return (
        held.id,
        int(held.at * 1000),
        int(held.until * 1000),
        boot,
        held.key_id,
        held.key,
        held.team_id or 0,
        held.team or 0,
        _text(held.model),
        0 if held.upstream is None else _text(held.upstream),
        held.prompt_tokens,
        held.completion_tokens,
        held.nano_usd,
        "" if held.prompt_nano_usd is None else held.prompt_nano_usd,
    )


@lru_cache(KEPT)
def _names(
    asked: str | None, served: str | None, upstream: str | None
) -> tuple[int | str, int | str, int | str]:
    """Few, and the same again and again."""
    return (
        0 if asked is None else _text(asked),
        0 if served is None else _text(served),
        0 if upstream is None else _text(upstream),
    )


def _tags(tags: Mapping[str, str]) -> str:
    """A JSON object, names sorted."""
    return msgspec.json.encode({_text(k): _text(tags[k]) for k in sorted(tags)}).decode()


def _text(value: str) -> str:
    """In UTF-8 there are no lone surrogates, as a client's JSON may have."""
    if value.isascii():
        return value[:TEXT]
    return value[:TEXT].encode("utf-8", "replace").decode()
