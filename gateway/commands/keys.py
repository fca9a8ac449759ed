"""`gateway keys`: issue, show, change, rotate and revoke keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from gateway.admin.keys import CHANGE, CREATE, LIST, REVOKE, ROTATE, SHOW
from gateway.admin.limits import LIMITS, NONE
from gateway.commands import output
from gateway.commands.limits import limit_options, show_limited, where_of
from gateway.commands.options import common
from gateway.commands.session import session

F = TypeVar("F", bound=Callable[..., Any])

_TABLE = ("name", "state", "prefix", "team", "models", "expires", "created", "pepper")
_CSV = (
    *("name", "id", "prefix", "state", "team", "models", "expires", "cache", "scope"),
    *("cache_controls", "log_bodies", *LIMITS, "created", "revoked", "previous_until", "pepper"),
)
_SWITCH = click.Choice(("on", "off", NONE))
_OPTIONS = (
    limit_options,
    click.option("--team", metavar="TEAM", help="The team it is in."),
    click.option(
        "--models", metavar="PATTERN,...", help="Models it may ask for; * is any characters."
    ),
    click.option(
        "--expires", metavar="30d|DATE", help="From when it is refused; a day begins at 0:00 UTC."
    ),
    click.option("--cache", type=_SWITCH, help="Is the cache for it."),
    click.option(
        "--scope",
        type=click.Choice(("key", "team", "global", NONE)),
        help="With whom it shares kept answers.",
    ),
    click.option(
        "--cache-controls",
        metavar="LIST",
        help="What of no-cache, no-store, max-age, only-if-cached, ttl its requests may use; "
        "'' for nothing.",
    ),
    click.option("--log-bodies", type=_SWITCH, help="May its requests be logged whole."),
)


def terms(command: F) -> F:
    """What a key may be given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """Issue keys, and say what each may do.

    A change holds when the command returns, also in a server that runs. What is not given stays
    as it is, and 'none' takes it away.
    """


@keys.command(
    epilog="""Examples:

    \b
      gateway keys create alice
      gateway keys create bob --team research --models 'gpt-4o*,o3' --expires 30d
      gateway keys create ci --rpm 60 --budget 20 --per month --format json"""
)
@click.argument("name")
@terms
@common
def create(name: str, form: str, **given: Any) -> None:
    """Issue a key and show it, this once.

    A name has 1 to 64 of A-Z a-z 0-9 . _ @ - and is that of one key only, until it is revoked.
    """
    where = where_of(given)
    with session(where, makes=True) as house:
        found = house.ask(CREATE, name=name, **given)
    _show_text(found, form)


@keys.command(
    "list",
    epilog="""Examples:

    \b
      gateway keys list
      gateway keys list --format csv""",
)
@common
def list_(form: str, **where: Any) -> None:
    """All keys, revoked ones too; none is shown in full."""
    with session(where) as house:
        found = house.ask(LIST)
    output.listing(found, _TABLE if form == "table" else _CSV, form)


@keys.command(
    epilog="""Examples:

    \b
      gateway keys show alice"""
)
@click.argument("name")
@common
def show(name: str, form: str, **where: Any) -> None:
    """What a key may do, and until when."""
    with session(where) as house:
        found = house.ask(SHOW, name=name)
    show_limited(found, form)


@keys.command(
    "set",
    epilog="""Examples:

    \b
      gateway keys set alice --rpm 120 --models none
      gateway keys set alice --expires 2031-12-31 --cache off""",
)
@click.argument("name")
@terms
@common
def set_(name: str, form: str, **given: Any) -> None:
    """Change what a key may do; it holds from the next request on."""
    where = where_of(given)
    if all(value is None for value in given.values()):
        raise click.UsageError("Say what is to change.")
    with session(where) as house:
        found = house.ask(CHANGE, name=name, **given)
    show_limited(found, form)


@keys.command(
    epilog="""Examples:

    \b
      gateway keys rotate alice
      gateway keys rotate alice --grace 24h"""
)
@click.argument("name")
@click.option(
    "--grace",
    default="0",
    show_default=True,
    metavar="DURATION",
    help="How long the old text stays good, as 24h.",
)
@common
def rotate(name: str, grace: str, form: str, **where: Any) -> None:
    """Give a key another text and show it, this once.

    Its name, its id and what it may do stay. A second rotation ends the first one's grace.
    """
    with session(where) as house:
        found = house.ask(ROTATE, name=name, grace=grace)
    _show_text(found, form)


@keys.command(
    epilog="""Examples:

    \b
      gateway keys revoke alice"""
)
@click.argument("name")
@common
def revoke(name: str, form: str, **where: Any) -> None:
    """Refuse a key from now on, and forget the answers that are kept of its calls."""
    with session(where) as house:
        found = house.ask(REVOKE, name=name)
    show_limited(found, form)


def _show_text(found: Mapping[str, Any], form: str) -> None:
    show_limited(found, form)
    click.echo("gateway: keep the key now; it is not shown again", err=True)
