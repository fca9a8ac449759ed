"""The whole server: caps, draining, TLS, and what random bytes do to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import TLS
from gateway.errors import GatewayError
from gateway.web.body import RequestBody
from gateway.web.parser import RequestParser
from gateway.web.server import Answer, Request, connection_cap
from tests.web.conftest import Serve, settle
from tests.web.test_edge import CHUNKED, GET, post

ROOT = Path(__file__).parent.parent.parent


async def test_gauges_and_the_cap_on_requests(serve: Serve) -> None:
    """Requirement H5: a fast 503 with Retry-After, on a connection that is kept."""
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        if request.path == "/wait":
            await go.wait()
        client.send(200, [], b"ok")

    async with serve(handler, max_in_flight=1) as plane:
        first, second = await plane.connect(), await plane.connect()
        await first.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await settle(lambda: plane.server.in_flight == 1)
        await second.send(GET * 1000)
        for _ in range(1000):
            reply = await second.reply()
            assert (reply.status, reply.code) == (503, "overloaded")
            assert reply.headers["retry-after"] == "1"
        assert (plane.server.connections, plane.server.in_flight) == (2, 1)
        go.set()
        assert (await first.reply()).status == 200
        assert (await second.ask(GET)).status == 200


async def test_a_connection_beyond_the_cap_is_told_and_closed(serve: Serve) -> None:
    async with serve(max_connections=2) as plane:
        kept = [await plane.connect() for _ in range(2)]
        for client in kept:
            assert (await client.ask(GET)).status == 200
        late = await plane.connect()
        await late.send(post(b"x" * 100_000))
        reply = await late.reply()
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["connection"] == "close"
        assert await late.rest() == b""
        late.close()
        kept[0].close()
        await settle(lambda: plane.server.connections == 1)
        assert (await (await plane.connect()).ask(GET)).status == 200
        assert (await kept[1].ask(GET)).status == 200


def test_the_cap_leaves_room_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for files, cap in ((1_048_576, 10_000), (1024, 768), (512, 256), (64, 32), (2, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connection_cap(10_000) == cap


async def test_draining(serve: Serve) -> None:
    """Requirement L1: idle ones closed at once, open answers end, and the socket listens on."""
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], None)
        client.write(b"begun")
        if request.path == "/wait":
            await go.wait()
        client.finish()

    async with serve(handler) as plane:
        idle, busy = await plane.connect(), await plane.connect()
        assert (await idle.ask(GET)).status == 200
        await busy.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await busy.until(b"begun\r\n")
        assert not plane.server.draining
        plane.server.begin_drain()
        assert plane.server.draining
        assert await idle.rest() == b""
        late = await plane.connect()
        reply = await late.ask(GET)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await late.rest() == b""
        assert not await plane.server.wait_closed(0.01)
        waiting = asyncio.create_task(plane.server.wait_closed(20))
        go.set()
        assert await busy.rest() == b"0\r\n\r\n"
        assert await waiting


async def test_wait_closed_waits_until_the_answer_has_left(serve: Serve) -> None:
    size = 32 << 20

    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [], b"x" * size)

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        await settle(lambda: plane.server.connections == 1)
        plane.server.begin_drain()
        assert not await plane.server.wait_closed(0.05)
        waiting = asyncio.create_task(plane.server.wait_closed(20))
        assert len((await client.reply()).body) == size
        assert await waiting


async def test_close_cuts_what_is_left(serve: Serve) -> None:
    gone = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        client.watch(lambda: None, gone.set)
        client.start(200, [], None)
        await gone.wait()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        await client.until(b"\r\n\r\n")
        plane.server.close()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.until(b"0\r\n\r\n")
        assert await plane.server.wait_closed(10)
        assert gone.is_set()
        with pytest.raises(OSError):
            await plane.connect()


# TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return TLS(cert=cert, key=key)


async def test_tls(serve: Serve, certificate: TLS) -> None:
    async with serve(tls=certificate) as plane:
        context = ssl.create_default_context(cafile=certificate.cert)
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await plane.connect(ssl=context)
        session = client.writer.get_extra_info("ssl_object")
        assert session.selected_alpn_protocol() == "http/1.1"
        assert session.version() in {"TLSv1.2", "TLSv1.3"}
        for _ in range(2):
            reply = await client.ask(post(b"x" * 300_000))
            assert json.loads(reply.body)["secure"] is True
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.rest() == b""
        old = ssl.create_default_context(cafile=certificate.cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await (await plane.connect(ssl=old)).ask(GET)).status == 200


async def test_an_early_answer_over_tls_is_read_by_a_client_that_sends_on(
    serve: Serve, certificate: TLS
) -> None:
    async def handler(request: Request, client: Answer) -> None:
        await request.body.read(1000)

    async with serve(handler, tls=certificate) as plane:
        client = await plane.connect(ssl=ssl.create_default_context(cafile=certificate.cert))
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20971520\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * (1 << 20))
        assert (await client.reply()).status == 413


async def test_a_handshake_that_does_not_come_is_cut(serve: Serve, certificate: TLS) -> None:
    async with serve(tls=certificate, header_timeout=0.2) as plane:
        client = await plane.connect()
        assert await client.rest() == b""


async def test_a_plain_request_on_a_tls_port_harms_nobody(serve: Serve, certificate: TLS) -> None:
    async with serve(tls=certificate) as plane:
        client = await plane.connect()
        await client.send(GET)
        with contextlib.suppress(ConnectionError):
            await client.rest()
        secure = await plane.connect(ssl=ssl.create_default_context(cafile=certificate.cert))
        assert (await secure.ask(GET)).status == 200


# Random bytes -------------------------------------------------------------------------------------

Seen = tuple[str, str, str, list[tuple[str, str]], bool, int | None, bytes]


class _NoFeeder:
    last_read = 0.0

    def pause(self) -> None:
        pass


def parse(pieces: list[bytes]) -> list[Seen]:
    """All requests in `pieces`, by the parser alone."""
    parser, found, data = RequestParser(), [], b""
    for piece in pieces:
        data += piece
        while data:
            data = parser.feed(data)
            if parser.ready and parser.body is None:
                feeder: Any = _NoFeeder()
                parser.body = RequestBody(feeder, parser.length, 0, False)
            if parser.complete:
                assert parser.body is not None
                body = bytes(parser.body._data)
                head = (parser.method, parser.target, parser.version, parser.headers)
                found.append((*head, parser.keep_alive, parser.length, body))
                parser.next()
    return found


bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", GET, b"\r\n\r\n\r\n", b"\r"]),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Wire bytes of one valid request, and its body."""
    name = draw(st.text("abcXYZ-", min_size=1, max_size=8)).encode()
    value = draw(st.text("abc ,;=\xe9", max_size=20)).strip().encode("latin-1")
    head = draw(st.sampled_from([b"", b"\r\n"])) + b"POST /p?q HTTP/1.1\r\nHost: h\r\n"
    head += b"X-" + name + b": " + value + b"\r\n"
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "none":
        return head + b"\r\n", b""
    if kind == "length":
        body = draw(bodies)
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
    parts = [part for part in draw(st.lists(bodies, max_size=4)) if part]
    extension = draw(st.sampled_from([b"", b";a=b"]))
    wire = b"".join(b"%x%s\r\n%s\r\n" % (len(one), extension, one) for one in parts)
    trailer = draw(st.sampled_from([b"", b"T: u\r\n"]))
    return (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + wire + b"0\r\n" + trailer + b"\r\n",
        b"".join(parts),
    )


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_any_split_of_the_bytes_gives_the_same_requests(
    several: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(one for one, _ in several)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    whole = parse([wire])
    assert [one[-1] for one in whole] == [body for _, body in several]
    assert parse(pieces) == whole
    assert parse([wire[at : at + 1] for at in range(len(wire))]) == whole


@given(st.binary(max_size=300), st.sampled_from([b"", GET[:20], CHUNKED, post(b"abc")[:-2]]))
def test_random_bytes_raise_nothing_but_a_refusal(garbage: bytes, before: bytes) -> None:
    try:
        parse([before + garbage])
    except GatewayError as error:
        assert error.status in {400, 417, 501}


VALID = post(b"abc", b"Connection: keep-alive", b"Accept: */*") + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_request_never_harms_the_server(data: st.DataObject) -> None:
    wire = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(wire) - 1))
        wire[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    seen = asyncio.run(_answers(bytes(wire)))
    assert all(b"HTTP/1.1 500" not in answer and b"HTTP/1.1 503" not in answer for answer in seen)


async def _answers(wire: bytes) -> list[bytes]:
    """What the server says to `wire`, and to an honest request after it."""
    from gateway.clock import SystemClock
    from gateway.config import Server
    from gateway.web.server import DataPlane
    from tests.web.conftest import echo, render

    loop = asyncio.get_running_loop()
    failures: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    server = DataPlane(
        echo,
        settings=Server(port=0, header_timeout=0.05, body_timeout=0.05, keepalive_timeout=0.05),  # type: ignore[arg-type]
        clock=SystemClock(),
        render=render,
        loop=loop,
    )
    host, port = await server.start()
    seen = []
    for data in (wire, GET):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(data)
        seen.append(await asyncio.wait_for(reader.read(), 20))
        writer.close()
    server.close()
    await settle(lambda: not server.connections)
    assert failures == []
    assert b" 200 OK" in seen[1]
    return seen


# Out of file descriptors --------------------------------------------------------------------------

STARVED = """
import asyncio, resource, sys
from gateway.clock import SystemClock
from gateway.config import Server
from gateway.web.server import DataPlane

async def handler(request, client):
    client.send(200, [], b"alive")

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    loop = asyncio.get_running_loop()
    plane = DataPlane(handler, settings=Server(port=0), clock=SystemClock(),
                      render=lambda error: (error.status, [], b""), loop=loop)
    # Above what there is, so that accept itself fails.
    plane._cap = 1000
    print((await plane.start())[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.faults
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_accepting_goes_on_after_file_descriptors_ran_out(loop: str) -> None:
    """Reliability A2, "fd exhaustion": CPython stops accepting for a second, then goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", STARVED, loop],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        answer = asyncio.run(_starve(port))
        _, errors = process.communicate("")
    assert answer.endswith(b"alive")
    assert errors.count("out of system resource") <= 200, "not one log entry per backlog place"


async def _starve(port: int) -> bytes:
    opened = []
    for _ in range(200):
        try:
            opened.append(await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5))
        except OSError:
            break
    for _, writer in opened:
        writer.transport.abort()
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            answer = await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            continue
        finally:
            writer.transport.abort()
        if answer:
            return answer


def test_nothing_is_logged_by_a_quiet_run(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(_answers(GET))
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
