"""Days, weeks and months in a time zone, and the moments that people write."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage.calendar import (
    QUARTER,
    day_at,
    day_of,
    moment,
    start_of,
    starts,
    window_starts,
)

ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe",
         "Africa/Cairo", "America/Havana", "Pacific/Apia", "Asia/Beirut"]  # fmt: skip


@given(st.sampled_from(ZONES), st.dates(date(2021, 1, 1), date(2029, 12, 31)))
def test_a_day_is_a_run_of_quarters(name, day):
    """Also where midnight itself is skipped or comes twice (Cairo, Havana, Beirut)."""
    zone = ZoneInfo(name)
    start, end = start_of(day, zone), start_of(day + timedelta(days=1), zone)
    assert 88 <= end - start <= 104
    assert day_of(start, zone) == day == day_of(end - 1, zone)
    assert day_at(start * QUARTER - 1, zone) == day - timedelta(days=1)


def test_starts_are_all_days():
    zone = ZoneInfo("Europe/Berlin")
    found = list(starts(date(2026, 3, 28), date(2026, 3, 30), zone))
    assert [after - before for before, after in pairwise(found)] == [96, 92]


def test_a_week_begins_on_monday_and_all_windows_in_the_zone():
    zone = ZoneInfo("Europe/Berlin")
    now = datetime(2026, 3, 29, 0, 30, tzinfo=zone).timestamp()  # a Sunday; in UTC still Saturday
    shown = {
        name: datetime.fromtimestamp(first * QUARTER, zone).isoformat()
        for name, first in window_starts(now, zone).items()
    }
    assert shown == {
        "day": "2026-03-29T00:00:00+01:00",
        "week": "2026-03-23T00:00:00+01:00",
        "month": "2026-03-01T00:00:00+01:00",
    }


@pytest.mark.parametrize(
    ("text", "end", "moment_of"),
    [
        ("1h", False, "2026-03-29T11:00:00+00:00"),
        ("7d", False, "2026-03-22T12:00:00+00:00"),
        ("2026-03-29", False, "2026-03-28T23:00:00+00:00"),
        ("2026-03-29", True, "2026-03-29T22:00:00+00:00"),
        ("2026-03-29T12:00", False, "2026-03-29T10:00:00+00:00"),
        ("2026-03-29T12:00Z", True, "2026-03-29T12:00:00+00:00"),
    ],
)
def test_moments_as_people_write_them(text, end, moment_of):
    now = datetime(2026, 3, 29, 12, tzinfo=UTC).timestamp()
    found = moment(text, now, ZoneInfo("Europe/Berlin"), end=end)
    assert datetime.fromtimestamp(found, UTC).isoformat() == moment_of


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-1h", "2026-02-30", "2026-13", "9" * 99])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match="is wanted"):
        moment(text, 0.0, ZoneInfo("UTC"))
