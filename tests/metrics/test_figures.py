"""What a request counts in besides: pace, stages, savings, and what it was to its key (M6)."""

from __future__ import annotations

import pytest

from gateway.exchange import CacheState, Cost, Outcome, Timings, Usage, UsageSource
from gateway.metrics import Metrics
from tests.exchanges import exchange
from tests.metrics.test_sink import metrics, tokens

__all__ = ["metrics"]


def counted(metrics: Metrics, name: str):
    """What is not at 0."""
    samples = metrics.snapshot()[name].items()
    gauge = name == "gateway_upstream_up"
    return {
        labels: value
        for labels, value in samples
        if gauge or (any(value) if isinstance(value, list) else value)
    }


HIT = {
    "cache": CacheState.HIT,
    "attempts": 0,
    "usage": Usage(source=UsageSource.CACHE),
    "saved": Usage(12, 34, source=UsageSource.UPSTREAM),
    "saved_cost": Cost(4_000),
    "saved_seconds": 0.75,
    "cache_age": 60.0,
    "timings": Timings(received=0.25, admitted=0.5, looked_up=1.0, first_token=1.5, total=2.0),
}


def test_hits_are_in_series_of_their_own_and_in_no_upstream_s(metrics):
    """M6: they fake no low latency, and no spending."""
    metrics.book(exchange(**HIT))
    durations = counted(metrics, "gateway_request_duration_seconds")
    assert [labels for labels, row in durations.items() if any(row)] == [("gpt-4o", "hit")]
    assert tokens(metrics) == [0, 0, 0, 0]
    assert not counted(metrics, "gateway_upstream_requests_total")
    assert counted(metrics, "gateway_cache_saved_tokens_total") == {("gpt-4o", "pass-abababab"): 46}
    assert counted(metrics, "gateway_cache_saved_seconds_total") == {("gpt-4o",): 0.75}
    [row] = counted(metrics, "gateway_cache_hit_age_seconds").values()
    assert (row[2], row[-1]) == (1, 60)
    [row] = counted(metrics, "gateway_overhead_seconds").values()
    assert row[-1] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (HIT, {"receive": 0.25, "admit": 0.25, "look_up": 0.5, "replay": 1.0}),
        (HIT | {"cache": CacheState.JOINED}, {"receive": 0.25, "admit": 0.25, "look_up": 0.5,
                                              "join": 1.0}),
        ({}, {"receive": 1.0, "admit": 0.5, "connect": 1.5, "first_byte": 200.25, "relay": 696.75,
              "finish": 2.0}),
        ({"timings": Timings(received=1.0, admitted=1.5, connected=3.0, total=9.0)},
         {"receive": 1.0, "admit": 0.5, "connect": 1.5}),
        ({"timings": Timings(received=1.0, total=9.0), "attempts": 0}, {}),
    ],
    ids=["hit", "joined", "call", "no answer", "refused"],
)  # fmt: skip
def test_stages_are_as_far_as_it_came_and_add_up(metrics, changes, expected):
    metrics.book(exchange(**changes))
    stages = counted(metrics, "gateway_stage_duration_seconds").items()
    found = {stage: seconds for (stage,), (count, seconds) in stages if count}
    assert found == pytest.approx({stage: ms / 1000 for stage, ms in expected.items()})


@pytest.mark.parametrize(
    ("changes", "pace"),
    [
        ({}, 0.69 / 33),
        ({"stream": False}, None),
        ({"outcome": Outcome.UPSTREAM_TRUNCATED}, None),
        ({"usage": Usage(12, 1, source=UsageSource.UPSTREAM)}, None),
        ({"usage": Usage(12, 34, source=UsageSource.ESTIMATED)}, None),
        (HIT, None),
    ],
)
def test_pace_is_that_of_whole_streams_an_upstream_has_counted(metrics, changes, pace):
    metrics.book(exchange(**changes))
    rows = counted(metrics, "gateway_time_per_output_token_seconds").values()
    assert [row[-1] for row in rows if any(row)] == ([] if pace is None else [pytest.approx(pace)])


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "ok"),
        ({"outcome": Outcome.REFUSED, "status": 429}, "refused"),
        ({"outcome": Outcome.UPSTREAM_STATUS, "status": 400}, "client_error"),
        ({"outcome": Outcome.UPSTREAM_STATUS, "status": 500}, "server_error"),
        ({"outcome": Outcome.UPSTREAM_TRUNCATED}, "server_error"),
        ({"outcome": Outcome.CLIENT_DISCONNECT}, "left"),
    ],
)
def test_what_a_key_s_requests_came_to(metrics, changes, outcome):
    metrics.book(exchange(**changes))
    assert counted(metrics, "gateway_key_requests_total") == {("pass-abababab", outcome): 1}


def test_estimates_are_tokens_of_their_own(metrics):
    """A10."""
    metrics.book(exchange(usage=Usage(3, 4, source=UsageSource.ESTIMATED)))
    estimated = counted(metrics, "gateway_estimated_tokens_total")
    assert estimated == {("gpt-4o", "pass-abababab"): 7}
    assert tokens(metrics) == [0, 0, 0, 0]


def test_an_upstream_is_up_as_the_last_of_many_calls_says(metrics):
    """Also where they are counted together, and others like it came before the one that failed."""
    timeout = {"outcome": Outcome.UPSTREAM_TIMEOUT, "status": 504}
    for last in ({}, timeout):
        for number, changes in enumerate((last, timeout if not last else {}, last)):
            metrics.book(exchange(at=1_700_000_000.0 + number, **changes))
        found = metrics.snapshot()["gateway_upstream_up"]
        assert set(found.values()) == {0 if last else 1}


@pytest.mark.parametrize(
    ("changes", "up"),
    [
        ({}, 1),
        ({"outcome": Outcome.UPSTREAM_STATUS, "status": 429}, 1),
        ({"outcome": Outcome.UPSTREAM_STATUS, "status": 503}, 0),
        ({"outcome": Outcome.UPSTREAM_TIMEOUT, "status": 504}, 0),
        ({"outcome": Outcome.UPSTREAM_TRUNCATED}, 0),
    ],
)
def test_an_upstream_is_up_as_its_last_call_says(metrics, changes, up):
    gauge = "gateway_upstream_up"
    assert counted(metrics, gauge) == {}
    metrics.book(exchange(**changes))
    assert counted(metrics, gauge) == {("openai",): up}
    metrics.book(exchange(outcome=Outcome.CLIENT_DISCONNECT, summary=None))
    assert counted(metrics, gauge) == {("openai",): up}, "a client that leaves tells nothing"
    good = counted(metrics, "gateway_upstream_last_success_timestamp_seconds")
    assert good == ({("openai",): pytest.approx(1_750_000_001.15)} if not changes else {})


def test_others_count_by_name(metrics):
    metrics.add("gateway_quota_rejections_total", key="alice", kind="rpm")
    metrics.timer("gateway_quota_wait_seconds")(0.02)
    assert counted(metrics, "gateway_quota_rejections_total") == {("alice", "rpm"): 1}
    assert counted(metrics, "gateway_quota_wait_seconds")[()][3] == 1
    with pytest.raises(KeyError):
        metrics.add("gateway_quota_rejections_total", key="alice")
    with pytest.raises(KeyError):
        metrics.timer("gateway_no_such_thing")


def test_what_is_slow_to_read_is_read_where_the_page_is_made(metrics):
    metrics.watch_all("gateway_ledger_size_bytes", lambda: {(): 5}, slow=True)
    taken = metrics.snapshot()
    assert taken["gateway_ledger_size_bytes"] == {}
    metrics.read_slow(taken)
    assert taken["gateway_ledger_size_bytes"] == {(): 5}
