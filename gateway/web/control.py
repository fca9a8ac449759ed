"""The admin plane once more, on `data/control.sock`: for the commands, guarded by the file system.

Rule: the socket is 0600 before anybody can connect to it, and is removed at the end. Whoever starts
it holds `data/lock`, so a file that is there is left over from a server that was killed.
"""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.control import SOCKET, address_of


class ControlSocket:
    """Listens on `data/control.sock` and serves each connection by `connection()`."""

    def __init__(self, data: Path, connection: Callable[[], asyncio.BaseProtocol]) -> None:
        self._path = data / SOCKET
        self._connection = connection
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. OSError: the path is too long, or something else has its name."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove()
            with address_of(self._path) as address:
                listener.bind(address)
            self._path.chmod(0o600)  # until `listen`, connecting is refused whatever the mode
            listener.setblocking(False)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._connection, sock=listener)
        except BaseException:
            listener.close()
            raise

    def close(self) -> None:
        """Stop listening and remove the file; open connections are their protocol's. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._remove()

    def _remove(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(f"{self._path} is not a socket; remove it")
        self._path.unlink(missing_ok=True)
