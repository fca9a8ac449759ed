"""Where days begin in a time zone, in quarter-hours since the epoch. Pure: dates in, numbers out.

Rule: all time zones of today are whole quarters of an hour from UTC, so a local day is a run of UTC
quarters, 92 to 100 of them: sums by quarter become sums by day without a rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gateway.config import parse_duration

QUARTER = 900  # seconds
QUARTER_MS = QUARTER * 1000
DAY = timedelta(days=1)


def start_of(day: date, zone: ZoneInfo) -> int:
    """The first quarter of that local day. Where midnight is skipped, the day begins later."""
    return int(datetime.combine(day, time(), zone).timestamp()) // QUARTER


def day_at(seconds: float, zone: ZoneInfo) -> date:
    """The local day at a moment in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(zone).date()


def day_of(quarter: int, zone: ZoneInfo) -> date:
    """The local day that a quarter belongs to."""
    return day_at(quarter * QUARTER, zone)


def starts(first: date, last: date, zone: ZoneInfo) -> Iterator[int]:
    """The first quarters of all days from `first` to `last`, both in it."""
    while first <= last:
        yield start_of(first, zone)
        first += DAY


def window_starts(now: float, zone: ZoneInfo) -> dict[str, int]:
    """The first quarters of the day, the week (from Monday) and the month that `now` is in."""
    today = day_at(now, zone)
    return {
        "day": start_of(today, zone),
        "week": start_of(today - today.weekday() * DAY, zone),
        "month": start_of(today.replace(day=1), zone),
    }


def window_bounds(now: float, zone: ZoneInfo) -> dict[str, tuple[float, float]]:
    """The first and the last moment, in seconds since the epoch, of the windows that `now` is in:
    `day`, `week`, `month` and `total`."""
    today = day_at(now, zone)
    monday, first = today - today.weekday() * DAY, today.replace(day=1)
    next_month = (first + 31 * DAY).replace(day=1)
    days = {"day": (today, today + DAY), "week": (monday, monday + 7 * DAY)}
    days["month"] = first, next_month
    bounds = {
        span: (float(start_of(start, zone) * QUARTER), float(start_of(end, zone) * QUARTER))
        for span, (start, end) in days.items()
    }
    return bounds | {"total": (0.0, math.inf)}


def moment(text: str, now: float, zone: ZoneInfo, *, end: bool = False) -> float:
    """Seconds since the epoch of what people write: `7d` before `now`, a day (2026-03-29) of the
    zone, or a time (2026-03-29T12:00, in the zone where it names none). As an `end`, a day is in
    it. ValueError."""
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        if len(text) == len("2026-03-29"):
            day = date.fromisoformat(text)
            return start_of(day + DAY if end else day, zone) * QUARTER
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("a duration (7d), a day (2026-03-29) or a time is wanted") from None
