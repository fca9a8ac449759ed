"""A kept answer in the form asked for: replayed byte for byte, or built where that is exact.

Nothing here decides what is kept; conversions of large answers leave the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gateway.calls import Calls
from gateway.entry import Entry, Recording
from gateway.exchange import UsageSource
from gateway.flight import Flight, Head
from gateway.wire.assemble import assemble, disassemble
from gateway.wire.chat import ChatRequest
from gateway.wire.observe import Form, Piece, UsageEvent

BUILT_BYTES = 32 * 1024 * 1024  # of answers built in the other form, kept to be used again
SLICE = 256 * 1024  # a kept answer goes out in such pieces: a slow client would buffer it all


@dataclass(frozen=True, slots=True)
class Replay:
    """A kept answer, as a flight that has landed."""

    recording: Recording
    flight: Flight


class Forms:
    """Makes replays."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._built: dict[tuple[str, Form, bool], list[Piece]] = {}
        self._built_bytes = 0

    async def replay(
        self, entry: Entry, request: ChatRequest, now: float, max_age: float | None
    ) -> Replay | None:
        """What of an entry answers a request; None where nothing of it does, at `now`."""
        same, other = (entry.stream, entry.json) if request.stream else (entry.json, entry.stream)
        if same is not None and same.fresh(now, max_age):
            lacks_usage = same.usage.source is UsageSource.NONE
            if not (request.stream and request.asked_usage and lacks_usage):
                return Replay(same, Flight.of(_head(same, request.stream), _pieces(same), []))
        if other is None or not other.fresh(now, max_age):
            return None
        pieces = await self._build(other, request)
        if pieces is None:
            return None
        kind = "text/event-stream" if request.stream else "application/json"
        headers = [("content-type", kind)]
        headers += [pair for pair in other.headers if pair[0] != "content-type"]
        length = None if request.stream else sum(map(len, pieces))
        return Replay(other, Flight.of(Head(200, headers, length), pieces, []))

    async def _build(self, recording: Recording, request: ChatRequest) -> list[Piece] | None:
        """The other form of a recording, where that is exact (design.md, "Across forms")."""
        form = Form.STREAM if request.stream else Form.JSON
        place = (recording.request_id, form, request.stream and request.asked_usage)
        pieces = self._built.pop(place, None)
        if pieces is None:
            work = partial(_converted, form=form, include_usage=place[2])
            pieces = await self._calls.off_loop(work, recording.body)
            if pieces is None:
                return None
            self._built_bytes += sum(map(len, pieces))
            while self._built_bytes > BUILT_BYTES and self._built:
                self._built_bytes -= sum(map(len, self._built.pop(next(iter(self._built)))))
        self._built[place] = pieces
        return pieces

    async def converts(self, recording: Recording, *, from_stream: bool) -> bool:
        """Can the other form be built from this one."""
        form = Form.JSON if from_stream else Form.STREAM
        work = partial(_converted, form=form, include_usage=True)
        return await self._calls.off_loop(work, recording.body) is not None


def _head(recording: Recording, stream: bool) -> Head:
    return Head(200, recording.headers, None if stream else len(recording.body))


def _pieces(recording: Recording) -> list[Piece]:
    """A recording as it is handed out: the usage event apart, large bodies in slices."""
    body, span = recording.body, recording.usage_span
    if span is None:
        return _sliced(body)
    start, end = span
    return [*_sliced(body[:start]), UsageEvent(body[start:end]), *_sliced(body[end:])]


def _sliced(body: bytes) -> list[Piece]:
    if len(body) <= SLICE:
        return [body] if body else []
    return [body[at : at + SLICE] for at in range(0, len(body), SLICE)]


def recorded(flight: Flight) -> tuple[bytes, tuple[int, int] | None]:
    """All bytes of a flight, and where in them the usage event is."""
    pieces, ends = flight.recorded()
    at, span = 0, None
    for piece in pieces:
        if type(piece) is UsageEvent:
            span = (at, at + len(piece))
        at += len(piece)
    return b"".join([*pieces, *ends]), span


def _converted(body: bytes, *, form: Form, include_usage: bool) -> list[Piece] | None:
    if form is Form.STREAM:
        events = disassemble(body, include_usage)
        return None if events is None else _sliced(b"".join(events))
    completion = assemble(body)
    return None if completion is None else _sliced(completion)
