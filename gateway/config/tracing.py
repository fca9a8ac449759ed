"""Rules for where spans are sent, and for what has to be installed for it."""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.config.addresses import http_url
from gateway.config.finding import Finding, Findings, positive
from gateway.config.sections import Config, Traces

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def tracing(traces: Traces) -> Findings:
    """Every rule of `traces` that is broken."""
    url = http_url(traces.endpoint)
    if traces.endpoint and url is None:
        yield Finding(("endpoint",), "an http(s) URL is wanted: http://127.0.0.1:4318")
    elif url and ("@" in url.netloc or url.query or url.fragment):
        yield Finding(("endpoint",), "no user:password@, '?' or '#' here: use headers")
    for name, value in traces.headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in {"content-type", "content-encoding"}:
            yield Finding(("headers", name), "the name of a header is wanted that is free to set")
        elif not _VALUE.fullmatch(value):
            yield Finding(("headers", name), "printable ASCII is wanted, without outer spaces")
    if not traces.service_name.strip():
        yield Finding(("service_name",), "a name is wanted: gateway")
    yield from positive(traces, "timeout")


def extras(config: Config, installed: Callable[[str], bool]) -> Findings:
    """What is asked for and cannot be done with the packages that are there."""
    if config.traces.endpoint and not installed(EXPORTER):
        yield Finding(
            ("traces", "endpoint"),
            "needs the extra gateway[otel], which is not installed: pip install '.[otel]' in the"
            " gateway's folder, or pip install opentelemetry-exporter-otlp-proto-http",
        )
