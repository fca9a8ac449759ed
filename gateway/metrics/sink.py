"""The sink that counts requests by the table.

Rule: counts are plain numbers in dicts on the loop's thread; a request touches no object of a
client library. Once per scrape they are copied there, for `web/scrape.py` to render elsewhere (M4).
"""

from __future__ import annotations

import logging
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from gateway import __version__
from gateway.config import UpstreamSection
from gateway.exchange import CacheState, Caller, CallerKind, Exchange, Outcome, UsageSource
from gateway.metrics.spec import KEYS, MODELS, SERIES, Labels
from gateway.metrics.table import SPECS, TABLE
from gateway.ports import Clock

OTHER = "other"
NAME = 128  # characters of a model's name
MOST = 2**53  # what one answer may add: floats count exactly up to here
NOT_COUNTED = frozenset({"healthz", "readyz"})

Value = float | list[float]  # a histogram: the count of each bucket, of those above, and the sum
Snapshot = dict[str, dict[Labels, Value]]

log = logging.getLogger("gateway.metrics")


def literal_models(upstreams: Iterable[UpstreamSection]) -> frozenset[str]:
    """The models that the configuration names itself, not by a pattern."""
    names = [name for upstream in upstreams for name in (*upstream.models, *upstream.rename)]
    return frozenset(name for name in names if not set("*?[") & set(name))


def standard_registry() -> CollectorRegistry:
    """What the client library tells of any process: CPU, memory, files, garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Metrics:
    """A sink that counts. For the loop's thread alone, but for what `snapshot` returned.

    The families of `registry`, whoever feeds them, stand on the page after the table's.
    """

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self._values: Snapshot = {spec.name: {} for spec in TABLE}
        self._families: dict[str, Callable[[], Mapping[Labels, float]]] = {}
        self._watched: dict[str, dict[Labels, Callable[[], float]]] = {}
        self._configured: frozenset[str] = frozenset()
        self._answered: set[str] = set()
        self._aliases: frozenset[str] = frozenset()
        self._callers: set[str] = set()
        for spec in TABLE:
            if not spec.labels and spec.type == "counter":
                self._values[spec.name][()] = 0
        for result in ("ok", "failed"):
            self._count("gateway_config_reloads_total", (result,), 0)
        self._set("gateway_build_info", (__version__, platform.python_version()), 1)
        self._reload_done(ok=True)

    # What is counted ----------------------------------------------------------------------------

    def configure(self, *, models: Iterable[str], aliases: Iterable[str]) -> None:
        """Names that are labels whatever happens: `literal_models`, and those of `keys.aliases`."""
        self._configured, self._aliases = frozenset(models), frozenset(aliases)

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Take a sample from `read` at each scrape, on the loop's thread. KeyError: none such."""
        key = tuple(labels.pop(label) for label in SPECS[name].labels)
        if labels:
            raise KeyError(f"{name} has no label {', '.join(labels)}")
        self._watched.setdefault(name, {})[key] = read

    def watch_all(self, name: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Take a family's samples from `read` at each scrape, on the loop's thread: for what is
        counted elsewhere under labels that are not known before."""
        self._families[SPECS[name].name] = read

    def reloaded(self, *, ok: bool) -> None:
        """A reload of the configuration was tried."""
        self._count("gateway_config_reloads_total", ("ok" if ok else "failed",))
        self._reload_done(ok=ok)

    def book(self, exchange: Exchange) -> None:
        """Count one request (the `Sink` port)."""
        if exchange.endpoint in NOT_COUNTED:
            return
        model = self._model(exchange)
        self._book_request(exchange, model)
        self._book_usage(exchange, model)
        self._book_cache(exchange)
        if exchange.upstream is not None and exchange.attempts > 0:
            self._book_call(exchange, exchange.upstream, model)

    def _book_request(self, x: Exchange, model: str) -> None:
        cache, times = x.cache.value, x.timings
        self._count("gateway_requests_total", (x.endpoint, model, str(x.status), cache))
        if x.outcome is not Outcome.OK:
            self._count("gateway_errors_total", (model, x.error or x.outcome.value))
        self._observe("gateway_request_duration_seconds", (model, cache), times.total)
        self._observe("gateway_overhead_seconds", (x.endpoint,), times.overhead)
        if x.stream and x.status == 200 and times.first_token is not None:
            self._observe("gateway_time_to_first_token_seconds", (model, cache), times.first_token)

    def _book_usage(self, x: Exchange, model: str) -> None:
        if x.usage.source is UsageSource.UPSTREAM and x.caller is not None:
            labels, usage = (model, self._key(x.caller)), x.usage
            self._add_tokens("gateway_input_tokens_total", labels, usage.prompt_tokens)
            self._add_tokens("gateway_output_tokens_total", labels, usage.completion_tokens)
            self._add_tokens("gateway_cached_input_tokens_total", labels, usage.cached_tokens)
            self._add_tokens("gateway_reasoning_tokens_total", labels, usage.reasoning_tokens)
        saved = x.saved.prompt_tokens + x.saved.completion_tokens
        if saved and x.caller is not None:
            self._add_tokens(
                "gateway_cache_saved_tokens_total", (model, self._key(x.caller)), saved
            )
        if x.caller is not None and (x.attempts or saved):
            self._book_cost(x, model, (model, self._key(x.caller)))
        if x.usage_missing is not None:
            self._count("gateway_usage_missing_total", (x.usage_missing,))
        if x.summary is not None and x.summary.observer_errors:
            self._count("gateway_observer_errors_total", (), x.summary.observer_errors)

    def _book_cost(self, x: Exchange, model: str, labels: Labels) -> None:
        if x.usage.source is UsageSource.ESTIMATED:
            self._count("gateway_usage_estimated_total", (model,))
        if x.cost.nano_usd is not None and x.attempts:
            self._count("gateway_cost_usd_total", labels, x.cost.nano_usd / 1e9)
        elif x.attempts and x.usage.source is not UsageSource.NONE:
            self._count("gateway_unpriced_requests_total", (model,))
        if x.saved_cost.nano_usd:
            self._count("gateway_cache_saved_cost_usd_total", labels, x.saved_cost.nano_usd / 1e9)

    def _book_cache(self, x: Exchange) -> None:
        """Why a request passed the cache by, or its answer was not kept (D1)."""
        if x.cache is CacheState.BYPASS and x.cache_reason is not None:
            self._count("gateway_cache_bypass_total", (x.cache_reason,))
        elif x.cache is CacheState.MISS and x.cache_reason is not None:
            self._count("gateway_cache_store_skipped_total", (x.cache_reason,))
        elif x.cache is CacheState.HIT and x.cache_age is not None:
            self._observe("gateway_cache_hit_age_seconds", (), x.cache_age * 1000)

    def _book_call(self, x: Exchange, upstream: str, model: str) -> None:
        times, labels = x.timings, (upstream,)
        self._count("gateway_upstream_requests_total", (upstream, model, upstream_outcome(x)))
        self._count("gateway_upstream_retries_total", labels, x.attempts - 1)
        self._observe("gateway_upstream_queue_wait_seconds", labels, times.queued)
        if times.connected is None:
            return
        for name, point in (
            ("gateway_upstream_first_byte_seconds", times.first_byte),
            ("gateway_upstream_request_duration_seconds", times.last_byte),
        ):
            if point is not None:
                self._observe(name, labels, max(0.0, point - times.connected))

    def _model(self, x: Exchange) -> str:
        """A label where it is configured or was answered: typing errors make no series (M1)."""
        name = x.model
        if name is None:
            return OTHER
        if name in self._configured or name in self._answered:
            return name
        answered = x.outcome is Outcome.OK and x.status == 200 and x.attempts > 0
        plain = len(name) <= NAME and name.isprintable()
        if answered and plain and len(self._answered) < MODELS:
            self._answered.add(name)
            return name
        return OTHER

    def _key(self, caller: Caller) -> str:
        name = caller.name
        if caller.kind is not CallerKind.PASSTHROUGH or name in self._aliases:
            return name
        if name not in self._callers:
            if len(self._callers) >= KEYS:
                return OTHER
            self._callers.add(name)
        return name

    # How it is kept -----------------------------------------------------------------------------

    def _reload_done(self, *, ok: bool) -> None:
        self._set("gateway_config_last_reload_successful", (), int(ok))
        if ok:
            now = self.clock.now()
            self._set("gateway_config_last_reload_success_timestamp_seconds", (), now)

    def counted(self, name: str) -> dict[str, float]:
        """What a counter with one label holds now, by that label."""
        return {label: value for (label,), value in self._values[name].items()}  # type: ignore[misc]

    def _set(self, name: str, labels: Labels, value: float) -> None:
        self._values[name][labels] = value

    def _add_tokens(self, name: str, labels: Labels, tokens: int) -> None:
        self._count(name, labels, min(max(0, tokens), MOST))  # a counter never falls (B1)

    def _count(self, name: str, labels: Labels, amount: float = 1) -> None:
        family = self._values[name]
        if labels not in family:
            labels = self._new_series(name, family, labels, 0)
        family[labels] += amount  # type: ignore[operator]

    def _observe(self, name: str, labels: Labels, milliseconds: float) -> None:
        family, bounds, seconds = self._values[name], SPECS[name].buckets, milliseconds / 1000
        if labels not in family:
            labels = self._new_series(name, family, labels, [0] * (len(bounds) + 2))
        row = family[labels]
        row[bisect_left(bounds, seconds)] += 1  # type: ignore[index]
        row[-1] += seconds  # type: ignore[index]

    def _new_series(
        self, name: str, family: dict[Labels, Value], labels: Labels, zero: Value
    ) -> Labels:
        """Make room for `labels`, or for `other` where the family is full: memory stays bounded."""
        if len(family) >= SERIES:
            labels = (OTHER,) * len(labels)
            self._count("gateway_metric_series_capped_total", (name,))
        family.setdefault(labels, zero)
        return labels

    def snapshot(self) -> Snapshot:
        """A copy of all samples, of one moment."""
        taken = {
            name: {
                labels: value.copy() if isinstance(value, list) else value
                for labels, value in family.items()
            }
            for name, family in self._values.items()
        }
        for name, readers in self._watched.items():
            for labels, read in readers.items():
                try:
                    taken[name][labels] = read()
                except Exception:  # one broken gauge must not blind who looks for the reason
                    log.exception("%s cannot be read", name)
        for name, read_all in self._families.items():
            try:
                taken[name].update(read_all())
            except Exception:
                log.exception("%s cannot be read", name)
        return taken


_BY_OUTCOME = {
    Outcome.UPSTREAM_ERROR: "error",
    Outcome.UPSTREAM_TIMEOUT: "timeout",
    Outcome.UPSTREAM_TRUNCATED: "cut",
    Outcome.UPSTREAM_IN_BAND_ERROR: "in_band_error",
    Outcome.DRAINED: "abandoned",
    Outcome.INTERNAL: "abandoned",
}


def upstream_outcome(x: Exchange) -> str:
    """How the last call of an exchange ended, from the upstream's side."""
    if x.outcome is Outcome.CLIENT_DISCONNECT:
        return "2xx" if x.summary is not None and x.summary.complete else "abandoned"
    if x.outcome in _BY_OUTCOME:
        return _BY_OUTCOME[x.outcome]
    return "429" if x.status == 429 else f"{x.status // 100}xx"
