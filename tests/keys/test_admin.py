"""Keys and teams as the admin plane, the control socket and commands ask for them (N4; API3: no
mass assignment)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.admin import keys, teams
from gateway.admin.operation import Rooms
from gateway.config import Keys
from gateway.errors import Conflict, InvalidAPIKey, InvalidRequest, NotFound, StorageError
from gateway.exchange import Grant
from gateway.keys.store import Callers
from gateway.ports import PurgeFailed
from tests.cache.fake import FakeCache
from tests.cache.samples import entry, keep, key_of
from tests.keys.fake import NOW, FakeStore, SetClock, started

FLAT = {
    *("name", "id", "prefix", "state", "team", "models", "expires", "cache", "scope"),
    *("cache_controls", "log_bodies", "rpm", "tpm", "requests_per_day", "tokens_per_day"),
    *("tokens_per_month", "budget", "per", "max_parallel", "created", "revoked"),
    *("previous_until", "pepper"),
}


@pytest.fixture
async def rooms() -> AsyncIterator[Rooms]:
    clock = SetClock()
    register = await started(FakeStore(), clock)
    yield Rooms(FakeCache(clock), clock, keys=register)
    await register.close()


async def run(rooms: Rooms, operation: Any, **given: Any) -> Any:
    return await operation.run(rooms, given)


def blank(**set_: Any) -> dict[str, Any]:
    return dict.fromkeys(FLAT) | {"state": "active", "pepper": "current", "quota": {}} | set_


async def test_a_key_is_shown_whole_once(rooms):
    made = await run(rooms, keys.CREATE, name="alice")
    text = made.pop("key")
    assert list(made)[:2] == ["name", "id"]
    when = datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {"name": "alice", "id": made["id"], "prefix": text[:7], "created": when}
    assert made == blank(**known)
    shown = await run(rooms, keys.SHOW, name="alice")
    assert shown == made
    assert await run(rooms, keys.LIST) == [shown]
    changed = await run(rooms, keys.CHANGE, name="alice", rpm=1)
    assert changed == shown | {"rpm": 1}
    rotated = await run(rooms, keys.ROTATE, name="alice", grace="1h")
    assert rotated.pop("key") != text
    assert rotated["previous_until"] is not None
    assert (await run(rooms, keys.SHOW, name="alice")) == rotated
    assert text not in str([made, shown, changed, rotated, rooms.keys.keys])


ALL_TERMS = {
    "models": ["gpt-*", "o3"],
    "expires": "30d",
    "cache": "off",
    "scope": "team",
    "cache_controls": ["no-store", "ttl"],
    "log_bodies": "on",
    "rpm": 1,
    "tpm": 2,
    "requests_per_day": 3,
    "tokens_per_day": 4,
    "tokens_per_month": 5,
    "budget": "12.50",
    "per": "week",
    "max_parallel": 6,
}
STORED_LIMITS: dict[str, int | str] = {
    "rpm": 1,
    "tpm": 2,
    "requests_per_day": 3,
    "tokens_per_day": 4,
    "tokens_per_month": 5,
    "budget": 12_500_000_000,
    "per": "week",
    "max_parallel": 6,
}


async def test_all_terms_reach_the_caller(rooms):
    await run(rooms, teams.PUT, name="red", rpm=10)
    made = await run(rooms, keys.CREATE, name="alice", team="red", **ALL_TERMS)
    expires = datetime.fromtimestamp(NOW + 30 * 86_400, UTC)
    assert {name: made[name] for name in ALL_TERMS} == ALL_TERMS | {
        "budget": 12.5,
        "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    callers = Callers(Keys(), rooms.keys, rooms.clock, admin_token="x" * 20, bind_is_loopback=True)
    assert callers.identify(None, made["key"]).grant == Grant(
        models=("gpt-*", "o3"),
        cache=False,
        scope="team",
        controls=frozenset({"no-store", "ttl"}),
        log_bodies=True,
        limits=STORED_LIMITS,
        team_limits={"rpm": 10},
    )
    left = await run(rooms, keys.CHANGE, name="alice", tpm=None, models="none", budget="none")
    gone = {"tpm": None, "models": None, "budget": None, "per": None}
    assert left == {k: v for k, v in made.items() if k != "key"} | gone
    cleared = await run(
        rooms, keys.CHANGE, name="alice", team=None, **dict.fromkeys(ALL_TERMS.keys() - {"per"})
    )
    assert callers.identify(None, made["key"]).grant == Grant()
    kept = {name: made[name] for name in ("name", "id", "prefix", "created")}
    assert cleared == blank(**kept)


@pytest.mark.parametrize(
    ("terms", "shown"),
    [
        ({"models": "gpt-*, o3,,gpt-*"}, {"models": ["gpt-*", "o3"]}),
        ({"cache": True, "log_bodies": False}, {"cache": "on", "log_bodies": "off"}),
        ({"cache_controls": "ttl,no-store"}, {"cache_controls": ["no-store", "ttl"]}),
        ({"cache_controls": []}, {"cache_controls": []}),
        ({"cache_controls": ""}, {"cache_controls": []}),
        ({"budget": 5, "per": "total"}, {"budget": 5.0}),
        ({"budget": 1e-09, "per": "day"}, {"budget": 1e-09}),
        ({"budget": "999999.000000001", "per": "day"}, {"budget": 999999.000000001}),
        ({"expires": "2030-12-31"}, {"expires": "2030-12-31T00:00:00Z"}),
        ({"expires": "2030-12-31T18:00:00+05:00"}, {"expires": "2030-12-31T13:00:00Z"}),
        ({"expires": "1h30m"}, {"expires": "2025-06-15T16:36:40Z"}),
        (dict.fromkeys(ALL_TERMS), dict.fromkeys(ALL_TERMS)),
        (dict.fromkeys(ALL_TERMS, "none"), dict.fromkeys(ALL_TERMS)),
    ],
    ids=repr,
)
async def test_other_ways_to_say_it(rooms, terms, shown):
    made = await run(rooms, keys.CREATE, name="alice", **terms)
    assert {name: made[name] for name in shown} == shown


@pytest.mark.parametrize(
    "terms",
    [
        *({name: value} for name in ("rpm", "max_parallel") for value in (0, -1, 1.5, "5", True)),
        {"tokens_per_day": 10**16},
        {"budget": "5"},
        {"per": "day"},
        *({"budget": value, "per": "day"} for value in (0, "0", -1, "-1", "1e3", "x", "", True)),
        {"budget": "1", "per": "year"},
        {"models": []},
        {"models": ""},
        {"models": ["a\nb"]},
        {"models": ["x" * 201]},
        {"models": [f"m{number}" for number in range(101)]},
        {"models": [1]},
        {"expires": "0"},
        {"expires": "30"},
        {"expires": "2020-01-01"},
        {"expires": "soon"},
        {"expires": ""},
        {"expires": "9999-12-31T23:59:59-23:00"},
        {"expires": 30},
        {"cache": "yes"},
        {"scope": "all"},
        {"cache_controls": ["no-cache", "nonsense"]},
        {"log_bodies": 1},
        *({name: "x"} for name in ("id", "key", "digest", "revoked", "created", "team_id")),
        {"limits": {"rpm": 1}},
        {"Rpm": 1},
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_not_understood_is_refused_and_changes_nothing(rooms, terms):
    await run(rooms, keys.CREATE, name="bob", budget=7, per="day", rpm=9)
    before = rooms.keys.keys
    with pytest.raises(InvalidRequest):
        await run(rooms, keys.CREATE, name="alice", **terms)
    if terms not in ({"budget": "5"}, {"per": "day"}):  # bob has the other half
        with pytest.raises(InvalidRequest):
            await run(rooms, keys.CHANGE, name="bob", **terms)
        assert rooms.keys.keys == before


@given(st.text(max_size=40))
def test_no_text_of_a_time_raises_anything_else(text):
    try:
        asked = keys.Terms(name="x", expires=text)
        end = keys._expires(None, asked, NOW)
    except InvalidRequest:
        return
    assert end is None or end > NOW


async def test_half_of_a_budget_can_be_changed(rooms):
    await run(rooms, keys.CREATE, name="bob", budget=7, per="day")
    assert (await run(rooms, keys.CHANGE, name="bob", per="week"))["budget"] == 7
    assert (await run(rooms, keys.CHANGE, name="bob", budget=8))["per"] == "week"
    with pytest.raises(InvalidRequest):
        await run(rooms, keys.CHANGE, name="bob", per="none")
    assert (await run(rooms, keys.CHANGE, name="bob", budget="none"))["per"] is None


async def test_states(rooms):
    await run(rooms, keys.CREATE, name="old", expires="1h")
    await run(rooms, keys.CREATE, name="gone")
    await run(rooms, keys.CREATE, name="here")
    revoked = await run(rooms, keys.REVOKE, name="gone")
    assert (revoked["state"], revoked["purged"]) == ("revoked", 0)
    rooms.clock.wall += 3600
    states = {key["name"]: key["state"] for key in await run(rooms, keys.LIST)}
    assert states == {"old": "expired", "gone": "revoked", "here": "active"}
    assert (await run(rooms, keys.SHOW, name="gone"))["revoked"] == revoked["revoked"]
    assert (await run(rooms, keys.CHANGE, name="old", expires="none"))["state"] == "active"
    with pytest.raises(NotFound):
        await run(rooms, keys.CHANGE, name="gone", rpm=1)


async def test_a_revoked_key_s_answers_are_purged(rooms):
    """And no other's: entries go by the key's id, which nobody else has."""
    alice = await run(rooms, keys.CREATE, name="alice")
    bob = await run(rooms, keys.CREATE, name="bob")
    for key in (alice, bob):
        cached = entry(created=NOW)
        assert cached.json is not None
        cached = replace(cached, json=replace(cached.json, key_id=key["id"]))
        assert keep(rooms.cache, key_of(key["name"]), cached)
    assert (await run(rooms, keys.REVOKE, name="alice"))["purged"] == 1
    assert rooms.cache.find(key_of("alice")) is None
    assert rooms.cache.find(key_of("bob")) is not None


async def test_a_purge_that_fails_leaves_the_key_revoked_and_says_so(rooms):
    made = await run(rooms, keys.CREATE, name="alice")
    callers = Callers(Keys(), rooms.keys, rooms.clock, admin_token="x" * 20, bind_is_loopback=True)

    async def fails(_):
        raise PurgeFailed("the disk is locked")

    rooms.cache.purge = fails
    with pytest.raises(StorageError, match=r"is revoked, but .* the disk is locked"):
        await run(rooms, keys.REVOKE, name="alice")
    with pytest.raises(InvalidAPIKey):
        callers.identify(None, made["key"])


@pytest.mark.parametrize("grace", ["", "24", "1x", "-1h", "40000d"])
async def test_a_grace_that_is_none(rooms, grace):
    made = await run(rooms, keys.CREATE, name="alice")
    with pytest.raises(InvalidRequest, match="grace"):
        await run(rooms, keys.ROTATE, name="alice", grace=grace)
    assert (await run(rooms, keys.SHOW, name="alice"))["prefix"] == made["prefix"]


async def test_teams(rooms):
    red = await run(rooms, teams.PUT, name="red", tpm=100)
    assert red | {"id": "", "created": ""} == {
        **dict.fromkeys(red), "name": "red", "id": "", "created": "", "keys": [], "tpm": 100,
        "quota": {},
    }  # fmt: skip
    again = await run(rooms, teams.PUT, name="red", budget=9, per="total")
    assert again == red | {"budget": 9.0, "per": "total"}
    assert await run(rooms, teams.CHANGE, name="red", tpm="none") == again | {"tpm": None}
    await run(rooms, keys.CREATE, name="alice", team="red")
    assert (await run(rooms, teams.SHOW, name="red"))["keys"] == ["alice"]
    await run(rooms, teams.PUT, name="blue")
    assert [team["name"] for team in await run(rooms, teams.LIST)] == ["blue", "red"]
    with pytest.raises(Conflict):
        await run(rooms, teams.REMOVE, name="red")
    await run(rooms, keys.CHANGE, name="alice", team="blue")
    assert (await run(rooms, teams.REMOVE, name="red"))["name"] == "red"
    for operation in (teams.SHOW, teams.CHANGE, teams.REMOVE):
        with pytest.raises(NotFound):
            await run(rooms, operation, name="red")
    with pytest.raises(InvalidRequest):
        await run(rooms, teams.PUT, name="red", models=["x"])
