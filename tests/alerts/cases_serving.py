"""Alerts on requests and upstreams: when each fires, and when not though something happens."""

from __future__ import annotations

from tests.alerts.promtool import Case, Firing
from tests.alerts.series import (
    BUILD,
    HERE,
    JOB,
    MODEL,
    UPSTREAM,
    G,
    calls,
    errors,
    first_token,
    one,
    overhead,
    requests,
)

SERVING = (
    # --- availability ---
    Case(
        "GatewayDown",
        "the target does not answer",
        {f"up{{{G}}}": "1x10 0x10"},
        (
            Firing(
                HERE,
                "Prometheus has had no metrics of gw:8081 for 2 minutes: it is down, or"
                " its admin plane cannot be reached.",
            ),
        ),
        at="14m",
    ),
    Case(
        "GatewayDown",
        "there is no target",
        {"up{job='node'}": "1x10"},
        (
            Firing(
                JOB,
                "Prometheus has had no metrics of any gateway for 2 minutes: it is "
                "down, or its admin plane cannot be reached.",
            ),
        ),
        "5m",
    ),
    Case("GatewayDown", "one scrape failed", {f"up{{{G}}}": "1x10 0 1x10"}, at="11m"),
    Case(
        "GatewayRestarting",
        "a crash loop",
        {**BUILD, **one("process_start_time_seconds", "0x10 660x3 900x3 1140x60")},
        (
            Firing(
                HERE,
                "gw:8081 was started 3 times in 30 minutes. Each start cuts the streams"
                " that are open.",
            ),
        ),
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
        "GatewayNotReady",
        "the books cannot be kept",
        one("gateway_ready", "1x10 0x20"),
        (
            Firing(
                HERE,
                "/readyz of gw:8081 has answered 503 for 3 minutes: load balancers send"
                " it nothing, and a part of its requests is refused.",
            ),
        ),
        at="20m",
    ),
    Case("GatewayNotReady", "it restarts", one("gateway_ready", "1x10 0x2 1x20"), at="12m"),
    Case(
        "GatewayErrorBudgetFastBurn",
        "one in ten fails",
        {
            **requests("200", "0+54x120"),
            **requests("502", "0+6x120"),
            **errors("upstream_error", "0+6x120"),
        },
        (
            Firing(
                JOB,
                "10% of the last hour's requests failed or broke off. At this rate the "
                "error budget of 30 days is gone in two days or less.",
            ),
        ),
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetFastBurn",
        "streams break off after their 200",
        {**requests("200", "0+60x120"), **errors("upstream_timeout", "0+6x120")},
        (
            Firing(
                JOB,
                "10% of the last hour's requests failed or broke off. At this rate the "
                "error budget of 30 days is gone in two days or less.",
            ),
        ),
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
        {
            **requests("200", "0x55 1x60"),
            **requests("502", "0x65 1x60"),
            **errors("upstream_error", "0x65 1x60"),
        },
        at="70m",
    ),
    Case(
        "GatewayErrorBudgetSlowBurn",
        "one in 25 fails, for hours",
        {**requests("200", "0+300x120"), **errors("upstream_502", "0+12x120")},
        (
            Firing(
                JOB,
                "4% of the last 6 hours' requests failed or broke off. At this rate the"
                " error budget of 30 days is gone in five days or less.",
            ),
        ),
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
        (
            Firing(
                HERE,
                "Faults in 15 minutes on gw:8081: 1. Its log names each request with a traceback.",
            ),
        ),
        at="25m",
    ),
    Case(
        "GatewayFault",
        "an answer could not be observed",
        one("gateway_observer_errors_total", "0x20 3x40"),
        (
            Firing(
                HERE,
                "Faults in 15 minutes on gw:8081: 3. Its log names each request with a traceback.",
            ),
        ),
        at="25m",
    ),
    Case(
        "GatewayFault",
        "long ago",
        {**errors("internal_error", "1x60"), **one("gateway_observer_errors_total", "3x60")},
    ),
    # --- latency ---
    Case(
        "GatewayOverheadHigh",
        "one in ten is slow",
        overhead("54"),
        (
            Firing(
                JOB,
                "One request in 20 spends more than 175ms in the gateway, the "
                "upstream's time left out.",
            ),
        ),
    ),
    Case("GatewayOverheadHigh", "one in fifty is", overhead("59")),
    Case("GatewayOverheadHigh", "an upload takes its time", overhead("54", "files")),
    Case(
        "GatewayTimeToFirstTokenHigh",
        "half of them wait",
        first_token("miss", early="6"),
        (
            Firing(
                MODEL,
                "One stream in 20 of gpt-4o waits more than 9.5s for its first token; "
                "streams from the cache are left out.",
            ),
        ),
    ),
    Case("GatewayTimeToFirstTokenHigh", "none waits", first_token("miss", early="12")),
    Case(
        "GatewayTimeToFirstTokenHigh",
        "nobody streams",
        first_token("miss", early="0", all_of="0.1"),
    ),
    # --- upstreams ---
    Case(
        "GatewayUpstreamDown",
        "no call succeeds",
        {**calls("2xx", "0+6x10 60x50"), **calls("error", "0x10 0+6x50")},
        (
            Firing(
                UPSTREAM,
                "100% of the calls to openai fail. What is in the cache is still answered.",
            ),
        ),
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
        {
            **calls("2xx", "0+8x60"),
            **calls("5xx", "0+2x60"),
            **calls("cut", "0+1x60"),
            **calls("timeout", "0+1x60"),
        },
        (
            Firing(
                UPSTREAM,
                "33.33% of the calls to openai fail: 5xx, no answer, or one that breaks off.",
            ),
        ),
    ),
    Case(
        "GatewayUpstreamErrors", "one in ten", {**calls("2xx", "0+9x60"), **calls("5xx", "0+1x60")}
    ),
    Case("GatewayUpstreamErrors", "it is down: the other alert's", calls("5xx", "0+6x60")),
    Case(
        "GatewayUpstreamRateLimited",
        "one in five",
        {**calls("2xx", "0+8x60"), **calls("429", "0+2x60")},
        (
            Firing(
                UPSTREAM, "20% of the calls to openai are answered 429; clients see it as it came."
            ),
        ),
    ),
    Case(
        "GatewayUpstreamRateLimited",
        "one in 50",
        {**calls("2xx", "0+49x60"), **calls("429", "0+1x60")},
    ),
    Case(
        "GatewayUpstreamRefusesCredentials",
        "the key has expired",
        {**requests("401", "0+6x60"), **errors("upstream_401", "0+6x60")},
        (
            Firing(
                MODEL, "100% of the requests for gpt-4o are answered 401 or 403 by the upstream."
            ),
        ),
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
        (
            Firing(
                {**HERE, "upstream": "openai"},
                "For 10 minutes calls have waited for a free connection to openai, 3 of"
                " them all the time: its max_connections are all in use.",
            ),
        ),
    ),
    Case(
        "GatewayUpstreamQueueing",
        "a burst now and then",
        one(
            "gateway_upstream_queued",
            "0 9 9 0 9 9 0x2 9 9 9 0 9 0 9 9 0 9 0 9x2 0 9 9 0 9 9 0 9 9 9 0",
            'upstream="openai"',
        ),
    ),
)
