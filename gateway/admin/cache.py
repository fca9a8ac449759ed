"""The cache, seen and emptied from outside: what is in it, one entry, purge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from msgspec import Meta

from gateway.admin.operation import Arguments, Operation, Rooms, timestamp
from gateway.entry import Recording, Selector
from gateway.errors import InvalidRequest, NotFound, StorageError
from gateway.ports import PurgeFailed

KEY_DIGITS = 16  # of the digest, as in X-Gateway-Cache-Key

Text = Annotated[str, Meta(min_length=1)]


class Stats(Arguments, frozen=True):
    """Nothing."""


class Show(Arguments, frozen=True):
    id: Annotated[
        str,
        Meta(
            description="The id of the request that stored the entry, or of one of the last 10,000 "
            "that were answered from it."
        ),
    ]
    body: Annotated[bool, Meta(description="With the answers themselves, as text.")] = False


class Purge(Arguments, frozen=True):
    key: Annotated[Text | None, Meta(description="The name of the key whose call it was.")] = None
    model: Annotated[
        Text | None, Meta(description="A model's name; `*` stands for any characters.")
    ] = None
    request: Annotated[Text | None, Meta(description="A request's id, as for one entry.")] = None
    all: Annotated[bool, Meta(description="Everything.")] = False


async def stats(rooms: Rooms, _: Stats) -> dict[str, Any]:
    """Sizes in bytes, `oldest` as a time; counters are of this process."""
    found = rooms.cache.stats()
    figures = asdict(found)
    memory, disk = figures.pop("memory"), figures.pop("disk")
    disk["oldest"] = None if found.disk.oldest is None else timestamp(found.disk.oldest)
    return {
        **figures,
        "skipped": {reason: int(number) for reason, number in rooms.skipped().items()},
        "memory": _in_bytes(memory),
        "disk": _in_bytes(disk),
    }


def _in_bytes(tier: dict[str, Any]) -> dict[str, Any]:
    return {"bytes" if name == "size" else name: value for name, value in tier.items()}


async def show(rooms: Rooms, asked: Show) -> dict[str, Any]:
    """One entry. Times in seconds."""
    found = await rooms.cache.lookup_request(asked.id)
    if found is None:
        raise _unknown(asked.id)
    digest, entry = found
    now = rooms.clock.now()
    forms = {"stream": entry.stream, "json": entry.json}
    return {
        "cache_key": digest.hex()[:KEY_DIGITS],
        "scope": entry.scope,
        "model": entry.model,
        "upstream": entry.upstream,
        "bytes": entry.size,
        "forms": {
            form: _recording(one, now, with_body=asked.body)
            for form, one in forms.items()
            if one is not None
        },
    }


def _recording(one: Recording, now: float, *, with_body: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "request_id": one.request_id,
        "key": one.key_name,
        "created": timestamp(one.created),
        "age": int(one.age(now)),
        "ttl": int(one.left(now)),
        "bytes": len(one.body),
        "prompt_tokens": one.usage.prompt_tokens,
        "completion_tokens": one.usage.completion_tokens,
        "cached_tokens": one.usage.cached_tokens,
        "reasoning_tokens": one.usage.reasoning_tokens,
        "finish_reasons": list(one.finish_reasons),
    }
    if with_body:
        shown["body"] = one.body.decode("utf-8", "replace")
    return shown


async def purge(rooms: Rooms, asked: Purge) -> dict[str, int]:
    """Forget what matches all that is given. Holds when it returns, in memory and on disk."""
    narrowed = bool(asked.key or asked.model or asked.request)
    if not narrowed and not asked.all:
        raise InvalidRequest("Say what is to go: key, model, request, or all.")
    # The look-up comes first: afterwards an entry that was there and one that never was are alike.
    known = asked.request is None or await rooms.cache.lookup_request(asked.request) is not None
    selector = Selector(
        key=asked.key, model=asked.model, request=asked.request, everything=not narrowed
    )
    try:
        purged = await rooms.cache.purge(selector)
    except PurgeFailed as error:
        raise StorageError(f"Not all of it may be gone: {error}") from error
    if not known and not purged:
        raise _unknown(asked.request or "")
    return {"purged": purged}


def _unknown(request_id: str) -> NotFound:
    return NotFound(f"No entry is known by the request '{request_id[:64]}'.")


STATS = Operation(
    "GET", "/admin/cache", "How full the cache is, and what it did.", Stats, stats, "The figures."
)
SHOW = Operation(
    "GET",
    "/admin/cache/{id}",
    "The entry that a request stored or was answered from.",
    Show,
    show,
    "The entry.",
    {404: "No such entry."},
)
PURGE = Operation(
    "POST",
    "/admin/cache/purge",
    "Forget the entries that match all that is given; in memory and on disk when it returns.",
    Purge,
    purge,
    "How many entries went.",
    {404: "No such entry.", 500: "The disk failed; some of it may still be there."},
)
OPERATIONS = (STATS, SHOW, PURGE)
