"""What came of late. Who is full keeps only what comes a second time: what comes once, as in a pass
over all there is, drives nothing out that is asked for again and again. Pure.
"""

from __future__ import annotations

from array import array


class Seen:
    """Remembers about the last `room` keys, by their hashes, in 8 bytes each. It forgets; it is
    wrong about what came once in 2^64 times."""

    __slots__ = ("_hashes", "_mask")

    def __init__(self, room: int) -> None:
        slots = 1 << max(0, room - 1).bit_length()
        self._hashes, self._mask = array("q", bytes(8 * slots)), slots - 1

    def before(self, key: bytes) -> bool:
        """It came of late; from now on it has."""
        hashed = hash(key)
        at = hashed & self._mask
        if self._hashes[at] == hashed:
            return True
        self._hashes[at] = hashed
        return False
