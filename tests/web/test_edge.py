"""The HTTP edge as a raw socket sees it: framing, strictness, 100-continue, Upgrade."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from gateway.errors import InvalidAPIKey, UpstreamError
from gateway.web.server import Answer, Request
from tests.web.conftest import Serve, echo, settle

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *extra: bytes) -> bytes:
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: x",
        b"Content-Length: %d" % len(body),
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_request_is_seen_as_it_was_sent(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(
            b"POST /p/%41?q=1&q=2 HTTP/1.1\r\nHost: x:1\r\nX-Thing:  a \t\r\nx-THING: \xe9\r\n"
            b"Content-Length: 3\r\n\r\nabc"
        )
        assert json.loads(reply.body) == {
            "method": "POST",
            "target": "/p/%41?q=1&q=2",
            "path": "/p/%41",
            "query": "q=1&q=2",
            "version": "1.1",
            "headers": [
                ["host", "x:1"],
                ["x-thing", "a"],
                ["x-thing", "\xe9"],
                ["content-length", "3"],
            ],
            "body": "abc",
            "received": 3,
            "length": 3,
            "peer": "127.0.0.1",
            "secure": False,
        }
        assert reply.headers["date"].endswith("GMT")
        assert "connection" not in reply.headers


async def test_header_joins_what_came_twice(serve: Serve) -> None:
    seen: list[str | None] = []

    async def handler(request: Request, client: Answer) -> None:
        seen.extend([request.header("a"), request.header("b"), request.header("none")])
        client.send(200, [], b"")

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 3\r\nA: 2\r\n\r\n")
    assert seen == ["1, 2", "3", None]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://h:1/a?b", "/a", "b"),
        (b"http://h", "/", ""),
        (b"http://h?x", "/", "x"),
        (b"//x/y", "//x/y", ""),
        (b"/a?b?c", "/a", "b?c"),
    ],
)
async def test_targets(serve: Serve, target: bytes, path: str, query: str) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        seen = json.loads(reply.body)
        assert (seen["path"], seen["query"]) == (path, query)
        assert seen["target"] == target.decode()


async def test_the_connection_is_kept_and_closed_as_asked(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        for _ in range(3):
            assert (await client.ask(GET)).status == 200
        reply = await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: x, close\r\n\r\n")
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_http_1_0_is_answered_and_closed(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert json.loads(reply.body)["version"] == "1.0"
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_an_http_1_0_stream_ends_with_the_connection_and_a_cut_is_a_reset(
    serve: Serve,
) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], None)
        client.write(b"one")
        await asyncio.sleep(0)
        client.write(b"two")
        if request.path == "/cut":
            client.abort()
        else:
            client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        reply = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"onetwo"
        client = await plane.connect()
        await client.send(b"GET /cut HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(serve: Serve) -> None:
    running = 0
    most = 0

    async def handler(request: Request, client: Answer) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        body = await request.body.read(1000)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        client.send(200, [], request.path.encode() + body)

    async with serve(handler) as plane:
        client = await plane.connect()
        chunked = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(
            b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
            + post(b"12345").replace(b"/v1/chat/completions", b"/b")
            + chunked
            + b"2\r\n\r\n\r\n3;e=f\r\nxyz\r\n0\r\nTrailer: t\r\n\r\n"
            + b"GET /d HTTP/1.1\r\nHost: x\r\n\r\n" * 50
        )
        answers = [(await client.reply()).body for _ in range(53)]
        assert answers == [b"/a", b"/b12345", b"/c\r\nxyz", *([b"/d"] * 50)]
        assert most == 1


async def test_a_flood_of_pipelined_requests_is_not_taken_in(serve: Serve) -> None:
    """The server stops reading, so the flood stays in the client's own buffer."""
    gate = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        await gate.wait()
        client.send(200, [], b"ok")

    async with serve(handler) as plane:
        client = await plane.connect()
        flood = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000
        client.writer.write(flood)
        await settle(lambda: plane.server.in_flight == 1)
        for _ in range(1_000):
            await asyncio.sleep(0)
        # Both kernels' buffers take some megabytes; the server itself must not.
        assert client.writer.transport.get_write_buffer_size() > len(flood) // 2
        client.reset()
        gate.set()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", id="two-hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", id="two-hosts-1.0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", id="host-with-space"),
        pytest.param(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="te-1.0"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            id="te-list",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", id="te-xchunked"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", id="te-identity"
        ),
        pytest.param(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), id="te-cl"),
        pytest.param(
            CHUNKED.replace(b"Host: x", b"Host: x\r\nContent-Length: 3"),
            id="cl-te",
        ),
        pytest.param(post(b"abc", b"Content-Length: 3"), id="two-lengths"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", id="cl-plus"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", id="cl-list"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
            id="cl-overflow",
        ),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", id="bare-lf"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", id="bare-cr"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", id="folded"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", id="nul"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", id="space-in-name"),
        pytest.param(b"GET /\r\n\r\n", id="http-0.9"),
        pytest.param(b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", id="http-1.2"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", id="http-2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="h2-preface"),
        pytest.param(bytes.fromhex("16030100c8010000c40303"), id="tls-hello"),
        pytest.param(b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", id="unknown-method"),
        pytest.param(b"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n", id="fragment"),
        pytest.param(b"\x00\x01\x02garbage\r\n\r\n", id="garbage"),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", id="long-line"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 128 + b"\r\n", id="129-headers"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 33_000 + b"\r\n\r\n", id="long-header"
        ),
    ],
)
async def test_what_is_not_http_1_gets_a_readable_400_and_a_close(
    serve: Serve, data: bytes
) -> None:
    called = []

    async def handler(request: Request, client: Answer) -> None:
        called.append(request)

    async with serve(handler) as plane:
        client = await plane.connect()
        reply = await client.ask(data)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""
        assert called == []


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", "65536"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 128 + b"\r\n", "128"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 33_000 + b"\r\n\r\n", "32768"),
    ],
)
async def test_the_message_names_the_limit(serve: Serve, data: bytes, limit: str) -> None:
    async with serve() as plane:
        client = await plane.connect()
        assert limit in (await client.ask(data)).message


async def test_a_header_of_32_000_bytes_and_128_headers_pass(serve: Serve) -> None:
    """Requirement I7."""
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: "
            + b"a" * 32_000
            + b"\r\n"
            + b"B: c\r\n" * 126
            + b"\r\n"
        )
        headers = json.loads(reply.body)["headers"]
        assert len(headers) == 128
        assert len(headers[1][1]) == 32_000


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        post(b"abc", b"Connection: keep-alive, upgrade", b"Upgrade: h2c"),
        b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    ],
)
async def test_upgrade_and_connect_are_501(serve: Serve, data: bytes) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(data)
        assert (reply.status, reply.code) == (501, "not_implemented")
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_an_upgrade_header_without_its_connection_option_is_ignored(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n")
        assert reply.status == 200


# Expect (RFC 9110 section 10.1.1) -----------------------------------------------------------------

EXPECTING = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n"


async def test_100_continue_is_sent_when_the_body_is_asked_for(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        await go.wait()
        await echo(request, client)

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(EXPECTING)
        await settle(lambda: plane.server.in_flight == 1)
        waiting = asyncio.create_task(client.until(b"\r\n\r\n"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done(), "sent before anybody asked for the body"
        go.set()
        assert await waiting == b"HTTP/1.1 100 Continue\r\n\r\n"
        reply = await client.ask(b"hello")
        assert json.loads(reply.body)["body"] == "hello"
        assert (await client.ask(GET)).status == 200, "the connection is kept"


async def test_no_100_continue_for_a_refusal_that_needs_no_body(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        raise InvalidAPIKey

    async with serve(handler) as plane:
        client = await plane.connect()
        reply = await client.ask(EXPECTING)
        assert (reply.status, reply.code) == (401, "invalid_api_key")
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "data", [EXPECTING + b"hello", EXPECTING.replace(b"1.1", b"1.0") + b"hello"]
)
async def test_no_100_continue_when_the_body_is_here_or_the_version_knows_none(
    serve: Serve, data: bytes
) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(data)
        assert (reply.status, json.loads(reply.body)["body"]) == (200, "hello")


async def test_no_100_continue_once_a_part_of_the_body_has_come(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        await client.send(EXPECTING + b"he")
        await settle(lambda: plane.server.bodies_in_flight == 5)
        assert json.loads((await client.ask(b"llo")).body)["body"] == "hello"


async def test_100_continue_also_for_a_streamed_body(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [], b"".join([chunk async for chunk in request.body.chunks(100)]))

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(EXPECTING)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"hello")).body == b"hello"


async def test_an_unknown_expectation_is_417(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        reply = await client.ask(post(b"abc", b"Expect: 200-ok"))
        assert reply.status == 417
        assert await client.rest() == b""


# Faults of the handler ----------------------------------------------------------------------------


async def test_an_error_of_the_gateway_is_rendered_and_the_connection_kept(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        raise UpstreamError("it is down")

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            reply = await client.ask(post(b"abc"))
            assert (reply.status, reply.code) == (502, "upstream_error")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fault", ["raise", "forget"])
async def test_a_fault_of_the_handler_is_logged_once_and_seen(
    serve: Serve, caplog: pytest.LogCaptureFixture, begun: bool, fault: str
) -> None:
    async def handler(request: Request, client: Answer) -> None:
        if begun:
            client.start(200, [], None)
            client.write(b"part")
        if fault == "raise":
            raise ZeroDivisionError("secret?")

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        if begun:
            with pytest.raises(asyncio.IncompleteReadError):
                await client.reply()
        else:
            reply = await client.reply()
            assert (reply.status, reply.code) == (500, "internal_error")
            assert "secret" not in reply.message
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["gateway.web"]
    assert (errors[0].exc_info is not None) is (fault == "raise")
