"""The way from a command to the server that runs on a data directory: HTTP over `control.sock`.

Rule: the standard library only, so that a command starts at once. Whoever may write to the socket's
file may ask everything; no token is sent.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "control.sock"
LONGEST = 100  # bytes of a socket's path that every system takes; Linux has 108, macOS 104
CONNECT = 5.0  # seconds for a server to say that it is there
ANSWER = 300.0  # seconds for it to do what it was asked; a purge reads the whole disk


class PathTooLong(OSError):
    """No spelling of this path fits into a socket's address."""


class NoServer(Exception):
    """Nobody listens there."""


class NoAnswer(Exception):
    """Somebody listens there, and says nothing or nonsense; the message says what."""


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A spelling of the socket's path that is short enough, while the context lasts.

    PathTooLong; FileNotFoundError where its folder is not there.
    """
    for spelling in (str(path), os.path.relpath(path)):
        if len(os.fsencode(spelling)) <= LONGEST:
            yield spelling
            return
    if not Path("/proc/self/fd").is_dir():
        raise PathTooLong(
            f"{path} is too long for a socket ({LONGEST} bytes); choose a shorter data directory"
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)  # Linux: a folder by its number
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)


class ControlClient:
    """Asks the server whose data directory this is. Blocking."""

    def __init__(self, data: Path) -> None:
        self._path = data / SOCKET

    def ping(self, timeout: float = CONNECT) -> None:
        """Is somebody there? NoServer, NoAnswer. Seconds."""
        self.ask("GET", "/healthz", timeout=timeout)

    def ask(
        self, method: str, target: str, body: bytes | None = None, *, timeout: float = ANSWER
    ) -> tuple[int, bytes]:
        """Status and body of the answer. `target` is path and query; `body` is JSON. NoServer,
        NoAnswer. Not repeated: it may have been done."""
        connection = _Connection(self._path, timeout)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoServer(f"nobody listens on {self._path}") from error
        except TimeoutError as error:
            raise NoAnswer(f"no answer on {self._path} within {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self._path}: {_words(error)}") from error
        finally:
            connection.close()


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__
