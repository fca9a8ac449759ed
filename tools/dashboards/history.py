"""A made-up day of a busy gateway, to look at the dashboards without one: docs/dashboards.md.

    python -m tools.dashboards.history END HOURS > day.om
    promtool tsdb create-blocks-from openmetrics day.om DIRECTORY

END is in seconds since the epoch. The same END gives the same day: traffic of six keys that follows
the hours, an upstream that fails for a while, a key that works at night against its limits.
"""

from __future__ import annotations

import math
import random
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from gateway import __version__
from gateway.metrics import SPECS, Labels
from tools.dashboards.queries import family

STEP = 60  # seconds between two scrapes
SCOPE = {"job": "gateway", "instance": "gateway-1:8081"}
DAY = 86_400
MIB = 1 << 20
RELOAD = 20_000  # seconds before the end: a new configuration


@dataclass(frozen=True)
class Model:
    """`price` in dollars per million tokens, in and out; `first` and `pace` in seconds."""

    name: str
    upstream: str
    price: tuple[float, float]
    first: float
    pace: float


@dataclass(frozen=True)
class Key:
    """`rate` in requests a second at noon; `hits` of what is looked up; `peak` its hour."""

    name: str
    rate: float
    hits: float
    models: tuple[int, ...]
    prompt: int
    output: int
    peak: int = 14


MODELS = (
    Model("gpt-4o-mini", "openai", (0.15, 0.6), 0.35, 0.009),
    Model("gpt-4o", "openai", (2.5, 10), 0.55, 0.014),
    Model("claude-sonnet-4.5", "openrouter", (3, 15), 1.1, 0.017),
    Model("qwen3-32b", "local", (0.05, 0.2), 0.18, 0.024),
)
KEYS = (
    Key("checkout-bot", 0.9, 0.34, (0, 0, 1), 900, 160),
    Key("support-agent", 0.6, 0.46, (1, 2, 2), 2400, 420),
    Key("search-team", 0.5, 0.22, (3, 3, 0), 700, 120),
    Key("nightly-evals", 0.8, 0.71, (1, 2, 3), 1500, 600, peak=2),
    Key("alice", 0.07, 0.08, (2,), 5200, 900),
    Key("bob", 0.05, 0.12, (1, 3), 3100, 500),
)
LIMITS: dict[tuple[str, str], float] = {
    ("checkout-bot", "tokens_per_day"): 60e6,
    ("support-agent", "budget"): 2600,
    ("support-agent", "max_parallel"): 40,
    ("search-team", "rpm"): 120,
    ("nightly-evals", "rpm"): 40,
    ("nightly-evals", "tokens_per_day"): 60e6,
    ("alice", "budget"): 120,
    ("bob", "tpm"): 60_000,
    ("team:research", "budget"): 900,
}
Value = float | list[float]


class Day:
    """Counts as a gateway keeps them; `step` moves on by a minute."""

    def __init__(self, end: int, hours: int) -> None:
        self.start, self.end = end - hours * 3600, end
        self.dice = random.Random(end // DAY)
        self.values: dict[str, dict[Labels, Value]] = {}
        self.minute: dict[str, float] = {}

    def add(self, name: str, amount: float, *labels: str) -> None:
        held = self._family(name, labels)
        held[labels] = float(held.get(labels, 0.0)) + amount  # type: ignore[arg-type]

    def put(self, name: str, value: float, *labels: str) -> None:
        self._family(name, labels)[labels] = value

    def see(self, name: str, value: float, *labels: str, times: float = 1) -> None:
        """An observation of a histogram, or of a summary: counts, those above, and the sum."""
        bounds = SPECS[name].buckets
        held = self._family(name, labels)
        row = held.setdefault(labels, [0.0] * (len(bounds) + 2))
        assert isinstance(row, list)
        row[bisect_left(bounds, value)] += times
        row[-1] += value * times

    def _family(self, name: str, labels: Labels) -> dict[Labels, Value]:
        assert len(labels) == len(family(name).labels), f"{name}{labels}"
        return self.values.setdefault(name, {})

    def near(self, value: float, spread: float = 0.35) -> float:
        return value * math.exp(self.dice.gauss(0, spread))

    def chance(self, number: float) -> int:
        """A whole number whose mean is `number`."""
        return max(0, round(self.dice.gauss(number, math.sqrt(number)))) if number > 0 else 0


def busy(key: Key, at: int) -> float:
    """How busy a key is at a time of the day, from 0 to about 1."""
    hour = at % DAY / 3600
    away = min(abs(hour - key.peak), 24 - abs(hour - key.peak))
    return float(max(0.06, math.cos(away / 12 * math.pi / 1.3)) ** (3 if key.peak < 6 else 1.4))


def fails(day: Day, at: int, model: Model) -> float:
    """Share of an upstream's calls that fail: one of them has a bad half hour."""
    if model.upstream == "openrouter" and 0 < at - (day.end - 9_000) < 1_500:
        return 0.35
    return {"openai": 0.002, "openrouter": 0.006, "local": 0.001}[model.upstream]


def step(day: Day, at: int) -> None:
    """One minute."""
    day.minute = dict.fromkeys((key.name for key in KEYS), 0.0)
    for key in KEYS:
        for model in (MODELS[index] for index in key.models):
            requests(day, at, key, model)
    quotas(day, at)
    process(day, at)


def requests(day: Day, at: int, key: Key, model: Model) -> None:
    """A key's requests for one model in a minute."""
    asked = day.chance(key.rate * STEP * busy(key, at) / len(key.models))
    day.minute[key.name] += asked
    bad = fails(day, at, model)
    for _ in range(asked):
        roll = day.dice.random()
        if key.name == "search-team" and roll < 0.1:
            one_call(day, at, key, model, "bypass")
        elif roll < key.hits * 0.93:
            one_hit(day, key, model, "hit")
        elif roll < key.hits:
            one_hit(day, key, model, "joined")
        elif day.dice.random() < bad:
            one_failure(day, key, model)
        else:
            one_call(day, at, key, model, "miss")


def counted(day: Day, key: Key, model: Model, code: str, cache: str, outcome: str) -> None:
    day.add("gateway_requests_total", 1, "chat/completions", model.name, code, cache)
    day.add("gateway_key_requests_total", 1, key.name, outcome)
    day.see("gateway_overhead_seconds", day.near(0.0011), "chat/completions")
    day.see("gateway_request_bytes", day.near(key.prompt * 4))
    day.add("gateway_ledger_rows_total", 1, "written")
    day.add("gateway_access_log_lines_total", 1, "written")


def tokens(day: Day, key: Key, model: Model) -> tuple[float, float, float]:
    """Of one answer: prompt, completion, dollars."""
    prompt, output = round(day.near(key.prompt, 0.5)), round(day.near(key.output, 0.5))
    return prompt, output, (prompt * model.price[0] + output * model.price[1]) / 1e6


def one_hit(day: Day, key: Key, model: Model, cache: str) -> None:
    prompt, output, dollars = tokens(day, key, model)
    took = day.near(model.first + output * model.pace)
    mine = day.near(0.003) if cache == "hit" else day.near(took * 0.6)
    counted(day, key, model, "200", cache, "ok")
    day.add("gateway_cache_saved_tokens_total", prompt + output, model.name, key.name)
    day.add("gateway_cache_saved_cost_usd_total", dollars, model.name, key.name)
    day.see("gateway_request_duration_seconds", mine, model.name, cache)
    day.see("gateway_time_to_first_token_seconds", min(mine, day.near(0.002)), model.name, cache)
    day.see("gateway_response_bytes", output * 5.0)
    tier = "memory" if day.dice.random() < 0.7 else "disk"
    day.add("gateway_cache_lookups_total", tier == "memory", "memory", "hit")
    day.add("gateway_cache_lookups_total", tier == "disk", "disk", "hit")
    if cache == "hit":
        day.add("gateway_cache_saved_seconds_total", max(0.0, took - mine), model.name)
        day.see("gateway_cache_hit_age_seconds", day.near(5400, 1.3))
        day.see("gateway_stage_duration_seconds", mine, "replay")


def one_call(day: Day, at: int, key: Key, model: Model, cache: str) -> None:
    prompt, output, dollars = tokens(day, key, model)
    late = 2.4 if fails(day, at, model) > 0.1 else 1.0
    first, pace = day.near(model.first * late), day.near(model.pace, 0.2)
    whole = first + output * pace
    labels = (model.name, key.name)
    counted(day, key, model, "200", cache, "ok")
    day.see("gateway_request_duration_seconds", whole, model.name, cache)
    day.see("gateway_time_to_first_token_seconds", first, model.name, cache)
    day.see("gateway_time_per_output_token_seconds", pace, model.name)
    day.add("gateway_input_tokens_total", prompt, *labels)
    day.add("gateway_output_tokens_total", output, *labels)
    day.add("gateway_cached_input_tokens_total", prompt * 0.3, *labels)
    day.add("gateway_reasoning_tokens_total", output * 0.12, *labels)
    day.add("gateway_cost_usd_total", dollars, *labels)
    day.see("gateway_request_input_tokens", prompt, model.name)
    day.see("gateway_request_output_tokens", output, model.name)
    day.see("gateway_response_bytes", output * 5.0)
    called(day, model, "2xx", first, whole)
    if cache == "bypass":
        day.add("gateway_cache_bypass_total", 1, "sampled")
    else:
        day.add("gateway_cache_lookups_total", 1, "memory", "miss")
        day.add("gateway_cache_lookups_total", 1, "disk", "miss")
        day.see("gateway_cache_operation_duration_seconds", day.near(0.0006), "get")
        if day.dice.random() < 0.05:
            day.add("gateway_cache_store_skipped_total", 1, "finish_reason")
    stages = {
        "receive": 0.0004, "admit": 0.0002, "look_up": 0.0007, "connect": 0.004,
        "first_byte": first, "relay": whole - first, "finish": 0.002,
    }  # fmt: skip
    for stage, took in stages.items():
        day.see("gateway_stage_duration_seconds", took, stage)
    day.see("gateway_ledger_commit_seconds", day.near(0.0016))


def one_failure(day: Day, key: Key, model: Model) -> None:
    reason, code, outcome = day.dice.choice(
        [
            ("upstream_503", "503", "5xx"),
            ("upstream_timeout", "504", "timeout"),
            ("upstream_error", "502", "error"),
            ("upstream_error", "200", "cut"),
        ]
    )
    day.add("gateway_errors_total", 1, model.name, reason)
    counted(day, key, model, code, "miss" if code in ("200", "503") else "none", "server_error")
    called(day, model, outcome, None, None)
    day.add("gateway_cache_store_skipped_total", 1, "status")


def called(day: Day, model: Model, outcome: str, first: float | None, whole: float | None) -> None:
    name = model.upstream
    day.add("gateway_upstream_requests_total", 1, name, model.name, outcome)
    day.add("gateway_upstream_retries_total", day.dice.random() < 0.004, name)
    day.see("gateway_upstream_queue_wait_seconds", day.near(0.0004), name)
    if first is not None and whole is not None:
        day.see("gateway_upstream_first_byte_seconds", first * 0.94, name)
        day.see("gateway_upstream_request_duration_seconds", whole * 0.99, name)


def quotas(day: Day, at: int) -> None:
    """Windows that fill and end; nothing is kept beyond its limit, the rest is refused."""
    until_midnight = DAY - at % DAY
    for (name, kind), limit in LIMITS.items():
        used = spent(day, at, name, kind, limit)
        over = used - limit
        if over > 0:
            refused = day.chance(min(over, 12))
            day.add("gateway_quota_rejections_total", refused, name, kind)
            day.add("gateway_key_requests_total", refused, name, "refused")
            day.add("gateway_errors_total", refused, "gpt-4o", "rate_limit_exceeded")
            day.add("gateway_requests_total", refused, "chat/completions", "gpt-4o", "429", "none")
        day.add("gateway_quota_rejections_total", 0, name, kind)
        day.add(
            "gateway_quota_warnings_total", over > -0.2 * limit and at % 3600 < STEP, name, kind
        )
        day.put("gateway_quota_limit", limit, name, kind)
        day.put("gateway_quota_used", min(used, limit), name, kind)
        day.put("gateway_quota_reserved", min(limit - min(used, limit), limit * 0.01), name, kind)
        if kind != "max_parallel":
            left = 60 if kind in ("rpm", "tpm") else until_midnight + (kind == "budget") * 7 * DAY
            day.put("gateway_quota_reset_timestamp_seconds", at + left, name, kind)
    day.add("gateway_quota_clamped_total", day.dice.random() < 0.03, "support-agent")
    day.see("gateway_quota_wait_seconds", day.near(0.02))
    for upstream in ("openai", "openrouter", "local"):
        day.add("gateway_quota_bound_exceeded_total", 0, upstream)
        day.add("gateway_quota_overrun_tokens_total", 0, upstream)


def spent(day: Day, at: int, name: str, kind: str, limit: float) -> float:
    """How much of a limit is used, had nothing been refused."""
    passed = at % DAY / DAY
    if kind in ("rpm", "max_parallel"):
        return day.minute.get(name, 0.0) * (1 if kind == "rpm" else 0.6)
    if kind == "tpm":
        return day.near(limit * 0.35, 0.2)
    share = {"checkout-bot": 1.55, "support-agent": 0.62, "alice": 0.94, "nightly-evals": 0.7}
    if kind == "budget":  # of a week
        passed = 1 - (day.end - at) / (7 * DAY)
    return limit * share.get(name, 0.5) * passed


def process(day: Day, at: int) -> None:
    """What is read at each scrape."""
    load = sum(day.minute.values()) / STEP
    reloaded = day.end - RELOAD if at > day.end - RELOAD else day.start - 5 * DAY
    day.add("process_cpu_seconds_total", STEP * day.near(0.03 + load * 0.035, 0.1))
    for name, value in {
        "up": 1, "gateway_ready": 1, "process_start_time_seconds": day.start - 5 * DAY,
        "process_resident_memory_bytes": day.near(210 * MIB, 0.02), "process_max_fds": 65_536,
        "process_open_fds": round(80 + load * 30),
        "gateway_client_connections": round(30 + load * 9),
        "gateway_requests_in_flight": round(load * 4), "gateway_streams_open": round(load * 3),
        "gateway_flights_open": round(load * 2.2), "gateway_flights_abandoned": 0,
        "gateway_cache_disk_up": 1, "gateway_cache_writes_waiting": day.chance(0.3),
        "gateway_ledger_rows_waiting": day.chance(1), "gateway_ledger_down_seconds": 0,
        "gateway_ledger_size_bytes": 410 * MIB + (at - day.start) * 900,
        "gateway_access_log_lines_waiting": day.chance(0.2),
        "gateway_config_last_reload_successful": 1,
        "gateway_config_last_reload_success_timestamp_seconds": reloaded,
        "scrape_duration_seconds": day.near(0.008, 0.2), "scrape_samples_scraped": 1180,
    }.items():  # fmt: skip
        day.put(name, value)
    day.put("gateway_build_info", 1, __version__, "3.11.2")
    for generation, times in (("0", 40), ("1", 4), ("2", 0.4)):
        day.add("python_gc_collections_total", day.chance(times), generation)
    for _ in range(40):
        day.see("gateway_event_loop_lag_seconds", day.near(0.0012, 0.7), times=6)
    for tier, entries, size, most in (("memory", 9e3, 190, 256), ("disk", 61e3, 1900, 4096)):
        grown = 0.7 + 0.3 * (at - day.start) / (day.end - day.start)
        day.put("gateway_cache_entries", round(entries * grown), tier)
        day.put("gateway_cache_size_bytes", size * MIB * grown, tier)
        day.put("gateway_cache_max_size_bytes", most * MIB, tier)
        day.add("gateway_cache_evictions_total", day.chance(3), tier, "expired")
    day.add("gateway_cache_evictions_total", day.chance(1), "memory", "size")
    day.see("gateway_cache_operation_duration_seconds", day.near(0.004), "set")
    for volume in ("data", "cache"):
        day.put("gateway_data_disk_free_bytes", 31e9 - (at - day.start) * 12e3, volume)
        day.put("gateway_data_disk_total_bytes", 100e9, volume)
    for result in ("ok", "failed"):
        day.add(
            "gateway_config_reloads_total",
            result == "ok" and 0 <= day.end - RELOAD - at < STEP,
            result,
        )
    for result in ("dropped", "recovered", "deleted"):
        day.add("gateway_ledger_rows_total", 0, result)
        day.add("gateway_access_log_lines_total", 0, "dropped")
    day.add("gateway_observer_errors_total", 0)
    upstreams(day, at, load)
    trust(day)
    kept(day, at, load)


def upstreams(day: Day, at: int, load: float) -> None:
    for model in MODELS:
        name, broken = model.upstream, fails(day, at, model) > 0.1
        day.put("gateway_upstream_up", 0 if broken and day.dice.random() < 0.6 else 1, name)
        day.put("gateway_upstream_last_success_timestamp_seconds", at - day.dice.random() * 3, name)
        day.put("gateway_upstream_in_flight", round(load * (2 if broken else 0.9)), name)
        day.put("gateway_upstream_queued", 0, name)
        day.put("gateway_upstream_connections_idle", 8 + day.chance(3), name)
        if name != "local":
            day.put(
                "gateway_upstream_ratelimit_remaining", round(day.near(9000, 0.1)), name, "requests"
            )


def trust(day: Day) -> None:
    """Figures that are not exact, now and then."""
    few = day.chance(0.1)
    day.add("gateway_usage_estimated_total", few, "qwen3-32b")
    day.add("gateway_estimated_tokens_total", few * 700, "qwen3-32b", "search-team")
    day.add("gateway_usage_missing_total", few, "absent")
    day.add("gateway_unpriced_requests_total", 0, "qwen3-32b")


def kept(day: Day, at: int, load: float) -> None:
    """Bodies in the journal, and traces."""
    for result, share in (("written", 0.2), ("dropped", 0), ("failed", 0)):
        day.add("gateway_journal_records_total", round(load * STEP * share), result)
    for name in ("gateway_journal_bodies_dropped_total", "gateway_journal_files_deleted_total"):
        day.add(name, name.endswith("deleted_total") and at % 7200 < STEP)
    day.put("gateway_journal_records_waiting", day.chance(0.5))
    day.put("gateway_journal_held_bytes", load * 9_000)
    day.put("gateway_journal_size_bytes", 640 * MIB + (at % 7200) * 4_000)
    day.put("gateway_journal_files", 12 + (at % 7200 > 3600))
    day.add("gateway_trace_spans_total", round(load * STEP * 2.7), "exported")
    day.put("gateway_trace_requests_waiting", day.chance(2))


def samples(day: Day) -> Iterator[tuple[str, dict[str, str], float]]:
    """What a scrape gives."""
    for name, held in day.values.items():
        spec = family(name)
        for labels, value in held.items():
            named = dict(zip(spec.labels, labels, strict=True)) | SCOPE
            if not isinstance(value, list):
                yield name, named, value
                continue
            count = 0.0
            for bound, times in zip([*spec.buckets, math.inf], value, strict=False):
                count += times
                if spec.type == "histogram":
                    le = "+Inf" if bound == math.inf else repr(float(bound))
                    yield f"{name}_bucket", {**named, "le": le}, count
            yield f"{name}_count", named, count
            yield f"{name}_sum", named, value[-1]


def lines(end: int, hours: int) -> Iterator[str]:
    """The day in OpenMetrics, a scrape a minute."""
    day = Day(end, hours)
    for at in range(day.start, end + 1, STEP):
        step(day, at)
        for name, labels, value in samples(day):
            inner = ",".join(f'{label}="{text}"' for label, text in labels.items())
            yield f"{name}{{{inner}}} {value!r} {at}\n"
    yield "# EOF\n"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tools.dashboards.history END HOURS")
    sys.stdout.writelines(lines(int(sys.argv[1]), int(sys.argv[2])))
