"""`gateway usage`: what was used and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gateway.admin.usage import USAGE
from gateway.commands import output
from gateway.commands.money import figures
from gateway.commands.options import common
from gateway.commands.session import session

COLUMNS = (
    *("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_usd", "saved_tokens", "saved_cost_usd", "unpriced_requests", "estimated_tokens"),
)
_NOTES = ("unpriced_requests", "estimated_tokens")  # a table has them where there are any


@click.command(
    epilog="""Examples:

    \b
      gateway usage
      gateway usage --by key,model --since 7d
      gateway usage --by day,tag:project --key alice --since 2026-03-01 --until 2026-03-31
      gateway usage --by key --model 'gpt-4o*' --format csv"""
)
@click.option(
    "--by", metavar="LIST", help="Sum by key, team, model, day, tag:NAME: any, by commas."
)
@click.option("--key", metavar="NAME", help="Only this key.")
@click.option("--model", metavar="PATTERN", help="Only this model; * stands for any characters.")
@click.option("--since", metavar="7d|DATE", help="From when on; days begin in quota.timezone.")
@click.option("--until", metavar="DATE", help="To when; a day is in it.")
@common
def usage(form: str, by: str | None, **given: Any) -> None:
    """Requests, tokens and money, summed as asked.

    Times are widened to whole quarter-hours. A cost that is not known is not in the sum: there are
    so many unpriced_requests then. What was estimated is in the tokens, and told beside them.
    """
    where = {name: given.pop(name) for name in ("config_path", "data")}
    with session(where) as house:
        rows = house.ask(USAGE, by=by, **given)
    names = [name.strip() for name in (by or "").split(",") if name.strip()]
    columns = [*names, *COLUMNS]
    if form == "table":
        columns = [name for name in columns if name not in _NOTES or _any(rows, name)]
    output.listing(rows if form == "json" else list(map(figures, rows)), columns, form)


def _any(rows: list[Mapping[str, Any]], name: str) -> bool:
    return any(row[name] for row in rows)
