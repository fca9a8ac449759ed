"""Sends spans over OTLP/HTTP: a sink whose one thread makes them and hands them to OpenTelemetry's
exporter, which encodes, compresses, sends, and tries again.

Rule: `book` never blocks and never fails. What the collector does not take in time is dropped and
counted; neither a request nor the stop waits for it longer than `close` is told.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway import __version__
from gateway.config import Traces, UpstreamSection
from gateway.exchange import Exchange, TraceContext
from gateway.ports import Origin
from gateway.traces import names, rules
from gateway.wire.trace import read_traceparent

CAPACITY = 4096  # requests waiting
BATCH = 256  # requests in one export: the thread gives the loop its turn in between
LINGER = 0.5  # seconds between two exports: waking for each request takes the loop's turns
KINDS = {
    names.SERVER: SpanKind.SERVER,
    names.LOOKUP: SpanKind.INTERNAL,
    names.CLIENT: SpanKind.CLIENT,
}
UNSET, ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)

log = logging.getLogger("gateway.traces")


class _Stop:
    """In the queue: the last of it."""


class _Waiting(NamedTuple):
    exchange: Exchange
    context: TraceContext
    target: rules.Target


class Exporter:
    """The `Traces` port, for one collector.

    The counts are spans: `exported`, `failed` (the collector did not take them), `dropped` (the
    queue was full, or closed). `waiting` are requests.
    """

    def __init__(
        self,
        section: Traces,
        upstreams: Sequence[UpstreamSection],
        *,
        scheme: str,
        instance: str,
        capacity: int = CAPACITY,
    ) -> None:
        """Starts the thread; no connection is made before the first span."""
        self.exported = self.failed = self.dropped = 0
        self.reconfigure(section, upstreams)
        self._scheme = scheme
        self._capacity = capacity
        self._closed = False
        self._hurry = threading.Event()
        self._trouble = _Trouble()
        self._exporter = _exporter(section)
        self._maker = _Maker(section.service_name, instance)
        self._queue: SimpleQueue[_Waiting | _Stop] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    # On the loop's thread -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests whose spans are not made yet."""
        return self._queue.qsize()

    def reconfigure(self, section: Traces, upstreams: Sequence[UpstreamSection]) -> None:
        """Take over what may change while it runs."""
        self._part = section.sample
        self._targets = rules.targets(upstreams)

    def begin(self, origin: Origin) -> TraceContext:
        """A request's place in its trace."""
        parent = read_traceparent(origin.header("traceparent"))
        return rules.place(parent, origin.header("tracestate"), self._part, secrets.token_hex(32))

    def book(self, exchange: Exchange) -> None:
        """Queue one request, if it is recorded."""
        context = exchange.context
        if context is None or not rules.is_recorded(exchange):
            return
        if self._closed or self._queue.qsize() >= self._capacity:
            self.dropped += rules.count(exchange)
            return
        name = exchange.upstream or ""
        target = self._targets.get(name) or rules.Target(name)
        self._queue.put(_Waiting(exchange, context, target))

    def close(self, timeout: float) -> bool:
        """Send what is queued, for at most `timeout` seconds (it blocks); True: all was tried. Who
        is known not to take any is not waited for."""
        if not self._closed:
            self._closed = True
            self._hurry.set()
            self._queue.put(_Stop())
        self._thread.join(0 if self._trouble.told else timeout)
        if not self._thread.is_alive():
            return True
        log.warning("stopped before all spans were sent")
        self._trouble.told = True  # what its end makes of them is no news
        self._shut()
        return False

    def _shut(self) -> None:
        """End what is tried again, and close the connection; twice does no harm."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    # In the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            self._hurry.wait(LINGER)
            while batch:
                ended = ended or any(isinstance(item, _Stop) for item in batch)
                self._send([item for item in batch if isinstance(item, _Waiting)])
                batch = self._next_batch()
        self._shut()
        self._trouble.detach()

    def _next_batch(self) -> list[_Waiting | _Stop]:
        batch: list[_Waiting | _Stop] = []
        try:
            while len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch

    def _send(self, batch: list[_Waiting]) -> None:
        made: list[ReadableSpan] = []
        for exchange, context, target in batch:
            try:
                found = rules.spans(exchange, context, target, self._scheme)
                made += [self._maker.make(span, context) for span in found]
            except Exception:  # one odd exchange costs its own spans only
                self.failed += rules.count(exchange)
                log.exception("request %s: no spans", exchange.id)
        if not made:
            return
        if self._exporter.export(made) is SpanExportResult.SUCCESS:
            self.exported += len(made)
            self._trouble.is_over()
        else:
            self.failed += len(made)


class _Maker:
    """Our spans as OpenTelemetry's. They are built, not started and ended: their ids and times
    were taken when they happened."""

    def __init__(self, service: str, instance: str) -> None:
        own = {"service.name": service, "service.version": __version__}
        self._resource = Resource.create({**own, "service.instance.id": instance})
        self._scope = InstrumentationScope("gateway", __version__, names.SCHEMA_URL)

    def make(self, span: rules.Span, context: TraceContext) -> ReadableSpan:
        trace, flags = int(context.trace, 16), TraceFlags(context.flags)
        state = TraceState.from_header([context.state]) if context.state else None
        own = int(span.id or secrets.token_hex(8), 16)
        parent = None
        if span.parent is not None:
            parent = SpanContext(trace, int(span.parent, 16), span.remote, flags, state)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace, own, False, flags, state),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=KINDS[span.kind],
            status=ERROR if span.error else UNSET,
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


class _Trouble(logging.Filter):
    """Of what the exporter logs, the first line of each trouble: not one for every export."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False
        self._logger = logging.getLogger(OTLPSpanExporter.__module__)
        self._logger.addFilter(self)

    def detach(self) -> None:
        """Leave the logger as it was."""
        self._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        told, self.told = self.told, True
        return not told

    def is_over(self) -> None:
        """An export was taken."""
        if self.told:
            self.told = False
            log.warning("the collector takes spans again")


def _exporter(section: Traces) -> OTLPSpanExporter:
    session = requests.Session()
    # With none of its own, requests would put that of ~/.netrc in the place of a configured one.
    session.auth = lambda request: request
    # It repeats what a client has put into `tracestate`.
    logging.getLogger(TraceState.__module__).setLevel(logging.CRITICAL)
    session.hooks["response"].append(_refuse_redirect)
    return OTLPSpanExporter(
        endpoint=rules.traces_url(section.endpoint),
        headers=dict(section.headers),
        timeout=section.timeout,
        compression=Compression.Gzip,
        session=session,
    )


def _refuse_redirect(response: requests.Response, *_: object, **__: object) -> None:
    """The exporter follows none, for the sake of the headers, and would take one for a success."""
    if 300 <= response.status_code < 400:
        response.close()
        raise requests.HTTPError(f"redirected ({response.status_code}): set where it leads to")
