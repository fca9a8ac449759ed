"""docs/metrics.md, made from the table. Pure."""

from __future__ import annotations

from gateway.metrics.spec import KEYS, MODELS, PAIRS, SERIES, Spec
from gateway.metrics.table import ROOMS


def markdown() -> str:
    """docs/metrics.md."""
    parts = [HEAD.format(models=MODELS, keys=KEYS, pairs=PAIRS, series=SERIES)]
    for title, families in ROOMS.items():
        rows = "\n".join(map(_row, families))
        parts.append(f"## {title}\n\n{ABOUT[title]}\n\n{COLUMNS}\n{rows}\n")
    return "\n".join(parts)


def _row(spec: Spec) -> str:
    labels = ", ".join(f"`{label}`" for label in spec.labels)
    bounds = " ".join(map("{:g}".format, spec.buckets))
    about = spec.help + (f" Buckets: {bounds}." if bounds else "")
    return f"| `{spec.name}` | {spec.type} | {labels} | {about} |"


COLUMNS = "| name | type | labels | what it says |\n|---|---|---|---|"

ABOUT = {
    "Requests": """\
How many, how well, how fast, and where the time goes.

```promql
# Requests a second
sum(rate(gateway_requests_total[5m]))

# Share that failed on our side or the upstream's
sum(rate(gateway_requests_total{code=~"5.."}[5m])) / sum(rate(gateway_requests_total[5m]))

# What the slowest 1 % wait for a first token, by model
histogram_quantile(0.99, sum by (le, model) (
  rate(gateway_time_to_first_token_seconds_bucket{cache!="hit"}[5m])
))

# What the gateway itself adds, at the 99th percentile
histogram_quantile(0.99, sum by (le) (rate(gateway_overhead_seconds_bucket[5m])))
```\
""",
    "Usage and money": """\
Who used what, what it cost, and how far these figures can be trusted. They agree with the ledger,
to the token.

```promql
# Dollars a day, by key
sum by (key) (increase(gateway_cost_usd_total[1d]))

# Tokens a minute, by model
60 * sum by (model) (rate(gateway_input_tokens_total[5m]) + rate(gateway_output_tokens_total[5m]))

# Models whose cost nobody knows
sum by (model) (increase(gateway_unpriced_requests_total[1d])) > 0
```\
""",
    "Cache": """\
What it saves, why not more, and how its disk does.

```promql
# Share of requests that cost nothing
sum(rate(gateway_requests_total{cache=~"hit|joined"}[5m]))
  / sum(rate(gateway_requests_total{cache=~"hit|joined|miss"}[5m]))

# Dollars saved this week
sum(increase(gateway_cache_saved_cost_usd_total[7d]))

# Why answers are not kept
sum by (reason) (rate(gateway_cache_store_skipped_total[1h]))
```\
""",
    "Upstreams": """\
Which one is slow, failing or full.

```promql
# Share of calls that failed, by upstream
sum by (upstream) (rate(gateway_upstream_requests_total{outcome!~"2xx|3xx|4xx|abandoned"}[5m]))
  / sum by (upstream) (rate(gateway_upstream_requests_total[5m]))

# Median time to the first byte
histogram_quantile(0.5, sum by (le, upstream) (
  rate(gateway_upstream_first_byte_seconds_bucket[5m])
))
```\
""",
    "Quotas": """\
Who is about to hit a limit, and who has.

```promql
# Used share of every limit, the fullest first
sort_desc(gateway_quota_used / gateway_quota_limit)

# Refusals a minute, by key and limit
60 * sum by (key, kind) (rate(gateway_quota_rejections_total[5m]))
```\
""",
    "Books": """\
Whether rows and lines reach the disk.

```promql
# Rows are not written
gateway_ledger_down_seconds > 0

# How long ends wait for their row, at the 99th percentile
histogram_quantile(0.99, sum by (le) (rate(gateway_ledger_commit_seconds_bucket[5m])))
```\
""",
    "Journal": """\
What becomes of bodies and headers, where they are kept ([logs](logs.md)).

```promql
# Something was left out: the disk is too slow, or journal.queue too small
rate(gateway_journal_bodies_dropped_total[5m]) > 0
rate(gateway_journal_records_total{result!="written"}[5m]) > 0

# How many days the files reach back at this rate, where size deletes them
gateway_journal_size_bytes / deriv(gateway_journal_size_bytes[1d]) / 86400
```\
""",
    "The process": """\
Is it well, what runs, and from which configuration.

```promql
# The running configuration is not the written one
gateway_config_last_reload_successful == 0

# Disk full within four hours
predict_linear(gateway_data_disk_free_bytes[1h], 4 * 3600) < 0
```\
""",
}

HEAD = """\
<!-- Made by `python -m gateway.metrics --markdown` from gateway/metrics/table.py. -->
# Metrics

`GET /metrics` on the admin plane, as text or as OpenMetrics (with exemplars: the request's id and
its trace's, on durations and first tokens). Below, room by room: what you may want to know, how to
ask Prometheus for it, and every family there is. Each stands in every scrape with HELP and TYPE,
samples or not. A page is made at most once a second.

The standard `process_*` (CPU, memory, open files, start) and `python_gc_*` follow at its end.

## Names in labels

Labels hold names that were chosen by who runs the gateway, and few others, so that nobody's typing
errors or keys make series.

- `model`: as clients ask for it. A name that the configuration holds, or one that an upstream has
  answered with 200 (the first {models} such names); all others are `other`.
- `key`: a name, never a key. An issued key's name, an alias, `anonymous`, or `pass-XXXXXXXX` (the
  first {keys} of these, the rest are `other`). Revoking a key removes its series.
- `upstream`: its `name`.

Models that the configuration names without a pattern, and keys that may use them, have their
series from the start, at 0, so that `increase()` misses no first request. This holds for keys
made later and after a reload too. For families with both labels it stops at {pairs} pairs.

No family has more than {series} series: what comes beyond is counted under `other` in each of its
labels, and in `gateway_metric_series_capped_total`.
"""
