"""Which upstream is slow, or down?"""

from __future__ import annotations

from tools.dashboards.frame import Board
from tools.dashboards.panels import (
    BAD,
    GOOD,
    WARN,
    Column,
    Panel,
    Target,
    bars,
    series,
    stat,
    table,
)
from tools.dashboards.queries import RANGE, RATE, Queries, share

CALLS = "gateway_upstream_requests_total"
COUNTED = 'outcome!="abandoned"'  # what the client gave up says nothing about the upstream
BROKEN = 'outcome=~"5xx|timeout|error|cut|in_band_error"'
FIRST, WHOLE = ("gateway_upstream_first_byte_seconds", "gateway_upstream_request_duration_seconds")
UP = {"1": ("Up", GOOD), "0": ("Down", BAD)}
FAILURES = [(None, GOOD), (0.01, WARN), (0.2, BAD)]


def failed(q: Queries, window: str = RATE) -> str:
    """Share of the calls to each upstream that got no good answer."""
    return share(
        q.rate(CALLS, "upstream", BROKEN, window), q.rate(CALLS, "upstream", COUNTED, window)
    )


def board() -> Board:
    made = Board(
        "upstreams",
        "Gateway: upstreams",
        "Which upstream is slow, failing or down, and since when?",
        "model",
        "upstream",
        span="1h",
    )
    q = made.queries
    made.add(_state(q), _slowest(q), _each(q))
    made.row("How fast")
    made.add(*_speed(q))
    made.row("How well")
    made.add(*_outcomes(q))
    made.row("How busy")
    made.add(*_load(q))
    return made


def _state(q: Queries) -> Panel:
    return stat(
        "Up or down",
        "As the last call that told: up where it was answered below 500. An upstream without any "
        "call yet is not shown.",
        Target(q.now("gateway_upstream_up", "upstream", how="min"), "{{upstream}}"),
        unit="none",
        words=UP,
        text="value_and_name",
        width=12,
        height=6,
    )


def _slowest(q: Queries) -> Panel:
    return bars(
        "First byte, p95",
        "How long each upstream thinks: 19 of 20 calls in the time shown had their first byte "
        "within this time.",
        Target(
            f"sort_desc({q.quantile(0.95, FIRST, 'upstream', window=RANGE)} >= 0)", "{{upstream}}"
        ),
        unit="s",
        steps=[(None, GOOD), (2.5, WARN), (5, BAD)],
        width=12,
        height=6,
    )


def _each(q: Queries) -> Panel:
    last = q.now("gateway_upstream_last_success_timestamp_seconds", "upstream", how="max")
    return table(
        "Each upstream",
        "The time shown. Failed: 5xx, no answer, a timeout, a broken-off stream; what clients "
        "gave up is left out. Waiting: calls that wait for a free connection.",
        {"upstream": "Upstream"},
        [
            Column("State", q.now("gateway_upstream_up", "upstream", how="min"), "none", words=UP),
            Column("Calls per second", q.rate(CALLS, "upstream", window=RANGE), "reqps", 2),
            Column("Failed", failed(q, RANGE), "percentunit", 1, FAILURES),
            Column(
                "First byte, p50", f"{q.quantile(0.5, FIRST, 'upstream', window=RANGE)} >= 0", "s"
            ),
            Column(
                "First byte, p95", f"{q.quantile(0.95, FIRST, 'upstream', window=RANGE)} >= 0", "s"
            ),
            Column(
                "Whole answer, p95",
                f"{q.quantile(0.95, WHOLE, 'upstream', window=RANGE)} >= 0",
                "s",
            ),
            Column("Under way", q.now("gateway_upstream_in_flight", "upstream"), decimals=0),
            Column("Waiting", q.now("gateway_upstream_queued", "upstream"), decimals=0),
            Column("Last good answer", f"{last} * 1000", "dateTimeFromNow"),
        ],
        sort="First byte, p95",
        height=7,
    )


def _speed(q: Queries) -> list[Panel]:
    ttft = "gateway_time_to_first_token_seconds"
    return [
        series(
            "First byte over time, p95",
            "How long each upstream thinks before it answers.",
            Target(q.quantile(0.95, FIRST, "upstream"), "{{upstream}}"),
            unit="s",
            width=12,
        ),
        series(
            "Whole answer over time, p95",
            "From a connection at hand to the last byte. It grows with the answers' length.",
            Target(q.quantile(0.95, WHOLE, "upstream"), "{{upstream}}"),
            unit="s",
            width=12,
        ),
        series(
            "Time per output token",
            "The pace of streams by model: after the first content, for each token. Half are "
            "faster.",
            Target(q.quantile(0.5, "gateway_time_per_output_token_seconds", "model"), "{{model}}"),
            unit="s",
            width=12,
        ),
        series(
            "First token by model, p95",
            "What clients wait for the first content of a stream; answers from the cache are left "
            "out.",
            Target(q.quantile(0.95, ttft, "model", 'cache!="hit"'), "{{model}}"),
            unit="s",
            width=12,
        ),
    ]


def _outcomes(q: Queries) -> list[Panel]:
    return [
        series(
            "Calls by outcome",
            "2xx is good. error: no answer; timeout; cut: broken off; in_band_error: an error "
            "inside a 200; abandoned: given up here, or by the client.",
            Target(q.rate(CALLS, "outcome"), "{{outcome}}"),
            unit="reqps",
            stack=True,
            colors={
                "2xx": GOOD,
                "4xx": "yellow",
                "429": WARN,
                "5xx": BAD,
                "error": "dark-red",
                "timeout": "purple",
                "cut": "light-red",
                "abandoned": "gray",
            },
        ),
        series(
            "Failed calls",
            "Share of each upstream's calls that got no good answer. From 20 % on, an alert fires.",
            Target(failed(q), "{{upstream}}"),
            unit="percentunit",
            limit=[(None, GOOD), (0.2, BAD)],
        ),
        series(
            "Refused with 429, and tried again",
            "Calls that the provider's own limits refused, and second attempts on a fresh "
            "connection, per minute.",
            Target(f"{q.rate(CALLS, 'upstream', RATE_LIMITED)} * 60", "{{upstream}}: 429"),
            Target(
                f"{q.rate('gateway_upstream_retries_total', 'upstream')} * 60",
                "{{upstream}}: again",
            ),
            unit="short",
        ),
    ]


RATE_LIMITED = 'outcome="429"'


def _load(q: Queries) -> list[Panel]:
    return [
        series(
            "Calls under way",
            "Calls that each upstream works on now.",
            Target(q.now("gateway_upstream_in_flight", "upstream"), "{{upstream}}"),
            unit="short",
            stack=True,
        ),
        series(
            "Calls that wait for a connection",
            "Calls that wait now because max_connections is reached.",
            Target(q.now("gateway_upstream_queued", "upstream"), "{{upstream}}"),
            unit="short",
        ),
        series(
            "Wait for a connection, p95",
            "How long calls waited for a free connection (max_connections).",
            Target(
                q.quantile(0.95, "gateway_upstream_queue_wait_seconds", "upstream"), "{{upstream}}"
            ),
            unit="s",
        ),
        series(
            "Idle connections",
            "Open connections that wait for a call.",
            Target(q.now("gateway_upstream_connections_idle", "upstream"), "{{upstream}}"),
            unit="short",
            width=12,
        ),
        series(
            "Left of the provider's own limits",
            "What the upstream said last in x-ratelimit-remaining-*: requests or tokens. Empty "
            "where it says nothing.",
            Target(
                q.now("gateway_upstream_ratelimit_remaining", "upstream, kind", how="min"),
                "{{upstream}}: {{kind}}",
            ),
            unit="short",
            width=12,
        ),
    ]
