"""The journal's files: `data/journal/TIME.db`, each SQLite, the newest is written to.

Rule: what is too old goes as a whole file: to delete rows from an index of words costs as much as
to put them in, and gives no room back. All of it is done by one thread (see `usage/writer.py` on
checkpoints); readers open files by themselves.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.journal.shape import Record

VERSION = 1
PARTS = 16  # files that a full journal has
BUSY = 250  # milliseconds that SQLite waits for a lock
_STAMP = "%Y%m%dT%H%M%S%fZ"

# The file's fault, or the disk's; everything else is a record's own.
ENVIRONMENT = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_NOLFS),
    }
)

# unicode61 and not trigram: of 13 MB of prompts the index is 7.6 MB in 0.6 s, not 42 MB in 3.7 s.
# `content=''`: the texts themselves are in `records`, packed.
_FORM = (
    "CREATE TABLE records "
    "(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content BLOB NOT NULL)",
    "CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, "
    "tokenize='unicode61 remove_diacritics 2')",
)


def is_environment(error: Exception) -> bool:
    """Waiting, or another file, may help."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, OSError) or (code is not None and code & 0xFF in ENVIRONMENT)


def segments(folder: Path) -> list[Path]:
    """The files, oldest first."""
    return sorted(path for path in folder.glob("*.db") if began(path) is not None)


def began(path: Path) -> float | None:
    """When a file was begun, in seconds; None: it is none of ours."""
    try:
        return datetime.strptime(path.stem, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def size_of(path: Path) -> int:
    """Bytes on disk, what belongs to it included; 0 where it is gone."""
    found = 0
    for name in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(OSError):
            found += name.stat().st_blocks * 512
    return found


class Segments:
    """The folder, and the file that is written to. Raises sqlite3.Error and OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path | None = None
        self._db: sqlite3.Connection | None = None
        self._next = 0
        self._bad: Path | None = None

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def open(self, now: float, fits: Callable[[Path], bool]) -> None:
        """Go on with the newest file where it `fits`, or begin one."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = segments(self.folder)
        if found and found[-1] != self._bad and fits(found[-1]) and self._resume(found[-1]):
            return
        self._begin(now, found[-1] if found else None)

    def _resume(self, path: Path) -> bool:
        """False: it cannot be written to; whoever reads it may still find something."""
        try:
            self._db = _connect(path)
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            if version == VERSION:
                [last] = self._db.execute("SELECT max(seq) FROM records").fetchone()
                self._next = max(self._next, (last or 0) + 1, int((began(path) or 0) * 1000))
                self.path = path
                return True
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BROKEN:
                self.close()
                raise
        self.close()
        return False

    def _begin(self, now: float, newest: Path | None) -> None:
        at = now if newest is None else max(now, (began(newest) or 0.0) + 0.001)
        path = self.folder / f"{datetime.fromtimestamp(at, UTC).strftime(_STAMP)}.db"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._db = _connect(path)
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _FORM:
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")
        # Numbers go up from file to file, also where all files were deleted in between.
        self._next = max(self._next, int(at * 1000))
        self.path = path

    def insert(self, records: Sequence[Record]) -> None:
        """Commit all of them, or none."""
        db = self._db
        assert db is not None
        first = self._next
        numbered = list(enumerate(records, first))
        rows = [value for n, one in numbered for value in (n, one.id, one.content)]
        words = [value for n, one in numbered for value in (n, one.words)]
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"INSERT INTO records VALUES {_places(3, len(records))}", rows)
            db.execute(f"INSERT INTO words (rowid, text) VALUES {_places(2, len(records))}", words)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise
        self._next = first + len(records)

    def close(self) -> None:
        """Let go of the file; what is committed stays. Idempotent."""
        if self._db is not None:
            db, self._db, self.path = self._db, None, None
            with contextlib.suppress(sqlite3.Error):
                db.close()  # the last one to close empties the write-ahead log

    def give_up(self) -> None:
        """Nothing can be written to this file: never open it again."""
        self._bad = self.path
        self.close()

    def delete(self, path: Path) -> None:
        """Delete one file."""
        if path == self.path:
            self.close()
        for suffix in ("-wal", "-shm", ""):  # the file last: while it is there it is tried again
            path.with_name(path.name + suffix).unlink(missing_ok=True)


_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in (f"busy_timeout = {BUSY}", "journal_mode = WAL", "synchronous = NORMAL"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA mmap_size = 0")
    except BaseException:
        db.close()
        raise
    return db


def _places(width: int, count: int) -> str:
    return ", ".join([f"({', '.join('?' * width)})"] * count)
