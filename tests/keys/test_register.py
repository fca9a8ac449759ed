"""Changes of keys when things fail, cross and are cut off (N2, C5; keys/register.py)."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from gateway.config import Keys
from gateway.errors import InvalidAPIKey, StorageError
from gateway.exchange import Grant
from gateway.keys.register import nothing_kept
from gateway.keys.rules import Peppers
from gateway.keys.store import Callers
from tests.keys.fake import PEPPERS, FakeStore, SetClock, started

ADMIN = "the-admin-token-of-this-test"


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def callers(register, clock) -> Callers:
    return Callers(Keys(), register, clock, admin_token=ADMIN, bind_is_loopback=True)


class SlowStore(FakeStore):
    """Saves a key only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def save_key(self, key):
        self.asked.set()
        assert self.go.wait(20)
        super().save_key(key)


async def test_a_disk_that_fails_changes_nothing_in_memory(store, clock):
    register = await started(store, clock)
    key, token = await register.create("alice", Grant())
    store.failing = "the disk is full"
    for work in (
        register.create("bob", Grant()),
        register.rotate("alice", 0),
        register.update("alice", lambda key: replace(key, expires=1.0)),
        register.set_team("red", dict, make=True),
    ):
        with pytest.raises(StorageError, match="Nothing was written: the disk is full"):
            await work
    assert register.keys == [key]
    assert register.teams == []
    assert callers(register, clock).identify(None, token).name == "alice"


async def test_a_revoked_key_is_refused_also_where_the_disk_fails(store, clock):
    """Who revokes a key that leaked is not told to come again later; and can come again."""
    register = await started(store, clock)
    _, token = await register.create("alice", Grant())
    house = callers(register, clock)
    assert house.identify(None, token)
    store.failing = "the disk is full"
    for _ in range(2):
        with pytest.raises(StorageError, match="not on disk"):
            await register.revoke("alice")
        with pytest.raises(InvalidAPIKey):
            house.identify(None, token)
    store.failing = None
    clock.wall += 60
    revoked = await register.revoke("alice")
    assert revoked.revoked == clock.wall - 60
    assert store.keys[revoked.id] == revoked


async def test_a_change_is_whole_also_where_who_asked_has_left(clock):
    """A cancelled request must not leave the file and memory at odds."""
    store = SlowStore()
    register = await started(store, clock)
    asked = asyncio.get_running_loop().create_task(register.create("alice", Grant()))
    await asyncio.to_thread(store.asked.wait, 20)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert register.keys == []
    store.go.set()
    await register.close()
    assert register.keys == list(store.keys.values())
    assert len(register.keys) == 1


async def test_the_loop_goes_on_while_the_disk_is_slow(clock):
    """The hot path does no database access: callers are met while a change is written."""
    store = SlowStore()
    store.go.set()
    register = await started(store, clock)
    _, token = await register.create("alice", Grant())
    house = callers(register, clock)
    store.go.clear()
    store.asked.clear()
    asked = asyncio.get_running_loop().create_task(register.create("bob", Grant()))
    await asyncio.to_thread(store.asked.wait, 20)
    before = list(store.calls)
    assert house.identify(None, token).name == "alice"
    with pytest.raises(InvalidAPIKey):
        house.identify(None, "gw_unknown")
    assert store.calls == before
    store.go.set()
    await asked
    await register.close()


async def test_changes_made_at_once_all_count(store, clock):
    """Each is made on what the one before left."""
    register = await started(store, clock)
    await register.create("alice", Grant(limits={"rpm": 0}))

    def more(key):
        count = key.grant.limits["rpm"] + 1
        return replace(key, grant=replace(key.grant, limits={"rpm": count}))

    await asyncio.gather(*(register.update("alice", more) for _ in range(20)))
    assert register.key("alice").grant.limits == {"rpm": 20}
    made = await asyncio.gather(
        *(register.create("bob", Grant()) for _ in range(5)), return_exceptions=True
    )
    assert len([one for one in made if isinstance(one, tuple)]) == 1


async def test_rotating_for_ever_takes_no_more_memory(store, clock):
    register = await started(store, clock)
    await register.create("alice", Grant())
    for _ in range(5):
        await register.rotate("alice", 60)
    assert len(register._digests) == 2


async def test_a_renewal_that_fails_costs_nothing(store, clock, caplog):
    register = await started(store, clock)
    _, token = await register.create("alice", Grant())
    both = Peppers(b"n" * 64, PEPPERS.current)
    register = await started(store, clock, both)
    store.failing = "the disk is full"
    house = callers(register, clock)
    assert house.identify(None, token).name == "alice"
    await asyncio.gather(*register._tasks)
    assert "stays under the old pepper" in caplog.text
    assert token not in caplog.text
    store.failing = None
    assert house.identify(None, token).name == "alice"
    await register.close()
    assert both.word(store.keys[register.key("alice").id].pepper) == "current"


async def test_a_rotation_that_overtakes_a_renewal_wins(store, clock):
    register = await started(store, clock)
    _, old = await register.create("alice", Grant())
    register = await started(store, clock, Peppers(b"n" * 64, PEPPERS.current))
    house = callers(register, clock)
    rotating = asyncio.get_running_loop().create_task(register.rotate("alice", 0))
    await asyncio.sleep(0)  # it has its turn
    assert house.identify(None, old)
    _, new = await rotating
    await register.close()
    assert house.identify(None, new)
    with pytest.raises(InvalidAPIKey):
        house.identify(None, old)


async def test_nowhere_nothing_can_be_made():
    register = nothing_kept()
    await register.start()
    assert (register.keys, register.teams) == ([], [])
    with pytest.raises(StorageError):
        await register.set_team("red", dict, make=True)
    await register.close()


async def test_no_secret_in_a_repr(store, clock):
    """G7."""
    register = await started(store, clock)
    key, token = await register.create("alice", Grant())
    house = callers(register, clock)
    caller = house.identify(None, token)
    said = f"{key!r}{caller!r}{register!r}{house!r}{register.peppers!r}{vars(register)!r}"
    assert token not in said
    assert PEPPERS.current.decode() not in said
    assert token[3:20] not in repr(store.keys)
