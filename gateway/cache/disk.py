"""The cache on disk: one thread writes, two read, and the loop's thread touches no file.

Rules: whatever the disk does, a request sees a miss and a counter moves; a queue that is full drops
and counts; nothing is opened before `start`, so after any fork (requirement E5).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.cache import folder as folders
from gateway.cache.codec import Corrupt, decode, encode_labels
from gateway.cache.readers import Read, Readers
from gateway.cache.table import CORRUPT, ERRORS, Refused, Table, word_for
from gateway.cache.writer import Put, Writer
from gateway.entry import DiskFigures, Entry, Selector
from gateway.ports import Clock, PurgeFailed

QUEUED = 1000  # stores that may wait
QUEUED_BYTES = 64 * 1024 * 1024
PURGE_TRIES = 40  # of a purge that finds the database locked; each waits for the lock
JOB = 60.0  # seconds for a purge or a search
OUTDATED = 10_000  # keys remembered whose row may be older than what was to replace it

log = logging.getLogger("gateway.cache")


class Disk:
    """A tier behind memory. All but `_read` and `_leave` runs on the loop's thread."""

    def __init__(self, folder: Path, clock: Clock, *, size_limit: int) -> None:
        """`size_limit` in bytes, of all its files. Opens nothing."""
        self._folder, self._clock = folder.absolute(), clock
        # They hear the seconds that each look-up, and each write, took.
        self.timed_get: Callable[[float], None] = _untimed
        self.timed_set: Callable[[float], None] = _untimed
        self._writer = Writer(folder, clock, size_limit, self._settled)
        self._readers: Readers[Entry | None] = Readers(self._read, self._leave)
        self._open = False  # from `start` to `close`
        self.waiting: dict[bytes, Entry] = {}  # what is on its way to the disk
        self._queued = self._queued_bytes = self._hits = self._misses = self._overrun = 0
        self._outdated: dict[bytes, float] = {}
        self._errors = dict.fromkeys((*ERRORS, "busy"), 0)
        self._mine = threading.local()  # the table that a reader's thread has a connection to

    async def start(self, wait: float = 5.0) -> None:
        """Start the threads and wait for the database, for at most `wait` seconds."""
        self._open = True
        self._writer.start()
        self._readers.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._writer.opened.wait()

    async def close(self, wait: float = 5.0) -> None:
        """Write what is queued, for at most `wait` seconds."""
        if not self._open:
            return
        self._open = False
        self._readers.close()
        self._writer.stop()
        try:
            async with asyncio.timeout(wait):
                await self._writer.ended.wait()
        except TimeoutError:
            log.warning("cache: %d answers did not reach the disk", self._queued)

    def resize(self, size_limit: int) -> None:
        """Another limit; what is too much goes with the next writes."""
        self._writer.limit = size_limit
        self._writer.order(lambda table: table.resize(size_limit))

    # Reading ------------------------------------------------------------------------------------

    def lacks(self, key: bytes) -> bool:
        """Nothing is there, for certain; then it is counted as a miss."""
        writer = self._writer
        if writer.state == "open" and not writer.presence.lacks(key):
            return False
        self._misses += 1
        return True

    def ask(self, key: bytes, deadline: float) -> Read[Entry | None] | None:
        """Begin to read what is there, within `deadline` seconds. For who has asked `lacks`, awaits
        it, and then asks for `told`. None: it is a miss, they are too busy."""
        read = self._readers.submit(key, deadline)
        if read is None:
            self._errors["busy"] += 1
            self._misses += 1
        return read

    def give_up(self, read: Read[Entry | None]) -> None:
        """Nobody waits for it any more."""
        self._readers.give_up(read)

    def told(self, read: Read[Entry | None]) -> Entry | None:
        """What a read has brought. Never raises."""
        key, entry = read.key, None
        self.timed_get(read.took)
        if read.late:
            self._errors["deadline"] += 1
        elif read.error is not None:
            self._failed(key, read.error)
        else:
            entry = read.value
        if self._outdated and entry is not None and entry.created < self._outdated.get(key, 0.0):
            entry = None
        if entry is None:
            self._misses += 1
        else:
            self._hits += 1
        return entry

    def _failed(self, key: bytes, error: BaseException) -> None:
        word = word_for(error)
        self._errors[word] += 1
        if word in ("refused", "digest"):
            self._writer.order(lambda table: self._writer.remove_bad(table, key))
        elif word == CORRUPT:
            self._writer.order(lambda _: self._writer.rebuild(error))

    def _read(self, keys: list[bytes]) -> list[Entry | Exception | None]:
        """In a reader's thread."""
        table = self._writer.table
        if table is not getattr(self._mine, "table", None):
            self._leave()
            self._mine.table = table
            if table is not None:
                table.prepare_to_read()
        found = {} if table is None or not keys else table.read_all(keys)
        return [_entry(key, found.get(key)) for key in keys]

    def _leave(self) -> None:
        """In a reader's thread: close its connection."""
        table: Table | None = getattr(self._mine, "table", None)
        if table is not None:
            with contextlib.suppress(Exception):
                table.close()

    # Writing ------------------------------------------------------------------------------------

    def put(self, key: bytes, entry: Entry, size: int) -> None:
        """Queue it, whose bodies have `size` bytes, or drop and count it."""
        if not self._open:
            return
        if self._queued >= QUEUED or self._queued_bytes + size > QUEUED_BYTES:
            self._overrun += 1
            self._outdate(key, entry)
            return
        self._queued += 1
        self._queued_bytes += size
        self.waiting[key] = entry
        self._writer.put_store(Put(key, entry, size))

    def _settled(self, puts: list[Put], took: float | None) -> None:
        if took is not None:
            self.timed_set(took)
        waiting, outdated = self.waiting, self._outdated
        self._queued -= len(puts)
        for put in puts:
            key, entry = put.key, put.entry
            self._queued_bytes -= put.size
            if waiting.get(key) is not entry:
                continue
            del waiting[key]
            if took is None:
                self._outdate(key, entry)
            elif outdated:
                outdated.pop(key, None)

    def _outdate(self, key: bytes, entry: Entry) -> None:
        """The row may be older than `entry`, which did not get there: it is not to be served."""
        self._outdated[key] = entry.created
        if len(self._outdated) > OUTDATED:
            del self._outdated[next(iter(self._outdated))]

    # Purging and searching ----------------------------------------------------------------------

    async def purge(self, selector: Selector, counted: set[bytes]) -> int:
        """Delete what the selector takes, after all that was queued before; how many, without
        those `counted` already. PurgeFailed."""

        def work(table: Table) -> int:
            count = table.purge(selector, counted)
            self._writer.evictions["purged"] += count
            if selector.everything:
                folders.remove_broken(self._folder)
            return count

        try:
            async with asyncio.timeout(JOB):
                return await asyncio.wrap_future(self._writer.order(work, PURGE_TRIES))
        except TimeoutError:
            raise PurgeFailed(f"the cache's disk has not answered for {JOB:.0f} s") from None
        except Exception as error:
            raise PurgeFailed(f"the cache on disk cannot be changed: {error}") from error

    async def of_request(self, request_id: str) -> bytes | None:
        """The key of the entry that a request stored; None also where the disk does not say."""
        found = self._writer.order(lambda table: table.of_request(request_id))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(JOB):
                return await asyncio.wrap_future(found)
        return None

    async def flush(self) -> None:
        """Everything queued so far is on disk, or dropped and counted, when this returns."""
        with contextlib.suppress(OSError):
            await asyncio.wrap_future(self._writer.order(lambda _: None))

    def figures(self) -> DiskFigures:
        writer = self._writer
        return DiskFigures(
            state=writer.state,
            entries=writer.entries,
            size=writer.size,
            limit=writer.limit,
            oldest=writer.oldest,
            hits=self._hits,
            misses=self._misses,
            written=writer.written,
            queued=self._queued,
            queued_bytes=self._queued_bytes,
            rebuilt=writer.rebuilt,
            errors=_sum(writer.errors, self._errors),
            dropped=_sum(writer.dropped, {"queue": self._overrun}),
            evictions=dict(writer.evictions),
        )


class NoDisk:
    """`cache.size_limit: 0`: memory is all there is."""

    timed_get: Callable[[float], None]
    timed_set: Callable[[float], None]
    waiting: Mapping[bytes, Entry] = {}

    async def start(self) -> None:
        """Nothing is opened."""

    async def close(self) -> None:
        """Nothing is queued."""

    def resize(self, size_limit: int) -> None:
        """It stays at nothing until the next start."""

    def lacks(self, key: bytes) -> bool:
        """Everything."""
        return True

    def ask(self, key: bytes, deadline: float) -> Read[Entry | None] | None:
        """A miss."""
        return None

    def give_up(self, read: Read[Entry | None]) -> None:
        """There is none."""

    def told(self, read: Read[Entry | None]) -> Entry | None:
        """A miss."""
        return None

    def put(self, key: bytes, entry: Entry, size: int) -> None:
        """Not kept."""

    async def purge(self, selector: Selector, counted: set[bytes]) -> int:
        """Nothing was there."""
        return 0

    async def of_request(self, request_id: str) -> bytes | None:
        """Unknown here."""
        return None

    async def flush(self) -> None:
        """Nothing is queued."""

    def figures(self) -> DiskFigures:
        return DiskFigures()


def _entry(
    key: bytes, found: tuple[bytes, bytes] | Refused | None
) -> Entry | Corrupt | Refused | None:
    """What a row says, or why it is refused."""
    if found is None or isinstance(found, Refused):
        return found
    data, labels = found
    try:
        entry = decode(data, key)
    except Corrupt as error:
        return error
    if labels != encode_labels(entry):
        return Refused("a purge would have passed it by")
    return entry


def _untimed(seconds: float) -> None:
    """Nobody wants to know."""


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {word: one.get(word, 0) + other.get(word, 0) for word in one | other}
