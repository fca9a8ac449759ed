"""Alerts on cache and books: when each fires, and when not though something happens."""

from __future__ import annotations

from tests.alerts.promtool import Case, Firing
from tests.alerts.series import (
    HERE,
    JOB,
    cache_size,
    calls,
    one,
    requests,
)

ALICE = 'model="gpt-4o",key="alice"'


BOOKS = (
    # --- cache ---
    Case(
        "GatewayCacheHitRatioDropped",
        "from one half to one tenth",
        {
            **requests("200", "0+60x288 17340+108x60", "miss"),
            **requests("200", "0+60x288 17292+12x60", "hit"),
        },
        (
            Firing(
                JOB,
                "10% of the look-ups hit or joined: less than half of what it was at "
                "this time yesterday. Calls and costs rise with it.",
            ),
        ),
        at="26h",
        every="5m",
    ),
    Case(
        "GatewayCacheHitRatioDropped",
        "as yesterday",
        {**requests("200", "0+60x348", "miss"), **requests("200", "0+60x348", "hit")},
        at="26h",
        every="5m",
    ),
    Case(
        "GatewayCacheHitRatioDropped",
        "but hardly anybody asks",
        {
            **requests("200", "0+60x288 17281+2x60", "miss"),
            **requests("200", "0+60x288 17280x60", "hit"),
        },
        at="26h",
        every="5m",
    ),
    Case(
        "GatewayCacheFull",
        "on disk",
        cache_size("4250000000x120", "0+3x120"),
        (
            Firing(
                {**HERE, "tier": "disk"},
                "The cache on disk holds 3.958GiB, nearly its limit, and drops its "
                "oldest answers before their time.",
            ),
        ),
        at="90m",
    ),
    Case(
        "GatewayCacheFull", "in memory", cache_size("4250000000x120", "0+3x120", "memory"), at="90m"
    ),
    Case(
        "GatewayCacheFull",
        "to the brim, and no more",
        cache_size("4250000000x120", "7x120"),
        at="90m",
    ),
    Case(
        "GatewayCacheDiskDown",
        "the disk went away",
        one("gateway_cache_disk_up", "1x10 0x20"),
        (
            Firing(
                HERE,
                "For 5 minutes the cache on disk of gw:8081 could not be used. What is "
                "only there is asked anew, and paid again.",
            ),
        ),
        at="20m",
    ),
    Case(
        "GatewayCacheDiskDown",
        "for a moment",
        one("gateway_cache_disk_up", "1x10 0x2 1x20"),
        at="20m",
    ),
    Case(
        "GatewayCacheErrors",
        "look-ups fail",
        one("gateway_cache_errors_total", "0+2x60", 'reason="busy"'),
        (
            Firing(
                HERE,
                "Faults in 5 minutes: 10. Each is a miss or an answer that is kept in "
                "memory only; no client sees an error.",
            ),
        ),
    ),
    Case(
        "GatewayCacheErrors",
        "entries do not reach the disk",
        one("gateway_cache_dropped_total", "0+2x60", 'reason="full"'),
        (
            Firing(
                HERE,
                "Faults in 5 minutes: 10. Each is a miss or an answer that is kept in "
                "memory only; no client sees an error.",
            ),
        ),
    ),
    Case(
        "GatewayCacheErrors",
        "once",
        one("gateway_cache_errors_total", "0x20 1x40", 'reason="busy"'),
        at="24m",
    ),
    # --- books ---
    Case(
        "GatewayLedgerDown",
        "the disk is full",
        one("gateway_ledger_down_seconds", "0x10 0+60x50"),
        (
            Firing(
                HERE,
                "No row could be written for 3m 0s. After usage.when_down (30 s) calls "
                "to upstreams are refused with 503 ledger_unavailable.",
            ),
        ),
        at="14m",
    ),
    Case(
        "GatewayLedgerDown",
        "locked for a moment",
        one("gateway_ledger_down_seconds", "0x10 4 0x50"),
        at="11m",
    ),
    Case(
        "GatewayLedgerRowsWaiting",
        "the disk is slow",
        one("gateway_ledger_rows_waiting", "0+2000x60"),
        (
            Firing(
                HERE,
                "40k rows wait in memory to be written. From 50,000 on rows of hits and refusals"
                " are dropped, at 100,000 calls are refused; a crash loses all that wait.",
            ),
        ),
        at="20m",
    ),
    Case(
        "GatewayLedgerRowsWaiting",
        "a burst",
        one("gateway_ledger_rows_waiting", "9x10 20000 9x50"),
        at="11m",
    ),
    Case(
        "GatewayLedgerRowsDropped",
        "some",
        one("gateway_ledger_rows_total", "0x20 7x40", 'result="dropped"'),
        (
            Firing(
                {**HERE, "result": "dropped"},
                "Rows dropped in 15 minutes: 7. They are gone; costs and usage of this "
                "time are too low.",
            ),
        ),
        at="25m",
    ),
    Case(
        "GatewayLedgerRowsDropped",
        "old ones are deleted",
        one("gateway_ledger_rows_total", "0+9x60", 'result="deleted"'),
    ),
    Case(
        "GatewayAccessLogLinesDropped",
        "the reader stalls",
        {
            **one("gateway_access_log_lines_total", "0x25 40x40", 'result="dropped"'),
            **one("gateway_access_log_lines_total", "0x60", 'result="failed"'),
        },
        (
            Firing(
                HERE,
                "Lines lost in 10 minutes: 40. What reads them stalls, or the disk is "
                "full. The books are not touched by it.",
            ),
        ),
    ),
    Case(
        "GatewayAccessLogLinesDropped",
        "a flood of wrong keys is sampled",
        one("gateway_access_log_lines_total", "0+90x60", 'result="suppressed"'),
    ),
    Case(
        "GatewayUsageMissing",
        "an upstream stopped saying it",
        {
            **calls("2xx", "0+1x120"),
            **one("gateway_usage_missing_total", "0+1x120", 'reason="absent"'),
        },
        (
            Firing(
                JOB,
                "60 whole answers of the last hour said no usage: their tokens and "
                "costs are estimates.",
            ),
        ),
        at="90m",
    ),
    Case(
        "GatewayUsageMissing",
        "one in 100",
        {
            **calls("2xx", "0+100x120"),
            **one("gateway_usage_missing_total", "0+1x120", 'reason="absent"'),
        },
        at="90m",
    ),
    Case(
        "GatewayUnpricedTraffic",
        "a new model, one call",
        one("gateway_unpriced_requests_total", "_x20 1x40", 'model="new"'),
        (
            Firing(
                {**JOB, "model": "new"},
                "Calls to new without a price in an hour: 1. All costs shown are too "
                "low by theirs, and budgets do not see them.",
            ),
        ),
        at="26m",
    ),
    Case(
        "GatewayUnpricedTraffic",
        "was priced meanwhile",
        one("gateway_unpriced_requests_total", "0+1x20 20x80", 'model="new"'),
        at="90m",
    ),
    Case(
        "GatewaySpendSpike",
        "ten times as much as all week",
        one("gateway_cost_usd_total", "0+1x330 331+10x20", ALICE),
        (
            Firing(
                {**JOB, "key": "alice"},
                "alice spent $20 in the last hour, more than three times an hour's mean"
                " of the week.",
            ),
        ),
        at="170h",
        every="30m",
    ),
    Case(
        "GatewaySpendSpike",
        "a new key spends much at once",
        one("gateway_cost_usd_total", "0 0+4x20", ALICE),
        (
            Firing(
                {**JOB, "key": "alice"},
                "alice spent $8 in the last hour, more than three times an hour's mean "
                "of the week.",
            ),
        ),
        at="4h",
        every="30m",
    ),
    Case(
        "GatewaySpendSpike",
        "much, but as ever",
        one("gateway_cost_usd_total", "0+4x400", ALICE),
        at="171h",
        every="30m",
    ),
    Case(
        "GatewaySpendSpike",
        "ten times as much, of cents",
        one("gateway_cost_usd_total", "0+0.1x168 17.8+1x190", ALICE),
        at="86h",
        every="30m",
    ),
)
