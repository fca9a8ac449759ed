"""Series there are from the start, and those that go with their key (issue 6; M1, M2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from gateway.config import UpstreamSection
from gateway.exchange import CacheState, Caller, CallerKind
from gateway.metrics import SPECS, TABLE, Metrics
from tests.exchanges import FixedClock, exchange

UPSTREAMS = [
    UpstreamSection(name="a", base_url="http://a", models=["small", "big", "gpt-*"]),
    UpstreamSection(name="b", base_url="http://b", models=["other-*"], rename={"public": "real"}),
]
MODELS = {"small", "big", "public"}


def _may_use(only: str, model: str) -> bool:
    return only in ("", model)


class Keys:
    """Stored keys, to be made and revoked by a test."""

    def __init__(self, **may_use: str) -> None:
        self.version = 0
        self.may_use = may_use

    def callers(self) -> dict[str, Callable[[str], bool]]:
        return {name: partial(_may_use, only) for name, only in self.may_use.items()}

    def create(self, name: str, only: str = "") -> None:
        self.may_use[name] = only
        self.version += 1

    def revoke(self, name: str) -> None:
        del self.may_use[name]
        self.version += 1


@pytest.fixture
def keys() -> Keys:
    return Keys(alice="", bob="small")


@pytest.fixture
def metrics(keys: Keys) -> Metrics:
    made = Metrics(CollectorRegistry(), FixedClock())
    made.configure(upstreams=UPSTREAMS, aliases=["billing"])
    made.follow_keys(keys)
    return made


def issued(name: str) -> Caller:
    return Caller(CallerKind.ISSUED, f"id-{name}", name)


def labels(metrics: Metrics, name: str) -> set[tuple[str, ...]]:
    return set(metrics.snapshot()[name])


def with_key(metrics: Metrics, key: str) -> set[str]:
    """Families that have a series of that key."""
    taken = metrics.snapshot()
    return {
        spec.name for spec in TABLE if "key" in spec.labels
        for found in taken[spec.name] if found[spec.labels.index("key")] == key
    }  # fmt: skip


def test_nothing_is_counted_at_the_start_and_counters_are_there(metrics):
    """An `increase()` misses no first."""
    for spec in TABLE:
        samples = metrics.snapshot()[spec.name]
        if spec.type in {"counter", "histogram", "summary"}:
            assert all(not any(row if isinstance(row, list) else [row])
                       for row in samples.values())  # fmt: skip
        if spec.type != "gauge" and spec.labels in {(), ("model",), ("upstream",)}:
            assert samples, spec.name


@pytest.mark.parametrize("spec", [s for s in TABLE if s.type != "gauge"], ids=lambda s: s.name)
def test_each_configured_name_has_its_series(metrics, spec):
    found = labels(metrics, spec.name)
    known = {"model": MODELS, "upstream": {"a", "b"}, "key": {"alice", "bob", "billing"}}
    if spec.name in {"gateway_quota_rejections_total", "gateway_quota_warnings_total"}:
        return  # whose kinds are the limits' own
    for place, label in enumerate(spec.labels):
        if label in known and spec.name != "gateway_upstream_requests_total":
            assert known[label] <= {one[place] for one in found}
    if spec.name == "gateway_upstream_requests_total":
        assert {one[:2] for one in found} == {("a", "small"), ("a", "big"), ("b", "public")}


def test_a_key_has_series_of_the_models_that_it_may_use(metrics):
    pairs = labels(metrics, "gateway_input_tokens_total")
    assert {model for model, key in pairs if key == "alice"} == MODELS
    assert {model for model, key in pairs if key == "bob"} == {"small"}
    assert {model for model, key in pairs if key == "billing"} == MODELS


@pytest.mark.parametrize("cache", ["hit", "miss", "joined", "bypass"])
def test_a_first_request_of_a_configured_model_makes_no_series(metrics, cache):
    """Whatever comes of it with 200: each counter was there at 0."""
    before = {name: set(family) for name, family in metrics.snapshot().items()}
    metrics.book(
        exchange(
            model="small", caller=issued("alice"), upstream="a", cache=CacheState(cache),
            attempts=int(cache in ("miss", "bypass")),
        )
    )  # fmt: skip
    for name, family in metrics.snapshot().items():
        new = set(family) - before[name]
        assert not new or SPECS[name].type == "gauge", name


def test_a_key_made_while_running_has_its_series_before_it_is_used(metrics, keys):
    assert not with_key(metrics, "carol")
    keys.create("carol")
    assert {"gateway_key_requests_total", "gateway_input_tokens_total"} <= with_key(
        metrics, "carol"
    )


def test_a_revoked_key_takes_its_series_with_it(metrics, keys):
    """M2."""
    metrics.book(exchange(caller=issued("bob"), model="small"))
    assert with_key(metrics, "bob")
    keys.revoke("bob")
    assert not with_key(metrics, "bob")
    assert with_key(metrics, "alice")


def test_what_ends_after_its_key_was_revoked_is_gone_at_the_next_scrape(metrics, keys):
    keys.revoke("bob")
    metrics.snapshot()
    for _ in range(2):
        metrics.book(exchange(caller=issued("bob"), model="small"))
        metrics.snapshot()
        assert not with_key(metrics, "bob")


def test_a_name_that_is_taken_again_counts_from_nothing(metrics, keys):
    metrics.book(exchange(caller=issued("bob"), model="small"))
    keys.revoke("bob")
    metrics.snapshot()
    keys.create("bob")
    metrics.snapshot()
    metrics.book(exchange(caller=issued("bob"), model="small"))
    assert metrics.snapshot()["gateway_input_tokens_total"]["small", "bob"] == 12


def test_a_reload_brings_series_for_new_names_and_keeps_what_was_counted(metrics):
    metrics.book(exchange(caller=issued("alice"), model="small"))
    more = UpstreamSection(name="c", base_url="http://c", models=["later"])
    metrics.configure(upstreams=[*UPSTREAMS, more], aliases=["billing", "sales"])
    tokens = metrics.snapshot()["gateway_input_tokens_total"]
    assert tokens["small", "alice"] == 12
    assert tokens["later", "alice"] == tokens["later", "sales"] == tokens["small", "sales"] == 0
    assert ("c",) in labels(metrics, "gateway_upstream_retries_total")


def test_many_keys_and_models_stay_below_the_cap():
    """What is made beforehand leaves room for what comes."""
    metrics = Metrics(CollectorRegistry(), FixedClock())
    models = [f"model-{n}" for n in range(500)]
    metrics.configure(upstreams=[UpstreamSection(name="a", base_url="http://a", models=models)])
    metrics.follow_keys(Keys(**{f"key-{n}": "" for n in range(1000)}))
    taken = metrics.snapshot()
    assert not taken["gateway_metric_series_capped_total"]
    assert len(taken["gateway_input_tokens_total"]) == 1000
