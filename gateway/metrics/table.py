"""The table of metrics: the one source of their names, labels, buckets and meanings.

The page, docs/metrics.md and the dashboards are made from it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

MODELS = 200  # names an upstream answered, beyond the configured ones (M1)
KEYS = 200  # names of passthrough callers, beyond the aliases
SERIES = 2000  # of one family

DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 120, 300)
OVERHEAD = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
AGE = (1, 10, 60, 300, 1800, 3600, 21_600, 86_400, 604_800, 2_592_000)
WAIT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One family. `buckets` are upper bounds, inclusive; a type with buckets is a histogram."""

    name: str
    type: str  # counter, gauge, histogram
    labels: Labels
    help: str
    buckets: tuple[float, ...] = ()


def _counter(name: str, labels: str, text: str) -> Spec:
    return Spec(name, "counter", tuple(labels.split()), text)


def _gauge(name: str, labels: str, text: str) -> Spec:
    return Spec(name, "gauge", tuple(labels.split()), text)


def _histogram(name: str, labels: str, buckets: tuple[float, ...], text: str) -> Spec:
    return Spec(name, "histogram", tuple(labels.split()), text, buckets)


TABLE: tuple[Spec, ...] = (
    _counter(
        "gateway_requests_total",
        "endpoint model code cache",
        "Requests of the data plane, /healthz and /readyz left out. code: the status sent, "
        "499 for a client that left before it; cache: hit, miss, joined, bypass, none (the "
        "gateway answered).",
    ),
    _counter(
        "gateway_errors_total",
        "model reason",
        "Requests that did not end well. reason: the error's code, else the outcome; a stream "
        "may break off after its 200.",
    ),
    _histogram(
        "gateway_request_duration_seconds",
        "model cache",
        DURATION,
        "From the request's head to the end of its answer, as the client waits.",
    ),
    _histogram(
        "gateway_time_to_first_token_seconds",
        "model cache",
        FIRST_TOKEN,
        "Streams with status 200: from the request's head to the first content handed to the "
        "client.",
    ),
    _histogram(
        "gateway_overhead_seconds",
        "endpoint",
        OVERHEAD,
        "What the gateway itself took: the duration without the time spent waiting for the "
        "upstream.",
    ),
    _gauge("gateway_requests_in_flight", "", "Requests under way on the data plane."),
    _gauge("gateway_streams_open", "", "Streams under way on the data plane."),
    _counter(
        "gateway_input_tokens_total",
        "model key",
        "Prompt tokens as upstreams reported them; estimates and answers from the cache left out.",
    ),
    _counter(
        "gateway_output_tokens_total",
        "model key",
        "Completion tokens as upstreams reported them; estimates and answers from the cache "
        "left out.",
    ),
    _counter(
        "gateway_cached_input_tokens_total",
        "model key",
        "The part of the prompt tokens that the upstream had cached itself.",
    ),
    _counter(
        "gateway_reasoning_tokens_total",
        "model key",
        "The part of the completion tokens that was reasoning.",
    ),
    _counter(
        "gateway_cost_usd_total",
        "model key",
        "What upstream calls cost, in dollars by the price data; the ledger has the exact figures.",
    ),
    _counter(
        "gateway_unpriced_requests_total",
        "model",
        "Upstream calls with tokens whose model has no price: their cost is unknown, not 0.",
    ),
    _counter(
        "gateway_usage_estimated_total",
        "model",
        "Upstream calls whose tokens are an estimate of the gateway's.",
    ),
    _counter(
        "gateway_usage_missing_total",
        "reason",
        "Complete answers with status 200 in which no usage was found.",
    ),
    _counter(
        "gateway_observer_errors_total",
        "",
        "Faults while an answer was observed; its bytes reached the client unchanged.",
    ),
    _counter(
        "gateway_upstream_requests_total",
        "upstream model outcome",
        "Calls to an upstream by their last attempt. outcome: 2xx, 3xx, 4xx, 429, 5xx, "
        "timeout, error (no answer), cut, in_band_error, abandoned (given up here, or by the "
        "client).",
    ),
    _counter("gateway_upstream_retries_total", "upstream", "Attempts beyond the first of a call."),
    _histogram(
        "gateway_upstream_first_byte_seconds",
        "upstream",
        FIRST_TOKEN,
        "From a connection at hand to the first byte of the upstream's answer.",
    ),
    _histogram(
        "gateway_upstream_request_duration_seconds",
        "upstream",
        DURATION,
        "From a connection at hand to the last byte of the upstream's answer.",
    ),
    _histogram(
        "gateway_upstream_queue_wait_seconds",
        "upstream",
        WAIT,
        "Waiting for a free connection to the upstream (max_connections).",
    ),
    _gauge("gateway_upstream_in_flight", "upstream", "Calls to the upstream under way."),
    _gauge("gateway_upstream_queued", "upstream", "Calls that wait for a free connection."),
    _counter(
        "gateway_cache_saved_tokens_total",
        "model key",
        "Tokens that hits and joined requests did not cost, prompt and completion together.",
    ),
    _counter(
        "gateway_cache_saved_cost_usd_total",
        "model key",
        "What hits and joined requests would have cost, in dollars.",
    ),
    _counter(
        "gateway_cache_bypass_total",
        "reason",
        "Requests neither looked up nor kept. reason: disabled, no_store, sampled, not_canonical, "
        "store, background, web_search_options.",
    ),
    _counter(
        "gateway_cache_store_skipped_total",
        "reason",
        "Answers that were not kept. reason: no_store, status, encoded, content_type, too_large, "
        "not_json, error, incomplete, no_choices, clamped, finish_reason.",
    ),
    _histogram(
        "gateway_cache_hit_age_seconds", "", AGE, "How old the answers are that hits replay."
    ),
    _gauge("gateway_cache_entries", "tier", "Entries kept. tier: memory, disk."),
    _gauge("gateway_cache_size_bytes", "tier", "Bytes that they take. tier: memory, disk."),
    _gauge("gateway_cache_max_size_bytes", "tier", "The limit on that. tier: memory, disk."),
    _counter(
        "gateway_cache_evictions_total",
        "tier reason",
        "Entries that had to go. tier: memory, disk; reason: expired, size, purged.",
    ),
    _counter(
        "gateway_cache_dropped_total",
        "reason",
        "Entries that did not reach the disk; they are served from memory.",
    ),
    _counter(
        "gateway_cache_errors_total",
        "reason",
        "Faults of the disk tier: each was a miss, never an error to a client (E3).",
    ),
    _gauge(
        "gateway_quota_limit",
        "key kind",
        "Limits of keys and teams. key: a key's name, or team:NAME; kind: rpm, tpm, "
        "requests_per_day, tokens_per_day, tokens_per_month, budget (in dollars), max_parallel.",
    ),
    _gauge("gateway_quota_used", "key kind", "What is used of a limit in its open window."),
    _gauge(
        "gateway_quota_reserved",
        "key kind",
        "What calls under way hold of a limit, beside what is used.",
    ),
    _gauge(
        "gateway_quota_reset_timestamp_seconds",
        "key kind",
        "When the open window of a limit ends, in seconds since the epoch; none where nothing "
        "resets.",
    ),
    _counter(
        "gateway_quota_rejections_total",
        "key kind",
        "Requests refused for a limit. key: whose limit it is, a key's name or team:NAME.",
    ),
    _counter(
        "gateway_quota_warnings_total",
        "key kind",
        "Times that 80 % of a limit was passed, once for each window.",
    ),
    _counter(
        "gateway_quota_clamped_total",
        "key",
        "Calls whose output cap was lowered to what was left of a limit.",
    ),
    _histogram(
        "gateway_quota_wait_seconds",
        "",
        WAIT,
        "Waiting for reservations of calls under way to settle (quota.wait).",
    ),
    _counter(
        "gateway_quota_bound_exceeded_total",
        "upstream",
        "Calls that took more than the bound reserved for them; booked in full.",
    ),
    _counter(
        "gateway_quota_overrun_tokens_total",
        "upstream",
        "Tokens that upstreams took beyond the bound reserved for a call; booked in full.",
    ),
    _gauge("gateway_flights_open", "", "Upstream calls that equal requests may join."),
    _gauge(
        "gateway_flights_abandoned",
        "",
        "Upstream calls that go on though all their clients have left, so that the answer is kept.",
    ),
    _counter(
        "gateway_ledger_rows_total",
        "result",
        "Rows of the ledger. result: written, recovered (of calls that a crash left open), deleted "
        "(too old), dropped (no room to wait, or never writable).",
    ),
    _counter(
        "gateway_ledger_errors_total",
        "reason",
        "Tries to write to the ledger that failed, by SQLite's reason; the rows wait.",
    ),
    _gauge("gateway_ledger_rows_waiting", "", "Rows of the ledger that are not on the disk yet."),
    _gauge(
        "gateway_ledger_down_seconds",
        "",
        "For how long no row could be written; 0 when all is well.",
    ),
    _counter(
        "gateway_access_log_lines_total",
        "result",
        "Lines of the access log. result: written, dropped (queue full), failed, suppressed "
        "(sampled).",
    ),
    _counter(
        "gateway_config_reloads_total",
        "result",
        "Reloads of the configuration. result: ok, failed.",
    ),
    _gauge(
        "gateway_config_last_reload_successful",
        "",
        "1 where the last reload was taken (or none was tried), 0 where the old configuration "
        "was kept.",
    ),
    _gauge(
        "gateway_config_last_reload_success_timestamp_seconds",
        "",
        "When the running configuration was taken, in seconds since the epoch.",
    ),
    _counter(
        "gateway_metric_series_capped_total",
        "metric",
        "Samples counted as `other` because their family had as many series as it may.",
    ),
    _gauge("gateway_build_info", "version python", "Always 1; what runs."),
)
SPECS = {spec.name: spec for spec in TABLE}


def markdown() -> str:
    """docs/metrics.md."""
    rows = []
    for spec in TABLE:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "none"
        bounds = " ".join(map("{:g}".format, spec.buckets))
        about = spec.help + (f" Buckets: {bounds}." if bounds else "")
        rows.append(f"| `{spec.name}` | {spec.type} | {labels} | {about} |")
    return MARKDOWN.format(rows="\n".join(rows), models=MODELS, keys=KEYS, series=SERIES)


MARKDOWN = """\
<!-- Made by `python -m gateway.metrics --markdown` from gateway/metrics/table.py. -->
# Metrics

`GET /metrics` on the admin plane, as text or as OpenMetrics. Every family below stands in each
scrape with HELP and TYPE, samples or not; the standard `process_*` and `python_gc_*` follow.

A model is a label when the configuration names it, or when an upstream has answered it with 200
(the first {models} such names); the rest are `other`. `key` is a name, never a key: an alias,
`anonymous`, or `pass-XXXXXXXX` (the first {keys} of these, the rest are `other`). No family has
more than {series} series; `gateway_metric_series_capped_total` says when that was needed.

| name | type | labels | what it counts |
|---|---|---|---|
{rows}
"""
