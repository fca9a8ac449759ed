"""What was used and what it cost, summed as asked."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from gateway.admin.operation import Arguments, Operation, Rooms
from gateway.errors import InvalidRequest, StorageError
from gateway.usage.calendar import moment
from gateway.usage.migrations import LedgerError
from gateway.usage.questions import BY, TAG, UsageQuestion

MOST = 8  # names in `by`

SINCE = "From when on: 7d (before now), a day (2026-03-29) or a time; days as quota.timezone has."
UNTIL = "To when: as `since`; a day is in it."


class Usage(Arguments, frozen=True):
    by: Annotated[
        str, Meta(description="What to sum by, with commas: key, team, model, day, tag:NAME.")
    ] = ""
    key: Annotated[str | None, Meta(description="Only this key, by its name.")] = None
    model: Annotated[
        str | None, Meta(description="Only this model, as asked; `*` stands for any characters.")
    ] = None
    since: Annotated[str | None, Meta(description=SINCE)] = None
    until: Annotated[str | None, Meta(description=UNTIL)] = None


async def usage(rooms: Rooms, asked: Usage) -> list[dict[str, Any]]:
    """Sums; money in dollars. Times are widened to whole quarter-hours."""
    names = tuple(name.strip() for name in asked.by.split(",") if name.strip())
    for name in names:
        if name not in BY and (not name.startswith(TAG) or name == TAG):
            raise InvalidRequest(f"'{name[:64]}' is nothing to sum by: {', '.join(BY)}, tag:NAME.")
    if len(names) > MOST or len(set(names)) < len(names):
        raise InvalidRequest(f"Sum by at most {MOST} things, each once.")
    question = UsageQuestion(
        names,
        asked.key,
        asked.model,
        read_moment(rooms, "since", asked.since),
        read_moment(rooms, "until", asked.until, end=True),
    )
    try:
        return await rooms.books.usage(question)
    except LedgerError as error:
        raise StorageError(str(error)) from error


def read_moment(rooms: Rooms, name: str, text: str | None, *, end: bool = False) -> float | None:
    """Seconds since the epoch. InvalidRequest."""
    if text is None:
        return None
    try:
        return moment(text, rooms.clock.now(), rooms.books.zone, end=end)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}.", param=name) from None


USAGE = Operation(
    "GET",
    "/admin/usage",
    "What was used: requests, tokens and money, in any combination of key, team, model, day, tag.",
    Usage,
    usage,
    "One object for each combination, in its order.",
    {500: "The books cannot be read."},
)
OPERATIONS = (USAGE,)
