"""What an access line says (requirement G8), and which are left out. Pure: data in, bytes out.

Rule: one exchange makes one line, whatever its client sent. Text from outside is cut to a length
and holds only what can be printed; no body and no credential is among the fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
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
# No more is needed of what clients choose, nor kept; one more character says that it was cut.
SHORT, START = slice(TEXT + 1), slice(PATH + 1)
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

    Made for every request: one template, no dict, and parts that come again are kept as they are
    written; of hits, with their kind and in their mold.
    """
    x, mold = exchange, exchange.mold
    if mold is not None and (not (x.tags or x.trace) or _secret(x) is None):
        if mold.line is None:
            shown = _without_secret(mold.like)
            key, saved, saved_cost, reasons, came, went = _recorded(shown)
            mold.line = key.encode(), saved, saved_cost.encode(), reasons.encode(), came, went
            if mold.kind.line is None:
                mold.kind.line = _template(shown)
        return _like(x, mold.kind.line, mold.line, suppressed)
    x = _without_secret(x)
    start, reason, cost, middle, end = _of_kind(x)
    key, saved, saved_cost, reasons, came, went = _recorded(x)
    return (
        f'{{"id":"{x.id}","time":"{rfc3339(x.at)}","client":{_client(x.client[SHORT])},{start}'
        f"{key}{reason}{'null' if x.cache_age is None else _decimal(x.cache_age)}"
        f',"saved_tokens":{saved}{cost}{saved_cost}{middle}{reasons}{end}'
        f"{'null' if x.client_retry is None else _retry(x.client_retry[SHORT])}"
        f',"bytes_in":{came},"bytes_out":{went},"ms":{_milliseconds(x.timings)}'
        f',"tags":{_tags(x.tags) if x.tags else "{}"},'
        f'"trace":{"null" if x.trace is None else _text(x.trace)}{_rare(x, suppressed)}}}\n'
    ).encode()


def _like(x: Exchange, template: bytes, recorded: tuple[Any, ...], suppressed: int) -> bytes:
    """The line of a hit whose kind came before. A template of bytes: one of text is read letter by
    letter (2 us for such a line)."""
    t, ms, age = x.timings, int(x.at * 1_000_000 + 0.5) // 1000, x.cache_age
    looked_up, total = b"%.3f" % (t.looked_up or 0.0), b"%.3f" % t.total
    key, saved, saved_cost, reasons, came, went = recorded
    return template % (
        x.id.encode(),
        _second(ms // 1000).encode(),
        ms % 1000,
        _client(x.client[SHORT]).encode(),
        key,
        b"%.3f" % age if age else b"0.0",
        saved,
        saved_cost,
        reasons,
        b"null" if x.client_retry is None else _retry(x.client_retry[SHORT]).encode(),
        came,
        went,
        t.received,
        t.admitted,
        looked_up,
        looked_up,
        total,
        total,
        total,
        _tags(x.tags).encode() if x.tags else b"{}",
        b"null" if x.trace is None else _text(x.trace).encode(),
        _rare(x, suppressed).encode() if suppressed else b"",
    )


def _template(x: Exchange) -> bytes:
    """The line of all hits of this one's kind: who waited for nothing, and went no further than the
    look-up."""
    start, reason, cost, middle, end = [part.replace("%", "%%") for part in _of_kind(x)]
    return (
        f'{{"id":"%s","time":"%s.%03dZ","client":%s,{start}%s{reason}%s,"saved_tokens":%d{cost}%s'
        f'{middle}%s{end}%s,"bytes_in":%d,"bytes_out":%d,"ms":'
        '{"received":%.3f,"admitted":%.3f,"looked_up":%s,"connected":null,"first_byte":null,'
        '"first_token":%s,"last_byte":null,"booked":%s,"total":%s,"queued":0.0,"upstream":0.0,'
        '"overhead":%s},"tags":%s,"trace":%s%s}\n'
    ).encode()


def _of_kind(x: Exchange) -> tuple[str, str, str, str, str]:
    """What a line has in common with those of hits of the same kind, in five places."""
    name = team = kind = None
    if x.caller is not None:
        name, team, kind = x.caller.name[SHORT], x.caller.team, x.caller.kind._value_
    model = None if x.model is None else x.model[SHORT]
    served = None if x.model_served is None else x.model_served[SHORT]
    asked = "null" if x.upstream_request_id is None else _text(x.upstream_request_id)
    reason = "null" if x.cache_reason is None else _text(x.cache_reason)
    return (
        f"{_who(name, kind, team)},"
        f"{_what(x.endpoint, x.method, x.path[START], model, served, x.upstream)},"
        f'"upstream_request_id":{asked},'
        f"{_end(x.stream, x.status, x.outcome._value_, x.error, x.cache._value_)},"
        '"cache_key":',
        f',"cache_reason":{reason},"cache_age":',
        f',"cost_usd":{_dollars(x.cost.nano_usd)},"saved_cost_usd":',
        f",{_tokens(x.usage)},"
        f'"usage_missing":{"null" if x.usage_missing is None else _text(x.usage_missing)},'
        '"finish_reasons":[',
        f'],"attempts":{x.attempts},"retry":',
    )


def _recorded(x: Exchange) -> tuple[str, int, str, str, int, int]:
    """What it has in common with those of hits of the same recording, in six places."""
    summary = x.summary
    reasons = () if summary is None else summary.finish_reasons[:FINISH_REASONS]
    return (
        "null" if x.cache_key is None else f'"{x.cache_key}"',
        x.saved.prompt_tokens + x.saved.completion_tokens,
        _dollars(x.saved_cost.nano_usd),
        _reasons(reasons) if reasons else "",
        x.bytes_in,
        x.bytes_out,
    )


@lru_cache(KEPT)
def _reasons(reasons: tuple[str, ...]) -> str:
    return ",".join([_text(one) for one in reasons])


def _secret(x: Exchange) -> str | None:
    token = None if x.caller is None else x.caller.token
    return token if token and len(token) >= SECRET else None


def _without_secret(x: Exchange) -> Exchange:
    """Clients do put their key where it does not belong: in a path, a tag, a model's name (G7)."""
    token = _secret(x)
    if token is None:
        return x
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
        changes["summary"] = msgspec.structs.replace(x.summary, finish_reasons=reasons)
    return msgspec.structs.replace(x, **changes) if changes else x


_TEXTS = (
    *("client", "endpoint", "method", "path", "model", "model_served", "upstream"),
    *("upstream_request_id", "error", "cache_reason", "usage_missing", "client_retry", "trace"),
)


@lru_cache(KEPT)
def _client(client: str) -> str:
    return _text(client)


@lru_cache(KEPT)
def _who(name: str | None, kind: str | None, team: str | None) -> str:
    return f'"key":{_text(name)},"key_kind":{_text(kind)},"team":{_text(team)}'


@lru_cache(KEPT)
def _what(
    endpoint: str, method: str, path: str, asked: str | None, served: str | None, by: str | None
) -> str:
    return (
        f'"endpoint":{_text(endpoint)},"method":{_text(method, 32)},'
        f'"path":{_text(path.partition("?")[0], PATH)},'
        f'"model":{_text(asked)},"model_served":{_text(served)},"upstream":{_text(by)}'
    )


@lru_cache(KEPT)
def _end(stream: bool, status: int, outcome: str, error: str | None, cache: str) -> str:
    return (
        f'"stream":{"true" if stream else "false"},"status":{status},"outcome":"{outcome}",'
        f'"error":{_text(error)},"cache":"{cache}"'
    )


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
    ms = int(at * 1_000_000 + 0.5) // 1000
    return f"{_second(ms // 1000)}.{ms % 1000:03}Z"


@lru_cache(8)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _decimal(value: float) -> str:
    return f"{value:.3f}" if value else "0.0"


@lru_cache(KEPT)
def _dollars(nano_usd: int | None) -> str:
    """For people and plots; the ledger has the exact figure."""
    return "null" if nano_usd is None else str(nano_usd / 1e9)


def _tokens(usage: Usage) -> str:
    u = usage
    details = "null"
    if u.details is not None:
        details = _details(u.details)
    counts = _counts(u.prompt_tokens, u.completion_tokens, u.cached_tokens, u.reasoning_tokens)
    return f'{counts},"usage_source":"{u.source._value_}","usage_details":{details}'


@lru_cache(KEPT)
def _counts(prompt: int, completion: int, cached: int, reasoning: int) -> str:
    return (
        f'"prompt_tokens":{_bounded(prompt)},"completion_tokens":{_bounded(completion)},'
        f'"cached_tokens":{_bounded(cached)},"reasoning_tokens":{_bounded(reasoning)}'
    )


def _bounded(count: int) -> int:
    return count if count < LARGEST else LARGEST


# As nearly all of them are: short names, and numbers that are shown as they are.
_MEMBER = rb'"[a-zA-Z0-9_.-]{1,64}+":'
_NUMBER = rb"-?[0-9]{1,15}+(?:\.[0-9]{1,17}+)?+"
_EACH = rb"%b(?:%b|\{(?:%b%b,?){0,32}\}),?" % (_MEMBER, _NUMBER, _MEMBER, _NUMBER)
_PLAIN = re.compile(rb"\{(?:%b){0,32}\}" % _EACH).fullmatch


def _details(details: Mapping[str, Any]) -> str:
    """The upstream's own usage object, unknown members included (A8), but only what is a number."""
    try:
        text = _encode(details)
    except (ValueError, OverflowError, RecursionError):  # lone surrogates, endless numbers
        text = b""
    return (text if _PLAIN(text) else _encode(_numbers(details, DEPTH))).decode()


def _numbers(details: Mapping[str, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in islice(details.items(), DETAILS):
        kind = type(value)
        if kind is int or kind is float:
            if -LARGEST <= value <= LARGEST:
                kept[_name(name)] = value
        elif depth > 1 and isinstance(value, Mapping):
            kept[_name(name)] = _numbers(value, depth - 1)
    return kept


@lru_cache(KEPT)
def _name(name: str) -> str:
    return clean(name[SHORT], TEXT)


def _tags(tags: Mapping[str, str]) -> str:
    shown = list(tags.items())[:TAGS]
    return _encode({clean(k, TEXT): clean(v, TEXT) for k, v in shown}).decode()


@lru_cache(KEPT)
def _retry(count: str) -> str:
    """The client's own `x-stainless-retry-count`, where it is a count."""
    if len(count) <= 4 and count.isascii() and count.isdigit():
        return str(int(count))
    return "null"


def _milliseconds(t: Timings) -> str:
    """Written out: a call for each point costs more than its digits."""
    null, total = "null", f"{t.total:.3f}"
    own = t.overhead
    return (
        f'{{"received":{null if t.received is None else f"{t.received:.3f}"},'
        f'"admitted":{null if t.admitted is None else f"{t.admitted:.3f}"},'
        f'"looked_up":{null if t.looked_up is None else f"{t.looked_up:.3f}"},'
        f'"connected":{null if t.connected is None else f"{t.connected:.3f}"},'
        f'"first_byte":{null if t.first_byte is None else f"{t.first_byte:.3f}"},'
        f'"first_token":{null if t.first_token is None else f"{t.first_token:.3f}"},'
        f'"last_byte":{null if t.last_byte is None else f"{t.last_byte:.3f}"},'
        f'"booked":{null if t.booked is None else f"{t.booked:.3f}"},"total":{total},'
        f'"queued":{f"{t.queued:.3f}" if t.queued else "0.0"},'
        f'"upstream":{f"{t.upstream:.3f}" if t.upstream else "0.0"},'
        f'"overhead":{total if own == t.total else f"{own:.3f}"}}}'
    )
