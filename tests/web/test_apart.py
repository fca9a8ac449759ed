"""Heads and small bodies that come apart, as httpx sends them; and answers that leave in bursts."""

from __future__ import annotations

import asyncio

import pytest

from gateway.bursts import Flusher
from gateway.ports import ClientGone
from gateway.web import connection
from gateway.web.server import Answer, Request
from gateway.web.writer import Writer
from tests.web.conftest import Plane, Raw, Serve, settle

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


class Seen:
    """A handler that tells in which moment and how it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.tasks: list[object] = []
        self.errors: list[BaseException] = []

    async def __call__(self, request: Request, client: Answer) -> None:
        self.begun += 1
        try:
            body = await request.body.read(1 << 20)
        except BaseException as error:
            self.errors.append(error)
            raise
        self.tasks.append(asyncio.current_task())
        client.send(200, [], body[::-1])


async def known(plane: Plane) -> Raw:
    """A client whose head has come before."""
    client = await plane.connect()
    assert (await client.ask(HEAD % 3 + b"abc")).body == b"cba"
    return client


async def arrived(plane: Plane) -> None:
    """What was sent is with the server."""
    held = [one for one in plane.server._connections if one._state == connection._PART]
    if not held:
        await settle(lambda: any(c._state == connection._PART for c in plane.server._connections))


async def test_a_head_waits_for_its_small_body(serve: Serve) -> None:
    seen = Seen()
    async with serve(seen) as plane:
        client = await known(plane)
        for number in range(1, 5):
            await client.send(HEAD % 4)
            await arrived(plane)
            assert (seen.begun, plane.server.in_flight) == (number, 0)
            assert (await client.ask(b"abcd")).body == b"dcba"
    assert seen.tasks == [None] * 5


@pytest.mark.parametrize("rest", [b"cd", b"cd" + HEAD % 3 + b"xyz", b"cd\r\n" + HEAD % 3 + b"xyz"])
async def test_what_comes_with_the_rest_is_another_request(serve: Serve, rest: bytes) -> None:
    async with serve(Seen()) as plane:
        client = await known(plane)
        await client.send(HEAD % 4 + b"ab")
        await arrived(plane)
        assert (await client.ask(rest)).body == b"dcba"
        if len(rest) > 2:
            assert (await client.reply()).body == b"zyx"
        assert (await client.ask(HEAD % 1 + b"e")).body == b"e"


async def test_a_body_in_many_pieces_is_whole(serve: Serve) -> None:
    async with serve(Seen()) as plane:
        client = await known(plane)
        for piece in (HEAD % 6, b"a", b"bc", b"d", b"e"):
            await client.send(piece)
            await asyncio.sleep(0.001)
        assert (await client.ask(b"f")).body == b"fedcba"


async def test_a_body_that_is_late_holds_up_no_refusal(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "APART", 0.02)
    seen = Seen()
    async with serve(seen) as plane:
        client = await known(plane)
        await client.send(HEAD % 4 + b"a")
        await settle(lambda: seen.begun == 2)
        assert (await client.ask(b"bcd")).body == b"dcba"


async def test_a_body_that_does_not_come_is_408(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "APART", 0.02)
    async with serve(Seen(), body_timeout=0.05) as plane:
        client = await known(plane)
        reply = await client.ask(HEAD % 4 + b"a")
        assert (reply.status, reply.code) == (408, "request_timeout")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_who_leaves_before_the_body_was_a_request_all_the_same(
    serve: Serve, how: str
) -> None:
    """Requirement B1: each request is booked, whatever ended it."""
    seen = Seen()
    async with serve(seen) as plane:
        client = await known(plane)
        await client.send(HEAD % 4 + b"a")
        await arrived(plane)
        getattr(client, how)()
        await settle(lambda: not plane.server.connections)
        assert seen.begun == 2
        assert [type(one) for one in seen.errors] == [ClientGone]


async def test_a_stop_waits_for_the_body_too(serve: Serve) -> None:
    async with serve(Seen()) as plane:
        client = await known(plane)
        await client.send(HEAD % 4)
        await arrived(plane)
        plane.server.begin_drain()
        reply = await client.ask(b"abcd")
        assert (reply.body, reply.headers["connection"]) == (b"dcba", "close")
        assert await client.rest() == b""


# Bursts -------------------------------------------------------------------------------------------


class Sink(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[bytes] = []
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.got.append(data)


async def test_answers_of_one_turn_leave_at_its_end() -> None:
    flusher = Flusher(asyncio.get_running_loop())
    sinks = [Sink(), Sink(), Sink()]
    writers = [Writer(sink, flusher, lambda: None) for sink in sinks]
    for number, writer in enumerate(writers):
        writer.push(b"head ")
        writer.end(b"%d" % number)
    sinks[1].closing = True
    assert [sink.got for sink in sinks] == [[], [], []]
    assert all(writer.waits for writer in writers)
    await asyncio.sleep(0)
    assert [sink.got for sink in sinks] == [[b"head 0"], [], [b"head 2"]]
    assert not any(writer.waits for writer in writers)


async def test_who_alone_is_answered_waits_for_nobody() -> None:
    flusher = Flusher(asyncio.get_running_loop())
    sink = Sink()
    writer = Writer(sink, flusher, lambda: None)
    writer.end(b"first")
    await asyncio.sleep(0)
    writer.end(b"second")
    assert sink.got == [b"first", b"second"]
    other = Writer(Sink(), flusher, lambda: None)
    other.end(b"between")
    writer.end(b"third")
    assert sink.got == [b"first", b"second"]
    await asyncio.sleep(0)
    assert sink.got == [b"first", b"second", b"third"]
