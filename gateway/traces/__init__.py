"""Traces: three spans of a request, for an OpenTelemetry collector. Off unless an endpoint is set.

`names.py` is the table of attributes, `rules.py` makes spans of an Exchange (pure), `exporter.py`
sends them and is the one file that imports OpenTelemetry, which the extra `gateway[otel]` installs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.config import Traces, UpstreamSection
from gateway.traces.nothing import NoTraces

if TYPE_CHECKING:
    from gateway.traces.exporter import Exporter


def open_traces(
    section: Traces, upstreams: Sequence[UpstreamSection], *, scheme: str, instance: str
) -> Exporter | NoTraces:
    """What `traces` asks for. `scheme` is the data plane's, `instance` this process's random id."""
    if not section.endpoint:
        return NoTraces()
    from gateway.traces.exporter import Exporter  # noqa: PLC0415  (an extra, and not free to load)

    return Exporter(section, upstreams, scheme=scheme, instance=instance)


__all__ = ["NoTraces", "open_traces"]
