"""`gateway teams`: keys that share limits."""

from __future__ import annotations

from typing import Any

import click

from gateway.admin.limits import LIMITS
from gateway.admin.teams import LIST, PUT, SHOW
from gateway.commands import output
from gateway.commands.limits import limit_options, show_limited, where_of
from gateway.commands.options import common
from gateway.commands.session import session

_TABLE = ("name", "keys", "created")
_CSV = ("name", "id", "keys", *LIMITS, "created")


@click.group()
def teams() -> None:
    """Teams of keys that share limits, and kept answers where the scope is team."""


@teams.command(
    "list",
    epilog="""Examples:

    \b
      gateway teams list""",
)
@common
def list_(form: str, **where: Any) -> None:
    """All teams and their keys."""
    with session(where) as house:
        found = house.ask(LIST)
    output.listing(found, _TABLE if form == "table" else _CSV, form)


@teams.command(
    epilog="""Examples:

    \b
      gateway teams show research"""
)
@click.argument("name")
@common
def show(name: str, form: str, **where: Any) -> None:
    """One team."""
    with session(where) as house:
        found = house.ask(SHOW, name=name)
    show_limited(found, form)


@teams.command(
    "set",
    epilog="""Examples:

    \b
      gateway teams set research
      gateway teams set research --tpm 200000 --budget 500 --per month
      gateway teams set research --budget none""",
)
@click.argument("name")
@limit_options
@common
def set_(name: str, form: str, **given: Any) -> None:
    """Make a team, or change its limits; 'none' clears one."""
    where = where_of(given)
    with session(where, makes=True) as house:
        found = house.ask(PUT, name=name, **given)
    show_limited(found, form)
