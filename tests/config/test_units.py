"""Sizes, durations and money: what is read, what is refused, and that writing is the way back."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import (
    format_duration,
    format_money,
    format_size,
    parse_duration,
    parse_money,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("0B", 0),
        ("1B", 1),
        ("64KiB", 64 << 10),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
        ("1KB", 1000),
        ("1.5MB", 1_500_000),
        ("3GB", 3 * 10**9),
    ],
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "64M",
        "64mib",
        "MiB",
        "-1MiB",
        "1e3B",
        "0.3B",
        "1.KiB",
        "9" * 30 + "B",
        "٣B",
        "1TB",
    ],
)
def test_what_is_no_size_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"64MiB|whole number|at most"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("10m", 600.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("1h30m", 5400.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("0.5s", 0.5),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "-1s", "30 s", "30S", "30sec", "1m1h", "1s1s", "1h30", "0.1ms", "99999d", "١s"],
)
def test_what_is_no_duration_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"30s|milliseconds|at most"):
        parse_duration(text)


@given(st.integers(0, 1 << 60))
def test_a_size_survives_its_writing(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 36_500 * 86_400_000))
def test_a_duration_survives_its_writing(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 10**21 - 1))
def test_money_is_exact_to_a_nano_dollar(nano: int) -> None:
    assert parse_money(f"{Decimal(nano).scaleb(-9):.9f}") == nano
    assert parse_money(format_money(nano)) == nano


@pytest.mark.parametrize(("text", "nano"), [("12.50", 12_500_000_000), ("0", 0), ("3", 3 * 10**9)])
def test_money_is_nano_dollars(text: str, nano: int) -> None:
    assert parse_money(text) == nano


@pytest.mark.parametrize("text", ["", "-1", "$1", "1e3", "1.", ".5", "0.0000000001", "1,5", "nan"])
def test_what_is_no_money_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"12\.50"):
        parse_money(text)


@given(st.text(max_size=12))
def test_junk_is_a_value_error_that_does_not_repeat_it(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_money):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert len(text) < 4 or text not in str(error)
