"""How a connection to an upstream is made: names, sockets, TLS, proxies.

Every foreign exception ends here, as a NoConnection in our own words; none is the context of
another (I8). No password stands in an error, a repr or a URL.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

import aiohappyeyeballs
import certifi

from gateway.config.addresses import port_of
from gateway.upstream import faults
from gateway.upstream.faults import NoConnection

DNS_TTL = 30.0  # seconds
STAGGER = 0.25  # seconds before the next address is tried too (RFC 8305)
CONNECT_LIMIT = 64 * 1024  # bytes of a proxy's answer to CONNECT
KEEPALIVE_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}  # as openai-python

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r\n")


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


# Proxies ------------------------------------------------------------------------------------------


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
        user, password = unquote(parts.username), unquote(parts.password or "")
        authorization = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", authorization)


def _of_environment(target: str) -> str | None:
    parts = urlsplit(target)
    proxies = getproxies_environment()
    host = parts.hostname or ""
    with_port = f"{host}:{parts.port}" if parts.port else host
    if proxy_bypass_environment(host, proxies) or proxy_bypass_environment(with_port, proxies):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


# Dialling -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hop:
    """Whom a socket or a tunnel leads to."""

    host: str
    port: int
    secure: bool

    @classmethod
    def of(cls, url: str) -> Hop:
        parts = urlsplit(url)
        return cls((parts.hostname or "").rstrip("."), port_of(parts), parts.scheme == "https")

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """What the Host header says: the port only where it is not the scheme's own."""
        return self.authority.removesuffix(":443" if self.secure else ":80")


class Dialer:
    """Makes connections to one upstream. `ca_file` and the proxy are read once, at its making."""

    def __init__(self, target: str, proxy: Proxy | None, ca_file: str) -> None:
        """ValueError where the CA file cannot be used."""
        self.target = Hop.of(target)
        self._proxy = proxy
        self._first = Hop.of(proxy.url) if proxy else self.target
        self._tunnels = proxy is not None and self.target.secure
        needs_tls = self.target.secure or self._first.secure
        self._tls = tls_context(ca_file) if needs_tls else None
        self._addresses: list[Any] = []  # as getaddrinfo gives them
        self._resolved = 0.0  # the loop's time
        self._lookup: asyncio.Task[list[Any]] | None = None

    async def dial(self, protocol: asyncio.Protocol) -> None:
        """Connect `protocol`. NoConnection."""
        try:
            await self._dial(protocol)
            return
        except NoConnection as exc:
            reason = str(exc)
        except (OSError, RuntimeError, ValueError) as exc:  # uvloop raises RuntimeError at times
            reason = faults.of_connecting(exc, proxy=self._proxy is not None)
        self._addresses = []
        raise NoConnection(reason)

    async def _dial(self, protocol: asyncio.Protocol) -> None:
        loop = asyncio.get_running_loop()
        first: asyncio.Protocol = Tunnel() if self._tunnels else protocol
        made = await aiohappyeyeballs.start_connection(
            await self._resolve(loop), happy_eyeballs_delay=STAGGER, socket_factory=_socket
        )
        secure = self._first.secure
        transport, _ = await loop.create_connection(
            lambda: first,
            sock=made,
            ssl=self._tls if secure else None,
            server_hostname=self._first.host if secure else None,
        )
        if isinstance(first, Tunnel):
            await self._tunnel(loop, transport, first, protocol)

    async def _tunnel(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        tunnel: Tunnel,
        protocol: asyncio.Protocol,
    ) -> None:
        """Through the proxy to the target, and TLS with it (RFC 9110 section 9.3.6)."""
        try:
            authority = self.target.authority
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
            if self._proxy is not None and self._proxy.authorization:
                lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
            transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
            status = await tunnel.opened
            if not 200 <= status < 300:
                raise NoConnection(f"its proxy refused to connect (status {status})")
            assert self._tls is not None
            inner = await loop.start_tls(
                transport, protocol, self._tls, server_hostname=self.target.host
            )
            if inner is None:
                raise ConnectionResetError
            protocol.connection_made(inner)
        except ConnectionError:
            raise NoConnection("its proxy closed the connection") from None
        except BaseException:
            transport.abort()
            raise

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        """Addresses, remembered for a while: many connections made at once ask once."""
        if not self._addresses or loop.time() - self._resolved > DNS_TTL:
            if self._lookup is None:
                self._lookup = loop.create_task(self._look_up(loop))
                self._lookup.add_done_callback(_heard)
            # Who waits may be cancelled; the others want the answer all the same.
            self._addresses = await asyncio.shield(self._lookup)
        return self._addresses

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        try:
            found = await loop.getaddrinfo(
                self._first.host, self._first.port, type=socket.SOCK_STREAM
            )
            self._resolved = loop.time()
            return found
        finally:
            self._lookup = None


class Tunnel(asyncio.Protocol):
    """Waits for a proxy's answer to CONNECT. `opened`: its status."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, blank, rest = self._head.partition(b"\r\n\r\n")
        status = _STATUS.match(head + b"\r\n") if blank else None
        if len(self._head) > CONNECT_LIMIT or (blank and status is None):
            self._fail("what its proxy sent is not HTTP")
        elif status is not None and not self.opened.done():
            code = int(status[1])
            if 100 <= code < 200:
                self._head = b""
                self.data_received(rest)
            elif rest and code < 300:  # nobody may speak before our handshake
                self._fail("its proxy sent more than it was asked for")
            else:
                self.opened.set_result(code)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("its proxy closed the connection")

    def _fail(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(NoConnection(reason))


def _heard(lookup: asyncio.Task[list[Any]]) -> None:
    """An error that nobody waits for any more is none to log."""
    if not lookup.cancelled():
        lookup.exception()


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices a peer which is silently gone: answers may take minutes."""
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE_PROBES.items():
        if option := getattr(socket, name, None):
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
