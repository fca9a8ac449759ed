"""What the client gets besides an upstream's bytes: the gateway's headers, and its errors.

Rule: every answer has the request's id; an error comes as an answer of its own while no head is
out, inside the stream after that.
"""

from __future__ import annotations

from typing import Protocol

from msgspec.json import encode

from gateway.calls import header
from gateway.errors import GatewayError, NotCached
from gateway.exchange import CacheState, HeaderList
from gateway.flight import Head
from gateway.trip import Trip
from gateway.wire.observe import Form

LIMITS = "x-ratelimit-"


class Render(Protocol):
    """Turns an error into what the client reads: status, headers, body."""

    def __call__(self, error: GatewayError) -> tuple[int, HeaderList, bytes]: ...


def head_of(trip: Trip, head: Head) -> HeaderList:
    """The headers of an answer: the upstream's, then the gateway's."""
    trip.status = head.status
    own = own_headers(trip)
    taken = {name for name, _ in own} - {"x-request-id"}
    theirs = [*head.headers]
    if any(name.startswith(LIMITS) for name in taken):
        theirs = [(_upstreams(name), value) for name, value in theirs]
    kept = [(name, value) for name, value in theirs if name not in taken]
    if any(name == "x-request-id" for name, _ in kept):
        own = [pair for pair in own if pair[0] != "x-request-id"]
    if header(kept, "content-type").startswith("text/event-stream"):
        own.append(("x-accel-buffering", "no"))
    return kept + own


def _upstreams(name: str) -> str:
    """An upstream's limits beside our own (F8)."""
    return "x-upstream-" + name.removeprefix("x-") if name.startswith(LIMITS) else name


def own_headers(trip: Trip) -> HeaderList:
    """The gateway's own headers (contract, "Response headers")."""
    own = [
        ("cache-control", "private, no-store, no-transform"),
        ("x-gateway-request-id", trip.ask.id),
        ("x-request-id", trip.ask.id),
        *trip.ask.cors,
        *trip.permit.headers(),
        *trip.cache_headers,
    ]
    if trip.cache is not CacheState.NONE:
        own.append(("x-gateway-cache", trip.cache.value))
    return own


def send_whole(trip: Trip, status: int, headers: HeaderList, body: bytes) -> None:
    """An answer that the gateway makes itself."""
    trip.status = 499 if trip.client.gone else status
    trip.client.start(status, headers + own_headers(trip), len(body))
    trip.client.write(body)
    trip.client.finish()


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
