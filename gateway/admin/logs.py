"""Requests that had a valid caller: their rows in the books, and what the journal has of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from gateway.admin.operation import Arguments, Operation, Rooms, Stream
from gateway.admin.usage import SINCE, UNTIL, read_moment
from gateway.errors import InvalidRequest, NotFound, StorageError
from gateway.journal.reader import Search, has_words
from gateway.usage.migrations import LedgerError
from gateway.usage.questions import LogQuestion

PAGE = 1000  # rows in one answer
BODIES_PAGE = 20  # of them, with what is kept of each
USUAL = 50
STEP = 500  # found by their words, then looked up in the books
_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)")

Row = dict[str, Any]


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
    search: Annotated[
        Annotated[str, Meta(max_length=1000)] | None,
        Meta(description="Only with these words, in a row, in a body kept."),
    ] = None
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
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description=f"Rows in the answer: {USUAL}, or at most {PAGE}, with `bodies` "
            f"{BODIES_PAGE}; as jsonl without a limit all.",
        ),
    ] = None
    bodies: Annotated[
        bool, Meta(description="With what the journal has of each, as `kept`: headers, bodies.")
    ] = False
    format: Annotated[
        Literal["json", "jsonl"],
        Meta(description="json: an array; jsonl: a row on each line, as many as there are."),
    ] = "json"


class Log(Arguments, frozen=True):
    id: Annotated[str, Meta(description="X-Gateway-Request-Id.")]


async def logs(rooms: Rooms, asked: Logs) -> list[Row] | Stream:
    """Rows that match all that is given, the newest arrival first."""
    if asked.search is not None and not has_words(asked.search):
        raise InvalidRequest("search: a word is wanted.", param="search")
    most = BODIES_PAGE if asked.bodies else PAGE
    if asked.format == "jsonl":
        if asked.follow:
            raise InvalidRequest("follow: not as jsonl; ask again for what is new.", param="follow")
        first = await _page(rooms, asked, _question(rooms, asked, min(most, asked.limit or most)))
        return Stream(_pages(rooms, asked, first, most))
    if asked.limit is not None and asked.limit > most:
        raise InvalidRequest(f"limit: at most {most}.", param="limit")
    return await _page(rooms, asked, _question(rooms, asked, asked.limit or min(USUAL, most)))


def _question(rooms: Rooms, asked: Logs, limit: int) -> LogQuestion:
    return LogQuestion(
        key=asked.key,
        model=asked.model,
        status=None if asked.status is None else _status(asked.status),
        cache=asked.cache,
        since=read_moment(rooms, "since", asked.since),
        until=read_moment(rooms, "until", asked.until, end=True),
        before=asked.before,
        follow=asked.follow,
        after=asked.after,
        limit=limit,
    )


async def _page(rooms: Rooms, asked: Logs, question: LogQuestion) -> list[Row]:
    try:
        if asked.search is None:
            rows = await rooms.books.logs(question)
        else:
            rows = await _searched(rooms, asked.search, question)
    except LedgerError as error:
        raise StorageError(str(error)) from error
    if asked.bodies:
        kept = await rooms.journal.kept([row["id"] for row in rows])
        rows = [row | {"kept": kept.get(row["id"])} for row in rows]
    return rows


async def _pages(
    rooms: Rooms, asked: Logs, page: list[Row], most: int
) -> AsyncIterator[Sequence[Row]]:
    """The first page, and all that follow; one is in memory at a time."""
    left, size = asked.limit, most if asked.limit is None else min(most, asked.limit)
    while page:
        yield page
        left = None if left is None else left - len(page)
        if len(page) < size or left == 0:
            return
        size = most if left is None else min(most, left)
        question = replace(_question(rooms, asked, size), before=page[-1]["id"])
        page = await _page(rooms, asked, question)


async def _searched(rooms: Rooms, text: str, question: LogQuestion) -> list[Row]:
    """The journal knows which have the words, the books the rest. The last booked comes first; a
    row's `seq` is the journal's number."""
    follow = question.follow and question.after is not None
    search = Search(
        text,
        since=question.since,
        until=question.until,
        before=question.before,
        follow=follow,
        after=question.after if follow else None,
        limit=STEP,
    )
    rows: list[Row] = []
    while len(rows) < question.limit:
        found = await rooms.journal.search(search)
        ids = tuple(one.id for one in found)
        plain = replace(question, ids=ids, before=None, follow=False, after=None, limit=STEP)
        known = {row["id"]: row for row in (await rooms.books.logs(plain) if ids else ())}
        rows += [known[one.id] | {"seq": one.number} for one in found if one.id in known]
        if len(found) < STEP:
            break
        search = replace(
            search,
            before=None if follow else found[-1].id,
            after=found[-1].number if follow else None,
        )
    del rows[question.limit :]
    return rows[::-1] if question.follow and not follow else rows


def _status(text: str) -> tuple[int, int]:
    found = _STATUS.fullmatch(text)
    if found is None:
        raise InvalidRequest("status: 429 or 5xx is wanted.", param="status")
    if found[1]:
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    return int(found[2]), int(found[2])


async def log(rooms: Rooms, asked: Log) -> dict[str, Any]:
    """One row, and what the journal has of the request."""
    try:
        found = await rooms.books.log(asked.id)
    except LedgerError as error:
        raise StorageError(str(error)) from error
    if found is None:
        raise NotFound(f"No request is known by the id '{asked.id[:64]}'.")
    kept = await rooms.journal.kept([asked.id])
    return found | {"kept": kept.get(asked.id)}


_READS = {500: "The books cannot be read."}
LOGS = Operation(
    "GET", "/admin/logs", "Requests, the newest first.", Logs, logs, "The rows.", _READS
)
LOG = Operation(
    "GET", "/admin/logs/{id}", "One request.", Log, log, "The row.", {404: "No such row.", **_READS}
)
OPERATIONS = (LOGS, LOG)
