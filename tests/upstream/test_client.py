"""The upstream client against raw sockets: every ending, the one retry, deadlines, pressure."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config import Secret
from gateway.errors import (
    GatewayError,
    MethodNotAllowed,
    UnknownURL,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.exchange import Caller, CallerKind
from gateway.upstream.connection import Connection
from tests.upstream.conftest import (
    CHUNKED,
    HEAD,
    ISSUED,
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


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for one in chunks:
        yield one


# -- the request ---------------------------------------------------------------------------------


async def test_what_the_upstream_sees(serve: Serve, make: Make) -> None:
    """K3: own credential, allow-listed headers, identity, a Via; nothing else of the client's."""
    server = await serve(answering())
    upstream = make(server.url, headers={"X-Team": Secret("blue")}, query={"v": Secret("a b")})
    asked = call(
        b'{"a":1}',
        query="x=%2F&v=evil",
        headers=[("authorization", "Bearer gw_secret"), ("cookie", "c=1"), ("user-agent", "cli"),
                 ("content-type", "application/json"), ("x-stainless-lang", "py")],
    )  # fmt: skip
    assert await whole(upstream, asked) == (200, b"{}")
    seen = server.requests[0]
    assert seen.line == "POST /v1/chat/completions?x=%2F&v=a%20b HTTP/1.1"
    assert seen.body == b'{"a":1}'
    assert dict(seen.headers) == {
        "host": f"127.0.0.1:{server.port}", "content-type": "application/json",
        "user-agent": "cli", "x-stainless-lang": "py", "via": "1.1 gateway-me",
        "accept-encoding": "identity", "authorization": "Bearer sk-own", "x-team": "blue",
        "content-length": "7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "length", "framing"),
    [
        (b"", None, "0"),
        (b"x" * 300_000, None, "300000"),  # more than one slice, one Content-Length
        (b"x" * 3_000_000, None, "3000000"),  # aiohttp warns about bytes above 1 MiB
        (pieces(b"ab", b"cd"), 4, "4"),
        (pieces(b"ab", b"cd"), None, "chunked"),
    ],
    ids=["none", "slices", "large", "declared", "chunked"],
)
async def test_bodies_arrive_whole(
    serve: Serve, make: Make, body: Any, length: int | None, framing: str
) -> None:
    server = await serve(answering())
    await whole(make(server.url), call(body, length=length))
    seen = server.requests[0]
    expected = body if isinstance(body, bytes) else b"abcd"
    assert seen.body == expected
    assert (seen.get("content-length") or seen.get("transfer-encoding")) == framing


async def test_a_get_has_no_body_and_a_head_answer_none(serve: Serve, make: Make) -> None:
    server = await serve(answering(OK[:-2]))
    upstream = make(server.url, api_key=Secret(""), auth="none")
    with await upstream.send(call(None, method="HEAD", path="files/1", headers=[])) as reply:
        assert reply.length == 2
        assert await reply.read() == b""
    assert server.requests[0].get("content-length") is None
    assert upstream.stats.in_flight == 0


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW"])
async def test_methods_that_would_leak_or_tunnel_stay_here(make: Make, method: str) -> None:
    with pytest.raises(MethodNotAllowed):
        await make("http://127.0.0.1:9").send(call(method=method))


async def test_a_path_that_climbs_stays_here(make: Make) -> None:
    with pytest.raises(UnknownURL):
        await make("http://127.0.0.1:9").send(call(path="chat/%2e%2e/files"))


async def test_each_upstream_sees_only_its_own_key(serve: Serve, make: Make) -> None:
    """C3.4, with a passthrough caller's token besides."""
    one, two, three = [await serve(answering()) for _ in range(3)]
    await whole(make(one.url, api_key=Secret("sk-one")), call())
    await whole(make(two.url, api_key=Secret("sk-two"), auth="header:api-key"), call())
    caller = Caller(CallerKind.PASSTHROUGH, "p", "pass-1", token="sk-client")
    await whole(make(three.url, api_key=Secret("")), call(caller=caller))
    assert one.requests[0].get("authorization") == "Bearer sk-one"
    assert two.requests[0].get("api-key") == "sk-two"
    assert two.requests[0].get("authorization") is None
    assert three.requests[0].get("authorization") == "Bearer sk-client"


# -- the answer ----------------------------------------------------------------------------------


async def test_a_redirect_passes_as_it_is(serve: Serve, make: Make) -> None:
    """K3: a credential follows nobody."""
    other = await serve(answering())
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n"
    server = await serve(answering(moved.encode()))
    with await make(server.url).send(call()) as reply:
        assert reply.status == 307
        assert ("location", f"{other.url}/x") in reply.headers
        assert await reply.read() == b""
    assert other.connections == 0


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "gzip, deflate"])
async def test_an_encoded_answer_passes_raw_and_says_so(
    serve: Serve, make: Make, coding: str
) -> None:
    """I3: the bytes, the header and the mark, never a mix; they need not even be valid."""
    raw = b"\x1f\x8b not really"
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(raw)}\r\n\r\n"
    server = await serve(answering(head.encode() + raw))
    with await make(server.url).send(call()) as reply:
        assert reply.encoded
        assert ("content-encoding", coding) in reply.headers
        assert await reply.read() == raw


async def test_header_hygiene_of_an_answer(serve: Serve, make: Make) -> None:
    """K2: what is the connection's, or the gateway's to say, ends here."""
    head = (
        b"HTTP/1.1 200 OK\r\nX-Request-Id: r1\r\nretry-after-ms: 5\r\nX-Should-Retry: false\r\n"
        b"x-ratelimit-limit-tokens: 9\r\nOpenAI-Organization: o\r\nVia: 1.1 cdn\r\nCF-Ray: 1\r\n"
        b"Server: s\r\nDate: d\r\nSet-Cookie: c=1\r\nAlt-Svc: h3\r\n"
        b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nAccess-Control-Allow-Origin: *\r\n"
        b"X-Gateway-Cache: hit\r\n"
        b"X-Accel-Redirect: /etc\r\nStrict-Transport-Security: max-age=1\r\nX-Latin: \xe9\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
    )
    server = await serve(answering(head))
    with await make(server.url).send(call()) as reply:
        assert reply.headers == [
            ("x-request-id", "r1"), ("retry-after-ms", "5"), ("x-should-retry", "false"),
            ("x-ratelimit-limit-tokens", "9"), ("openai-organization", "o"), ("via", "1.1 cdn"),
            ("cf-ray", "1"), ("x-latin", "\xe9"), ("content-type", "text/plain"),
        ]  # fmt: skip
        assert reply.length == 0


async def test_a_header_of_40_kb_passes(serve: Serve, make: Make) -> None:
    """I7"""
    value = "v" * 40_000
    server = await serve(
        answering(f"HTTP/1.1 200 OK\r\nX-Big: {value}\r\nContent-Length: 0\r\n\r\n".encode())
    )
    with await make(server.url).send(call()) as reply:
        assert ("x-big", value) in reply.headers


async def test_chunks_come_one_by_one(serve: Serve, make: Make) -> None:
    """J4: the first is here before the second is sent."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"data: 1\n\n"))
        await go.wait()
        await peer.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    server = await serve(script)
    with await make(server.url).send(call()) as reply:
        assert await reply.read() == b"data: 1\n\n"
        go.set()
        assert await reply.read() == b"data: 2\n\n"
        assert await reply.read() == b""
        assert await reply.read() == b""


async def test_times_are_noted(serve: Serve, make: Make) -> None:
    server = await serve(answering())
    asked = call()
    await whole(make(server.url), asked)
    times = asked.times
    assert times.connected is not None
    assert times.first_byte is not None
    assert 0 < times.sent <= times.connected <= times.first_byte
    assert (times.queued, times.attempts) == (0.0, 1)


# -- endings -------------------------------------------------------------------------------------

CUTS = {
    "length": (HEAD + b"Content-Length: 10\r\n\r\n", b"abc", "close"),
    "length reset": (HEAD + b"Content-Length: 10\r\n\r\n", b"abc", "reset"),
    "chunked": (CHUNKED, chunk(b"abc"), "close"),
    "chunked reset": (CHUNKED, chunk(b"abc"), "reset"),
    "close-delimited reset": (HEAD + b"\r\n", b"abc", "reset"),
    "not HTTP any more": (CHUNKED, chunk(b"abc"), "garbage"),
}


@pytest.mark.parametrize("name", CUTS)
async def test_an_answer_that_breaks_off_is_a_cut(serve: Serve, make: Make, name: str) -> None:
    """B11. aiohttp alone takes a reset of a close-delimited body for its end, and never wakes who
    reads a body that stops being HTTP."""
    head, start, ending = CUTS[name]
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + start)
        await go.wait()
        if ending == "reset":
            peer.reset()
        elif ending == "garbage":
            await peer.send(b"ZZ this is no chunk\r\n")
            await peer.gone()

    server = await serve(script)
    upstream = make(server.url)
    with await upstream.send(call()) as reply:
        assert await reply.read() == b"abc"
        go.set()
        for _ in range(2):
            with pytest.raises(UpstreamCut):
                await reply.read()
    assert upstream.stats.outcomes == {"cut": 1}
    assert upstream.connections == (0, 0)


async def test_a_close_delimited_answer_ends_with_its_connection(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"\r\nabc")

    server = await serve(script)
    assert await whole(make(server.url), call()) == (200, b"abc")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"H",
        b"HTTP/1.1 200 OK\r\nConten",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_an_upstream_error(
    serve: Serve, make: Make, answer: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    server = await serve(script)
    upstream = make(server.url)
    with pytest.raises(UpstreamError):
        await upstream.send(call())
    assert upstream.stats.in_flight == 0
    assert upstream.stats.outcomes == {"error": 1}
    assert server.connections == 1  # a fresh connection that fails is not tried again


@pytest.mark.parametrize(
    ("script", "settings", "reads"),
    [
        ("silent", {"first_byte": 0.05}, 0),
        ("half a head", {"first_byte": 0.05}, 0),
        ("silent", {"total": 0.05}, 0),
        ("one chunk", {"idle": 0.05}, 1),
        ("one chunk", {"total": 0.1}, 1),
        ("dribbles", {"total": 0.1, "idle": 5}, None),
    ],
)
async def test_deadlines(
    serve: Serve, make: Make, script: str, settings: dict[str, float], reads: int | None
) -> None:
    """I1: first byte, idle and total are limits of their own; the socket closes with them."""
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        if script == "half a head":
            await peer.send(b"HTTP/1.1 200 OK\r\nX-")
        elif script != "silent":
            await peer.send(CHUNKED + chunk(b"a"))
        while script == "dribbles" and not peer.reader.at_eof():
            await peer.send(chunk(b"b"))
            await asyncio.sleep(0.005)
        await peer.gone()
        gone.set()

    server = await serve(play)
    upstream = make(server.url, **settings)
    with pytest.raises(UpstreamTimeout), await upstream.send(call()) as reply:
        for _ in range(reads or 10_000):
            assert await reply.read() in (b"a", b"b", b"bb", b"ab")
        await reply.read()
    async with asyncio.timeout(1 if script != "dribbles" else 5):
        await (gone.wait() if script != "dribbles" else until(lambda: server.open == 0))
    assert upstream.stats.outcomes == {"timeout": 1}
    assert upstream.stats.in_flight == 0


async def test_bytes_keep_an_answer_alive_past_idle(serve: Serve, make: Make) -> None:
    """I1: silence is measured from the last byte."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(8):
            await peer.send(chunk(b"x"))
            await asyncio.sleep(0.15)  # together more than idle, each far less
        await peer.send(b"0\r\n\r\n")

    server = await serve(script)
    assert await whole(make(server.url, idle=1), call()) == (200, b"x" * 8)


async def test_an_upload_keeps_first_byte_waiting(serve: Serve, make: Make) -> None:
    """The answer's deadline runs from the last piece of the request."""

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(8):
            await asyncio.sleep(0.15)
            yield b"x"

    server = await serve(answering())
    assert await whole(make(server.url, first_byte=1), call(slow())) == (200, b"{}")


async def test_a_refused_connection_names_the_upstream(make: Make, unused_port: int) -> None:
    upstream = make(f"http://127.0.0.1:{unused_port}")
    with pytest.raises(UpstreamError, match=r"'test' did not .*refused"):
        await upstream.send(call())
    assert upstream.stats.outcomes == {"connect_error": 1}
    assert upstream.stats.in_flight == 0


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_connection_that_does_not_come_about_times_out(make: Make) -> None:
    """A listener whose backlog is full answers no SYN."""
    import socket

    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        upstream = make(f"http://127.0.0.1:{listener.getsockname()[1]}", connect=0.1)
        with pytest.raises(UpstreamTimeout, match="No connection"):
            await upstream.send(call())
        assert upstream.stats.outcomes == {"timeout": 1}


async def test_an_unknown_host_is_an_upstream_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UpstreamError, match="not found"):
        await make("http://nowhere.invalid").send(call())


# -- the one retry -------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_stale_pooled_connections_are_never_seen(
    serve: Serve, make: Make, ending: str
) -> None:
    """I4: the upstream answers, and lets each connection die on its next request."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.reader.readuntil(b"\r\n\r\n")
        if ending == "reset":
            peer.reset()

    server = await serve(script)
    upstream = make(server.url)
    attempts = 0
    for _ in range(300):
        asked = call()
        assert await whole(upstream, asked) == (200, b"{}")
        attempts += asked.times.attempts
    assert upstream.stats.retries > 100
    assert attempts == 300 + upstream.stats.retries == upstream.stats.attempts
    assert upstream.stats.outcomes == {"2xx": 300}


async def test_an_upstream_that_closes_after_each_answer(serve: Serve, make: Make) -> None:
    """I4, the ordinary race: closed while idle, without a word."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    server = await serve(script)
    upstream = make(server.url)
    for _ in range(300):
        assert await whole(upstream, call()) == (200, b"{}")
    assert len(server.requests) == 300


async def test_a_retry_takes_a_fresh_connection(serve: Serve, make: Make) -> None:
    """Several stale connections in the pool: the second attempt does not pick the next of them."""
    together = asyncio.Barrier(5)

    async def script(peer: Peer) -> None:
        await peer.request()
        if server.connections <= 5:
            await together.wait()
        await peer.send(OK)
        await peer.reader.readuntil(b"\r\n\r\n")

    server = await serve(script)
    upstream = make(server.url)
    await asyncio.gather(*(whole(upstream, call()) for _ in range(5)))
    assert upstream.connections == (0, 5)
    asked = call()
    assert await whole(upstream, asked) == (200, b"{}")
    assert asked.times.attempts == 2
    assert server.connections == 6


@pytest.mark.parametrize(
    ("answer", "ending"), [(b"H", "close"), (b"H", "reset"), (b"HTTP/1.1 200 OK\r\nX", "close")]
)
async def test_no_retry_after_one_byte(
    serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch, answer: bytes, ending: str
) -> None:
    """B14, I4: aiohttp's own error does not tell these from silence."""
    received = asyncio.Event()
    real = Connection.data_received

    def data_received(wire: Connection, data: bytes) -> None:
        real(wire, data)
        if data == answer:
            received.set()

    monkeypatch.setattr(Connection, "data_received", data_received)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(answer)
        await received.wait()  # or the reset would overtake the byte
        if ending == "reset":
            peer.reset()

    server = await serve(script)
    upstream = make(server.url)
    await whole(upstream, call())
    asked = call()
    with pytest.raises(UpstreamError):
        await upstream.send(asked)
    assert (asked.times.attempts, upstream.stats.retries) == (1, 0)
    assert len(server.requests) == 2


async def test_no_retry_of_a_streamed_body(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.reader.readuntil(b"\r\n\r\n")

    server = await serve(script)
    upstream = make(server.url)
    await whole(upstream, call())
    with pytest.raises(UpstreamError):
        await upstream.send(call(pieces(b"abc"), length=3))
    assert upstream.stats.retries == 0
    assert server.connections == 1


async def test_unsolicited_bytes_are_no_answer(serve: Serve, make: Make) -> None:
    """RFC 9112 section 9.2: a 408 on an idle connection must not answer the next request."""
    idle, sent = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if server.connections == 1:
            await idle.wait()
            await peer.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 4\r\n\r\nlate")
            sent.set()
            await peer.gone()

    server = await serve(script)
    upstream = make(server.url)
    await whole(upstream, call())
    idle.set()
    await sent.wait()
    await until(lambda: upstream.connections == (0, 0))
    assert await whole(upstream, call()) == (200, b"{}")
    assert server.connections == 2


async def test_a_connection_is_used_again(serve: Serve, make: Make) -> None:
    """I5: read to the end, it goes back; the gauges tell."""
    server = await serve(answering())
    upstream = make(server.url)
    for _ in range(20):
        await whole(upstream, call())
        assert upstream.connections == (0, 1)
    assert server.connections == 1


# -- limits, back-pressure, letting go -----------------------------------------------------------


async def test_calls_past_the_limit_wait_and_are_seen(serve: Serve, make: Make) -> None:
    """H3"""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await go.wait()
            await peer.send(OK)

    server = await serve(script)
    upstream = make(server.url, max_connections=2)
    calls = [call() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for one in calls:
            group.create_task(whole(upstream, one))
        await until(lambda: len(server.requests) == 2)
        assert (upstream.stats.in_flight, upstream.stats.waiting) == (2, 3)
        go.set()
    assert sum(one.times.queued > 0 for one in calls) == 3
    assert upstream.stats.waits == 3
    assert upstream.stats.wait_seconds == sum(one.times.queued for one in calls) > 0
    assert (upstream.stats.in_flight, upstream.stats.waiting) == (0, 0)
    assert server.connections == 2


async def test_who_waits_too_long_is_told(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a"))
        await peer.gone()

    server = await serve(script)
    upstream = make(server.url, max_connections=1, first_byte=0.1)
    with await upstream.send(call()) as reply:
        await reply.read()
        with pytest.raises(UpstreamTimeout, match="became free"):
            await upstream.send(call())
    assert (upstream.stats.in_flight, upstream.stats.waiting) == (0, 0)


async def test_a_waiting_call_that_is_cancelled_leaves_no_trace(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a"))
        await peer.gone()

    server = await serve(script)
    upstream = make(server.url, max_connections=1)
    with await upstream.send(call()):
        task = asyncio.create_task(upstream.send(call()))
        await until(lambda: upstream.stats.waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (upstream.stats.in_flight, upstream.stats.waiting) == (0, 0)
    with await upstream.send(call()) as reply:
        assert reply.status == 200


async def test_a_slow_reader_stops_the_upstream(serve: Serve, make: Make) -> None:
    """I6: 100 MB for a reader that does not read: most of it never leaves the sender."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(HEAD + b"Content-Length: 100000000\r\n\r\n")
        peer.writer.transport.set_write_buffer_limits(0)
        for _ in range(1000):
            await peer.send(bytes(100_000))
            sent += 100_000

    server = await serve(script)
    with await make(server.url).send(call()) as reply:
        await reply.read()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 20_000_000  # what the kernel's buffers hold
        taken = 0
        while data := await reply.read():
            taken = max(taken, len(data))
        assert taken <= 512 * 1024
    assert sent == 100_000_000


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_letting_go_closes_the_socket(serve: Serve, make: Make, when: str) -> None:
    """B5: within a second."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if when == "in the body":
            await peer.send(CHUNKED + chunk(b"a"))
        await peer.gone()
        gone.set()

    server = await serve(script)
    upstream = make(server.url)
    task = asyncio.create_task(upstream.send(call()))
    await server.arrived.wait()
    if when == "in the body":
        reply = await task
        await reply.read()
        reply.close()
        reply.close()
        with pytest.raises(UpstreamCut):
            await reply.read()
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(1):
        await gone.wait()
    assert upstream.stats.outcomes == {"abandoned": 1}
    assert upstream.connections == (0, 0)


@pytest.mark.parametrize("why", ["cancelled", "timeout", "closed"])
async def test_unsent_bytes_do_not_keep_a_socket_open(serve: Serve, make: Make, why: str) -> None:
    """B5: an upstream that stopped reading sees a reset; a `close` would wait for it for ever."""
    let_go, reset = asyncio.Event(), asyncio.Event()
    taken, before = 0, -1

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(100_000)

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        if why == "closed":
            await peer.send(CHUNKED)
        server.arrived.set()
        await let_go.wait()
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(b" ")
                await asyncio.sleep(0.01)
        reset.set()

    server = await serve(script)
    upstream = make(server.url, first_byte=0.1 if why == "timeout" else 60)
    task = asyncio.create_task(upstream.send(call(endless())))
    await server.arrived.wait()
    while before != taken:  # until the kernel takes no more
        before = taken
        await asyncio.sleep(0.05)
    if why == "cancelled":
        task.cancel()
    if why == "closed":
        (await task).close()
    else:
        with pytest.raises(UpstreamTimeout if why == "timeout" else asyncio.CancelledError):
            await task
    let_go.set()
    async with asyncio.timeout(1):
        await reset.wait()


async def test_an_unread_answer_does_not_hold_its_connection(serve: Serve, make: Make) -> None:
    """I5, AX#5833"""
    server = await serve(answering())
    upstream = make(server.url)
    for _ in range(5):
        (await upstream.send(call())).close()
        assert upstream.stats.in_flight == 0
    await until(lambda: server.open == upstream.connections[1])


async def test_closing_does_not_wait_for_an_upstream_that_takes_nothing(
    serve: Serve, make: Make
) -> None:
    """A stuck upload must not hold up the gateway's stop."""
    stuck = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        server.arrived.set()
        await stuck.wait()

    server = await serve(script)
    upstream = make(server.url)
    task = asyncio.create_task(upstream.send(call(bytes(30_000_000))))
    await server.arrived.wait()
    async with asyncio.timeout(5):
        await upstream.close()
    with pytest.raises(UpstreamError):
        await task
    with pytest.raises(UpstreamError, match="could not be made"):
        await upstream.send(call())
    stuck.set()


async def test_a_body_that_fails_ends_the_call_with_its_own_error(serve: Serve, make: Make) -> None:
    class Gone(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise Gone

    server = await serve(answering())
    upstream = make(server.url)
    with pytest.raises(Gone):
        await upstream.send(call(broken(), length=10))
    await until(lambda: server.open == 0)
    assert upstream.stats.outcomes == {"abandoned": 1}


async def test_a_body_that_fails_after_the_head_fails_the_answer(serve: Serve, make: Make) -> None:
    """Or its reader would wait for an upstream that waits for the rest."""

    class Gone(Exception):
        pass

    head_is_here = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        await head_is_here.wait()
        raise Gone

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(CHUNKED)
        await peer.gone()

    server = await serve(script)
    with await make(server.url).send(call(broken(), length=10)) as reply:
        head_is_here.set()
        with pytest.raises(Gone):
            await reply.read()


async def test_an_early_answer_to_an_upload_is_passed_on(serve: Serve, make: Make) -> None:
    """A 413 while the body still comes: it is readable, and the upload ends."""
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await never.wait()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await peer.gone()

    server = await serve(script)
    upstream = make(server.url)
    assert await whole(upstream, call(body(), length=1000)) == (413, b"no")
    await until(lambda: server.open == 0)
    assert upstream.stats.outcomes == {"4xx": 1}


# -- models --------------------------------------------------------------------------------------


async def test_models_are_listed_under_public_names(serve: Serve, make: Make) -> None:
    listing = b'{"data":[{"id":"gpt-a","owned_by":"x"},{"id":"real"},{"id":"other"},{"no":1}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listing)
    server = await serve(answering(head + listing))
    upstream = make(server.url, models=["gpt-*", "named"], rename={"public": "real"})
    found = await upstream.models(ISSUED)
    assert [m["id"] for m in found] == ["gpt-a", "public", "named"]
    assert found[0]["owned_by"] == "x"
    assert server.requests[0].line == "GET /v1/models HTTP/1.1"
    assert server.requests[0].get("authorization") == "Bearer sk-own"


@pytest.mark.parametrize("answer", [b"", OK, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"])
async def test_models_that_are_not_told_are_those_configured(
    serve: Serve, make: Make, answer: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    server = await serve(script)
    upstream = make(server.url, models=["*", "named"])
    assert [m["id"] for m in await upstream.models(ISSUED)] == ["named"]
    assert upstream.stats.in_flight == 0


# -- secrets -------------------------------------------------------------------------------------

CANARIES = ("sk-canary", "q-canary", "h-canary", "p-canary", "t-canary", "path-canary")


@pytest.mark.parametrize(
    "answer", ["refused", b"", b"H", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nX", "silent", CHUNKED]
)
async def test_no_failure_shows_a_secret(
    serve: Serve, make: Make, answer: Any, unused_port: int
) -> None:
    """G7: neither text nor repr nor traceback, nor any exception behind it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await (peer.gone() if answer == "silent" else peer.send(answer))

    server = await serve(script)
    url = server.url if answer != "refused" else f"http://127.0.0.1:{unused_port}"
    upstream = make(
        url, first_byte=0.05, api_key=Secret("sk-canary"), query={"k": Secret("q-canary")},
        headers={"x-k": Secret("h-canary")}, paths=["path-canary"],
    )  # fmt: skip
    asked = call(b"t-canary", path="path-canary", query="token=t-canary")
    with pytest.raises(GatewayError) as caught:
        await whole(upstream, asked)
    shown = "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        shown += str(error) + repr(error)
        error = error.__cause__ or error.__context__
    shown += repr(upstream) + repr(upstream.stats)
    assert not [canary for canary in CANARIES if canary in shown]
