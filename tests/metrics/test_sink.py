"""What is counted, under which labels, and how few of them (contract, "Metrics"; A10, M1, B1)."""

from __future__ import annotations

import random
import string

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from gateway.config import UpstreamSection
from gateway.exchange import (
    NO_USAGE,
    CacheState,
    Caller,
    CallerKind,
    Outcome,
    Summary,
    Timings,
    Usage,
    UsageSource,
)
from gateway.metrics import SPECS, TABLE, Metrics, literal_models, upstream_outcome
from tests.exchanges import FixedClock, exchange


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), FixedClock())
    made.configure(models=["gpt-4o", "echo"], aliases=["billing"])
    return made


def counted(metrics: Metrics, name: str):
    return metrics.snapshot()[name]


def passthrough(name: str) -> Caller:
    return Caller(CallerKind.PASSTHROUGH, "id", name, "sk-canary")


def test_a_request_is_counted_once_under_its_labels(metrics):
    metrics.book(exchange())
    assert counted(metrics, "gateway_requests_total") == {
        ("chat/completions", "gpt-4o", "200", "bypass"): 1
    }
    assert counted(metrics, "gateway_errors_total") == {}


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("status", [200, 400, 401, 429, 499, 502, 503])
def test_every_ending_is_one_increment(metrics, outcome, status):
    """B1."""
    metrics.book(exchange(outcome=outcome, status=status))
    assert sum(counted(metrics, "gateway_requests_total").values()) == 1
    assert sum(counted(metrics, "gateway_errors_total").values()) == (outcome is not Outcome.OK)
    [row] = counted(metrics, "gateway_request_duration_seconds").values()
    assert sum(row[:-1]) == 1


@pytest.mark.parametrize("endpoint", ["healthz", "readyz"])
def test_probes_are_not_requests(metrics, endpoint):
    before = metrics.snapshot()
    metrics.book(exchange(endpoint=endpoint))
    assert metrics.snapshot() == before


def test_a_stream_that_broke_off_after_its_200_is_an_error(metrics):
    """B11: the code alone would not show it."""
    metrics.book(exchange(outcome=Outcome.UPSTREAM_TRUNCATED, error="upstream_error"))
    metrics.book(exchange(outcome=Outcome.CLIENT_DISCONNECT, error=None))
    assert counted(metrics, "gateway_errors_total") == {
        ("gpt-4o", "upstream_error"): 1,
        ("gpt-4o", "client_disconnect"): 1,
    }


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [(0.0, 0), (4.9, 0), (5.0, 0), (5.1, 1), (600_000, 15), (600_001, 16), (10**9, 16)],
)
def test_a_bucket_s_bound_is_inside_it(metrics, milliseconds, bucket):
    metrics.book(exchange(timings=Timings(total=milliseconds)))
    [row] = counted(metrics, "gateway_request_duration_seconds").values()
    assert row.index(1) == bucket
    assert row[-1] == pytest.approx(milliseconds / 1000)
    assert len(row) == len(SPECS["gateway_request_duration_seconds"].buckets) + 2


def test_buckets_reach_as_far_as_answers_take():
    """M5."""
    for spec in TABLE:
        assert len(spec.buckets) <= 16
        assert list(spec.buckets) == sorted(set(spec.buckets))
    assert SPECS["gateway_request_duration_seconds"].buckets[-1] >= 600
    assert SPECS["gateway_time_to_first_token_seconds"].buckets[-1] >= 120
    assert SPECS["gateway_overhead_seconds"].buckets[0] <= 0.0005


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, 1),
        ({"stream": False}, 0),
        ({"status": 500}, 0),
        ({"timings": Timings(total=5)}, 0),
    ],
)
def test_a_first_token_is_that_of_a_good_stream(metrics, changes, seen):
    """M6: only for streams with status 200 and a real first chunk."""
    metrics.book(exchange(**changes))
    rows = counted(metrics, "gateway_time_to_first_token_seconds").values()
    assert sum(sum(row[:-1]) for row in rows) == seen


# Tokens -----------------------------------------------------------------------------------------


def tokens(metrics: Metrics) -> list[float]:
    kinds = ("input", "output", "cached_input", "reasoning")
    return [sum(counted(metrics, f"gateway_{kind}_tokens_total").values()) for kind in kinds]


def test_tokens_are_those_the_upstream_reported(metrics):
    metrics.book(exchange())
    metrics.book(exchange())
    assert tokens(metrics) == [24, 68, 10, 12]
    assert list(counted(metrics, "gateway_input_tokens_total")) == [("gpt-4o", "pass-abababab")]


@pytest.mark.parametrize("source", [UsageSource.CACHE, UsageSource.ESTIMATED, UsageSource.NONE])
def test_tokens_nobody_billed_are_not_among_them(metrics, source):
    """A10: never mixed silently."""
    metrics.book(exchange(usage=Usage(1, 2, 3, 4, source)))
    assert tokens(metrics) == [0, 0, 0, 0]


def test_explicit_zeros_make_a_series_and_odd_counts_break_none(metrics):
    """A8; and a counter never falls."""
    metrics.book(exchange(usage=Usage(source=UsageSource.UPSTREAM)))
    assert counted(metrics, "gateway_input_tokens_total") == {("gpt-4o", "pass-abababab"): 0}
    metrics.book(exchange(usage=Usage(-5, 10**400, source=UsageSource.UPSTREAM)))
    assert tokens(metrics) == [0, 2**53, 0, 0]


def test_missing_usage_and_observer_faults_are_counted(metrics):
    """A7, A11."""
    assert counted(metrics, "gateway_observer_errors_total") == {(): 0}
    summary = Summary(missing="not_sent", observer_errors=3)
    metrics.book(exchange(usage=NO_USAGE, usage_missing="not_sent", summary=summary))
    assert counted(metrics, "gateway_usage_missing_total")["not_sent",] == 1
    assert counted(metrics, "gateway_observer_errors_total") == {(): 3}


# Upstreams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "2xx"),
        ({"status": 302}, "3xx"),
        ({"status": 404, "outcome": Outcome.UPSTREAM_STATUS}, "4xx"),
        ({"status": 429, "outcome": Outcome.UPSTREAM_STATUS}, "429"),
        ({"status": 503, "outcome": Outcome.UPSTREAM_STATUS}, "5xx"),
        ({"status": 502, "outcome": Outcome.UPSTREAM_ERROR}, "error"),
        ({"status": 504, "outcome": Outcome.UPSTREAM_TIMEOUT}, "timeout"),
        ({"outcome": Outcome.UPSTREAM_TRUNCATED}, "cut"),
        ({"outcome": Outcome.UPSTREAM_IN_BAND_ERROR}, "in_band_error"),
        ({"outcome": Outcome.CLIENT_DISCONNECT}, "2xx"),
        ({"outcome": Outcome.CLIENT_DISCONNECT, "summary": Summary()}, "abandoned"),
        ({"outcome": Outcome.CLIENT_DISCONNECT, "summary": None, "status": 499}, "abandoned"),
        ({"outcome": Outcome.DRAINED}, "abandoned"),
        ({"outcome": Outcome.INTERNAL, "status": 500}, "abandoned"),
    ],
)
def test_how_a_call_ended(changes, outcome):
    assert upstream_outcome(exchange(**changes)) == outcome


def test_a_call_is_counted_with_its_retries_and_waits(metrics):
    metrics.book(exchange(attempts=3))
    assert counted(metrics, "gateway_upstream_requests_total") == {("openai", "gpt-4o", "2xx"): 1}
    assert counted(metrics, "gateway_upstream_retries_total") == {("openai",): 2}
    for name, seconds in (
        ("gateway_upstream_queue_wait_seconds", 0.0005),
        ("gateway_upstream_first_byte_seconds", 0.20025),
        ("gateway_upstream_request_duration_seconds", 0.897),
    ):
        assert counted(metrics, name)["openai",][-1] == pytest.approx(seconds)


@pytest.mark.parametrize("changes", [{"attempts": 0}, {"upstream": None}])
def test_what_never_reached_an_upstream_is_no_call(metrics, changes):
    metrics.book(exchange(cache=CacheState.HIT, **changes))
    assert counted(metrics, "gateway_upstream_requests_total") == {}


# Labels -----------------------------------------------------------------------------------------


def models(metrics: Metrics) -> set[str]:
    return {labels[1] for labels in counted(metrics, "gateway_requests_total")}


def refused(model):
    return exchange(model=model, status=404, outcome=Outcome.REFUSED, attempts=0, upstream=None)


@pytest.mark.parametrize(
    "change",
    [
        {"status": 404, "outcome": Outcome.UPSTREAM_STATUS},
        {"attempts": 0},
        {"outcome": Outcome.UPSTREAM_TRUNCATED},
        {"model": None},
        {"model": "x" * 129},
        {"model": "evil\nname"},
        {"model": "\ud800"},
    ],
)
def test_a_model_nobody_answered_is_other(metrics, change):
    metrics.book(exchange(**{"model": "unheard-of", **change}))
    assert models(metrics) == {"other"}


def test_a_model_is_a_label_when_configured_or_once_answered(metrics):
    metrics.book(refused("echo"))
    metrics.book(refused("later"))
    assert models(metrics) == {"echo", "other"}
    metrics.book(exchange(model="later"))
    metrics.book(refused("later"))
    assert counted(metrics, "gateway_requests_total") == {
        ("chat/completions", "echo", "404", "bypass"): 1,
        ("chat/completions", "other", "404", "bypass"): 1,
        ("chat/completions", "later", "200", "bypass"): 1,
        ("chat/completions", "later", "404", "bypass"): 1,
    }


def test_the_configuration_names_models_by_their_names_not_by_patterns():
    upstreams = [
        UpstreamSection(name="a", base_url="echo:", models=["echo", "gpt-*", "m?", "[ab]"]),
        UpstreamSection(name="b", base_url="http://b", rename={"public": "real"}),
    ]
    assert literal_models(upstreams) == {"echo", "public"}


def series(metrics: Metrics) -> int:
    return sum(map(len, metrics.snapshot().values()))


def test_ten_thousand_random_models_and_keys_leave_the_series_bounded(metrics):
    """M1: first by strangers who are refused, then by an upstream that answers everything."""
    dice = random.Random(4711)

    def word() -> str:
        return "".join(dice.choices(string.printable, k=dice.randint(1, 40)))

    metrics.book(replace(refused("echo"), caller=None))
    before = series(metrics)
    for _ in range(10_000):
        metrics.book(
            exchange(
                model=word(), caller=None, status=401, outcome=Outcome.REFUSED,
                attempts=0, upstream=None, usage=NO_USAGE, path=word(), client=word(),
            )
        )  # fmt: skip
    assert series(metrics) <= before + 5  # those of `other` and of 401
    for _ in range(10_000):
        metrics.book(exchange(model=word(), caller=passthrough(word())))
    bounded = series(metrics)
    assert len(models(metrics)) == 202  # echo, 200 that were answered, and `other`
    keys = {key for _, key in counted(metrics, "gateway_input_tokens_total")}
    assert len(keys) == 201 and "other" in keys
    for _ in range(1000):
        metrics.book(exchange(model=word(), caller=passthrough(word())))
    assert series(metrics) == bounded
    assert sum(counted(metrics, "gateway_input_tokens_total").values()) == 12 * 11_000
    assert sum(counted(metrics, "gateway_key_requests_total").values()) == 11_000


def test_no_family_outgrows_its_cap_and_the_cap_says_so(metrics):
    for number in range(5000):
        metrics.book(exchange(error=f"upstream_{number}", outcome=Outcome.UPSTREAM_STATUS))
    family = counted(metrics, "gateway_errors_total")
    assert len(family) == 2001
    assert family["other", "other"] == 3000
    capped = counted(metrics, "gateway_metric_series_capped_total")
    assert capped == {("gateway_errors_total",): 3000}


def test_aliases_anonymous_and_issued_names_stay_labels_when_strangers_are_many(metrics):
    for number in range(300):
        metrics.book(exchange(caller=passthrough(f"pass-{number:08x}")))
    for caller in (
        passthrough("billing"),
        Caller(CallerKind.ANONYMOUS, "anonymous", "anonymous"),
        Caller(CallerKind.ISSUED, "id", "team-a"),
    ):
        metrics.book(exchange(caller=caller))
    keys = {key for _, key in counted(metrics, "gateway_output_tokens_total")}
    assert {"billing", "anonymous", "team-a", "other"} <= keys


# Watched values and reloads ---------------------------------------------------------------------


def test_a_watched_value_is_read_at_each_snapshot(metrics):
    now = [3.0]
    metrics.watch("gateway_requests_in_flight", lambda: now[0])
    metrics.watch("gateway_access_log_lines_total", lambda: 7, result="written")
    assert counted(metrics, "gateway_requests_in_flight") == {(): 3.0}
    now[0] = 4.0
    assert counted(metrics, "gateway_requests_in_flight") == {(): 4.0}
    assert counted(metrics, "gateway_access_log_lines_total") == {("written",): 7}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("gateway_no_such_thing", {}),
        ("gateway_access_log_lines_total", {}),
        ("gateway_requests_in_flight", {"upstream": "a"}),
    ],
)
def test_only_what_is_in_the_table_can_be_watched(metrics, name, labels):
    with pytest.raises(KeyError):
        metrics.watch(name, lambda: 0, **labels)


def test_one_broken_gauge_blinds_nobody(metrics, caplog):
    def broken() -> float:
        raise RuntimeError("gone")

    metrics.watch("gateway_requests_in_flight", broken)
    metrics.watch("gateway_streams_open", lambda: 2)
    assert counted(metrics, "gateway_streams_open") == {(): 2}
    assert "gateway_requests_in_flight cannot be read" in caplog.text


def test_a_snapshot_does_not_move(metrics):
    metrics.book(exchange())
    before = metrics.snapshot()
    metrics.book(exchange())
    assert before["gateway_requests_total"]["chat/completions", "gpt-4o", "200", "bypass"] == 1
    [row] = before["gateway_request_duration_seconds"].values()
    assert sum(row[:-1]) == 1


def test_reloads_say_whether_the_running_configuration_is_the_written_one(metrics):
    clock = metrics.clock
    started = clock.now()
    clock.seconds += 60
    metrics.reloaded(ok=False)
    assert counted(metrics, "gateway_config_last_reload_successful") == {(): 0}
    stamp = "gateway_config_last_reload_success_timestamp_seconds"
    assert counted(metrics, stamp) == {(): started}
    metrics.reloaded(ok=True)
    assert counted(metrics, "gateway_config_last_reload_successful") == {(): 1}
    assert counted(metrics, stamp) == {(): started + 60}
    assert counted(metrics, "gateway_config_reloads_total") == {("ok",): 1, ("failed",): 1}
