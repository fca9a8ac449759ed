"""A store of keys in memory, a clock that is set by hand, and a register with both."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from gateway.exchange import Grant
from gateway.keys.records import Key, Team
from gateway.keys.register import Register
from gateway.keys.rules import Peppers
from gateway.keys.table import StoreFailed

NOW = 1_750_000_000.0
PEPPERS = Peppers(b"p" * 64)


class SetClock:
    def __init__(self) -> None:
        self.wall = NOW
        self.mono = 1000.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.mono


class FakeStore:
    """Keeps what is saved, for the next register too; `failing` says why it keeps nothing."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.teams: dict[str, Team] = {}
        self.failing: str | None = None
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failing:
            raise StoreFailed(self.failing)

    def open(self) -> tuple[list[Key], list[Team]]:
        self._call("open")
        return list(self.keys.values()), list(self.teams.values())

    def save_key(self, key: Key) -> None:
        self._call("save_key")
        others = [one for one in self.keys.values() if one.id != key.id]
        taken = key.revoked is None and any(
            one.name == key.name and one.revoked is None for one in others
        )
        if taken or any(one.digest == key.digest for one in others):
            raise StoreFailed("UNIQUE constraint failed")
        self.keys[key.id] = key

    def save_team(self, team: Team) -> None:
        self._call("save_team")
        if any(one.name == team.name and one.id != team.id for one in self.teams.values()):
            raise StoreFailed("UNIQUE constraint failed")
        self.teams[team.id] = team

    def drop_team(self, team_id: str) -> None:
        self._call("drop_team")
        self.teams.pop(team_id, None)

    def copy(self, path: Path) -> None:
        self._call("copy")

    def close(self) -> None:
        self._call("close")


_numbers = itertools.count(1)


def entropy(size: int) -> bytes:
    """Bytes that are never the same twice, and need no luck."""
    return next(_numbers).to_bytes(2, "big") * (size // 2)


def a_key(number: int = 1, **changes: object) -> Key:
    """A key with all that it can have."""
    grant = Grant(
        models=("gpt-*", "ü"),
        cache=False,
        scope="team",
        controls=frozenset({"no-store", "ttl"}),
        log_bodies=True,
        limits={"rpm": 60, "budget": 12_500_000_000, "per": "month"},
    )
    key = Key(
        id=f"01KEY{number:021}",
        name=f"key-{number}",
        shown="gw_abcd",
        digest=bytes([number]) * 32,
        pepper="0123456789abcdef",
        created=NOW,
        expires=NOW + 60.5,
        previous=bytes([100 + number]) * 32,
        previous_until=NOW + 30.25,
        team_id="01TEAM",
        grant=grant,
    )
    return replace(key, **changes)  # type: ignore[arg-type]  # a test's own words


def a_team(name: str = "red", team_id: str = "01TEAM") -> Team:
    return Team(team_id, name, NOW, {"tpm": 1000})


async def started(store: object, clock: SetClock, peppers: Peppers = PEPPERS) -> Register:
    register = Register(store, peppers, clock, entropy)  # type: ignore[arg-type]
    await register.start()
    return register
