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
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from msgspec.json import encode

from gateway.answers import (
    head_of,
    note_error,
    send_error,
    send_hit,
    send_kept,
    send_whole,
)
from gateway.boarding import take
from gateway.calls import is_whole, observer, refuse_cut, refuse_html
from gateway.entry import Entry
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
from gateway.exchange import CacheState, Caller, Exchange, HeaderList, Kind, Mold, Outcome
from gateway.flight import Flight, Reader
from gateway.forms import Replay
from gateway.house import House
from gateway.keys.rules import may_use
from gateway.leash import Leash, runner
from gateway.plans import Known, Plan
from gateway.ports import AT_ONCE, Ask, Call, Client, ClientGone, Upstream
from gateway.trip import Trip, outcome_of, verdict
from gateway.upstream.headers import is_loop
from gateway.upstream.rules import choose
from gateway.usage.rules import missing_usage, prompt_bytes
from gateway.wire.chat import ChatRequest
from gateway.wire.observe import Form

log = logging.getLogger("gateway.pipeline")

CHAT = "chat/completions"
JSON: HeaderList = [("content-type", "application/json")]

Way = Coroutine[Any, Any, None]  # of one request, to its end


class Pipeline:
    """The one path of every request."""

    def __init__(self, house: House) -> None:
        self.house = house

    # -- the way of every request ------------------------------------------------------------------

    def chat(self, ask: Ask, client: Client) -> Way:
        """`POST /v1/chat/completions`."""
        return self._book(Trip(ask, client, CHAT), self._chat)

    def relay(self, ask: Ask, client: Client, endpoint: str) -> Way:
        """Any other `/v1/*`: the same authentication and booking, streamed both ways."""
        return self._book(Trip(ask, client, endpoint), self._relay)

    def models(self, ask: Ask, client: Client) -> Way:
        """`GET /v1/models`: what the upstreams that accept the caller serve, in one list."""
        return self._book(Trip(ask, client, "models"), self._models)

    def refuse(self, ask: Ask, client: Client, endpoint: str, error: GatewayError) -> Way:
        """What the web layer found out already, on the same way to the books."""

        async def refused(_: Trip) -> None:
            raise error

        return self._book(Trip(ask, client, endpoint), refused)

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
            mold = trip.mold
            if mold is not None:
                exchange = trip.again(mold, house.clock.monotonic())
            else:
                exchange = self._exchange(trip)
            if trip.caller is not None and trip.committed is None:
                house.ledger.add(exchange)
            for sink in house.sinks:
                sink.book(exchange)
            trip.capture.end(exchange)
            trip.permit.close()

    async def _fail(self, trip: Trip, error: GatewayError) -> None:
        """An error is an end like any other: booked, if a call was made, before it is told."""
        trip.outcome, trip.error = outcome_of(error, trip.upstream is not None), error.code
        trip.keep(self.house.journal, trip.body)
        self.house.metering.identify(trip)
        note_error(trip, error)
        if trip.attempts:
            await self._commit(trip)
        send_error(trip, error, self.house.render)

    async def _commit(self, trip: Trip) -> None:
        """Put the row of an upstream call on the disk, before the answer's end is released."""
        if trip.caller is not None and trip.committed is None:
            await self._estimate(trip)
            exchange = self._exchange(trip)
            trip.committed = exchange
            await self.house.ledger.commit(exchange)

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
        if trip.committed is not None:
            return trip.ended(trip.committed, now)
        trip.price(prices)
        self.house.metering.settle(trip)
        return trip.exchange(now)

    # -- admit -------------------------------------------------------------------------------------

    def _admit(self, trip: Trip) -> Caller:
        """All that needs no body."""
        house = self.house
        if house.draining:
            raise Draining("The gateway is stopping. Try again in a moment.", retry_after=1)
        said = trip.said
        trip.caller = house.keys.identify(said.authorization, said.api_key)
        if said.via is not None and is_loop(said.via, house.instance):
            raise RequestLoop(
                "An upstream's base_url leads back to this gateway: the request went in a circle."
            )
        return trip.caller

    async def _chat(self, trip: Trip) -> None:
        ask, house, boarding = trip.ask, self.house, self.house.boarding
        caller = self._admit(trip)
        if not trip.said.plain:
            raise UnsupportedEncoding(
                "A body with a Content-Encoding is not read here. Send it unencoded."
            )
        body = ask.body.at_once(house.body_limit)
        if body is None:
            body = await ask.body.read(house.body_limit)
        trip.body = body
        known = boarding.plans.at_once(body) or await boarding.plans.know(body)
        trip.received = house.clock.monotonic()
        plan = known.planned(caller, trip.said.asks, house.upstreams)
        if plan is None:
            plan = self._plan(trip, known, caller)
        if plan.logged:
            trip.model = plan.request.model
            trip.keep(house.journal, body)
        trip.admitted = house.clock.monotonic()
        try:
            house.metering.admit(trip, caller, plan.upstream, reads=plan.reads)
            entry, now = boarding.find(plan), house.clock.now()
            if entry is None and not boarding.lacks(plan):
                entry, now = await boarding.fetch(plan), house.clock.now()
            if mold := boarding.mold_of(plan, entry, now, house.prices):
                self._hit(trip, plan, mold, now)
                return
        except BaseException:
            take(trip, plan)
            raise
        take(trip, plan)
        replay = None if entry is None else boarding.at_hand(plan, entry, now)
        if replay is None or replay.image.size > AT_ONCE:
            await self._board(trip, plan, body, caller, entry)
        else:
            self._first_hit(trip, plan, replay, now)

    def _plan(self, trip: Trip, known: Known, caller: Caller) -> Plan:
        """What a request is to the cache, and where it goes."""
        house, request = self.house, known.request
        alike = house.boarding.plans.alike(known, caller, trip.said.asks, house.upstreams)
        if alike is not None:
            return alike
        trip.model, trip.stream = request.model, request.stream
        upstream = self._choose(trip, caller, CHAT)
        logged = house.journal.keeps(caller, request.model)
        return house.boarding.plans.make(
            known, caller, trip.ask, upstream, house.upstreams, logged=logged
        )

    async def _relay(self, trip: Trip) -> None:
        ask, house = trip.ask, self.house
        caller = self._admit(trip)
        body, trip.model = await house.calls.body_of(ask, house.body_limit, house.upload_limit)
        trip.keep(house.journal, body if isinstance(body, bytes) else None)
        trip.received = house.clock.monotonic()
        upstream = self._choose(trip, caller, ask.path)
        served = None if trip.model is None else upstream.real_name(trip.model)
        trip.head_for(upstream, served)
        trip.admitted = house.clock.monotonic()
        trip.cache = CacheState.BYPASS
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
        return upstream

    async def _models(self, trip: Trip) -> None:
        caller, house = self._admit(trip), self.house
        trip.keep(house.journal, None)
        house.metering.admit(trip, caller, None, reads=False)
        accepting = [upstream for upstream in house.upstreams if upstream.accepts(caller.kind)]
        merged: dict[str, dict[str, object]] = {}
        for listed in await asyncio.gather(*(upstream.models(caller) for upstream in accepting)):
            for model in listed:
                if may_use(caller.grant, str(model.get("id"))):
                    merged.setdefault(str(model.get("id")), model)
        trip.outcome = Outcome.OK
        send_whole(trip, 200, JSON, encode({"object": "list", "data": list(merged.values())}))

    # -- board -------------------------------------------------------------------------------------

    def _hit(self, trip: Trip, plan: Plan, mold: Mold, now: float) -> None:
        """A kept answer that is at hand, and small: it is out before anything else has its turn."""
        house, image, age = self.house, mold.image(), now - mold.created
        age = max(age, 0.0)  # the clock was set back
        trip.looked_up = house.clock.monotonic()
        trip.cache, trip.cache_age, trip.cache_left = CacheState.HIT, age, mold.ttl - age
        trip.cache_key = plan.shown
        trip.permit.hit(image.saved)
        send_hit(trip, image)
        house.boarding.note_hit(trip, plan)
        trip.mold = mold

    def _first_hit(self, trip: Trip, plan: Plan, replay: Replay, now: float) -> None:
        """The first of its kind in this minute."""
        house, image = self.house, replay.image
        trip.looked_up = trip.first_token = house.clock.monotonic()
        trip.note_hit(replay.recording, image.summary, now)
        trip.permit.hit(image.saved)
        send_hit(trip, image)
        house.boarding.note_hit(trip, plan)
        trip.outcome, trip.error = Outcome.OK, None
        plan.kinds[trip.stream] = Kind(self._exchange(trip))

    async def _board(
        self, trip: Trip, plan: Plan, body: bytes, caller: Caller, entry: Entry | None
    ) -> None:
        """A kept answer, an equal request's flight, or a call of its own."""
        ask, house = trip.ask, self.house
        trip.ticket = house.boarding.cache.ticket()  # what is purged from now on, is not kept
        while not await self._aboard(trip, plan, entry):
            call = Call("POST", CHAT, ask.query, ask.headers, body, None, caller, trip.model)
            paused = await house.metering.reserve(trip, plan.upstream, call, plan.request)
            if not (paused and house.boarding.answers(plan)):
                await self._launch(trip, plan.upstream, call, plan.request, plan)
                return
            trip.permit.cancel()  # meanwhile an equal request was answered, or is in the air
            entry = house.boarding.find(plan)

    async def _aboard(self, trip: Trip, plan: Plan, entry: Entry | None) -> bool:
        """Answer it without a call; `entry` was found. False: there is none. NotCached."""
        boarding = self.house.boarding
        if replay := await boarding.look_up(trip, plan, entry):
            trip.permit.hit(replay.image.saved)
            await self._replay(trip, replay)
            return True
        if plan.wish.only_if_cached:
            trip.cache, trip.cache_reason = CacheState.MISS, None  # no answer that was not kept
            raise NotCached("Nothing is kept for this request, and only-if-cached makes no call.")
        trip.permit.count()
        flight = boarding.find_flight(plan)
        return flight is not None and await self._join(trip, flight, plan)

    async def _join(self, trip: Trip, flight: Flight, plan: Plan) -> bool:
        """Wait for an equal request's answer, live where it comes in the form asked for. False: it
        has landed in the other form and cannot be turned into this one."""
        house, boarding, leash = self.house, self.house.boarding, Leash()
        trip.cache, began = CacheState.JOINED, house.clock.monotonic()
        live = flight.stream == plan.request.stream
        reader = self._reader(trip, flight, plan.request, leash=leash, live=live)
        house.take_off(leash, stream=trip.stream)
        try:
            with leash.holding(await runner()):
                await flight.wait()
        except BaseException:
            trip.observer = flight.observer
            reader.leave()
            raise
        finally:
            house.landed(leash, stream=trip.stream)
            trip.waited += house.clock.monotonic() - began
        boarding.note_join(trip, flight)
        if not live:
            reader.leave()
            entry = boarding.find(plan)
            if entry is None and not boarding.lacks(plan):
                entry = await boarding.fetch(plan)
            replay = await boarding.look_up(trip, plan, entry)
            if replay is None:
                trip.cache = CacheState.MISS
                return False
            trip.cache = CacheState.JOINED
            await self._replay(trip, replay)
        else:
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
        house, boarding, leash = self.house, self.house.boarding, Leash()
        alone = trip.permit.clamped is not None
        flight = boarding.open_flight(plan, upstream, leash, alone=alone)
        reader = self._reader(trip, flight, request)
        house.take_off(leash, stream=trip.stream)
        try:
            with leash.holding(await runner()):
                await self._fly(trip, flight, leash, upstream, call, request)
            if plan is not None:
                await boarding.keep(trip, plan, flight)
            # Of a stream, [DONE] alone is missing now; of JSON all of it may be.
            has_it = flight.form is Form.STREAM and not reader.behind and is_whole(trip.summary)
            if flight.head is not None and (has_it or not trip.client.gone):
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
            house.landed(leash, stream=trip.stream)
            boarding.close_flight(flight)
        flight.land()
        await self._deliver(trip, reader)

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
        status = trip.answered = reply.status
        fields = dict(reversed(reply.headers))  # of several the first
        kind = fields.get("content-type", "")
        watcher = trip.observer = observer(reply, kind, call.path, request)
        try:
            if status != 200:
                flight.stop_recording()
            elif request is not None and watcher.form is Form.OTHER:
                refuse_html(kind, upstream)
            trip.upstream_request_id = fields.get("x-request-id") or None
            await flight.fly(reply, watcher, clock, lambda: trip.first_content(clock.monotonic()))
            trip.last_byte = clock.monotonic()
        finally:
            reply.close()
            trip.summary, trip.waited = watcher.summary(), trip.waited + flight.waited
        if request is not None and status == 200:
            refuse_cut(trip.summary, upstream, watcher.form)

    # -- deliver -----------------------------------------------------------------------------------

    async def _replay(self, trip: Trip, replay: Replay) -> None:
        """A kept answer is whole: hand it over."""
        trip.first_token = self.house.clock.monotonic()
        await send_kept(trip, replay.image)
        trip.outcome, trip.error = Outcome.OK, None

    async def _deliver(self, trip: Trip, reader: Reader) -> None:
        """The answer is whole: hand over what is left, then its end."""
        await reader.finish()
        booked = trip.committed
        if booked is None or booked.outcome is not Outcome.CLIENT_DISCONNECT:
            trip.outcome, trip.error = verdict(trip.status, trip.summary)
