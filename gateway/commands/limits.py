"""The options that keys and teams have in common, and what they mean for the question asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from gateway.admin.limits import LIMITS, NONE

F = TypeVar("F", bound=Callable[..., Any])

# Take this away with the quotas that enforce what is stored.
UNENFORCED = "gateway: limits are stored; they are enforced from the release with quotas"


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


def say_unenforced(given: Mapping[str, Any]) -> None:
    """Who sets a limit must not believe that it holds already."""
    if any(given.get(name) not in (None, NONE) for name in LIMITS):
        click.echo(UNENFORCED, err=True)


def where_of(given: dict[str, Any]) -> dict[str, Any]:
    """Takes `--config` and `--data` out of all that was given."""
    return {name: given.pop(name) for name in ("config_path", "data")}


def without_blanks(found: Mapping[str, Any], form: str) -> dict[str, Any]:
    """A table leaves out what is not set."""
    return {name: value for name, value in found.items() if form != "table" or value is not None}
