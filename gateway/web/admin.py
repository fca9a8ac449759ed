"""The admin plane: its own port, its own credential, the only code on aiohttp.web.

Rule: who may see what stands in `ROUTES` (openapi.py); the guard decides by it before any handler
runs, and whatever is not in it needs the token. No browser is a client here (contract). What is
done where stands in `gateway/admin/`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web
from msgspec.json import encode

from gateway.admin import Operation, Rooms, Stream
from gateway.config import TLS, Config, is_loopback
from gateway.errors import (
    ClientError,
    GatewayError,
    InternalError,
    InvalidAPIKey,
    InvalidRequest,
    MethodNotAllowed,
    RequestTooLarge,
    UnknownURL,
    UnsupportedEncoding,
)
from gateway.exchange import HeaderList
from gateway.keys.rules import digest, read_token, same
from gateway.metrics import Metrics
from gateway.web.arguments import arguments_of
from gateway.web.errors import render
from gateway.web.openapi import ROUTES, Access, openapi
from gateway.web.ops import Ops
from gateway.web.scrape import MetricsPage

KEEPALIVE = 75.0  # seconds; aiohttp's default is an hour, and bounds slow heads too
GRACE = 2.0  # seconds for answers under way at the end

# Behind a proxy on this machine every peer is loopback, whoever asked the proxy.
FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")

log = logging.getLogger("gateway.admin")


_ACCESS = {route.path: route.access for route in ROUTES}


class Forbidden(ClientError):
    """Who asks may be a web page in somebody's browser."""

    status = 403
    code = "forbidden"


class NoAdminToken(InvalidAPIKey):
    """The data plane's 401, in this plane's words."""

    def __init__(self) -> None:
        super().__init__()
        self.message = "This needs the admin token. Send 'Authorization: Bearer TOKEN'."

    def headers(self) -> HeaderList:
        return [*super().headers(), ("WWW-Authenticate", "Bearer")]  # RFC 9110 section 11.6.1


class AdminPlane:
    """Serves `ROUTES` on `admin.host:admin.port`; a port of 0 takes a free one."""

    def __init__(
        self,
        config: Config,
        *,
        token: str,
        metrics: Metrics,
        config_view: Callable[[], Mapping[str, Any]],
        ops: Ops,
        rooms: Rooms,
    ) -> None:
        self._admin = config.admin
        self.reconfigure(config)
        self._token = digest(token)
        self._page = MetricsPage(metrics)
        self._config_view = config_view
        self._ops = ops
        self._rooms = rooms
        self._runner = web.AppRunner(self._application(), shutdown_timeout=GRACE)
        self._server: asyncio.Server | None = None

    def reconfigure(self, config: Config) -> None:
        """Take `admin.hosts` and `metrics.open`; the rest holds from a start on."""
        self._open_metrics = config.metrics.open
        self._hosts = frozenset(map(_host_name, config.admin.hosts))

    async def start(self) -> tuple[str, int]:
        """Listen; the address. OSError: it is taken, or `admin.tls` is not a certificate's."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: self._connection(_Connection),
            self._admin.host,
            self._admin.port,
            ssl=_tls(self._admin.tls),
        )
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    def control_connection(self) -> asyncio.Protocol:
        """Serves one connection that the file system has let in (`data/control.sock`)."""
        return self._connection(_ControlConnection)

    def _connection(self, kind: type[_Connection]) -> _Connection:
        manager = self._runner.server
        assert manager is not None, "it has not been started"
        return kind(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
        )

    async def close(self) -> None:
        """Stop listening, let answers under way end for a moment, close. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        handlers = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/admin/config": self._config,
            "/openapi.json": self._openapi,
        }
        application = web.Application(middlewares=[self._guarded])
        for route in ROUTES:
            if route.operation is None:
                application.router.add_get(route.path, handlers[route.path])
            elif route.method == "GET":
                application.router.add_get(route.path, self._handler(route.operation))
            else:
                handler = self._handler(route.operation)
                application.router.add_route(route.method, route.path, handler)
        application.on_response_prepare.append(_bare)
        return application

    # Handlers -----------------------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        return _response(*self._ops.healthz())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _response(*self._ops.readyz())

    async def _metrics(self, request: web.Request) -> web.Response:
        page, kind = await self._page.scrape(",".join(request.headers.getall("Accept", ())))
        return _response(200, [("content-type", kind)], page)

    async def _config(self, _: web.Request) -> web.Response:
        return _json(self._config_view())

    async def _openapi(self, _: web.Request) -> web.Response:
        return _json(openapi())

    def _handler(self, operation: Operation[Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            given = await arguments_of(request, operation)
            found = await operation.run(self._rooms, given)
            return await _stream(request, found) if isinstance(found, Stream) else _json(found)

        return handle

    # The guard ----------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        """Decide who may ask, then ask; every error leaves in OpenAI's shape."""
        try:
            self._admit(request)
            response: web.StreamResponse = await handler(request)
            return response
        except web.HTTPMethodNotAllowed as error:
            allow = ", ".join(sorted(error.allowed_methods))
            return _response(*render(MethodNotAllowed("Ask in another way.", allow=allow)))
        except web.HTTPRequestEntityTooLarge:
            return _response(*render(RequestTooLarge("The body may have 1 MiB.")))
        except web.HTTPException:  # of aiohttp's own, only "not found" is left
            return _response(*render(UnknownURL("There is nothing here; see /openapi.json.")))
        except GatewayError as error:
            return _response(*render(error))
        except Exception:
            log.exception("admin plane: a fault of the gateway")
            return _response(*render(InternalError("The gateway failed; its log says more.")))

    def _admit(self, request: web.Request) -> None:
        """Raise where this request may not be answered."""
        if "Origin" in request.headers:
            raise Forbidden("Web pages may not call the admin plane ('Origin' was sent).")
        if request.method == "POST" and request.content_type != "application/json":
            raise UnsupportedEncoding("Send 'Content-Type: application/json'.")
        if isinstance(request.protocol, _ControlConnection):
            return
        resource = request.match_info.route.resource  # None: no such path, or not this method
        path = request.path if resource is None else resource.canonical
        access = _ACCESS.get(path, Access.TOKEN)
        if self._has_token(request):
            if access is Access.SOCKET:
                raise UnknownURL("There is nothing here; see /openapi.json.")
            return
        host = _host_name(request.headers.get("Host", ""))
        if not is_loopback(host) and host not in self._hosts:  # DNS rebinding
            raise Forbidden(
                "Without the admin token this is answered under a loopback name, or one that "
                "stands in admin.hosts."
            )
        if access in {Access.TOKEN, Access.SOCKET} or (
            access is Access.LOOPBACK and not self._is_near(request)
        ):
            raise NoAdminToken

    def _has_token(self, request: web.Request) -> bool:
        """Only what stands in `Authorization` counts, compared in constant time."""
        try:
            token = read_token(",".join(request.headers.getall("Authorization", ())), None)
        except InvalidAPIKey:
            return False
        return token is not None and same(token, self._token)

    def _is_near(self, request: web.Request) -> bool:
        """May see the metrics without the token."""
        if self._open_metrics:
            return True
        forwarded = any(name in request.headers for name in FORWARDED)
        return not forwarded and is_loopback(request.remote or "")


class _Connection(web.RequestHandler):
    """One connection. What is not HTTP gets the same shape of error as everything else."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The parser's words may repeat what was sent, so they go nowhere (G7)."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way")
        error = InvalidRequest("This is not a request that can be read.")
        response = _response(*render(error if status < 500 else InternalError("It failed.")))
        response.headers["Server"] = "gateway"  # else aiohttp adds its name and version
        response.force_close()
        return response


class _ControlConnection(_Connection):
    """One connection on the control socket: whoever has it may ask everything."""

    __slots__ = ()


async def _bare(_: web.Request, response: web.StreamResponse) -> None:
    """Nothing about what serves it (K2: no version header)."""
    response.headers.pop("Server", None)


def _response(status: int, headers: HeaderList, body: bytes) -> web.Response:
    response = web.Response(status=status, body=body)
    response.headers.update(headers)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _json(value: object) -> web.Response:
    return _response(200, [("content-type", "application/json")], encode(value))


async def _stream(request: web.Request, stream: Stream) -> web.StreamResponse:
    """Line by line; where it cannot be ended, the connection is cut, so that it shows."""
    response = web.StreamResponse()
    response.headers["Content-Type"] = "application/x-ndjson"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    await response.prepare(request)
    try:
        async for page in stream.pages:
            await response.write(b"".join([encode(row) + b"\n" for row in page]))
        await response.write_eof()
    except Exception as error:
        if not isinstance(error, ConnectionError):  # the client's right
            log.exception("admin plane: an export broke off")
        if request.transport is not None:
            request.transport.abort()
    return response


def _host_name(host: str) -> str:
    """A `Host` without its port and brackets, in lower case; "" where it is none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, closed, _ = host[1:].partition("]")
        return name if closed else ""
    name, _, port = host.partition(":")
    return "" if ":" in port else name.rstrip(".")


def _tls(section: TLS) -> ssl.SSLContext | None:
    if not section.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(section.cert, section.key, password=_no_password)
    return context


def _no_password() -> NoReturn:
    """Without it, OpenSSL would ask the terminal and hang the start."""
    raise ValueError("admin.tls.key is encrypted; give one without a passphrase")
