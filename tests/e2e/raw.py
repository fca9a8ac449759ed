"""An HTTP/1.1 client of raw bytes: it sends what no library would, and reads no faster than told.

Just enough of HTTP to read an answer: a length, chunks, or the end of the connection.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.scripted.client import PATIENCE

CHAT = "/v1/chat/completions"


class Cut(Exception):
    """The connection ended before the answer did."""


@dataclass
class Answer:
    """An answer's head, and its body once it has been read."""

    version: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def names(self) -> set[str]:
        return {k.lower() for k, _ in self.headers}

    @property
    def id(self) -> str:
        found = self.header("x-gateway-request-id")
        assert found, self
        return found

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self, status: int, code: str) -> dict[str, Any]:
        """Assert that this is the gateway's own error, in OpenAI's shape, all four members."""
        assert self.status == status, (self.status, self.body[:500])
        assert (self.header("content-type") or "").startswith("application/json"), self.headers
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["code"] == code and error["message"], error
        kind = code if status == 429 else "invalid_request_error" if status < 500 else "api_error"
        assert error["type"] == kind, error
        if 400 <= status < 500 and status not in (408, 429):
            assert self.header("x-should-retry") == "false", self.headers
        if status == 503:
            assert self.header("retry-after"), self.headers
        return dict(error)


def request(
    target: str = CHAT,
    body: bytes | Mapping[str, Any] = b"",
    headers: Iterable[tuple[str, str]] = (),
    method: str = "POST",
    version: str = "HTTP/1.1",
    host: str = "gateway.example",
) -> bytes:
    """A request's bytes; `headers` come after Host and, where there is a body, its length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [("Host", host)]
    if data:
        fields += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    names = {k.lower() for k, _ in headers}
    fields = [(k, v) for k, v in fields if k.lower() not in names] + list(headers)
    head = "".join(f"{k}: {v}\r\n" for k, v in fields)
    return f"{method} {target} {version}\r\n{head}\r\n".encode("latin-1") + data


def chat(model: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return body | ({"stream": True} if stream else {}) | more


class Raw:
    """One connection to the gateway."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        receive_buffer: int = 0,
        source: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer:  # before connect: it decides the window
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(address)
            if tls:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        except OSError:
            self.sock.close()
            raise
        self.buffer = bytearray()
        self.received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Leave with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def ask(self, target: str = CHAT, body: bytes | Mapping[str, Any] = b"", **more: Any) -> Answer:
        """Send a request, read the whole answer."""
        return self.send(request(target, body, **more)).answer(more.get("method", "POST"))

    # Reading -------------------------------------------------------------------------------------

    def fill(self, most: int = 65536) -> bool:
        try:
            data = self.sock.recv(most)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        self.received += len(data)
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Bytes up to and with `mark`."""
        while (at := self.buffer.find(mark)) < 0:
            if not self.fill():
                raise Cut(bytes(self.buffer))
        found = bytes(self.buffer[: at + len(mark)])
        del self.buffer[: at + len(mark)]
        return found

    def exactly(self, number: int) -> bytes:
        while len(self.buffer) < number:
            if not self.fill():
                raise Cut(bytes(self.buffer))
        found = bytes(self.buffer[:number])
        del self.buffer[:number]
        return found

    def head(self) -> Answer:
        """The next head; 100 Continue counts as one."""
        line, *fields = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = line.split(" ")
        pairs = [field.partition(":") for field in fields]
        return Answer(version, int(status), [(k, v.strip(" \t")) for k, _, v in pairs])

    def chunks(self) -> Iterator[bytes]:
        """A chunked body's chunks, as the gateway cut them. Cut when the last one never comes."""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            yield self.exactly(size)
            self.exactly(2)
        self.until(b"\r\n")

    def pieces(self, answer: Answer) -> Iterator[bytes]:
        """The body of this answer as it comes. Cut when it does not come whole."""
        if (answer.header("transfer-encoding") or "").lower() == "chunked":
            yield from self.chunks()
        elif (length := answer.header("content-length")) is not None:
            yield self.exactly(int(length))
        else:
            yield from iter(self.rest, b"")

    def rest(self) -> bytes:
        """Some bytes of a body that ends with the connection; b"" at its end."""
        if not self.buffer:
            self.fill()
        found = bytes(self.buffer)
        self.buffer.clear()
        return found

    def answer(self, method: str = "POST") -> Answer:
        """The next whole answer."""
        found = self.head()
        if method != "HEAD" and found.status not in (204, 304):
            found.body = b"".join(self.pieces(found))
        return found

    def ended(self) -> bool:
        """The gateway has closed, or closes now; bytes that come instead are a failure."""
        return not self.buffer and not self.fill()


class Events:
    """A streamed answer, event by event: `next()` gives one with its blank line."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.head = raw.head()
        self._pieces = raw.pieces(self.head)
        self._buffer = b""

    def next(self) -> bytes:
        """The next event; b"" at the end of the answer, Cut where it breaks off."""
        while b"\n\n" not in self._buffer:
            piece = next(self._pieces, None)
            if piece is None:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += piece
        event, _, self._buffer = self._buffer.partition(b"\n\n")
        return event + b"\n\n"

    def rest(self) -> list[bytes]:
        return list(iter(self.next, b""))
