"""What a chat request may board: a kept answer, an equal request's flight, or one of its own.

Plans (`plans.py`) come first and decide everything that can be decided. The rules are the cache
room's (`cache/rules.py`), the forms `wire/`'s. Nothing here calls an upstream.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from weakref import ref

from msgspec.structs import replace

from gateway.abandoned import AbandonedFlights
from gateway.cache import rules
from gateway.cache.rules import Landing
from gateway.calls import Calls
from gateway.config import Cache as CacheSection
from gateway.entry import Entry, Recording
from gateway.exchange import NO_USAGE, Kind, Mold
from gateway.flight import Flight
from gateway.forms import REPLAYED, Forms, Image, Replay, beside, own_image, recorded
from gateway.leash import Leash
from gateway.plans import Plan, Plans
from gateway.ports import AT_ONCE, Cache, ClientGone, Clock, Prices, Upstream
from gateway.trip import Trip

log = logging.getLogger("gateway.boarding")


def take(trip: Trip, plan: Plan) -> None:
    """Its record says where it would go, and what it is to the cache."""
    trip.model, trip.stream = plan.request.model, plan.request.stream
    trip.cache, trip.cache_key, trip.cache_reason = plan.state, plan.shown, plan.bypass
    trip.head_for(plan.upstream, plan.served)


class Boarding:
    """Look-ups, flights in the air, and what is kept."""

    def __init__(self, section: CacheSection, cache: Cache, clock: Clock, calls: Calls) -> None:
        self.cache = cache
        self.abandoned = AbandonedFlights(section.abandoned)
        self._clock = clock
        self.plans = Plans(section, calls)
        self._forms = Forms(calls)
        self._flights: dict[tuple[bytes, bool], Flight] = {}
        self.reconfigure(section)

    def reconfigure(self, section: CacheSection) -> None:
        """Take a new `cache` section, from the next request on."""
        self.plans.reconfigure(section)
        self.abandoned.limits = section.abandoned
        self._forms.resize(beside(section.memory))

    # -- look up -----------------------------------------------------------------------------------

    def find(self, plan: Plan) -> Entry | None:
        """What is kept in memory."""
        return self.cache.find(plan.key) if plan.reads and plan.key is not None else None

    def at_hand(self, plan: Plan, entry: Entry, now: float) -> Replay | None:
        """It in the form asked for, at `now`, where that needs no building."""
        return self._forms.at_hand(entry, plan.request, now, plan.wish.max_age)

    def lacks(self, plan: Plan) -> bool:
        """What memory has not, is certainly not on the disk, or not asked for."""
        return not plan.reads or plan.key is None or self.cache.lacks(plan.key)

    def fetch(self, plan: Plan) -> Awaitable[Entry | None]:
        """What is kept on the disk, where it may be there; it looks in memory once more."""
        assert plan.key is not None
        return self.cache.fetch(plan.key)

    async def look_up(self, trip: Trip, plan: Plan, entry: Entry | None) -> Replay | None:
        """What was found in the form asked for, or None."""
        replay = None
        if entry is not None:
            now, max_age = self._clock.now(), plan.wish.max_age
            replay = await self._forms.replay(entry, plan.request, now, max_age)
        if trip.looked_up is None:  # who joined in vain looks once more
            trip.looked_up = self._clock.monotonic()
        if replay is not None:
            trip.note_hit(replay.recording, replay.image.summary, self._clock.now())
            self.note_hit(trip, plan)
        return replay

    # -- what hits have in common ------------------------------------------------------------------

    def mold_of(self, plan: Plan, entry: Entry | None, now: float, prices: Prices) -> Mold | None:
        """Of a hit with what was found, where it needs no building and is small; None where none
        of its kind came before in this minute."""
        if entry is None:
            return None
        request, mold = plan.request, plan.mold
        own = entry.stream if request.stream else entry.json
        if (
            mold is not None
            and now < mold.kind.until
            and mold.image() is not None
            and own is not None
            and own.request_id == mold.of
        ):
            return mold
        kind = plan.kinds.get(request.stream)
        if kind is None or now >= kind.until:
            return None
        return self._new_mold(plan, entry, own, kind, now, prices)

    def _new_mold(
        self,
        plan: Plan,
        entry: Entry,
        own: Recording | None,
        kind: Kind,
        now: float,
        prices: Prices,
    ) -> Mold | None:
        """`own`: the recording in the form asked for."""
        found, max_age = own, plan.wish.max_age
        image = None if own is None else own_image(own, plan.request, now, max_age)
        if image is None and (replay := self.at_hand(plan, entry, now)):
            found, image = replay.recording, replay.image
        if found is None or image is None or image.size > AT_ONCE:
            return None
        mold = _mold(plan, found, image, kind, prices)
        if found is own and max_age is None:
            plan.mold = mold  # the next hits are like it, of any age
        return mold

    def note_hit(self, trip: Trip, plan: Plan) -> None:
        """It is answered from this entry."""
        if plan.key is not None:
            self.cache.remember(trip.ask.id, plan.key)

    def note_join(self, trip: Trip, flight: Flight) -> None:
        """A flight that was joined has landed: what that saved."""
        if flight.observer is not None:
            trip.observer = flight.observer
            trip.summary = flight.observer.summary()
            trip.saved = trip.summary.usage or NO_USAGE
            if trip.cache_key is not None and flight.place is not None:
                self.cache.remember(trip.ask.id, flight.place[0])

    # -- flights in the air ------------------------------------------------------------------------

    def find_flight(self, plan: Plan) -> Flight | None:
        """A flight that may be boarded: of the same form, else a stream for who wants JSON. Who
        wants a stream never boards JSON: it would sit silent."""
        if not plan.reads or plan.key is None:
            return None
        flight = self._flights.get((plan.key, plan.request.stream))
        if flight is None and not plan.request.stream:
            flight = self._flights.get((plan.key, True))
        if flight is not None:
            self.abandoned.release(flight)
        return flight

    def answers(self, plan: Plan) -> bool:
        """An answer is at hand, or in the air."""
        if not plan.reads or plan.key is None:
            return False
        forms = {plan.request.stream, True}
        aloft = any((plan.key, form) in self._flights for form in forms)
        return aloft or self.cache.find(plan.key) is not None

    def open_flight(
        self, plan: Plan | None, upstream: Upstream, leash: Leash, *, alone: bool
    ) -> Flight:
        """A flight of one's own; equal requests may board it for as long as it may be kept, unless
        it flies `alone`: with a lower cap than they ask for."""
        if plan is None or plan.key is None or not plan.keeps:
            flight = Flight(leash)
            flight.on_empty = _break_off
            return flight
        place = None if alone else (plan.key, plan.request.stream)
        finishes = upstream.finish_on_disconnect
        flight = Flight(leash, plan.policy.max_entry, place=place, finishes=finishes)
        flight.on_unkept, flight.on_empty = self._let_go, self._left_alone
        if place is not None:
            self._flights.setdefault(place, flight)
        return flight

    def _let_go(self, flight: Flight) -> None:
        """It will not be kept."""
        self.close_flight(flight)
        if not flight.aboard:
            _break_off(flight)

    def _left_alone(self, flight: Flight) -> None:
        """All have left. It goes on where it may be kept, and there is room."""
        if not (flight.cap and flight.finishes and self.abandoned.adopt(flight)):
            self._let_go(flight)

    def close_flight(self, flight: Flight) -> None:
        """Nobody new may board: it has landed, or will not be kept."""
        if flight.on_growth is not None:
            self.abandoned.release(flight)
        if flight.place is not None and self._flights.get(flight.place) is flight:
            del self._flights[flight.place]

    @property
    def in_the_air(self) -> int:
        """Flights that may be boarded."""
        return len(self._flights)

    # -- keep --------------------------------------------------------------------------------------

    async def keep(self, trip: Trip, plan: Plan, flight: Flight) -> None:
        """Keep an answer that has come whole, before its end is released, if it may be kept; or
        say why not. A fault here costs nobody the answer."""
        if plan.key is None:
            return
        try:
            recording = self._recording(trip, plan, flight)
            if recording is not None:
                new = _entry(plan, recording)
                old = self.cache.find(plan.key)
                if old is not None or not plan.wish.reads:
                    new = await self._beside(plan, plan.key, old, new)
                self.cache.store(plan.key, new, trip.ticket)
        except Exception:
            log.exception("request %s: its answer could not be kept", trip.ask.id)

    def _recording(self, trip: Trip, plan: Plan, flight: Flight) -> Recording | None:
        """What has come; None where it may not be kept."""
        head, summary, caller, wish = flight.head, trip.summary, trip.caller, plan.wish
        if head is None or summary is None or caller is None:
            return None
        policy, request = plan.policy, plan.request
        body, span = recorded(flight)
        fields = dict(reversed(head.headers))  # of several the first
        landing = Landing(
            head.status,
            fields.get("content-type", ""),
            request.stream,
            summary,
            len(body) if flight.cap else policy.max_entry + 1,
            request.n,
            "content-encoding" in fields,
            trip.permit.clamped is not None,
        )
        trip.cache_reason = rules.may_keep(landing, wish, policy)
        if trip.cache_reason is not None:
            return None
        return Recording(
            trip.ask.id,
            self._clock.now(),
            policy.ttl_for(wish),
            caller.id,
            caller.name,
            tuple([pair for pair in head.headers if pair[0] in REPLAYED]),
            body,
            summary.usage or NO_USAGE,
            summary.finish_reasons,
            span,
            self._clock.monotonic() - trip.ask.started,
        )

    async def _beside(self, plan: Plan, key: bytes, old: Entry | None, new: Entry) -> Entry:
        """The later landing wins, for its own form; the other one stays where it is needed."""
        if old is None:  # nobody has looked on the disk for this request
            old = await self.cache.fetch(key)
        if old is None:
            return new
        streamed = plan.request.stream
        converts = (old.json if streamed else old.stream) is not None and (
            await self._forms.converts(new.recordings[0], from_stream=streamed)
        )
        return rules.landed(old, new, converts=converts)


def _mold(plan: Plan, found: Recording, image: Image, kind: Kind, prices: Prices) -> Mold:
    saved, summary, by = found.usage, image.summary, plan.upstream
    served, tier = plan.served or "", summary.service_tier
    like = replace(
        kind.like,
        cache_key=plan.shown,
        saved=saved,
        saved_cost=prices.cost(by.name, by.base_url, served, saved, tier),
        summary=summary,
        bytes_in=len(plan.request.body),
        bytes_out=image.size,
    )
    return Mold(kind, like, found.request_id, ref(image), found.created, found.ttl, found.seconds)


def _entry(plan: Plan, recording: Recording) -> Entry:
    stream, json = (recording, None) if plan.request.stream else (None, recording)
    return Entry(plan.scope, plan.request.model, plan.upstream.name, stream, json)


def _break_off(flight: Flight) -> None:
    """Nobody waits for it."""
    flight.leash.pull(ClientGone())
