"""What the cache keeps, and how it is asked and told to forget. Pure and frozen: nothing here
awaits, reads a clock or opens a file.

Rule: an entry is never changed. A newer answer makes a new entry in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, NewType

from msgspec import Struct
from msgspec.structs import replace

from gateway.exchange import NO_USAGE, Usage

Ticket = NewType("Ticket", int)
"""Proof of when a flight took off: what took off before a purge is not kept when it lands."""


class Imaged:
    """What has an image: made of it when it is first asked for, and gone with it. No part of it:
    not written to a disk, not compared. `bare`: one without the usage event."""

    __slots__ = ("bare", "image")
    bare: Any
    image: Any


# Hundreds of thousands of these stand in memory, and lead to nothing that leads back to them: the
# collector of cycles need not walk over them (`gc=False`).


class Recording(Imaged, Struct, frozen=True, gc=False):
    """One answer in one form, byte for byte as one upstream call brought it.

    `created` is the wall time of its landing and `ttl` how long it may be served, both in seconds.
    `key_id` and `key_name` are the caller's whose call it was. `headers` are ready to be replayed.
    `body` is the JSON answer, or all events of the stream with the usage event and `[DONE]`;
    `usage_span` is the byte range in it of the event that has usage and no choices. `seconds` is
    what the request that made the call had waited when it had landed.
    """

    request_id: str  # ULID of the request that made the call
    created: float
    ttl: float
    key_id: str
    key_name: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    usage: Usage = NO_USAGE
    finish_reasons: tuple[str, ...] = ()
    usage_span: tuple[int, int] | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        """Not what was answered."""
        return f"Recording({self.request_id!r}, created={self.created!r}, key_id={self.key_id!r})"

    def age(self, now: float) -> float:
        """Seconds since it landed; 0 where the clock was set back."""
        return max(0.0, now - self.created)

    def left(self, now: float) -> float:
        """Seconds that it may still be served."""
        return max(0.0, self.ttl - self.age(now))

    def fresh(self, now: float, max_age: float | None = None) -> bool:
        """May be served: younger than its ttl, and no older than `max_age` (RFC 9111 section
        5.2.1.1). One from further ahead than its own life was stamped by a wrong clock."""
        age, ttl = now - self.created, self.ttl
        return -ttl <= age < ttl and (max_age is None or age <= max_age)


class Label(NamedTuple):
    """What a purge may go by, for each recording of an entry."""

    key_id: str
    key_name: str
    model: str
    request_id: str


class Entry(Struct, frozen=True, gc=False):
    """What equal requests are answered with: one call's recording, or two, one for each form.

    `model` is the name that was asked for.
    """

    scope: str
    model: str
    upstream: str
    stream: Recording | None = None
    json: Recording | None = None

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """Those there are."""
        if self.stream is None:
            return () if self.json is None else (self.json,)
        return (self.stream,) if self.json is None else (self.stream, self.json)

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of each of its recordings."""
        return tuple(
            [
                Label(found.key_id, found.key_name, self.model, found.request_id)
                for found in self.recordings
            ]
        )

    @property
    def created(self) -> float:
        """Wall seconds of its latest landing."""
        return max([found.created for found in self.recordings], default=0.0)

    @property
    def stale_from(self) -> float:
        """Wall seconds from which not all of it is fresh any more."""
        return min([found.created + found.ttl for found in self.recordings], default=0.0)

    @property
    def expires(self) -> float:
        """Wall seconds from which nothing of it is fresh."""
        return max([found.created + found.ttl for found in self.recordings], default=0.0)

    @property
    def size(self) -> int:
        """Bytes of the bodies."""
        return sum([len(found.body) for found in self.recordings])

    def at(self, now: float) -> Entry | None:
        """What of it may be served at `now`."""
        stream, json = self.stream, self.json
        streams = stream is not None and stream.fresh(now)
        jsons = json is not None and json.fresh(now)
        if streams and (jsons or json is None):
            return self
        if jsons:
            return self if stream is None else replace(self, stream=None)
        return replace(self, json=None) if streams else None


# Bytes of Python's own for an entry, each recording in it with its image, and a second one (of a
# stream: one with its usage, one without), in the manner of sys.getsizeof; tests hold it to what
# tracemalloc sees.
_OF_AN_ENTRY, _OF_A_RECORDING, _OF_A_HEADER, _OF_DETAILS = 700, 2300, 200, 1600
_OF_AN_IMAGE = 1400


def weight(entry: Entry) -> int:
    """Bytes that an entry takes in memory, by a generous estimate."""
    return measured(entry)[0]


def measured(entry: Entry) -> tuple[int, int, float, float]:
    """An entry's weight, its size, when it landed and what it is stale from, in one go."""
    stream, json = entry.stream, entry.json
    one = stream or json
    if one is None:
        return _OF_AN_ENTRY, 0, 0.0, inf
    more = _OF_AN_ENTRY + _weight(one)
    size, landed, stale = len(one.body), one.created, one.created + one.ttl
    if stream is not None and json is not None:
        more, size = more + _weight(json), size + len(json.body)
        landed, stale = max(landed, json.created), min(stale, json.created + json.ttl)
    return more, size, landed, stale


def _weight(found: Recording) -> int:
    total = len(found.body) + _OF_A_RECORDING
    if found.usage.details:
        total += _OF_DETAILS
    if found.usage_span is not None:
        total += _OF_AN_IMAGE
    for name, value in found.headers:
        total += _OF_A_HEADER + len(name) + len(value)
    return total


# Forgetting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selector:
    """Which entries a purge takes: those that match all that is given; nothing given, none.

    `key` is a caller's name or id, `model` a name or a pattern (`*` stands for anything),
    `request` the id of a request that stored the entry or was answered from it. `answered` is the
    cache's to fill in: the entry that `request` was answered from.
    """

    digest: bytes | None = None
    key: str | None = None
    model: str | None = None
    request: str | None = None
    everything: bool = False
    answered: bytes | None = None

    def takes(self, digest: bytes, labels: Iterable[Label]) -> bool:
        """Does a purge take the entry with this digest and these labels."""
        if self.everything:
            return True
        given = (self.digest, self.key, self.model, self.request)
        if all(part is None for part in given):
            return False
        if self.digest is not None and self.digest != digest:
            return False
        return any(self._takes(digest, label) for label in labels)

    def _takes(self, digest: bytes, label: Label) -> bool:
        if self.key is not None and self.key not in (label.key_id, label.key_name):
            return False
        if self.model is not None and not is_like(label.model, self.model):
            return False
        return self.request is None or self.request == label.request_id or self.answered == digest


def is_like(name: str, pattern: str) -> bool:
    """Does `name` match `pattern`, in which `*` stands for any characters, also none. Linear."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last):
        return False
    place, end = len(first), len(name) - len(last)
    for part in middle:
        place = name.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return place <= end


# Figures -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """`evictions` by reason: expired, size, purged. Sizes in bytes; counters since the start."""

    entries: int = 0
    size: int = 0
    limit: int = 0
    hits: int = 0
    misses: int = 0
    evictions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """`state`: off, opening, open, unavailable, closed. `size`: bytes that the files take.

    `oldest`: wall seconds at which the oldest entry was written. `errors`, `dropped`, `evictions`
    by reason; a dropped entry is one that did not reach the disk.
    """

    state: str = "off"
    entries: int = 0
    size: int = 0
    limit: int = 0
    oldest: float | None = None
    hits: int = 0
    misses: int = 0
    written: int = 0
    queued: int = 0
    queued_bytes: int = 0
    rebuilt: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    evictions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`refused`: answers that came too late for a purge, were stale or too large at `store`."""

    enabled: bool = False
    stored: int = 0
    refused: int = 0
    remembered: int = 0
    memory: MemoryFigures = MemoryFigures()
    disk: DiskFigures = DiskFigures()
