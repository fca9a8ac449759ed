"""A head that came before means what it meant, and nothing that is not the same is taken for it."""

from __future__ import annotations

import json

import pytest

from gateway.web import heads
from tests.web.conftest import Serve

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nX-Way: %b\r\n"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without any."""
    monkeypatch.setattr(heads, "_heads", {})


async def test_a_recalled_head_carries_its_own_length_and_body(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        for body in (b"one", b"three", b"", b"x" * 70_000, b"one", b"\r\n\r\n", b"00"):
            sent = HEAD % b"same" + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            seen = json.loads((await client.ask(sent)).body)
            assert seen["body"].encode() == body
            assert seen["length"] == seen["received"] == len(body)
            assert seen["headers"][2] == ["content-length", str(len(body))]
        assert len(heads._heads) == 1


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\ncontent-length: 5",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Content-Length: 3, 3",
        b"Content-Length: +3",
        b"Content-Length: 0x3",
        b"Content-Length: 3 3",
        b"Content-Length: ",
        b"Content-Length: -3",
        b"Content-Length: 99999999999999999999",
        b"X: 1\r\n Content-Length: 3",
    ],
)
async def test_framing_in_doubt_is_refused_before_and_after(serve: Serve, field: bytes) -> None:
    """RFC 9112 section 6.3: no other request makes a bad one good."""
    async with serve() as plane:
        for _ in range(2):
            bad = await plane.connect()
            await bad.send(HEAD % b"same" + field + b"\r\n\r\none")
            assert (await bad.reply()).status == 400
            good = await plane.connect()
            sent = HEAD % b"same" + b"Content-Length: 3\r\n\r\none"
            assert json.loads((await good.ask(sent)).body)["body"] == "one"


async def test_what_is_not_remembered(serve: Serve) -> None:
    """Chunked bodies, expectations, long heads, and lengths that are written in another way."""
    async with serve() as plane:
        client = await plane.connect()
        for more in (
            b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
            b"Content-Length:3\r\n\r\none",
            b"CONTENT-LENGTH: 3\r\n\r\none",
            b"X-Long: " + b"x" * heads.LARGEST + b"\r\nContent-Length: 3\r\n\r\none",
        ):
            for _ in range(2):
                seen = json.loads((await client.ask(HEAD % b"odd" + more)).body)
                assert seen["body"] == "one"
        await client.send(HEAD % b"odd" + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert b"100" in await client.until(b"\r\n\r\n")
        await client.send(b"one")
        assert (await client.reply()).status == 200
        assert not heads._heads


async def test_heads_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "REMEMBERED", 3)
    async with serve() as plane:
        client = await plane.connect()
        for number in range(10):
            sent = HEAD % b"%d" % number + b"\r\n"
            seen = json.loads((await client.ask(sent)).body)
            assert ["x-way", str(number)] in seen["headers"]
        assert len(heads._heads) == 3


async def test_pipelined_requests_with_one_head_keep_their_bodies(serve: Serve) -> None:
    async with serve() as plane:
        client = await plane.connect()
        bodies = [b"%d" % number * (number % 7) for number in range(100)]
        lines = [b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
        await client.send(b"".join(HEAD % b"same" + line for line in lines))
        for body in bodies:
            assert json.loads((await client.reply()).body)["body"].encode() == body
