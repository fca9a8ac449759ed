"""What metrics read at each scrape, where a room keeps the numbers itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gateway.boarding import Boarding
from gateway.house import House
from gateway.journal.writer import AccessLog, NoAccessLog
from gateway.metrics import Labels, Metrics
from gateway.ports import Cache
from gateway.upstream.stats import Stats
from gateway.usage.ledger import SQLiteLedger
from gateway.web.server import DataPlane

TIERS = ("memory", "disk")
SIZES = {"entries": "entries", "size_bytes": "size", "max_size_bytes": "limit"}


def watch_traffic(metrics: Metrics, plane: DataPlane, house: House) -> None:
    """What is under way."""
    metrics.watch("gateway_requests_in_flight", lambda: plane.in_flight)
    metrics.watch("gateway_streams_open", lambda: house.streams)


def watch_access_log(metrics: Metrics, access_log: AccessLog | NoAccessLog) -> None:
    """What became of its lines."""
    for result in ("written", "dropped", "failed", "suppressed"):
        read = partial(getattr, access_log, result)
        metrics.watch("gateway_access_log_lines_total", read, result=result)


def watch_upstream(metrics: Metrics, name: str, stats: Stats) -> None:
    """Calls under way, and those that wait for a connection."""
    metrics.watch("gateway_upstream_in_flight", lambda: stats.in_flight, upstream=name)
    metrics.watch("gateway_upstream_queued", lambda: stats.waiting, upstream=name)


def watch_cache(metrics: Metrics, cache: Cache, boarding: Boarding) -> None:
    """Both tiers' sizes and losses, and the flights in the air."""
    for family, figure in SIZES.items():
        metrics.watch_all(f"gateway_cache_{family}", partial(_by_tier, cache, figure))
    metrics.watch_all("gateway_cache_evictions_total", partial(_evictions, cache))
    metrics.watch_all("gateway_cache_errors_total", _by_reason(lambda: cache.stats().disk.errors))
    metrics.watch_all("gateway_cache_dropped_total", _by_reason(lambda: cache.stats().disk.dropped))
    metrics.watch("gateway_flights_open", lambda: boarding.in_the_air)
    metrics.watch("gateway_flights_abandoned", lambda: len(boarding.abandoned))


def watch_ledger(metrics: Metrics, ledger: SQLiteLedger) -> None:
    """What becomes of rows, and whether they can be written."""
    metrics.watch_all("gateway_ledger_rows_total", partial(_rows, ledger))
    metrics.watch_all(
        "gateway_ledger_errors_total", _by_reason(lambda: dict(ledger.stats().figures.failures))
    )
    metrics.watch("gateway_ledger_rows_waiting", lambda: ledger.stats().backlog)
    metrics.watch("gateway_ledger_down_seconds", lambda: ledger.stats().down_for)


def _rows(ledger: SQLiteLedger) -> dict[Labels, float]:
    stats = ledger.stats()
    figures = stats.figures
    return {
        ("written",): figures.written,
        ("recovered",): figures.recovered,
        ("deleted",): figures.deleted,
        ("dropped",): stats.dropped,
    }


def _by_tier(cache: Cache, figure: str) -> dict[Labels, float]:
    stats = cache.stats()
    return {(tier,): getattr(getattr(stats, tier), figure) for tier in TIERS}


def _evictions(cache: Cache) -> dict[Labels, float]:
    stats = cache.stats()
    return {
        (tier, reason): count
        for tier in TIERS
        for reason, count in getattr(stats, tier).evictions.items()
    }


def _by_reason(read: Callable[[], Mapping[str, int]]) -> Callable[[], dict[Labels, float]]:
    return lambda: {(reason,): count for reason, count in read().items()}
