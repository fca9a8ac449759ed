"""diskcache with its teeth drawn: rows of bytes in one SQLite file, nothing else ever.

Blocking; who calls decides on which thread (one writes, others only read). Rules: nothing is
pickled or unpickled (CVE-2025-69872), no value is put into a file of its own, reading never writes,
and a row of any other kind is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Sequence
from errno import EACCES, EDQUOT, EEXIST, ENOSPC, ENOTDIR, EPERM, EROFS
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import diskcache

from gateway.cache.codec import Corrupt, decode_labels
from gateway.cache.presence import PREFIX
from gateway.entry import Selector

BUSY = 0.05  # seconds that SQLite waits for a lock; diskcache's default is 60
CHUNK = 200  # rows deleted in one transaction
SCAN = 2000  # rows looked at in one statement
VACUUM = 256  # pages given back to the file system at a time
MANY = 64  # rows in one statement, at most; each power of two up to it is a statement of its own
READERS_PAGES = 8192  # KiB
KEY = 32  # bytes of a key: a SHA-256

_RAW = 1  # diskcache's column `raw`: the key is bytes as they are
_MODE_RAW = 1  # and `mode`: so is the value


class Refused(Exception):
    """A row that we never write: another kind of key, of value, or a file's name in it."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys and values are bytes, in the row. Overrides all that pickles, unpickles or opens."""

    def put(self, key: object) -> tuple[bytes, bool]:
        if type(key) is not bytes:
            raise Refused("a key is bytes")
        return key, True

    def get(self, key: object, raw: object) -> bytes:
        if raw != _RAW or type(key) is not bytes:
            raise Refused("a key that is not plain bytes")
        return key

    def store(
        self, value: object, read: bool, key: object = None
    ) -> tuple[int, int, str | None, bytes]:
        if type(value) is not bytes or read:
            raise Refused("a value is bytes")
        return 0, _MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != _MODE_RAW or filename is not None or read or type(value) is not bytes:
            raise Refused("a value that is not plain bytes")
        return value

    def filename(self, key: object = None, value: object = None) -> NoReturn:
        raise Refused("no value has a file")

    def remove(self, file_path: object) -> None:
        """Nothing: no row of ours names a file, and a planted one may name any."""


class Row(NamedTuple):
    """What is written. `expires` in wall seconds."""

    key: bytes
    data: bytes
    labels: bytes
    expires: float


class Full(Exception):
    """No room below the size limit, although old rows went."""


class Table(diskcache.Cache):  # type: ignore[misc]
    """One database. Each thread has a connection of its own, closed by `close` on that thread."""

    def __init__(self, folder: Path, size_limit: int) -> None:
        """Opens, and makes what is missing. `size_limit` in bytes, see `resize`."""
        self._log = max(64 * 1024, min(16 * 1024 * 1024, size_limit // 32))  # bytes of WAL
        super().__init__(
            str(folder),
            timeout=BUSY,
            disk=BytesDisk,
            disk_min_file_size=2**62,
            size_limit=size_limit,
            cull_limit=0,  # `make_room` and `expire_some` do it, in steps
            statistics=0,
            tag_index=0,
            eviction_policy="least-recently-stored",  # the one that writes nothing on a read
            sqlite_auto_vacuum=2,  # incremental: FULL moves as many pages as each delete frees
            sqlite_cache_size=-4096,  # KiB, for each connection
            sqlite_journal_mode="wal",
            sqlite_journal_size_limit=self._log,
            sqlite_mmap_size=0,  # a file cut short under a map is a SIGBUS (sqlite.org/mmap.html)
            sqlite_synchronous=1,
            sqlite_wal_autocheckpoint=max(16, self._log // 4096),  # pages
        )
        self.room = 0
        self.resize(size_limit)

    def resize(self, size_limit: int) -> None:
        """Another limit for the files together: the log's part of it is kept free."""
        self.room = max(0, size_limit - 2 * self._log)

    # Entries ------------------------------------------------------------------------------------

    def read(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Data and labels, also of what has expired; Refused, sqlite3.Error."""
        found = self.read_all([key]).get(key)
        if isinstance(found, Refused):
            raise found
        return found

    def read_all(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes] | Refused]:
        """Those that are there, in one statement; sqlite3.Error."""
        found: dict[bytes, tuple[bytes, bytes] | Refused] = {}
        fetch = self.disk.fetch
        for key, mode, filename, value, labels in self._sql(_selection(len(keys)), keys).fetchall():
            try:
                found[key] = fetch(mode, filename, value, False), labels
            except Refused as error:
                found[key] = error
        return found

    def write(self, rows: Sequence[Row], now: float) -> None:
        """All of them or none, as written at `now`. Many in one statement: each statement gives
        the interpreter's lock away, and beside a busy loop it is long in coming back. Refused."""
        if not {type(part) for row in rows for part in row[:2]} <= {bytes}:
            raise Refused("a key and a value are bytes")
        start = 0
        with self.transact():
            while start < len(rows):
                count = min(MANY, 1 << ((len(rows) - start).bit_length() - 1))
                some = chain.from_iterable(rows[start : start + count])
                self._sql(_insertion(count), (now, *some))
                start += count

    def keys_after(self, last: bytes, count: int) -> tuple[bytes, bytes | None]:
        """The first PREFIX bytes of each of the next `count` keys after `last`, joined; the last
        of these keys, None where there are none. Only the keys' index is read, in one step."""
        ((prefixes, last_of_them),) = self._sql(
            "SELECT group_concat(hex(substr(key, 1, ?)), ''), max(key) FROM (SELECT key FROM Cache"
            " WHERE key > ? AND length(key) = ? ORDER BY key LIMIT ?)",
            (PREFIX, last, KEY, count),
        ).fetchall()
        return bytes.fromhex(prefixes or ""), last_of_them

    def prepare_to_read(self) -> None:
        """For this thread's connection: room for all pages that lead to a million rows."""
        self._sql(f"PRAGMA cache_size = -{READERS_PAGES}").fetchall()

    def version(self) -> int:
        """Another number once another connection has written (PRAGMA data_version)."""
        ((version,),) = self._sql("PRAGMA data_version").fetchall()
        return int(version)

    def remove(self, keys: Iterable[bytes]) -> int:
        """Delete rows by key, whatever their kind; how many."""
        gone = 0
        with self.transact():
            for key in keys:
                gone += self._sql("DELETE FROM Cache WHERE key = ?", (key,)).rowcount
        return gone

    def recover(self) -> None:
        """After a failure: leave no transaction open, as diskcache does where COMMIT fails."""
        if self._con.in_transaction:
            self._con.rollback()

    def used(self) -> int:
        """Bytes of the database that hold something."""
        ((pages,),) = self._sql("PRAGMA page_count").fetchall()
        ((free,),) = self._sql("PRAGMA freelist_count").fetchall()
        return int(self._page_size * (pages - free))

    def make_room(self, need: int, rounds: int = 100) -> int:
        """Delete the oldest rows until `need` bytes fit; how many. Full, where they do not."""
        gone = 0
        for _ in range(rounds):
            used = self.used()
            if used + need <= self.room:
                return gone
            each = max(1, used // max(1, len(self)))
            count = min(CHUNK, (used + need - self.room) // each + 1)
            oldest = self._sql("SELECT rowid FROM Cache ORDER BY store_time LIMIT ?", (count,))
            if not self._delete(oldest.fetchall()):
                break
            gone += count
        if self.used() + need > self.room:
            raise Full
        return gone

    def expire_some(self, now: float) -> int:
        """Delete up to CHUNK rows that have expired; how many."""
        rows = self._sql(
            "SELECT rowid FROM Cache WHERE expire_time < ? ORDER BY expire_time LIMIT ?",
            (now, CHUNK),
        ).fetchall()
        return self._delete(rows)

    def vacuum_some(self) -> bool:
        """Give free pages back where there are many; True while there are more."""
        ((pages,),) = self._sql("PRAGMA page_count").fetchall()
        ((free,),) = self._sql("PRAGMA freelist_count").fetchall()
        if free <= max(VACUUM, pages // 10):
            return False
        self._sql(f"PRAGMA incremental_vacuum({VACUUM})").fetchall()
        return True

    # Looking at all of them ---------------------------------------------------------------------

    def purge(self, selector: Selector, counted: Container[bytes]) -> int:
        """Delete what the selector takes; how many, without those whose keys are `counted`.

        The labels stand before the value in a row, so values are not read for it. A row whose
        labels cannot be read is taken too: a purge may take too much, never too little.
        """
        gone, last = 0, -(2**63)
        while True:
            rows = self._labelled(last, selector.digest)
            if not rows:
                return gone
            last = rows[-1][0]
            taken = [row for row in rows if _takes(selector, row[1], row[2])]
            for start in range(0, len(taken), CHUNK):
                self._delete([row[:1] for row in taken[start : start + CHUNK]])
            gone += sum(row[1] not in counted for row in taken)

    def of_request(self, request_id: str) -> bytes | None:
        """The key of the entry that a request stored."""
        found = self._sql(
            "SELECT key, tag FROM Cache WHERE instr(tag, ?) > 0", (request_id.encode(),)
        )
        for key, tag in found:
            try:
                labels = decode_labels(tag)
            except Corrupt:
                continue
            if type(key) is bytes and any(label.request_id == request_id for label in labels):
                return key
        return None

    def remove_planted(self, last: int) -> tuple[int, int | None]:
        """Look at the SCAN rows after the rowid `last` and delete those that we never write; how
        many, and where to go on from."""
        rows = self._sql(
            "SELECT rowid, raw IS NOT 1 OR mode IS NOT 1 OR filename IS NOT NULL"
            " OR typeof(key) != 'blob' OR typeof(value) != 'blob' OR expire_time IS NULL"
            " FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (last, SCAN),
        ).fetchall()
        if not rows:
            return 0, None
        return self._delete([(row,) for row, planted in rows if planted]), rows[-1][0]

    def oldest(self) -> float | None:
        """Wall seconds at which the oldest row was written."""
        ((when,),) = self._sql("SELECT MIN(store_time) FROM Cache").fetchall()
        return when if isinstance(when, float) else None

    def _labelled(self, last: int, digest: bytes | None) -> list[tuple[int, Any, Any]]:
        only, more = ("", ()) if digest is None else (" AND key = ?", (digest,))
        rows: list[tuple[int, Any, Any]] = self._sql(
            f"SELECT rowid, key, tag FROM Cache WHERE rowid > ?{only} ORDER BY rowid LIMIT ?",
            (last, *more, SCAN),
        ).fetchall()
        return rows

    def _delete(self, rows: Sequence[tuple[int]]) -> int:
        if rows:
            marks = ",".join("?" * len(rows))
            with self.transact():
                self._sql(f"DELETE FROM Cache WHERE rowid IN ({marks})", [row[0] for row in rows])
        return len(rows)


@lru_cache
def _selection(count: int) -> str:
    """A statement for `count` keys."""
    keys = ",".join("?" * count)
    return f"SELECT key, mode, filename, value, tag FROM Cache WHERE raw={_RAW} AND key IN ({keys})"


@lru_cache
def _insertion(count: int) -> str:
    """A statement for `count` rows: the time, then each row's members in their order."""
    rows = ",".join(
        f"(?{at},{_RAW},?1,?{at + 3},?1,0,?{at + 2},0,{_MODE_RAW},NULL,?{at + 1})"
        for at in range(2, 2 + count * len(Row._fields), len(Row._fields))
    )
    names = (
        *("store_time", "expire_time", "access_time", "access_count", "tag", "size", "mode"),
        *("filename", "value"),
    )
    anew = ",".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO Cache(key, raw, {', '.join(names)}) VALUES {rows}"
        f" ON CONFLICT(key, raw) DO UPDATE SET {anew}"
    )


def _takes(selector: Selector, key: Any, tag: Any) -> bool:
    try:
        return type(key) is not bytes or selector.takes(key, decode_labels(tag))
    except Corrupt:
        return True


# What went wrong, in a word ----------------------------------------------------------------------

# SQLite's primary result codes (sqlite.org/rescode.html), and the system's.
_SQLITE = {
    5: "locked", 6: "locked", 15: "locked", 7: "io", 10: "io", 14: "io",
    3: "readonly", 8: "readonly", 23: "readonly", 13: "full",
}  # fmt: skip
_SYSTEM = {
    ENOSPC: "full", EDQUOT: "full", EPERM: "readonly", EACCES: "readonly", EROFS: "readonly",
    ENOTDIR: "corrupt", EEXIST: "corrupt",
}  # fmt: skip
_OURS = ((Refused, "refused"), (Corrupt, "digest"), (Full, "full"))
CORRUPT = "corrupt"
ERRORS = ("locked", "io", "readonly", "full", CORRUPT, "digest", "refused", "deadline", "encode")


def word_for(error: BaseException) -> str:
    """One of ERRORS; what no healthy database says is `corrupt`."""
    for kind, word in _OURS:
        if isinstance(error, kind):
            return word
    if error.__context__ is not None:  # diskcache's Timeout, or a ROLLBACK that failed too, hide it
        return word_for(error.__context__)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return CORRUPT if code is None else _SQLITE.get(code & 0xFF, CORRUPT)
    if isinstance(error, OSError):
        return _SYSTEM.get(error.errno or 0, "io")
    return "locked" if isinstance(error, diskcache.Timeout) else CORRUPT
