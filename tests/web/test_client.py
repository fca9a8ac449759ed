"""The `Client` port: heads, framing, what may be emitted, clients that leave at any moment (B9)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gateway.bursts import Flusher
from gateway.errors import GatewayError
from gateway.ports import ClientGone
from gateway.web.server import Answer, Request
from gateway.web.writer import Writer
from tests.web.conftest import Raw, Serve, settle
from tests.web.test_edge import CHUNKED, GET, post


async def test_an_answer_in_pieces_is_chunked(serve: Serve) -> None:
    written: list[int] = []

    async def handler(request: Request, client: Answer) -> None:
        assert not client.started
        client.start(200, [("content-type", "text/event-stream")], None)
        assert client.started
        for piece in (b"one", b"", b"two"):
            client.write(piece)
            written.append(client.bytes_out)
            await asyncio.sleep(0)
        client.finish()
        client.finish()  # both are idempotent
        client.abort()

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            reply = await client.ask(GET)
            assert reply.body == b"onetwo"
            assert reply.headers["transfer-encoding"] == "chunked"
    assert written == [3, 3, 6] * 2


async def test_a_head_goes_out_before_the_first_body_byte(serve: Serve) -> None:
    """Requirement J4: nothing waits for the next piece."""
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], None)
        await go.wait()
        client.write(b"x")
        await asyncio.sleep(0)
        client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        go.set()
        assert await client.until(b"0\r\n\r\n") == b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize("how", ["pieces", "send"])
async def test_what_is_written_in_one_turn_leaves_in_one_piece(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    writes: list[int] = []

    class Counted(Writer):
        def __init__(self, transport: asyncio.Transport, flusher: Flusher, on_rest: Any) -> None:
            class Spy:
                def __getattr__(self, name: str) -> object:
                    return getattr(transport, name)

                def write(self, data: bytes) -> None:
                    writes.append(len(data))
                    transport.write(data)

            super().__init__(Spy(), flusher, on_rest)  # type: ignore[arg-type]

    monkeypatch.setattr("gateway.web.connection.Writer", Counted)

    async def handler(request: Request, client: Answer) -> None:
        if how == "pieces":
            client.start(200, [], None)
            client.write(b"one")
            client.write(b"two")
            client.finish()
        else:
            client.send(200, [], b"onetwo")
        assert client.bytes_out == 6

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(3):
            assert (await client.ask(GET)).body == b"onetwo"
    assert len(writes) == 3


@pytest.mark.parametrize("length", [5, None])
async def test_head_gets_no_body(serve: Serve, length: int | None) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], length)
        client.write(b"hello")
        client.finish()
        assert client.bytes_out == 0

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = await client.reply(head_request=True)
            assert reply.headers.get("content-length") == (None if length is None else "5")


@pytest.mark.parametrize("status", [204, 304])
async def test_204_and_304_have_no_body(serve: Serve, status: int) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.start(status, [], None)
        client.write(b"hello")
        client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            reply = await client.ask(GET)
            assert reply.status == status
            assert not {"content-length", "transfer-encoding"} & reply.headers.keys()


async def test_a_header_that_could_split_the_answer_is_not_emitted(serve: Serve) -> None:
    """CVE-2026-34520: what upstreams send is judged again before it is sent on."""
    bad = ["a\r\nb: c", "a\nb", "a\rb", "a\x00b", "a\x7fb", "a\x1bb", "\u4e2d"]

    async def handler(request: Request, client: Answer) -> None:
        headers = [(f"x-bad-{number}", value) for number, value in enumerate(bad)]
        names = ["x bad", "x-bad\r\ny", "x-b\u00e4d", "x:bad", ""]
        headers += [(name, "v") for name in names]
        headers += [("x-tab", "a\tb"), ("x-latin", "\xe9"), ("x-empty", "")]
        # How the body is framed is the server's affair.
        headers += [("Content-Length", "99"), ("transfer-encoding", "gzip"), ("Connection", "x")]
        client.send(200, headers, b"ok")

    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            reply = await client.ask(GET)
            assert reply.body == b"ok"
            assert sorted(reply.headers) == [
                "content-length",
                "date",
                "x-empty",
                "x-latin",
                "x-tab",
            ]
            assert reply.headers["x-latin"] == "\xe9"


async def test_the_upstreams_date_is_kept(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.send(200, [("date", "Thu, 01 Jan 1970 00:00:00 GMT")], b"")

    async with serve(handler) as plane:
        client = await plane.connect()
        reply = await client.ask(GET)
        assert reply.headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize("body", [b"123", b"1234567"])
async def test_an_answer_that_breaks_its_declared_length_is_cut(
    serve: Serve, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Never bytes that the next answer's reader would take for its own."""

    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], 5)
        client.write(body)
        client.finish()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        head, _, rest = (await client.rest()).partition(b"\r\n\r\n")
        assert b"Content-Length: 5" in head
        assert len(rest) < 5
    assert "declared" in caplog.text


async def test_abort_is_seen_as_a_cut_after_what_was_written(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.start(200, [], None)
        client.write(b'data: {"error": 1}\n\n')
        client.abort()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        rest = await client.rest()
        assert rest.endswith(b'data: {"error": 1}\n\n\r\n'), "a whole chunk, and no closing one"


async def test_abort_before_the_head_answers_nothing(serve: Serve) -> None:
    async def handler(request: Request, client: Answer) -> None:
        client.abort()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        assert await client.rest() == b""


# A client that leaves -----------------------------------------------------------------------------


def leave(client: Raw, how: str) -> None:
    if how == "close":
        client.close()
    elif how == "reset":
        client.reset()
    else:
        client.writer.write_eof()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("moment", ["before the head", "mid-stream"])
async def test_a_handler_learns_once_that_its_client_has_left(
    serve: Serve, how: str, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B5 without a write, B9 without a traceback. A half-close counts as leaving: a known limit."""
    calls: list[str] = []
    gone, begun, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_gone() -> None:
        calls.append("gone")
        gone.set()

    async def handler(request: Request, client: Answer) -> None:
        client.watch(lambda: None, on_gone)
        if moment == "mid-stream":
            client.start(200, [], None)
            client.write(b"x")
        begun.set()
        await gone.wait()
        assert client.gone
        for _ in range(50):
            assert client.write(b"dropped") or not client.started
            await asyncio.sleep(0)
        late: list[str] = []
        client.watch(lambda: None, lambda: late.append("at once"))
        assert late == ["at once"]
        client.finish() if client.started else client.send(200, [], b"late")
        over.set()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(post(b"abc"))
        await asyncio.wait_for(begun.wait(), 10)
        leave(client, how)
        await asyncio.wait_for(over.wait(), 10)
        await settle(lambda: plane.server.connections == 0)
    assert calls == ["gone"]
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_its_body_raises_client_gone(
    serve: Serve, how: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[type[BaseException]] = []

    async def handler(request: Request, client: Answer) -> None:
        try:
            if stream:
                [chunk async for chunk in request.body.chunks(100)]
            else:
                await request.body.read(100)
        except (ClientGone, GatewayError) as error:
            raised.append(type(error))
            raise

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        await settle(lambda: plane.server.in_flight == 1)
        leave(client, how)
        await settle(lambda: plane.server.in_flight == 0)
    assert raised == [ClientGone]
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", GET, post(b"abc")[:-1], GET * 30, CHUNKED + b"5"]
)
async def test_leaving_at_any_moment_leaves_no_trace(
    serve: Serve, how: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Requirement B9."""

    async def handler(request: Request, client: Answer) -> None:
        await request.body.read(100)
        client.start(200, [], None)
        for _ in range(20):
            client.write(b"x" * 5000)
            await asyncio.sleep(0)
        client.finish()

    async with serve(handler) as plane:
        for turns in range(0, 12, 2):
            client = await plane.connect()
            client.writer.write(sent)
            for _ in range(turns):
                await asyncio.sleep(0)
            leave(client, how)
        await settle(lambda: plane.server.connections == 0 and plane.server.in_flight == 0)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_a_disconnect_cancels_no_handler(serve: Serve) -> None:
    gone = asyncio.Event()
    ended = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        client.watch(lambda: None, gone.set)
        await gone.wait()
        for _ in range(20):
            await asyncio.sleep(0)  # books its exchange
        ended.set()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        await settle(lambda: plane.server.in_flight == 1)
        client.reset()
        await asyncio.wait_for(ended.wait(), 10)


async def test_leaving_is_seen_after_a_large_body_was_read(serve: Serve) -> None:
    """Reading was paused while the body piled up; it must go on once the body is whole (B5)."""
    gone = asyncio.Event()
    late = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        client.watch(lambda: None, gone.set)
        await late.wait()
        assert len(await request.body.read(1 << 20)) == 200_000
        await gone.wait()

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(post(b"x" * 200_000))
        await settle(lambda: plane.server.in_flight == 1)
        late.set()
        for _ in range(100):
            await asyncio.sleep(0)
        client.close()
        await asyncio.wait_for(gone.wait(), 10)
