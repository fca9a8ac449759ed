"""A scripted HTTP server on loopback, and upstreams that are closed again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from gateway.clock import SystemClock
from gateway.config import Secret, Timeouts, UpstreamSection
from gateway.exchange import Caller, CallerKind
from gateway.ports import Call
from gateway.upstream.client import HTTPUpstream

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """A class named ...OnBothLoops runs on asyncio's loop and on uvloop's (requirement B10)."""
    both = item.parent is not None and item.parent.name.endswith("OnBothLoops")
    uv: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, **(uv if both else {})}


ISSUED = Caller(CallerKind.ISSUED, "id", "app")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass
class Peer:
    """One accepted connection, as the script sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Server

    async def request(self) -> Request:
        """The next request, its body read."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")[:-2]
        headers = [(n.lower(), v.strip()) for n, _, v in (x.partition(":") for x in rest)]
        found = Request(line, headers)
        self.server.requests.append(found)
        self.server.arrived.set()
        if found.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                found.body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        else:
            found.body += await self.reader.readexactly(int(found.get("content-length") or 0))
        return found

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Return when the gateway has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


@dataclass
class Request:
    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        values = [v for n, v in self.headers if n == name]
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """Plays `script` for each connection. `requests` is all it was asked."""

    script: Script
    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    open: int = 0
    errors: list[Exception] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> Server:
        self.scheme = "https" if tls else "http"
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._play(Peer(reader, writer, self)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, peer: Peer) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway has left
        except Exception as exc:
            self.errors.append(exc)
        finally:
            self.open -= 1
            peer.writer.close()
            with contextlib.suppress(Exception):
                await peer.writer.wait_closed()

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.errors, self.errors


Serve = Callable[..., Awaitable[Server]]
Make = Callable[..., HTTPUpstream]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(script: Script, tls: ssl.SSLContext | None = None) -> Server:
            server = await Server(script).start(tls)
            stack.push_async_callback(server.close)
            return server

        yield start


@pytest.fixture
async def make(serve: Serve) -> AsyncIterator[Make]:
    """After `serve`, so that connections close before their servers do."""
    async with contextlib.AsyncExitStack() as stack:

        def build(base_url: str, **settings: Any) -> HTTPUpstream:
            timeouts = Timeouts(**{k: settings.pop(k) for k in TIMEOUTS if k in settings})
            given = {"api_key": Secret("sk-own"), "proxy": "none", "timeouts": timeouts, **settings}
            section = UpstreamSection(name="test", base_url=base_url, **given)
            upstream = HTTPUpstream(section, instance_id="me", clock=SystemClock())
            stack.push_async_callback(upstream.close)
            return upstream

        yield build


TIMEOUTS = ("connect", "first_byte", "idle", "total")


def call(body: Any = b"{}", **changes: Any) -> Call:
    given: dict[str, Any] = {
        "method": "POST", "path": "chat/completions", "query": "", "body": body,
        "headers": [("content-type", "application/json")], "length": None, "caller": ISSUED,
    }  # fmt: skip
    return Call(**{**given, **changes})


async def whole(upstream: HTTPUpstream, asked: Call) -> tuple[int, bytes]:
    """Status and body of one call, read to its end."""
    with await upstream.send(asked) as reply:
        body = b""
        while data := await reply.read():
            body += data
        return reply.status, body


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; it is made true by what the loop has to do anyway."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def answering(answer: bytes = OK) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer)

    return script
