"""What every store of keys promises, and what callers may rely on whatever is behind it (N2, C5,
F6; keys/table.py, keys/register.py, ports.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from gateway.config import Keys
from gateway.errors import Conflict, InvalidAPIKey, InvalidRequest, NotFound, StorageError
from gateway.exchange import CallerKind, Grant
from gateway.keys.register import Register
from gateway.keys.rules import Peppers, keyed, pepper_name
from gateway.keys.store import Callers
from gateway.keys.table import Store, StoreFailed, Table
from tests.keys.fake import PEPPERS, FakeStore, SetClock, a_key, a_team, started

ADMIN = "the-admin-token-of-this-test"
MakeStore = Callable[[], Store]


@pytest.fixture(params=["fake", "SQLite"])
def make(request, tmp_path) -> MakeStore:
    """A store on the same data each time; at most one is open."""
    fake = FakeStore()
    return (lambda: fake) if request.param == "fake" else lambda: Table(tmp_path / "keys.db")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


# Stores -------------------------------------------------------------------------------------------


def test_what_is_saved_is_there_after_a_start(make):
    bare = a_key(2, expires=None, previous=None, previous_until=None, team_id=None, grant=Grant())
    store = make()
    assert store.open() == ([], [])
    for key in (a_key(), bare, a_key(3, grant=Grant(controls=frozenset()))):
        store.save_key(key)
    store.save_team(a_team())
    store.close()
    keys, teams = make().open()
    assert keys == [a_key(), bare, a_key(3, grant=Grant(controls=frozenset()))]
    assert teams == [a_team()]


def test_a_record_takes_the_place_of_the_one_with_its_id(make):
    store = make()
    store.open()
    store.save_key(a_key())
    store.save_key(new := replace(a_key(), digest=b"n" * 32, revoked=5.0, grant=Grant()))
    store.save_team(a_team())
    store.save_team(blue := a_team("blue"))
    store.close()
    assert make().open() == ([new], [blue])


def test_names_of_unrevoked_keys_and_digests_are_unique(make):
    store = make()
    store.open()
    store.save_key(a_key(1))
    for other in (a_key(2, name="key-1"), a_key(2, digest=a_key(1).digest)):
        with pytest.raises(StoreFailed):
            store.save_key(other)
    store.save_key(a_key(1, revoked=1.0))
    store.save_key(a_key(2, name="key-1"))
    store.save_team(a_team())
    with pytest.raises(StoreFailed):
        store.save_team(a_team(team_id="01OTHER"))
    store.close()
    keys, teams = make().open()
    assert {key.id for key in keys} == {a_key(1).id, a_key(2).id}
    assert teams == [a_team()]


def test_a_team_that_is_dropped_is_gone(make):
    store = make()
    store.open()
    store.save_team(a_team())
    store.drop_team("01TEAM")
    store.drop_team("01TEAM")
    store.close()
    store.close()
    assert make().open() == ([], [])


# Callers ------------------------------------------------------------------------------------------


@pytest.fixture
async def house(make, clock) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        made = House(make, clock, stack)
        await made.start()
        yield made


class House:
    """A register and its callers, which a test can start anew."""

    def __init__(self, make: MakeStore, clock: SetClock, stack: AsyncExitStack) -> None:
        self.make, self.clock, self.stack = make, clock, stack
        self.register: Register
        self.callers: Callers

    async def start(self, peppers: Peppers = PEPPERS) -> None:
        await self.stack.aclose()
        self.register = await started(self.make(), self.clock, peppers)
        self.stack.push_async_callback(self.register.close)
        self.callers = Callers(
            Keys(), self.register, self.clock, admin_token=ADMIN, bind_is_loopback=True
        )

    def good(self, token: str) -> bool:
        """By either header, the same."""
        found = []
        for headers in ((f"Bearer {token}", None), (None, token)):
            try:
                found.append(self.callers.identify(*headers).kind is CallerKind.ISSUED)
            except InvalidAPIKey:
                found.append(False)
        assert found[0] == found[1]
        return found[0]


async def test_a_key_works_from_the_moment_it_is_made_and_after_a_start(house):
    grant = Grant(models=("gpt-*",), cache=True, limits={"rpm": 6})
    await house.register.set_team("red", lambda _: {"tpm": 9}, make=True)
    key, token = await house.register.create("alice", grant, team="red")
    for _ in range(2):
        caller = house.callers.identify(f"Bearer {token}")
        assert (caller.kind, caller.id, caller.name) == (CallerKind.ISSUED, key.id, "alice")
        assert (caller.team, caller.team_id) == ("red", key.team_id)
        assert caller.grant == replace(grant, team_limits={"tpm": 9})
        assert caller.token is None  # it is never forwarded
        await house.start()


async def test_all_that_is_not_good_is_refused_in_one_way(house):
    _, token = await house.register.create("alice", Grant())
    others = [
        token[:-1],
        token + "0",
        "gw_" + token[3:].swapcase(),
        "gw_",
        "gw_" + "0" * 43,
        token[:20],
    ]
    for other in others:
        with pytest.raises(InvalidAPIKey) as refusal:
            house.callers.identify(f"Bearer {other}")
        assert refusal.value.body() == InvalidAPIKey().body()
    assert house.good(token)


async def test_a_revoked_key_is_refused_at_once_and_for_ever(house):
    """C5, F6; its name is free for another one, which it never is."""
    _, token = await house.register.create("alice", Grant())
    assert house.good(token)
    revoked = await house.register.revoke("alice")
    assert revoked.revoked is not None
    assert not house.good(token)
    for again in (house.register.revoke("alice"), house.register.rotate("alice", 0)):
        with pytest.raises(NotFound):
            await again
    key, other = await house.register.create("alice", Grant())
    assert house.register.key("alice") == key
    await house.start()
    assert not house.good(token)
    assert house.good(other)


async def test_a_key_ends_when_it_is_said_to(house):
    _, token = await house.register.create("alice", Grant(), expires=house.clock.wall + 60)
    house.clock.wall += 59.9
    assert house.good(token)
    house.clock.wall += 0.1
    assert not house.good(token)  # remembered or not
    await house.start()
    assert not house.good(token)
    later = house.clock.wall + 5
    await house.register.update("alice", lambda key: replace(key, expires=later))
    assert house.good(token)


async def test_a_rotated_key_works_beside_the_old_one_for_its_grace(house):
    key, old = await house.register.create("alice", Grant())
    rotated, new = await house.register.rotate("alice", 60)
    assert rotated.id == key.id
    assert old != new
    await house.start()
    house.clock.wall += 59.9
    assert house.good(old)
    assert house.good(new)
    assert house.callers.identify(f"Bearer {old}").id == house.callers.identify(None, new).id
    house.clock.wall += 0.1
    assert not house.good(old)
    assert house.good(new)


async def test_a_rotation_without_grace_and_a_second_one_end_the_old_text(house):
    _, first = await house.register.create("alice", Grant())
    _, second = await house.register.rotate("alice", 60)
    _, third = await house.register.rotate("alice", 60)
    assert [house.good(one) for one in (first, second, third)] == [False, True, True]
    _, fourth = await house.register.rotate("alice", 0)
    assert [house.good(one) for one in (first, second, third, fourth)] == [False] * 3 + [True]
    await house.register.revoke("alice")
    assert not house.good(fourth)


async def test_a_grace_does_not_outlive_the_key(house):
    _, old = await house.register.create("alice", Grant(), expires=house.clock.wall + 10)
    _, new = await house.register.rotate("alice", 60)
    house.clock.wall += 10
    assert not house.good(old)
    assert not house.good(new)


async def test_a_change_is_seen_by_the_next_request(house):
    """F6: also by callers that are remembered, also a change to the team."""
    _, token = await house.register.create("alice", Grant())
    assert house.callers.identify(None, token).team is None
    await house.register.set_team("red", lambda _: {"rpm": 1}, make=True)
    red = house.register.team("red")
    await house.register.update("alice", lambda key: replace(key, team_id=red.id))
    caller = house.callers.identify(None, token)
    assert (caller.team, caller.grant.team_limits) == ("red", {"rpm": 1})
    await house.register.set_team("red", lambda old: {**old, "rpm": 2}, make=False)
    assert house.callers.identify(None, token).grant.team_limits == {"rpm": 2}
    with pytest.raises(Conflict, match="alice"):
        await house.register.remove_team("red")
    await house.register.revoke("alice")
    await house.register.remove_team("red")
    with pytest.raises(NotFound):
        house.register.team("red")


@pytest.mark.parametrize(
    "name",
    [*("", "a" * 65, "a b", "ä", "a/b", "..", "-", "a\n", "a%"),
     *("anonymous", "none", "pass-0123abcd", "01M836NEH5JAR7029R20KJ4A9B")],
)  # fmt: skip
async def test_what_is_no_name(house, name):
    with pytest.raises(InvalidRequest):
        await house.register.create(name, Grant())
    with pytest.raises(InvalidRequest):
        await house.register.set_team(name, dict, make=True)
    assert house.register.keys == []


@pytest.mark.parametrize("name", ["a", "A-b_c.d@e", "7", "x" * 64, "gw_x", "pass-word"])
async def test_what_is_a_name(house, name):
    key, _ = await house.register.create(name, Grant())
    assert house.register.key(name) == key
    with pytest.raises(Conflict):
        await house.register.create(name, Grant())


async def test_what_nobody_is_called(house):
    for work in (
        house.register.update("nobody", lambda key: key),
        house.register.rotate("nobody", 0),
        house.register.revoke("nobody"),
        house.register.create("alice", Grant(), team="nobody"),
        house.register.set_team("nobody", dict, make=False),
        house.register.remove_team("nobody"),
    ):
        with pytest.raises(NotFound, match="nobody"):
            await work
    assert house.register.keys == []


async def test_a_key_moves_to_the_new_pepper_when_it_is_used(house):
    """C3: two peppers; the old one can go once its keys have been met."""
    _, used = await house.register.create("used", Grant())
    _, unused = await house.register.create("unused", Grant())
    new = Peppers(b"n" * 64, PEPPERS.current)
    await house.start(new)
    assert house.good(used)
    assert house.good(used)
    await house.start(new)  # what was under way is whole
    words = {key.name: new.word(key.pepper) for key in house.register.keys}
    assert words == {"used": "current", "unused": "old"}
    assert house.register.key("used").digest == keyed(used, new.current)
    await house.start(Peppers(new.current))
    assert house.good(used)
    assert not house.good(unused)
    _, again = await house.register.rotate("unused", 0)
    assert house.good(again)
    assert house.register.key("unused").pepper == pepper_name(new.current)


async def test_a_grace_holds_over_a_change_of_the_pepper(house):
    _, old = await house.register.create("alice", Grant())
    _, new = await house.register.rotate("alice", 60)
    await house.start(Peppers(b"n" * 64, PEPPERS.current))
    assert house.good(new)
    assert house.good(old)


async def test_without_its_pepper_a_key_is_refused(house):
    _, token = await house.register.create("alice", Grant())
    await house.start(Peppers(b"x" * 64))
    assert not house.good(token)


async def test_a_register_without_a_pepper_makes_no_key(make, clock):
    register = Register(make(), None, clock)
    await register.start()
    with pytest.raises(StorageError, match="pepper"):
        await register.create("alice", Grant())
    await register.close()
