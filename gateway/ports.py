"""The seams between the pipeline and the world: what each room promises, and nothing of how.

The pipeline knows only these. `app.py` is the one file that picks the classes behind them; tests
pick fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from gateway.entry import CacheStats, Entry, Selector, Ticket
from gateway.exchange import (
    Bound,
    Caller,
    CallerKind,
    Cost,
    Exchange,
    HeaderList,
    Reservation,
    TraceContext,
    Usage,
)


class Clock(Protocol):
    """Time, in seconds."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...


class ClientGone(Exception):
    """The client left before its request was whole, or while an answer was on its way. No error of
    ours."""


# The client's side --------------------------------------------------------------------------------


class Body(Protocol):
    """A request's body, not read yet. Asking for it is what answers `Expect: 100-continue`."""

    @property
    def length(self) -> int | None:
        """Declared length in bytes; 0 without a body, None when chunked."""

    @property
    def received(self) -> int:
        """Bytes taken so far."""

    async def read(self, limit: int) -> bytes:
        """The whole body. RequestTooLarge past `limit`, RequestTimeout past a deadline,
        ClientGone when the client leaves."""

    def at_once(self, limit: int) -> bytes | None:
        """The same, where it is here; None where it has to be waited for, or will not come."""

    def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it arrives, with back-pressure; the same errors."""


AT_ONCE = 64 * 1024  # bytes: what a transport takes before it is full, whoever reads


class Client(Protocol):
    """The waiting end of one request. Sync writes; who gets False stops until `on_ready` is called.

    The end of an answer is held back until `finish`: a client that has read the end may rely on
    the books.
    """

    @property
    def gone(self) -> bool:
        """The client has left; everything written from now on is dropped."""

    @property
    def started(self) -> bool:
        """A head was written."""

    @property
    def bytes_out(self) -> int:
        """Body bytes handed to the transport so far."""

    def watch(self, on_ready: Callable[[], None], on_gone: Callable[[], None]) -> None:
        """`on_ready` after a full buffer has drained, `on_gone` once when the client leaves
        (at once if it has)."""

    def start(self, status: int, headers: HeaderList, length: int | None, lines: str = "") -> None:
        """Write the head. `length` None: chunked, or close-delimited for HTTP/1.0. `lines`: further
        headers, as `wire/fields.py` writes them."""

    def write(self, data: bytes) -> bool:
        """Hand over body bytes; False when the transport's buffer is full."""

    def finish(self) -> None:
        """The answer is whole: write the closing chunk."""

    def whole(
        self,
        status: int,
        headers: HeaderList,
        pieces: Sequence[bytes | memoryview],
        length: int | None,
        lines: str = "",
    ) -> None:
        """`start`, each `write` and `finish` at once: for an answer that is small and all there."""

    def abort(self) -> None:
        """The answer cannot be made whole: close without a closing chunk, so that the client sees
        a cut."""


class Shared:
    """What was found out about a head's fields: kept for all requests with the same head."""

    __slots__ = ("index", "said", "sent")

    def __init__(self) -> None:
        self.index: dict[str, str] | None = None
        self.sent: dict[object, Any] = {}  # by upstream: how such requests are sent on
        self.said: Any = None  # what the pipeline read in them (`said.py`)

    def header(self, headers: HeaderList, name: str) -> str | None:
        """The value of one header by lower-case name; several are joined by ', ' (RFC 9110 section
        5.3)."""
        if self.index is None:
            index: dict[str, str] = {}
            for key, value in headers:
                index[key] = f"{index[key]}, {value}" if key in index else value
            index.pop("content-length", None)  # the one field in which such requests may differ
            self.index = index
        return self.index.get(name)


class Origin:
    """What requests have in common that come from one client with one head. Made once for them.

    `path` is what follows `/v1/`; header names are lower case, values latin-1. `length_at`: the
    place of Content-Length among `headers`, where its value may be another request's; else -1.
    """

    __slots__ = ("client", "cors", "headers", "length_at", "method", "path", "query", "shared")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: HeaderList,
        client: str,
        *,
        cors: HeaderList | None = None,
        shared: Shared | None = None,
        length_at: int = -1,
    ) -> None:
        self.method, self.path, self.query, self.headers = method, path, query, headers
        self.client = client
        self.cors = [] if cors is None else cors  # goes into every answer's head
        self.shared = Shared() if shared is None else shared
        self.length_at = length_at

    def header(self, name: str) -> str | None:
        """The value of one header by lower-case name, all of that name joined."""
        return self.shared.header(self.headers, name)


class Ask(Struct, eq=False):
    """One request as the web layer read it: head and body, no meaning yet. `at` in seconds of the
    wall clock, `started` of the monotonic one; `context` is its place in a trace."""

    id: str
    at: float
    started: float
    origin: Origin
    body: Body
    context: TraceContext | None = None  # where traces are on

    @property
    def method(self) -> str:
        return self.origin.method

    @property
    def path(self) -> str:
        return self.origin.path

    @property
    def query(self) -> str:
        return self.origin.query

    @property
    def client(self) -> str:
        return self.origin.client

    @property
    def cors(self) -> HeaderList:
        return self.origin.cors

    @property
    def shared(self) -> Shared:
        return self.origin.shared

    @property
    def headers(self) -> HeaderList:
        """Its own, in the order they came."""
        return own_fields(self.origin.headers, self.origin.length_at, self.body.length)

    def header(self, name: str) -> str | None:
        """The value of one header by lower-case name, all of that name joined; Content-Length is
        the body's."""
        return self.origin.header(name)

    def __repr__(self) -> str:
        return f"<Ask {self.id} {self.method} {self.path}>"


def own_fields(headers: HeaderList, length_at: int, length: int | None) -> HeaderList:
    """A shared head's fields, with one request's own Content-Length."""
    if length_at >= 0:
        headers = headers.copy()
        headers[length_at] = ("content-length", str(length))
    return headers


# The upstream's side ------------------------------------------------------------------------------


class CallTimes(Struct):
    """Monotonic seconds of one call's points; durations are the pipeline's arithmetic."""

    sent: float = 0.0
    connected: float | None = None
    first_byte: float | None = None
    queued: float = 0.0  # seconds spent waiting for a free connection
    attempts: int = 1


class Call(Struct):
    """One call to be made upstream. `body` is bytes (may be sent again) or a stream (never is).

    `path` follows the upstream's base URL, without a leading slash; `query` is raw.
    `caller` decides the credential. `headers` are the client's, to be filtered by the upstream's
    rules.
    """

    method: str
    path: str
    query: str
    headers: HeaderList
    body: bytes | AsyncIterator[bytes] | None
    length: int | None  # declared length of a streamed body
    caller: Caller
    model: str | None = None
    shared: Shared | None = None  # by all with the same method, path, query and headers
    # filled while the call runs, also when it fails
    times: CallTimes = msgspec.field(default_factory=CallTimes)


class Reply(Protocol):
    """An upstream's answer whose head is here. A context manager: leaving it early closes the
    connection."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> HeaderList:
        """End-to-end headers as they came, hop-by-hop ones and those never passed on already
        dropped; names in lower case. `content-length` is not among them, see `length`."""

    @property
    def length(self) -> int | None: ...

    @property
    def times(self) -> CallTimes: ...

    def whole(self) -> bytes | None:
        """The body, where all of it has come by now; then it is read."""

    async def read(self) -> bytes:
        """Next bytes as they come, b"" at a clean end. UpstreamCut, UpstreamTimeout."""

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Call `take` with the bytes as they come, until it returns False, which means no more for
        now (True: call again), or until the clean end (False). What `read` and `take` raise."""

    @property
    def encoded(self) -> bool:
        """The body has a Content-Encoding although none was asked for: pass it on, observe
        nothing."""

    def close(self) -> None:
        """Let go: a fully read answer gives its connection back, any other closes it.
        Idempotent."""


class Upstream(Protocol):
    """One configured upstream."""

    @property
    def name(self) -> str: ...

    def serves(self, model: str) -> bool:
        """A pattern of `models` matches."""

    @property
    def builtin(self) -> bool:
        """`echo:`: served in this process."""

    def accepts(self, kind: CallerKind) -> bool:
        """May this kind of caller use it (contract, "Callers")."""

    def relays(self, path: str, method: str) -> bool:
        """May `path` (after /v1/) be asked of it this way."""

    def real_name(self, model: str) -> str:
        """The model's name upstream (`rename`)."""

    def shared_by(self, kind: CallerKind) -> bool:
        """Callers of that kind bring no credential of their own to it: they share a quota."""

    @property
    def max_tokens_field(self) -> str:
        """The member that caps its output."""

    @property
    def base_url(self) -> str:
        """As configured; part of what an equal request is."""

    @property
    def cache(self) -> bool:
        """May its answers be kept."""

    @property
    def cache_ttl(self) -> float | None:
        """Seconds, instead of `cache.ttl`."""

    @property
    def finish_on_disconnect(self) -> bool: ...

    @property
    def injects_usage(self) -> bool:
        """Ask for usage on streams: `inject_usage`, unless this upstream has refused the option
        before."""

    def refused_usage(self) -> None:
        """Remember that it answers 400 to `stream_options` (requirement A2)."""

    async def send(self, call: Call) -> Reply:
        """Make the call; return when the head is here. UpstreamError, UpstreamTimeout."""

    async def models(self, caller: Caller) -> list[dict[str, object]]:
        """What it serves, as OpenAI's model objects under their public names; [] where it does not
        say."""


# Books --------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Gets every Exchange once, when it has ended and its delivery too."""

    def book(self, exchange: Exchange) -> None:
        """Take it. Never blocks, never raises."""


class Traces(Sink, Protocol):
    """Spans of each request, for a collector."""

    def begin(self, origin: Origin) -> TraceContext | None:
        """A request's place in its trace: the caller's, else one of our own. No I/O."""


class Ledger(Protocol):
    """The books on disk: one row for each request with a valid caller."""

    def admit(self) -> None:
        """LedgerUnavailable once the disk has failed for longer than `usage.when_down` allows."""

    def reserve(self, id: str, made: Callable[[], Reservation]) -> None:
        """Queue the open reservation of a request; not waited for. `made` says what it is, and is
        not asked where the call ends soon."""

    async def commit(self, exchange: Exchange) -> None:
        """The row of an upstream call: returns when it is durable, or after `usage.commit_wait`,
        when it stays queued. Never raises. It settles the reservation of the same id."""

    def add(self, exchange: Exchange) -> None:
        """The row of a hit, a join or a refusal: queued, nobody waits."""


class Prices(Protocol):
    """What tokens cost."""

    def cost(
        self, upstream: str, base_url: str, model: str, usage: Usage, service_tier: str | None
    ) -> Cost:
        """The cost of `usage` of a model (its name as it was sent upstream). No I/O."""

    def dearest(self, base_url: str, model: str) -> tuple[int, int] | None:
        """The highest price of a token of its input, and of its output, in 10^-12 dollars, whatever
        tier, size or time; None where the model has no price. No I/O."""


class Penalty(Protocol):
    """What guessing keys costs."""

    async def pay(self, client: str) -> None:
        """A request from this address is to be refused for its key: wait first."""


class Keys(Protocol):
    """Who is asking."""

    def identify(self, authorization: str | None, api_key: str | None) -> Caller:
        """The caller behind the two headers' values; raises InvalidAPIKey. No I/O."""


class Permit(Protocol):
    """One request's way through limits. Whoever has it closes it, in every ending."""

    @property
    def spends(self) -> bool:
        """Limits on tokens or money may meet it: what its call may take must be known."""

    @property
    def budgeted(self) -> bool:
        """One of them is on money."""

    @property
    def counted(self) -> bool:
        """It counts against limits on requests."""

    @property
    def hit_tokens(self) -> int:
        """Tokens that an answer from the cache counts with."""

    @property
    def clamped(self) -> int | None:
        """The output cap, for each answer, that the call must be given."""

    @property
    def bound_exceeded(self) -> bool:
        """The call took more than was reserved."""

    @property
    def waited(self) -> float:
        """Seconds spent waiting for others' reservations to settle."""

    @property
    def held(self) -> bool:
        """It holds what a call may take, and has not settled."""

    def headers(self) -> HeaderList:
        """What the client is told of its limits."""

    def lines(self) -> str:
        """The same as header lines (`wire/fields.py`)."""

    def admit(self, *, reads: bool) -> None:
        """It is under way from now on, and counts, unless it may be answered from the cache
        (`reads`) and such answers do not. RateLimited, InsufficientQuota."""

    def count(self) -> None:
        """It counts as a request from now on; once. RateLimited, InsufficientQuota."""

    def uncount(self) -> None:
        """It is refused for another reason: it has taken nothing."""

    def hit(self, tokens: int) -> None:
        """It is answered from the cache, which saved so many tokens."""

    def hold(self, bound: Bound) -> bool:
        """Hold what a call may take, where that is simple; False: `reserve` it."""

    async def reserve(self, bound: Bound) -> bool:
        """Hold what a call may take, or what is left where its cap is lowered; True: it had to
        wait. RateLimited, InsufficientQuota."""

    def cancel(self) -> None:
        """Give back what is held: no call is made."""

    def settle(self, tokens: int, nano_usd: int, upstream: str) -> None:
        """The call has ended and took that: the rest of what is held is given back. Only the
        first time counts."""

    def depart(self) -> None:
        """Its client has left."""

    def close(self) -> None:
        """The request has ended. Idempotent."""


class Quota(Protocol):
    """What callers may still use. On the event loop's thread; no I/O."""

    def permit(self, caller: Caller, *, shared: bool) -> Permit:
        """For one request, which it neither admits nor counts yet. `shared`: it goes to an upstream
        that callers without an issued key use without a credential of their own."""


Sinks = Sequence[Sink]


class Capture(Protocol):
    """What the journal takes down of one request, or nothing."""

    def wrap(self, client: Client) -> Client:
        """The client to be used from now on: it hands on all it gets, to `client`."""

    def end(self, exchange: Exchange) -> None:
        """The request has ended. Never blocks, never raises."""


class Journal(Protocol):
    """Bodies and headers of requests, where they are to be kept."""

    def keeps(self, caller: Caller, model: str | None) -> bool:
        """It may keep something of such a request."""

    def capture(self, ask: Ask, caller: Caller, model: str | None, body: bytes | None) -> Capture:
        """Decided once, when caller and model are known, or the request was refused. `body` None:
        it was not read, or is streamed."""


# Kept answers -------------------------------------------------------------------------------------


class PurgeFailed(Exception):
    """What was to be forgotten may still be on disk; the message says why."""


class Cache(Protocol):
    """Answers by the digest of their request (32 bytes, with the scope in it)."""

    def find(self, key: bytes) -> Entry | None:
        """What is fresh of it in memory. No I/O."""

    def lacks(self, key: bytes) -> bool:
        """It is certain that nothing is on disk: who has not found it in memory need not `fetch`,
        and its miss is counted. No I/O."""

    async def fetch(self, key: bytes) -> Entry | None:
        """What is fresh of it on disk, within a deadline; then it is in memory too. Never
        raises. For who has asked `lacks` before."""

    def ticket(self) -> Ticket:
        """To be taken before a call is made, and given back to `store`."""

    def store(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        """Keep it: in memory before this returns, on disk soon. False: it is stale or too large,
        or was purged since `ticket`. The ids of its recordings are remembered."""

    def remember(self, request_id: str, key: bytes) -> None:
        """A request was answered from that entry; the last 10,000 are known."""

    async def lookup_request(self, request_id: str) -> tuple[bytes, Entry] | None:
        """The entry that a request stored or was answered from."""

    async def purge(self, selector: Selector) -> int:
        """Forget, in memory and on disk and what is still on its way there; how many entries.
        Holds when it returns; PurgeFailed."""

    def stats(self) -> CacheStats: ...

    async def start(self) -> None:
        """Open what is on disk. Never raises: without a disk, memory serves."""

    async def close(self) -> None:
        """Write what is queued, within a bound."""
