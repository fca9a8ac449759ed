"""A consistent copy of what cannot be made again, while it is in use.

Rule: the copy is whole or not there: it is made beside its place, and then renamed into it. It
holds the secret, so it is 0700.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from msgspec import Meta

from gateway.admin.operation import Arguments, Operation, Rooms
from gateway.errors import InvalidRequest, StorageError
from gateway.journal.keeper import FOLDER
from gateway.journal.segments import segments

BASES = ("keys.db", "ledger.db")
SECRETS = ("secret",)
PATIENCE = 30.0  # seconds for a base that another process has locked


class Backup(Arguments, frozen=True):
    dir: Annotated[
        str, Meta(min_length=1, description="An absolute path of this machine; new, or empty.")
    ]


async def backup(rooms: Rooms, asked: Backup) -> dict[str, Any]:
    """Copy it. InvalidRequest: the folder cannot be had. StorageError: the disk failed."""
    target = Path(asked.dir)
    if not target.is_absolute():
        raise InvalidRequest("dir: an absolute path is wanted.", param="dir")
    await rooms.books.settled()
    await rooms.journal.settled()
    try:
        names = await asyncio.to_thread(_copy, rooms.books.path.parent, target)
    except _TakenError:
        raise InvalidRequest(f"'{target}' is there already. Name a new folder.") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"There is no copy: {error}") from error
    return {"dir": str(target), "files": names}


class _TakenError(Exception):
    """Something is there already."""


def _copy(data: Path, target: Path) -> list[str]:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _TakenError
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # 0700
    try:
        names = [*_secrets(data, part), *_bases(data, part), *_journal(data / FOLDER, part)]
        _sync(part)
        part.rename(target)  # takes the place of an empty folder (rename(2))
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return names


def _secrets(data: Path, part: Path) -> list[str]:
    names = [name for name in SECRETS if (data / name).exists()]
    for name in names:
        _make(part / name, (data / name).read_bytes())
    return names


def _bases(data: Path, part: Path) -> list[str]:
    names = [name for name in BASES if (data / name).exists()]
    for name in names:
        _copy_base(data / name, part / name)
    return names


def _copy_base(base: Path, target: Path) -> None:
    """In one reading transaction: whoever writes goes on meanwhile."""
    _make(target)
    uri = f"file:{quote(str(base.resolve()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as source:
        source.execute("PRAGMA wal_autocheckpoint = 0")
        source.execute("VACUUM INTO ?", (str(target),))
    _sync(target)


def _journal(folder: Path, part: Path) -> list[str]:
    """File by file; one that is deleted meanwhile, for its age, is not in the copy."""
    if not folder.is_dir():
        return []
    (part / FOLDER).mkdir(mode=0o700)
    for base in segments(folder):
        try:
            _copy_base(base, part / FOLDER / base.name)
        except sqlite3.Error:
            if base.exists():
                raise
            (part / FOLDER / base.name).unlink(missing_ok=True)
    _sync(part / FOLDER)
    return [FOLDER]


def _make(path: Path, content: bytes = b"") -> None:
    """For its owner alone, from the first moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


BACKUP = Operation(
    "POST",
    "/admin/backup",
    "Copy the secret, the keys, the books and the journal into a new folder on this machine.",
    Backup,
    backup,
    "Where it is, and what is in it.",
    {500: "The disk failed; there is no copy."},
    local=True,
)
OPERATIONS = (BACKUP,)
