"""Deadlines for head, body, keep-alive and reading, each apart (issue 2 item 4, reliability A2)."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.errors import GatewayError
from gateway.ports import ClientGone
from gateway.web.server import Answer, Request
from tests.web.conftest import Raw, Serve, settle
from tests.web.test_edge import CHUNKED, GET, post

LONG = 3600.0
PATIENT = {"header_timeout": LONG, "body_timeout": LONG, "keepalive_timeout": LONG}


async def dribble(client: Raw, data: bytes, pause: float = 0.02) -> None:
    """One byte after the other, for as long as the server lets us."""
    try:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(pause)
    except ConnectionError:
        pass


async def test_a_client_that_sends_nothing_is_closed_silently(serve: Serve) -> None:
    async with serve(**{**PATIENT, "header_timeout": 0.1}) as plane:
        client = await plane.connect()
        assert await client.rest() == b""


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
@pytest.mark.parametrize("later", [False, True])
async def test_a_head_that_does_not_come_is_408(serve: Serve, start: bytes, later: bool) -> None:
    async with serve(**{**PATIENT, "header_timeout": 0.2}) as plane:
        client = await plane.connect()
        if later:
            assert (await client.ask(GET)).status == 200
        await client.send(start)
        reply = await client.reply()
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert "x-should-retry" not in reply.headers
        assert await client.rest() == b""


async def test_a_dribbled_head_is_not_given_more_time(serve: Serve) -> None:
    """Slow-loris: each byte is in time, the head is not."""
    async with serve(**{**PATIENT, "header_timeout": 0.3}) as plane:
        client = await plane.connect()
        sender = asyncio.create_task(dribble(client, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000))
        assert (await client.reply()).status == 408
        sender.cancel()
        await asyncio.wait([sender])


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("times", [1, 3])
async def test_an_idle_connection_is_closed_silently(
    serve: Serve, together: int, times: int
) -> None:
    """Whichever way its last request came: first, like the one before, behind another."""
    async with serve(**{**PATIENT, "keepalive_timeout": 0.1}) as plane:
        client = await plane.connect()
        for _ in range(times):
            await client.send(GET * together)
            for _ in range(together):
                assert (await client.reply()).status == 200
        assert await client.rest() == b""


async def test_the_deadlines_are_apart(serve: Serve) -> None:
    """A short header deadline cuts neither a long wait for the answer, nor an idle connection."""
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        await go.wait()
        client.send(200, [], await request.body.read(100))

    async with serve(handler, header_timeout=0.1, body_timeout=LONG) as plane:
        client = await plane.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
        probe = await plane.connect()
        assert await probe.rest() == b"", "the probe was cut: the header deadline has passed"
        go.set()
        await client.send(b"bc")
        assert (await client.reply()).body == b"abc"
        probe = await plane.connect()
        assert await probe.rest() == b""
        assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_does_not_come_is_408(serve: Serve, stream: bool, chunked: bool) -> None:
    async def handler(request: Request, client: Answer) -> None:
        if stream:
            [chunk async for chunk in request.body.chunks(100)]
        else:
            await request.body.read(100)

    head = CHUNKED if chunked else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    async with serve(handler, **{**PATIENT, "body_timeout": 0.2}) as plane:
        client = await plane.connect()
        await client.send(head)
        reply = await client.reply()
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert await client.rest() == b""


async def test_a_body_that_dribbles_is_408(serve: Serve) -> None:
    """RUDY: never silent for long, but below the least rate."""
    async with serve(**{**PATIENT, "body_timeout": 0.3}, body_min_rate=10_000) as plane:
        client = await plane.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        sender = asyncio.create_task(dribble(client, b"x" * 99_999))
        assert (await client.reply()).status == 408
        sender.cancel()
        await asyncio.wait([sender])


async def test_a_slow_but_steady_body_is_let_through(serve: Serve) -> None:
    async with serve(**{**PATIENT, "body_timeout": 0.6}, body_min_rate=1) as plane:
        client = await plane.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n")
        began = time.monotonic()
        await dribble(client, b"x" * 40)
        assert time.monotonic() - began > 0.7, "longer than the deadline for silence"
        assert (await client.reply()).status == 200


async def test_our_own_pauses_are_not_the_clients_fault(serve: Serve) -> None:
    """The body's clock runs only while the reader waits."""

    async def handler(request: Request, client: Answer) -> None:
        taken = 0
        async for chunk in request.body.chunks(1 << 20):
            taken += len(chunk)
            await asyncio.sleep(0.15)  # an upstream that is slower than the deadline
        client.send(200, [], b"%d" % taken)

    async with serve(handler, **{**PATIENT, "body_timeout": 0.1}, body_min_rate=1 << 20) as plane:
        client = await plane.connect()
        await client.send(post(b"x" * (1 << 20)))
        assert (await client.reply()).body == b"%d" % (1 << 20)


# The client's reading -----------------------------------------------------------------------------


def pour(size: int, gone: asyncio.Event):
    """A handler that writes `size` bytes as fast as the client takes them."""

    async def handler(request: Request, client: Answer) -> None:
        ready = asyncio.Event()
        client.watch(ready.set, gone.set)
        client.start(200, [], size)
        left = size
        while left and not client.gone:
            piece = b"x" * min(left, 65_536)
            left -= len(piece)
            if not client.write(piece):
                ready.clear()
                waits = [asyncio.ensure_future(one.wait()) for one in (ready, gone)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
        if not client.gone:
            client.finish()

    return handler


async def test_a_client_that_takes_no_byte_is_cut(serve: Serve) -> None:
    """Requirement I6, "a slow-client write timeout exists"."""
    gone = asyncio.Event()
    async with serve(pour(64 << 20, gone), slow_reader=0.2) as plane:
        client = await plane.connect(limit=1)
        await client.send(GET)
        await asyncio.wait_for(gone.wait(), 10)
        await settle(lambda: not plane.server.in_flight)


async def test_a_slow_client_that_takes_bytes_is_served_to_the_end(serve: Serve) -> None:
    """Also what waits after the handler has ended is watched, not cut."""
    size = 12 << 20
    async with serve(pour(size, asyncio.Event()), slow_reader=0.5) as plane:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.setblocking(False)
        await loop.sock_connect(sock, (plane.host, plane.port))
        await loop.sock_sendall(sock, GET)
        got, began = 0, time.monotonic()
        while got < size:
            got += len(await loop.sock_recv(sock, 1 << 20))
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > 0.5
        sock.close()


async def test_an_answer_that_nobody_takes_is_cut_after_its_handler_has_ended(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [], b"x" * (64 << 20))

    async with serve(handler, slow_reader=0.2) as plane:
        client = await plane.connect(limit=1)
        await client.send(GET)
        await settle(lambda: plane.server.connections == 1)
        await settle(lambda: plane.server.connections == 0)
        assert plane.server.in_flight == 0


async def test_write_says_when_to_wait_and_on_ready_when_to_go_on(serve: Serve) -> None:
    full = asyncio.Event()
    ready = asyncio.Event()
    written = 0

    async def handler(request: Request, client: Answer) -> None:
        nonlocal written
        client.watch(ready.set, ready.set)
        client.start(200, [], None)
        more = True
        while more:
            more = client.write(b"x" * 65_536)
            written += 65_536
        full.set()
        await ready.wait()
        client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        await asyncio.wait_for(full.wait(), 10)
        assert not ready.is_set()
        assert written < 16 << 20, "bounded by the kernel's buffers and 64 KiB of ours"
        assert len((await client.reply()).body) == written
        assert ready.is_set()


async def test_two_hundred_silent_connections_do_not_keep_an_honest_one_waiting(
    serve: Serve,
) -> None:
    async with serve(**{**PATIENT, "header_timeout": 0.5}) as plane:
        silent = [await plane.connect() for _ in range(200)]
        for client in silent[::2]:
            await client.send(b"GET / HTTP/1.1\r\nX-")
        honest = await plane.connect()
        assert (await honest.ask(GET)).status == 200
        for number, client in enumerate(silent):
            rest = await client.rest()
            assert rest.startswith(b"HTTP/1.1 408 ") if number % 2 == 0 else rest == b""
        assert (await honest.ask(GET)).status == 200


async def test_a_body_deadline_reaches_a_handler_as_an_error(serve: Serve) -> None:
    seen: list[BaseException] = []

    async def handler(request: Request, client: Answer) -> None:
        try:
            await request.body.read(100)
        except (GatewayError, ClientGone) as error:
            seen.append(error)
            raise

    async with serve(handler, **{**PATIENT, "body_timeout": 0.1}) as plane:
        client = await plane.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert "0.1 seconds" in (await client.reply()).message
    assert [type(error).__name__ for error in seen] == ["RequestTimeout"]
