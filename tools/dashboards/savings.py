"""What did the cache save?"""

from __future__ import annotations

from tools.dashboards.frame import Board
from tools.dashboards.overview import CACHE_COLORS
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
from tools.dashboards.queries import FOUND, LOOKED_UP, Queries, share

REQUESTS, COST, SAVED = (
    "gateway_requests_total",
    "gateway_cost_usd_total",
    "gateway_cache_saved_cost_usd_total",
)


def board() -> Board:
    made = Board(
        "cache",
        "Gateway: cache savings",
        "What did the cache save, in dollars, tokens and time, and could it save more?",
        "model",
        "key",
        span="24h",
    )
    q = made.queries
    made.add(*_answer(q), *_over_time(q))
    made.row("For whom, and for which models")
    made.add(_keys(q), _models(q))
    made.row("Why it did not answer")
    made.add(*_why_not(q))
    made.row("The store")
    made.add(*_store(q), *_disk(q))
    return made


def _hits(q: Queries, by: str = "") -> str:
    return share(q.total(REQUESTS, by, FOUND), q.total(REQUESTS, by, LOOKED_UP))


def _answer(q: Queries) -> list[Panel]:
    saved, spent = q.total(SAVED), q.total(COST)
    return [
        stat(
            "Saved",
            "What the answers from the cache would have cost, in the time shown, by the price "
            "data.",
            saved,
            unit="currencyUSD",
            decimals=2,
            steps=[(None, GOOD)],
            width=4,
        ),
        stat(
            "Bill smaller by",
            "What was saved, as a share of what was spent and saved together.",
            f"{saved} / ({saved} + {spent})",
            unit="percentunit",
            decimals=1,
            steps=[(None, GOOD)],
            width=4,
        ),
        stat(
            "From the cache",
            "Share of the requests that were looked up and that a kept answer, or another's call "
            "under way, served.",
            _hits(q),
            unit="percentunit",
            decimals=1,
            width=4,
        ),
        stat(
            "Waiting saved",
            "What the kept answers' calls had taken, less what their replays took, in the time "
            "shown.",
            q.total("gateway_cache_saved_seconds_total"),
            unit="s",
            steps=[(None, GOOD)],
            width=4,
        ),
        stat(
            "Tokens saved",
            "Tokens, prompt and completion together, that were answered from the cache in the "
            "time shown.",
            q.total("gateway_cache_saved_tokens_total"),
            unit="short",
            steps=[(None, GOOD)],
            width=4,
        ),
        stat(
            "Disk tier",
            "Works: answers are kept on disk. Down: memory serves alone, and a restart forgets.",
            f"min ({q.select('gateway_cache_disk_up')})",
            unit="none",
            words={"1": ("Works", GOOD), "0": ("Down", BAD)},
            width=4,
        ),
    ]


def _over_time(q: Queries) -> list[Panel]:
    name = "gateway_request_duration_seconds"
    return [
        series(
            "Requests by what the cache did",
            "hit: a kept answer; joined: an equal request's call under way; miss: an upstream was "
            "asked; bypass: not looked up; none: the gateway answered by itself.",
            Target(q.rate(REQUESTS, "cache"), "{{cache}}"),
            unit="reqps",
            stack=True,
            colors=CACHE_COLORS,
        ),
        series(
            "Dollars per hour",
            "The pace of spending, and of saving.",
            Target(f"{q.rate(COST)} * 3600", "spent"),
            Target(f"{q.rate(SAVED)} * 3600", "saved"),
            unit="currencyUSD",
            stack=True,
            colors={"spent": "blue", "saved": GOOD},
        ),
        series(
            "Wait for an answer, p95",
            "19 of 20 requests are answered whole within this time: a hit beside a miss.",
            Target(q.quantile(0.95, name, "cache", 'cache=~"hit|joined|miss"'), "{{cache}}"),
            unit="s",
            colors=CACHE_COLORS,
        ),
    ]


def _keys(q: Queries) -> Panel:
    saved, spent = q.total(SAVED, "key"), q.total(COST, "key")
    return table(
        "Savings of each key",
        "What each key spent and saved in the time shown. Each key has its own answers, unless "
        "cache.scope says otherwise.",
        {"key": "Key"},
        [
            Column("Saved", saved, "currencyUSD", 2),
            Column("Tokens saved", q.total("gateway_cache_saved_tokens_total", "key")),
            Column("Spent", spent, "currencyUSD", 2),
            Column(
                "Bill smaller by",
                f"{saved} / (({saved} + {spent}) > 0)",
                "percentunit",
                1,
                gauge=True,
            ),
        ],
        sort="Saved",
        width=14,
        height=8,
    )


def _models(q: Queries) -> Panel:
    return bars(
        "From the cache, by model",
        "Share of each model's looked-up requests that the cache served in the time shown.",
        Target(f"sort_desc({_hits(q, 'model')})", "{{model}}"),
        unit="percentunit",
        decimals=1,
        most=1,
        width=10,
        height=8,
    )


def _why_not(q: Queries) -> list[Panel]:
    return [
        series(
            "Requests that were not looked up",
            "By reason: sampled (cache.sampled is off and the temperature is not 0), no_store "
            "(the client said so), disabled, and others of docs/cache.md.",
            Target(q.rate("gateway_cache_bypass_total", "reason"), "{{reason}}"),
            unit="reqps",
            stack=True,
        ),
        series(
            "Answers that were not kept",
            "By reason: status (no 200), finish_reason (cut short), incomplete, too_large, and "
            "others of docs/cache.md.",
            Target(q.rate("gateway_cache_store_skipped_total", "reason"), "{{reason}}"),
            unit="reqps",
            stack=True,
        ),
        series(
            "Age of the answers replayed",
            "How old kept answers are when they are asked for again. p95 near cache.ttl: a longer "
            "one would save more.",
            Target(q.quantile(0.95, "gateway_cache_hit_age_seconds"), "p95"),
            Target(q.quantile(0.5, "gateway_cache_hit_age_seconds"), "p50"),
            unit="s",
            colors={"p95": WARN, "p50": GOOD},
        ),
    ]


def _store(q: Queries) -> list[Panel]:
    size, most = (
        q.now(f"gateway_cache_{name}", "tier") for name in ("size_bytes", "max_size_bytes")
    )
    return [
        bars(
            "How full it is",
            "Bytes kept, as a share of cache.memory and cache.size_limit. A full tier drops what "
            "was not used for longest.",
            Target(f"{size} / ({most} > 0)", "{{tier}}"),
            unit="percentunit",
            decimals=1,
            most=1,
            steps=[(None, GOOD), (0.95, WARN)],
            width=6,
            height=7,
        ),
        series(
            "Answers kept",
            "Entries of both tiers, and those on their way to the disk.",
            Target(q.now("gateway_cache_entries", "tier"), "{{tier}}"),
            Target(q.now("gateway_cache_writes_waiting"), "on their way to the disk"),
            unit="short",
            width=6,
            height=7,
        ),
        series(
            "Found, by tier",
            "Share of each tier's look-ups that found an answer. The disk is asked for what is "
            "not in memory.",
            Target(
                share(
                    q.rate("gateway_cache_lookups_total", "tier", 'result="hit"'),
                    q.rate("gateway_cache_lookups_total", "tier"),
                ),
                "{{tier}}",
            ),
            unit="percentunit",
            most=1,
            width=6,
            height=7,
        ),
        series(
            "Entries that had to go",
            "expired: past their time; size: the tier was full; purged: somebody asked for it.",
            Target(q.rate("gateway_cache_evictions_total", "tier, reason"), "{{tier}}: {{reason}}"),
            unit="cps",
            width=6,
            height=7,
        ),
    ]


def _disk(q: Queries) -> list[Panel]:
    return [
        series(
            "Disk operations, p99",
            "get: as a request waits for it; set: one batch, in the background.",
            Target(
                q.quantile(0.99, "gateway_cache_operation_duration_seconds", "operation"),
                "{{operation}}",
            ),
            unit="s",
            height=7,
        ),
        series(
            "Calls that others join",
            "open: upstream calls that equal requests may join; abandoned: all their clients have "
            "left, and they go on so that the answer is kept.",
            Target(q.now("gateway_flights_open"), "open"),
            Target(q.now("gateway_flights_abandoned"), "abandoned"),
            unit="short",
            height=7,
        ),
        series(
            "Faults of the store",
            "Errors of the disk tier (each was a miss, never an error to a client) and answers "
            "that did not reach it. Empty is good.",
            Target(
                q.total("gateway_cache_errors_total", "reason", window="$__rate_interval"),
                "error: {{reason}}",
            ),
            Target(
                q.total("gateway_cache_dropped_total", "reason", window="$__rate_interval"),
                "not written: {{reason}}",
            ),
            Target(f"0 * {q.now('gateway_cache_writes_waiting')}", "none"),
            unit="short",
            height=7,
            may_be_empty="a store without faults has no series of them",
        ),
    ]
