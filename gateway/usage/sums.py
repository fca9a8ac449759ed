"""What a batch of rows adds to the sums, and settles: one statement, run where they were inserted.

Rule: rows and what they add are one transaction, so they cannot differ. A batch is added up once,
not row by row, which cost three times as much; and as a trigger of the connection, so that it is
one statement: beside a busy event loop each one more waits for the interpreter's lock.
"""

from __future__ import annotations

import sqlite3

from gateway.usage.migrations import ADDED, FIGURES, NAMES, SERIES

_NEWEST = "FROM requests WHERE seq > (SELECT max(seq) FROM requests) - NEW.rows"
# Times before the calendar count by UTC: nothing is booked there but in tests.
_FIRST = "ifnull((SELECT max(first) FROM calendar WHERE first <= quarter), quarter / 96 * 96)"


def prepare(connection: sqlite3.Connection) -> None:
    """From now on `INSERT INTO newest VALUES (n)` books the n rows that were inserted last: sums by
    quarter-hour and by day, and their reservations go. It is no part of the file."""
    names, figures = ", ".join(SERIES), ", ".join(FIGURES)
    for statement in (
        "CREATE TEMP VIEW newest (rows) AS SELECT 0",
        f"CREATE TEMP TABLE added (quarter, {names}, {figures})",
        f"CREATE TEMP TRIGGER add_up INSTEAD OF INSERT ON newest BEGIN {_booking()} END",
    ):
        connection.execute(statement)


def _booking() -> str:
    names, figures = ", ".join(SERIES), ", ".join(FIGURES)
    named = ", ".join(_plain(NAMES[name]) for name in SERIES)
    places = ", ".join(str(place) for place in range(1, len(SERIES) + 2))
    sums = ", ".join(f"sum({_plain(ADDED[name])})" for name in FIGURES)
    return (
        f"INSERT INTO added SELECT at / 900000, {named}, {sums} {_NEWEST} GROUP BY {places}; "
        f"INSERT INTO series ({names}) SELECT DISTINCT {names} FROM added WHERE true "
        "ON CONFLICT DO NOTHING; "
        + _adding("quarters", "quarter", "quarter", figures)
        + _adding("days", "first", _FIRST, figures)
        + f"DELETE FROM added; DELETE FROM reservations WHERE id IN (SELECT id {_NEWEST}); "
    )


def _adding(table: str, start: str, value: str, figures: str) -> str:
    same = " AND ".join(f"series.{name} = added.{name}" for name in SERIES)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)
    return (
        f"INSERT INTO {table} ({start}, series, {figures}) SELECT {value}, series.id, {figures} "
        f"FROM added CROSS JOIN series WHERE {same} "
        f"ON CONFLICT ({start}, series) DO UPDATE SET {sums}; "
    )


def _plain(expression: str) -> str:
    """As it stands outside of a row's own trigger."""
    return expression.replace("NEW.", "")
