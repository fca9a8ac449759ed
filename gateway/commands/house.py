"""Where a command's operation is done: by the server that runs, else here, on its files.

Rule: the holder of `data/lock` does it, so a change is never made beside a running server. A
command without one takes the lock itself for as long as it works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import attrs
import msgspec

from gateway.admin import Operation, Rooms
from gateway.balances import pasts
from gateway.clock import SystemClock
from gateway.config import Cache, Config, Size
from gateway.control import CONNECT, ControlClient, NoAnswer, NoServer
from gateway.errors import GatewayError
from gateway.journal.reader import JournalReader
from gateway.keys.register import Register
from gateway.keys.store import DataError, DataInUse, lock_data, open_register
from gateway.quota.rules import Given
from gateway.quota.store import Quotas
from gateway.usage.calendar import window_bounds
from gateway.usage.reader import Reader

TRIES = 200  # while the lock is held and nobody listens: a server starts or stops, or a command
STEP = 0.05  # seconds between two of them

SHIPPED = Cache()


class Refused(Exception):
    """The operation was not done, or not all of it; the message says why. `status` as in HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """There is no way to do anything with this data directory now; the message says why."""


class House(Protocol):
    """What a command asks."""

    @property
    def live(self) -> bool:
        """A server answers; else the files do."""

    def ask(self, operation: Operation[Any], **given: Any) -> Any:
        """Do it; the answer as JSON's values. What is None in `given` is left out. Refused,
        Unreachable."""


@contextmanager
def open_house(
    config: Config, *, tries: int = TRIES, patience: float = CONNECT, makes: bool = False
) -> Iterator[House]:
    """The server on `config.data`, or its files, locked for as long as the context lasts. What is
    not there is made only for who `makes` something.

    Unreachable: the lock is held and nobody answers; `patience` in seconds.
    """
    data = Path(config.data)
    with ExitStack() as stack:
        try:
            yield _find(config, data, stack, tries, patience, makes)
        except NoAnswer as error:
            raise Unreachable(f"the server on {data} does not answer: {error}") from error
        except NoServer as error:
            raise Unreachable(f"the server on {data} has gone: {error}") from error
        except (DataError, OSError) as error:
            raise Unreachable(str(error)) from error


def _find(
    config: Config, data: Path, stack: ExitStack, tries: int, patience: float, makes: bool
) -> House:
    if not data.exists() and not makes:
        return stack.enter_context(_on_files(config, data, makes))  # none are made by looking
    client = ControlClient(data)
    for left in reversed(range(tries)):
        try:
            stack.callback(lock_data(data, command=True).close)
            return stack.enter_context(_on_files(config, data, makes))
        except DataInUse as error:
            in_use = error
        try:
            client.ping(patience)
            return Remote(client)
        except NoServer:
            if left:
                time.sleep(STEP)
    raise Unreachable(f"{in_use}; and nothing listens on its control.sock")


class Remote:
    """Asks the server."""

    live = True

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def ask(self, operation: Operation[Any], **given: Any) -> Any:
        given = {name: value for name, value in given.items() if value is not None}
        path = {name: quote(given.pop(name), safe="") for name in operation.in_path}
        target, body = operation.path.format(**path), None
        if operation.has_body:
            body = msgspec.json.encode(given)
        elif given:
            target += "?" + urlencode({k: msgspec.to_builtins(v) for k, v in given.items()})
        status, answer = self._client.ask(operation.method, target, body)
        try:
            found = msgspec.json.decode(answer)
            if status < 400:
                return found
            message = found["error"]["message"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise Unreachable(f"what answers there is no gateway (status {status})") from error
        raise Refused(message, status)


class Local:
    """Does it here. The rooms are open and the lock is held."""

    live = False

    def __init__(self, rooms: Rooms, runner: asyncio.Runner) -> None:
        self._rooms, self._runner = rooms, runner

    def ask(self, operation: Operation[Any], **given: Any) -> Any:
        given = {name: value for name, value in given.items() if value is not None}
        try:
            answer = self._runner.run(operation.run(self._rooms, given))
        except GatewayError as error:
            raise Refused(error.message, error.status) from error
        return msgspec.to_builtins(answer)


@contextmanager
def _on_files(config: Config, data: Path, makes: bool) -> Iterator[Local]:
    """The rooms as they are on disk. Nothing is made that is not there, but for who `makes`."""
    from gateway.cache.store import TwoTier  # noqa: PLC0415  (not needed to ask a server)

    clock, folder = SystemClock(), data / "cache"
    cache = TwoTier(_section(config.cache, there=folder.is_dir()), folder, clock)
    keys = open_register(data, clock, make=makes)
    books = Reader(data, config.quota.timezone)
    journal = JournalReader(data)
    with asyncio.Runner() as runner:
        runner.run(cache.start())
        try:
            if folder.is_dir() and (state := cache.stats().disk.state) != "open":
                raise Unreachable(f"{folder} cannot be read ({state})")
            runner.run(keys.start())
            standing = _Standing(config, keys, books, clock)
            rooms = Rooms(cache, clock, keys=keys, books=books, journal=journal, standing=standing)
            yield Local(rooms, runner)
        finally:
            runner.run(cache.close())
            runner.run(keys.close())
            books.close()
            journal.close()


class _Standing:
    """What may still be used, by the books; read when it is first asked for."""

    def __init__(self, config: Config, keys: Register, books: Reader, clock: SystemClock) -> None:
        self._config, self._keys, self._books, self._clock = config, keys, books, clock
        self._quotas: Quotas | None = None

    async def __call__(self, kind: str, id: str, name: str, limits: Given) -> list[dict[str, Any]]:
        if self._quotas is None:
            section, now = self._config.quota, self._clock.now()
            bounds = partial(window_bounds, zone=ZoneInfo(section.timezone))
            self._quotas = Quotas(section, self._clock, bounds)
            issued = {key.id for key in self._keys.keys}
            self._quotas.restore(pasts(await self._books.open_windows(now), now, issued))
        return self._quotas.standing(kind, id, name, limits)


def _section(section: Cache, *, there: bool) -> Cache:
    """What was kept is looked after also where nothing is kept any more."""
    if not there:
        return attrs.evolve(section, size_limit=Size(0))
    return section if section.size_limit else attrs.evolve(section, size_limit=SHIPPED.size_limit)
