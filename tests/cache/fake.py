"""A cache port in a dict, for tests of what stands before it. It passes the same contract."""

from __future__ import annotations

from dataclasses import replace

from gateway.entry import CacheStats, Entry, Selector, Ticket
from gateway.ports import Clock


class FakeCache:
    """`below`: entries that only `fetch` finds, as if they were on disk alone."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[bytes, Entry] = {}
        self.below: dict[bytes, Entry] = {}
        self.answered: dict[str, bytes] = {}
        self.purged: list[Selector] = []

    def find(self, key: bytes) -> Entry | None:
        found = self.entries.get(key)
        return None if found is None else found.at(self.clock.now())

    def lacks(self, key: bytes) -> bool:
        return key not in self.below

    async def fetch(self, key: bytes) -> Entry | None:
        if (found := self.below.get(key)) is not None:
            self.entries.setdefault(key, found)
        return self.find(key)

    def ticket(self) -> Ticket:
        return Ticket(len(self.purged))

    def store(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        kept = entry.at(self.clock.now())
        if kept is None or any(one.takes(key, kept.labels) for one in self.purged[ticket:]):
            return False
        self.entries[key] = kept
        for recording in kept.recordings:
            self.remember(recording.request_id, key)
        return True

    def remember(self, request_id: str, key: bytes) -> None:
        self.answered[request_id] = key
        if len(self.answered) > 10_000:
            del self.answered[next(iter(self.answered))]

    async def lookup_request(self, request_id: str) -> tuple[bytes, Entry] | None:
        key = self.answered.get(request_id)
        found = None if key is None else await self.fetch(key)
        return None if key is None or found is None else (key, found)

    async def purge(self, selector: Selector) -> int:
        if selector.request is not None:
            selector = replace(selector, answered=self.answered.get(selector.request))
        self.purged.append(selector)
        gone: set[bytes] = set()
        for tier in (self.entries, self.below):
            taken = {key for key, found in tier.items() if selector.takes(key, found.labels)}
            for key in taken:
                del tier[key]
            gone |= taken
        return len(gone)

    def stats(self) -> CacheStats:
        return CacheStats(enabled=True)

    async def start(self) -> None:
        """Nothing is opened."""

    async def close(self) -> None:
        """Nothing is queued."""
