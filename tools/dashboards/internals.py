"""Does the gateway itself have what it needs? Processor, memory, disk, books, configuration."""

from __future__ import annotations

from tools.dashboards import journal
from tools.dashboards.frame import Board
from tools.dashboards.panels import (
    ANY_IS_BAD,
    ANY_IS_NOTABLE,
    BAD,
    GOOD,
    WARN,
    Panel,
    Target,
    series,
    stat,
)
from tools.dashboards.queries import RANGE, RATE, Queries

OURS, THEIRS = (
    'stage=~"receive|admit|look_up|finish|replay"',
    'stage=~"connect|first_byte|relay|join"',
)
LAG, DISK_FREE, DISK_SIZE = (
    "gateway_event_loop_lag_seconds",
    "gateway_data_disk_free_bytes",
    "gateway_data_disk_total_bytes",
)


def board() -> Board:
    made = Board(
        "internals",
        "Gateway: internals",
        "Does the gateway itself have what it needs: processor, memory, disk, books, "
        "configuration?",
        span="1h",
    )
    q = made.queries
    made.add(*_answer(q))
    made.row("Processor and memory")
    made.add(*_machine(q))
    made.row("Where a request's time goes")
    made.add(*_time(q))
    made.row("Books and logs")
    made.add(*_books(q))
    made.row("Journal: bodies of requests, where they are kept")
    made.add(*journal.panels(q))
    made.row("Disk, connections, configuration")
    made.add(*_rest(q))
    return made


def _answer(q: Queries) -> list[Panel]:
    free = (
        f"min ({q.now(DISK_FREE, 'volume', how='min')} / {q.now(DISK_SIZE, 'volume', how='min')})"
    )
    reload = q.now("gateway_config_last_reload_successful", how="min")
    return [
        stat(
            "Version",
            "What runs.",
            Target(f"count by (version) ({q.select('gateway_build_info')})", "{{version}}"),
            unit="none",
            text="name",
        ),
        stat(
            "Started",
            "When the youngest instance was started.",
            f"{q.now('process_start_time_seconds', how='max')} * 1000",
            unit="dateTimeFromNow",
        ),
        stat(
            "Processor, busiest",
            "Share of one processor that the busiest instance uses. An instance cannot use more "
            "than a little over one.",
            f"max ({RATE_CPU.format(q.select('process_cpu_seconds_total'))})",
            unit="percentunit",
            decimals=0,
            graph=True,
            steps=[(None, GOOD), (0.7, WARN), (0.9, BAD)],
        ),
        stat(
            "Memory, largest",
            "Resident memory of the largest instance.",
            q.now("process_resident_memory_bytes", how="max"),
            unit="bytes",
            graph=True,
        ),
        stat(
            "Loop is late, p99",
            "How late the event loop is, in the time shown: what every request waits for besides. "
            "0.1 s is felt.",
            q.quantile(0.99, LAG, window=RANGE),
            unit="s",
            steps=[(None, GOOD), (0.05, WARN), (0.1, BAD)],
        ),
        stat(
            "Disk free",
            "Of the fuller of the disks for data and cache.",
            free,
            unit="percentunit",
            decimals=0,
            steps=[(None, BAD), (0.1, WARN), (0.2, GOOD)],
        ),
        stat(
            "Books stopped for",
            "For how long no row of the ledger could be written. After usage.when_down calls are "
            "refused.",
            q.now("gateway_ledger_down_seconds", how="max"),
            unit="s",
            decimals=0,
            steps=ANY_IS_BAD,
        ),
        stat(
            "Last reload",
            "Refused: the changed configuration has a fault; the old one holds. The log says "
            "which.",
            reload,
            unit="none",
            words={"1": ("Taken", GOOD), "0": ("Refused", BAD)},
        ),
    ]


RATE_CPU = "rate({}[" + RATE + "])"


def _machine(q: Queries) -> list[Panel]:
    return [
        series(
            "Processor",
            "Share of one processor, by instance. Above 0.9 everything waits: start another "
            "instance, or ask for less.",
            Target(RATE_CPU.format(q.select("process_cpu_seconds_total")), "{{instance}}"),
            unit="percentunit",
            limit=[(None, GOOD), (0.9, BAD)],
        ),
        series(
            "Memory",
            "Resident memory, by instance. cache.memory is a part of it.",
            Target(q.now("process_resident_memory_bytes", "instance"), "{{instance}}"),
            unit="bytes",
        ),
        series(
            "How late the event loop is",
            "How late a timer rang: what every request waits for besides.",
            Target(q.quantile(0.99, LAG), "p99"),
            Target(q.quantile(0.5, LAG), "p50"),
            unit="s",
            limit=[(None, GOOD), (0.1, BAD)],
            colors={"p99": BAD, "p50": GOOD},
        ),
    ]


def _time(q: Queries) -> list[Panel]:
    stage = "gateway_stage_duration_seconds"
    sizes = [
        Target(q.quantile(part, f"gateway_{side}_bytes"), f"{side} {label}")
        for side in ("request", "response")
        for part, label in ((0.95, "p95"), (0.5, "p50"))
    ]
    return [
        series(
            "Stages in the gateway, mean",
            "receive: the client sends its body; admit; look_up: in the cache; finish: kept, "
            "booked, sent; replay: a kept answer is sent.",
            Target(q.mean(stage, "stage", OURS), "{{stage}}"),
            unit="s",
            width=6,
        ),
        series(
            "Stages with the upstream, mean",
            "connect: until a connection is at hand; first_byte: the upstream thinks; relay: its "
            "answer passes; join: another's call is waited for.",
            Target(q.mean(stage, "stage", THEIRS), "{{stage}}"),
            unit="s",
            width=6,
        ),
        series(
            "The gateway's own part, p99",
            "The request's time less what it waited for the upstream, by endpoint.",
            Target(q.quantile(0.99, "gateway_overhead_seconds", "endpoint"), "{{endpoint}}"),
            unit="s",
            width=6,
        ),
        series(
            "Size of bodies",
            "Bodies of requests, as far as they came, and of answers, as far as they were sent.",
            *sizes,
            unit="bytes",
            width=6,
        ),
    ]


def _books(q: Queries) -> list[Panel]:
    return [
        series(
            "Rows of the ledger",
            "written: one for each request; recovered: of calls that a crash left open; deleted: "
            "past usage.keep; dropped: lost.",
            Target(q.rate("gateway_ledger_rows_total", "result"), "{{result}}"),
            unit="cps",
            colors={"dropped": BAD, "written": GOOD},
        ),
        series(
            "Wait for the row to be on disk",
            "How long the end of an answer is held until its row is written.",
            Target(q.quantile(0.99, "gateway_ledger_commit_seconds"), "p99"),
            Target(q.quantile(0.5, "gateway_ledger_commit_seconds"), "p50"),
            unit="s",
            colors={"p99": BAD, "p50": GOOD},
        ),
        series(
            "Not written yet",
            "Rows of the ledger and lines of the access log that wait. Growing: the disk is slow "
            "or full. Traces: requests whose spans wait for the collector.",
            Target(q.now("gateway_ledger_rows_waiting"), "ledger"),
            Target(q.now("gateway_access_log_lines_waiting"), "access log"),
            Target(q.now("gateway_trace_requests_waiting"), "traces"),
            unit="short",
        ),
        series(
            "Lines of the access log, spans",
            "written: one line for each request; dropped: the queue was full; failed: could not be "
            "written; suppressed: sampled away. Spans, where traces are on: exported, failed (the "
            "collector did not take them), dropped.",
            Target(q.rate("gateway_access_log_lines_total", "result"), "{{result}}"),
            Target(q.rate("gateway_trace_spans_total", "result"), "spans {{result}}"),
            unit="cps",
            colors={"dropped": BAD, "failed": "dark-red", "written": GOOD, "spans dropped": BAD},
        ),
        series(
            "Size of the ledger",
            "Its files, the write-ahead log among them. usage.keep bounds it.",
            Target(q.now("gateway_ledger_size_bytes", "instance"), "{{instance}}"),
            unit="bytes",
        ),
        series(
            "Faults of the books",
            "Tries to write to the ledger that failed, by SQLite's reason. The rows wait. Empty "
            "is good.",
            Target(q.total("gateway_ledger_errors_total", "reason", window=RATE), "{{reason}}"),
            Target(f"0 * {q.now('gateway_ledger_rows_waiting')}", "none"),
            unit="short",
            may_be_empty="a ledger without faults has no series of them",
        ),
    ]


def _rest(q: Queries) -> list[Panel]:
    reloads, family = "gateway_config_reloads_total", "gateway_metric_series_capped_total"
    return [
        series(
            "Room on the disk",
            "Room left for who runs the gateway, on the disks of data and cache (perhaps the "
            "same).",
            Target(q.now(DISK_FREE, "volume", how="min"), "{{volume}}"),
            unit="bytes",
        ),
        series(
            "Open files, of those it may open",
            "Each connection takes one, each upstream call another.",
            Target(
                f"{q.now('process_open_fds', 'instance')} / {q.now('process_max_fds', 'instance')}",
                "{{instance}}",
            ),
            unit="percentunit",
            limit=[(None, GOOD), (0.8, BAD)],
        ),
        series(
            "Collections of garbage, per minute",
            "Python's collector, by generation. Generation 2 holds the loop up for longest.",
            Target(
                f"{q.rate('python_gc_collections_total', 'generation')} * 60",
                "generation {{generation}}",
            ),
            unit="short",
        ),
        series(
            "Reloads of the configuration",
            "ok: taken; failed: the file has a fault and the old configuration holds.",
            Target(q.total(reloads, "result", window=RATE), "{{result}}"),
            unit="short",
            width=6,
            colors={"ok": GOOD, "failed": BAD},
        ),
        series(
            "Scrapes",
            "How long Prometheus waits for the metrics page.",
            Target(q.now("scrape_duration_seconds", "instance", how="max"), "{{instance}}"),
            unit="s",
            width=6,
        ),
        stat(
            "Samples scraped",
            "Samples on the metrics page.",
            q.now("scrape_samples_scraped"),
            unit="locale",
            width=4,
            height=8,
        ),
        stat(
            "Answers not understood",
            "Answers in the time shown that could not be understood; their bytes reached the "
            "client unchanged.",
            q.total("gateway_observer_errors_total"),
            unit="locale",
            decimals=0,
            steps=ANY_IS_NOTABLE,
            width=4,
            height=8,
        ),
        stat(
            "Counted as other",
            "Samples in the time shown that were counted as `other` because their family is full.",
            f"{q.total(family)} or 0 * {q.now('gateway_build_info')}",
            unit="locale",
            decimals=0,
            steps=ANY_IS_NOTABLE,
            width=4,
            height=8,
        ),
    ]
