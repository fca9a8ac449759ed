"""A data plane on a free loopback port, and raw sockets to speak to it, on each event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import uvloop

from gateway.clock import SystemClock
from gateway.config import Server
from gateway.errors import GatewayError
from gateway.exchange import HeaderList
from gateway.web.server import Answer, DataPlane, Handler, Request

WAIT = 20.0  # seconds: only a test that fails takes them


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test of this folder runs on both loops (requirement B10)."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def render(error: GatewayError) -> tuple[int, HeaderList, bytes]:
    """As web/errors.py does it."""
    headers = [("content-type", "application/json"), *error.headers()]
    return error.status, headers, json.dumps(error.body()).encode()


class Reply:
    """One parsed answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str:
        """OpenAI's error code."""
        return json.loads(self.body)["error"]["code"]

    @property
    def message(self) -> str:
        return json.loads(self.body)["error"]["message"]


class Raw:
    """A client that sends exactly the bytes it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), WAIT)

    async def rest(self) -> bytes:
        """Everything until the server closes its side."""
        return await asyncio.wait_for(self.reader.read(-1), WAIT)

    async def reply(self, *, head_request: bool = False) -> Reply:
        """One answer, its end found as RFC 9112 section 6.3 says."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip("\r\n").split("\r\n")
        version, status = status_line.split(" ")[:2]
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        body = b""
        if head_request or int(status) in {204, 304} or int(status) < 200:
            pass
        elif "content-length" in headers:
            body = await asyncio.wait_for(
                self.reader.readexactly(int(headers["content-length"])), WAIT
            )
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await self.until(b"\r\n"), 16):
                body += (await asyncio.wait_for(self.reader.readexactly(size + 2), WAIT))[:-2]
            assert await self.until(b"\r\n") == b"\r\n"
        else:
            body = await self.rest()
        return Reply(int(status), headers, body)

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave as a crashed client does."""
        self.writer.transport.abort()


class Plane:
    """A running data plane and a way to it."""

    def __init__(self, server: DataPlane, host: str, port: int) -> None:
        self.server = server
        self.host = host
        self.port = port
        self.clients: list[Raw] = []

    async def connect(self, **options: object) -> Raw:
        reader, writer = await asyncio.open_connection(self.host, self.port, **options)  # type: ignore[arg-type]
        client = Raw(reader, writer)
        self.clients.append(client)
        return client


Serve = Callable[..., AbstractAsyncContextManager[Plane]]


async def echo(request: Request, client: Answer) -> None:
    """Answers with what it saw."""
    body = await request.body.read(1 << 20)
    seen = {
        "method": request.method,
        "target": request.target,
        "path": request.path,
        "query": request.query,
        "version": request.version,
        "headers": request.headers,
        "body": body.decode("latin-1"),
        "received": request.body.received,
        "length": request.body.length,
        "peer": request.peer.address,
        "secure": request.peer.secure,
    }
    client.send(200, [("content-type", "application/json")], json.dumps(seen).encode())


async def settle(condition: Callable[[], bool]) -> None:
    """Let the loop turn until what was caused has happened."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turn(), WAIT)


@pytest.fixture
def serve() -> Serve:
    """`async with serve(handler, header_timeout=0.2) as plane`: settings as in config.yaml."""

    @asynccontextmanager
    async def run(handler: Handler = echo, **settings: object) -> AsyncIterator[Plane]:
        chosen = attrs.evolve(Server(port=0), **settings)  # type: ignore[arg-type]
        server = DataPlane(
            handler,
            settings=chosen,
            clock=SystemClock(),
            render=render,
            loop=asyncio.get_running_loop(),
        )
        host, port = await server.start()
        plane = Plane(server, host, port)
        try:
            yield plane
        finally:
            for client in plane.clients:
                client.reset()
            server.close()
            await settle(lambda: not server.connections and not server.in_flight)
            assert server.bodies_in_flight == 0
            assert await server.wait_closed(1)

    return run
