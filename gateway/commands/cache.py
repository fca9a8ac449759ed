"""`gateway cache`: what is kept, one entry, and making it forget."""

from __future__ import annotations

from typing import Any

import click

from gateway.admin.cache import PURGE, SHOW, STATS
from gateway.commands import output
from gateway.commands.options import common
from gateway.commands.session import session


@click.group()
def cache() -> None:
    """Look into the cache, and make it forget.

    Entries are found by the id of the request that stored them, or of one of the last 10,000 that
    were answered from them; without a server, by the first alone.
    """


@cache.command(
    epilog="""Examples:

    \b
      gateway cache stats
      gateway cache stats --format json"""
)
@common
def stats(form: str, **where: Any) -> None:
    """How full the cache is, and what it did since the server's start.

    The table leaves out counters of what did not happen; JSON and CSV have them all.
    """
    with session(where) as house:
        found = house.ask(STATS)
        if not house.live:
            click.echo("gateway: no server runs; these are the files' own figures", err=True)
            found.pop("memory")
    output.record(_without_zeros(found) if form == "table" else found, form)


def _without_zeros(found: dict[str, Any]) -> dict[str, Any]:
    """Without what is 0 in a group of counters, which has a number for each reason."""
    return {
        name: {
            inner: {k: v for k, v in value.items() if v} if isinstance(value, dict) else value
            for inner, value in group.items()
        }
        if isinstance(group, dict)
        else group
        for name, group in found.items()
    }


@cache.command(
    epilog="""Examples:

    \b
      gateway cache show 01K8ZQ4T3V9N2M6R7X5B1C0D8E
      gateway cache show 01K8ZQ4T3V9N2M6R7X5B1C0D8E --body --format json"""
)
@click.argument("request_id", metavar="REQUEST-ID")
@click.option("--body", is_flag=True, help="With the answers themselves.")
@common
def show(request_id: str, body: bool, form: str, **where: Any) -> None:
    """One entry: what it answers, whose it is, how long it lives."""
    with session(where) as house:
        found = house.ask(SHOW, id=request_id, body=body or None)
    if form == "table":
        bodies = {name: one.pop("body", None) for name, one in found["forms"].items()}
        output.record(found, form)
        for name, text in bodies.items():
            if text is not None:
                output.text(f"\n{name}:\n{text}")
    else:
        output.record(found, form)


@cache.command(
    epilog="""Examples:

    \b
      gateway cache purge --key alice
      gateway cache purge --key alice --model 'gpt-4*'
      gateway cache purge --request 01K8ZQ4T3V9N2M6R7X5B1C0D8E
      gateway cache purge --all"""
)
@click.option("--key", metavar="NAME", help="Entries that this key's calls brought.")
@click.option("--model", metavar="PATTERN", help="Of this model; * stands for any characters.")
@click.option("--request", metavar="ID", help="The entry of this request.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@common
def purge(everything: bool, form: str, **given: Any) -> None:
    """Forget the entries that match all that is given, and print how many went.

    They are gone from memory and disk when the command returns, and answers that were under way
    then are not kept.
    """
    where = {name: given.pop(name) for name in ("config_path", "data")}
    if not everything and not any(given.values()):
        raise click.UsageError("Say what is to go: --key, --model, --request, or --all.")
    with session(where) as house:
        found = house.ask(PURGE, all=everything or None, **given)
    if form == "table":
        count = found["purged"]
        output.text(f"{count} {'entry' if count == 1 else 'entries'} purged")
    else:
        output.record(found, form)
