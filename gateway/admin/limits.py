"""Limits as keys and teams take them, over HTTP and on the command line, and as they are shown.

Rule: what is not given stays as it is; `none` (in JSON also null) takes a limit away.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, UnsetType

from gateway.admin.operation import Arguments
from gateway.config.units import NANO, parse_money
from gateway.errors import InvalidRequest
from gateway.keys.records import Limits

NONE = "none"
LIMITS = (
    "rpm",
    "tpm",
    "requests_per_day",
    "tokens_per_day",
    "tokens_per_month",
    "budget",
    "per",
    "max_parallel",
)

T = TypeVar("T")

Count = Annotated[int, Meta(ge=1, le=10**15)] | Literal["none"] | UnsetType | None
Money = str | int | float | UnsetType | None
Period = Literal["day", "week", "month", "total", "none"] | UnsetType | None


class LimitArguments(Arguments, frozen=True, kw_only=True):
    """What a key and a team have in common."""

    rpm: Annotated[Count, Meta(description="Requests a minute.")] = UNSET
    tpm: Annotated[Count, Meta(description="Tokens a minute.")] = UNSET
    requests_per_day: Annotated[Count, Meta(description="Requests a day.")] = UNSET
    tokens_per_day: Annotated[Count, Meta(description="Tokens a day.")] = UNSET
    tokens_per_month: Annotated[Count, Meta(description="Tokens a month.")] = UNSET
    budget: Annotated[Money, Meta(description="Dollars, for each `per`.")] = UNSET
    per: Annotated[Period, Meta(description="What the budget is for.")] = UNSET
    max_parallel: Annotated[Count, Meta(description="Requests at a time.")] = UNSET


def given(value: T | UnsetType | None, old: T | None) -> T | None:
    """What stands after it was said, or not said, or taken away."""
    if isinstance(value, UnsetType):
        return old
    return None if value == NONE else value


def changed(old: Limits, asked: LimitArguments) -> Limits:
    """The limits after what was asked. InvalidRequest."""
    new: dict[str, int | str] = {}
    for name in LIMITS:
        value = given(getattr(asked, name), old.get(name))
        if name == "budget" and asked.budget is not UNSET and value is not None:
            value = _nano_dollars(value)
        if value is not None:
            new[name] = value
    if "budget" in new and "per" not in new:
        raise InvalidRequest("A budget needs 'per': day, week, month or total.", param="per")
    if "budget" not in new and new.pop("per", "") and asked.per is not UNSET:
        raise InvalidRequest("'per' says what a budget is for, and there is none.", param="per")
    return new


def _nano_dollars(value: str | float) -> int:
    text = value if isinstance(value, str) else f"{Decimal(str(value)):f}"
    try:
        if amount := parse_money(text):
            return amount
        raise ValueError("a budget is more than 0; revoke a key that may spend nothing")
    except ValueError as error:
        raise InvalidRequest(f"budget: {error}.", param="budget") from None


def standing(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By option name: limit, used, reserved and left of each limit that holds, and its reset."""
    return {one["kind"]: {k: v for k, v in one.items() if k != "kind"} for one in found}


def shown(limits: Limits) -> dict[str, Any]:
    """By option name; None where there is no limit. The budget in dollars."""
    found: dict[str, Any] = {name: limits.get(name) for name in LIMITS}
    if found["budget"] is not None:
        found["budget"] /= NANO
    return found
