"""READ THIS FIRST. One request, top to bottom: admit, board, deliver, book.

    admit    who asks, for what, may they; the cheap refusals come before the body is read
    board    an answer that is kept, an equal request's flight, or a flight of its own: one call
    deliver  pump the answer to the client, whole events only, no faster than the client reads
    book     one Exchange for every request, whatever ended it, to every sink

Everything outside is behind a port (`ports.py`). Nothing here knows HTTP's bytes, a socket or a
file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from msgspec.json import encode

from gateway.answers import head_of, note_error, send_error, send_whole
from gateway.boarding import Plan
from gateway.calls import header, is_plain, is_whole, observer, refuse_cut, refuse_html
from gateway.errors import (
    Draining,
    GatewayError,
    InternalError,
    InvalidAPIKey,
    ModelNotAllowed,
    NotCached,
    RequestLoop,
    UnknownURL,
    UnsupportedEncoding,
)
from gateway.exchange import CacheState, Caller, Exchange, HeaderList, Outcome
from gateway.flight import Flight, Reader
from gateway.house import House
from gateway.keys.rules import may_use
from gateway.leash import Leash, own_task
from gateway.ports import Ask, Call, Client, ClientGone, Upstream
from gateway.trip import Trip, outcome_of, verdict
from gateway.upstream.headers import is_loop
from gateway.upstream.rules import choose
from gateway.usage.rules import missing_usage, prompt_bytes
from gateway.wire.chat import ChatRequest

log = logging.getLogger("gateway.pipeline")

CHAT = "chat/completions"
JSON: HeaderList = [("content-type", "application/json")]


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
        """Run one way to its end, answer what went wrong, write the one Exchange (B1)."""
        house = self.house
        try:
            await way(trip)
        except ClientGone:
            trip.outcome, trip.error = Outcome.CLIENT_DISCONNECT, "client_disconnect"
            await self._estimate(trip)
        except GatewayError as error:
            if isinstance(error, InvalidAPIKey):
                await house.penalty.pay(trip.ask.client)
            await self._fail(trip, error)
        except asyncio.CancelledError:
            trip.outcome, trip.error = Outcome.DRAINED, "draining"
            raise
        except Exception:
            log.exception("request %s: a fault of the gateway", trip.ask.id)
            await self._fail(
                trip, InternalError("The gateway failed; its log names this request's id.")
            )
        finally:
            exchange = self._exchange(trip)
            if trip.caller is not None and not trip.committed:
                house.ledger.add(exchange)
            for sink in house.sinks:
                sink.book(exchange)
            trip.capture.end(exchange)
            trip.permit.close()

    async def _fail(self, trip: Trip, error: GatewayError) -> None:
        """An error is an end like any other: booked, if a call was made, before it is told."""
        trip.outcome, trip.error = outcome_of(error, trip.upstream is not None), error.code
        trip.keep(self.house.journal, trip.body)
        note_error(trip, error)
        if trip.attempts:
            await self._commit(trip)
        send_error(trip, error, self.house.render)

    async def _commit(self, trip: Trip) -> None:
        """Put the row of an upstream call on the disk, before the answer's end is released."""
        if trip.caller is not None and not trip.committed:
            trip.committed = True
            await self._estimate(trip)
            await self.house.ledger.commit(self._exchange(trip))

    async def _estimate(self, trip: Trip) -> None:
        """Tokens of an answer that came without usage, marked as an estimate (B3)."""
        house = self.house
        if house.missing_usage is None or trip.body is None or not trip.lacks_usage:
            return
        prompt = await house.calls.off_loop(prompt_bytes, trip.body)
        said = trip.summary.content_bytes if trip.summary is not None else 0
        trip.estimated = missing_usage(
            house.missing_usage, status=200, prompt_bytes=prompt, content_bytes=said
        )

    def _exchange(self, trip: Trip) -> Exchange:
        """The record as of now, priced."""
        prices, now = self.house.prices, self.house.clock.monotonic()
        trip.mark("booked", now)
        trip.price(prices)
        self.house.metering.settle(trip)
        return trip.exchange(now)

    # -- admit -------------------------------------------------------------------------------------

    def _admit(self, trip: Trip) -> Caller:
        """All that needs no body."""
        ask, house = trip.ask, self.house
        if house.draining:
            raise Draining("The gateway is stopping. Try again in a moment.", retry_after=1)
        trip.caller = house.keys.identify(ask.header("authorization"), ask.header("api-key"))
        house.metering.identify(trip, trip.caller)
        if is_loop(ask.header("via"), house.instance):
            raise RequestLoop(
                "An upstream's base_url leads back to this gateway: the request went in a circle."
            )
        return trip.caller

    async def _chat(self, trip: Trip) -> None:
        ask, house = trip.ask, self.house
        caller, ticket = self._admit(trip), house.boarding.cache.ticket()
        if not is_plain(ask):
            raise UnsupportedEncoding(
                "A body with a Content-Encoding is not read here. Send it unencoded."
            )
        body = await ask.body.read(house.body_limit)
        trip.body = body
        known = await house.boarding.know(body)
        trip.mark("received", house.clock.monotonic())
        trip.model, trip.stream = known.request.model, known.request.stream
        trip.keep(house.journal, body)
        upstream = self._choose(trip, caller, CHAT)
        plan = house.boarding.plan(trip, upstream, caller, known, CHAT, ticket)
        house.metering.admit(trip, caller, upstream, reads=plan.reads)
        call = Call("POST", CHAT, ask.query, ask.headers, body, None, caller, trip.model)
        await self._board(trip, upstream, call, plan)

    async def _relay(self, trip: Trip) -> None:
        ask, house = trip.ask, self.house
        await own_task()
        caller = self._admit(trip)
        body, trip.model = await house.calls.body_of(ask, house.body_limit, house.upload_limit)
        trip.keep(house.journal, body if isinstance(body, bytes) else None)
        trip.mark("received", house.clock.monotonic())
        upstream = self._choose(trip, caller, ask.path)
        call = Call(
            ask.method, ask.path, ask.query, ask.headers, body, ask.body.length, caller, trip.model
        )
        house.metering.admit(trip, caller, upstream, reads=False)
        await house.metering.reserve(trip, upstream, call)
        await self._launch(trip, upstream, call, None, None)

    def _choose(self, trip: Trip, caller: Caller, path: str) -> Upstream:
        """Who serves this model to this caller (contract, "Upstreams")."""
        house = self.house
        if not may_use(caller.grant, trip.model):
            raise ModelNotAllowed(
                f"This key may not use the model '{trip.model}'."
                if trip.model
                else "This key is for certain models, and the request names none."
            )
        upstream = choose(house.upstreams, trip.model, caller.kind)
        if not upstream.relays(path, trip.ask.method):
            raise UnknownURL(f"'/v1/{path[:200]}' is not relayed to upstream '{upstream.name}'.")
        trip.upstream = upstream.name
        trip.cache = CacheState.BYPASS
        trip.base_url = upstream.base_url
        trip.served = None if trip.model is None else upstream.real_name(trip.model)
        trip.mark("admitted", house.clock.monotonic())
        return upstream

    async def _models(self, trip: Trip) -> None:
        caller, house = self._admit(trip), self.house
        trip.keep(house.journal, None)
        trip.permit.admit(reads=False)
        accepting = [upstream for upstream in house.upstreams if upstream.accepts(caller.kind)]
        merged: dict[str, dict[str, object]] = {}
        for listed in await asyncio.gather(*(upstream.models(caller) for upstream in accepting)):
            for model in listed:
                if may_use(caller.grant, str(model.get("id"))):
                    merged.setdefault(str(model.get("id")), model)
        trip.outcome = Outcome.OK
        send_whole(trip, 200, JSON, encode({"object": "list", "data": list(merged.values())}))

    # -- board -------------------------------------------------------------------------------------

    async def _board(self, trip: Trip, upstream: Upstream, call: Call, plan: Plan) -> None:
        """A kept answer, an equal request's flight, or a call of its own."""
        house = self.house
        while not await self._aboard(trip, plan):
            waited = await house.metering.reserve(trip, upstream, call)
            if not (waited and house.boarding.answers(plan)):
                await self._launch(trip, upstream, call, plan.request, plan)
                return
            trip.permit.cancel()  # while it waited for its quota, an equal request was answered

    async def _aboard(self, trip: Trip, plan: Plan) -> bool:
        """Answer it without a call. False: there is no such answer. NotCached."""
        boarding = self.house.boarding
        if replay := await boarding.look_up(trip, plan):
            trip.permit.hit(trip.saved.prompt_tokens + trip.saved.completion_tokens)
            reader = self._reader(trip, replay.flight, plan.request)
            trip.mark("first_token", self.house.clock.monotonic())
            await self._deliver(trip, reader)
            return True
        if plan.wish.only_if_cached:
            trip.cache, trip.cache_reason = CacheState.MISS, None  # no answer that was not kept
            raise NotCached("Nothing is kept for this request, and only-if-cached makes no call.")
        trip.permit.count()
        await own_task()
        flight = boarding.find_flight(plan)
        return flight is not None and await self._join(trip, flight, plan)

    async def _join(self, trip: Trip, flight: Flight, plan: Plan) -> bool:
        """Wait for an equal request's answer, live where it comes in the form asked for. False: it
        has landed in the other form and cannot be turned into this one."""
        clock, boarding, leash = self.house.clock, self.house.boarding, Leash()
        trip.cache, began = CacheState.JOINED, clock.monotonic()
        live = flight.stream == plan.request.stream
        reader = self._reader(trip, flight, plan.request, leash=leash, live=live)
        try:
            with leash, self._in_the_air(trip, leash):
                await flight.wait()
        except BaseException:
            trip.observer = flight.observer
            reader.leave()
            raise
        finally:
            trip.waited += clock.monotonic() - began
        boarding.note_join(trip, flight)
        if not live:
            reader.leave()
            replay = await boarding.look_up(trip, plan)
            if replay is None:
                trip.cache = CacheState.MISS
                return False
            trip.cache, trip.cache_headers = CacheState.JOINED, []
            reader = self._reader(trip, replay.flight, plan.request)
        await self._deliver(trip, reader)
        return True

    async def _launch(
        self,
        trip: Trip,
        upstream: Upstream,
        call: Call,
        request: ChatRequest | None,
        plan: Plan | None,
    ) -> None:
        """A flight of this request's own: one call, its answer pumped to whoever is aboard."""
        boarding, leash = self.house.boarding, Leash()
        alone = trip.permit.clamped is not None
        flight = boarding.open_flight(plan, upstream, leash, alone=alone)
        reader = self._reader(trip, flight, request)
        try:
            with leash, self._in_the_air(trip, leash):
                await self._fly(trip, flight, leash, upstream, call, request)
            if plan is not None:
                await self._keep(trip, plan, flight)
            if flight.head is not None and not trip.client.gone:
                trip.status = flight.head.status
                trip.outcome, trip.error = verdict(trip.status, trip.summary)
            await self._commit(trip)
        except ClientGone:
            # Who has the finish and the usage has the answer: [DONE] alone is no loss (B4).
            if reader.behind or not is_whole(trip.summary):
                raise
        except BaseException as error:
            if flight.cap and flight.head is not None:
                trip.cache_reason = "incomplete"  # it broke off, and would have been kept
            flight.fail(error)
            raise
        finally:
            boarding.close_flight(flight)
            trip.waited += flight.waited
        flight.land()
        await self._deliver(trip, reader)

    async def _keep(self, trip: Trip, plan: Plan, flight: Flight) -> None:
        """The answer is whole: keep it if it may be kept. A fault there costs nobody the answer."""
        try:
            await self.house.boarding.keep(trip, plan, flight)
        except Exception:
            log.exception("request %s: its answer could not be kept", trip.ask.id)

    def _reader(
        self,
        trip: Trip,
        flight: Flight,
        request: ChatRequest | None,
        *,
        leash: Leash | None = None,
        live: bool = True,
    ) -> Reader:
        return Reader(
            flight,
            trip.client,
            hides_usage=request is not None and not request.asked_usage,
            make_head=partial(head_of, trip),
            live=live,
            leash=leash,
            on_gone=trip.permit.depart,
        )

    @contextmanager
    def _in_the_air(self, trip: Trip, leash: Leash) -> Iterator[None]:
        """A stop can cut what is in the air, and gauges count it."""
        house = self.house
        house.flights.add(leash)
        house.streams += trip.stream
        try:
            yield
        finally:
            house.flights.discard(leash)
            house.streams -= trip.stream

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
        reply = await self.house.calls.make(trip, upstream, call, request)
        trip.answered = reply.status
        watcher = trip.observer = observer(reply, call.path, request)
        try:
            if request is not None and reply.status == 200:
                refuse_html(reply, upstream)
            trip.upstream_request_id = header(reply.headers, "x-request-id") or None
            if reply.status != 200:
                flight.stop_recording()
            await flight.fly(
                reply, watcher, leash, clock, lambda: trip.mark("first_token", clock.monotonic())
            )
            trip.mark("last_byte", clock.monotonic())
        finally:
            reply.close()
            trip.summary = watcher.summary()
        if request is not None and reply.status == 200:
            refuse_cut(trip.summary, upstream, watcher.form)

    # -- deliver -----------------------------------------------------------------------------------

    async def _deliver(self, trip: Trip, reader: Reader) -> None:
        """The answer is whole: hand over what is left, then its end."""
        await reader.finish()
        trip.outcome, trip.error = verdict(trip.status, trip.summary)
