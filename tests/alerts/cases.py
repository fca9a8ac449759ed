"""When each alert fires, and when it does not though something of the kind happens."""

from __future__ import annotations

from tests.alerts.promtool import Case, Firing

G = 'job="gateway",instance="gw:8081"'
HERE = {"job": "gateway", "instance": "gw:8081"}
JOB = {"job": "gateway"}
BUILD = {f'gateway_build_info{{{G},version="1",python="3.11"}}': "1x120"}


def requests(code: str, values: str, cache: str = "miss", model: str = "gpt-4o") -> dict[str, str]:
    labels = f'{G},endpoint="chat/completions",model="{model}",code="{code}",cache="{cache}"'
    return {f"gateway_requests_total{{{labels}}}": values}


def errors(reason: str, values: str) -> dict[str, str]:
    return {f'gateway_errors_total{{{G},model="gpt-4o",reason="{reason}"}}': values}


def calls(outcome: str, values: str) -> dict[str, str]:
    labels = f'{G},upstream="openai",model="gpt-4o",outcome="{outcome}"'
    return {f"gateway_upstream_requests_total{{{labels}}}": values}


def one(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {f"{name}{{{G}{',' * bool(labels)}{labels}}}": values}


def buckets(name: str, labels: str, counts: dict[str, str]) -> dict[str, str]:
    return {f'{name}_bucket{{{G},{labels},le="{le}"}}': values for le, values in counts.items()}


def overhead(slow: str) -> dict[str, str]:
    counts = {"0.05": "0+54x60", "0.1": "0+54x60", "0.25": f"0+{slow}x60", "+Inf": "0+60x60"}
    return buckets("gateway_overhead_seconds", 'endpoint="chat/completions"', counts)


def first_token(cache: str, early: str) -> dict[str, str]:
    counts = {"2.5": early, "5": early, "10": "0+12x60", "+Inf": "0+12x60"}
    return buckets(
        "gateway_time_to_first_token_seconds", f'model="gpt-4o",cache="{cache}"', counts
    )


def cache_size(of_disk: str, evictions: str, tier: str = "disk") -> dict[str, str]:
    return {
        **one("gateway_cache_size_bytes", of_disk, f'tier="{tier}"'),
        **one("gateway_cache_max_size_bytes", "4294967296x120", f'tier="{tier}"'),
        **one("gateway_cache_evictions_total", evictions, f'tier="{tier}",reason="size"'),
    }


def quota(kind: str, used: str) -> dict[str, str]:
    labels = f'key="alice",kind="{kind}"'
    return {
        **one("gateway_quota_limit", "1000x60", labels),
        **one("gateway_quota_used", used, labels),
    }


UPSTREAM = {**JOB, "upstream": "openai"}
MODEL = {**JOB, "model": "gpt-4o"}

CASES = (
    # --- availability ---
    Case(
        "GatewayDown",
        "the target does not answer",
        {f"up{{{G}}}": "1x10 0x10"},
        (Firing(HERE, "?"),),
        at="14m",
    ),
    Case("GatewayDown", "there is no target", {"up{job='node'}": "1x10"}, (Firing(JOB, "?"),), "5m"),
    Case("GatewayDown", "one scrape failed", {f"up{{{G}}}": "1x10 0 1x10"}, at="11m"),
    Case(
        "GatewayRestarting",
        "a crash loop",
        {**BUILD, **one("process_start_time_seconds", "0x10 660x3 900x3 1140x60")},
        (Firing(HERE, "?"),),
    ),
    Case(
        "GatewayRestarting",
        "another process does",
        one("process_start_time_seconds", "0x10 660x3 900x3 1140x60"),
    ),
    Case(
        "GatewayRestarting",
        "a release and one more",
        {**BUILD, **one("process_start_time_seconds", "0x10 660x3 900x60")},
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "one in ten fails",
        {**requests("200", "0+54x120"), **requests("502", "0+6x120"), **errors("upstream_error", "0+6x120")},
        (Firing(JOB, "?"),),
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "streams break off after their 200",
        {**requests("200", "0+60x120"), **errors("upstream_timeout", "0+6x120")},
        (Firing(JOB, "?"),),
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "it is over",
        {**requests("200", "0+60x120"), **errors("upstream_500", "0+6x60 360x60")},
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "the clients' mistakes, and clients that leave",
        {
            **requests("200", "0+10x120"),
            **requests("400", "0+50x120"),
            **errors("invalid_request", "0+50x120"),
            **errors("client_disconnect", "0+9x120"),
            **errors("not_cached", "0+9x120"),
        },
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "a quiet night's one failure of two",
        {**requests("200", "0x55 1x60"), **requests("502", "0x65 1x60"), **errors("upstream_error", "0x65 1x60")},
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetSlowBurn",
        "one in 25 fails, for hours",
        {**requests("200", "0+300x120"), **errors("upstream_502", "0+12x120")},
        (Firing(JOB, "?"),),
        at="8h",
        every="5m",
    ),
    Case(
        "GatewayErrorBudgetSlowBurn",
        "one in 100 fails",
        {**requests("200", "0+300x120"), **errors("upstream_502", "0+3x120")},
        at="8h",
        every="5m",
    ),
    Case(
        "GatewayFault",
        "the first one",
        {**requests("200", "0+6x60"), **errors("internal_error", "_x20 1x40")},
        (Firing(HERE, "?"),),
        at="25m",
    ),
    Case(
        "GatewayFault",
        "an answer could not be observed",
        one("gateway_observer_errors_total", "0x20 3x40"),
        (Firing(HERE, "?"),),
        at="25m",
    ),
    Case(
        "GatewayFault",
        "long ago",
        {**errors("internal_error", "1x60"), **one("gateway_observer_errors_total", "3x60")},
    ),
    # --- latency ---
    Case("GatewayOverheadHigh", "one in ten is slow", overhead("60"), (Firing(JOB, "?"),)),
    Case("GatewayOverheadHigh", "all are quick", {**overhead("60"), **buckets("gateway_overhead_seconds", 'endpoint="chat/completions"', {"0.05": "0+60x60", "0.1": "0+60x60"})}),
    Case(
        "GatewayTimeToFirstTokenHigh",
        "half of them wait",
        first_token("miss", "0+6x60"),
        (Firing(MODEL, "?"),),
    ),
    Case("GatewayTimeToFirstTokenHigh", "none waits", first_token("miss", "0+12x60")),
    Case("GatewayTimeToFirstTokenHigh", "nobody streams", first_token("miss", "0x60")),
    # --- upstreams ---
    Case(
        "GatewayUpstreamDown",
        "no call succeeds",
        {**calls("2xx", "0+6x10 60x50"), **calls("error", "0x10 0+6x50")},
        (Firing(UPSTREAM, "?"),),
    ),
    Case(
        "GatewayUpstreamDown",
        "most calls fail",
        {**calls("2xx", "0+1x60"), **calls("error", "0+6x60")},
    ),
    Case(
        "GatewayUpstreamDown",
        "clients leave",
        {**calls("2xx", "0x60"), **calls("abandoned", "0+6x60"), **calls("4xx", "0+6x60")},
    ),
    Case(
        "GatewayUpstreamErrors",
        "a third fails, in all ways",
        {**calls("2xx", "0+8x60"), **calls("5xx", "0+2x60"), **calls("cut", "0+1x60"), **calls("timeout", "0+1x60")},
        (Firing(UPSTREAM, "?"),),
    ),
    Case("GatewayUpstreamErrors", "one in ten", {**calls("2xx", "0+9x60"), **calls("5xx", "0+1x60")}),
    Case("GatewayUpstreamErrors", "it is down: the other alert's", calls("5xx", "0+6x60")),
    Case(
        "GatewayUpstreamRateLimited",
        "one in five",
        {**calls("2xx", "0+8x60"), **calls("429", "0+2x60")},
        (Firing(UPSTREAM, "?"),),
    ),
    Case("GatewayUpstreamRateLimited", "one in 50", {**calls("2xx", "0+49x60"), **calls("429", "0+1x60")}),
    Case(
        "GatewayUpstreamRefusesCredentials",
        "the key has expired",
        {**requests("401", "0+6x60"), **errors("upstream_401", "0+6x60")},
        (Firing(MODEL, "?"),),
    ),
    Case(
        "GatewayUpstreamRefusesCredentials",
        "the gateway refuses a caller",
        {**requests("401", "0+6x60"), **errors("invalid_api_key", "0+6x60")},
    ),
    Case(
        "GatewayUpstreamQueueing",
        "all connections in use",
        one("gateway_upstream_queued", "0x10 3x50", 'upstream="openai"'),
        (Firing({**HERE, "upstream": "openai"}, "?"),),
    ),
    Case(
        "GatewayUpstreamQueueing",
        "a burst now and then",
        one("gateway_upstream_queued", "0 9 9 0 9 9 0x2 9 9 9 0 9 0 9 9 0 9 0 9x2 0 9 9 0 9 9 0 9 9 9 0", 'upstream="openai"'),
    ),
)
