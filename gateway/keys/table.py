"""keys.db: issued keys and teams in SQLite. Blocking; for one thread.

Rule: one connection at a time, ever: SQLite before 3.51.3 can lose commits of a WAL that two
connections write and checkpoint (sqlite.org/wal.html, "The WAL-Reset Bug"). A change is on disk
when its method returns.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.exchange import Grant
from gateway.keys.records import Key, Team

WAIT = 5.0  # seconds for a lock that somebody else has, reading the file by hand

Row = tuple[Any, ...]


class StoreFailed(OSError):
    """What is kept cannot be read or changed; the message says why, and holds no secret. To who
    starts a gateway it is one more file that cannot be used."""


class Store(Protocol):
    """Where a register keeps its records. Blocking."""

    def open(self) -> tuple[list[Key], list[Team]]:
        """All there is. StoreFailed."""

    def save_key(self, key: Key) -> None:
        """Put it in the place of the one with its id, if there is one. StoreFailed."""

    def save_team(self, team: Team) -> None:
        """Likewise."""

    def drop_team(self, team_id: str) -> None: ...

    def copy(self, path: Path) -> None:
        """A consistent copy at `path`, which must not be there. StoreFailed."""

    def close(self) -> None:
        """Idempotent."""


# Migrations: each makes the file one version newer. Never change one that was released. -----------


def _m1_keys_and_teams(base: sqlite3.Connection) -> None:
    base.execute(
        "CREATE TABLE teams (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
        "created REAL NOT NULL, limits TEXT NOT NULL) STRICT, WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, shown TEXT NOT NULL, "
        "digest BLOB NOT NULL UNIQUE, pepper TEXT NOT NULL, created REAL NOT NULL, expires REAL, "
        "revoked REAL, previous BLOB, previous_until REAL, team_id TEXT, models TEXT NOT NULL, "
        "cache INTEGER, scope TEXT, controls TEXT, log_bodies INTEGER, limits TEXT NOT NULL"
        ") STRICT, WITHOUT ROWID"
    )
    # The name of a revoked key is free again.
    base.execute("CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked IS NULL")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_m1_keys_and_teams,)

_TEAM = ("id", "name", "created", "limits")
_KEY = (
    *("id", "name", "shown", "digest", "pepper", "created", "expires", "revoked"),
    *("previous", "previous_until", "team_id"),
    *("models", "cache", "scope", "controls", "log_bodies", "limits"),
)


class Table:
    """The file. All methods in one thread."""

    def __init__(
        self, path: Path, migrations: Sequence[Callable[[sqlite3.Connection], None]] = MIGRATIONS
    ) -> None:
        """Opens nothing."""
        self._path = path
        self._migrations = migrations
        self._base: sqlite3.Connection | None = None

    def open(self) -> tuple[list[Key], list[Team]]:
        with _named(self._path):
            # SQLite would make it with the umask's mode; its -wal and -shm take this one's.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._path.chmod(0o600)
            base = sqlite3.connect(self._path, timeout=WAIT, isolation_level=None)
            try:
                base.execute("PRAGMA journal_mode = WAL").fetchall()
                base.execute("PRAGMA synchronous = FULL")
                self._migrate(base)
                keys = [_key_of(row) for row in base.execute(_select("keys", _KEY))]
                teams = [_team_of(row) for row in base.execute(_select("teams", _TEAM))]
            except BaseException:
                base.close()
                raise
        self._base = base
        return keys, teams

    def save_key(self, key: Key) -> None:
        self._write(_upsert("keys", _KEY), _row_of_key(key))

    def save_team(self, team: Team) -> None:
        limits = msgspec.json.encode(team.limits).decode()
        self._write(_upsert("teams", _TEAM), (team.id, team.name, team.created, limits))

    def drop_team(self, team_id: str) -> None:
        self._write("DELETE FROM teams WHERE id = ?", (team_id,))

    def copy(self, path: Path) -> None:
        with _named(self._path):
            _copy(self._connection, path)

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._base is None:
            raise StoreFailed(f"{self._path} is not open")
        return self._base

    def _write(self, statement: str, row: Row) -> None:
        with _named(self._path):
            self._connection.execute(statement, row)

    def _migrate(self, base: sqlite3.Connection) -> None:
        """Bring the file to this version, one step after the other, keeping a copy first."""
        [(version,)] = base.execute("PRAGMA user_version")
        [(tables,)] = base.execute("SELECT count(*) FROM sqlite_master")
        newest = len(self._migrations)
        if version > newest:
            raise StoreFailed(
                f"{self._path} is of version {version}, written by a newer gateway; this one "
                f"knows versions up to {newest}. Use that gateway, or restore an older backup"
            )
        if version == 0 and tables:
            raise StoreFailed(f"{self._path} is another program's database")
        if 0 < version < newest:
            before = self._path.with_name(f"{self._path.name}.v{version}")
            before.unlink(missing_ok=True)  # of a migration that was cut off
            _copy(base, before)
        for number in range(version, newest):
            base.execute("BEGIN IMMEDIATE")
            try:
                self._migrations[number](base)
                base.execute(f"PRAGMA user_version = {number + 1}")
                base.execute("COMMIT")
            except BaseException:
                base.execute("ROLLBACK")
                raise


class Nowhere:
    """Nothing is there, and nothing can be kept."""

    def __init__(self, why: str = "no keys are kept here") -> None:
        self._why = why

    def open(self) -> tuple[list[Key], list[Team]]:
        return [], []

    def save_key(self, key: Key) -> None:
        raise StoreFailed(self._why)

    def save_team(self, team: Team) -> None:
        raise StoreFailed(self._why)

    def drop_team(self, team_id: str) -> None:
        raise StoreFailed(self._why)

    def copy(self, path: Path) -> None:
        """There is nothing to copy."""

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What fails within, as StoreFailed."""
    try:
        yield
    except StoreFailed:
        raise
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
        raise StoreFailed(f"{path}: {error}") from error


def _copy(base: sqlite3.Connection, path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path)) as other:
        base.backup(other)


def _select(table: str, columns: Sequence[str]) -> str:
    return f"SELECT {', '.join(columns)} FROM {table} ORDER BY id"


def _upsert(table: str, columns: Sequence[str]) -> str:
    values = ", ".join("?" * len(columns))
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    names = ", ".join(columns)
    return (
        f"INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {changes}"
    )


def _row_of_key(key: Key) -> Row:
    grant, encode = key.grant, msgspec.json.encode
    return (
        *(key.id, key.name, key.shown, key.digest, key.pepper, key.created),
        *(key.expires, key.revoked, key.previous, key.previous_until, key.team_id),
        *(encode(grant.models).decode(), grant.cache, grant.scope),
        None if grant.controls is None else encode(sorted(grant.controls)).decode(),
        *(grant.log_bodies, encode(grant.limits).decode()),
    )


_words = msgspec.json.Decoder(tuple[str, ...]).decode
_limits = msgspec.json.Decoder(dict[str, int | str]).decode


def _key_of(row: Row) -> Key:
    models, cache, scope, controls, log_bodies, limits = row[11:]
    grant = Grant(
        models=_words(models),
        cache=None if cache is None else bool(cache),
        scope=scope,
        controls=None if controls is None else frozenset(_words(controls)),
        log_bodies=None if log_bodies is None else bool(log_bodies),
        limits=_limits(limits),
    )
    return Key(**dict(zip(_KEY, row[:11], strict=False)), grant=grant)


def _team_of(row: Row) -> Team:
    team_id, name, created, limits = row
    return Team(team_id, name, created, _limits(limits))
