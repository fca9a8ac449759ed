"""Stores entries into the folder of its first argument until it is killed; says each that is on
disk. Run by test_kill.py as a process."""

from __future__ import annotations

import asyncio
import sys
from hashlib import sha256
from pathlib import Path

from gateway.cache.store import TwoTier
from gateway.clock import SystemClock
from gateway.config import Cache, Size
from gateway.entry import Entry, Recording


def key_for(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def body_for(number: int) -> bytes:
    """Of many pages, so that a kill comes in the middle of one."""
    return sha256(b"body %d" % number).digest() * (number * 997 % 8000 + 1)


async def main(folder: Path, first: int) -> None:
    clock = SystemClock()
    section = Cache(memory=Size(0), size_limit=Size(8 << 20), max_entry=Size(400_000))
    cache = TwoTier(section, folder, clock)
    await cache.start()
    number = first
    while True:
        for _ in range(5):
            body = body_for(number)
            made = Recording(f"01{number}", clock.now(), 3600.0, "id", "name", (), body)
            cache.store(key_for(number), Entry("s", "m", "u", made), cache.ticket())
            number += 1
        await cache.flush()
        print(number - 1, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
