"""The data plane's routes: which way of the pipeline a request takes. No meaning of a body is
known here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network

from gateway.config import Server
from gateway.errors import GatewayError, MethodNotAllowed, UnknownURL
from gateway.exchange import HeaderList, Ids
from gateway.pipeline import CHAT, Pipeline, Way
from gateway.ports import Ask, Client, Clock, Origin, Traces
from gateway.web.errors import render
from gateway.web.heads import Head
from gateway.web.ops import Ops
from gateway.web.server import Request
from gateway.wire.headers import Network, client_address

# Path heads that are told apart in logs and metrics; any other path is "other" (requirement M1).
ENDPOINTS = frozenset(
    [
        "chat/completions",
        "completions",
        "embeddings",
        "models",
        "moderations",
        "responses",
        "files",
        "batches",
        "images",
        "audio",
        "uploads",
        "fine_tuning",
        "vector_stores",
        "assistants",
        "threads",
        "rerank",
    ]
)
PLAIN = {f"/v1/{path}": path for path in ENDPOINTS}
# What clients with a base URL that lacks /v1 ask for.
BARE = frozenset({CHAT, "completions", "embeddings", "models", "moderations", "responses"})

PROBES = frozenset({"/healthz", "/readyz"})

# A page of a listed origin may read these; a wildcard would not hold with credentials.
_EXPOSED = ", ".join(
    (
        *("X-Gateway-Request-Id", "X-Gateway-Cache", "X-Gateway-Cache-Key", "X-Gateway-Cache-TTL"),
        *("X-Gateway-Saved-Tokens", "X-Gateway-Clamped", "Age", "X-Request-Id", "Retry-After"),
        *("retry-after-ms", "x-should-retry"),
        *(
            f"x-ratelimit-{what}-{unit}"
            for what in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        ),
    )
)


@dataclass(slots=True)
class Edge:
    """Settings of the routes that a reload may change."""

    cors_origins: frozenset[str]
    trusted_proxies: tuple[Network, ...]


def edge_of(server: Server) -> Edge:
    """The routes' part of the configuration."""
    return Edge(
        cors_origins=frozenset(server.cors_origins),
        trusted_proxies=tuple(ip_network(entry, strict=False) for entry in server.trusted_proxies),
    )


@dataclass(frozen=True, slots=True)
class Known:
    """Where requests go that have one head and come from one peer; as long as the edge is this."""

    head: Head
    edge: Edge
    origin: Origin
    way: Callable[[Ask, Client], Way]


class Routes:
    """The handler of the data plane's server. `edge` may be exchanged at any time."""

    def __init__(
        self, pipeline: Pipeline, ops: Ops, edge: Edge, clock: Clock, traces: Traces
    ) -> None:
        self.edge = edge
        self._pipeline = pipeline
        self._ops = ops
        self._now = clock.now
        self._new_id = Ids(secrets.token_bytes).make
        self._place_in_trace = traces.begin

    def __call__(self, request: Request, client: Client) -> Way:
        """Answer one request."""
        known: Known | None = request.peer.known
        if known is None or known.head is not request.head or known.edge is not self.edge:
            if request.head.path in PROBES:
                return self._health(request, client)
            known = self._know(request)
            if request.head.method == "OPTIONS" and known.origin.cors:
                return _preflight(request, client, known.origin.cors)
            request.peer.known = known
        now, origin = self._now(), known.origin
        context = self._place_in_trace(origin)
        ask = Ask(self._new_id(now), now, request.started, origin, request.body, context)
        return known.way(ask, client)

    def _know(self, request: Request) -> Known:
        head, edge, peer = request.head, self.edge, request.peer.address
        path = api_path(head.path)
        origin = Origin(
            head.method,
            head.path.lstrip("/") if path is None else path,
            head.query,
            head.headers,
            client_address(peer, request.header("x-forwarded-for"), edge.trusted_proxies),
            cors=_cors(request.header("origin"), edge.cors_origins),
            shared=head.shared,
            length_at=head.length_at,
        )
        return Known(head, edge, origin, self._way(origin, found=path is not None))

    def _way(self, origin: Origin, *, found: bool) -> Callable[[Ask, Client], Way]:
        pipeline = self._pipeline
        if not found:
            error = UnknownURL(
                f"There is nothing at '/{origin.path[:200]}'. "
                f"The API is below /v1, like /v1/{CHAT}."
            )
            return partial(pipeline.refuse, endpoint="unknown", error=error)
        if origin.path == CHAT and origin.method == "POST":
            return pipeline.chat
        if origin.path == "models" and origin.method == "GET":
            return pipeline.models
        return partial(pipeline.relay, endpoint=endpoint_of(origin.path))

    async def _health(self, request: Request, client: Client) -> None:
        """`/healthz` and `/readyz`: no credential, no upstream, no log line (requirement L2)."""
        if request.method in {"GET", "HEAD"}:
            probe = self._ops.healthz if request.path == "/healthz" else self._ops.readyz
            status, headers, body = probe()
        else:
            error: GatewayError = MethodNotAllowed("Ask with GET or HEAD.", allow="GET, HEAD")
            status, headers, body = render(error)
        client.whole(status, headers, (body,), len(body))


def api_path(path: str) -> str | None:
    """What follows `/v1/`, or None. Doubled slashes and a forgotten `/v1` are forgiven
    (contract)."""
    if path in PLAIN:
        return PLAIN[path]
    rest = path.lstrip("/")
    if rest == "v1" or rest.startswith("v1/"):
        return rest[2:].strip("/") if rest[3:] else None
    bare = rest.rstrip("/")
    return bare if bare in BARE else None


def endpoint_of(path: str) -> str:
    """A path's low-cardinality name."""
    if path in ENDPOINTS:
        return path
    head = path.partition("/")[0]
    return head if head in ENDPOINTS else "other"


def _cors(origin: str | None, listed: frozenset[str]) -> HeaderList:
    """What lets a browser page of a listed origin read the answer."""
    if origin is None or origin not in listed:
        return []
    return [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", _EXPOSED),
        ("vary", "Origin"),
    ]


async def _preflight(request: Request, client: Client, cors: HeaderList) -> None:
    """Answer a browser's question before it sends (fetch.spec.whatwg.org, CORS preflight)."""
    asked = request.header("access-control-request-headers") or "authorization, content-type"
    said = [
        ("access-control-allow-methods", "GET, POST, DELETE, OPTIONS"),
        ("access-control-allow-headers", asked),
        ("access-control-max-age", "600"),
    ]
    client.whole(204, cors + said, (), 0)
