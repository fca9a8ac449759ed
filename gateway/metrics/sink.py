"""The sink that counts requests by the table, and the place for all else that is counted or read.

Rule: counts are plain numbers on the loop's thread; a request touches no object of a client
library. Once per scrape they are copied, for `web/scrape.py` to render elsewhere (M4).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from gateway import __version__
from gateway.config import UpstreamSection
from gateway.exchange import CacheState, CallerKind, Exchange
from gateway.metrics.lanes import Called, Lane, Used, observe, upstream_outcome
from gateway.metrics.names import NOBODY, Names, literal, literal_models
from gateway.metrics.readings import Readings, labels_of
from gateway.metrics.spec import PAIRS, Labels
from gateway.metrics.start import STATIC, of_keys, of_models, of_pairs, of_upstreams
from gateway.metrics.store import Exemplars, Snapshot, Store
from gateway.metrics.table import SPECS
from gateway.ports import Clock

NOT_COUNTED = frozenset({"healthz", "readyz"})
LANES = 20_000  # remembered; more kinds of requests are found anew
AT_ONCE = 64  # requests that are counted together

MayUse = Callable[[str], bool]
P = TypeVar("P", Used, Called)


def _anything(model: str) -> bool:
    return True


def standard_registry() -> CollectorRegistry:
    """What the client library tells of any process: CPU, memory, files, garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class StoredKeys(Protocol):
    """Where to learn of stored keys."""

    @property
    def version(self) -> int:
        """Another one after each change."""

    def callers(self) -> Mapping[str, MayUse]:
        """The names of those that are not revoked, and whether each may use a model."""


class NoKeys:
    """None are stored."""

    version = 0

    def callers(self) -> Mapping[str, MayUse]:
        """Nobody."""
        return {}


NO_KEYS = NoKeys()


class Metrics:
    """A sink that counts. For the loop's thread alone, but for `read_slow` and what was copied.

    The families of `registry`, whoever feeds them, stand on the page after the table's.
    """

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self._store = Store()
        self._names = Names()
        self._waiting: list[Exchange] = []  # to be counted
        self._lanes: dict[tuple[object, ...], Lane] = {}  # another one where they hold no more
        self._parts: dict[tuple[object, ...], Used | Called] = {}
        self._models: Sequence[str] = ()
        self._aliases: Sequence[str] = ()
        self._issued: set[str] = set()  # names of issued keys that have series
        self._stored: StoredKeys = NO_KEYS
        self._known: Mapping[str, MayUse] = {}  # stored keys, as of `_version`
        self._version: int | None = None
        self._readings, self._slow = Readings(), Readings()
        self._make((name, labels) for name, series in STATIC.items() for labels in series)
        self._set("gateway_build_info", 1, __version__, platform.python_version())
        self._reload_done(ok=True)

    # What is there from the start -----------------------------------------------------------------

    def configure(
        self,
        *,
        upstreams: Sequence[UpstreamSection] = (),
        models: Iterable[str] = (),
        aliases: Iterable[str] = (),
    ) -> None:
        """Names that are labels whatever happens. Upstreams, aliases, and the models that upstreams
        name have series from now on; `models` are others, patterns among them passed over."""
        self._count()
        self._models, self._aliases = sorted(literal_models(upstreams)), sorted(aliases)
        self._names.configure({*self._models, *literal(models)}, self._aliases)
        self._make(of_models(self._models))
        self._make(of_upstreams({one.name: sorted(literal_models([one])) for one in upstreams}))
        self._version = None
        self._follow_keys()

    def follow_keys(self, stored: StoredKeys) -> None:
        """Ask `stored` at each scrape. A new key has its series from then on, which is before it is
        used if a scrape comes between; one that is gone has none (M2)."""
        self._stored, self._version = stored, None
        self._follow_keys()

    def _follow_keys(self) -> None:
        stored = self._stored
        if stored.version != self._version:
            self._version, self._known = stored.version, stored.callers()
            callers = {**dict.fromkeys(self._aliases, _anything), **self._known}
            pairs = (
                (m, key) for key, may_use in callers.items() for m in self._models if may_use(m)
            )
            self._make(of_keys(callers))
            self._make(of_pairs(islice(pairs, PAIRS)))
            self._issued |= self._known.keys()
        if stored is NO_KEYS:
            return
        # A request of a revoked key may end after the scrape that saw it go.
        for name in self._issued - self._known.keys():
            self._issued.discard(name)
            if name not in self._aliases:
                self._store.drop("key", name)
                self._lanes, self._parts = {}, {}

    def _make(self, series: Iterable[tuple[str, Labels]]) -> None:
        for name, labels in series:
            self._store.cell(name, *labels)

    # What is read at each scrape ------------------------------------------------------------------

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Take a sample from `read` at each scrape, on the loop's thread. KeyError: none such."""
        series = labels_of(name, labels)
        self._readings.add(name, lambda: {series: read()}, series)

    def watch_all(
        self, name: str, read: Callable[[], Mapping[Labels, float]], *, slow: bool = False
    ) -> None:
        """Take a family's samples from `read` at each scrape: for what is counted elsewhere under
        labels that are not known before. What is `slow` (it asks a disk) is read off the loop's
        thread, where the page is made."""
        (self._slow if slow else self._readings).add(name, read)

    # What is counted ------------------------------------------------------------------------------

    def timer(self, name: str, **labels: str) -> Callable[[float], None]:
        """What takes the value of one observation of a histogram whose series stay. KeyError: none
        such."""
        cell = self._store.cell(name, *labels_of(name, labels))
        return partial(observe, cell, SPECS[name].buckets)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count something. KeyError: none such."""
        self._store.cell(name, *labels_of(name, labels))[0] += amount

    def reloaded(self, *, ok: bool) -> None:
        """A reload of the configuration was tried."""
        self.add("gateway_config_reloads_total", result="ok" if ok else "failed")
        self._reload_done(ok=ok)

    def book(self, exchange: Exchange) -> None:
        """Count one request (the `Sink` port): with others, soon, but before anybody looks."""
        waiting = self._waiting
        waiting.append(exchange)
        if len(waiting) >= AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Count those that wait, each in what is its own, with others of its kind."""
        waiting, self._waiting = self._waiting, []
        lanes = self._lanes
        touched: list[Lane | Used | Called] = []
        for x in waiting:
            mold = x.mold
            known = None if mold is None else mold.kind.lane
            if known is not None and known[0] is lanes:
                lane = known[1]
            elif x.endpoint in NOT_COUNTED:
                continue
            else:
                lane = self._lane_of(x, touched)
            if not lane.waiting:
                touched.append(lane)
            lane.waiting.append(x)
        touched.sort(key=_last)  # an upstream is up or down as its last call says
        for one in touched:
            one.book()

    def _lane_of(self, x: Exchange, touched: list[Lane | Used | Called]) -> Lane:
        """Where it counts with its like; it is added to what `touched` calls count in."""
        names, model, key, caller, cache = self._names, x.model, NOBODY, x.caller, x.cache
        if model is None or model not in names.models:
            model = names.model(x)
        if caller is not None:
            key = caller.name
            if key not in names.callers:
                key = names.key(caller)
        # Hashing a member of an Enum is a call of Python's; its value's hash is there already.
        kind = (
            x.endpoint,
            model,
            key,
            x.status,
            x.error,
            x.stream,
            cache._value_,
            x.outcome._value_,
        )
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = self._lane(x, model, key)
        if x.mold is not None and model == x.model:
            x.mold.kind.lane = self._lanes, lane
        if x.cache_reason is not None:
            self._book_reason(cache, x.cache_reason)
        if x.attempts:
            for part in self._calls_of(x, model, key):
                if not part.waiting:
                    touched.append(part)
                part.waiting.append(x)
        if x.usage_missing is not None:
            self._store.cell("gateway_usage_missing_total", x.usage_missing)[0] += 1
        if x.summary is not None and x.summary.observer_errors:
            self._store.cell("gateway_observer_errors_total")[0] += x.summary.observer_errors
        return lane

    def _calls_of(self, x: Exchange, model: str, key: str) -> Iterator[Used | Called]:
        """What was asked of an upstream counts there."""
        if x.upstream is not None:
            yield self._part(Called, x.upstream, model, upstream_outcome(x))
        if x.caller is not None:
            yield self._part(Used, model, key)

    def _book_reason(self, cache: CacheState, reason: str) -> None:
        """Why a request passed the cache by, or its answer was not kept (D1)."""
        if cache is CacheState.BYPASS:
            self._store.cell("gateway_cache_bypass_total", reason)[0] += 1
        elif cache is CacheState.MISS:
            self._store.cell("gateway_cache_store_skipped_total", reason)[0] += 1

    def _lane(self, x: Exchange, model: str, key: str) -> Lane:
        """One more kind of request."""
        if len(self._lanes) >= LANES:
            self._lanes.clear()  # those that are in use count on
        if x.caller is not None and x.caller.kind is CallerKind.ISSUED:
            self._issued.add(key)
        return Lane(self._store, x, model, key)

    def _part(self, make: type[P], *labels: str) -> P:
        kind = (make, *labels)
        part = self._parts.get(kind)
        if part is None:
            if len(self._parts) >= LANES:
                self._parts.clear()
            part = self._parts[kind] = make(self._store, *labels)
        return part  # type: ignore[return-value]

    # How it is kept -------------------------------------------------------------------------------

    def _reload_done(self, *, ok: bool) -> None:
        self._set("gateway_config_last_reload_successful", int(ok))
        if ok:
            now = self.clock.now()
            self._set("gateway_config_last_reload_success_timestamp_seconds", now)

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._store.cell(name, *labels)[0] = value

    def counted(self, name: str) -> dict[str, float]:
        """What a counter with one label holds now, by that label."""
        self._count()
        return {labels[0]: cell[0] for labels, cell in self._store.cells(name).items()}

    def snapshot(self) -> Snapshot:
        """A copy of all samples, of one moment; what is slow to read is left for `read_slow`."""
        self._count()
        self._follow_keys()
        taken = self._store.snapshot()
        self._readings.into(taken)
        return taken

    def read_slow(self, taken: Snapshot) -> None:
        """Add what is slow to read to a snapshot, in any thread."""
        self._slow.into(taken)

    def exemplars(self) -> Exemplars:
        """A copy of all exemplars."""
        self._count()
        return self._store.exemplars()


def _last(lane: Lane | Used | Called) -> float:
    """When the last of its requests ended, in wall seconds."""
    x = lane.waiting[-1]
    return x.at + x.timings.total / 1000
