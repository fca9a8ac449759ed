"""What the client gets besides an upstream's bytes: the gateway's headers, and its errors.

Rule: every answer has the request's id; an error comes as an answer of its own while no head is
out, inside the stream after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec.json import encode

from gateway.errors import GatewayError, NotCached
from gateway.exchange import CacheState, HeaderList
from gateway.flight import Head
from gateway.forms import OURS, Image
from gateway.ports import AT_ONCE, Client, ClientGone
from gateway.trip import Trip
from gateway.wire.fields import lines_of
from gateway.wire.observe import Form

LIMITS = "x-ratelimit-"
CLAMPED = "x-gateway-clamped"
OUR_LINES = lines_of(OURS)
# What an upstream says under these names is not passed on.
TAKEN = frozenset({*dict(OURS), "x-gateway-request-id", "x-gateway-cache"})


class Render(Protocol):
    """Turns an error into what the client reads: status, headers, body."""

    def __call__(self, error: GatewayError) -> tuple[int, HeaderList, bytes]: ...


def head_of(trip: Trip, head: Head) -> tuple[HeaderList, str]:
    """The headers of an answer: the upstream's, and as lines the gateway's."""
    ask, permit, theirs = trip.ask, trip.permit, head.headers
    trip.status, limits, names = head.status, permit.lines(), dict(theirs)
    if LIMITS in limits and LIMITS in " ".join(names):
        theirs = [(_upstreams(name), value) for name, value in theirs]
    if ask.cors or permit.clamped is not None or not TAKEN.isdisjoint(names):
        clamped = () if permit.clamped is None else (CLAMPED,)
        taken = TAKEN.union(dict(ask.cors), clamped)
        theirs = [pair for pair in theirs if pair[0] not in taken] + ask.cors
    own = f"{OUR_LINES}x-gateway-request-id: {ask.id}\r\n{limits}"
    if trip.cache is not CacheState.NONE:
        own += f"x-gateway-cache: {trip.cache._value_}\r\n"
    if "x-request-id" not in names:
        own += f"x-request-id: {ask.id}\r\n"
    if names.get("content-type", "").startswith("text/event-stream"):
        own += "x-accel-buffering: no\r\n"
    return theirs, own


def _upstreams(name: str) -> str:
    """An upstream's limits beside our own (F8)."""
    return "x-upstream-" + name.removeprefix("x-") if name.startswith(LIMITS) else name


def own_headers(trip: Trip) -> HeaderList:
    """The gateway's own headers (contract, "Response headers")."""
    own = [
        *OURS,
        ("x-gateway-request-id", trip.ask.id),
        ("x-request-id", trip.ask.id),
        *trip.ask.cors,
        *trip.permit.headers(),
    ]
    if trip.cache is not CacheState.NONE:
        own.append(("x-gateway-cache", trip.cache.value))
    return own


def send_hit(trip: Trip, image: Image) -> None:
    """A kept answer of up to `AT_ONCE` bytes. ClientGone."""
    if trip.client.gone:
        raise ClientGone
    trip.status = 200
    trip.client.whole(200, trip.ask.cors, image.pieces, image.length, hit_lines(trip, image))


async def send_kept(trip: Trip, image: Image) -> None:
    """A kept answer, as fast as the client reads. ClientGone."""
    client = trip.client
    if client.gone:
        raise ClientGone
    if trip.cache is CacheState.HIT:
        trip.status, lines, headers = 200, hit_lines(trip, image), trip.ask.cors
    else:  # one that was joined in the other form
        headers, lines = head_of(trip, Head(200, image.headers, image.length))
    if image.size <= AT_ONCE:
        client.whole(200, headers, image.pieces, image.length, lines)
    else:
        client.start(200, headers, image.length, lines)
        await _pour(client, image.pieces)
        client.finish()


def hit_lines(trip: Trip, image: Image) -> str:
    """What of a hit's head its recording says, and what is of this one alone."""
    own, age, left = trip.ask.id, int(trip.cache_age or 0.0), int(trip.cache_left)
    return (
        f"{image.lines}x-gateway-request-id: {own}\r\nx-request-id: {own}\r\nage: {age}\r\n"
        f"x-gateway-cache-ttl: {left}\r\nx-gateway-cache-key: {trip.cache_key}\r\n"
        f"{trip.permit.lines()}"
    )


async def _pour(client: Client, pieces: Sequence[bytes | memoryview]) -> None:
    """Write while there is room."""
    loop = asyncio.get_running_loop()
    room: asyncio.Future[None] = loop.create_future()
    room.set_result(None)

    def look() -> None:
        if not room.done():
            room.set_result(None)

    client.watch(look, look)
    for piece in pieces:
        await room
        if client.gone:
            raise ClientGone
        if not client.write(bytes(piece)):
            room = loop.create_future()


def send_whole(trip: Trip, status: int, headers: HeaderList, body: bytes) -> None:
    """An answer that the gateway makes itself."""
    trip.status = 499 if trip.client.gone else status
    trip.client.whole(status, headers + own_headers(trip), (body,), len(body))


def note_error(trip: Trip, error: GatewayError) -> None:
    """What the client will be told, where no head is out: its row is written before that."""
    if not trip.client.started:
        trip.status = 499 if trip.client.gone else error.status
        if not isinstance(error, NotCached):
            trip.cache = CacheState.NONE


def send_error(trip: Trip, error: GatewayError, render: Render) -> None:
    """Tell the client what went wrong; where no form is left to tell it, cut the answer (B12)."""
    client = trip.client
    if not client.started:
        send_whole(trip, *render(error))
    elif trip.observer is not None and trip.observer.form is Form.STREAM:
        # An unfinished block that was handed out is ended first.
        opening = b"\n\n" if trip.observer.torn else b""
        client.write(opening + b"data: " + encode(error.body()) + b"\n\n")
        client.finish()
    else:
        client.abort()
