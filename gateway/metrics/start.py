"""Which series there are before anything is counted in them: an `increase()` misses no first. Pure.

Rule: a family's labels decide. Whatever is known beforehand has its series at 0; what only time can
tell (a gauge of an upstream, a rare code) comes when it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from gateway.exchange import CacheState
from gateway.metrics.lanes import KEY_OUTCOMES, STAGES, UPSTREAM_OUTCOMES
from gateway.metrics.spec import KEYS, MODELS, Labels, Spec
from gateway.metrics.table import TABLE
from gateway.wire.findings import MISSING

Series = Iterator[tuple[str, Labels]]

CHAT = "chat/completions"
CACHES = tuple(state.value for state in CacheState if state is not CacheState.NONE)
CODES = tuple(product(("200",), CACHES)) + tuple(product(("429", "502", "504"), ("miss",)))
ERRORS = ("client_disconnect", "upstream_error", "upstream_timeout", "upstream_429", "upstream_500")

STATIC: Mapping[str, Sequence[Labels]] = {
    **{spec.name: [()] for spec in TABLE if not spec.labels and spec.type != "gauge"},
    "gateway_overhead_seconds": [(CHAT,)],
    "gateway_stage_duration_seconds": [(stage,) for stage in STAGES],
    "gateway_usage_missing_total": [(reason,) for reason in sorted(MISSING)],
    "gateway_cache_operation_duration_seconds": [("get",), ("set",)],
    "gateway_config_reloads_total": [("ok",), ("failed",)],
}


def _with(*labels: str) -> list[Spec]:
    return [spec for spec in TABLE if spec.labels == labels and spec.type != "gauge"]


def of_models(models: Sequence[str]) -> Series:
    """Of the first models that the configuration names."""
    for model in models[:MODELS]:
        for spec in _with("model"):
            yield spec.name, (model,)
        for spec, cache in product(_with("model", "cache"), CACHES):
            yield spec.name, (model, cache)
        for code, cache in CODES:
            yield "gateway_requests_total", (CHAT, model, code, cache)
        for reason in ERRORS:
            yield "gateway_errors_total", (model, reason)


def of_upstreams(models: Mapping[str, Sequence[str]]) -> Series:
    """Of the upstreams that the configuration names, with the models it names for each."""
    for upstream, served in models.items():
        for spec in _with("upstream"):
            yield spec.name, (upstream,)
        for model, outcome in product(served[:MODELS], UPSTREAM_OUTCOMES):
            yield "gateway_upstream_requests_total", (upstream, model, outcome)


def of_keys(keys: Iterable[str]) -> Series:
    """Of the first callers that have names."""
    for key, _ in zip(keys, range(KEYS), strict=False):
        for spec in _with("key"):
            yield spec.name, (key,)
        for outcome in KEY_OUTCOMES:
            yield "gateway_key_requests_total", (key, outcome)


def of_pairs(pairs: Iterable[tuple[str, str]]) -> Series:
    """Of models and keys that may use them."""
    for (model, key), spec in product(pairs, _with("model", "key")):
        yield spec.name, (model, key)
