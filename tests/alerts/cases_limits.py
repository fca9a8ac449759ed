"""Alerts on quotas and the process: when each fires, and when not though something happens."""

from __future__ import annotations

from tests.alerts.promtool import Case, Firing
from tests.alerts.series import (
    BUILD,
    HERE,
    JOB,
    UPSTREAM,
    buckets,
    one,
    quota,
)

KEY = {**HERE, "key": "alice"}


def disk(free: str, volume: str = "data") -> dict[str, str]:
    return {
        **one("gateway_data_disk_free_bytes", free, f'volume="{volume}"'),
        **one("gateway_data_disk_total_bytes", "100000x120", f'volume="{volume}"'),
    }


LIMITS = (
    # --- quotas ---
    Case(
        "GatewayQuotaNearlyUsed",
        "of a month's budget",
        quota("budget", "0+50x19 950x40"),
        (
            Firing(
                {**KEY, "kind": "budget"},
                "alice has used 95% of its budget. At 100 % it is refused until the window ends.",
            ),
        ),
    ),
    Case("GatewayQuotaNearlyUsed", "half of it", quota("budget", "500x60")),
    Case("GatewayQuotaNearlyUsed", "a minute's is full", quota("rpm", "1000x60")),
    Case(
        "GatewayQuotaRefusals",
        "for long",
        one("gateway_quota_rejections_total", "0+3x60", 'key="alice",kind="rpm"'),
        (
            Firing(
                {**JOB, "key": "alice", "kind": "rpm"},
                "45 requests were refused in 15 minutes for the rpm of alice.",
            ),
        ),
        at="40m",
    ),
    Case(
        "GatewayQuotaRefusals",
        "a burst",
        one("gateway_quota_rejections_total", "0x20 50x60", 'key="alice",kind="rpm"'),
        at="40m",
    ),
    Case(
        "GatewayQuotaBoundExceeded",
        "the first time",
        one("gateway_quota_bound_exceeded_total", "_x20 1x40", 'upstream="openai"'),
        (
            Firing(
                UPSTREAM,
                "Calls to openai in an hour that took more tokens than the bound "
                "reserved for them: 1. Limits may have been passed by as much.",
            ),
        ),
        at="25m",
    ),
    Case(
        "GatewayQuotaBoundExceeded",
        "long ago",
        one("gateway_quota_bound_exceeded_total", "1x120", 'upstream="openai"'),
        at="90m",
    ),
    # --- process ---
    Case(
        "GatewayDiskWillFill",
        "fast",
        disk("19000-100x120"),
        (
            Firing(
                {**HERE, "volume": "data"},
                "13% of the disk under data is free: next to nothing, or gone within 4 "
                "hours. A full disk stops the books, and they stop the calls.",
            ),
        ),
        at="60m",
    ),
    Case(
        "GatewayDiskWillFill",
        "it is as good as full",
        disk("2000x120", "cache"),
        (
            Firing(
                {**HERE, "volume": "cache"},
                "2% of the disk under cache is free: next to nothing, or gone within 4 "
                "hours. A full disk stops the books, and they stop the calls.",
            ),
        ),
    ),
    Case("GatewayDiskWillFill", "slowly", disk("19000-10x120"), at="60m"),
    Case("GatewayDiskWillFill", "fast, with much room left", disk("90000-400x120"), at="60m"),
    Case(
        "GatewayEventLoopLag",
        "one tick in 50 is late",
        buckets(
            "gateway_event_loop_lag_seconds",
            "",
            {"0.1": "0+235x60", "0.25": "0+240x60", "+Inf": "0+240x60"},
        ),
        (
            Firing(
                HERE, "One moment in 100 everything on gw:8081 stands still for more than 178ms."
            ),
        ),
    ),
    Case(
        "GatewayEventLoopLag",
        "one in 500",
        buckets(
            "gateway_event_loop_lag_seconds",
            "",
            {"0.1": "0+499x60", "0.25": "0+500x60", "+Inf": "0+500x60"},
        ),
    ),
    Case(
        "GatewayFileDescriptors",
        "nine of ten",
        {**BUILD, **one("process_open_fds", "900x60"), **one("process_max_fds", "1000x60")},
        (
            Firing(
                HERE,
                "90% of the descriptors of gw:8081 are in use. Without free ones it "
                "takes no connection and makes no call.",
            ),
        ),
    ),
    Case(
        "GatewayFileDescriptors",
        "another process",
        {**one("process_open_fds", "900x60"), **one("process_max_fds", "1000x60")},
    ),
    Case(
        "GatewayFileDescriptors",
        "half of them",
        {**BUILD, **one("process_open_fds", "500x60"), **one("process_max_fds", "1000x60")},
    ),
    Case(
        "GatewayConfigReloadFailed",
        "a typing error",
        one("gateway_config_last_reload_successful", "1x10 0x50"),
        (
            Firing(
                HERE, "gw:8081 runs on with its old configuration, because the new one has faults."
            ),
        ),
    ),
    Case(
        "GatewayConfigReloadFailed",
        "mended at once",
        one("gateway_config_last_reload_successful", "1x10 0x3 1x50"),
        at="13m",
    ),
    Case(
        "GatewaySeriesCapped",
        "one family",
        one("gateway_metric_series_capped_total", "0+5x60", 'metric="gateway_cost_usd_total"'),
        (
            Firing(
                {**HERE, "metric": "gateway_cost_usd_total"},
                "150 samples of gateway_cost_usd_total were counted under the label "
                "other: sums are right, some rows of the dashboards are not.",
            ),
        ),
    ),
    Case(
        "GatewaySeriesCapped",
        "none",
        one("gateway_metric_series_capped_total", "0x60", 'metric="gateway_cost_usd_total"'),
    ),
)
