"""Entries and clocks for the tests of the cache, and how to ask it."""

from __future__ import annotations

import time
from hashlib import sha256

from gateway.config import Cache
from gateway.config.kinds import (
    Duration,
    Size,
)
from gateway.entry import Entry, Recording, Selector, Ticket
from gateway.exchange import Usage, UsageSource
from gateway.ports import Cache as CachePort

MiB = 1024 * 1024
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


class SetClock:
    """Wall time stands still until it is set. It begins now: diskcache reads its own clock."""

    def __init__(self) -> None:
        self.wall = time.time()

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return time.monotonic()


def key_of(name: object) -> bytes:
    return sha256(repr(name).encode()).digest()


def recording(
    body: bytes = b'{"choices": []}',
    *,
    created: float,
    request_id: str = "01REQUEST",
    ttl: float = 3600.0,
    key: str = "alice",
) -> Recording:
    return Recording(
        request_id=request_id,
        created=created,
        ttl=ttl,
        key_id=f"id-of-{key}",
        key_name=key,
        headers=(("content-type", "application/json"), ("openai-version", "2020-10-01")),
        body=body,
        usage=Usage(9, 12, reasoning_tokens=3, source=UsageSource.UPSTREAM, details=USAGE),
        finish_reasons=("stop",),
    )


def entry(
    body: bytes = b'{"choices": []}',
    *,
    created: float,
    model: str = "gpt-4o",
    key: str = "alice",
    form: str = "json",
    **more: object,
) -> Entry:
    made = recording(body, created=created, key=key, **more)  # type: ignore[arg-type]
    return Entry(f"issued:id-of-{key}", model, "openai", **{form: made})


def section(
    *,
    memory: int = 16 * MiB,
    size_limit: int = 64 * MiB,
    max_entry: int = MiB,
    disk_deadline: float = 60,  # no busy machine may decide a test
) -> Cache:
    return Cache(
        memory=Size(memory), size_limit=Size(size_limit), max_entry=Size(max_entry),
        ttl=Duration(3600), disk_deadline=Duration(disk_deadline),
    )  # fmt: skip


async def ask(cache: CachePort, key: bytes) -> Entry | None:
    """As the pipeline asks: memory, then disk."""
    return cache.find(key) or await cache.fetch(key)


def keep(cache: CachePort, key: bytes, kept: Entry, ticket: Ticket | None = None) -> bool:
    return cache.store(key, kept, cache.ticket() if ticket is None else ticket)


ALL = Selector(everything=True)
