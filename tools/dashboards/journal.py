"""The internals' row about the journal: what is written of bodies, what waits, its disk."""

from __future__ import annotations

from tools.dashboards.panels import BAD, GOOD, WARN, Panel, Target, series
from tools.dashboards.queries import RATE, Queries


def panels(q: Queries) -> list[Panel]:
    """All at 0 where journal.bodies is off."""
    deleted = q.total("gateway_journal_files_deleted_total", window=RATE)
    return [
        series(
            "Records of the journal",
            "written: requests whose bodies are kept; dropped: no room to wait; failed: could not "
            "be written; without bodies: of those written, no room was left for a body.",
            Target(q.rate("gateway_journal_records_total", "result"), "{{result}}"),
            Target(q.rate("gateway_journal_bodies_dropped_total"), "without bodies"),
            unit="cps",
            colors={"written": GOOD, "dropped": BAD, "failed": "dark-red", "without bodies": WARN},
        ),
        series(
            "Records that wait",
            "Of the journal. Growing: the disk is slow or full. journal.queue.records bounds it.",
            Target(q.now("gateway_journal_records_waiting"), "records"),
            unit="short",
        ),
        series(
            "Bodies in memory",
            "For the journal: of open requests, and of records that wait. journal.queue.bytes "
            "bounds it.",
            Target(q.now("gateway_journal_held_bytes", "instance"), "{{instance}}"),
            unit="bytes",
        ),
        series(
            "Size of the journal",
            "Its files. journal.size_limit and journal.keep bound it.",
            Target(q.now("gateway_journal_size_bytes", "instance"), "{{instance}}"),
            unit="bytes",
        ),
        series(
            "Files of the journal",
            "How many there are, and how many were deleted for their age or size.",
            Target(q.now("gateway_journal_files"), "files"),
            Target(deleted, "deleted"),
            unit="short",
        ),
        series(
            "Faults of the journal",
            "Tries to write to it that failed, by SQLite's reason. The records wait; requests do "
            "not. Empty is good.",
            Target(q.total("gateway_journal_errors_total", "reason", window=RATE), "{{reason}}"),
            Target(f"0 * {q.now('gateway_journal_records_waiting')}", "none"),
            unit="short",
            may_be_empty="a journal without faults has no series of them",
        ),
    ]
