"""The metrics page: a snapshot of the counts as text or OpenMetrics.

Rule: rendering holds no loop up: it runs in another thread, once a second at most for each format
(requirement M4), and is short even there, since both threads share one interpreter.
"""

from __future__ import annotations

import asyncio

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from gateway.metrics import Exemplars, Metrics, Snapshot, render

FRESH = 1.0  # seconds


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
            taken, exemplars = self._metrics.snapshot(), self._metrics.exemplars()
            page = asyncio.get_running_loop().run_in_executor(
                None, _render, self._metrics, taken, exemplars, newer
            )
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


def _render(metrics: Metrics, taken: Snapshot, exemplars: Exemplars, newer: bool) -> bytes:
    """In a thread."""
    metrics.read_slow(taken)
    ours = render(taken, exemplars, newer=newer).encode("utf-8", "replace")
    if newer:
        end: bytes = openmetrics.generate_latest(metrics.registry)  # type: ignore[no-untyped-call]
        return ours + end
    return ours + generate_latest(metrics.registry)
