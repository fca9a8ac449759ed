"""The form of `ledger.db`, as numbered steps: each runs once, in a transaction of its own.

Rule: a step that was released is never changed; another one is added. The file's `user_version` is
the number of the last step. A file from a newer gateway is refused, an older one is copied first.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.usage.columns import COLUMNS, FOUND_BY, SERIES

FIGURES = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_nano",
    "unpriced_requests",  # with tokens whose price is not known
    "estimated_tokens",  # of the tokens, those that were estimated
    "saved_tokens",
    "saved_cost_nano",
    "counted",  # against limits on requests
    "counted_tokens",  # against limits on tokens
)
PART = 8  # characters of an id that its place has: 1,024 ms have the same (github.com/ulid/spec)

Migration = Callable[[sqlite3.Connection], None]


class LedgerError(OSError):
    """`ledger.db` cannot be used as it is. The message says what to do."""


def m001_initial(connection: sqlite3.Connection) -> None:
    """Rows, their sums by quarter-hour and by day, and open reservations.

    A trigger keeps the sums: a row and what it adds are one statement, so they cannot differ, and a
    row that is already there adds nothing. `series` names what sums are kept apart by, tags
    included, so that every combination can be asked for. `calendar` has the first quarter of each
    day in the time zone that `days` is kept in.
    """
    first = [name for name in FIGURES if name not in _QUOTA_FIGURES]
    columns = ", ".join(f"{n} {kind}" for n, kind in COLUMNS.items() if n not in _QUOTA_COLUMNS)
    figures = ", ".join(f"{name} INTEGER NOT NULL" for name in first)
    named = ", ".join(f"{name} TEXT NOT NULL" for name in SERIES)
    connection.execute(f"CREATE TABLE requests (seq INTEGER PRIMARY KEY, {columns})")
    connection.execute("CREATE INDEX requests_by_key ON requests (key, id)")
    connection.execute("CREATE INDEX requests_by_model ON requests (model, id)")
    connection.execute("CREATE INDEX requests_by_cache ON requests (cache, id)")
    connection.execute("CREATE INDEX requests_failed ON requests (id, status) WHERE status >= 400")
    connection.execute(
        f"CREATE TABLE series (id INTEGER PRIMARY KEY, {named}, UNIQUE ({', '.join(SERIES)}))"
    )
    for table, start in (("quarters", "quarter"), ("days", "first")):
        connection.execute(
            f"CREATE TABLE {table} ({start} INTEGER NOT NULL, series INTEGER NOT NULL, {figures}, "
            f"PRIMARY KEY ({start}, series)) WITHOUT ROWID"
        )
    connection.execute("CREATE TABLE calendar (first INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
    connection.execute(
        "CREATE TABLE reservations (id TEXT PRIMARY KEY, at INTEGER NOT NULL, "
        "until INTEGER NOT NULL, boot TEXT NOT NULL, key_id TEXT NOT NULL, key TEXT NOT NULL, "
        "team_id TEXT, team TEXT, model TEXT NOT NULL, upstream TEXT, "
        "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
        "nano_usd INTEGER NOT NULL, prompt_nano_usd INTEGER) WITHOUT ROWID"
    )
    connection.execute(_trigger(first))


def m002_quotas(connection: sqlite3.Connection) -> None:
    """What a row counts against limits, and that in the sums: until now each request counted, and
    all of its tokens."""
    for name in _QUOTA_COLUMNS:
        kind = COLUMNS[name]
        default = " DEFAULT 0" if "NOT NULL" in kind else ""
        connection.execute(f"ALTER TABLE requests ADD COLUMN {name} {kind}{default}")
    connection.execute(f"UPDATE requests SET counted = corrects IS NULL, {_ALL_TOKENS}")
    for table in ("quarters", "days"):
        for name in _QUOTA_FIGURES:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"UPDATE {table} SET counted = requests, {_ALL_TOKENS}")
    connection.execute("DROP TRIGGER requests_booked")
    connection.execute(_trigger(FIGURES))


def m003_batches(connection: sqlite3.Connection) -> None:
    """Sums are added up once for a batch of rows, by its writer (`sums.py`), no longer by a trigger
    for each row."""
    connection.execute("DROP TRIGGER requests_booked")


def m004_places(connection: sqlite3.Connection) -> None:
    """Rows are found by `places`: in which seconds there are some of a key, a model, a cache state.
    Three indexes of rows cost more than all else of a row, and as much room."""
    connection.execute(
        "CREATE TABLE places (what TEXT NOT NULL, name TEXT NOT NULL, part TEXT NOT NULL, "
        "PRIMARY KEY (what, name, part)) WITHOUT ROWID"
    )
    for what in FOUND_BY:
        connection.execute(
            f"INSERT INTO places SELECT DISTINCT '{what}', {what}, substr(id, 1, {PART}) "
            f"FROM requests WHERE {what} IS NOT NULL"
        )
        connection.execute(f"DROP INDEX requests_by_{what}")


def m005_series(connection: sqlite3.Connection) -> None:
    """A row knows its series: a batch is added up by two numbers, not by seven names."""
    connection.execute("ALTER TABLE requests ADD COLUMN series INTEGER")


_QUOTA_COLUMNS = ("counted", "counted_tokens", "clamped", "bound_exceeded")
_QUOTA_FIGURES = ("counted", "counted_tokens")
_ALL_TOKENS = "counted_tokens = prompt_tokens + completion_tokens"

# A request that no upstream was chosen for counts under no model: its name is anybody's guess, and
# sums are kept for ever.
NAMES = {
    "key_id": "NEW.key_id",
    "key": "NEW.key",
    "team_id": "ifnull(NEW.team_id, '')",
    "team": "ifnull(NEW.team, '')",
    "model": "CASE WHEN NEW.upstream IS NULL THEN '' ELSE ifnull(NEW.model, '') END",
    "upstream": "ifnull(NEW.upstream, '')",
    "tags": "ifnull(NEW.tags, '')",
}
_TOKENS = "NEW.prompt_tokens + NEW.completion_tokens"
ADDED = {
    "requests": "NEW.corrects IS NULL",
    "prompt_tokens": "NEW.prompt_tokens",
    "completion_tokens": "NEW.completion_tokens",
    "cached_tokens": "NEW.cached_tokens",
    "reasoning_tokens": "NEW.reasoning_tokens",
    "cost_nano": "ifnull(NEW.cost_nano, 0)",
    "unpriced_requests": f"NEW.cost_nano IS NULL AND {_TOKENS} > 0",
    "estimated_tokens": f"CASE WHEN NEW.usage_source = 'estimated' THEN {_TOKENS} ELSE 0 END",
    "saved_tokens": "NEW.saved_tokens",
    "saved_cost_nano": "ifnull(NEW.saved_cost_nano, 0)",
    "counted": "NEW.counted",
    "counted_tokens": "NEW.counted_tokens",
}


def _trigger(figures: Sequence[str]) -> str:
    same = " AND ".join(f"{name} = {value}" for name, value in NAMES.items())
    added = ", ".join(ADDED[name] for name in figures)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in figures)
    quarter = "NEW.at / 900000"
    # Times before the calendar count by UTC: nothing is booked there but in tests.
    first = (
        f"ifnull((SELECT max(first) FROM calendar WHERE first <= {quarter}), {quarter} / 96 * 96)"
    )

    def add(table: str, start: str, value: str) -> str:
        return (
            f"INSERT INTO {table} ({start}, series, {', '.join(figures)}) "
            f"SELECT {value}, series.id, {added} FROM series WHERE {same} "
            f"ON CONFLICT ({start}, series) DO UPDATE SET {sums}; "
        )

    return (
        "CREATE TRIGGER requests_booked AFTER INSERT ON requests BEGIN "
        f"INSERT INTO series ({', '.join(SERIES)}) VALUES ({', '.join(NAMES.values())}) "
        "ON CONFLICT DO NOTHING; "
        + add("quarters", "quarter", quarter)
        + add("days", "first", first)
        + "DELETE FROM reservations WHERE id = NEW.id; END"
    )


MIGRATIONS: tuple[Migration, ...] = (
    m001_initial,
    m002_quotas,
    m003_batches,
    m004_places,
    m005_series,
)


def version_of(connection: sqlite3.Connection) -> int:
    """The number of the last step that the file has seen; 0: it is new."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the file to the last step. LedgerError: it is newer, or a step failed and nothing of
    that step is in it; the copy from before stands beside it."""
    version = version_of(connection)
    refuse_newer(version, path, len(steps))
    if version == len(steps):
        return
    copy = path.with_name(f"{path.name}.v{version}")
    if version:
        copy_to(connection, copy)
    for number, step in enumerate(steps[version:], version + 1):
        try:
            connection.execute("BEGIN IMMEDIATE")
            step(connection)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except Exception as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            kept = f"; the copy from before is {copy}" if version else ""
            raise LedgerError(f"{path}: step {number} of its upgrade failed: {error}{kept}") from (
                error
            )


def refuse_newer(version: int, path: Path, newest: int = len(MIGRATIONS)) -> None:
    """LedgerError where a newer gateway has written the file."""
    if version > newest:
        raise LedgerError(
            f"{path} is from a newer gateway (its form is {version}, this one knows {newest}); "
            "install that one again, or put back the copy from before the upgrade"
        )


def copy_to(connection: sqlite3.Connection, path: Path) -> None:
    """A whole, consistent copy, readable by its owner alone, on the disk when this returns. One
    that is there already is from an earlier try, and is the older one: it stays."""
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection.execute("VACUUM INTO ?", (str(part),))
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
