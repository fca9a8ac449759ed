"""The table of metrics: the one source of their names, labels, buckets and meanings.

The page, docs/metrics.md and the dashboards are made from it. Those that tell of the gateway's
inside stand in `inside.py`. Pure.
"""

from __future__ import annotations

from gateway.metrics.inside import BOOKS, JOURNAL, PROCESS
from gateway.metrics.spec import (
    AGE,
    BYTES,
    DISK,
    DURATION,
    FIRST_TOKEN,
    OVERHEAD,
    PER_TOKEN,
    TOKENS,
    WAIT,
    Spec,
    counter,
    gauge,
    histogram,
    summary,
)

REQUESTS = (
    counter(
        "gateway_requests_total",
        "endpoint model code cache",
        "Requests of the data plane, /healthz and /readyz left out. code: the status sent, "
        "499 for a client that left before it; cache: hit, miss, joined, bypass, none (the "
        "gateway answered).",
    ),
    counter(
        "gateway_errors_total",
        "model reason",
        "Requests that did not end well. reason: the error's code, else the outcome; a stream "
        "may break off after its 200.",
    ),
    counter(
        "gateway_key_requests_total",
        "key outcome",
        "Requests of callers with a valid credential. outcome: ok, refused (by the gateway: a "
        "limit, a model not allowed, a bad body), client_error (the upstream's 4xx), server_error "
        "(no good answer), left (the client did, early).",
    ),
    histogram(
        "gateway_request_duration_seconds",
        "model cache",
        DURATION,
        "From the request's head to the end of its answer, as the client waits.",
    ),
    histogram(
        "gateway_time_to_first_token_seconds",
        "model cache",
        FIRST_TOKEN,
        "Streams with status 200: from the request's head to the first content handed to the "
        "client.",
    ),
    histogram(
        "gateway_time_per_output_token_seconds",
        "model",
        PER_TOKEN,
        "Pace of streams that an upstream sent whole: from first content to last byte, for each "
        "output token after the first; one observation a stream.",
    ),
    histogram(
        "gateway_overhead_seconds",
        "endpoint",
        OVERHEAD,
        "What the gateway itself took: the duration without the time spent waiting for the "
        "upstream.",
    ),
    summary(
        "gateway_stage_duration_seconds",
        "stage",
        "Where the time of requests went. stage: receive (the body), admit, look_up, connect "
        "(queueing in it), first_byte (the upstream thinks), relay, finish (kept, booked, sent), "
        "replay (of a hit), join (of a joined request).",
    ),
    gauge("gateway_requests_in_flight", "", "Requests under way on the data plane."),
    gauge("gateway_streams_open", "", "Streams under way on the data plane."),
    gauge("gateway_client_connections", "", "Open connections of the data plane, idle ones too."),
    histogram("gateway_request_bytes", "", BYTES, "Bodies of requests, as far as they came."),
    histogram("gateway_response_bytes", "", BYTES, "Bodies of answers, as far as they were sent."),
)

USAGE = (
    counter(
        "gateway_input_tokens_total",
        "model key",
        "Prompt tokens as upstreams reported them; estimates and answers from the cache left out.",
    ),
    counter(
        "gateway_output_tokens_total",
        "model key",
        "Completion tokens as upstreams reported them; estimates and answers from the cache "
        "left out.",
    ),
    counter(
        "gateway_cached_input_tokens_total",
        "model key",
        "The part of the prompt tokens that the upstream had cached itself.",
    ),
    counter(
        "gateway_reasoning_tokens_total",
        "model key",
        "The part of the completion tokens that was reasoning.",
    ),
    counter(
        "gateway_estimated_tokens_total",
        "model key",
        "Tokens, prompt and completion together, that the gateway had to estimate because the "
        "upstream did not say; in no other family.",
    ),
    histogram(
        "gateway_request_input_tokens",
        "model",
        TOKENS,
        "Prompt tokens of one call, as its upstream reported them: the shape of traffic.",
    ),
    histogram(
        "gateway_request_output_tokens",
        "model",
        TOKENS,
        "Completion tokens of one call, as its upstream reported them.",
    ),
    counter(
        "gateway_cost_usd_total",
        "model key",
        "What upstream calls cost, in dollars by the price data; the ledger has the exact figures.",
    ),
    counter(
        "gateway_unpriced_requests_total",
        "model",
        "Upstream calls with tokens whose model has no price: their cost is unknown, not 0.",
    ),
    counter(
        "gateway_usage_estimated_total",
        "model",
        "Upstream calls whose tokens are an estimate of the gateway's.",
    ),
    counter(
        "gateway_usage_missing_total",
        "reason",
        "Complete answers with status 200 in which no usage was found.",
    ),
    counter(
        "gateway_observer_errors_total",
        "",
        "Faults while an answer was observed; its bytes reached the client unchanged.",
    ),
)

CACHE = (
    counter(
        "gateway_cache_saved_tokens_total",
        "model key",
        "Tokens that hits and joined requests did not cost, prompt and completion together.",
    ),
    counter(
        "gateway_cache_saved_cost_usd_total",
        "model key",
        "What hits and joined requests would have cost, in dollars.",
    ),
    counter(
        "gateway_cache_saved_seconds_total",
        "model",
        "Time that clients did not wait: what the kept answer's call took, less what the hit took.",
    ),
    counter(
        "gateway_cache_bypass_total",
        "reason",
        "Requests neither looked up nor kept. reason: disabled, no_store, sampled, not_canonical, "
        "store, background, web_search_options.",
    ),
    counter(
        "gateway_cache_store_skipped_total",
        "reason",
        "Answers that were not kept. reason: no_store, status, encoded, content_type, too_large, "
        "not_json, error, incomplete, no_choices, clamped, finish_reason.",
    ),
    histogram(
        "gateway_cache_hit_age_seconds", "", AGE, "How old the answers are that hits replay."
    ),
    counter(
        "gateway_cache_lookups_total",
        "tier result",
        "Look-ups of a tier; the disk is asked for what is not in memory. tier: memory, disk; "
        "result: hit, miss.",
    ),
    histogram(
        "gateway_cache_operation_duration_seconds",
        "operation",
        DISK,
        "The disk tier. operation: get (as a request waits for it), set (one batch, in the "
        "background).",
    ),
    gauge(
        "gateway_cache_disk_up",
        "",
        "1 while the disk tier works, or none is configured; 0 while memory serves alone.",
    ),
    gauge("gateway_cache_entries", "tier", "Entries kept. tier: memory, disk."),
    gauge("gateway_cache_size_bytes", "tier", "Bytes that they take. tier: memory, disk."),
    gauge("gateway_cache_max_size_bytes", "tier", "The limit on that. tier: memory, disk."),
    counter(
        "gateway_cache_evictions_total",
        "tier reason",
        "Entries that had to go. tier: memory, disk; reason: expired, size, purged.",
    ),
    gauge("gateway_cache_writes_waiting", "", "Entries on their way to the disk."),
    counter(
        "gateway_cache_dropped_total",
        "reason",
        "Entries that did not reach the disk; they are served from memory.",
    ),
    counter(
        "gateway_cache_errors_total",
        "reason",
        "Faults of the disk tier: each was a miss, never an error to a client (E3).",
    ),
    gauge("gateway_flights_open", "", "Upstream calls that equal requests may join."),
    gauge(
        "gateway_flights_abandoned",
        "",
        "Upstream calls that go on though all their clients have left, so that the answer is kept.",
    ),
)

UPSTREAMS = (
    counter(
        "gateway_upstream_requests_total",
        "upstream model outcome",
        "Calls to an upstream by their last attempt. outcome: 2xx, 3xx, 4xx, 429, 5xx, "
        "timeout, error (no answer), cut, in_band_error, abandoned (given up here, or by the "
        "client).",
    ),
    counter("gateway_upstream_retries_total", "upstream", "Attempts beyond the first of a call."),
    histogram(
        "gateway_upstream_first_byte_seconds",
        "upstream",
        FIRST_TOKEN,
        "From a connection at hand to the first byte of the upstream's answer.",
    ),
    histogram(
        "gateway_upstream_request_duration_seconds",
        "upstream",
        DURATION,
        "From a connection at hand to the last byte of the upstream's answer.",
    ),
    histogram(
        "gateway_upstream_queue_wait_seconds",
        "upstream",
        WAIT,
        "Waiting for a free connection to the upstream (max_connections).",
    ),
    gauge("gateway_upstream_in_flight", "upstream", "Calls to the upstream under way."),
    gauge("gateway_upstream_queued", "upstream", "Calls that wait for a free connection."),
    gauge(
        "gateway_upstream_connections_idle", "upstream", "Open connections that wait for a call."
    ),
    gauge(
        "gateway_upstream_up",
        "upstream",
        "1 where the last call that told was answered below 500, 0 where it failed; none before "
        "the first call. What a client gave up tells nothing.",
    ),
    gauge(
        "gateway_upstream_last_success_timestamp_seconds",
        "upstream",
        "When the upstream last ended a good answer, in seconds since the epoch; none before the "
        "first.",
    ),
    gauge(
        "gateway_upstream_ratelimit_remaining",
        "upstream kind",
        "What the upstream says is left of its own limits, as it last said "
        "(x-ratelimit-remaining-*). kind: requests, tokens.",
    ),
)

QUOTAS = (
    gauge(
        "gateway_quota_limit",
        "key kind",
        "Limits of keys and teams. key: a key's name, or team:NAME; kind: rpm, tpm, "
        "requests_per_day, tokens_per_day, tokens_per_month, budget (in dollars), max_parallel.",
    ),
    gauge("gateway_quota_used", "key kind", "What is used of a limit in its open window."),
    gauge(
        "gateway_quota_reserved",
        "key kind",
        "What calls under way hold of a limit, beside what is used.",
    ),
    gauge(
        "gateway_quota_reset_timestamp_seconds",
        "key kind",
        "When the open window of a limit ends, in seconds since the epoch; none where nothing "
        "resets.",
    ),
    counter(
        "gateway_quota_rejections_total",
        "key kind",
        "Requests refused for a limit. key: whose limit it is, a key's name or team:NAME.",
    ),
    counter(
        "gateway_quota_warnings_total",
        "key kind",
        "Times that 80 % of a limit was passed, once for each window.",
    ),
    counter(
        "gateway_quota_clamped_total",
        "key",
        "Calls whose output cap was lowered to what was left of a limit.",
    ),
    histogram(
        "gateway_quota_wait_seconds",
        "",
        WAIT,
        "Waiting for reservations of calls under way to settle (quota.wait).",
    ),
    counter(
        "gateway_quota_bound_exceeded_total",
        "upstream",
        "Calls that took more than the bound reserved for them; booked in full.",
    ),
    counter(
        "gateway_quota_overrun_tokens_total",
        "upstream",
        "Tokens that upstreams took beyond the bound reserved for a call; booked in full.",
    ),
)

ROOMS: dict[str, tuple[Spec, ...]] = {
    "Requests": REQUESTS,
    "Usage and money": USAGE,
    "Cache": CACHE,
    "Upstreams": UPSTREAMS,
    "Quotas": QUOTAS,
    "Books": BOOKS,
    "Journal": JOURNAL,
    "The process": PROCESS,
}
TABLE = tuple(spec for families in ROOMS.values() for spec in families)
SPECS = {spec.name: spec for spec in TABLE}
