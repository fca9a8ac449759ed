"""Sizes, durations and money as people write them, read exactly.

Each parser raises ValueError with a message that says what would be right, and never repeats the
text: it may have come from a secret.
"""

from __future__ import annotations

import re
from fractions import Fraction

from gateway.config.kinds import (
    Duration,
    Money,
    Part,
    Price,
    Size,
)

_BYTES = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

_NUMBER = r"\d{1,19}(?:\.\d{1,9})?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)", re.ASCII)
_STEP = re.compile(rf"({_NUMBER})([a-z]+)", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}[a-z]+)+", re.ASCII)
_MONEY = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)

_LONGEST = 36_500 * 86_400_000  # a hundred years, in milliseconds
_LARGEST = 1 << 60
NANO = 10**9
_PART = re.compile(r"0(?:\.\d{1,4})?|1(?:\.0{1,4})?", re.ASCII)
_PRICE = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)


def parse_size(text: str) -> Size:
    """Bytes. `64MiB`, `1.5GiB`, `500KB`, `0`."""
    if text == "0":
        return Size(0)
    if text.isdecimal():
        raise ValueError("a size has a unit: write 64MiB (B, KiB, MiB, GiB, TiB, KB, MB, GB)")
    found = _SIZE.fullmatch(text)
    if found is None or found[2] not in _BYTES:
        raise ValueError("a size is wanted: write 64MiB (B, KiB, MiB, GiB, TiB, KB, MB, GB)")
    size = Fraction(found[1]) * _BYTES[found[2]]
    if size.denominator != 1:
        raise ValueError("a size is a whole number of bytes: write 1536B, not 1.5001KiB")
    if size > _LARGEST:
        raise ValueError("a size is at most 1048576TiB")
    return Size(int(size))


def parse_duration(text: str) -> Duration:
    """Seconds. `30s`, `250ms`, `24h`, `7d`, `1h30m`, `0`; units fall from left to right."""
    if text == "0":
        return Duration(0)
    if text.isdecimal():
        raise ValueError("a duration has a unit: write 30s (ms, s, m, h, d)")
    steps = _STEP.findall(text) if _DURATION.fullmatch(text) else []
    units = [_MILLISECONDS.get(unit, 0) for _, unit in steps]
    if not units or not all(units) or units != sorted(set(units), reverse=True):
        raise ValueError("a duration is wanted: write 30s or 1h30m (ms, s, m, h, d)")
    numbers = [Fraction(number) for number, _ in steps]
    milliseconds = sum((n * unit for n, unit in zip(numbers, units, strict=True)), Fraction(0))
    if milliseconds.denominator != 1:
        raise ValueError("a duration is a whole number of milliseconds: write 250ms")
    if milliseconds > _LONGEST:
        raise ValueError("a duration is at most 36500d")
    return Duration(int(milliseconds) / 1000)


def parse_money(text: str) -> Money:
    """Nano-dollars (10^-9), exact. `12.50` is 12,500,000,000."""
    found = _MONEY.fullmatch(text)
    if found is None:
        raise ValueError("an amount in dollars is wanted, at most 9 decimals: write 12.50")
    return Money(int(found[1]) * NANO + int((found[2] or "").ljust(9, "0")))


def parse_price(text: str) -> Price:
    """10^-12 dollars per token, exact. `0.15`, dollars per million tokens, is 150,000."""
    found = _PRICE.fullmatch(text)
    if found is None:
        raise ValueError("dollars per million tokens are wanted, at most 6 decimals: write 0.15")
    return Price(int(found[1] + (found[2] or "").ljust(6, "0")))


def format_money(nano: int) -> str:
    """The shortest writing that `parse_money` reads back to the same."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{rest:09}".rstrip("0").removesuffix(".")


def parse_part(text: str) -> Part:
    """A part of a whole: `0.1` is a tenth, `1` is all."""
    if not _PART.fullmatch(text):
        raise ValueError("a part is 0 to 1, at most 4 decimals: write 0.1 for a tenth")
    return Part(float(text))


def format_price(price: int) -> str:
    """The shortest writing that `parse_price` reads back to the same."""
    whole, rest = divmod(price, 10**6)
    return f"{whole}.{rest:06}".rstrip("0").removesuffix(".")


def format_size(size: int) -> str:
    """The shortest writing that `parse_size` reads back to the same bytes: `64MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def format_duration(seconds: float) -> str:
    """A writing that `parse_duration` reads back to the same seconds, to the millisecond."""
    rest = round(seconds * 1000)
    if rest % 86_400_000 == 0 and rest:
        return f"{rest // 86_400_000}d"
    parts = []
    for unit in ("h", "m", "s", "ms"):
        number, rest = divmod(rest, _MILLISECONDS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
