"""Issued keys: made, shown, changed, rotated, revoked.

Rule: the text of a key is in the one answer that made it, and in no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from gateway.admin import limits
from gateway.admin.limits import NONE, LimitArguments, given
from gateway.admin.operation import Arguments, Operation, Rooms, timestamp
from gateway.cache.rules import ALL
from gateway.config.units import parse_duration
from gateway.entry import Selector
from gateway.errors import InvalidRequest, StorageError
from gateway.exchange import Grant
from gateway.keys.records import Key
from gateway.ports import PurgeFailed

PATTERNS, PATTERN = 100, 200  # at most so many in a key's list, each of so many characters
_LAST = 253_402_300_799  # wall seconds of the last moment of the year 9999

Name = Annotated[str, Meta(description="The key's name.")]
Text: TypeAlias = str | UnsetType | None
Words: TypeAlias = str | list[str] | UnsetType | None  # a string has them between commas
Switch: TypeAlias = bool | Literal["on", "off", "none"] | UnsetType | None
Scope: TypeAlias = Literal["key", "team", "global", "none"] | UnsetType | None


class List(Arguments, frozen=True):
    """Nothing."""


class One(Arguments, frozen=True):
    name: Name


class Rotate(Arguments, frozen=True):
    name: Name
    grace: Annotated[
        str, Meta(description="How long the old text stays good, as 24h; 0: not at all.")
    ] = "0"


class Terms(LimitArguments, frozen=True, kw_only=True):
    """What a key may be given. What is not given stays; `none` or null takes it away."""

    name: Name
    team: Annotated[Text, Meta(description="The name of its team.")] = UNSET
    models: Annotated[
        Words, Meta(description="Models it may ask for; `*` stands for any characters.")
    ] = UNSET
    expires: Annotated[
        Text, Meta(description="30d from now, or a date or time (UTC, if it names no other).")
    ] = UNSET
    cache: Annotated[Switch, Meta(description="Is the cache for it.")] = UNSET
    scope: Annotated[Scope, Meta(description="With whom it shares kept answers.")] = UNSET
    cache_controls: Annotated[
        Words, Meta(description=f"Which of {', '.join(sorted(ALL))} its requests may use.")
    ] = UNSET
    log_bodies: Annotated[Switch, Meta(description="May its requests be logged whole.")] = UNSET


async def listed(rooms: Rooms, _: List) -> list[dict[str, Any]]:
    """All, revoked ones too, the oldest first."""
    return [await _shown(rooms, key) for key in rooms.keys.keys]


async def show(rooms: Rooms, asked: One) -> dict[str, Any]:
    """One key; of revoked ones with that name the youngest."""
    return await _shown(rooms, rooms.keys.key(asked.name))


async def create(rooms: Rooms, asked: Terms) -> dict[str, Any]:
    """A new key, and its text."""
    key, text = await rooms.keys.create(
        asked.name,
        _grant(Grant(), asked),
        team=given(asked.team, None),
        expires=_expires(None, asked, rooms.clock.now()),
    )
    return await _with_text(rooms, key, text)


async def change(rooms: Rooms, asked: Terms) -> dict[str, Any]:
    """Other terms; they hold from the next request on."""
    register, now = rooms.keys, rooms.clock.now()

    def changed(key: Key) -> Key:
        team_id = key.team_id
        if asked.team is not UNSET:
            name = given(asked.team, None)
            team_id = None if name is None else register.team(name).id
        expires = _expires(key.expires, asked, now)
        return replace(key, grant=_grant(key.grant, asked), team_id=team_id, expires=expires)

    return await _shown(rooms, await register.update(asked.name, changed))


async def rotate(rooms: Rooms, asked: Rotate) -> dict[str, Any]:
    """A new text in the place of the old one."""
    try:
        grace = parse_duration(asked.grace)
    except ValueError as error:
        raise InvalidRequest(f"grace: {error}.", param="grace") from None
    return await _with_text(rooms, *await rooms.keys.rotate(asked.name, grace))


async def revoke(rooms: Rooms, asked: One) -> dict[str, Any]:
    """It is refused from now on, and what is kept of its answers goes."""
    key = await rooms.keys.revoke(asked.name)
    try:
        purged = await rooms.cache.purge(Selector(key=key.id))
    except PurgeFailed as error:
        raise StorageError(
            "The key is revoked, but some of its kept answers may still be there; purge the cache "
            f"by the key's name. {error}"
        ) from error
    return {**await _shown(rooms, key), "purged": purged}


# What is asked -----------------------------------------------------------------------------------


def _grant(old: Grant, asked: Terms) -> Grant:
    return Grant(
        models=_models(old.models, asked.models),
        cache=_switch(asked.cache, old.cache),
        scope=given(asked.scope, old.scope),
        controls=_controls(old.controls, asked.cache_controls),
        log_bodies=_switch(asked.log_bodies, old.log_bodies),
        limits=limits.changed(old.limits, asked),
    )


def _switch(value: Switch, old: bool | None) -> bool | None:
    """In JSON true and false do as well."""
    if isinstance(value, UnsetType):
        return old
    return {"on": True, "off": False, NONE: None}[value] if isinstance(value, str) else value


def _models(old: tuple[str, ...], asked: Words) -> tuple[str, ...]:
    if asked is UNSET:
        return old
    if asked is None or asked == NONE:
        return ()
    patterns = _words(asked)
    if not patterns or len(patterns) > PATTERNS:
        raise InvalidRequest(f"models: 1 to {PATTERNS} patterns; 'none' allows all.")
    if not all(0 < len(one) <= PATTERN and one.isprintable() for one in patterns):
        raise InvalidRequest(f"models: a pattern has 1 to {PATTERN} visible characters.")
    return patterns


def _controls(old: frozenset[str] | None, asked: Words) -> frozenset[str] | None:
    if asked is UNSET:
        return old
    if asked is None or asked == NONE:
        return None
    found = frozenset(_words(asked))
    if not found <= ALL:
        known = ", ".join(sorted(ALL))
        raise InvalidRequest(f"cache_controls: some of {known}; empty allows none of them.")
    return found


def _words(given: str | Iterable[str]) -> tuple[str, ...]:
    """In the order in which they came, each once."""
    if isinstance(given, str):
        given = [word for part in given.split(",") if (word := part.strip())]
    return tuple(dict.fromkeys(given))


def _expires(old: float | None, asked: Terms, now: float) -> float | None:
    """Wall seconds. A day ends a key with its first moment."""
    text = given(asked.expires, None)
    if asked.expires is UNSET or text is None:
        return old if asked.expires is UNSET else None
    try:
        end = now + parse_duration(text)
    except ValueError:
        end = _moment(text)
    if not now < end <= _LAST:
        raise InvalidRequest("expires: that is not in the future.", param="expires")
    return end


def _moment(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            "expires: write 30d, or a day (2031-12-31), or a time (2031-12-31T18:00Z).",
            param="expires",
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


# What is shown -----------------------------------------------------------------------------------


async def _shown(rooms: Rooms, key: Key) -> dict[str, Any]:
    now, grant, team = rooms.clock.now(), key.grant, rooms.keys.team_of(key)
    peppers = rooms.keys.peppers
    graced = key.previous_until if key.revoked is None else None
    return {
        "name": key.name,
        "id": key.id,
        "prefix": key.shown,
        "state": key.state(now).value,
        "team": None if team is None else team.name,
        "models": list(grant.models) or None,
        "expires": _when(key.expires),
        "cache": _on_off(grant.cache),
        "scope": grant.scope,
        "cache_controls": None if grant.controls is None else sorted(grant.controls),
        "log_bodies": _on_off(grant.log_bodies),
        **limits.shown(grant.limits),
        "created": timestamp(key.created),
        "revoked": _when(key.revoked),
        "previous_until": _when(graced if graced and graced > now else None),
        "pepper": "lost" if peppers is None else peppers.word(key.pepper),
        "quota": limits.standing(await rooms.standing("key", key.id, key.name, grant.limits)),
    }


async def _with_text(rooms: Rooms, key: Key, text: str) -> dict[str, Any]:
    found = await _shown(rooms, key)
    return {"name": found.pop("name"), "id": found.pop("id"), "key": text, **found}


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _on_off(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


_UNKNOWN = {404: "No such key."}
_FAILED = {500: "The disk failed."}

LIST = Operation("GET", "/admin/keys", "All keys.", List, listed, "An array of keys.")
CREATE = Operation(
    "POST",
    "/admin/keys",
    "Issue a key.",
    Terms,
    create,
    "The key, its text in `key`: it is shown nowhere else.",
    {404: "No such team.", 409: "The name is taken.", **_FAILED},
)
SHOW = Operation("GET", "/admin/keys/{name}", "One key.", One, show, "The key.", _UNKNOWN)
CHANGE = Operation(
    "PATCH",
    "/admin/keys/{name}",
    "Change what a key may do; holds from the next request on.",
    Terms,
    change,
    "The key.",
    {404: "No such key, or no such team.", **_FAILED},
)
REVOKE = Operation(
    "DELETE",
    "/admin/keys/{name}",
    "Revoke a key and forget its kept answers; holds when it answers.",
    One,
    revoke,
    "The key, and in `purged` how many answers went.",
    {**_UNKNOWN, **_FAILED},
)
ROTATE = Operation(
    "POST",
    "/admin/keys/{name}/rotate",
    "Give a key another text.",
    Rotate,
    rotate,
    "The key, its new text in `key`.",
    {**_UNKNOWN, **_FAILED},
)
OPERATIONS = (LIST, CREATE, SHOW, CHANGE, REVOKE, ROTATE)
