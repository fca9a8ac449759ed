"""A miss that is known asks no thread, and what is on disk is never taken for missing (E4, E5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.cache import presence
from gateway.cache.folder import prepare
from gateway.cache.presence import Bloom, Presence
from gateway.cache.readers import Readers
from gateway.cache.store import TwoTier
from gateway.cache.table import Row, Table
from gateway.entry import Entry
from tests.cache.samples import ALL, MiB, SetClock, entry, keep, key_of, section

KEYS = [key_of(number) for number in range(40)]
some_keys = st.sets(st.sampled_from(KEYS[:10]), max_size=10)


def test_a_full_filter_still_tells_most_misses():
    """A million keys take 2 MiB; as many again may come before it is built anew."""
    assert len(Bloom(1_000_000)._bits) == 2 * MiB
    bloom, count = Bloom(20_000), 0
    while bloom.held < bloom.full:
        bloom.add(b"".join(key_of(number)[:12] for number in range(count, count + 1000)))
        count += 1000
    assert count >= 2 * 20_000
    assert all(key_of(number) in bloom for number in range(0, count, 37))
    strangers = sum(key_of(("another", number)) in bloom for number in range(2000))
    assert strangers < 0.05 * 2000
    assert bloom.held > 0.97 * count


class Sorted:
    """A table's keys."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def keys_after(self, last: bytes, count: int) -> tuple[bytes, bytes | None]:
        found = sorted(key for key in self.keys if key > last)[:count]
        return b"".join(key[:12] for key in found), found[-1] if found else None


class Interleaved(RuleBasedStateMachine):
    """Rows come and go while a filter is in use, and while another one is built."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.presence = Sorted(), Presence()
        self.presence.begin(0)

    @rule(keys=some_keys, steps=st.integers(0, 6))
    def write(self, keys: set[bytes], steps: int) -> None:
        self.step(steps)
        self.presence.add(keys)
        self.table.keys |= keys

    @rule(keys=some_keys)
    def delete(self, keys: set[bytes]) -> None:
        self.table.keys -= keys

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.presence.step(self.table, len(self.table.keys))

    @rule(keys=some_keys)
    def another_table(self, keys: set[bytes]) -> None:
        self.table.keys = set(keys)
        self.presence.begin(len(keys))

    @invariant()
    def nothing_that_is_there_is_denied(self) -> None:
        assert not [key for key in self.table.keys if self.presence.lacks(key)]


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """So that a filter fills up, and is built in many steps, with few keys."""
    if "full_filter" not in request.node.name:
        monkeypatch.setattr(presence, "STEP", 2)
        monkeypatch.setattr(presence, "SPARE", 0)


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_deletions_do_not_fill_it_for_ever():
    table, seen = Sorted(), Presence()
    seen.begin(0)
    for number in range(400):
        table.keys = {key_of(number)}
        seen.add(table.keys)
        while seen.step(table, 1):
            pass
    seen.add([])
    denied = sum(seen.lacks(key_of(number)) for number in range(400))
    assert denied > 380
    assert not seen.lacks(key_of(399))


def test_a_table_tells_its_keys_from_the_index_alone(tmp_path):
    """The values of a large cache are gigabytes."""
    prepare(tmp_path / "cache")
    table = Table(tmp_path / "cache", 64 * MiB)
    table.write([Row(key, b"x", b"", 2e9) for key in KEYS], 1e9)
    table._sql("INSERT INTO Cache(key, raw) VALUES (5, 1), (NULL, 1), ('text', 1), (x'00', 1)")
    seen, last = b"", b""
    while True:
        prefixes, end = table.keys_after(last, 7)
        if end is None:
            break
        seen, last = seen + prefixes, end
    plans = [
        row[3]
        for row in table._sql(
            "EXPLAIN QUERY PLAN SELECT key FROM Cache WHERE key > x'' AND length(key) = 32"
            " ORDER BY key LIMIT 7"
        )
    ]
    table.close()
    assert seen == b"".join(key[:12] for key in sorted(KEYS))
    assert len(plans) == 1
    assert "COVERING INDEX" in plans[0]


async def look(cache: TwoTier, key: bytes) -> Entry | None:
    """As a request does."""
    found = cache.find(key)
    return found if found is not None or cache.lacks(key) else await cache.fetch(key)


@pytest.fixture
async def opened(tmp_path, monkeypatch):
    """Starts caches without memory; and notes which keys their readers were asked for."""
    made: list[TwoTier] = []
    asked: list[bytes] = []
    submit = Readers.submit

    def noted(readers: Readers, key: bytes, deadline: float) -> object:
        asked.append(key)
        return submit(readers, key, deadline)

    monkeypatch.setattr(Readers, "submit", noted)

    async def start(folder: Path = tmp_path / "cache", **more: int) -> TwoTier:
        cache = TwoTier(section(**{"memory": 0, **more}), folder, SetClock())
        await cache.start()
        made.append(cache)
        return cache

    yield start, asked
    for cache in made:
        await cache.close()


async def built(cache: TwoTier) -> None:
    """The filter is in use."""
    async with asyncio.timeout(60):
        while cache._disk._writer.presence._used is None:  # type: ignore[union-attr]
            await cache.flush()


async def test_a_known_miss_asks_neither_a_thread_nor_the_loop(opened, monkeypatch):
    start, asked = opened
    cache = await start()
    await built(cache)
    loop = asyncio.get_running_loop()

    def forbidden(*args, **more):
        raise AssertionError("a known miss asked the loop for something")

    with monkeypatch.context() as patched:
        for name in (
            "create_task", "create_future", "call_soon", "call_later", "call_at",
            "call_soon_threadsafe", "run_in_executor",
        ):  # fmt: skip
            patched.setattr(loop, name, forbidden, raising=False)
        way = look(cache, KEYS[0])
        with pytest.raises(StopIteration) as end:
            way.send(None)
    assert end.value.value is None
    assert asked == []
    assert cache.stats().disk.misses == 1


async def test_what_was_kept_is_found_and_only_that_is_asked_for(opened):
    """On its way, written, after a restart while nothing is known yet, and when all is."""
    start, asked = opened
    cache = await start()
    await built(cache)
    now = cache._clock.now()
    for key in KEYS[:20]:
        keep(cache, key, entry(created=now))
        assert await look(cache, key) is not None
    await cache.flush()
    for _ in range(2):
        asked.clear()
        assert [await look(cache, key) is not None for key in KEYS] == [True] * 20 + [False] * 20
        assert asked == KEYS[:20]
        await cache.close()
        cache = await start()
        assert all([await look(cache, key) is not None for key in KEYS[:20]])
        await built(cache)


async def test_a_purge_is_forgotten_in_time(opened):
    start, asked = opened
    cache = await start()
    for key in KEYS:
        keep(cache, key, entry(created=cache._clock.now()))
    await built(cache)
    assert await cache.purge(ALL) == len(KEYS)
    seen = cache._disk._writer.presence
    while not all(map(seen.lacks, KEYS)):
        await cache.flush()
    assert [await look(cache, key) for key in KEYS] == [None] * len(KEYS)
    assert asked == []


async def test_a_disk_that_broke_and_came_back(opened, tmp_path):
    """The new table knows nothing of the old one's keys, and is asked until that is sure."""
    start, _ = opened
    cache = await start()
    keep(cache, KEYS[0], entry(created=cache._clock.now()))
    await built(cache)
    writer = cache._disk._writer
    await asyncio.wrap_future(writer.order(lambda _: writer.rebuild(ValueError("broken"))))
    assert writer.rebuilt == 1
    assert await look(cache, KEYS[0]) is None
    keep(cache, KEYS[1], kept := entry(created=cache._clock.now()))
    await cache.flush()
    assert await look(cache, KEYS[1]) == kept
    await built(cache)
    assert await look(cache, KEYS[1]) == kept
    assert writer.presence.lacks(KEYS[0])


async def test_another_process_s_rows_are_noticed(opened):
    """E5: with the writer's next turn nothing is taken for missing until all is known again."""
    start, _ = opened
    one, other = await start(), await start()
    await built(one)
    keep(other, KEYS[0], kept := entry(created=other._clock.now()))
    await other.flush()
    await one.flush()
    assert await one.fetch(KEYS[0]) == kept
    await built(one)
    assert await one.fetch(KEYS[0]) == kept
