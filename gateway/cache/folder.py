"""The cache's folder: private, on a disk of this machine, and set aside where it is broken.

Everything here does file I/O and belongs on the writer's thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from datetime import UTC, datetime
from errno import ENOTDIR
from pathlib import Path

DATABASE = "cache.db"
KEPT_BROKEN = 1  # each may be as large as the cache, and holds answers in clear

# As diskcache names the files it puts large values in; we never let it, so they are orphans.
_ORPHAN = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")
# SQLite's locks and shared memory do not work over these (sqlite.org/wal.html, section 2.2).
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "lustre"}


def prepare(folder: Path) -> list[str]:
    """Make the folder, or make it private (0700, the database 0600); what is worth a warning.

    OSError where that cannot be done; NotADirectoryError where something else has its name.
    """
    warnings = []
    if os.path.expandvars(os.path.expanduser(folder)) != str(folder):
        raise OSError(f"diskcache would read '{folder}' as another path: '~' or '$' is in it")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_mode & 0o077:
        if found.st_mode & 0o022:
            warnings.append(f"{folder} was writable by others: what they put there may be served")
        folder.chmod(0o700)
    database = folder / DATABASE
    if database.is_symlink() or (database.exists() and not database.is_file()):
        raise NotADirectoryError(ENOTDIR, f"{database} is not a file")
    # SQLite gives its -wal and -shm the mode of the database.
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    for path in folder.glob(f"{DATABASE}*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
    if (kind := filesystem(folder)) in _NETWORK:
        warnings.append(f"{folder} is on {kind}: SQLite corrupts there, use a local disk")
    return warnings


def filesystem(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that a folder is on; "" where the system does not say."""
    try:
        lines = table.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    here, best, kind = folder.resolve(), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        mount = Path(fields[4].encode().decode("unicode_escape"))  # \040 is a space
        if here.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), right.split(" ")[0]
    return kind


def size_of(folder: Path) -> int:
    """Bytes that the database and its log take."""
    total = 0
    for name in (DATABASE, f"{DATABASE}-wal"):
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    return total


def sweep_orphans(folder: Path) -> int:
    """Remove files that diskcache left behind (a kill between a file and its row); how many."""
    swept = 0
    for path in folder.glob("*/*/*.val"):
        name = path.relative_to(folder).as_posix()
        if _ORPHAN.fullmatch(name) and not path.parent.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()
                swept += 1
            with contextlib.suppress(OSError):
                path.parent.rmdir()
                path.parent.parent.rmdir()
    return swept


def set_aside(folder: Path, now: float) -> Path | None:
    """Move a broken folder out of the way; None where it is gone already. OSError."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = folder.with_name(f"{folder.name}.broken-{stamp}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}+")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return None
    remove_broken(folder, keep=KEPT_BROKEN)
    return aside


def remove_broken(folder: Path, keep: int = 0) -> None:
    """Remove what was set aside, but for the latest `keep`."""
    aside = sorted(folder.parent.glob(f"{folder.name}.broken-*"))
    for path in aside[: len(aside) - keep]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
