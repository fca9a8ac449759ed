"""What a connection sends arrives whole and in order, whatever the socket takes at once."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager

import pytest

from gateway.bursts import Flusher
from gateway.web.writer import LARGE, Writer


@asynccontextmanager
async def pair():
    """A writer, and the other end of its socket."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    writer = Writer(transport, Flusher(loop), lambda: None)
    writer.file = ours.fileno()
    try:
        yield writer, theirs
    finally:
        transport.abort()
        theirs.close()


async def received(theirs: socket.socket, size: int) -> bytes:
    loop, came = asyncio.get_running_loop(), bytearray()
    while len(came) < size:
        came += await loop.sock_recv(theirs, 3000)
    return bytes(came)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, 60_000, 5_000_000])
async def test_pieces_arrive_whole_and_in_order(size):
    """Also where the socket takes a part of them, and more is written while the rest waits."""
    body = os.urandom(size)
    half = size // 2
    async with pair() as (writer, theirs):
        writer.push(b"head")
        writer.end_large([memoryview(body)[:half], memoryview(body)[half:], b"tail"], size)
        await asyncio.sleep(0)
        writer.push(b"another")
        writer.push(body)
        writer.end(b"")
        wanted = b"head" + body + b"tailanother" + body
        assert await received(theirs, len(wanted)) == wanted


async def test_large_pieces_are_not_copied_where_the_socket_takes_them(monkeypatch):
    async with pair() as (writer, theirs):
        pieces, real = [b"x" * LARGE, b"y" * 10], os.writev
        written: list[int] = []

        def writev(file, data):
            written.extend(map(id, data))
            return real(file, data)

        monkeypatch.setattr(os, "writev", writev)
        writer.end_large(list(pieces), LARGE + 10)
        assert await received(theirs, LARGE + 10) == b"".join(pieces)
        assert written == list(map(id, pieces))


async def test_an_end_is_not_lost_where_the_socket_takes_all_but_that(monkeypatch):
    async with pair() as (writer, theirs):
        body, real = b"x" * LARGE, os.writev
        monkeypatch.setattr(os, "writev", lambda file, data: real(file, [b"".join(data)[:LARGE]]))
        writer.push(body)
        writer.end(b"tail")
        assert await received(theirs, LARGE + 4) == body + b"tail"
