"""The metrics page: a snapshot of the counts as text or OpenMetrics.

Rule: rendering holds no loop up: it runs in another thread, once a second at most for each format
(requirement M4: 5,000 series take the client library 65 ms).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from gateway.metrics import TABLE, Labels, Metrics, Snapshot, Spec, Value

FRESH = 1.0  # seconds

_SIMPLE: dict[str, type[CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


class MetricsPage:
    """`GET /metrics`, but for who may see it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._made: dict[bool, tuple[float, asyncio.Future[bytes]]] = {}

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type; the client's `Accept` decides the format.

        A page serves everybody for a second, and everybody who asks while it is being made.
        """
        newer = wants_openmetrics(accept)
        now = self._metrics.clock.monotonic()
        at, page = self._made.get(newer, (0.0, None))
        if page is None or (page.done() and now - at >= FRESH):
            collected = _Collected(self._metrics.snapshot(), self._metrics.registry)
            page = asyncio.get_running_loop().run_in_executor(None, _render, collected, newer)
            self._made[newer] = (now, page)
        kind = openmetrics.CONTENT_TYPE_LATEST if newer else CONTENT_TYPE_PLAIN_0_0_4
        return await asyncio.shield(page), kind  # who leaves early must not take it from the others


def wants_openmetrics(accept: str) -> bool:
    """OpenMetrics is among what is accepted (Prometheus asks for it since 2.5)."""
    offers = (offer.replace(" ", "").lower().split(";") for offer in accept.split(","))
    return any(
        kind == "application/openmetrics-text" and not {"q=0", "q=0.0"} & set(parameters)
        for kind, *parameters in offers
    )


@dataclass(frozen=True, slots=True)
class _Collected:
    """What the client library's renderers take: anything that can be collected from."""

    snapshot: Snapshot
    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        for spec in TABLE:
            yield _family(spec, self.snapshot[spec.name])
        yield from self.registry.collect()


def _render(collected: _Collected, newer: bool) -> bytes:
    if newer:
        page: bytes = openmetrics.generate_latest(collected)  # type: ignore[no-untyped-call]
        return page
    return generate_latest(collected)


def _family(spec: Spec, samples: dict[Labels, Value]) -> Metric:
    if spec.type == "histogram":
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
        bounds = [*map(floatToGoString, spec.buckets), "+Inf"]
        for labels, row in samples.items():
            assert isinstance(row, list)
            counts = zip(bounds, accumulate(row[:-1]), strict=True)
            histogram.add_metric(labels, buckets=list(counts), sum_value=row[-1])
        return histogram
    if spec.type == "summary":
        summary = SummaryMetricFamily(spec.name, spec.help, labels=spec.labels)
        for labels, row in samples.items():
            assert isinstance(row, list)
            summary.add_metric(labels, count_value=row[0], sum_value=row[-1])  # type: ignore[arg-type]
        return summary
    family = _SIMPLE[spec.type](spec.name, spec.help, labels=spec.labels)
    for labels, value in samples.items():
        assert not isinstance(value, list)
        family.add_metric(labels, value)
    return family
