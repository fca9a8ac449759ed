"""The `Cache` port: memory in front, the disk behind it, and what a purge has forbidden since.

Rule: `find` and `store` are a few look-ups on the loop's thread; only `fetch`, `purge` and
`lookup_request` await, and what they bring back is checked against the purges that came meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.cache.disk import Disk, NoDisk
from gateway.cache.memory import Memory
from gateway.config import Cache
from gateway.entry import CacheStats, Entry, Selector, Ticket, measured
from gateway.ports import Clock

REMEMBERED = 10_000  # ids of requests that stored an entry or were answered from one (contract)
PURGES = 1000  # purges remembered; a flight older than all of them is not kept
PATIENT = 10.0  # seconds for a disk to say what a request's entry is: an operator asks
SWEEP = 10.0  # seconds between two looks for what has expired in memory
SWEPT = 2000  # entries looked at each time
SLICE = 1000  # entries that a purge looks at in one go: two milliseconds


class NoCache:
    """`cache.enabled: off`."""

    def find(self, key: bytes) -> Entry | None:
        """A miss."""
        return None

    def lacks(self, key: bytes) -> bool:
        """Everything."""
        return True

    async def fetch(self, key: bytes) -> Entry | None:
        """A miss."""
        return None

    def ticket(self) -> Ticket:
        return Ticket(0)

    def store(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        """Nothing is kept."""
        return False

    def remember(self, request_id: str, key: bytes) -> None:
        """Nothing is answered from here."""

    async def lookup_request(self, request_id: str) -> tuple[bytes, Entry] | None:
        """Unknown."""
        return None

    async def purge(self, selector: Selector) -> int:
        """Nothing is here."""
        return 0

    def stats(self) -> CacheStats:
        return CacheStats()

    def reconfigure(self, section: Cache) -> None:
        """Off it stays."""

    async def start(self) -> None:
        """Nothing is opened."""

    async def close(self) -> None:
        """Nothing is queued."""


class Purges:
    """What was purged since when: a flight that took off before is not kept (D2, C7)."""

    def __init__(self) -> None:
        self._log: deque[Selector] = deque(maxlen=PURGES)
        self._count = 0
        self._running: list[Selector] = []

    def ticket(self) -> Ticket:
        return Ticket(self._count)

    @contextmanager
    def running(self, selector: Selector) -> Iterator[None]:
        """While what it takes is being forgotten. Tickets from before and from meanwhile do not
        hold for that any more."""
        self._add(selector)
        self._running.append(selector)
        try:
            yield
        finally:
            self._running.remove(selector)
            self._add(selector)

    def forbid(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        """Has a purge since `ticket` taken such an entry, for all that is known."""
        since = self._count - ticket
        if since <= 0:
            return False
        if since > len(self._log):
            return True
        labels = entry.labels
        return any(self._log[-back].takes(key, labels) for back in range(1, since + 1))

    def forbid_row(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        """The same for what was read from the disk, where a running purge has yet to come by."""
        running = self._running
        if running and any(selector.takes(key, entry.labels) for selector in running):
            return True
        return self._count != ticket and self.forbid(key, entry, ticket)

    def _add(self, selector: Selector) -> None:
        self._log.append(selector)
        self._count += 1


class TwoTier:
    """Memory and, unless `size_limit` is 0, a disk."""

    def __init__(self, section: Cache, folder: Path, clock: Clock) -> None:
        """`folder` is the cache's own (`data/cache`). Opens nothing."""
        self._clock, self._max_entry = clock, section.max_entry
        self._deadline = section.disk_deadline
        self._enabled = section.enabled  # whoever stores asks for it; here it is only shown
        self._memory = Memory(section.memory)
        size_limit = section.size_limit
        self._disk = Disk(folder, clock, size_limit=size_limit) if size_limit else NoDisk()
        self.lacks = self._disk.lacks
        self._purges = Purges()
        self._answered: OrderedDict[str, bytes] = OrderedDict()
        self._stored = self._refused = 0
        self._sweeper: asyncio.TimerHandle | None = None

    def find(self, key: bytes) -> Entry | None:
        """What is fresh of it in memory, or still on its way to the disk."""
        now = self._clock.now()
        found = self._memory.find(key, now)
        if found is None and key in self._disk.waiting:
            return self._disk.waiting[key].at(now)
        return found

    async def fetch(self, key: bytes, deadline: float | None = None) -> Entry | None:
        """What is fresh of it on disk, within `deadline` seconds; now in memory too, where there is
        room, or it was asked for before."""
        disk, ticket, entry = self._disk, self._purges.ticket(), None
        read = disk.ask(key, self._deadline if deadline is None else deadline)
        if read is not None:
            try:
                await read
            except BaseException:
                disk.give_up(read)
                raise
            entry = disk.told(read)
        now = self._clock.now()
        newer = self._memory.peek(key, now) or disk.waiting.get(key)
        if newer is not None:
            return newer.at(now)
        if entry is None or (entry := entry.at(now)) is None:
            return None
        if self._purges.forbid_row(key, entry, ticket):
            return None
        self._memory.offer(key, entry)
        return entry

    def ticket(self) -> Ticket:
        return self._purges.ticket()

    def store(self, key: bytes, entry: Entry, ticket: Ticket) -> bool:
        """Into memory at once, to the disk soon; False where it is not kept."""
        kept: Entry | None = entry
        now = self._clock.now()
        weight, size, landed, stale = measured(entry)
        if not landed <= now < stale:  # not all of it is fresh, or its clock was another
            kept = entry.at(now)
            if kept is not None:
                weight, size, _, stale = measured(kept)
        if kept is None or size > self._max_entry or self._purges.forbid(key, kept, ticket):
            self._refused += 1
            return False
        self._memory.take(key, (kept, stale, weight))
        self._disk.put(key, kept, size)
        self._stored += 1
        for recording in kept.recordings:
            self.remember(recording.request_id, key)
        return True

    def remember(self, request_id: str, key: bytes) -> None:
        answered = self._answered
        answered[request_id] = key
        if len(answered) > REMEMBERED:
            answered.popitem(last=False)

    async def lookup_request(self, request_id: str) -> tuple[bytes, Entry] | None:
        key = await self._key_of(request_id)
        if key is None:
            return None
        now = self._clock.now()
        entry = self._memory.peek(key, now) or await self.fetch(key, PATIENT)
        return None if entry is None else (key, entry)

    async def purge(self, selector: Selector) -> int:
        if selector.request is not None:
            selector = replace(selector, answered=self._answered.get(selector.request))
        gone: set[bytes] = set()
        keys = self._memory.keys() if selector.digest is None else [selector.digest]
        with self._purges.running(selector):
            async for some in _slices(keys):
                gone |= self._memory.purge(selector, some)
            return len(gone) + await self._disk.purge(selector, gone)

    def stats(self) -> CacheStats:
        return CacheStats(
            enabled=self._enabled,
            stored=self._stored,
            refused=self._refused,
            remembered=len(self._answered),
            memory=self._memory.figures(),
            disk=self._disk.figures(),
        )

    def time_disk(self, get: Callable[[float], None], put: Callable[[float], None]) -> None:
        """Tell them of each look-up (get) and write (put) of the disk, in seconds."""
        self._disk.timed_get, self._disk.timed_set = get, put

    def reconfigure(self, section: Cache) -> None:
        """Other bounds, from now on; the disk cannot be turned on or off."""
        self._max_entry, self._deadline = section.max_entry, section.disk_deadline
        self._enabled = section.enabled
        self._memory.resize(section.memory)
        if section.size_limit:
            self._disk.resize(section.size_limit)

    async def start(self) -> None:
        await self._disk.start()
        self._sweep()

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._disk.close()

    async def flush(self) -> None:
        """Everything stored so far is on disk, or dropped and counted, when this returns."""
        await self._disk.flush()

    async def _key_of(self, request_id: str) -> bytes | None:
        if (key := self._answered.get(request_id)) is not None:
            return key
        async for some in _slices(self._memory.keys()):
            if (key := self._memory.stored_by(request_id, some)) is not None:
                return key
        return await self._disk.of_request(request_id)

    def _sweep(self) -> None:
        """What has expired leaves memory without being asked for."""
        self._memory.sweep(self._clock.now(), SWEPT)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)


async def _slices(keys: list[bytes]) -> AsyncIterator[list[bytes]]:
    """`keys` in parts; between two of them everybody else has a turn."""
    for start in range(0, len(keys), SLICE):
        if start:
            await asyncio.sleep(0)
        yield keys[start : start + SLICE]
