"""Connections: which serve again and which never do, what is no HTTP, how bytes are handed on."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config import Secret, SecretURL
from gateway.errors import UpstreamCut, UpstreamError
from gateway.exchange import Caller, CallerKind
from gateway.ports import Shared
from gateway.upstream.headers import request_head
from gateway.upstream.pool import Turns
from tests.upstream.conftest import (
    CHUNKED,
    HEAD,
    OK,
    Make,
    Peer,
    Serve,
    answering,
    call,
    chunk,
    until,
    whole,
)

NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for one in chunks:
        yield one


# -- which connections serve again ---------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK + NEXT,
        OK + b"H",
        OK + b"\x00",
        CHUNKED + chunk(b"{}") + b"0\r\n\r\n" + NEXT,
        b"HTTP/1.1 204 No Content\r\n\r\n" + NEXT,
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison" + NEXT,
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_a_connection_that_may_hold_more_never_serves_again(
    serve: Serve, make: Make, answer: bytes
) -> None:
    """Bytes behind an answer must not become the next one's (RFC 9112 section 9.2; C1)."""
    server = await serve(answering(answer))
    upstream = make(server.url)
    for count in (1, 2, 3):
        status, body = await whole(upstream, call())
        assert (status, body) in {(200, b"{}"), (204, b""), (304, b"")}
        assert upstream.connections == (0, 0)
        assert server.connections == count


async def test_an_answer_to_head_ends_its_connection(serve: Serve, make: Make) -> None:
    """The parser cannot know that no body follows, so what does follow is nobody's answer."""
    server = await serve(answering(OK[:-2]))
    upstream = make(server.url)
    for count in (1, 2):
        with await upstream.send(call(None, method="HEAD")) as reply:
            assert (reply.status, reply.length, await reply.read()) == (200, 2, b"")
        assert upstream.connections == (0, 0)
        assert server.connections == count


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
async def test_answers_before_the_answer_are_skipped(
    serve: Serve, make: Make, interim: str
) -> None:
    head = f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode()
    server = await serve(answering(head * 3 + OK))
    upstream = make(server.url)
    for _ in range(3):
        with await upstream.send(call()) as reply:
            assert (reply.status, await reply.read()) == (200, b"{}")
            assert reply.headers == [("content-type", "application/json")]
    assert server.connections == 1


async def test_answers_before_the_answer_have_an_end(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)

    server = await serve(script)
    with pytest.raises(UpstreamError, match="not HTTP"):
        await make(server.url).send(call())


async def test_an_idle_connection_ends(serve: Serve, make: Make) -> None:
    server = await serve(answering())
    upstream = make(server.url, keepalive=0.05)
    await whole(upstream, call())
    assert upstream.connections == (0, 1)
    await until(lambda: upstream.connections == (0, 0) and server.open == 0)
    assert await whole(upstream, call()) == (200, b"{}")


async def test_an_answer_in_single_bytes_is_the_same(serve: Serve, make: Make) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + chunk(b"ab") + chunk(b"c" * 20)
    answer += b"0\r\nTrailer: dropped\r\n\r\n"

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for at in range(len(answer)):
                await peer.send(answer[at : at + 1])
                await asyncio.sleep(0)

    server = await serve(script)
    upstream = make(server.url)
    for _ in range(2):
        assert await whole(upstream, call()) == (200, b"ab" + b"c" * 20)
    assert server.connections == 1


# -- what is no HTTP -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2",
        b"ICY 200 OK\r\nContent-Length: 2",
    ],
)
async def test_framing_in_doubt_is_never_guessed(serve: Serve, make: Make, head: bytes) -> None:
    server = await serve(answering(head + b"\r\n\r\n{}"))
    upstream = make(server.url)
    with pytest.raises(UpstreamError, match="not HTTP"):
        await whole(upstream, call())
    assert upstream.connections == (0, 0)
    assert upstream.stats.outcomes == {"error": 1}


@pytest.mark.parametrize("flood", ["extension", "trailer"])
async def test_what_is_around_a_body_has_a_limit(serve: Serve, make: Make, flood: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a"))
        await peer.send(b"1;x=" if flood == "extension" else b"0\r\n")
        while True:
            await peer.send(b"y" * 1000 if flood == "extension" else b"X: y\r\n" * 100)

    server = await serve(script)
    with pytest.raises(UpstreamCut, match="not HTTP"):
        await whole(make(server.url), call())


# -- the request ---------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["a\r\nX: b", "a\nb", "\r\n", "a\r\n\r\nGET / HTTP/1.1"])
def test_a_request_never_has_a_line_more_than_was_meant(odd: str) -> None:
    start, good = "GET / HTTP/1.1\r\nhost: a\r\n", [("x", "y")]
    assert request_head(start, good) == b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n"
    for headers in ([("x", odd)], [(odd, "y")]):
        with pytest.raises(ValueError, match="head"):
            request_head(start, headers)
    with pytest.raises(ValueError, match="head"):
        request_head(f"GET /{odd} HTTP/1.1\r\nhost: a\r\n", good)


@pytest.mark.parametrize("sent", [(b"ab",), (b"ab", b"cdef")], ids=["short", "long"])
async def test_a_body_that_is_not_as_long_as_declared_is_no_request(
    serve: Serve, make: Make, sent: tuple[bytes, ...]
) -> None:
    """Or its rest would be read from, or its surplus be, the connection's next request."""
    server = await serve(answering())
    upstream = make(server.url)
    with pytest.raises(RuntimeError, match="declared"):
        await upstream.send(call(pieces(*sent), length=3))
    await until(lambda: server.open == 0)
    assert server.requests == [] or server.requests[0].body == b""
    assert upstream.connections == (0, 0)


async def test_an_empty_piece_does_not_end_a_chunked_body(serve: Serve, make: Make) -> None:
    server = await serve(answering())
    await whole(make(server.url), call(pieces(b"ab", b"", b"cd")))
    assert server.requests[0].body == b"abcd"


async def test_what_is_made_of_a_head_is_its_callers_and_its_upstreams_own(
    serve: Serve, make: Make
) -> None:
    """C3: with one and the same head before it, nobody goes out with another's credential."""
    server = await serve(answering())
    shared = Shared()
    callers = [Caller(CallerKind.PASSTHROUGH, f"id{n}", "app", token=f"sk-{n}") for n in (1, 2)]
    first = make(server.url, api_key=Secret(""))
    second = make(server.url, api_key=Secret(""), headers={"x-second": Secret("yes")})
    for upstream, caller in itertools.product((first, second, first), callers * 2):
        await whole(upstream, call(caller=caller, shared=shared))
        sent = server.requests[-1]
        assert sent.get("authorization") == f"Bearer {caller.token}"
        assert sent.get("x-second") == ("yes" if upstream is second else None)
        assert sent.body == b"{}"


async def test_a_turn_that_is_handed_to_who_has_just_left_goes_to_the_next() -> None:
    turns = Turns(1)
    assert turns.take()
    assert not turns.take()
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(turns.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    turns.give()
    waiting[1].cancel()  # it has been handed the turn, and has not run since
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [task.cancelled() for task in waiting] == [True, True, False]
    assert not turns.take()
    turns.give()
    assert turns.take()


# -- pouring -------------------------------------------------------------------------------------


async def test_bytes_are_poured_until_enough_and_then_again(serve: Serve, make: Make) -> None:
    sizes = iter((2, 3, 1000))
    taken: list[bytes] = []
    here = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for number in range(5):
            await peer.send(chunk(b"%d" % number))
            await here.wait()
            here.clear()
        await peer.send(b"0\r\n\r\n")

    server = await serve(script)
    upstream = make(server.url)
    with await upstream.send(call()) as reply:
        more = True
        while more:
            left = next(sizes)

            def take(data: bytes) -> bool:
                nonlocal left
                taken.append(data)
                left -= 1
                here.set()
                return left > 0

            more = await reply.pour(take)
        assert await reply.pour(take) is False  # and stays at its end
    assert taken == [b"0", b"1", b"2", b"3", b"4"]
    assert next(sizes, None) is None
    assert upstream.connections == (0, 1)


async def test_who_wants_no_more_slows_the_upstream(serve: Serve, make: Make) -> None:
    """I6, for who pours."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(HEAD + b"Content-Length: 50000000\r\n\r\n")
        peer.writer.transport.set_write_buffer_limits(0)
        for _ in range(500):
            await peer.send(bytes(100_000))
            sent += 100_000

    server = await serve(script)
    with await make(server.url).send(call()) as reply:
        assert await reply.pour(lambda _: False)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 20_000_000
        taken = 0

        def take(data: bytes) -> bool:
            nonlocal taken
            taken += len(data)
            return True

        assert await reply.pour(take) is False
    assert sent == 50_000_000
    assert 49_000_000 < taken < 50_000_000


async def test_what_the_taker_raises_ends_the_answer(serve: Serve, make: Make) -> None:
    class Enough(Exception):
        pass

    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await go.wait()
        await peer.send(chunk(b"a"))
        await peer.gone()

    def take(data: bytes) -> bool:
        raise Enough

    server = await serve(script)
    upstream = make(server.url)
    with await upstream.send(call()) as reply:
        asyncio.get_running_loop().call_soon(go.set)
        with pytest.raises(Enough):
            await reply.pour(take)
    await until(lambda: server.open == 0)
    assert upstream.connections == (0, 0)


async def test_what_came_before_a_cut_is_handed_over_first(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a") + b"ZZ no chunk\r\n")
        await peer.gone()

    taken: list[bytes] = []
    server = await serve(script)
    with await make(server.url).send(call()) as reply:
        await until(lambda: server.open == 0)
        with pytest.raises(UpstreamCut):
            await reply.pour(lambda data: taken.append(data) or True)  # type: ignore[func-returns-value]
    assert taken == [b"a"]


# -- dialling ------------------------------------------------------------------------------------


async def test_a_name_is_asked_for_once_and_each_address_tried(
    serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(answering())
    asked = 0

    def found(*_: Any, **__: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        where = [("127.0.0.1", 9), ("127.0.0.1", server.port)]  # nobody listens at the first
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in where]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    upstream = make(f"http://upstream.example:{server.port}")
    await asyncio.gather(*(whole(upstream, call()) for _ in range(20)))
    assert asked == 1
    assert server.requests[0].get("host") == f"upstream.example:{server.port}"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n", "more than it was asked for"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad\r\n\r\n", r"status 502"),
        (b"", "closed the connection"),
    ],
)
async def test_a_tunnel_that_does_not_open(
    serve: Serve, make: Make, answer: bytes, why: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer)
        if answer:
            await peer.gone()

    proxy = await serve(script)
    upstream = make("https://upstream.invalid", proxy=SecretURL(proxy.url))
    with pytest.raises(UpstreamError, match=why) as caught:
        await upstream.send(call())
    assert caught.value.__context__ is None  # I8
    assert upstream.stats.outcomes == {"connect_error": 1}
    await until(lambda: proxy.open == 0)
