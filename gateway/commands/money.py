"""Dollars for people and spreadsheets: plain decimals, exact to 10^-9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NANO = 10**9


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its `..._usd` as decimals."""
    return {
        name: decimal(value) if name.endswith("_usd") and value is not None else value
        for name, value in row.items()
    }


def decimal(dollars: float) -> str:
    """`0.000012`, never `1.2e-05`."""
    nano = round(dollars * NANO)
    whole, rest = divmod(abs(nano), NANO)
    text = f"{whole}.{rest:09}".rstrip("0").removesuffix(".")
    return f"-{text}" if nano < 0 else text
