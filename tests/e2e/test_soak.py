"""Every answer is its own request's, on both event loops, plain and over TLS (B10, reliability C1).

Connections send batches of requests of many sizes, cut anywhere, some never read to their end. Each
request carries a mark; its answer must come in its place and carry that mark and no other, and no
two answers may have one id. `make soak` sends 200,000 requests; `make test` some hundreds.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools
import pytest
import uvloop

from tests.e2e.process import Gateway

CONNECTIONS = 24
WAIT = 60.0  # seconds for one batch: only a test that fails takes them
MARK = re.compile(rb"M[0-9]+M")
PADDING = (0, 0, 300, 3_000, 40_000)  # bytes
MODELS = ("echo", "echo", "echo", "far")  # in this process; of an upstream behind HTTP
CLOSED = 100  # connections that are to be closed in order


@dataclass
class Asked:
    """One request: its bytes, its mark, what its answer must be."""

    data: bytes
    mark: bytes
    stream: bool


@dataclass
class Tally:
    """What was seen."""

    rng: random.Random
    left: int  # requests
    marks: int = 0
    answered: int = 0
    ids: set[str] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)

    def request(self, *, last: bool) -> Asked:
        """One more; half of them were asked before, most likely."""
        rng = self.rng
        self.left -= 1
        self.marks += 1
        number = rng.randrange(self.marks) if rng.random() < 0.6 else self.marks
        # What is asked again is asked with the same bytes: hits, joins, and bodies read before.
        same = random.Random(number)
        mark = b"M%dM" % number
        stream = same.random() < 0.4
        content = f"{mark.decode()} {'x' * same.choice(PADDING)}"
        body = {"model": same.choice(MODELS), "messages": [{"role": "user", "content": content}]}
        data = json.dumps(body | ({"stream": True} if stream else {})).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\n"
        head += b"Cache-Control: no-store\r\n" if rng.random() < 0.1 else b""
        head += b"X-Any: %d\r\n" % rng.randrange(10**6) if rng.random() < 0.2 else b""
        head += b"Connection: close\r\n" if last else b""
        if rng.random() < 0.1:
            at = rng.randrange(len(data))
            framed = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                *(at, data[:at]),
                *(len(data) - at, data[at:]),
            ) if at else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)  # fmt: skip
            return Asked(head + b"Transfer-Encoding: chunked\r\n\r\n" + framed, mark, stream)
        return Asked(head + b"Content-Length: %d\r\n\r\n" % len(data) + data, mark, stream)

    def check(self, asked: Asked, status: int, headers: dict[str, str], body: bytes) -> None:
        """The answer is this request's."""
        assert status == 200, (status, body[:500])
        assert set(MARK.findall(body)) == {asked.mark}
        assert body.endswith(b"data: [DONE]\n\n") == asked.stream
        own = headers["x-gateway-request-id"]
        assert own not in self.ids
        self.ids.add(own)
        self.answered += 1
        state = headers["x-gateway-cache"]
        self.states[state] = self.states.get(state, 0) + 1


class Client(asyncio.Protocol):
    """One connection that reads the answers of one batch after the other."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.due: list[Asked] = []
        self.read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leaves = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if not self.read.done():
            self.read.set_exception(exc or ConnectionError(f"{len(self.due)} answers are missing"))
            self.read.exception()  # looked at: who has left does not wait for it

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except Exception as error:
            if not self.read.done():
                self.read.set_exception(error.__context__ or error)
                self.read.exception()
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        headers, body = self._headers, b"".join(self._body)
        self._headers, self._body = {}, []
        self.tally.check(self.due.pop(0), self._parser.get_status_code(), headers, body)
        if not self.due and not self.read.done():
            self.read.set_result(None)

    async def ask(self, batch: list[Asked]) -> None:
        """Send the batch, cut anywhere, and wait for all answers."""
        rng = self.tally.rng
        self.due += batch
        self.read = asyncio.get_running_loop().create_future()
        data = b"".join(asked.data for asked in batch)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            at = rng.randrange(len(data))
            self.transport.write(data[:at])
            data = data[at:]
            await asyncio.sleep(0)
        self.transport.write(data)
        async with asyncio.timeout(WAIT):
            await self.read

    async def leave(self, batch: list[Asked]) -> None:
        """Send a part of the batch, and leave without a word."""
        rng = self.tally.rng
        self.due += batch
        self.read = asyncio.get_running_loop().create_future()
        data = b"".join(asked.data for asked in batch)
        self.transport.write(data[: rng.randrange(len(data) + 1)])
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
        self.transport.abort()
        await self.closed


async def customer(tally: Tally, port: int, tls: ssl.SSLContext | None) -> None:
    """One connection after the other."""
    loop, rng = asyncio.get_running_loop(), tally.rng
    while tally.left > 0:
        _, client = await loop.create_connection(lambda: Client(tally), "127.0.0.1", port, ssl=tls)
        for turn in reversed(range(rng.randrange(1, 30))):
            if tally.left <= 0:
                break
            last = turn == 0
            count = rng.choice((1, 1, 1, 2, 5))
            batch = [tally.request(last=last and one == count - 1) for one in range(count)]
            if rng.random() < 0.03:
                await client.leave(batch)
                break
            await client.ask(batch)
            if last:
                async with asyncio.timeout(WAIT):
                    await client.closed
        client.transport.close()
        async with asyncio.timeout(WAIT):
            await client.closed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["plain", "tls"])
def running(
    request: pytest.FixtureRequest, loop_name: str, certificate: tuple[str, str], tmp_path: Path
) -> Iterator[Gateway]:
    """A gateway in front of another one, on that loop."""
    cert, key = certificate
    tls = {"tls": {"cert": cert, "key": key}} if request.param == "tls" else {}
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    server: dict[str, Any] = {"event_loop": loop_name, "max_connections": 200}
    echo = {"name": "echo", "base_url": "echo:", "models": ["echo"]}
    behind = {"server": server, "cache": {"enabled": False}, "upstreams": [echo]}
    with Gateway(far, behind) as upstream:
        http = {
            **{"name": "far", "base_url": upstream.v1, "auth": "none"},
            **{"models": ["far"], "rename": {"far": "echo"}},
        }
        with Gateway(near, {"server": server | tls, "upstreams": [echo, http]}) as gateway:
            yield gateway


def trusting(gateway: Gateway, certificate: tuple[str, str]) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=certificate[0]) if gateway.scheme == "https" else None


@pytest.mark.parametrize("count", [600, pytest.param(50_000, marks=pytest.mark.soak)])
def test_each_answer_is_its_own_requests(
    running: Gateway, certificate: tuple[str, str], count: int
) -> None:
    """B10: marks and ids never cross; what was asked is answered, whoever else leaves."""
    tally = Tally(random.Random(count), count)

    async def all_customers() -> None:
        tls = trusting(running, certificate)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(customer(tally, running.port, tls))

    # uvloop is the faster client; over TLS, its own closing is not what is looked at.
    loop = asyncio.new_event_loop if running.scheme == "https" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(all_customers())
    assert tally.answered == len(tally.ids) > count * 0.8
    assert {"hit", "miss", "bypass"} <= tally.states.keys()


def test_an_end_over_tls_is_told(running: Gateway, certificate: tuple[str, str]) -> None:
    """B10: after the last answer comes close_notify, not a bare end that might be a cut."""
    tls = trusting(running, certificate)
    tally = Tally(random.Random(1), CLOSED)
    for _ in range(CLOSED if tls else 1):
        with socket.create_connection(("127.0.0.1", running.port), WAIT) as plain:
            wire = plain
            if tls is not None:
                wire = tls.wrap_socket(
                    plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
                )
            wire.sendall(tally.request(last=True).data)
            answer = b""
            while data := wire.recv(1 << 16):  # ssl.SSLEOFError where it is not told
                answer += data
            wire.close()
            assert answer.startswith(b"HTTP/1.1 200 ") and MARK.search(answer)
