"""The draft of an Exchange: what is known so far of one request under way. Nothing here awaits."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.entry import Recording, Ticket
from gateway.errors import (
    Draining,
    GatewayError,
    InternalError,
    RequestLoop,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.exchange import (
    NO_COST,
    NO_USAGE,
    CacheState,
    Caller,
    Cost,
    Exchange,
    Mold,
    Outcome,
    Summary,
    Timings,
    Usage,
    UsageSource,
)
from gateway.journal.capture import NOT_KEPT
from gateway.keys.rules import blotted
from gateway.ports import Ask, CallTimes, Capture, Client, Journal, Permit, Prices, Upstream
from gateway.quota.permit import NOBODY
from gateway.said import said
from gateway.wire.findings import NOT_JSON, TOO_LARGE, UNOBSERVED
from gateway.wire.observe import Observer

FREE = Cost(0)
UNREADABLE = frozenset({NOT_JSON, TOO_LARGE, UNOBSERVED})
FROM_CACHE = Usage(source=UsageSource.CACHE)


class Trip:
    """What is known so far of a request under way: the draft of its Exchange.

    What a request has not come to stands on the class: most come to little of it.
    """

    caller: Caller | None = None
    model: str | None = None
    served: str | None = None
    upstream: str | None = None
    upstream_request_id: str | None = None
    stream: bool = False
    status: int = 499  # until a head is written (nginx's code for a client that has left)
    outcome: Outcome = Outcome.CLIENT_DISCONNECT
    error: str | None = None
    cache: CacheState = CacheState.NONE
    cache_key: str | None = None
    cache_reason: str | None = None
    cache_age: float | None = None
    cache_left: float = 0.0  # seconds that what it was answered with may still be served
    ticket = Ticket(0)  # of when nothing was at hand
    saved: Usage = NO_USAGE
    replayed_seconds: float = 0.0  # that the call took whose answer is replayed
    observer: Observer | None = None
    base_url: str = ""
    answered: int | None = None  # the upstream's status
    body: bytes | None = None  # of a chat request
    estimated: Usage | None = None  # in place of a usage that did not come
    committed: Exchange | None = None  # its row is in the ledger, or on its way
    usage: Usage = NO_USAGE  # with `price`: the tokens that it is booked with
    cost: Cost = NO_COST
    saved_cost: Cost = NO_COST
    summary: Summary | None = None
    mold: Mold | None = None  # of a hit like one before: all but its own figures
    times: CallTimes | None = None
    attempts: int = 0
    waited: float = 0.0  # seconds spent waiting for the upstream
    capture: Capture = NOT_KEPT
    permit: Permit = NOBODY
    # Monotonic seconds at the points of `Timings`.
    received: float | None = None
    admitted: float | None = None
    looked_up: float | None = None
    called: float | None = None
    connected: float | None = None
    first_byte: float | None = None
    first_token: float | None = None
    last_byte: float | None = None

    def __init__(self, ask: Ask, client: Client, endpoint: str) -> None:
        self.ask = ask
        self.client = client
        self.endpoint = endpoint
        self.said = said(ask)

    def keep(self, journal: Journal, body: bytes | None) -> None:
        """Let the journal take down what it keeps of this request, from here on."""
        if self.caller is not None and self.capture is NOT_KEPT and not self.client.started:
            self.capture = journal.capture(self.ask, self.caller, self.model, body)
            self.client = self.capture.wrap(self.client)

    def _usage(self) -> Usage:
        """The tokens that this request is booked with."""
        if self.cache is CacheState.HIT or self.cache is CacheState.JOINED:
            return FROM_CACHE  # booked where the call was made
        if self.answered != 200 or self.summary is None:
            return NO_USAGE
        return self.summary.usage or self.estimated or NO_USAGE

    @property
    def lacks_usage(self) -> bool:
        """The upstream worked on an answer, and did not say what it took (requirement B3)."""
        summary = self.summary
        if self.answered != 200 or self.body is None or summary is None or summary.usage:
            return False
        return bool(summary.content_bytes) or not (summary.error or summary.missing in UNREADABLE)

    def note_hit(self, recording: Recording, summary: Summary, now: float) -> None:
        """It is answered with this recording, at wall second `now`."""
        self.cache = CacheState.HIT
        self.saved = recording.usage
        self.replayed_seconds = recording.seconds
        self.summary = summary
        self.cache_age = age = recording.age(now)
        self.cache_left = max(0.0, recording.ttl - age)

    def price(self, prices: Prices) -> None:
        """What the tokens cost, or would have cost."""
        tier = None if self.summary is None else self.summary.service_tier
        model, upstream = self.served or self.model or "", self.upstream or ""
        self.usage = usage = self._usage()
        if usage.source is UsageSource.NONE or usage.source is UsageSource.CACHE:
            self.cost = FREE
        else:
            self.cost = prices.cost(upstream, self.base_url, model, usage, tier)
        if self.saved is not NO_USAGE:
            self.saved_cost = prices.cost(upstream, self.base_url, model, self.saved, tier)

    def exchange(self, now: float) -> Exchange:
        """The finished record."""
        ask, said, summary, permit = self.ask, self.said, self.summary, self.permit
        model, served, usage = self.model, self.served, self.usage
        took = now - ask.started
        return Exchange(
            id=ask.id,
            at=ask.at,
            endpoint=self.endpoint,
            method=ask.method,
            path=said.path,
            client=ask.client,
            caller=self.caller,
            model=None if model is None else blotted(model),
            model_served=None if served is None else blotted(served),
            upstream=self.upstream,
            stream=self.stream,
            status=self.status,
            outcome=self.outcome,
            error=self.error,
            cache=self.cache,
            usage=usage,
            cost=self.cost,
            saved_cost=self.saved_cost,
            summary=summary,
            timings=self._timings(now),
            bytes_in=ask.body.received,
            bytes_out=self.client.bytes_out,
            attempts=self.attempts,
            cache_key=self.cache_key,
            cache_reason=self.cache_reason,
            cache_age=self.cache_age,
            saved=self.saved,
            saved_seconds=max(0.0, self.replayed_seconds - took),
            upstream_request_id=self.upstream_request_id,
            usage_missing=summary.missing if summary is not None and self.answered == 200 else None,
            client_retry=said.retry,
            tags=said.tags,
            trace=ask.context.trace if ask.context else said.trace,
            context=ask.context,
            counted=permit.counted,
            counted_tokens=usage.prompt_tokens + usage.completion_tokens + permit.hit_tokens,
            clamped=permit.clamped,
            bound_exceeded=permit.bound_exceeded,
        )

    def again(self, mold: Mold, now: float) -> Exchange:
        """The finished record of a hit like one before."""
        ask, said, permit = self.ask, self.said, self.permit
        received, admitted, found = self.received, self.admitted, self.looked_up
        assert received is not None and admitted is not None and found is not None
        began, context = ask.started, ask.context
        took, looked_up = (now - began) * 1000, (found - began) * 1000
        saved = mold.seconds - (now - began)
        return replace(
            mold.like,
            id=ask.id,
            at=ask.at,
            client=ask.client,
            timings=Timings(
                (received - began) * 1000,
                (admitted - began) * 1000,
                looked_up,
                None,
                None,
                None,
                looked_up,
                None,
                took,
                took,
            ),
            cache_age=self.cache_age,
            saved_seconds=saved if saved > 0.0 else 0.0,
            client_retry=said.retry,
            tags=said.tags,
            trace=context.trace if context else said.trace,
            context=context,
            counted=permit.counted,
            counted_tokens=permit.hit_tokens,
            mold=mold,
        )

    def ended(self, booked: Exchange, now: float) -> Exchange:
        """The record as it was committed, with what has happened to its delivery since."""
        took, first = (now - self.ask.started) * 1000, booked.timings.first_token
        if first is None and self.first_token is not None:
            first = (self.first_token - self.ask.started) * 1000
        return replace(
            booked,
            status=self.status,
            outcome=self.outcome,
            error=self.error,
            cache=self.cache,
            cache_reason=self.cache_reason,
            timings=replace(booked.timings, first_token=first, booked=took, total=took),
            bytes_out=self.client.bytes_out,
        )

    def _timings(self, now: float) -> Timings:
        """Milliseconds since the request arrived, which is what its record has."""
        began, times = self.ask.started, self.times
        took = (now - began) * 1000
        return Timings(
            None if self.received is None else (self.received - began) * 1000,
            None if self.admitted is None else (self.admitted - began) * 1000,
            None if self.looked_up is None else (self.looked_up - began) * 1000,
            None if self.called is None else (self.called - began) * 1000,
            None if self.connected is None else (self.connected - began) * 1000,
            None if self.first_byte is None else (self.first_byte - began) * 1000,
            None if self.first_token is None else (self.first_token - began) * 1000,
            None if self.last_byte is None else (self.last_byte - began) * 1000,
            took,
            took,
            0.0 if times is None else times.queued * 1000,
            self.waited * 1000,
            self.permit.waited * 1000,
        )

    def head_for(self, upstream: Upstream, served: str | None) -> None:
        """It may go there; `served` is the model's name there."""
        self.upstream, self.base_url, self.served = upstream.name, upstream.base_url, served

    def first_content(self, now: float) -> None:
        """The first content was handed over."""
        self.first_token = now

    def note_call(self, times: CallTimes) -> None:
        """Take over when a call was sent, connected and answered."""
        self.times = times
        self.attempts += times.attempts
        if self.called is None:
            self.called = times.sent
        if times.connected is not None:
            self.connected = times.connected
        if times.first_byte is not None:
            self.first_byte = times.first_byte


def verdict(status: int, summary: Summary | None) -> tuple[Outcome, str | None]:
    """How an answer that was relayed to its end is booked."""
    if status >= 400:
        return Outcome.UPSTREAM_STATUS, f"upstream_{status}"
    if summary is not None and summary.error:
        return Outcome.UPSTREAM_IN_BAND_ERROR, "in_band_error"
    return Outcome.OK, None


def outcome_of(error: GatewayError, called: bool) -> Outcome:
    """How a request that ended in an error of the gateway's is booked; `called`: an upstream was
    chosen."""
    for kind, outcome in (
        (UpstreamCut, Outcome.UPSTREAM_TRUNCATED),
        (UpstreamTimeout, Outcome.UPSTREAM_TIMEOUT),
        (RequestLoop, Outcome.REFUSED),
        (UpstreamError, Outcome.UPSTREAM_ERROR),
        (InternalError, Outcome.INTERNAL),
    ):
        if isinstance(error, kind):
            return outcome
    return Outcome.DRAINED if called and isinstance(error, Draining) else Outcome.REFUSED
