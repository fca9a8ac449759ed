"""Who is about to hit a limit?"""

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
from tools.dashboards.queries import END, RANGE, Queries

LIMIT, USED, HELD = ("gateway_quota_limit", "gateway_quota_used", "gateway_quota_reserved")
REFUSED = "gateway_quota_rejections_total"
EACH = "key, kind"
SLOW = 'kind!~"rpm|tpm|max_parallel"'  # windows that fill for hours
NEAR = 0.8
FULLNESS = [(None, GOOD), (NEAR, WARN), (1, BAD)]


def board() -> Board:
    made = Board(
        "quotas",
        "Gateway: quotas",
        "Who is about to hit a limit, who has hit one, and when does it reset?",
        "key",
        span="6h",
    )
    q = made.queries
    made.add(*_answer(q), _ranking(q), _refused_by_key(q))
    made.row("Each limit")
    made.add(_limits(q))
    made.row("Over time")
    made.add(*_over_time(q))
    made.row("How limits are kept")
    made.add(*_keeping(q))
    return made


def fullness(q: Queries, at: str = "") -> str:
    """Used and held, as a share of each limit."""
    limit, used, held = (q.now(name, EACH, how="max", at=at) for name in (LIMIT, USED, HELD))
    return f"({used} + ({held} or 0 * {used})) / ({limit} > 0)"


def _answer(q: Queries) -> list[Panel]:
    full = fullness(q)
    limits = f"count({q.now(LIMIT, EACH, how='max')})"
    return [
        stat(
            "Limits used up",
            "Limits of keys and teams of which nothing is left now: the next request is refused.",
            f"count({full} >= 1) or 0 * {limits}",
            unit="none",
            decimals=0,
            steps=[(None, GOOD), (1, BAD)],
            width=6,
        ),
        stat(
            "Close to their limit",
            "Limits of which 80 % or more is used, or held by calls under way, and something is "
            "left.",
            f"count({full} >= {NEAR} < 1) or 0 * {limits}",
            unit="none",
            decimals=0,
            steps=[(None, GOOD), (1, WARN)],
            width=6,
        ),
        stat(
            "Refused for a limit",
            "Requests that were refused in the time shown because a key or team had used up a "
            "limit.",
            f"{q.total(REFUSED)} or 0 * {limits}",
            unit="locale",
            decimals=0,
            steps=ANY_IS_NOTABLE,
            width=6,
        ),
        stat(
            "Limits",
            "How many limits keys and teams have.",
            limits,
            unit="none",
            decimals=0,
            width=6,
        ),
    ]


def _ranking(q: Queries) -> Panel:
    return bars(
        "Closest to their limit",
        "What is used of a limit, and held by calls under way: the twelve that are closest. At "
        "100 % the next request is refused.",
        Target(f"sort_desc(topk(12, {fullness(q)}))", "{{key}}: {{kind}}"),
        unit="percentunit",
        decimals=0,
        most=1,
        steps=FULLNESS,
        width=14,
        height=10,
    )


def _refused_by_key(q: Queries) -> Panel:
    return bars(
        "Refused most",
        "Requests that were refused for a limit in the time shown, by whose limit it was.",
        Target(f"sort_desc(topk(12, {q.total(REFUSED, EACH)}))", "{{key}}: {{kind}}"),
        unit="locale",
        decimals=0,
        width=10,
        height=10,
        steps=[(None, WARN)],
    )


def _limits(q: Queries) -> Panel:
    limit, used, held = (q.now(name, EACH, how="max") for name in (LIMIT, USED, HELD))
    reset = q.now("gateway_quota_reset_timestamp_seconds", EACH, how="max")
    pace = f"max by ({EACH}) (deriv({q.select(USED, SLOW)}[15m]))"
    return table(
        "Limits of keys and teams",
        "budget is in dollars; rpm and tpm are requests and tokens a minute. Held: what calls "
        "under way may still use. Runs out: when it would be used up at the pace of the last 15 "
        "minutes; it may be reset before.",
        {"key": "Key or team", "kind": "Limit of"},
        [
            Column("In use", fullness(q), "percentunit", 0, FULLNESS, gauge=True, width=320),
            Column("Used", used),
            Column("Held", held),
            Column("Limit", limit),
            Column("Runs out", f"({limit} - {used} > 0) / ({pace} > 0)", "s", 0),
            Column("Resets", f"{reset} * 1000", "dateTimeFromNow"),
        ],
        sort="In use",
        height=10,
    )


def _over_time(q: Queries) -> list[Panel]:
    closest = f"{fullness(q)} and on ({EACH}) topk(10, {fullness(q, END)})"
    return [
        series(
            "How much of each limit is used",
            "What is used of a limit, and held by calls under way, of the ten that are closest "
            "now. It falls where a window ends.",
            Target(closest, "{{key}}: {{kind}}"),
            unit="percentunit",
            limit=FULLNESS,
            width=12,
        ),
        series(
            "Refused for a limit, per minute",
            "Requests refused, by whose limit it was and which.",
            Target(f"{q.rate(REFUSED, EACH)} * 60", "{{key}}: {{kind}}"),
            unit="short",
            stack=True,
            width=12,
        ),
    ]


def _keeping(q: Queries) -> list[Panel]:
    return [
        series(
            "Wait for calls under way to settle",
            "How long requests wait for what others hold of a limit (quota.wait), before they are "
            "let in or refused.",
            Target(q.quantile(0.95, "gateway_quota_wait_seconds"), "p95"),
            Target(q.quantile(0.5, "gateway_quota_wait_seconds"), "p50"),
            unit="s",
            colors={"p95": WARN, "p50": GOOD},
        ),
        series(
            "Warnings, and shortened answers",
            "Times that 80 % of a limit was passed, and calls whose output was capped to what was "
            "left.",
            Target(q.total("gateway_quota_warnings_total", window="$__rate_interval"), "warnings"),
            Target(q.total("gateway_quota_clamped_total", window="$__rate_interval"), "shortened"),
            unit="short",
        ),
        table(
            "More than was reserved",
            "Calls in the time shown that took more tokens than the bound held for them. They are "
            "booked in full; the limit is then overrun by so much.",
            {"upstream": "Upstream"},
            [
                Column(
                    "Calls",
                    q.total("gateway_quota_bound_exceeded_total", "upstream", window=RANGE),
                    decimals=0,
                ),
                Column(
                    "Tokens",
                    q.total("gateway_quota_overrun_tokens_total", "upstream", window=RANGE),
                    decimals=0,
                ),
            ],
            sort="Tokens",
            width=8,
            height=8,
            may_be_empty="no call takes more than its bound",
        ),
    ]
