"""The options that keys and teams have in common, and what they mean for the question asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from gateway.admin.limits import NONE
from gateway.commands import output

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.ParamType[int | str]):
    """A whole number above 0, or `none`."""

    name = "N"

    def convert(self, value: Any, param: object, ctx: object) -> int | str:
        if value == NONE:
            return NONE
        if re.fullmatch("[0-9]{1,18}", str(value)) and (number := int(value)):
            return number
        self.fail("it takes a whole number above 0, or 'none'")


def _number(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, type=Number(), help=text)


_OPTIONS = (
    _number("--rpm", "Requests a minute."),
    _number("--tpm", "Tokens a minute."),
    _number("--requests-per-day", "Requests a day."),
    _number("--tokens-per-day", "Tokens a day."),
    _number("--tokens-per-month", "Tokens a month."),
    click.option("--budget", metavar="USD", help="Dollars, as 12.50; with --per."),
    click.option(
        "--per",
        type=click.Choice(("day", "week", "month", "total", NONE)),
        help="What the budget is for.",
    ),
    _number("--max-parallel", "Requests at a time."),
)


def limit_options(command: F) -> F:
    """LIMITS of the contract; 'none' clears one."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def where_of(given: dict[str, Any]) -> dict[str, Any]:
    """Takes `--config` and `--data` out of all that was given."""
    return {name: given.pop(name) for name in ("config_path", "data")}


def without_blanks(found: Mapping[str, Any], form: str) -> dict[str, Any]:
    """A table leaves out what is not set."""
    return {name: value for name, value in found.items() if form != "table" or value is not None}


def show_limited(found: Mapping[str, Any], form: str) -> None:
    """A key or a team; for people with a table of what it may still use."""
    quota = found.get("quota") or {}
    if form != "table":
        output.record(found, form)
        return
    output.record(without_blanks({n: v for n, v in found.items() if n != "quota"}, form), form)
    rows = [
        {"quota": kind, **{name: output.figure(value) for name, value in one.items()}}
        for kind, one in quota.items()
    ]
    if rows:
        click.echo()
        output.listing(rows, ("quota", "limit", "used", "reserved", "left", "reset"), form)
