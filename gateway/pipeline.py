"""READ THIS FIRST. One request, top to bottom: admit, board, deliver, book.

    admit    who asks, for what, may they; the cheap refusals come before the body is read
    board    launch a flight: one call to one upstream, or (once there is a cache) find one that
    has landed deliver  pump the answer to the client, whole events only, no faster than the client
    reads book     one Exchange for every request, whatever ended it, to every sink

Everything outside is behind a port (`ports.py`). Nothing here knows HTTP's bytes, a socket or a
file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from msgspec.json import encode

from gateway.answers import (
    Peeked,
    header,
    is_whole,
    observer,
    read_start,
    refuse_cut,
    refuse_html,
)
from gateway.errors import (
    Draining,
    GatewayError,
    InternalError,
    RequestLoop,
    UnknownURL,
    UnsupportedEncoding,
)
from gateway.exchange import CacheState, Caller, HeaderList, Outcome
from gateway.flight import Flight, Head, Leash, Reader
from gateway.ports import (
    Ask,
    Call,
    CallTimes,
    Client,
    ClientGone,
    Clock,
    Keys,
    Reply,
    Sink,
    Upstream,
)
from gateway.trip import Trip, outcome_of, verdict
from gateway.upstream.rules import choose, is_loop
from gateway.wire.chat import ChatRequest, read_chat, read_model, with_model, with_usage
from gateway.wire.observe import Form

log = logging.getLogger("gateway.pipeline")

OFF_LOOP = 256 * 1024  # bodies above this are parsed and edited in a thread (requirement H7)
REFUSAL = 64 * 1024  # bytes of a 400 that are read to see whether it names `stream_options`
CHAT = "chat/completions"
JSON: HeaderList = [("content-type", "application/json")]

T = TypeVar("T")


class Render(Protocol):
    """Turns an error into what the client reads: status, headers, body."""

    def __call__(self, error: GatewayError) -> tuple[int, HeaderList, bytes]: ...


@dataclass(slots=True)
class House:
    """What the pipeline works with; `app.py` fills it, a reload replaces single members."""

    keys: Keys
    upstreams: Sequence[Upstream]
    sinks: Sequence[Sink]
    clock: Clock
    render: Render
    workers: Executor
    instance: str  # this process's random id, for `Via`
    body_limit: int
    upload_limit: int
    draining: bool = False
    flights: set[Leash] = field(default_factory=set)  # all in the air, to be cut at a stop
    streams: int = 0  # of them, those that answer a request with `stream: true`


class Pipeline:
    """The one path of every request."""

    def __init__(self, house: House) -> None:
        self.house = house

    # -- the way of every request ------------------------------------------------------------------

    async def chat(self, ask: Ask, client: Client) -> None:
        """`POST /v1/chat/completions`."""
        await self._book(Trip(ask, client, CHAT), self._chat)

    async def relay(self, ask: Ask, client: Client, endpoint: str) -> None:
        """Any other `/v1/*`: the same authentication and booking, streamed both ways."""
        await self._book(Trip(ask, client, endpoint), self._relay)

    async def models(self, ask: Ask, client: Client) -> None:
        """`GET /v1/models`: what the upstreams that accept the caller serve, in one list."""
        await self._book(Trip(ask, client, "models"), self._models)

    async def refuse(self, ask: Ask, client: Client, endpoint: str, error: GatewayError) -> None:
        """What the web layer found out already, on the same way to the books."""

        async def refused(_: Trip) -> None:
            raise error

        await self._book(Trip(ask, client, endpoint), refused)

    async def _book(self, trip: Trip, way: Callable[[Trip], Awaitable[None]]) -> None:
        """Run one way to its end, answer what went wrong, write the one Exchange (requirement
        B1)."""
        try:
            await way(trip)
        except ClientGone:
            trip.outcome, trip.error = Outcome.CLIENT_DISCONNECT, "client_disconnect"
        except GatewayError as error:
            self._answer(trip, error)
        except asyncio.CancelledError:
            trip.outcome, trip.error = Outcome.DRAINED, "draining"
            raise
        except Exception:
            log.exception("request %s: a fault of the gateway", trip.ask.id)
            self._answer(
                trip, InternalError("The gateway failed; its log names this request's id.")
            )
        finally:
            trip.mark("booked", self.house.clock.monotonic())
            exchange = trip.exchange(self.house.clock.monotonic())
            for sink in self.house.sinks:
                sink.book(exchange)

    # -- admit -------------------------------------------------------------------------------------

    def _admit(self, trip: Trip) -> Caller:
        """All that needs no body."""
        ask, house = trip.ask, self.house
        if house.draining:
            raise Draining("The gateway is stopping. Try again in a moment.", retry_after=1)
        trip.caller = house.keys.identify(ask.header("authorization"), ask.header("api-key"))
        if is_loop(ask.header("via"), house.instance):
            raise RequestLoop(
                "An upstream's base_url leads back to this gateway: the request went in a circle."
            )
        return trip.caller

    async def _chat(self, trip: Trip) -> None:
        ask, house = trip.ask, self.house
        caller = self._admit(trip)
        if not _is_plain(ask):
            raise UnsupportedEncoding(
                "A body with a Content-Encoding is not read here. Send it unencoded."
            )
        request = await self._off_loop(read_chat, await ask.body.read(house.body_limit))
        trip.mark("received", house.clock.monotonic())
        trip.model, trip.stream = request.model, request.stream
        upstream = choose(house.upstreams, request.model, caller.kind)
        call = Call("POST", CHAT, ask.query, ask.headers, request.body, None, caller, request.model)
        await self._board(trip, upstream, call, request)

    async def _relay(self, trip: Trip) -> None:
        ask, house = trip.ask, self.house
        caller = self._admit(trip)
        body, trip.model = await self._relay_body(ask)
        trip.mark("received", house.clock.monotonic())
        upstream = choose(house.upstreams, trip.model, caller.kind)
        call = Call(
            ask.method, ask.path, ask.query, ask.headers, body, ask.body.length, caller, trip.model
        )
        await self._board(trip, upstream, call, None)

    async def _relay_body(self, ask: Ask) -> tuple[bytes | AsyncIterator[bytes] | None, str | None]:
        """The body to send on and the model it names. A JSON body is read whole, since its model
        decides where it goes; any other is streamed as it comes."""
        length, limit = ask.body.length, self.house.body_limit
        if length == 0:
            head, _, model = ask.path.partition("/")
            return None, model if head == "models" and model else None
        kind = (ask.header("content-type") or "").partition(";")[0].strip().lower()
        if kind == "application/json" and _is_plain(ask) and (length is None or length <= limit):
            body = await ask.body.read(limit)
            return body, await self._off_loop(read_model, body)
        return ask.body.chunks(self.house.upload_limit), None

    async def _models(self, trip: Trip) -> None:
        caller, house = self._admit(trip), self.house
        accepting = [upstream for upstream in house.upstreams if upstream.accepts(caller.kind)]
        merged: dict[str, dict[str, object]] = {}
        for listed in await asyncio.gather(*(upstream.models(caller) for upstream in accepting)):
            for model in listed:
                merged.setdefault(str(model.get("id")), model)
        trip.outcome = Outcome.OK
        self._send_whole(trip, 200, JSON, encode({"object": "list", "data": list(merged.values())}))

    # -- board -------------------------------------------------------------------------------------

    async def _board(
        self, trip: Trip, upstream: Upstream, call: Call, request: ChatRequest | None
    ) -> None:
        """Launch a flight of this request's own; nobody else can board it yet."""
        if not upstream.relays(call.path):
            raise UnknownURL(
                f"'/v1/{call.path[:200]}' is not relayed to upstream '{upstream.name}'."
            )
        trip.upstream = upstream.name
        trip.cache = CacheState.BYPASS
        trip.mark("admitted", self.house.clock.monotonic())
        flight, leash = Flight(), Leash()
        reader = Reader(
            flight,
            trip.client,
            hides_usage=request is not None and not request.asked_usage,
            make_head=partial(self._head, trip),
            on_gone=partial(leash.pull, ClientGone()),
        )
        self.house.flights.add(leash)
        self.house.streams += trip.stream
        try:
            with leash:
                await self._fly(trip, flight, leash, upstream, call, request)
        except ClientGone:
            # Who has the finish and the usage has the answer: [DONE] alone is no loss (B4).
            if reader.behind or not is_whole(trip.summary):
                raise
        finally:
            self.house.flights.discard(leash)
            self.house.streams -= trip.stream
            trip.waited += flight.waited
        await self._deliver(trip, reader)

    async def _fly(
        self,
        trip: Trip,
        flight: Flight,
        leash: Leash,
        upstream: Upstream,
        call: Call,
        request: ChatRequest | None,
    ) -> None:
        """Call the upstream and pump its answer to whoever reads."""
        clock = self.house.clock
        leash.check()
        reply = await self._call(trip, upstream, call, request)
        watcher = trip.observer = observer(reply, call, request)
        try:
            if request is not None and reply.status == 200:
                refuse_html(reply, upstream)
            trip.upstream_request_id = header(reply.headers, "x-request-id") or None
            await flight.fly(
                reply, watcher, leash, clock, lambda: trip.mark("first_token", clock.monotonic())
            )
            trip.mark("last_byte", clock.monotonic())
        finally:
            reply.close()
            trip.summary = watcher.summary()
        if request is not None and reply.status == 200:
            refuse_cut(trip.summary, upstream, streamed=watcher.form is Form.STREAM)

    async def _call(
        self, trip: Trip, upstream: Upstream, call: Call, request: ChatRequest | None
    ) -> Reply:
        """Make the call with the documented edits; once more without asking for usage where the
        upstream refuses that (requirement A2)."""
        if call.model is not None:
            trip.served = upstream.real_name(call.model)
            if trip.served != call.model and isinstance(call.body, bytes):
                call.body = await self._off_loop(partial(with_model, name=trip.served), call.body)
        plain = call.body
        if request is None or not request.stream or request.asked_usage:
            return await self._send(trip, upstream, call)
        if not isinstance(plain, bytes) or not upstream.injects_usage:
            return await self._send(trip, upstream, call)
        call.body = await self._off_loop(partial(with_usage, request=request), plain)
        reply = await self._send(trip, upstream, call)
        if reply.status != 400:
            return reply
        try:
            refusal = await read_start(reply, REFUSAL)
        except BaseException:
            reply.close()
            raise
        if b"stream_options" not in refusal:
            return Peeked(reply, refusal)
        reply.close()
        upstream.refused_usage()
        call.body = plain
        return await self._send(trip, upstream, call)

    async def _send(self, trip: Trip, upstream: Upstream, call: Call) -> Reply:
        clock = self.house.clock
        sent = clock.monotonic()
        times = call.times = CallTimes(sent=sent)
        try:
            return await upstream.send(call)
        finally:
            trip.called(times)
            trip.waited += clock.monotonic() - sent - times.queued

    # -- deliver -----------------------------------------------------------------------------------

    def _head(self, trip: Trip, head: Head) -> HeaderList:
        """The answer's headers: the upstream's, then the gateway's."""
        trip.status = head.status
        own = self._own_headers(trip)
        taken = {name for name, _ in own} - {"x-request-id"}
        kept = [(name, value) for name, value in head.headers if name not in taken]
        if any(name == "x-request-id" for name, _ in kept):
            own = [pair for pair in own if pair[0] != "x-request-id"]
        if header(kept, "content-type").startswith("text/event-stream"):
            own.append(("x-accel-buffering", "no"))
        return kept + own

    def _own_headers(self, trip: Trip) -> HeaderList:
        own = [
            ("cache-control", "private, no-store, no-transform"),
            ("x-gateway-request-id", trip.ask.id),
            ("x-request-id", trip.ask.id),
            *trip.ask.cors,
        ]
        if trip.cache is not CacheState.NONE:
            own.append(("x-gateway-cache", trip.cache.value))
        return own

    async def _deliver(self, trip: Trip, reader: Reader) -> None:
        """Hand over what is left, then the end."""
        await reader.caught_up()
        if reader.client.gone and reader.behind:
            raise ClientGone
        trip.outcome, trip.error = verdict(trip.status, trip.summary)
        reader.release()

    def _answer(self, trip: Trip, error: GatewayError) -> None:
        """An error: as an answer of its own while no head is out, inside the stream after that
        (B12)."""
        trip.outcome, trip.error = outcome_of(error, trip.upstream is not None), error.code
        client = trip.client
        if not client.started:
            trip.cache = CacheState.NONE
            status, headers, body = self.house.render(error)
            self._send_whole(trip, status, headers, body)
        elif trip.observer is not None and trip.observer.form is Form.STREAM:
            opening = (
                b"\n\n" if trip.observer.torn else b""
            )  # ends what was handed out unfinished (B12)
            client.write(opening + b"data: " + encode(error.body()) + b"\n\n")
            client.finish()
        else:
            client.abort()

    def _send_whole(self, trip: Trip, status: int, headers: HeaderList, body: bytes) -> None:
        trip.status = 499 if trip.client.gone else status
        trip.client.start(status, headers + self._own_headers(trip), len(body))
        trip.client.write(body)
        trip.client.finish()

    # -- help --------------------------------------------------------------------------------------

    async def _off_loop(self, work: Callable[[bytes], T], body: bytes) -> T:
        """Small bodies are worked on here, large ones in a thread (requirement H7)."""
        if len(body) <= OFF_LOOP:
            return work(body)
        return await asyncio.get_running_loop().run_in_executor(self.house.workers, work, body)


def _is_plain(ask: Ask) -> bool:
    return (ask.header("content-encoding") or "identity").lower() == "identity"
