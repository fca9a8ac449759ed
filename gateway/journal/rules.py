"""What an access line says (requirement G8), and which are left out. Pure: data in, bytes out.

Rule: one exchange makes one line, whatever its client sent. Text from outside is cut to a length
and holds only what can be printed; no body and no credential is among the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from gateway.exchange import Exchange, Timings, Usage

PATH = 512  # characters
TEXT = 128
TAGS = 8
FINISH_REASONS = 16
SECRET = 16  # characters from which a caller's token is blotted out of other fields
DETAILS = 32  # members of one level of the upstream's usage object
DEPTH = 3
LARGEST = 2**63 - 1
BLOT = "[key]"
KEPT = 1024  # parts of each kind that are kept: some MB at most, where clients make them long

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
    """The access line of one exchange, newline included; times are milliseconds, sizes are bytes.
    `suppressed`: lines left out before it.

    Made for every request, on the event loop's thread: one template, no dict, and parts that come
    again are kept as they are written.
    """
    x, usage, caller = exchange, exchange.usage, exchange.caller
    name = team = kind = None
    if caller is not None:
        name, team, kind = caller.name[: TEXT + 1], caller.team, str(caller.kind)
        if caller.token and len(caller.token) >= SECRET:
            x = _blotted(x, caller.token)
    reasons = () if x.summary is None else x.summary.finish_reasons[:FINISH_REASONS]
    key = "null" if x.cache_key is None else f'"{x.cache_key}"'
    return (
        f'{{"id":"{x.id}","time":"{rfc3339(x.at)}",'
        f"{_who(x.client[: TEXT + 1], name, kind, team)},"
        f"{_where(x.endpoint[: TEXT + 1], x.method[: TEXT + 1], x.path[: PATH + 1])},"
        f"{_model(_start(x.model), _start(x.model_served), _start(x.upstream))},"
        f'"upstream_request_id":{_text(x.upstream_request_id)},'
        f'"stream":{"true" if x.stream else "false"},"status":{x.status},"outcome":"{x.outcome!s}",'
        f'"error":{_text(x.error)},"cache":"{x.cache!s}","cache_key":{key},'
        f'"cache_reason":{_text(x.cache_reason)},"cache_age":{_decimal(x.cache_age)},'
        f'"saved_tokens":{x.saved.prompt_tokens + x.saved.completion_tokens},'
        f'"cost_usd":{_dollars(x.cost.nano_usd)},'
        f'"saved_cost_usd":{_dollars(x.saved_cost.nano_usd)},'
        f'{_tokens(usage)},"usage_missing":{_text(x.usage_missing)},'
        f'"finish_reasons":[{",".join([_text(reason) for reason in reasons])}],'
        f'"attempts":{x.attempts},"retry":{_retry(_start(x.client_retry))},"bytes_in":{x.bytes_in},'
        f'"bytes_out":{x.bytes_out},"ms":{_milliseconds(x.timings)},'
        f'"tags":{_tags(x.tags) if x.tags else "{}"},"trace":{_text(x.trace)}'
        f"{_rare(x, suppressed)}}}\n"
    ).encode()


def _blotted(x: Exchange, token: str) -> Exchange:
    """Clients do put their key where it does not belong: in a path, a tag, a model's name (G7)."""
    changes: dict[str, Any] = {
        name: value.replace(token, BLOT)
        for name in _TEXTS
        if (value := getattr(x, name)) is not None and token in value
    }
    if x.tags:
        changes["tags"] = {
            k.replace(token, BLOT): v.replace(token, BLOT) for k, v in x.tags.items()
        }
    if x.summary is not None and any(token in reason for reason in x.summary.finish_reasons):
        reasons = tuple(reason.replace(token, BLOT) for reason in x.summary.finish_reasons)
        changes["summary"] = dataclasses.replace(x.summary, finish_reasons=reasons)
    return msgspec.structs.replace(x, **changes) if changes else x


_TEXTS = (
    *("client", "endpoint", "method", "path", "model", "model_served", "upstream"),
    *("upstream_request_id", "error", "cache_reason", "usage_missing", "client_retry", "trace"),
)


def _start(text: str | None) -> str | None:
    """No more is needed of it; nor kept."""
    return None if text is None else text[: TEXT + 1]


@lru_cache(KEPT)
def _who(client: str, name: str | None, kind: str | None, team: str | None) -> str:
    caller = f'"key":{_text(name)},"key_kind":{_text(kind)},"team":{_text(team)}'
    return f'"client":{_text(client)},{caller}'


@lru_cache(KEPT)
def _where(endpoint: str, method: str, path: str) -> str:
    return (
        f'"endpoint":{_text(endpoint)},"method":{_text(method, 32)},'
        f'"path":{_text(path.partition("?")[0], PATH)}'
    )


@lru_cache(KEPT)
def _model(asked: str | None, served: str | None, upstream: str | None) -> str:
    return f'"model":{_text(asked)},"model_served":{_text(served)},"upstream":{_text(upstream)}'


def _text(text: str | None, limit: int = TEXT) -> str:
    return "null" if text is None else _encode(clean(text, limit)).decode()


def _rare(x: Exchange, suppressed: int) -> str:
    """What most lines do not have."""
    shown = "" if x.clamped is None else f',"clamped":{x.clamped}'
    if x.bound_exceeded:
        shown += ',"bound_exceeded":true'
    return f'{shown},"suppressed":{suppressed}' if suppressed else shown


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
    return _stamp(int(at * 1_000_000 + 0.5) // 1000)


@lru_cache(8)
def _stamp(ms: int) -> str:
    second = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second}.{ms % 1000:03}Z"


def _decimal(value: float | None) -> str:
    return "null" if value is None else f"{value:.3f}" if value else "0.0"


@lru_cache(KEPT)
def _dollars(nano_usd: int | None) -> str:
    """For people and plots; the ledger has the exact figure."""
    return "null" if nano_usd is None else str(nano_usd / 1e9)


def _tokens(usage: Usage) -> str:
    details = "null" if usage.details is None else _encode(_numbers(usage.details, DEPTH)).decode()
    return (
        f'"prompt_tokens":{_bounded(usage.prompt_tokens)},'
        f'"completion_tokens":{_bounded(usage.completion_tokens)},'
        f'"cached_tokens":{_bounded(usage.cached_tokens)},'
        f'"reasoning_tokens":{_bounded(usage.reasoning_tokens)},'
        f'"usage_source":"{usage.source!s}","usage_details":{details}'
    )


def _bounded(count: int) -> int:
    return count if count < LARGEST else LARGEST


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


def _tags(tags: Mapping[str, str]) -> str:
    shown = list(tags.items())[:TAGS]
    return _encode({clean(k, TEXT): clean(v, TEXT) for k, v in shown}).decode()


@lru_cache(KEPT)
def _retry(count: str | None) -> str:
    """The client's own `x-stainless-retry-count`, where it is a count."""
    if count and len(count) <= 4 and count.isascii() and count.isdigit():
        return str(int(count))
    return "null"


def _milliseconds(t: Timings) -> str:
    total, own = _decimal(t.total), t.overhead
    overhead = total if own == t.total else _decimal(own)  # nothing was waited for
    return (
        f'{{"received":{_decimal(t.received)},"admitted":{_decimal(t.admitted)},'
        f'"looked_up":{_decimal(t.looked_up)},"connected":{_decimal(t.connected)},'
        f'"first_byte":{_decimal(t.first_byte)},"first_token":{_decimal(t.first_token)},'
        f'"last_byte":{_decimal(t.last_byte)},"booked":{_decimal(t.booked)},'
        f'"total":{total},"queued":{_decimal(t.queued)},'
        f'"upstream":{_decimal(t.upstream)},"overhead":{overhead}}}'
    )
