"""The table of metrics, of the gateway's inside: its books and logs, and the process. Pure."""

from __future__ import annotations

from gateway.metrics.spec import DISK, LAG, counter, gauge, histogram

BOOKS = (
    counter(
        "gateway_ledger_rows_total",
        "result",
        "Rows of the ledger. result: written, recovered (of calls that a crash left open), deleted "
        "(too old), dropped (no room to wait, or never writable).",
    ),
    counter(
        "gateway_ledger_errors_total",
        "reason",
        "Tries to write to the ledger that failed, by SQLite's reason; the rows wait.",
    ),
    gauge("gateway_ledger_rows_waiting", "", "Rows of the ledger that are not on the disk yet."),
    histogram(
        "gateway_ledger_commit_seconds",
        "",
        DISK,
        "How long the end of an answer was held until its row was on the disk.",
    ),
    gauge(
        "gateway_ledger_down_seconds",
        "",
        "For how long no row could be written; 0 when all is well.",
    ),
    gauge("gateway_ledger_size_bytes", "", "The ledger's files, its write-ahead log among them."),
    counter(
        "gateway_access_log_lines_total",
        "result",
        "Lines of the access log. result: written, dropped (queue full), failed, suppressed "
        "(sampled).",
    ),
    gauge("gateway_access_log_lines_waiting", "", "Lines of the access log not written yet."),
    counter(
        "gateway_trace_spans_total",
        "result",
        "Spans, where traces are on. result: exported, failed (not taken by the collector), "
        "dropped (queue full).",
    ),
    gauge("gateway_trace_requests_waiting", "", "Requests whose spans are not sent yet."),
)

JOURNAL = (
    counter(
        "gateway_journal_records_total",
        "result",
        "Requests whose bodies are to be kept. result: written, dropped (no room to wait), failed "
        "(could not be made or written).",
    ),
    counter(
        "gateway_journal_bodies_dropped_total",
        "",
        "Requests of which the journal has the headers alone: no room was left for a body.",
    ),
    counter(
        "gateway_journal_errors_total",
        "reason",
        "Tries to write to the journal that failed, by SQLite's reason; the records wait.",
    ),
    gauge("gateway_journal_records_waiting", "", "Records of the journal not written yet."),
    gauge(
        "gateway_journal_held_bytes",
        "",
        "Bodies in memory for the journal: of open requests, and of records that wait.",
    ),
    gauge("gateway_journal_size_bytes", "", "The journal's files on disk."),
    gauge("gateway_journal_files", "", "How many they are."),
    counter(
        "gateway_journal_files_deleted_total",
        "",
        "Files of the journal deleted for their age, or because all were too large.",
    ),
)

PROCESS = (
    gauge("gateway_ready", "", "1 where /readyz says 200, 0 where it says 503."),
    histogram(
        "gateway_event_loop_lag_seconds",
        "",
        LAG,
        "How late a timer rang, four times a second: what every request waits for besides.",
    ),
    gauge(
        "gateway_data_disk_free_bytes",
        "volume",
        "Room left for who runs the gateway. volume: data, cache (perhaps the same disk).",
    ),
    gauge("gateway_data_disk_total_bytes", "volume", "Size of that disk."),
    counter(
        "gateway_config_reloads_total",
        "result",
        "Reloads of the configuration. result: ok, failed.",
    ),
    gauge(
        "gateway_config_last_reload_successful",
        "",
        "1 where the last reload was taken (or none was tried), 0 where the old configuration "
        "was kept.",
    ),
    gauge(
        "gateway_config_last_reload_success_timestamp_seconds",
        "",
        "When the running configuration was taken, in seconds since the epoch.",
    ),
    counter(
        "gateway_metric_series_capped_total",
        "metric",
        "Samples counted as `other` because their family had as many series as it may.",
    ),
    gauge("gateway_build_info", "version python", "Always 1; what runs."),
)
