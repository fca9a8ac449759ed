"""Which keys may be on disk, so that a miss asks no thread: a Bloom filter over the rows.

Rule: it may say "perhaps" of what is not there, never "no" of what is. The writer's thread alone
changes it, a key before its row; any thread may ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Protocol

PREFIX = 12  # bytes of a key that are looked at: three numbers of 32 bits
BITS = 16  # of the filter for each key, at least, when it is built
LEAST, MOST = 2**17, 2**26  # bits: 16 KiB, 8 MiB
STEP = 2000  # keys taken from the table in one go: a millisecond of the interpreter
SPARE = 1000  # keys that went and are not worth building it anew

_places = Struct("<3I").unpack_from
_all_places = Struct("<3I").iter_unpack


class Keys(Protocol):
    """A table's keys, in their order."""

    def keys_after(self, last: bytes, count: int) -> tuple[bytes, bytes | None]:
        """The first PREFIX bytes of each of the next `count` keys after `last`, joined; the last
        of these keys, None where there are none."""


class Bloom:
    """A set of digests that only grows. Full, it says "perhaps" of 4 % of what it does not hold."""

    def __init__(self, entries: int) -> None:
        """With room for twice as many as `entries`."""
        size = min(MOST, max(LEAST, 1 << (BITS * entries).bit_length()))
        self._bits, self._mask = bytearray(size // 8), size - 1
        self.held = 0
        self.full = size // 8 if size < MOST else 2**63  # keys; more make it vague

    def __contains__(self, key: bytes) -> bool:
        return not self.lacks(key)

    def lacks(self, key: bytes) -> bool:
        """It is certainly not one of them."""
        bits, mask = self._bits, self._mask
        one, two, three = _places(key)  # a digest's bytes are as good as hashes of it
        one, two, three = one & mask, two & mask, three & mask
        return not (
            bits[one >> 3] >> (one & 7)
            & bits[two >> 3] >> (two & 7)
            & bits[three >> 3] >> (three & 7)
            & 1
        )

    def add(self, prefixes: bytes) -> None:
        """Keys, by their first PREFIX bytes, joined."""
        bits, mask = self._bits, self._mask
        for numbers in _all_places(prefixes):
            new = False
            for number in numbers:
                place = number & mask
                byte, bit = bits[place >> 3], 1 << (place & 7)
                if not byte & bit:
                    bits[place >> 3] = byte | bit
                    new = True
            self.held += new


class Presence:
    """The filter in use, and the one that is being built to replace it."""

    def __init__(self) -> None:
        self._used: Bloom | None = None
        self._next: Bloom | None = None
        self._last = b""

    def lacks(self, key: bytes) -> bool:
        """It is certainly not on disk. False also until the first filter is built."""
        used = self._used  # the writer's thread may exchange it meanwhile
        return used is not None and used.lacks(key)

    def begin(self, entries: int) -> None:
        """Another table, with about so many rows: nothing is known until `step` has built it."""
        self._used = None
        self._build(entries)

    def add(self, keys: Iterable[bytes]) -> None:
        """These are about to be written."""
        prefixes = b"".join([key[:PREFIX] for key in keys])
        for bloom in (self._used, self._next):
            if bloom is not None:
                bloom.add(prefixes)

    def step(self, table: Keys, entries: int) -> bool:
        """Go on building, where that is due; True while there is more to do. `entries`: rows of
        the table now."""
        if self._next is None:
            if not self._is_due(entries):
                return False
            self._build(entries)
        assert self._next is not None
        prefixes, last = table.keys_after(self._last, STEP)
        if last is not None:
            self._next.add(prefixes)
            self._last = last
            return True
        self._used, self._next = self._next, None
        return False

    def _build(self, entries: int) -> None:
        self._next, self._last = Bloom(entries), b""

    def _is_due(self, entries: int) -> bool:
        """It has grown full, or half of what it holds has gone: so it costs one look at each key
        for each key that came or went."""
        used = self._used
        return used is not None and used.held > min(used.full, 2 * entries + SPARE)
