"""A collector of OTLP over HTTP in this process: it decodes what comes and keeps it, or is sick."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.scripted.client import PATIENCE

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass
class Got:
    """One span as it arrived."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    error: bool
    state: str
    attributes: dict[str, Any]
    resource: dict[str, Any] = field(repr=False)
    scope: tuple[str, str] = field(repr=False)


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind)


def attributes_of(pairs: Any) -> dict[str, Any]:
    found = {pair.key: value_of(pair.value) for pair in pairs}
    assert len(found) == len(pairs)
    return found


class Collector:
    """Listens on a free port. `status` is its answer; `gate` holds every answer until it is set."""

    def __init__(self) -> None:
        self.spans: list[Got] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.raw = b""  # all that came, unpacked
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self._news = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)

    def wait(self, look: Callable[[list[Got]], bool]) -> list[Got]:
        """All spans, as soon as `look` is content with them."""
        with self._news:
            assert self._news.wait_for(lambda: look(self.spans), PATIENCE), self.spans
            return list(self.spans)

    def trace(self, trace: str, number: int) -> dict[str, Got]:
        """The spans of one trace by kind, once there are `number` of them."""
        spans = [
            span
            for span in self.wait(lambda all: sum(s.trace == trace for s in all) >= number)
            if span.trace == trace
        ]
        assert len(spans) == number == len({span.kind for span in spans}), spans
        return {span.kind: span for span in spans}

    def asked(self, number: int) -> None:
        """Wait until it was asked so many times."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.requests) >= number, PATIENCE)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        with self._news:
            self.requests.append((path, headers))
            self._news.notify_all()
        self.gate.wait(PATIENCE)
        with self._news:
            if self.status == 200:
                self.raw += data
                self.spans += decode(data)
            self._news.notify_all()
        return self.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(collector.take(self.path, headers, body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def decode(data: bytes) -> list[Got]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    Got(
                        name=span.name,
                        kind=KINDS[span.kind],
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        start=span.start_time_unix_nano,
                        end=span.end_time_unix_nano,
                        error=span.status.code == 2,
                        state=span.trace_state,
                        attributes=attributes_of(span.attributes),
                        resource=attributes_of(resource.resource.attributes),
                        scope=(scope.scope.name, scope.schema_url),
                    )
                )
    return found
