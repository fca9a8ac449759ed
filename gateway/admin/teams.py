"""Teams: keys that share limits."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from gateway.admin import limits
from gateway.admin.limits import LimitArguments
from gateway.admin.operation import Arguments, Operation, Rooms, timestamp
from gateway.keys.records import Team

Name = Annotated[str, Meta(description="The team's name.")]


class List(Arguments, frozen=True):
    """Nothing."""


class One(Arguments, frozen=True):
    name: Name


class Set(LimitArguments, frozen=True, kw_only=True):
    name: Name


async def listed(rooms: Rooms, _: List) -> list[dict[str, Any]]:
    """All, by name."""
    return [await _shown(rooms, team) for team in rooms.keys.teams]


async def show(rooms: Rooms, asked: One) -> dict[str, Any]:
    """One team."""
    return await _shown(rooms, rooms.keys.team(asked.name))


async def put(rooms: Rooms, asked: Set) -> dict[str, Any]:
    """Limits of a team; it is made if need be."""
    return await _set(rooms, asked, make=True)


async def change(rooms: Rooms, asked: Set) -> dict[str, Any]:
    """Limits of a team that is there."""
    return await _set(rooms, asked, make=False)


async def _set(rooms: Rooms, asked: Set, *, make: bool) -> dict[str, Any]:
    change = partial(limits.changed, asked=asked)
    return await _shown(rooms, await rooms.keys.set_team(asked.name, change, make=make))


async def remove(rooms: Rooms, asked: One) -> dict[str, Any]:
    """One that has no keys any more."""
    return await _shown(rooms, await rooms.keys.remove_team(asked.name))


async def _shown(rooms: Rooms, team: Team) -> dict[str, Any]:
    keys = [k.name for k in rooms.keys.keys if k.team_id == team.id and k.revoked is None]
    return {
        "name": team.name,
        "id": team.id,
        "keys": keys,
        **limits.shown(team.limits),
        "created": timestamp(team.created),
        "quota": limits.standing(await rooms.standing("team", team.id, team.name, team.limits)),
    }


_UNKNOWN = {404: "No such team."}

LIST = Operation("GET", "/admin/teams", "All teams.", List, listed, "An array of teams.")
PUT = Operation(
    "POST", "/admin/teams", "Set a team's limits; it is made if need be.", Set, put, "The team."
)
SHOW = Operation("GET", "/admin/teams/{name}", "One team.", One, show, "The team.", _UNKNOWN)
CHANGE = Operation(
    "PATCH", "/admin/teams/{name}", "Set a team's limits.", Set, change, "The team.", _UNKNOWN
)
REMOVE = Operation(
    "DELETE",
    "/admin/teams/{name}",
    "Remove a team that has no keys.",
    One,
    remove,
    "What it was.",
    {**_UNKNOWN, 409: "It has keys that are not revoked."},
)
OPERATIONS = (LIST, PUT, SHOW, CHANGE, REMOVE)
