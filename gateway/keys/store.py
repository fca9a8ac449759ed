"""What keys need of the disk (peppers, admin token, the data directory's lock), and the callers.

Rule: files are touched at start only. `Callers` works from memory and does no I/O; issued keys are
the register's (`register.py`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from gateway.config import Keys
from gateway.errors import InvalidAPIKey
from gateway.exchange import Caller
from gateway.keys.records import ENDED, NEVER, Key, caller_for
from gateway.keys.register import Register
from gateway.keys.rules import (
    ISSUED_PREFIX,
    TOKEN_LIMIT,
    Peppers,
    caller_of,
    digest,
    is_token,
    keyed,
    policy,
    read_token,
)
from gateway.keys.table import Nowhere, Table
from gateway.ports import Clock

PEPPER_VARIABLE = "GATEWAY_PEPPER"
OLD_PEPPER_VARIABLE = "GATEWAY_PEPPER_OLD"
SECRET_BYTES = 32
SHORTEST = 32  # characters of a pepper: less is a password, not a key
SHORTEST_TOKEN = 16
STEP = 0.05  # seconds between two tries to take the lock
_COMMAND = " command"  # stands in the lock behind the process's number
COMMAND_TRIES = 200  # while a command has it: commands are short
REMEMBERED = 4096  # callers

Shown = tuple[str | None, str | None]  # the values of `Authorization` and `api-key`


class DataError(Exception):
    """The data directory cannot be used as it is. The message says what to do, and no secret."""


class DataInUse(DataError):
    """Another process has the lock: a server, or (`for_a_moment`) a command that works on the
    files."""

    def __init__(self, message: str, *, for_a_moment: bool) -> None:
        super().__init__(message)
        self.for_a_moment = for_a_moment


# The data directory -----------------------------------------------------------------------------


class DataLock:
    """Holds `data/lock` while it is open. The kernel lets go of it when the process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go. Idempotent. The file stays: removing it would race with the next server."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_data(data_dir: Path, *, command: bool = False) -> DataLock:
    """Make `data_dir` (0700) if need be and take its lock.

    A server (which says so by not being a `command`) waits for a command to end, for some seconds;
    who is a command never waits. DataInUse: another one has it. DataError.
    """
    for _ in range(0 if command else COMMAND_TRIES):
        try:
            return _lock(data_dir)
        except DataInUse as error:
            if not error.for_a_moment:
                raise
        time.sleep(STEP)
    return _lock(data_dir, _COMMAND if command else "")


def _lock(data_dir: Path, mark: str = "") -> DataLock:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One that was there may be anything, `/tmp` even: its mode is looked at, not changed.
        if stat.S_IMODE(data_dir.stat().st_mode) & 0o022:
            raise DataError(
                f"{data_dir} may be written by others; chmod 700 it, or take another --data"
            )
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DataError(f"{data_dir} cannot be used for data: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}{mark}\n".encode())
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise DataInUse(
                f"{data_dir} is in use by another gateway (process {holder}); "
                "stop it, or give this one its own --data",
                for_a_moment=holder.endswith(_COMMAND),
            ) from None
        raise DataError(f"{data_dir / 'lock'} cannot be locked: {error.strerror}") from error
    return DataLock(descriptor)


def load_peppers(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Peppers:
    """What keys are digested with: `GATEWAY_PEPPER` (and `GATEWAY_PEPPER_OLD`), else `data/secret`,
    made where it is missing: one line, or a new pepper above the old one.

    Call it with the lock held. A pepper's bytes are its text, so that the file's line in the
    variable means the same pepper. DataError: empty, short, readable by others, too many.
    """
    if PEPPER_VARIABLE in environ:
        lines = [(PEPPER_VARIABLE, environ[PEPPER_VARIABLE])]
        if old := environ.get(OLD_PEPPER_VARIABLE):
            lines.append((OLD_PEPPER_VARIABLE, old))
    else:
        path = data_dir / "secret"
        lines = [(str(path), line) for line in _kept_secret(path).split("\n")]
        if len(lines) > 2:
            raise DataError(f"{path} has more than two lines: a new pepper, the old one below it")
    return Peppers(*(_pepper(source, line.strip()) for source, line in lines))


def _pepper(source: str, text: str) -> bytes:
    if len(text) < SHORTEST:
        raise DataError(
            f"{source} is {'too short' if text else 'empty'}: it takes {SHORTEST} characters. "
            "Restore it from a backup; without one, remove it, and a new one is made (keys issued "
            "with the old one are void then)"
        )
    return text.encode()


def has_pepper(data_dir: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """There is one; asking makes none."""
    return PEPPER_VARIABLE in environ or (data_dir / "secret").exists()


def open_register(data_dir: Path, clock: Clock, *, make: bool = True) -> Register:
    """The register of that directory, to be started. Where a pepper or keys.db are missing, they
    are made, but not without `make`. Call it with the lock held. DataError."""
    path = data_dir / "keys.db"
    store = Table(path) if make or path.exists() else Nowhere(f"there is no {path}")
    peppers = load_peppers(data_dir) if make or has_pepper(data_dir) else None
    return Register(store, peppers, clock)


def load_admin_token(data_dir: Path, configured: str) -> str:
    """The configured admin token, else the one in `data/admin.token`, made where it is missing."""
    path = data_dir / "admin.token"
    token, source = (configured, "admin.token") if configured else (_kept_secret(path), str(path))
    if not SHORTEST_TOKEN <= len(token) <= TOKEN_LIMIT or not is_token(token):
        raise DataError(
            f"{source} must be {SHORTEST_TOKEN} to {TOKEN_LIMIT} visible ASCII characters"
        )
    return token


def _kept_secret(path: Path) -> str:
    """The text of a file that only its owner can read; a new random one where there is none."""
    try:
        _make_secret(path)
        with path.open(encoding="ascii", errors="replace") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise DataError(f"{path} can be read by others; run: chmod 600 {path}")
            return file.read(TOKEN_LIMIT + 2).strip()
    except OSError as error:
        raise DataError(f"{path} cannot be read or made: {error.strerror}") from error


def _make_secret(path: Path) -> None:
    """Write a new secret, whole or not at all, unless the file exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError:  # a full disk must not leave an empty pepper behind
        path.unlink()
        raise


# Callers ----------------------------------------------------------------------------------------


class Callers:
    """The `Keys` port. Remembers callers it has met, so that meeting them again costs no HMAC."""

    def __init__(
        self,
        section: Keys,
        register: Register,
        clock: Clock,
        *,
        admin_token: str,
        bind_is_loopback: bool,
    ) -> None:
        """The register has peppers, and is started before the first caller is met."""
        assert register.peppers is not None
        self._register, self._peppers, self._clock = register, register.peppers, clock
        self._admin = digest(admin_token)
        # By the whole token (CVE-2026-35030); with the wall second from which it is refused.
        self._met: OrderedDict[str | None, tuple[Caller, float]] = OrderedDict()
        self._shown: OrderedDict[Shown, tuple[Caller, float]] = (
            OrderedDict()
        )  # the same, by headers
        register.on_change = self._forget
        self.reconfigure(section, bind_is_loopback=bind_is_loopback)

    def reconfigure(self, section: Keys, *, bind_is_loopback: bool) -> None:
        """Take a new `keys` section; it holds from the next request on."""
        self._policy = policy(section, bind_is_loopback=bind_is_loopback)
        self._forget()

    def identify(self, authorization: str | None, api_key: str | None = None) -> Caller:
        """The caller behind the values of `Authorization` and `api-key`. InvalidAPIKey. No I/O."""
        shown = authorization, api_key
        met = self._shown.get(shown)
        if met is None or (met[1] != NEVER and met[1] <= self._clock.now()):
            return self._identify(shown)
        self._shown.move_to_end(shown)  # who was not met for longest is forgotten first
        return met[0]

    def _identify(self, shown: Shown) -> Caller:
        """Who did not show just this before, or whose time is over."""
        token = read_token(*shown)
        met = self._met.get(token)
        if met is None or (met[1] != NEVER and met[1] <= self._clock.now()):
            self._met.pop(token, None)
            met = self._met[token] = self._meet(token)
            if len(self._met) > REMEMBERED:
                self._met.popitem(last=False)
        else:
            self._met.move_to_end(token)
        if sum(len(value or "") for value in shown) <= TOKEN_LIMIT:
            self._shown[shown] = met
            if len(self._shown) > REMEMBERED:
                self._shown.popitem(last=False)
        return met[0]

    def _forget(self) -> None:
        """Keys have changed: everybody is met anew."""
        self._met.clear()
        self._shown.clear()

    def _meet(self, token: str | None) -> tuple[Caller, float]:
        if token is not None and token.startswith(ISSUED_PREFIX):
            return self._issued(token)
        pepper = self._peppers.current
        return caller_of(token, self._policy, pepper=pepper, admin=self._admin), NEVER

    def _issued(self, token: str) -> tuple[Caller, float]:
        """All peppers are tried, whatever the first one finds: no answer comes sooner (N2)."""
        digests = [keyed(token, pepper) for pepper in self._peppers.all]
        found: Key | None = None
        until = ENDED
        for one in digests:
            key = self._register.find(one)
            if key is not None and (good := key.good_until(one)) > until:
                found, until = key, good
        if found is None or until <= self._clock.now():
            raise InvalidAPIKey
        if found.digest in digests[1:]:
            self._register.renew(found, digests[0])
        return caller_for(found, self._register.team_of(found)), until
