"""Issued keys and teams: all in memory, each change on disk first.

Rule: a change holds, in memory and on disk, when its method returns; a request never waits for the
file. Changes are made one after the other, each on what the one before left.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import Conflict, InvalidRequest, NotFound, StorageError
from gateway.exchange import Grant, ulid
from gateway.keys.records import NO_TEAM, Key, Limits, State, Team, check_name
from gateway.keys.rules import KEY_BYTES, SHOWN, Peppers, issue, keyed, pepper_name
from gateway.keys.table import Nowhere, Store, StoreFailed
from gateway.ports import Clock

T = TypeVar("T")

log = logging.getLogger("gateway.keys")


class Register:
    """All issued keys and teams. Everything but the store runs on the loop's thread."""

    def __init__(
        self,
        store: Store,
        peppers: Peppers | None,
        clock: Clock,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Opens nothing. Without peppers no key can be made or recognised."""
        self._store, self._clock, self._entropy = store, clock, entropy
        self.peppers = peppers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-keys")
        self._keys: dict[str, Key] = {}  # by id, which is by age
        self._teams: dict[str, Team] = {}  # by id
        self._digests: dict[bytes, str] = {}  # to the id
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: set[str] = set()
        self._unwritten: set[str] = set()  # revoked, but not on disk
        self.on_change: Callable[[], None] = lambda: None
        self.version = 0  # another one after each change

    async def start(self) -> None:
        """Read all there is. StoreFailed."""
        keys, teams = await self._in_thread(self._store.open)
        self._teams = {team.id: team for team in teams}
        for key in keys:
            self._put(key)

    async def close(self) -> None:
        """End what is under way, and close the store. Idempotent."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    # -- reading -----------------------------------------------------------------------------------

    @property
    def keys(self) -> list[Key]:
        """All, revoked ones too, the oldest first."""
        return [self._keys[id] for id in sorted(self._keys)]

    @property
    def teams(self) -> list[Team]:
        """All, by name."""
        return sorted(self._teams.values(), key=lambda team: team.name)

    def find(self, digest: bytes) -> Key | None:
        """The key that has or had this digest. No I/O; called for each new credential."""
        id = self._digests.get(digest)
        return None if id is None else self._keys[id]

    def key(self, name: str) -> Key:
        """The key of that name; of revoked ones the youngest. NotFound."""
        found = [key for key in self._keys.values() if key.name == name]
        if not found:
            raise NotFound(f"No key is named '{name[:64]}'.")
        return max(found, key=lambda key: (key.revoked is None, key.id))

    def team(self, name: str) -> Team:
        """NotFound."""
        for team in self._teams.values():
            if team.name == name:
                return team
        raise NotFound(f"No team is named '{name[:64]}'. Make it: gateway teams set NAME.")

    def team_of(self, key: Key) -> Team | None:
        """The team that it is in. One that has been removed is none."""
        return self._teams.get(key.team_id or NO_TEAM.id)

    # -- changing ----------------------------------------------------------------------------------

    async def create(
        self, name: str, grant: Grant, *, team: str | None = None, expires: float | None = None
    ) -> tuple[Key, str]:
        """A new key, and its text, which is nowhere else. InvalidRequest: not a name. Conflict:
        it is taken. NotFound: no such team. StorageError."""
        _named(name)

        async def work() -> tuple[Key, str]:
            if any(key.name == name and key.revoked is None for key in self._keys.values()):
                raise Conflict(
                    f"A key is named '{name}' already: change it (gateway keys set), revoke it, or "
                    "take another name."
                )
            team_id = None if team is None else self.team(team).id
            token, peppers, now = self._issue(), self._peppers(), self._clock.now()
            key = Key(
                id=self._id(now),
                name=name,
                shown=token[:SHOWN],
                digest=keyed(token, peppers.current),
                pepper=pepper_name(peppers.current),
                created=now,
                expires=expires,
                team_id=team_id,
                grant=grant,
            )
            return await self._keep(key), token

        return await self._change(work)

    async def update(self, name: str, change: Callable[[Key], Key]) -> Key:
        """Another key in the place of the one of that name, which is not revoked. What `change`
        raises goes through. NotFound, StorageError."""

        async def work() -> Key:
            return await self._keep(change(self._unrevoked(name)))

        return await self._change(work)

    async def rotate(self, name: str, grace: float) -> tuple[Key, str]:
        """A new text for the key of that name; the old one is good for `grace` more seconds.
        NotFound, StorageError."""

        async def work() -> tuple[Key, str]:
            key, token, peppers = self._unrevoked(name), self._issue(), self._peppers()
            new = replace(
                key,
                shown=token[:SHOWN],
                digest=keyed(token, peppers.current),
                pepper=pepper_name(peppers.current),
                previous=key.digest if grace else None,
                previous_until=self._clock.now() + grace if grace else None,
            )
            return await self._keep(new), token

        return await self._change(work)

    async def revoke(self, name: str) -> Key:
        """It is refused from now on. NotFound. StorageError: for as long as this process runs;
        asked once more, it tries to write that again."""

        async def work() -> Key:
            key = self.key(name)
            if key.id not in self._unwritten:
                key = replace(self._unrevoked(name), revoked=self._clock.now())
            self._put(key)
            self._unwritten.add(key.id)
            try:
                await self._stored(lambda: self._store.save_key(key))
            except StorageError as error:
                raise StorageError(
                    "It is refused for as long as the gateway runs, but that is not on disk. "
                    f"{error.message} Try again."
                ) from error
            self._unwritten.discard(key.id)
            return key

        return await self._change(work)

    async def set_team(self, name: str, change: Callable[[Limits], Limits], *, make: bool) -> Team:
        """Other limits for a team, which is made if need be and `make`. InvalidRequest: not a name.
        NotFound, StorageError."""
        _named(name)

        async def work() -> Team:
            known = any(team.name == name for team in self._teams.values())
            now = self._clock.now()
            old = self.team(name) if known or not make else Team(self._id(now), name, now)
            new = replace(old, limits=change(old.limits))
            await self._stored(lambda: self._store.save_team(new))
            self._teams[new.id] = new
            return new

        return await self._change(work)

    async def remove_team(self, name: str) -> Team:
        """NotFound; Conflict: it has keys that are not revoked. StorageError."""

        async def work() -> Team:
            team = self.team(name)
            keys = [k.name for k in self.keys if k.team_id == team.id and k.revoked is None]
            if keys:
                raise Conflict(f"The team has keys: {', '.join(keys[:10])}. Move them first.")
            await self._stored(lambda: self._store.drop_team(team.id))
            del self._teams[team.id]
            return team

        return await self._change(work)

    def renew(self, key: Key, digest: bytes) -> None:
        """The key was met under the old pepper, `digest` is its digest under the current one: keep
        that, soon. It is good under both until then."""
        if key.id in self._renewing:
            return
        self._renewing.add(key.id)

        async def work() -> None:
            now = self._keys[key.id]
            if now.digest == key.digest:  # not rotated meanwhile
                name = pepper_name(self._peppers().current)
                await self._keep(replace(now, digest=digest, pepper=name))

        async def try_it() -> None:
            try:
                await self._change(work)
            except StorageError as error:
                log.warning("key '%s' stays under the old pepper: %s", key.name, error.message)
            finally:
                self._renewing.discard(key.id)

        self._own(try_it())

    async def copy(self, path: Path) -> None:
        """A consistent copy of the file at `path`, which must not be there. StorageError."""
        await self._stored(lambda: self._store.copy(path))

    # -- how ---------------------------------------------------------------------------------------

    async def _change(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it alone and whole, also where who asked has left."""

        async def alone() -> T:
            async with self._turn:
                try:
                    return await work()
                finally:
                    self.version += 1
                    self.on_change()

        return await asyncio.shield(self._own(alone()))

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, key: Key) -> Key:
        """On disk, then in memory."""
        await self._stored(lambda: self._store.save_key(key))
        self._put(key)
        return key

    def _put(self, key: Key) -> None:
        if old := self._keys.get(key.id):
            for digest in _digests(old):
                self._digests.pop(digest, None)
        self._keys[key.id] = key
        for digest in _digests(key):
            self._digests[digest] = key.id

    def _unrevoked(self, name: str) -> Key:
        key = self.key(name)
        if key.state(self._clock.now()) is State.REVOKED:
            raise NotFound(f"The key '{name[:64]}' is revoked.")
        return key

    def _issue(self) -> str:
        return issue(self._entropy(KEY_BYTES))

    def _id(self, now: float) -> str:
        return ulid(int(now * 1000), self._entropy(10))

    def _peppers(self) -> Peppers:
        if self.peppers is None:
            raise StorageError("The pepper in data/secret is missing; restore it from a backup.")
        return self.peppers

    async def _stored(self, work: Callable[[], None]) -> None:
        try:
            await self._in_thread(work)
        except StoreFailed as error:
            raise StorageError(f"Nothing was written: {error}.") from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _NoTime:
    """A clock for where nothing happens."""

    def now(self) -> float:
        return 0.0

    monotonic = now


def nothing_kept() -> Register:
    """A register without keys, in which none can be made."""
    return Register(Nowhere(), None, _NoTime())


def _digests(key: Key) -> tuple[bytes, ...]:
    return (key.digest,) if key.previous is None else (key.digest, key.previous)


def _named(name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidRequest(f"'{name[:64]}': {error}.", param="name") from None
