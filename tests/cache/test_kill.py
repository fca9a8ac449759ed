"""SIGKILL in the middle of a store: no half entry is ever readable (D2; issue 3, proofs)."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cache.store import TwoTier
from tests.cache.samples import SetClock, section
from tests.cache.storer import body_for, key_for

ROOT = Path(__file__).parents[2]


def store_and_be_killed(folder: Path, first: int, after: int, delay: float) -> int:
    """The last number that was said to be on disk. Killed `delay` seconds after `after` lines:
    the test's only use of time, to hit another moment each round."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cache.storer", str(folder), str(first)],
        stdout=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = [int(process.stdout.readline()) for _ in range(after)]
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        assert process.wait(30) == -signal.SIGKILL
        return said[-1]
    finally:
        process.kill()
        process.stdout.close()


async def rounds(folder: Path, count: int) -> None:
    dice, last, found = random.Random(7), 0, 0
    for _ in range(count):
        first = last + 1
        last = store_and_be_killed(folder, first, dice.randint(1, 3), dice.uniform(0, 0.08))
        with sqlite3.connect(folder / "cache.db") as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        other.close()
        cache = TwoTier(section(memory=0), folder, SetClock())
        await cache.start()
        for number in range(first, last + 20):
            entry = await cache.fetch(key_for(number))
            assert entry is None or [one.body for one in entry.recordings] == [body_for(number)]
            found += entry is not None
        assert await cache.fetch(key_for(last)) is not None  # said to be there, and it is
        figures = cache.stats().disk
        assert not sum(figures.errors.values())
        assert figures.rebuilt == 0
        await cache.close()
    assert found >= 5 * count


async def test_five_kills_leave_no_half_entry(tmp_path):
    await rounds(tmp_path / "cache", 5)


@pytest.mark.faults
async def test_fifty_kills_leave_no_half_entry(tmp_path):
    await rounds(tmp_path / "cache", 50)
