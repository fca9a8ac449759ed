"""The rows of the books: one for each request that had a valid caller."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta

from gateway.admin.operation import Arguments, Operation, Rooms
from gateway.admin.usage import SINCE, UNTIL, read_moment
from gateway.errors import InvalidRequest, NotFound, StorageError
from gateway.usage.migrations import LedgerError
from gateway.usage.questions import LogQuestion

PAGE = 1000  # rows in one answer
_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)")


class Logs(Arguments, frozen=True):
    key: Annotated[str | None, Meta(description="Only this key, by its name.")] = None
    model: Annotated[
        str | None, Meta(description="Only this model, as asked; `*` stands for any characters.")
    ] = None
    status: Annotated[str | None, Meta(description="Only this status, or this class: 5xx.")] = None
    cache: Annotated[
        Literal["hit", "miss", "joined", "bypass", "none"] | None,
        Meta(description="Only what the cache was to it."),
    ] = None
    since: Annotated[str | None, Meta(description=SINCE)] = None
    until: Annotated[str | None, Meta(description=UNTIL)] = None
    before: Annotated[
        str | None, Meta(description="The next page: the `id` of the last row of this one.")
    ] = None
    follow: Annotated[
        bool, Meta(description="In the order of booking, oldest first, to be asked again.")
    ] = False
    after: Annotated[
        int | None, Meta(description="With `follow`: rows with a higher `seq` than this.")
    ] = None
    limit: Annotated[
        int, Meta(ge=1, le=PAGE, description=f"Rows in the answer, at most {PAGE}.")
    ] = 50


class Log(Arguments, frozen=True):
    id: Annotated[str, Meta(description="X-Gateway-Request-Id.")]


async def logs(rooms: Rooms, asked: Logs) -> list[dict[str, Any]]:
    """Rows that match all that is given, the newest arrival first."""
    question = LogQuestion(
        key=asked.key,
        model=asked.model,
        status=None if asked.status is None else _status(asked.status),
        cache=asked.cache,
        since=read_moment(rooms, "since", asked.since),
        until=read_moment(rooms, "until", asked.until, end=True),
        before=asked.before,
        follow=asked.follow,
        after=asked.after,
        limit=asked.limit,
    )
    try:
        return await rooms.books.logs(question)
    except LedgerError as error:
        raise StorageError(str(error)) from error


def _status(text: str) -> tuple[int, int]:
    found = _STATUS.fullmatch(text)
    if found is None:
        raise InvalidRequest("status: 429 or 5xx is wanted.", param="status")
    if found[1]:
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    return int(found[2]), int(found[2])


async def log(rooms: Rooms, asked: Log) -> dict[str, Any]:
    """One row."""
    try:
        found = await rooms.books.log(asked.id)
    except LedgerError as error:
        raise StorageError(str(error)) from error
    if found is None:
        raise NotFound(f"No request is known by the id '{asked.id[:64]}'.")
    return found


_READS = {500: "The books cannot be read."}
LOGS = Operation(
    "GET", "/admin/logs", "Requests, the newest first.", Logs, logs, "The rows.", _READS
)
LOG = Operation(
    "GET", "/admin/logs/{id}", "One request.", Log, log, "The row.", {404: "No such row.", **_READS}
)
OPERATIONS = (LOGS, LOG)
