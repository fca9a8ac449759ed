"""Frozen data handed from room to room. Pure: nothing here awaits, reads a clock or opens a file.

An `Exchange` is the whole story of one request, written once, when it has ended, whatever ended it.
Every sink (access log, metrics, later the ledger and the journal) gets the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from msgspec import Struct

HeaderList = list[tuple[str, str]]


class CallerKind(StrEnum):
    """How a caller showed who it is (contract, "Callers")."""

    ISSUED = "issued"
    PASSTHROUGH = "passthrough"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Grant:
    """What an issued key may do. None: as the configuration has it.

    `models` are patterns, none means all; `scope` is key, team or global; `controls` are the cache
    directives that the key's requests may use (`cache/rules.py`). `limits` and `team_limits` are
    what `keys create` and `teams set` take, by option name (`rpm`, `tokens_per_day`, ...).
    """

    models: tuple[str, ...] = ()
    cache: bool | None = None
    scope: str | None = None
    controls: frozenset[str] | None = None
    log_bodies: bool | None = None
    limits: Mapping[str, int | str] = field(default_factory=dict)
    team_limits: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `id` is the full identity, `name` is what logs and metrics may show.

    An issued key has a `grant` and perhaps a `team` (its name) with a `team_id`.

    `token` is a passthrough caller's own credential, to be forwarded; it is kept out of `repr`.
    """

    kind: CallerKind
    id: str
    name: str
    token: str | None = field(default=None, repr=False)
    team: str | None = None
    team_id: str | None = None
    grant: Grant | None = None


class Outcome(StrEnum):
    """What ended a request. One word each, a metric label and a column."""

    OK = "ok"
    REFUSED = "refused"  # the gateway said no before any upstream call (4xx, 503)
    UPSTREAM_STATUS = "upstream_status"  # the upstream answered with a status of 400 or more
    UPSTREAM_ERROR = "upstream_error"  # refused, reset, garbage: no head came
    UPSTREAM_TIMEOUT = "upstream_timeout"  # connect, first byte, idle or total time ran out
    # the answer broke off, or ended without its terminator
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_IN_BAND_ERROR = "upstream_in_band_error"  # 200 with an `error` inside
    CLIENT_DISCONNECT = "client_disconnect"  # the client left before the end had been sent
    DRAINED = "drained"  # cut by the gateway's own stop, after the drain time
    INTERNAL = "internal"  # a fault of the gateway


class CacheState(StrEnum):
    """`X-Gateway-Cache` (contract). NONE: no header, the gateway made the answer itself."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"
    BYPASS = "bypass"
    NONE = "none"


class UsageSource(StrEnum):
    """Where the token figures of a row come from (requirement A10)."""

    UPSTREAM = "upstream"
    CACHE = "cache"
    ESTIMATED = "estimated"
    NONE = "none"


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one answer. `cached_tokens` is part of the prompt's, `reasoning_tokens` of the
    completion's.

    `details` is the upstream's whole usage object, unknown members included (requirement A8).
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = UsageSource.NONE
    details: Mapping[str, Any] | None = None


NO_USAGE = Usage()


class Cost(Struct, frozen=True, gc=False):
    """Money in whole nano-dollars (10^-9 USD); None where the model has no price.

    `version` says which price data it was worked out from.
    """

    nano_usd: int | None = None
    version: str | None = None


NO_COST = Cost()


class Reservation(Struct, frozen=True, gc=False):
    """Tokens and money that a call may use, held before it is made (issue: quotas).

    `id` is the request's ULID; `until` is the wall time in seconds at which its lease is over.
    """

    id: str
    at: float
    key_id: str
    team_id: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int
    nano_usd: int
    until: float
    prompt_nano_usd: int | None = None  # of it, the prompt's; None: not known
    key: str = ""  # names, for the row that a crash leaves to be booked
    team: str | None = None
    upstream: str | None = None


class Bound(Struct, frozen=True, gc=False):
    """What a call may take at most, before it is made: tokens of the prompt, of each of `n`
    answers, and `extra` output beside them. Prices in 10^-12 dollars per token, the dearest."""

    prompt: int
    output: int = 0
    n: int = 1
    extra: int = 0
    input_pico: int = 0
    output_pico: int = 0


class Summary(Struct, frozen=True, gc=False):
    """What an observer learned from an answer's bytes, complete or not.

    `complete`: the terminator was seen (`[DONE]`), or a finish reason for every choice and a clean
    end (requirement B11). `error`: an `error` object was inside a 200 (requirement B13).
    `first_content`: the observer saw content in some event. `missing`: why a complete answer has
    no usage.
    """

    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    model: str | None = None
    service_tier: str | None = None
    complete: bool = False
    error: bool = False
    events: int = 0
    missing: str | None = None
    observer_errors: int = 0
    content_bytes: int = 0  # of what the model said, as it stands in JSON; estimates need it


class Timings(Struct, frozen=True):
    """Milliseconds since the request's head had arrived; None where that point was never
    reached."""

    received: float | None = None  # the body was there
    admitted: float | None = None
    looked_up: float | None = None
    called: float | None = None  # the first call upstream was sent on its way
    connected: float | None = None  # a connection to the upstream was at hand
    first_byte: float | None = None  # of the upstream's answer
    first_token: float | None = None  # first content chunk handed to the client
    last_byte: float | None = None  # of the upstream's answer
    booked: float | None = None
    total: float = 0.0
    queued: float = 0.0  # waiting for a free connection to the upstream
    upstream: float = 0.0  # all time spent waiting for the upstream
    quota: float = 0.0  # waiting for reservations of other calls to settle

    @property
    def overhead(self) -> float:
        """What the gateway itself took: total minus the time spent waiting for the upstream, or
        for a quota."""
        return max(0.0, self.total - self.upstream - self.quota)


class TraceContext(Struct, frozen=True):
    """A request's place in its trace: lower-case hex ids (W3C Trace Context), made when it came.

    `server` is our span for the request, `client` the one for its call upstream; `parent` the
    caller's; `state` its `tracestate`.
    """

    trace: str
    server: str
    client: str
    flags: int
    parent: str | None = None
    state: str | None = None

    @property
    def sampled(self) -> bool:
        """It is recorded."""
        return bool(self.flags & 1)


class Exchange(Struct, frozen=True):
    """One request, from its first byte to its end (requirement G8). Built once, by the pipeline."""

    id: str  # ULID, `X-Gateway-Request-Id`
    at: float  # wall time of arrival, seconds since the epoch
    endpoint: str  # a low-cardinality path template: "chat/completions", "models", "other", ...
    method: str
    path: str  # as asked, without the query
    client: str  # the client's address, trusted proxies respected
    caller: Caller | None
    model: str | None  # as asked
    model_served: str | None  # as sent upstream
    upstream: str | None
    stream: bool
    status: int  # as sent; 499 when the client left before the head
    outcome: Outcome
    error: str | None  # low-cardinality code
    cache: CacheState
    usage: Usage
    summary: Summary | None
    timings: Timings
    bytes_in: int
    bytes_out: int
    attempts: int  # calls made to an upstream, a retry counts
    cache_key: str | None = None  # 16 hex digits of the digest
    cache_reason: str | None = None  # why it was passed by or not kept (cache/rules.py)
    cache_age: float | None = None  # seconds, of a hit
    saved: Usage = NO_USAGE  # tokens that a hit, or joining, did not cost
    cost: Cost = NO_COST
    saved_cost: Cost = NO_COST
    saved_seconds: float = 0.0  # by which a hit was quicker than the call it replays
    upstream_request_id: str | None = None
    usage_missing: str | None = None
    client_retry: str | None = None  # the client's own `x-stainless-retry-count`
    tags: Mapping[str, str] = {}  # msgspec copies an empty default
    trace: str | None = None  # W3C trace id: the client's, else ours where traces are on
    context: TraceContext | None = None  # where traces are on
    counted: bool = False  # it counts against limits on requests
    counted_tokens: int = 0  # what it counts against limits on tokens
    clamped: int | None = None  # the output cap that it was lowered to
    bound_exceeded: bool = False  # it took more than was reserved
    mold: Mold | None = None  # of a hit whose kind came before


class Kind(Struct, eq=False):
    """What all hits have in common that one caller gets of one model, with one head, in one form:
    `like` is one of them. Their timings have what a hit comes to: `received`, `admitted`,
    `looked_up` (`first_token` is that), and `total` (`booked` is that). A sink keeps here what it
    made of that.

    It holds for one minute (`until`, in wall seconds), since prices may go by the time of day.
    """

    like: Exchange
    until: float = 0.0
    lane: Any = None  # the metrics'
    line: Any = None  # the access log's
    row: Any = None  # the ledger's

    def __post_init__(self) -> None:
        self.until = (self.like.at // 60 + 1) * 60


class Mold(Struct, eq=False):
    """What hits of one kind that are answered with the same recording have in common: also
    `cache_key`, `saved`, `saved_cost`, `summary`, `bytes_in` and `bytes_out`. In their exchanges
    differ `id`, `at`, `client`, `timings`, `cache_age`, `saved_seconds`, `client_retry`, `tags`,
    `trace`, `context`, `counted` and `counted_tokens`. A sink keeps here what it made of all else.

    It holds for one recording (`of`: its request's id) while its image, held weakly, is there.
    `created`, `ttl` and `seconds` are the recording's. Never changed but for what sinks keep:
    another is made.
    """

    kind: Kind
    like: Exchange
    of: str
    image: Callable[[], Any]
    created: float = 0.0
    ttl: float = 0.0
    seconds: float = 0.0
    line: Any = None  # the access log's
    row: Any = None  # the ledger's


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]


def ulid(ms: int, entropy: bytes) -> str:
    """A ULID of 26 characters from milliseconds since the epoch and 10 random bytes
    (github.com/ulid/spec)."""
    number = (ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(entropy[:10], "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


_DIGIT = bytes(ord(_CROCKFORD[number & 31]) for number in range(256))  # five bits of each byte
_AT_ONCE = 64  # ids


class Ids:
    """Makes ULIDs, each greater than the one before, also within a millisecond, and where the clock
    is set back by less than a second; the dice are thrown for some of them at once."""

    def __init__(self, dice: Callable[[int], bytes]) -> None:
        """`dice` gives so many random bytes."""
        self._dice = dice
        self._thrown: list[str] = []  # descending: the last one is the next
        self._begin = -1  # of the time: all but its last ten bits
        self._time = ""
        self._last = 0  # milliseconds since the epoch

    def make(self, now: float) -> str:
        """The next one, at a wall second."""
        ms = int(now * 1000)
        if self._last - 1000 < ms < self._last:
            ms = self._last
        if not self._thrown:
            thrown = self._dice(16 * _AT_ONCE).translate(_DIGIT).decode()
            self._thrown = sorted([thrown[at : at + 16] for at in range(0, len(thrown), 16)])
            self._thrown.reverse()
            if ms == self._last:  # these would not follow
                ms += 1
        self._last = ms
        if ms >> 10 != self._begin:
            self._begin = ms >> 10
            self._time = "".join([_PAIRS[(ms >> shift) & 1023] for shift in (40, 30, 20, 10)])
        return self._time + _PAIRS[ms & 1023] + self._thrown.pop()
