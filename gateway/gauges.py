"""What metrics read at each scrape, where a room keeps the numbers itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.boarding import Boarding
from gateway.cache.store import TwoTier
from gateway.house import House
from gateway.journal.keeper import Keeper
from gateway.journal.writer import AccessLog, NoAccessLog
from gateway.keys.register import Register
from gateway.keys.rules import may_use
from gateway.metrics import Labels, Metrics
from gateway.ports import Cache, Clock
from gateway.quota.store import Quotas, Reading
from gateway.traces import NoTraces
from gateway.upstream.client import HTTPUpstream
from gateway.upstream.echo import EchoUpstream
from gateway.usage.ledger import NAME as LEDGER
from gateway.usage.ledger import SQLiteLedger
from gateway.web.ops import Ops
from gateway.web.server import DataPlane

if TYPE_CHECKING:  # an extra
    from gateway.traces.exporter import Exporter

AnyUpstream = HTTPUpstream | EchoUpstream

TIERS = ("memory", "disk")
ONE_SCRAPE = 0.5  # seconds
LEVELS = {"limit": "limit", "used": "used", "reserved": "held", "reset_timestamp_seconds": "reset"}
SIZES = {"entries": "entries", "size_bytes": "size", "max_size_bytes": "limit"}
OPERATION = "gateway_cache_operation_duration_seconds"
UPSTREAM: dict[str, Callable[[AnyUpstream], int]] = {
    "in_flight": lambda one: one.stats.in_flight,
    "queued": lambda one: one.stats.waiting,
    "connections_idle": lambda one: one.connections[1],
}
ROOM: dict[str, Callable[[os.statvfs_result], int]] = {
    "free_bytes": lambda one: one.f_bavail * one.f_frsize,  # for who is not root
    "total_bytes": lambda one: one.f_blocks * one.f_frsize,
}


def watch_traffic(metrics: Metrics, plane: DataPlane, house: House, ops: Ops) -> None:
    """What is under way."""
    metrics.watch("gateway_requests_in_flight", lambda: plane.in_flight)
    metrics.watch("gateway_streams_open", lambda: house.streams)
    metrics.watch("gateway_ready", lambda: ops.readyz()[0] == 200)
    metrics.watch("gateway_client_connections", lambda: plane.connections)


def watch_access_log(metrics: Metrics, access_log: AccessLog | NoAccessLog) -> None:
    """What became of its lines."""
    for result in ("written", "dropped", "failed", "suppressed"):
        read = partial(getattr, access_log, result)
        metrics.watch("gateway_access_log_lines_total", read, result=result)
    metrics.watch("gateway_access_log_lines_waiting", lambda: access_log.waiting)


def watch_upstreams(metrics: Metrics, running: Callable[[], Iterable[AnyUpstream]]) -> None:
    """Calls under way, those that wait for a connection, and connections that wait for a call."""
    for name, read in UPSTREAM.items():
        metrics.watch_all(f"gateway_upstream_{name}", partial(_by_upstream, running, read))
    metrics.watch_all("gateway_upstream_ratelimit_remaining", partial(_remaining, running))


def watch_cache(metrics: Metrics, cache: TwoTier, boarding: Boarding) -> None:
    """Both tiers' sizes and losses, and the flights in the air."""
    for family, figure in SIZES.items():
        metrics.watch_all(f"gateway_cache_{family}", partial(_by_tier, cache, figure))
    metrics.watch_all("gateway_cache_evictions_total", partial(_evictions, cache))
    metrics.watch_all("gateway_cache_errors_total", _by_reason(lambda: cache.stats().disk.errors))
    metrics.watch_all("gateway_cache_dropped_total", _by_reason(lambda: cache.stats().disk.dropped))
    metrics.watch_all("gateway_cache_lookups_total", partial(_lookups, cache))
    metrics.watch("gateway_cache_disk_up", lambda: cache.stats().disk.state in {"off", "open"})
    metrics.watch("gateway_cache_writes_waiting", lambda: cache.stats().disk.queued)
    get, put = (metrics.timer(OPERATION, operation=name) for name in ("get", "set"))
    cache.time_disk(get, put)
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

    ledger.timed = metrics.timer("gateway_ledger_commit_seconds")


def watch_disk(metrics: Metrics, data: Path) -> None:
    """What the data takes, and what room is left for it."""
    volumes = {"data": data, "cache": data / "cache"}
    for name, read in ROOM.items():
        metrics.watch_all(f"gateway_data_disk_{name}", partial(_room, volumes, read), slow=True)
    files = [data / f"{LEDGER}{end}" for end in ("", "-wal")]
    metrics.watch_all("gateway_ledger_size_bytes", lambda: {(): _size(files)}, slow=True)


class StoredKeys:
    """The issued keys that are not revoked, as metrics ask for them."""

    def __init__(self, register: Register) -> None:
        self._register = register

    @property
    def version(self) -> int:
        """Another one after each change."""
        return self._register.version

    def callers(self) -> dict[str, Callable[[str], bool]]:
        """Whether each may use a model, by name."""
        return {
            key.name: partial(may_use, key.grant)
            for key in self._register.keys
            if key.revoked is None
        }


def _room(
    volumes: Mapping[str, Path], read: Callable[[os.statvfs_result], int]
) -> dict[Labels, float]:
    found = {name: os.statvfs(path) for name, path in volumes.items() if path.exists()}
    return {(name,): read(one) for name, one in found.items()}


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.exists())


def _by_upstream(
    running: Callable[[], Iterable[AnyUpstream]], read: Callable[[AnyUpstream], int]
) -> dict[Labels, float]:
    return {(upstream.name,): read(upstream) for upstream in running()}


def _remaining(running: Callable[[], Iterable[AnyUpstream]]) -> dict[Labels, float]:
    return {
        (upstream.name, kind): left
        for upstream in running()
        for kind, left in upstream.stats.remaining.items()
    }


def watch_traces(metrics: Metrics, traces: Exporter | NoTraces) -> None:
    """What becomes of spans."""
    for result in ("exported", "failed", "dropped"):
        metrics.watch("gateway_trace_spans_total", partial(getattr, traces, result), result=result)
    metrics.watch("gateway_trace_requests_waiting", lambda: traces.waiting)


def watch_journal(metrics: Metrics, journal: Keeper) -> None:
    """What becomes of records, what waits, and the files."""
    figures = journal.figures
    for result in ("written", "dropped", "failed"):
        read = partial(getattr, figures, result)
        metrics.watch("gateway_journal_records_total", read, result=result)
    metrics.watch("gateway_journal_bodies_dropped_total", lambda: figures.without_bodies)
    metrics.watch_all("gateway_journal_errors_total", _by_reason(lambda: dict(figures.failures)))
    metrics.watch("gateway_journal_records_waiting", lambda: journal.waiting)
    metrics.watch("gateway_journal_held_bytes", lambda: journal.held)
    metrics.watch("gateway_journal_size_bytes", lambda: figures.size)
    metrics.watch("gateway_journal_files", lambda: figures.files)
    metrics.watch("gateway_journal_files_deleted_total", lambda: figures.deleted)


def watch_quotas(metrics: Metrics, quotas: Quotas, register: Register, clock: Clock) -> None:
    """How limits stand, and what came of them."""
    levels = _Levels(quotas, register, clock)
    for family, figure in LEVELS.items():
        metrics.watch_all(f"gateway_quota_{family}", partial(levels.by_label, figure))
    quotas.timed = metrics.timer("gateway_quota_wait_seconds")
    figures = quotas.figures
    metrics.watch_all("gateway_quota_rejections_total", lambda: {**figures.rejections})
    metrics.watch_all("gateway_quota_warnings_total", lambda: {**figures.warnings})
    for family, counter in (
        ("clamped", figures.clamped),
        ("bound_exceeded", figures.exceeded),
        ("overrun_tokens", figures.overrun),
    ):
        metrics.watch_all(f"gateway_quota_{family}_total", _by_reason(partial(dict, counter)))


class _Levels:
    """All limits of all keys and teams, looked at once for the families of one scrape."""

    def __init__(self, quotas: Quotas, register: Register, clock: Clock) -> None:
        self._quotas, self._register, self._clock = quotas, register, clock
        self._found: list[Reading] = []
        self._at = -math.inf

    def by_label(self, figure: str) -> dict[Labels, float]:
        """One figure of each."""
        now = self._clock.monotonic()
        if now - self._at > ONE_SCRAPE:
            self._found, self._at = list(self._look()), now
        figures = {(one.name, one.kind): getattr(one, figure) for one in self._found}
        return {labels: value for labels, value in figures.items() if value is not None}

    def _look(self) -> Iterator[Reading]:
        for key in self._register.keys:
            if key.revoked is None:
                yield from self._quotas.levels("key", key.id, key.name, key.grant.limits)
        for team in self._register.teams:
            yield from self._quotas.levels("team", team.id, team.name, team.limits)
        yield from self._quotas.shared_levels()


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


def _lookups(cache: Cache) -> dict[Labels, float]:
    stats = cache.stats()
    return {
        (tier, result): getattr(getattr(stats, tier), figure)
        for tier in TIERS
        for result, figure in (("hit", "hits"), ("miss", "misses"))
    }


def _evictions(cache: Cache) -> dict[Labels, float]:
    stats = cache.stats()
    return {
        (tier, reason): count
        for tier in TIERS
        for reason, count in getattr(stats, tier).evictions.items()
    }


def _by_reason(read: Callable[[], Mapping[str, int]]) -> Callable[[], dict[Labels, float]]:
    return lambda: {(reason,): count for reason, count in read().items()}
