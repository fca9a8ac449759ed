"""TLS, proxies and the other event loop: what stands between the gateway and its upstream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from gateway.config import SecretURL
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.dial import find_proxy, tls_context
from tests.upstream.conftest import (
    CHUNKED,
    OK,
    Make,
    Peer,
    Script,
    Serve,
    Server,
    answering,
    call,
    chunk,
    whole,
)

PEM = str(Path(__file__).with_name("localhost.pem"))


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    return context


@pytest.fixture(autouse=True)
def _no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


# -- TLS -----------------------------------------------------------------------------------------


async def test_a_ca_file_is_trusted(serve: Serve, make: Make, tls: ssl.SSLContext) -> None:
    server = await serve(answering(), tls)
    upstream = make(server.url, ca_file=PEM)
    assert await whole(upstream, call()) == (200, b"{}")
    assert await whole(upstream, call()) == (200, b"{}")
    assert server.connections == 1


async def test_an_unknown_certificate_is_refused(
    serve: Serve, make: Make, tls: ssl.SSLContext
) -> None:
    server = await serve(answering(), tls)
    upstream = make(server.url)
    with pytest.raises(UpstreamError, match=r"not trusted \(self-signed certificate\)"):
        await upstream.send(call())
    assert upstream.stats.outcomes == {"connect_error": 1}
    assert server.requests == []


async def test_another_name_is_refused(
    serve: Serve, make: Make, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(answering(), tls)
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    with pytest.raises(UpstreamError, match="not trusted"):
        await make(f"https://other.example:{server.port}", ca_file=PEM).send(call())


async def test_plain_http_behind_https_is_a_failed_handshake(serve: Serve, make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad\r\n\r\n")

    server = await serve(script)
    with pytest.raises(UpstreamError, match="TLS handshake failed"):
        await make(server.url.replace("http:", "https:")).send(call())


async def test_a_handshake_that_stalls_times_out(serve: Serve, make: Make) -> None:
    server = await serve(lambda peer: peer.gone())
    upstream = make(server.url.replace("http:", "https:"), connect=0.05)
    with pytest.raises(UpstreamTimeout):
        await upstream.send(call())


@pytest.mark.parametrize("path", ["/nowhere.pem", __file__])
def test_a_ca_file_that_is_none_is_a_fault_of_the_configuration(path: str) -> None:
    with pytest.raises(ValueError, match="ca_file"):
        tls_context(path)


def test_without_system_roots_those_of_certifi_serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert tls_context("").cert_store_stats()["x509_ca"] > 50


# -- proxies -------------------------------------------------------------------------------------


def proxying(server: Server | None, seen: list[str], status: bytes = b"200 OK") -> Script:
    """A proxy that tunnels CONNECT, and answers other requests itself."""

    async def script(peer: Peer) -> None:
        head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        if not head.startswith("CONNECT"):
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            await peer.reader.readexactly(length)
            await peer.send(OK)
            return
        await peer.send(b"HTTP/1.1 %s\r\n\r\n" % status)
        if server is None:
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(peer.reader, writer))
            group.create_task(_pump(reader, peer.writer))

    return script


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def test_plain_requests_go_through_the_proxy(serve: Serve, make: Make) -> None:
    seen: list[str] = []
    proxy = await serve(proxying(None, seen))
    url = proxy.url.replace("//", "//us%20er:p%40ss@")
    upstream = make("http://upstream.invalid/v1", proxy=SecretURL(url), query={"a": "%2F"})
    assert await whole(upstream, call(query="b=%2F")) == (200, b"{}")
    assert seen[0].startswith(
        "POST http://upstream.invalid/v1/chat/completions?b=%2F&a=%252F HTTP/1.1\r\n"
    )
    assert "proxy-authorization: Basic dXMgZXI6cEBzcw==\r\n" in seen[0].replace(
        "Proxy-A", "proxy-a"
    )


async def test_tls_goes_through_a_tunnel(serve: Serve, make: Make, tls: ssl.SSLContext) -> None:
    """The proxy's password goes to the proxy alone; the key to the upstream alone."""
    seen: list[str] = []
    server = await serve(answering(), tls)
    proxy = await serve(proxying(server, seen))
    upstream = make(
        server.url, ca_file=PEM, proxy=SecretURL(proxy.url.replace("//", "//user:canary@"))
    )
    for _ in range(2):
        assert await whole(upstream, call()) == (200, b"{}")
    assert len(seen) == 1  # the tunnel is used again
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpjYW5hcnk=" in seen[0]
    assert "sk-own" not in seen[0]
    assert server.requests[0].get("proxy-authorization") is None
    assert server.requests[0].get("authorization") == "Bearer sk-own"
    assert upstream.connections == (0, 1)


async def test_a_refused_tunnel_says_the_status(serve: Serve, make: Make) -> None:
    seen: list[str] = []
    proxy = await serve(proxying(None, seen, b"407 Proxy Authentication Required"))
    url = proxy.url.replace("//", "//user:canary@")
    upstream = make("https://upstream.invalid", proxy=SecretURL(url))
    with pytest.raises(UpstreamError, match=r"proxy refused to connect \(status 407\)") as caught:
        await upstream.send(call())
    assert "canary" not in repr(caught.value) + repr(upstream._proxy)


async def test_a_proxy_that_is_not_there(make: Make) -> None:
    upstream = make("https://upstream.invalid", proxy=SecretURL("http://u:canary@127.0.0.1:9"))
    with pytest.raises(UpstreamError, match="proxy was not reached") as caught:
        await upstream.send(call())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "target", "proxy"),
    [
        ({}, "https://a.example/v1/", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/v1/", "http://p:1"),
        ({"https_proxy": "p:1"}, "https://a.example/v1/", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example/v1/", None),
        ({"ALL_PROXY": "http://p:1"}, "http://a.example/v1/", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b,.example"}, "https://a.example/v1/", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample"}, "https://a.example/", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example:8"}, "https://a.example:8/", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.example/", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "::1"}, "http://[::1]:80/", None),
    ],
)
def test_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], target: str, proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = find_proxy("env", target)
    assert (found.url if found else None) == proxy


def test_none_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    assert find_proxy("none", "https://a.example") is None


def test_a_proxy_of_another_kind_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="socks5 is not supported") as caught:
        find_proxy("socks5://user:canary@p:1", "https://a.example")
    assert "canary" not in str(caught.value)


# -- uvloop --------------------------------------------------------------------------------------


class TestOnBothLoops:
    """B10: letting go closes at once, on asyncio and uvloop, plain and over TLS."""

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    async def test_abort(self, serve: Serve, make: Make, tls: ssl.SSLContext, secure: bool) -> None:
        """The upstream goes on sending, as a model does, until it learns that nobody listens."""
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"a"))
            leaving = asyncio.get_running_loop().create_task(peer.gone())
            while not leaving.done():
                with contextlib.suppress(ConnectionError):
                    await peer.send(chunk(b"b"))
                await asyncio.sleep(0.01)
            gone.set()

        server = await serve(script, tls if secure else None)
        upstream = make(server.url, ca_file=PEM if secure else "")
        reply = await upstream.send(call())
        await reply.read()
        reply.close()
        async with asyncio.timeout(1):
            await gone.wait()
        assert upstream.connections == (0, 0)

    async def test_abort_waits_for_no_goodbye(
        self, serve: Serve, make: Make, tls: ssl.SSLContext
    ) -> None:
        """uvloop#471: the TLS peer sends on and never answers `close_notify`."""
        deaf, gone = asyncio.Event(), asyncio.Event()

        async def model(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            while True:
                await peer.send(chunk(b"a"))
                await asyncio.sleep(0.01)

        async def tunnel(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            back = asyncio.get_running_loop().create_task(_pump(reader, peer.writer))
            with contextlib.suppress(ConnectionError):
                while data := await peer.reader.read(65536):
                    if not deaf.is_set():
                        writer.write(data)
            gone.set()
            writer.close()
            await back

        server = await serve(model, tls)
        proxy = await serve(tunnel)
        upstream = make(server.url, ca_file=PEM, proxy=SecretURL(proxy.url))
        reply = await upstream.send(call())
        await reply.read()
        deaf.set()
        reply.close()
        async with asyncio.timeout(1):
            await gone.wait()

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    async def test_each_answer_carries_its_requests_nonce(
        self, serve: Serve, make: Make, tls: ssl.SSLContext, secure: bool
    ) -> None:
        """uvloop#645, reliability C1: no answer reaches another's request, some of them let go."""

        async def script(peer: Peer) -> None:
            while True:
                asked = await peer.request()
                await peer.send(CHUNKED + chunk(asked.body))
                await asyncio.sleep(0)
                await peer.send(chunk(asked.body) + b"0\r\n\r\n")

        server = await serve(script, tls if secure else None)
        upstream = make(server.url, ca_file=PEM if secure else "", max_connections=20)

        async def one(number: int) -> bool:
            nonce = b"%d" % number
            with await upstream.send(call(nonce)) as reply:
                if number % 7 == 0:
                    return await reply.read() in (nonce, nonce * 2)
                body = b""
                while data := await reply.read():
                    body += data
                return body == nonce * 2

        assert all(await asyncio.gather(*(one(number) for number in range(200))))
        assert upstream.stats.in_flight == 0
