"""Is it healthy? Success and speed first, what is behind them below."""

from __future__ import annotations

from tools.dashboards.frame import Board
from tools.dashboards.panels import (
    ANY_IS_NOTABLE,
    BAD,
    CALM,
    GOOD,
    WARN,
    Column,
    Panel,
    Target,
    series,
    stat,
    table,
)
from tools.dashboards.queries import FOUND, LOOKED_UP, OBJECTIVE, RANGE, Queries, share

FIRST_TOKEN = "gateway_time_to_first_token_seconds"
CALLED = 'cache!="hit"'  # hits would hide how long the rest waits
ALERTS = 'ALERTS{alertname=~"Gateway.+", alertstate="firing"}'
CACHE_COLORS = {
    "hit": GOOD,
    "joined": "yellow",
    "miss": CALM,
    "bypass": "purple",
    "none": "gray",
}


def board() -> Board:
    made = Board(
        "overview",
        "Gateway: overview",
        "Is the gateway healthy, how fast is it, and what does it cost and save?",
        "model",
        "key",
        span="1h",
    )
    made.add(*_answer(made.queries))
    made.row("Requests")
    made.add(*_requests(made.queries))
    made.row("What clients wait for")
    made.add(*_waits(made.queries))
    made.row("Load, and what is wrong")
    made.add(*_load(made.queries))
    return made


def _answer(q: Queries) -> tuple[Panel, ...]:
    up = f"min ({q.select('gateway_ready')} or {q.select('up')})"
    hits = share(
        q.total("gateway_requests_total", where=FOUND),
        q.total("gateway_requests_total", where=LOOKED_UP),
    )
    first = q.quantile(0.95, FIRST_TOKEN, where=CALLED, window=RANGE)
    return (
        stat(
            "State",
            "Ready: every instance is up and takes requests (/readyz). Not ready: at least one "
            "does not.",
            up,
            unit="none",
            words={"1": ("Ready", GOOD), "0": ("Not ready", BAD)},
            none="Not there",
        ),
        stat(
            "Alerts firing",
            "Alerts of dashboards/prometheus/rules that fire now; which ones stands at the "
            "bottom. Always 0 where Prometheus has no such rules.",
            f"count({ALERTS}) or vector(0)",
            unit="none",
            steps=ANY_IS_NOTABLE,
            decimals=0,
        ),
        stat(
            "Success",
            "Share of the requests in the time shown that ended well. The client's own mistakes "
            "(4xx, 499) do not count; a stream that broke off does. The objective is 99.5 %.",
            f"1 - {q.failed(RANGE)}",
            unit="percentunit",
            decimals=2,
            steps=[(None, BAD), (0.99, WARN), (OBJECTIVE, GOOD)],
        ),
        stat(
            "Budget left, 30 d",
            "The error budget: how much of the 0.5 % that may fail in 30 days is left. Below 0 it "
            "is overspent.",
            f"1 - {q.failed('30d')} / {round(1 - OBJECTIVE, 6)}",
            unit="percentunit",
            decimals=0,
            steps=[(None, BAD), (0, WARN), (0.25, GOOD)],
        ),
        stat(
            "Requests per second",
            "Requests to the data plane now, whatever became of them.",
            q.rate("gateway_requests_total"),
            unit="reqps",
            graph=True,
        ),
        stat(
            "First token, p95",
            "19 of 20 streams in the time shown began to speak within this time. Answers from the "
            "cache, which take no time, are left out.",
            first,
            unit="s",
            steps=[(None, GOOD), (2.5, WARN), (5, BAD)],
        ),
        stat(
            "From the cache",
            "Share of the requests looked up in the cache that a kept answer, or another's call "
            "under way, served in the time shown.",
            hits,
            unit="percentunit",
            decimals=1,
        ),
        stat(
            "Spent and saved",
            "What calls to upstreams cost in the time shown, and what answers from the cache "
            "would have cost.",
            Target(q.total("gateway_cost_usd_total"), "spent"),
            Target(q.total("gateway_cache_saved_cost_usd_total"), "saved"),
            unit="currencyUSD",
            decimals=2,
            text="value_and_name",
        ),
    )


def _requests(q: Queries) -> tuple[Panel, ...]:
    return (
        series(
            "Requests by model",
            "Requests per second, by the model that was asked for. `other`: names that no "
            "upstream answers to.",
            Target(q.rate("gateway_requests_total", "model"), "{{model}}"),
            unit="reqps",
            stack=True,
        ),
        series(
            "Answers by status",
            "The HTTP status that clients got. 499: the client left before there was one.",
            Target(q.rate("gateway_requests_total", "code"), "{{code}}"),
            unit="reqps",
            stack=True,
            colors={
                "200": GOOD,
                "499": "gray",
                "429": WARN,
                "500": BAD,
                "502": "dark-red",
                "503": "semi-dark-red",
                "504": "light-red",
            },
        ),
        series(
            "What did not end well",
            "Requests that ended in an error, by its code (docs/errors.md). upstream_NNN: the "
            "upstream said NNN; client_disconnect: the client left.",
            Target(q.rate("gateway_errors_total", "reason"), "{{reason}}"),
            unit="reqps",
            stack=True,
        ),
    )


def _waits(q: Queries) -> tuple[Panel, ...]:
    def three(name: str, where: str = "") -> list[Target]:
        return [
            Target(q.quantile(part, name, where=where), label, exemplars=True)
            for part, label in ((0.99, "p99"), (0.95, "p95"), (0.5, "p50"))
        ]

    colors = {"p99": BAD, "p95": WARN, "p50": GOOD}
    return (
        series(
            "Time to first token",
            "From the request to the first content of its stream; answers from the cache are left "
            "out.",
            *three(FIRST_TOKEN, CALLED),
            unit="s",
            colors=colors,
        ),
        series(
            "Time to the end of the answer",
            "The whole request, as its client waits for it, answers from the cache included.",
            *three("gateway_request_duration_seconds"),
            unit="s",
            colors=colors,
        ),
        series(
            "The gateway's own part of it",
            "What the gateway adds: the request's time less what it waited for the upstream. Its "
            "last bound is 1 s.",
            Target(q.quantile(0.99, "gateway_overhead_seconds"), "p99"),
            Target(q.quantile(0.5, "gateway_overhead_seconds"), "p50"),
            unit="s",
            colors=colors,
        ),
    )


def _load(q: Queries) -> tuple[Panel, ...]:
    return (
        series(
            "Under way",
            "Requests and streams that are open now, and the connections of clients, idle ones "
            "too.",
            Target(q.now("gateway_client_connections"), "connections"),
            Target(q.now("gateway_requests_in_flight"), "requests"),
            Target(q.now("gateway_streams_open"), "streams"),
            unit="short",
        ),
        series(
            "What the cache did",
            "hit: a kept answer; joined: an equal request's call under way; miss: an upstream was "
            "asked; bypass: not looked up; none: the gateway answered by itself.",
            Target(q.rate("gateway_requests_total", "cache"), "{{cache}}"),
            unit="reqps",
            stack=True,
            colors=CACHE_COLORS,
        ),
        series(
            "Failed calls by upstream",
            "Share of the calls that got no good answer: 5xx, no answer, a timeout, a broken-off "
            "stream. What clients gave up is left out.",
            Target(_failed_calls(q), "{{upstream}}"),
            unit="percentunit",
            limit=[(None, GOOD), (0.2, BAD)],
        ),
        table(
            "Alerts that fire (none is good)",
            "What to do about each stands in docs/runbooks.md under its name. Empty is good.",
            {"alertname": "Alert", "severity": "Severity"},
            [Column("Firing", f"sum by (alertname, severity) ({ALERTS})", decimals=0)],
            sort="Alert",
            descending=False,
            height=6,
            may_be_empty="no alert fires in a healthy gateway",
        ),
    )


def _failed_calls(q: Queries) -> str:
    calls = q.rate("gateway_upstream_requests_total", "upstream", 'outcome!="abandoned"')
    bad = q.rate(
        "gateway_upstream_requests_total",
        "upstream",
        'outcome=~"5xx|timeout|error|cut|in_band_error"',
    )
    return share(bad, calls)
