"""Connections to one upstream: made, counted, reused, thrown away.

Three things aiohttp's pool leaves open are closed here: bytes that nobody asked for end an idle
connection (RFC 9112 section 9.2), or they would be the next request's answer; a body that stops
being HTTP wakes its reader; and who needs a fresh connection gets one (requirement I4).
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)
from weakref import WeakSet

import aiohttp
import certifi
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from gateway.ports import Clock

KiB = 1024
READ_BUFFER = 64 * KiB  # aiohttp pauses the socket at twice that (requirement I6)
MAX_FIELD = 128 * KiB  # one header line of an answer (requirement I7)
MAX_HEADERS = 256
DNS_TTL = 30  # seconds
KEEPALIVE_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}  # as openai-python


@dataclass(slots=True)
class Attempt:
    """One try to get an answer: what the pool is told, and what its connection tells."""

    fresh: bool  # only a connection that has served nobody yet will do
    on_connected: Callable[[], None]
    reused: bool = False
    received: int = 0  # bytes of any kind
    first_byte: float | None = None  # monotonic seconds
    reset: bool = False  # the connection ended with an error
    fault: BaseException | None = None  # what was received is not HTTP
    on_fault: Callable[[], None] | None = None
    transport: asyncio.Transport | None = field(default=None, repr=False)

    def drop(self) -> None:
        """Close at once: `close` waits for unsent bytes and for TLS's goodbye (B5, B10)."""
        if self.transport is not None:
            self.transport.abort()


# How `Pool.connect` finds its attempt: aiohttp hands nothing of ours through.
ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class Wire(ResponseHandler):
    """aiohttp's protocol of one connection, which tells the present attempt what comes in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        super().__init__(loop=loop)
        self.uses = 0
        self._pool = pool
        self._attempt: Attempt | None = None
        self._idle = False

    def begin(self, attempt: Attempt) -> None:
        """A request begins."""
        self._rest(False)
        self._attempt = attempt
        attempt.reused = self.uses > 0
        attempt.transport = self.transport
        attempt.on_connected()

    def end(self) -> None:
        """A request has ended; the connection goes back to the pool, or is closed next."""
        self.uses += 1
        self._attempt = None
        self._rest(self.transport is not None)

    def _rest(self, idle: bool) -> None:
        self._pool.idle += idle - self._idle
        self._idle = idle

    def data_received(self, data: bytes) -> None:
        attempt = self._attempt
        if data and self._idle:
            self.abort()
            return
        if data and attempt is not None:
            if not attempt.received:
                attempt.first_byte = self._pool.clock.monotonic()
            attempt.received += len(data)
        super().data_received(data)
        if attempt is not None and (fault := self.exception()) is not None:
            attempt.fault = fault
            if attempt.on_fault is not None:
                attempt.on_fault()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._attempt is not None:
            self._attempt.reset = exc is not None
        super().connection_lost(exc)
        self._rest(False)  # after it: a body that ends here ends its request there


class Pool(aiohttp.TCPConnector):
    """The connector of one upstream. It has no limit of its own: calls queue before it, visibly."""

    def __init__(self, clock: Clock, keepalive: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            limit=0,
            keepalive_timeout=keepalive,
            ttl_dns_cache=DNS_TTL,
            ssl=tls or True,
            socket_factory=_socket,
        )
        self.clock = clock
        self.idle = 0
        self._wires: WeakSet[Wire] = WeakSet()
        self._factory = functools.partial(self._wire)

    def _wire(self) -> ResponseHandler:
        made = Wire(self._loop, self)
        self._wires.add(made)
        return made

    def abort(self) -> None:
        """Close every connection now: `close` alone would wait for bytes that nobody takes."""
        for wire in list(self._wires):
            if wire.transport is not None:
                wire.transport.abort()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's signature
    ) -> Connection:
        attempt = ATTEMPT.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            wire = connection.protocol
            assert isinstance(wire, Wire)
            if not wire.uses or not (attempt.fresh or wire.should_close):
                break
            connection.close()
        connection.add_callback(wire.end)
        wire.begin(attempt)
        return connection


def _socket(address: tuple[object, ...]) -> socket.socket:
    """A socket that notices a peer which is silently gone: answers may take minutes."""
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)  # type: ignore[arg-type]
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE_PROBES.items():
        if option := getattr(socket, name, None):
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def open_session(pool: Pool, connect: float) -> aiohttp.ClientSession:
    """The one session of an upstream: no cookies, no decoding, no environment, no time limit but
    `connect` seconds for a connection (requirements I1, I3, I7; the others are the client's)."""
    return aiohttp.ClientSession(
        connector=pool,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=connect),
        read_bufsize=READ_BUFFER,
        max_line_size=MAX_FIELD,
        max_field_size=MAX_FIELD,
        max_headers=MAX_HEADERS,
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
    )


def check_parser() -> None:
    """aiohttp's pure-Python parser had most of its smuggling faults (reliability C1)."""
    if aiohttp.http_parser.HttpResponseParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs without its compiled parser; install a wheel, unset AIOHTTP_NO_EXTENSIONS"
        )


# TLS and proxies ----------------------------------------------------------------------------------


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Who is trusted: `ca_file` alone, else the system's roots, else certifi's. Reads files.

    ValueError where `ca_file` cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or _roots())
    except OSError as exc:  # ssl.SSLError is one
        raise ValueError(f"ca_file: {ca_file!r} holds no readable PEM certificates") from exc
    context.set_alpn_protocols(["http/1.1"])
    return context


def _roots() -> str | None:
    """None where the system has roots: OpenSSL then finds them itself."""
    paths = ssl.get_default_verify_paths()
    has_own = paths.cafile or (paths.capath and os.listdir(paths.capath))
    return None if has_own else certifi.where()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy. Its password stands in no URL, so that no error can show it."""

    url: str
    authorization: str | None = field(repr=False)


def find_proxy(setting: str, target: str) -> Proxy | None:
    """The proxy on the way to `target`: a URL, none, or env: HTTP(S)_PROXY, ALL_PROXY, NO_PROXY.

    ValueError, without the URL's password, for one that is not http or https.
    """
    if setting == "none":
        return None
    url = _of_environment(target) if setting == "env" else setting
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"proxy: {parts.scheme} is not supported; http and https are")
    authorization = None
    if parts.username is not None:
        authorization = aiohttp.encode_basic_auth(
            unquote(parts.username), unquote(parts.password or "")
        )
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", authorization)


def _of_environment(target: str) -> str | None:
    parts = urlsplit(target)
    proxies = getproxies_environment()
    host = parts.hostname or ""
    with_port = f"{host}:{parts.port}" if parts.port else host
    if proxy_bypass_environment(host, proxies) or proxy_bypass_environment(with_port, proxies):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")
