"""A kept answer in the form asked for: replayed byte for byte, or built where that is exact.

Nothing here decides what is kept; conversions of large answers leave the loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import force_setattr

from gateway.calls import Calls
from gateway.entry import Entry, Recording
from gateway.exchange import CacheState, HeaderList, Summary, UsageSource
from gateway.flight import Flight
from gateway.wire.assemble import assemble, disassemble
from gateway.wire.chat import ChatRequest
from gateway.wire.fields import lines_of
from gateway.wire.observe import Form, UsageEvent

Bytes = TypeVar("Bytes", bytes, memoryview)
_OF_A_BUILT = 2000  # bytes of Python's own; a test holds it to what tracemalloc sees
SLICE = 256 * 1024  # a kept answer goes out in such pieces: a slow client would buffer it all
# Of an answer's headers, those that still hold when it is replayed (requirement D8).
REPLAYED = frozenset({"content-type", "content-language", "openai-model", "openai-version"})
OURS: HeaderList = [("cache-control", "private, no-store, no-transform")]  # of each answer

HEADS = 64  # of kept answers, that are remembered: few differ
Place = tuple[str, Form, bool]  # the recording's request, the form, with usage


def beside(memory: int) -> int:
    """Bytes that what saves work may take, beside `memory` bytes of answers: the bodies that came
    before, with the molds of their hits; and likewise the answers that were built."""
    return max(1024 * 1024, memory // 8)


class Image(Struct, frozen=True, weakref=True, eq=False):
    """A recording as it is sent, in one form. `lines`: the headers that all hits of it have.
    `length` None: it is a stream. `size` in bytes."""

    headers: HeaderList
    lines: str
    pieces: Sequence[bytes | memoryview]
    length: int | None
    size: int
    summary: Summary
    saved: int  # tokens that it was made of


class Replay(Struct, frozen=True, gc=False):
    """A kept answer, and how it is sent."""

    recording: Recording
    image: Image


class Forms:
    """Makes replays. What was built is kept to be used again, up to a size."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._built: OrderedDict[Place, Image] = OrderedDict()
        self._built_bytes = self._limit = 0

    def resize(self, limit: int) -> None:
        """Keep up to `limit` bytes of what was built."""
        self._limit = limit
        self._keep_to_limit()

    def at_hand(
        self, entry: Entry, request: ChatRequest, now: float, max_age: float | None
    ) -> Replay | None:
        """What of an entry answers a request at `now`, and needs no building."""
        same, other = (entry.stream, entry.json) if request.stream else (entry.json, entry.stream)
        if same is not None and (image := own_image(same, request, now, max_age)):
            return Replay(same, image)
        if other is None or not other.fresh(now, max_age):
            return None
        place = _place(other, request)
        found = self._built.get(place)
        if found is None:
            return None
        self._built.move_to_end(place)
        return Replay(other, found)

    async def replay(
        self, entry: Entry, request: ChatRequest, now: float, max_age: float | None
    ) -> Replay | None:
        """What of an entry answers a request; None where nothing of it does, at `now`."""
        found = self.at_hand(entry, request, now, max_age)
        other = entry.json if request.stream else entry.stream
        if found is not None or other is None or not other.fresh(now, max_age):
            return found
        image = await self._build(other, request)
        return None if image is None else Replay(other, image)

    async def _build(self, recording: Recording, request: ChatRequest) -> Image | None:
        """The other form of a recording, where that is exact (design.md, "Across forms")."""
        place = _place(recording, request)
        work = partial(_converted, form=place[1], include_usage=place[2])
        pieces = await self._calls.off_loop(work, recording.body)
        if pieces is None:
            return None
        kind = "text/event-stream" if request.stream else "application/json"
        image = _image(recording, pieces, kind, stream=request.stream)
        if place not in self._built:  # others may have built it meanwhile
            self._built[place] = image
            self._built_bytes += _OF_A_BUILT + image.size
            self._keep_to_limit()
        return image

    def _keep_to_limit(self) -> None:
        """The one not used for longest goes first."""
        while self._built_bytes > self._limit:
            self._built_bytes -= _OF_A_BUILT + self._built.popitem(last=False)[1].size

    async def converts(self, recording: Recording, *, from_stream: bool) -> bool:
        """Can the other form be built from this one."""
        form = Form.JSON if from_stream else Form.STREAM
        work = partial(_converted, form=form, include_usage=True)
        return await self._calls.off_loop(work, recording.body) is not None


def _place(recording: Recording, request: ChatRequest) -> Place:
    form = Form.STREAM if request.stream else Form.JSON
    return recording.request_id, form, request.stream and request.asked_usage


def own_image(
    recording: Recording, request: ChatRequest, now: float, max_age: float | None
) -> Image | None:
    """A recording of the form asked for as it is sent, where it answers a request at `now`: byte
    for byte, but for the usage event that the client has not asked for. It is made once."""
    if not recording.fresh(now, max_age):
        return None
    if request.stream and request.asked_usage and recording.usage.source is UsageSource.NONE:
        return None
    span = recording.usage_span
    place = "image" if span is None or request.asked_usage else "bare"
    image: Image | None = getattr(recording, place, None)
    if image is None:
        pieces: list[bytes | memoryview]
        if place == "image" and len(recording.body) <= SLICE:
            pieces = [recording.body]
        else:
            body, (at, to) = memoryview(recording.body), span or (0, 0)
            parts = [body] if place == "image" else [body[:at], body[to:]]
            pieces = [piece for part in parts for piece in _sliced(part)]
        image = _image(recording, pieces, None, stream=request.stream)
        force_setattr(recording, place, image)  # no part of it: see `Imaged`
    return image


def _image(
    recording: Recording,
    pieces: Sequence[bytes | memoryview],
    kind: str | None,
    *,
    stream: bool,
) -> Image:
    """`kind`: its type, where that is not the recording's."""
    usage, size = recording.usage, sum(map(len, pieces))
    saved = usage.prompt_tokens + usage.completion_tokens
    headers, lines = _head_of(recording.headers, kind)
    return Image(
        headers,
        f"{lines}x-gateway-saved-tokens: {saved}\r\n",
        pieces,
        None if stream else size,
        size,
        Summary(usage, recording.finish_reasons, complete=True),
        saved,
    )


@lru_cache(HEADS)
def _head_of(kept: tuple[tuple[str, str], ...], kind: str | None) -> tuple[HeaderList, str]:
    """Of what was kept, the headers that still hold; and the lines of all hits with the same."""
    if kind is None:
        kind = next((value for name, value in kept if name == "content-type"), "")
    headers = [("content-type", kind)] if kind else []
    headers += [pair for pair in kept if pair[0] in REPLAYED and pair[0] != "content-type"]
    marks = [*OURS, ("x-gateway-cache", CacheState.HIT.value)]
    if kind.startswith("text/event-stream"):
        marks.append(("x-accel-buffering", "no"))
    return headers, lines_of(headers + marks)


def _sliced(body: Bytes) -> list[Bytes]:
    if len(body) <= SLICE:
        return [body] if len(body) else []
    return [body[at : at + SLICE] for at in range(0, len(body), SLICE)]


def recorded(flight: Flight) -> tuple[bytes, tuple[int, int] | None]:
    """All bytes of a flight, and where in them the usage event is."""
    pieces, ends = flight.recorded()
    if flight.form is not Form.STREAM:
        return b"".join(pieces + ends), None
    span, kinds = None, list(map(type, pieces))
    if UsageEvent in kinds:
        last = len(kinds) - 1 - kinds[::-1].index(UsageEvent)
        at = sum(map(len, pieces[:last]))
        span = (at, at + len(pieces[last]))
    return b"".join(pieces + ends), span


def _converted(body: bytes, *, form: Form, include_usage: bool) -> list[bytes] | None:
    if form is Form.STREAM:
        events = disassemble(body, include_usage)
        return None if events is None else _sliced(b"".join(events))
    completion = assemble(body)
    if completion is None:
        return None
    return _sliced(bytes(memoryview(completion)))  # msgspec's own may hold half as much again
