"""What a batch of rows adds to the sums: one statement, run where they were inserted.

Rule: rows and what they add are one transaction, so they cannot differ. A batch is added up once,
not row by row, which cost three times as much; and as a trigger of the connection, so that it is
one statement: beside a busy event loop each one more waits for the interpreter's lock.
"""

from __future__ import annotations

import sqlite3

from gateway.usage.migrations import ADDED, FIGURES

_NEWEST = "FROM requests WHERE seq > (SELECT max(seq) FROM requests) - NEW.rows"
# Times before the calendar count by UTC: nothing is booked there but in tests.
_FIRST = "ifnull((SELECT max(first) FROM calendar WHERE first <= quarter), quarter / 96 * 96)"


def prepare(connection: sqlite3.Connection) -> None:
    """From now on `INSERT INTO newest VALUES (n)` books the n rows that were inserted last: sums by
    quarter-hour and by day. It is no part of the file."""
    for statement in (
        "CREATE TEMP VIEW newest (rows) AS SELECT 0",
        f"CREATE TEMP TABLE added (quarter, series, {', '.join(FIGURES)})",
        f"CREATE TEMP TRIGGER add_up INSTEAD OF INSERT ON newest BEGIN {_booking()} END",
    ):
        connection.execute(statement)


def _booking() -> str:
    sums = ", ".join(f"sum({ADDED[name].replace('NEW.', '')})" for name in FIGURES)
    return (
        f"INSERT INTO added SELECT at / 900000, series, {sums} {_NEWEST} GROUP BY 1, 2; "
        + _adding("quarters", "quarter", "quarter")
        + _adding("days", "first", _FIRST)
        + "DELETE FROM added; "
    )


def _adding(table: str, start: str, value: str) -> str:
    figures = ", ".join(FIGURES)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)
    return (
        f"INSERT INTO {table} ({start}, series, {figures}) SELECT {value}, series, {figures} "
        f"FROM added WHERE true ON CONFLICT ({start}, series) DO UPDATE SET {sums}; "
    )
