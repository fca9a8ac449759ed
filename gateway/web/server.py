"""The data plane's HTTP/1.1 server: it accepts, counts, drains and closes, and knows no route.

Rule: each request becomes one call of the handler. What can be answered at once is answered in the
connection's own callback; who has to wait goes on in an errand, held here until it returns.
It is our own, over httptools: aiohttp's `web.Server` never answers `Expect: 100-continue`, takes an
Upgrade for a plain GET, bounds no slow body and has one deadline for all (docs/architecture.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any, Final

from gateway.bursts import Flusher
from gateway.config import Server
from gateway.errors import GatewayError, InternalError, Overloaded
from gateway.exchange import HeaderList
from gateway.leash import Errand, begin
from gateway.ports import ClientGone, Clock
from gateway.web.answer import Answer
from gateway.web.body import Budget
from gateway.web.connection import Connection
from gateway.web.parser import Request

log = logging.getLogger("gateway.web")

Handler = Callable[[Request, Answer], Coroutine[Any, Any, None]]
"""Begun outside of a task: whoever needs one waits for `leash.own_task` first."""
Render = Callable[[GatewayError], tuple[int, HeaderList, bytes]]

BACKLOG: Final = 1024  # connections that the kernel keeps until they are accepted
# CPython 3.11 tries as often as `backlog` says after EMFILE, with a log entry and a timer each.
ACCEPTS_PER_TURN: Final = 32
RESERVED_FILES: Final = 256  # for upstreams, databases and logs
EXPLAINED: Final = 64  # connections beyond the cap that still get a 503; others are closed at once


class DataPlane:
    """The listening server. `handler` answers requests, `render` the server's own refusals."""

    def __init__(
        self,
        handler: Handler,
        *,
        settings: Server,
        clock: Clock,
        render: Render,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.handler = handler
        self.settings = settings
        self.clock = clock
        self.render = render
        self.loop = loop
        self.flusher = Flusher(loop)
        self.budget = Budget(settings.body_budget)
        self.draining = False
        self._cap = connection_cap(settings.max_connections)
        self._connections: set[Connection] = set()
        self._errands: dict[Errand, tuple[Connection, Request, Answer]] = {}
        self._server: asyncio.Server | None = None
        self._quiet: asyncio.Future[None] | None = None
        self._date = ""
        self._date_second = -1.0

    # Gauges --------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Requests whose handler has not returned."""
        return len(self._errands)

    @property
    def bodies_in_flight(self) -> int:
        """Bytes of buffered bodies."""
        return self.budget.used

    # Start and stop ------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Listen; returns the actual host and port. OSError where that, or a TLS file, fails."""
        settings = self.settings
        context = tls_context(settings.tls.cert, settings.tls.key) if settings.tls.cert else None
        timeout = settings.header_timeout if context else None
        self._server = await self.loop.create_server(
            lambda: Connection(self),
            settings.host,
            settings.port,
            ssl=context,
            backlog=ACCEPTS_PER_TURN,
            ssl_handshake_timeout=timeout,
            ssl_shutdown_timeout=timeout,
        )
        for listening in self._server.sockets:
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(BACKLOG)
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def begin_drain(self) -> None:
        """Keep listening; close idle connections now, the others after their current answer."""
        self.draining = True
        for connection in list(self._connections):
            connection.drain()

    async def wait_closed(self, within: float) -> bool:
        """Wait, `within` seconds, until all requests are answered and sent; False: some are not."""
        if self._is_quiet():
            return True
        self._quiet = self.loop.create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet, within)
        self._quiet = None
        return self._is_quiet()

    def close(self) -> None:
        """Stop listening and cut what is left; handlers learn of it as of a client that leaves."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def _is_quiet(self) -> bool:
        return not self._errands and not any(one.busy for one in self._connections)

    def _look_whether_quiet(self) -> None:
        if self._quiet is not None and not self._quiet.done() and self._is_quiet():
            self._quiet.set_result(None)

    # For connections -----------------------------------------------------------------------------

    def file_of(self, transport: asyncio.BaseTransport) -> int:
        """The number of a transport's socket, where what is written there follows what the
        transport has sent: asyncio's own, without TLS. Else -1."""
        if not isinstance(self.loop, asyncio.SelectorEventLoop):
            return -1
        if transport.get_extra_info("ssl_object") is not None:
            return -1
        found = transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    def joined(self, connection: Connection) -> bool:
        """Count a new connection; False where it is one too many."""
        self._connections.add(connection)
        return len(self._connections) <= self._cap

    @property
    def may_explain(self) -> bool:
        """There is room to tell a connection beyond the cap why it is closed."""
        return len(self._connections) <= self._cap + min(EXPLAINED, self._cap)

    def left(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        self._look_whether_quiet()

    def launch(self, connection: Connection, request: Request, answer: Answer) -> bool:
        """Have one request answered. True: that is over; else `connection.ended` is called."""
        if len(self._errands) >= self.settings.max_in_flight:
            self._fail(answer, Overloaded("Too many requests are in flight.", retry_after=1))
            return True
        try:
            errand = begin(self.handler(request, answer), self.loop, self._ended)
        except (Exception, asyncio.CancelledError) as error:
            self._conclude(request, answer, error)
            return True
        if errand is None:
            if not answer.done:
                self._conclude(request, answer, None)
            return True
        self._errands[errand] = connection, request, answer
        return False

    def _ended(self, errand: Errand) -> None:
        found = self._errands.pop(errand, None)
        if found is None:
            return  # it is over within `launch`
        connection, request, answer = found
        error, errand.error = errand.error, None  # its traceback leads back to the errand
        if error is not None or not answer.done:
            self._conclude(request, answer, error)
        connection.ended()
        if self._quiet is not None:
            self._look_whether_quiet()

    def _conclude(self, request: Request, answer: Answer, error: BaseException | None) -> None:
        """See to the end of an answer that its handler has left without one, or with an error."""
        if isinstance(error, GatewayError):
            if answer.started:
                log.error("%r failed after its head", request, exc_info=error)
            self._fail(answer, error)
        elif isinstance(error, Exception) and not isinstance(error, ClientGone):
            log.error("%r failed", request, exc_info=error)
            self._fail(answer, InternalError("The gateway failed. Its log says why."))
        elif error is None and not answer.gone:
            log.error("%r was left without an end", request)
            self._fail(answer, InternalError("The request was not answered."))
        if not answer.done:
            answer.abort()

    def _fail(self, answer: Answer, error: GatewayError) -> None:
        if answer.started:
            answer.abort()
        else:
            answer.send(*self.render(error))

    def date(self) -> str:
        """The Date header of this second, with its end of line (RFC 9110 section 6.6.1)."""
        now = self.clock.now()
        if not 0.0 <= now - self._date_second < 1.0:
            self._date_second = now // 1.0
            self._date = f"Date: {formatdate(self._date_second, usegmt=True)}\r\n"
        return self._date


def connection_cap(configured: int) -> int:
    """`server.max_connections`, or fewer where the limit of open files leaves no room for them."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return configured
    return min(configured, max(1, files - min(RESERVED_FILES, files // 2)))


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or later with Python's default ciphers; HTTP/1.1 is all that is offered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key or None)
    return context


__all__ = ["Answer", "DataPlane", "Handler", "Render", "Request"]
