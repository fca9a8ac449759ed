"""Bodies: limits, the budget, back-pressure, errors that a sending client can read (H6, H7)."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest

from gateway.errors import InvalidAPIKey
from gateway.web.server import Answer, Request
from tests.web.conftest import Raw, Serve, echo, settle
from tests.web.test_edge import CHUNKED, GET, post

MiB = 1 << 20


def reader(limit: int, *, stream: bool = False):
    async def handler(request: Request, client: Answer) -> None:
        if stream:
            size = sum([len(chunk) async for chunk in request.body.chunks(limit)])
        else:
            size = len(await request.body.read(limit))
        client.send(200, [], b"%d" % size)

    return handler


@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    serve: Serve, stream: bool
) -> None:
    async with serve(reader(1000, stream=stream)) as plane:
        for head, end in (
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", b""),
            (CHUNKED + b"%x\r\n", b"\r\n0\r\n\r\n"),
        ):
            client = await plane.connect()
            assert (await client.ask(head % 1000 + b"x" * 1000 + end)).body == b"1000"
            reply = await client.ask(head % 1001 + b"x" * 1001 + end)
            assert (reply.status, reply.code) == (413, "request_too_large")
            assert "1000" in reply.message


async def test_a_declared_length_over_the_limit_is_refused_before_any_byte(serve: Serve) -> None:
    async with serve(reader(1000)) as plane:
        client = await plane.connect()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        )
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(
    serve: Serve, stream: bool
) -> None:
    async with serve(reader(1000, stream=stream)) as plane:
        client = await plane.connect()
        await client.send(CHUNKED + b"200\r\n" + b"x" * 0x200 + b"\r\n")
        await settle(lambda: plane.server.in_flight == 1)
        await client.send(b"200\r\n" + b"x" * 0x200 + b"\r\n")
        assert (await client.reply()).status == 413


@pytest.mark.parametrize(
    "tail", [b"zz\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\nabc\r\n", b"-1\r\n", b"1" * 17 + b"\r\n"]
)
@pytest.mark.parametrize("later", [False, True])
async def test_broken_chunks_are_400(serve: Serve, tail: bytes, later: bool) -> None:
    async with serve() as plane:
        client = await plane.connect()
        if later:
            await client.send(CHUNKED + b"2\r\nok\r\n")
            await settle(lambda: plane.server.in_flight == 1)
            await client.send(tail)
        else:
            await client.send(CHUNKED + tail)
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("what", ["extension", "one trailer", "many trailers"])
async def test_endless_trailers_and_extensions_are_bounded(serve: Serve, what: str) -> None:
    """CVE-2026-22815: unbounded trailers."""
    endless = {
        "extension": b"3;" + b"e" * (1 << 20),
        "one trailer": b"0\r\nT: " + b"t" * (1 << 20),
        "many trailers": b"0\r\n" + b"T: t\r\n" * (1 << 18),
    }
    async with serve() as plane:
        client = await plane.connect()
        client.writer.write(CHUNKED + endless[what])
        reply = await client.reply()
        assert (reply.status, "65536" in reply.message) == (400, True)


async def test_a_body_that_came_with_its_head_is_read_without_suspending(serve: Serve) -> None:
    finished = []

    async def handler(request: Request, client: Answer) -> None:
        reading = request.body.read(1000)
        with pytest.raises(StopIteration) as whole:
            reading.send(None)
        finished.append(whole.value.value)
        client.send(200, [], b"")

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.ask(post(b"hello"))
        await client.ask(CHUNKED + b"5\r\nchunk\r\n0\r\n\r\n")
        await client.ask(GET)
    assert finished == [b"hello", b"chunk", b""]


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_budget_over_all_bodies(serve: Serve, chunked: bool) -> None:
    """Requirement H7: beyond it 503 with Retry-After; given back when the request has ended."""
    async with serve(reader(1 << 20), body_budget=1000) as plane:
        first = await plane.connect()
        if chunked:
            await first.send(CHUNKED)
            await settle(lambda: plane.server.in_flight == 1)
            await first.send(b"258\r\n" + b"x" * 600 + b"\r\n")
        else:
            await first.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n")
        await settle(lambda: plane.server.bodies_in_flight == 600)
        second = await plane.connect()
        reply = await second.ask(post(b"x" * 401))
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["retry-after"] == "1"
        third = await plane.connect()
        assert (await third.ask(post(b"x" * 400))).body == b"400"
        await first.send(b"0\r\n\r\n" if chunked else b"x" * 600)
        assert (await first.reply()).body == b"600"
        await settle(lambda: plane.server.bodies_in_flight == 0)
        fourth = await plane.connect()
        assert (await fourth.ask(post(b"x" * 1000))).body == b"1000"


async def test_a_chunked_body_beyond_the_budget_is_refused_while_it_comes(serve: Serve) -> None:
    async with serve(reader(1 << 20), body_budget=1000) as plane:
        client = await plane.connect()
        await client.send(CHUNKED)
        await settle(lambda: plane.server.in_flight == 1)
        await client.send(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
        assert (await client.reply()).status == 503
        await settle(lambda: plane.server.bodies_in_flight == 0)


async def test_a_body_in_bytes_of_one_is_kept_as_bytes(serve: Serve) -> None:
    """CVE-2025-69229's shape: many small chunks must not become many small objects."""
    async with serve(reader(1 << 20)) as plane:
        client = await plane.connect()
        client.writer.write(CHUNKED + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n")
        assert (await client.reply()).body == b"200000"


async def test_a_stream_that_nobody_reads_is_held_back(serve: Serve) -> None:
    """Back-pressure: the bytes stay with the client until the reader goes on (uploads of 1 GiB)."""
    go = asyncio.Event()
    held = 0

    async def handler(request: Request, client: Answer) -> None:
        nonlocal held
        taken = 0
        async for chunk in request.body.chunks(1 << 30):
            taken += len(chunk)
            await go.wait()
            held = max(held, request.body.received - taken)
        client.send(200, [], b"%d" % taken)

    async with serve(handler) as plane:
        client = await plane.connect()
        size = 32 * MiB
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(b"x" * size)
        await settle(lambda: plane.server.in_flight == 1)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert client.writer.transport.get_write_buffer_size() > size // 2
        go.set()
        assert (await client.reply()).body == b"%d" % size
        assert held <= 768 * 1024  # the limit and one read of the loop's


# Readable by a client that is still sending (H6) --------------------------------------------------


async def refuse(request: Request, client: Answer) -> None:
    raise InvalidAPIKey


async def test_an_early_answer_is_read_by_a_client_that_sends_on(serve: Serve) -> None:
    """A client that writes 100 MB before it reads a byte must find the answer, not a reset."""
    async with serve(reader(MiB)) as plane:
        client = await plane.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (100 * MiB))
        for _ in range(100):
            await client.send(b"x" * MiB)
        reply = await client.reply()
        assert (reply.status, reply.code) == (413, "request_too_large")
        assert await client.rest() == b""


@pytest.mark.parametrize(("handler", "status"), [(reader(MiB), 413), (refuse, 401)])
async def test_httpx_reads_an_early_answer(serve: Serve, handler, status: int) -> None:
    async with serve(handler) as plane:

        async def body():
            for _ in range(100):
                yield b"x" * MiB

        async with httpx.AsyncClient(timeout=20) as client:
            url = f"http://127.0.0.1:{plane.port}/v1/files"
            answer = await client.post(url, content=b"x" * (30 * MiB))
            assert answer.status_code == status
            answer = await client.post(url, content=body())
            assert answer.status_code == status


async def test_the_openai_client_shows_413(serve: Serve) -> None:
    async with serve(reader(MiB)) as plane:
        client = openai.AsyncOpenAI(
            api_key="sk-test", base_url=f"http://127.0.0.1:{plane.port}/v1", max_retries=0
        )
        message = {"role": "user", "content": "x" * (20 * MiB)}
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=[message])  # type: ignore[list-item]
        await client.close()
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


async def test_an_answer_before_the_body_has_come_closes_the_connection_after_it(
    serve: Serve,
) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [], b"early")

    async with serve(handler) as plane:
        client = await plane.connect()
        reply = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
        assert (reply.body, reply.headers["connection"]) == (b"early", "close")
        await client.send(b"456789" + GET)
        assert await client.rest() == b"", "what follows is read and dropped, never answered"


async def test_an_unread_body_that_is_here_keeps_the_connection(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [], request.path.encode())

    async with serve(handler) as plane:
        client = await plane.connect()
        assert (await client.ask(post(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"))).status == 200
        assert (await client.ask(GET)).body == b"/a"


async def test_a_stream_both_ways(serve: Serve) -> None:
    """The answer may begin while the body still comes; its bytes go on to arrive."""

    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], None)
        async for chunk in request.body.chunks(1 << 20):
            client.write(chunk.upper())
        client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        assert b"Connection: close" in await client.until(b"\r\n\r\n")
        assert await client.until(b"ABC\r\n") == b"3\r\nABC\r\n"
        await client.send(b"3\r\ndef\r\n0\r\n\r\n")
        assert await client.rest() == b"3\r\nDEF\r\n0\r\n\r\n"


async def test_a_body_left_behind_does_not_reach_the_next_reader(serve: Serve) -> None:
    async with serve(echo) as plane:

        async def one(number: int, client: Raw) -> None:
            for turn in range(20):
                body = b"%d-%d" % (number, turn) * (1 + 997 * turn)
                reply = await client.ask(post(body))
                assert json.loads(reply.body)["body"] == body.decode()

        clients = [await plane.connect() for _ in range(20)]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(one(number, client))
