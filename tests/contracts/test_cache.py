"""What every `Cache` promises, whatever is behind the port (C4, C7, D2, D10; ports.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from gateway.cache.store import NoCache, TwoTier
from gateway.entry import Selector
from gateway.ports import Cache
from tests.cache.fake import FakeCache
from tests.cache.samples import ALL, SetClock, ask, entry, keep, key_of, recording, section

A, B, C = key_of("a"), key_of("b"), key_of("c")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["fake", "memory", "two tiers", "disk alone"])
async def cache(request, clock, tmp_path) -> AsyncIterator[Cache]:
    """`disk alone`: no entry fits into memory, so each answer comes from below."""
    made: Cache
    if request.param == "fake":
        made = FakeCache(clock)
    elif request.param == "memory":
        made = TwoTier(section(size_limit=0), tmp_path / "cache", clock)
    else:
        memory = 0 if request.param == "disk alone" else 1 << 24
        made = TwoTier(section(memory=memory), tmp_path / "cache", clock)
    await made.start()
    yield made
    await made.close()


async def settled(cache: Cache) -> None:
    """What was stored is where it will stay."""
    if isinstance(cache, TwoTier):
        await cache.flush()


async def test_what_is_stored_is_found_at_once_and_later(cache, clock):
    """Who has read an answer whole and asks again gets it (design, "What may be kept")."""
    kept = entry(created=clock.now())
    assert await ask(cache, A) is None
    assert keep(cache, A, kept)
    assert cache.find(A) == kept
    await settled(cache)
    assert await ask(cache, A) == kept
    assert await ask(cache, B) is None


async def test_what_it_lacks_is_not_found_below(cache, clock):
    """Who is told so need not wait for a disk; on doubt it is not said."""
    keep(cache, A, entry(created=clock.now()))
    await settled(cache)
    for key in (A, B):
        found = cache.find(key)
        assert not (cache.lacks(key) and found is None and await cache.fetch(key) is not None)


async def test_the_later_landing_wins(cache, clock):
    """Also where the earlier one has reached the disk and the later one has not."""
    old = entry(b"old", created=clock.now())
    keep(cache, A, old)
    await settled(cache)
    new = entry(b"new", created=clock.now() + 1, request_id="01NEW")
    keep(cache, A, new)
    assert await ask(cache, A) == new
    await settled(cache)
    assert await ask(cache, A) == new


async def test_both_forms_stand_beside_each_other_and_expire_apart(cache, clock):
    stream = recording(b"data: [DONE]\n\n", created=clock.now(), ttl=60, request_id="01S")
    both = replace(entry(created=clock.now(), ttl=600), stream=stream)
    keep(cache, A, both)
    await settled(cache)
    assert await ask(cache, A) == both
    clock.wall += 61
    left = await ask(cache, A)
    assert left == replace(both, stream=None)


async def test_nothing_is_served_after_its_time(cache, clock):
    keep(cache, A, entry(created=clock.now(), ttl=60))
    await settled(cache)
    clock.wall += 59.5
    assert await ask(cache, A) is not None
    clock.wall += 0.5
    assert await ask(cache, A) is None


async def test_what_is_stale_already_is_not_kept(cache, clock):
    assert not keep(cache, A, entry(created=clock.now() - 61, ttl=60))
    assert not keep(cache, A, entry(created=clock.now(), ttl=0))
    assert await ask(cache, A) is None


async def test_two_scopes_never_meet(cache, clock):
    """C4: the scope is in the digest; a purge of one leaves the other."""
    of_alice, of_bob = entry(created=clock.now()), entry(created=clock.now(), key="bob")
    keep(cache, A, of_alice)
    assert await ask(cache, B) is None
    keep(cache, B, of_bob)
    await settled(cache)
    assert await cache.purge(Selector(key="bob")) == 1
    assert await ask(cache, A) == of_alice
    assert await ask(cache, B) is None


SELECTORS = [
    (ALL, "abc"),
    (Selector(), ""),
    (Selector(digest=A), "a"),
    (Selector(digest=key_of("unknown")), ""),
    (Selector(key="alice"), "ab"),
    (Selector(key="id-of-alice"), "ab"),
    (Selector(key="alic"), ""),
    (Selector(model="gpt-4o"), "a"),
    (Selector(model="gpt-*"), "ac"),
    (Selector(model="*"), "abc"),
    (Selector(key="alice", model="gpt-*"), "a"),
    (Selector(key="bob", digest=A), ""),
    (Selector(request="01B"), "b"),
    (Selector(request="01ANSWERED-FROM-C"), "c"),
    (Selector(request="01ANSWERED-FROM-C", key="alice"), ""),
    (Selector(request="unknown"), ""),
]


@pytest.mark.parametrize(("selector", "taken"), SELECTORS, ids=str)
@pytest.mark.parametrize("late", [False, True], ids=["settled", "queued"])
async def test_a_purge_takes_what_it_says_and_no_more(cache, clock, selector, taken, late):
    """C7: holds when it returns, also for stores that are still on their way to the disk."""
    now = clock.now()
    kept = {
        "a": entry(b"a", created=now, model="gpt-4o", request_id="01A"),
        "b": entry(b"b", created=now, model="llama", request_id="01B"),
        "c": entry(b"c", created=now, model="gpt-5", request_id="01C", key="bob"),
    }
    for name, one in kept.items():
        keep(cache, key_of(name), one)
    cache.remember("01ANSWERED-FROM-C", C)
    if not late:
        await settled(cache)
    assert await cache.purge(selector) == len(taken)
    for name, one in kept.items():
        assert await ask(cache, key_of(name)) == (None if name in taken else one), name
    await settled(cache)
    for name, one in kept.items():
        assert await ask(cache, key_of(name)) == (None if name in taken else one), name


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        (ALL, False),
        (Selector(digest=A), False),
        (Selector(key="alice"), False),
        (Selector(model="gpt-*"), False),
        (Selector(request="01REQUEST"), False),
        (Selector(digest=B), True),
        (Selector(key="bob"), True),
        (Selector(model="llama"), True),
        (Selector(), True),
    ],
    ids=repr,
)
async def test_what_took_off_before_a_purge_is_not_kept_when_it_lands(cache, clock, selector, kept):
    ticket = cache.ticket()
    await cache.purge(selector)
    assert keep(cache, A, entry(created=clock.now()), ticket) is kept
    assert (await ask(cache, A) is not None) is kept
    assert keep(cache, A, entry(created=clock.now()))  # what took off after it is kept


async def test_a_flight_for_the_entry_of_a_purged_request_is_not_kept(cache, clock):
    """The purge names a request that was answered from A; a call for A was in the air."""
    keep(cache, A, entry(created=clock.now()))
    cache.remember("01HIT", A)
    ticket = cache.ticket()
    assert await cache.purge(Selector(request="01HIT")) == 1
    assert not keep(cache, A, entry(created=clock.now(), request_id="01OTHER"), ticket)


async def test_requests_lead_to_their_entries(cache, clock):
    kept = entry(created=clock.now(), request_id="01STORED")
    keep(cache, A, kept)
    cache.remember("01HIT", A)
    await settled(cache)
    assert await cache.lookup_request("01STORED") == (A, kept)
    assert await cache.lookup_request("01HIT") == (A, kept)
    assert await cache.lookup_request("01UNKNOWN") is None
    await cache.purge(Selector(digest=A))
    assert await cache.lookup_request("01HIT") is None


async def test_the_last_ten_thousand_answered_are_known(cache, clock):
    """Contract, `cache show`; and no more, D10."""
    keep(cache, A, entry(created=clock.now(), request_id="01STORED"))
    for number in range(10_000):
        cache.remember(f"01HIT{number}", A)
    assert await cache.lookup_request("01HIT0") is not None
    cache.remember("01ONE-MORE", A)
    assert await cache.lookup_request("01HIT0") is None
    assert await cache.lookup_request("01HIT1") is not None


async def test_off_is_an_object_that_keeps_nothing(clock):
    cache: Cache = NoCache()
    await cache.start()
    assert not keep(cache, A, entry(created=clock.now()))
    cache.remember("01", A)
    assert await ask(cache, A) is None
    assert await cache.lookup_request("01") is None
    assert await cache.purge(ALL) == 0
    assert not cache.stats().enabled
    await cache.close()
