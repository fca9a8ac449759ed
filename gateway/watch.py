"""config.yaml on the disk: reads it, and notices when it or a secret's file has changed.

A change is seen by content, by looking every few seconds: that works on every file system, with
editors that rename and with Kubernetes' symbolic links. SIGHUP looks at once. Whatever is wrong
with the new file, the old configuration stays. All reading is done in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from gateway.config import Config, ConfigError, Fault, load

_LOG = logging.getLogger(__name__)
_POLL = 2.0  # seconds
_SETTLE = 0.2  # seconds; an editor that empties a file and then writes it is done by then

Apply = Callable[[Config], Config]


class ConfigFile:
    """One config.yaml with the secret files it names. Blocking; the caller picks the thread."""

    def __init__(
        self,
        path: str | Path,
        env: Mapping[str, str],
        *,
        overrides: Apply = lambda config: config,
        missing_ok: bool = False,
    ) -> None:
        """`overrides` puts the command line's options over what was read and may raise ConfigError;
        `missing_ok` takes a file that is not there for an empty one: all defaults."""
        self.path = Path(path)
        self._env = env
        self._overrides = overrides
        self._missing_ok = missing_ok
        self._was: dict[Path, bytes] = {self.path: b""}  # digests of what the last `read` saw

    def read(self) -> Config:
        """The configuration as of now; ConfigError says all that is wrong with it."""
        name = str(self.path)
        self._was = {}
        try:
            data = self._bytes(self.path)
        except FileNotFoundError as error:
            if not self._missing_ok:
                raise ConfigError([_unreadable(name, error)]) from None
            data = b""
        except OSError as error:
            raise ConfigError([_unreadable(name, error)]) from None
        config = load(data, self._env, self._secret, name=name, installed=_is_installed)
        return self._overrides(config)

    def changed(self) -> dict[Path, bytes] | None:
        """What the files of the last `read` hold now, as digests; None if that is the same."""
        now = {path: _digest(path) for path in self._was}
        return None if now == self._was else now

    def _secret(self, file: str) -> str:
        return self._bytes(Path(file)).decode("utf-8")

    def _bytes(self, path: Path) -> bytes:
        self._was[path] = b""
        data = path.read_bytes()
        self._was[path] = sha256(data).digest()
        return data


def _digest(path: Path) -> bytes:
    try:
        return sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _unreadable(name: str, error: OSError) -> Fault:
    return Fault("", None, f"cannot be read: {error.strerror or type(error).__name__}", name)


class Watcher:
    """Calls back with each new configuration, or with the faults of a file that was not taken.

    Both callbacks run in the event loop. One of them is called for each changed content, once, and
    for each `poke` even if nothing has changed: who asks wants an answer.
    """

    def __init__(
        self,
        file: ConfigFile,
        on_config: Callable[[Config], None],
        on_faults: Callable[[list[Fault]], None],
        *,
        interval: float = _POLL,
    ) -> None:
        self._file = file
        self._on_config = on_config
        self._on_faults = on_faults
        self._interval = interval
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, *, sighup: bool = True) -> None:
        """Watch what differs from the last `file.read()`. Signals need the main thread's loop."""
        loop = asyncio.get_running_loop()
        if sighup:
            # Left until the loop closes: a late SIGHUP must not end a server that drains.
            loop.add_signal_handler(signal.SIGHUP, self.poke)
        self._task = loop.create_task(self._watch(), name="config-watch")

    def poke(self) -> None:
        """Read again now, changed or not."""
        self._poked.set()

    async def close(self) -> None:
        """Stop; no callback comes after this returns."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._poked.wait()
            asked = self._poked.is_set()
            self._poked.clear()
            try:
                if asked or await self._changed():
                    await self._reload()
            except Exception:  # a reader's or a callback's fault must not end the watch
                _LOG.exception("reloading %s failed; the old configuration stays", self._file.path)

    async def _changed(self) -> bool:
        """There is a new content that has stood still for a moment: half a file is not read."""
        loop = asyncio.get_running_loop()
        now = await loop.run_in_executor(None, self._file.changed)
        if now is None:
            return False
        await asyncio.sleep(min(_SETTLE, self._interval))
        return now == await loop.run_in_executor(None, self._file.changed)

    async def _reload(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            config = await loop.run_in_executor(None, self._file.read)
        except ConfigError as error:
            self._on_faults(error.faults)
        else:
            self._on_config(config)
