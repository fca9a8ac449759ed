"""What the recording rules make of some traffic, figured by hand."""

from __future__ import annotations

from dataclasses import dataclass

from tests.alerts.promtool import Series
from tests.alerts.series import buckets, calls, errors, first_token, one, overhead, requests


@dataclass(frozen=True, slots=True)
class Recording:
    """What rules hold `at` some time over `series` of a sample a minute: value by labels."""

    about: str
    series: Series
    values: dict[str, dict[str, float]]
    at: str = "30m"


JOB = 'job="gateway"'
UPSTREAM = f'{JOB}, upstream="openai"'
WINDOWS = ("5m", "30m", "1h", "6h")

RECORDINGS = (
    # 60 requests a minute that count (1/s), 6 of them bad (0.1/s): 3 are cut streams, with a 200.
    # Beside them the clients' own mistakes, and clients that leave.
    Recording(
        "the objective",
        {
            **requests("200", "0+57x400"),
            **requests("502", "0+3x400"),
            **requests("401", "0+30x400"),
            **requests("499", "0+12x400"),
            **errors("upstream_error", "0+4x400"),
            **errors("upstream_503", "0+2x400"),
            **errors("upstream_404", "0+30x400"),
            **errors("client_disconnect", "0+12x400"),
        },
        {
            **{f"job:gateway_requests_valid:rate{window}": {JOB: 1} for window in WINDOWS},
            **{f"job:gateway_requests_failed:rate{window}": {JOB: 0.1} for window in WINDOWS},
            **{f"job:gateway_slo_errors:ratio_rate{window}": {JOB: 0.1} for window in WINDOWS},
        },
        at="6h30m",
    ),
    Recording(
        "no traffic is no ratio",
        {**requests("200", "5x60"), **errors("upstream_error", "5x60")},
        {
            "job:gateway_requests_valid:rate5m": {JOB: 0},
            "job:gateway_slo_errors:ratio_rate5m": {},
            "job:gateway_cache_hits:ratio_rate30m": {},
        },
        at="50m",
    ),
    Recording(
        "latency",
        {
            **overhead("54"),
            **overhead("0", "files"),
            **first_token("miss", "6"),
            **first_token("hit", "12"),
            **buckets(
                "gateway_event_loop_lag_seconds", "", {"0.1": "0+120x60", "+Inf": "0+240x60"}
            ),
        },
        {
            "job_le:gateway_overhead_seconds_bucket:rate5m": {
                f'{JOB}, le="0.05"': 0.9,
                f'{JOB}, le="0.1"': 0.9,
                f'{JOB}, le="0.25"': 1,
                f'{JOB}, le="+Inf"': 1,
            },
            "job_model_le:gateway_time_to_first_token_seconds_bucket:rate5m": {
                f'{JOB}, model="gpt-4o", le="2.5"': 0.1,
                f'{JOB}, model="gpt-4o", le="5"': 0.1,
                f'{JOB}, model="gpt-4o", le="10"': 0.2,
                f'{JOB}, model="gpt-4o", le="+Inf"': 0.2,
            },
            "job_instance_le:gateway_event_loop_lag_seconds_bucket:rate5m": {
                f'{JOB}, instance="gw:8081", le="0.1"': 2,
                f'{JOB}, instance="gw:8081", le="+Inf"': 4,
            },
        },
    ),
    Recording(
        "upstreams",
        {
            **calls("2xx", "0+24x60"),
            **calls("429", "0+6x60"),
            **calls("5xx", "0+6x60"),
            **calls("cut", "0+12x60"),
            **calls("abandoned", "0+60x60"),
        },
        {
            "job_upstream_outcome:gateway_upstream_requests:rate5m": {
                f'{UPSTREAM}, outcome="2xx"': 0.4,
                f'{UPSTREAM}, outcome="429"': 0.1,
                f'{UPSTREAM}, outcome="5xx"': 0.1,
                f'{UPSTREAM}, outcome="cut"': 0.2,
            },
            "job_upstream:gateway_upstream_requests:rate5m": {UPSTREAM: 0.8},
            "job_upstream:gateway_upstream_requests_failed:rate5m": {UPSTREAM: 0.3},
            "job_upstream:gateway_upstream_errors:ratio_rate5m": {UPSTREAM: 0.375},
        },
    ),
    Recording(
        "cache and money",
        {
            **requests("200", "0+30x60", "miss"),
            **requests("200", "0+20x60", "hit"),
            **requests("200", "0+10x60", "joined"),
            **requests("200", "0+60x60", "bypass"),
            **requests("400", "0+60x60", "none"),
            **one("gateway_cost_usd_total", "0+0.05x60", 'key="alice",model="gpt-4o"'),
            **one("gateway_cost_usd_total", "0+0.15x60", 'key="alice",model="o3"'),
        },
        {
            "job:gateway_cache_lookups:rate30m": {JOB: 1},
            "job:gateway_cache_hits:ratio_rate30m": {JOB: 0.5},
            "job_key:gateway_cost_usd:increase1h": {f'{JOB}, key="alice"': 12},
        },
        at="60m",
    ),
)
