"""The families as promtool takes them: one gateway's samples, `values` in its notation."""

from __future__ import annotations

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
    more = f"{labels}," if labels else ""
    return {f'{name}_bucket{{{G},{more}le="{le}"}}': values for le, values in counts.items()}


def overhead(below_100_ms: str, endpoint: str = "chat/completions") -> dict[str, str]:
    """Of 60 requests a minute."""
    quick = f"0+{below_100_ms}x60"
    counts = {"0.05": quick, "0.1": quick, "0.25": "0+60x60", "+Inf": "0+60x60"}
    return buckets("gateway_overhead_seconds", f'endpoint="{endpoint}"', counts)


def first_token(cache: str, early: str, all_of: str = "12") -> dict[str, str]:
    """Streams a minute: all, and those whose first token came within 2.5 s."""
    quick, every = f"0+{early}x60", f"0+{all_of}x60"
    counts = {"2.5": quick, "5": quick, "10": every, "+Inf": every}
    return buckets("gateway_time_to_first_token_seconds", f'model="gpt-4o",cache="{cache}"', counts)


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
