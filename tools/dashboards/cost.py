"""Who spends what?"""

from __future__ import annotations

from tools.dashboards.frame import Board
from tools.dashboards.panels import (
    ANY_IS_NOTABLE,
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
from tools.dashboards.queries import RANGE, Queries, share

DAY = 86_400
COST = "gateway_cost_usd_total"


def board() -> Board:
    made = Board(
        "cost",
        "Gateway: cost and usage per key",
        "Who spends what, on which model, and how much will it be in a month?",
        "model",
        "key",
        span="24h",
    )
    q = made.queries
    made.add(*_answer(q), *_rankings(q))
    made.row("Each key")
    made.add(_keys(q))
    made.row("Over time")
    made.add(*_over_time(q))
    made.row("Tokens, and how far the figures can be trusted")
    made.add(*_tokens(q), *_trust(q))
    return made


def _answer(q: Queries) -> list[Panel]:
    requests = q.total("gateway_key_requests_total")
    return [
        stat(
            "Spent",
            "What calls to upstreams cost in the time shown, by the price data. `gateway usage` "
            "has the exact figures.",
            q.total(COST),
            unit="currencyUSD",
            decimals=2,
            width=4,
        ),
        stat(
            "In 30 days at this pace",
            "What it comes to if 30 days are like the time shown.",
            f"{q.rate(COST, window=RANGE)} * {30 * DAY}",
            unit="currencyUSD",
            decimals=2,
            width=4,
        ),
        stat(
            "Requests",
            "Requests of callers with a valid credential in the time shown.",
            requests,
            unit="locale",
            decimals=0,
            width=4,
        ),
        stat(
            "Input tokens",
            "Prompt tokens in the time shown, as upstreams reported them.",
            q.total("gateway_input_tokens_total"),
            unit="short",
            width=4,
        ),
        stat(
            "Output tokens",
            "Completion tokens in the time shown, as upstreams reported them.",
            q.total("gateway_output_tokens_total"),
            unit="short",
            width=4,
        ),
        stat(
            "Calls without a price",
            "Calls with tokens whose model has no price: their cost is not in the figures here. "
            "Give the model one under `models`.",
            f"{q.total('gateway_unpriced_requests_total')} or 0 * {requests}",
            unit="locale",
            decimals=0,
            steps=ANY_IS_NOTABLE,
            width=4,
        ),
    ]


def _rankings(q: Queries) -> list[Panel]:
    def top(by: str) -> Target:
        spent = q.total(COST, by)
        return Target(f"sort_desc(topk(10, {spent} > 0))", f"{{{{{by}}}}}")

    return [
        bars(
            "Spent by key",
            "The ten keys that spent most in the time shown.",
            top("key"),
            unit="currencyUSD",
            decimals=2,
            width=12,
        ),
        bars(
            "Spent by model",
            "The ten models that cost most in the time shown.",
            top("model"),
            unit="currencyUSD",
            decimals=2,
            width=12,
        ),
    ]


def _keys(q: Queries) -> Panel:
    requests = q.total("gateway_key_requests_total", "key")
    bad = q.total("gateway_key_requests_total", "key", 'outcome="server_error"')
    refused = q.total("gateway_key_requests_total", "key", 'outcome="refused"')
    cost = q.total(COST, "key")
    return table(
        "Keys",
        "Each key in the time shown. Failed: no good answer came; refused: by a limit, or for a "
        "model that the key may not use. Saved: what its answers from the cache would have cost.",
        {"key": "Key"},
        [
            Column("Requests", requests, "locale", 0),
            Column(
                "Failed",
                share(bad, requests),
                "percentunit",
                1,
                [(None, GOOD), (0.01, WARN), (0.05, BAD)],
            ),
            Column(
                "Refused", share(refused, requests), "percentunit", 1, [(None, GOOD), (0.01, WARN)]
            ),
            Column("Input tokens", q.total("gateway_input_tokens_total", "key")),
            Column("Output tokens", q.total("gateway_output_tokens_total", "key")),
            Column("Spent", cost, "currencyUSD", 2),
            Column("Per request", f"{cost} / ({requests} > 0)", "currencyUSD", 4),
            Column("Saved", q.total("gateway_cache_saved_cost_usd_total", "key"), "currencyUSD", 2),
        ],
        sort="Spent",
    )


def _over_time(q: Queries) -> list[Panel]:
    def hourly(by: str) -> Target:
        pace = f"{q.rate(COST, by)} * 3600"
        return Target(f"{pace} and on ({by}) {q.largest(10, COST, by)}", f"{{{{{by}}}}}")

    return [
        series(
            "Dollars per hour by key",
            "The pace at which each key spends: the ten that spent most in the time shown.",
            hourly("key"),
            unit="currencyUSD",
            stack=True,
            width=12,
        ),
        series(
            "Dollars per hour by model",
            "The pace at which each model costs: the ten that cost most in the time shown.",
            hourly("model"),
            unit="currencyUSD",
            stack=True,
            width=12,
        ),
    ]


def _tokens(q: Queries) -> list[Panel]:
    spoken = [
        Target(q.rate(f"gateway_{kind}_tokens_total"), label)
        for kind, label in (
            ("input", "input"),
            ("cached_input", "of it cached by the provider"),
            ("output", "output"),
            ("reasoning", "of it reasoning"),
        )
    ]
    sizes = [
        Target(q.quantile(part, f"gateway_request_{kind}_tokens"), f"{kind} {label}")
        for kind in ("input", "output")
        for part, label in ((0.95, "p95"), (0.5, "p50"))
    ]
    return [
        series(
            "Tokens per second",
            "As upstreams report them. Cached input and reasoning are parts of input and output, "
            "not on top.",
            *spoken,
            unit="short",
        ),
        series(
            "Tokens of one request",
            "How large prompts and answers are: half are below p50, 19 of 20 below p95.",
            *sizes,
            unit="short",
        ),
    ]


def _trust(q: Queries) -> list[Panel]:
    return [
        series(
            "Figures that are not exact",
            "Tokens per second that the gateway had to estimate, and calls per minute whose usage "
            "was missing or whose model has no price. 0 is good.",
            Target(q.rate("gateway_estimated_tokens_total"), "estimated tokens per second"),
            Target(f"{q.rate('gateway_usage_estimated_total')} * 60", "estimated calls per minute"),
            Target(
                f"{q.rate('gateway_usage_missing_total')} * 60", "calls without usage per minute"
            ),
            Target(
                f"{q.rate('gateway_unpriced_requests_total')} * 60",
                "calls without a price per minute",
            ),
            unit="short",
        ),
    ]
