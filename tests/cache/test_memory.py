"""The tier in memory: bounded, least recently used first (D10, E6)."""

from __future__ import annotations

import inspect

from gateway.cache.memory import Memory
from gateway.cache.store import TwoTier
from gateway.entry import Selector, weight
from tests.cache.samples import entry, key_of

A, B, C = key_of("a"), key_of("b"), key_of("c")
NOW = 1000.0
ONE = weight(entry(b"x" * 1000, created=NOW))


def made(letter: bytes = b"x", **more: object):
    return entry(letter * 1000, created=NOW, **more)  # type: ignore[arg-type]


def test_the_least_recently_used_goes_first():
    memory = Memory(2 * ONE)
    memory.put(A, made())
    memory.put(B, made())
    assert memory.find(A, NOW) is not None  # so B is the older one now
    memory.put(C, made())
    assert [memory.peek(key, NOW) is not None for key in (A, B, C)] == [True, False, True]
    figures = memory.figures()
    assert (figures.entries, figures.size, figures.limit) == (2, 2 * ONE, 2 * ONE)
    assert (figures.hits, figures.misses) == (1, 0)
    assert figures.evictions == {"expired": 0, "size": 1, "purged": 0}


def test_bytes_stay_within_the_limit_whatever_comes():
    memory = Memory(10 * ONE)
    for number in range(500):
        memory.put(key_of(number % 37), entry(b"x" * (number * 7 % 4000), created=NOW))
        figures = memory.figures()
        assert 0 < figures.size <= figures.limit


def test_an_entry_above_the_limit_takes_no_place_and_leaves_no_older_one():
    memory = Memory(2 * ONE)
    memory.put(A, made())
    memory.put(B, made())
    memory.put(A, entry(b"x" * 3 * ONE, created=NOW))
    assert memory.peek(A, NOW) is None
    assert memory.peek(B, NOW) is not None
    assert memory.figures().size == ONE


def test_the_same_key_counts_once():
    memory = Memory(10 * ONE)
    for _ in range(5):
        memory.put(A, made())
    assert (memory.figures().entries, memory.figures().size) == (1, ONE)


def test_what_has_expired_goes_on_sight():
    memory = Memory(10 * ONE)
    memory.put(A, made(ttl=60))
    assert memory.find(A, NOW + 61) is None
    assert (memory.figures().entries, memory.figures().size) == (0, 0)
    assert memory.figures().evictions["expired"] == 1
    assert memory.figures().misses == 1


def test_what_has_expired_goes_without_being_asked_for():
    """E6, in steps of a bounded size."""
    memory = Memory(100 * ONE)
    for number in range(20):
        memory.put(key_of(number), made(ttl=60 if number % 2 else 600))
    for _ in range(4):
        memory.sweep(NOW + 61, 5)
    assert memory.figures().entries == 10
    assert memory.figures().size == 10 * ONE
    memory.sweep(NOW + 61, 1000)
    assert memory.figures().entries == 10


def test_a_smaller_limit_holds_at_once():
    memory = Memory(10 * ONE)
    for number in range(10):
        memory.put(key_of(number), made())
    memory.resize(3 * ONE)
    assert memory.figures().entries == 3
    memory.resize(0)
    assert (memory.figures().entries, memory.figures().size) == (0, 0)


def test_a_purge_gives_the_bytes_back():
    memory = Memory(10 * ONE)
    memory.put(A, made())
    memory.put(B, made(key="bob"))
    assert memory.purge(Selector(key="bob"), memory.keys()) == {B}
    assert memory.purge(Selector(digest=B), [B]) == set()
    assert memory.figures().size == ONE
    assert memory.figures().evictions["purged"] == 1


def test_finding_awaits_nothing_and_opens_nothing():
    """A hit from memory does no disk access and creates no task (design)."""
    for method in (TwoTier.find, TwoTier.store, TwoTier.ticket, TwoTier.remember, Memory.find):
        assert not inspect.iscoroutinefunction(method)
