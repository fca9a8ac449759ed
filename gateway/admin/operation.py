"""The form of one operation: where it stands, what it takes, what it does. No I/O and no HTTP here.

Rule: what is not known is refused, a misspelt filter too: one that is left out takes too much.
"""

from __future__ import annotations

import string
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from gateway.errors import InvalidRequest
from gateway.journal.reader import JournalReader, no_journal
from gateway.keys.records import Limits
from gateway.keys.register import Register, nothing_kept
from gateway.ports import Cache, Clock
from gateway.usage.reader import Reader, no_books

Standing = Callable[[str, str, str, Limits], Awaitable[list[dict[str, Any]]]]
"""Of `key` or `team`, an id, a name and its own limits: one entry for each that holds."""


async def no_limits(kind: str, id: str, name: str, limits: Limits) -> list[dict[str, Any]]:
    """None."""
    return []


@dataclass(frozen=True, slots=True)
class Rooms:
    """What operations work on. `skipped`: answers that were not kept, by reason, since the
    start. `standing`: what a key or a team may still use."""

    cache: Cache
    clock: Clock
    skipped: Callable[[], Mapping[str, float]] = dict
    keys: Register = field(default_factory=nothing_kept)
    books: Reader = field(default_factory=no_books)
    journal: JournalReader = field(default_factory=no_journal)
    standing: Standing = no_limits


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of any length, a JSON object on each line, made page by page."""

    pages: AsyncIterator[Sequence[Mapping[str, Any]]]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operation takes: names in its path, and those in its query (GET) or JSON body."""


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Operation(Generic[A]):
    """One thing to ask. `path` has its variables in braces; `does` gives what `encode` can write
    or a Stream, or raises GatewayError; `refusals` are statuses beside the common ones."""

    method: str
    path: str
    summary: str
    takes: type[A]
    does: Callable[[Rooms, A], Awaitable[object]]
    answer: str
    refusals: Mapping[int, str] = field(default_factory=dict)
    local: bool = False  # for who may use the machine's files: on the control socket alone

    @property
    def in_path(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.path) if name)

    @property
    def has_body(self) -> bool:
        """Arguments that are not in the path stand in a JSON body, not in the query."""
        return self.method != "GET"

    async def run(self, rooms: Rooms, given: Mapping[str, Any]) -> object:
        """Do it. InvalidRequest: `given` is not what it takes. In a query and in a path all is
        text, so there "1" and "true" are read as what they stand for."""
        try:
            arguments = msgspec.convert(dict(given), self.takes, strict=self.has_body)
        except msgspec.ValidationError as error:
            known = ", ".join(one.name for one in msgspec.structs.fields(self.takes))
            raise InvalidRequest(f"{error}. It takes: {known or 'nothing'}.") from None
        return await self.does(rooms, arguments)


def timestamp(seconds: float) -> str:
    """Wall seconds for people and machines, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
