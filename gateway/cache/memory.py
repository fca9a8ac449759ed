"""Entries in memory, bounded in bytes; the least recently used go first.

Nothing here awaits, locks or does I/O: only the loop's thread comes here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.entry import Entry, MemoryFigures, Selector, measured, weight
from gateway.seen import Seen

SHARE = 4096  # bytes of memory for each key that is remembered to have been asked for
SEEN = 256  # of these, at least

Item = tuple[Entry, float, int]  # entry, wall seconds from which it is not all fresh, weight


class Memory:
    """A dict whose order is that of use."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes, by `weight`."""
        # Ordered: in a plain dict, finding the oldest walks over the holes of those that went.
        self.items: OrderedDict[bytes, Item] = OrderedDict()
        self._unswept: list[bytes] = []
        self.misses = self._hits = self._size = 0
        self._evictions = {"expired": 0, "size": 0, "purged": 0}
        self._take_limit(limit)

    def find(self, key: bytes, now: float) -> Entry | None:
        """What is fresh of it; now the most recently used."""
        items = self.items
        item = items.get(key)
        if item is None:
            self.misses += 1
            return None
        if now >= item[1]:
            del items[key]
            left = self._trimmed(item, now)
            if left is None:
                self.misses += 1
                return None
            items[key] = item = left
        items.move_to_end(key)
        self._hits += 1
        return item[0]

    def peek(self, key: bytes, now: float) -> Entry | None:
        """The same, uncounted and in no other order than before."""
        item = self.items.get(key)
        return None if item is None else item[0].at(now)

    def offer(self, key: bytes, entry: Entry) -> None:
        """One that was read from elsewhere: where there is little room, it comes in when it is
        asked for again of late."""
        if self._size < self._roomy or self._seen.before(key):
            self.put(key, entry)

    def put(self, key: bytes, entry: Entry) -> None:
        """In the place of what was there; one above the limit takes no place."""
        taken, _, _, stale = measured(entry)
        self.take(key, (entry, stale, taken))

    def take(self, key: bytes, item: Item) -> None:
        """The same, of one that has been measured."""
        items = self.items
        if key in items:
            self._drop(key)
        if item[2] <= self._limit:
            items[key] = item
            self._size += item[2]
            if self._size > self._limit:
                self._shrink()

    def resize(self, limit: int) -> None:
        """Another limit, at once."""
        self._take_limit(limit)
        self._shrink()

    def _take_limit(self, limit: int) -> None:
        self._limit, self._roomy = limit, limit - limit // 16
        self._seen = Seen(max(SEEN, limit // SHARE))

    def keys(self) -> list[bytes]:
        """All there are, also what is no longer fresh."""
        return list(self.items)

    def purge(self, selector: Selector, keys: Iterable[bytes]) -> set[bytes]:
        """Forget those of `keys` that the selector takes; which. Two microseconds for each."""
        found = [(key, item[0].labels) for key in keys if (item := self.items.get(key))]
        gone = {key for key, labels in found if selector.takes(key, labels)}
        for key in gone:
            self._drop(key)
        self._evictions["purged"] += len(gone)
        return gone

    def sweep(self, now: float, most: int) -> None:
        """Look at up to `most` entries and evict the expired; the next call goes on from there."""
        if not self._unswept:
            self._unswept = list(self.items)
        for _ in range(min(most, len(self._unswept))):
            key = self._unswept.pop()
            item = self.items.get(key)
            if item is not None and now >= item[1]:
                trimmed = self._trimmed(item, now)
                if trimmed is None:
                    del self.items[key]
                else:
                    self.items[key] = trimmed

    def stored_by(self, request_id: str, keys: Iterable[bytes]) -> bytes | None:
        """Which of `keys` has an entry that this request stored."""
        for key in keys:
            item = self.items.get(key)
            if item and any(found.request_id == request_id for found in item[0].recordings):
                return key
        return None

    def figures(self) -> MemoryFigures:
        return MemoryFigures(
            len(self.items),
            self._size,
            self._limit,
            self._hits,
            self.misses,
            dict(self._evictions),
        )

    def _trimmed(self, item: Item, now: float) -> Item | None:
        """What is left of an item that is out of the dict or about to be; its bytes given back."""
        entry, _, size = item
        left = entry.at(now)
        self._size -= size
        if left is None:
            self._evictions["expired"] += 1
            return None
        size = weight(left)
        self._size += size
        return left, left.stale_from, size

    def _drop(self, key: bytes) -> None:
        item = self.items.pop(key, None)
        if item is not None:
            self._size -= item[2]

    def _shrink(self) -> None:
        items, size, limit, gone = self.items, self._size, self._limit, 0
        while size > limit and items:
            size -= items.popitem(last=False)[1][2]
            gone += 1
        self._size = size
        self._evictions["size"] += gone
