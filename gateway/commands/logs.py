"""`gateway logs`: the requests, one row each."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from gateway.admin.logs import BODIES_PAGE, LOG, LOGS, PAGE
from gateway.commands import output, timeline
from gateway.commands.house import House
from gateway.commands.money import figures
from gateway.commands.options import FORMATS, common, config_option, data_option
from gateway.commands.session import session

POLL = 1.0  # seconds between two looks, with --follow
Row = dict[str, Any]

# Of a table, with their widths: rows come page by page, so none can be measured first.
WIDTHS = {
    "time": 24,
    "id": 26,
    "key": 16,
    "model": 20,
    "status": 6,
    "outcome": 18,
    "cache": 6,
    "prompt": 8,
    "completion": 10,
    "cost_usd": 12,
    "ms": 9,
}
COLUMNS = (
    *("id", "time", "key_id", "key", "team_id", "team", "tags", "model", "model_served"),
    *("upstream", "upstream_request_id", "endpoint", "stream", "status", "outcome", "error"),
    *("cache", "cache_key", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("reasoning_tokens", "usage_source", "cost_usd", "saved_tokens", "saved_cost_usd"),
    *("bytes_in", "bytes_out", "attempts", "finish_reasons", "price_version", "corrects"),
    *("counted", "counted_tokens", "clamped", "bound_exceeded"),
    *("ms.admitted", "ms.looked_up", "ms.connected", "ms.first_byte", "ms.last_byte"),
    *("ms.booked", "ms.total", "ms.overhead"),
)


@click.group(
    invoke_without_command=True,
    epilog="""Examples:

    \b
      gateway logs
      gateway logs --follow --key alice
      gateway logs --status 5xx --since 1h --format json
      gateway logs --search "order 4711"
      gateway logs --since 2026-03-01 --limit 1000000 --bodies --format jsonl""",
)
@click.option(
    "--follow", is_flag=True, help="Go on: show requests as they are booked, until Ctrl-C."
)
@click.option("--key", metavar="NAME", help="Only this key.")
@click.option("--model", metavar="PATTERN", help="Only this model; * stands for any characters.")
@click.option("--status", metavar="5xx|429", help="Only this status, or this class.")
@click.option(
    "--cache",
    type=click.Choice(("hit", "miss", "joined", "bypass", "none")),
    help="Only what the cache was to it.",
)
@click.option("--since", metavar="1h|DATE", help="From when on; days begin in quota.timezone.")
@click.option("--until", metavar="DATE", help="To when; a day is in it.")
@click.option(
    "--search",
    metavar="TEXT",
    help="Only with these words, in a row, in a body that the journal keeps.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="So many rows."
)
@click.option(
    "--bodies",
    is_flag=True,
    help="With the headers and bodies that the journal keeps; for json and jsonl.",
)
@config_option
@data_option
@click.option(
    "--format",
    "form",
    type=click.Choice((*FORMATS, "jsonl")),
    default="table",
    show_default=True,
    help="For people, or one JSON document, or CSV with a header, or a JSON object on each line.",
)
@click.pass_context
def logs(context: click.Context, /, form: str, follow: bool, limit: int, **given: Any) -> None:
    """Requests that had a valid caller, the newest first; with --follow the newest last.

    They stay for usage.keep. Times are UTC; ms.total is as of when the answer was whole.
    """
    if context.invoked_subcommand is not None:
        return
    where = {name: given.pop(name) for name in ("config_path", "data")}
    if given["bodies"] and form not in ("json", "jsonl"):
        raise click.UsageError("--bodies is for --format json and jsonl; one alone: logs show ID.")
    given["bodies"] = given["bodies"] or None
    with session(where) as house:
        page = _first(house, limit, follow, given)
        rows = _following(house, page, given) if follow else _pages(house, page, limit, given)
        try:
            _show(rows, form, live=follow)
        except KeyboardInterrupt:
            if not follow:
                raise


@logs.command(
    epilog="""Examples:

    \b
      gateway logs show 01K8ZQ4T3V9N2M6R7X5B1C0D8E"""
)
@click.argument("request_id", metavar="ID")
@common
def show(request_id: str, form: str, **where: Any) -> None:
    """One request: all that is known of it. Its id is what X-Gateway-Request-Id said.

    Its row, how its time went, and the headers and bodies that the journal keeps, if any.
    """
    with session(where) as house:
        found = house.ask(LOG, id=request_id)
    if form == "table":
        kept = found.pop("kept")
        output.record(figures(found), form)
        output.text(timeline.page(found, kept))
    else:
        output.record(found if form == "json" else figures(found), form)


def _first(house: House, limit: int, follow: bool, given: Mapping[str, Any]) -> list[Row]:
    """The first page: it is asked for before anything is shown, for it may be refused."""
    size = min(limit, _most(given))
    found: list[Row] = house.ask(LOGS, follow=follow or None, limit=size, **given)
    return found


def _most(given: Mapping[str, Any]) -> int:
    """Rows in one answer."""
    return BODIES_PAGE if given["bodies"] else PAGE


def _pages(house: House, page: list[Row], limit: int, given: Mapping[str, Any]) -> Iterator[Row]:
    """As many as asked for, page by page: memory stays flat."""
    while True:
        yield from page
        if len(page) < min(limit, _most(given)) or (limit := limit - len(page)) <= 0:
            return
        page = house.ask(LOGS, limit=min(limit, _most(given)), before=page[-1]["id"], **given)


def _following(house: House, page: list[Row], given: Mapping[str, Any]) -> Iterator[Row]:
    """The last ones, then each as it is booked."""
    while True:
        yield from page
        after = page[-1]["seq"] if page else None
        while True:
            if not house.live:
                return  # nobody writes
            if not page:
                time.sleep(POLL)
            page = house.ask(LOGS, follow=True, limit=_most(given), after=after, **given)
            if page:
                break


def _show(rows: Iterator[Row], form: str, *, live: bool) -> None:
    """Row by row. JSON is one document, an array; jsonl, and JSON with --follow, a row a line."""
    if form == "jsonl" or (form == "json" and live):
        for row in rows:
            output.text(json.dumps(row))
    elif form == "json":
        first = next(rows, None)
        click.echo("[" if first is not None else "[]")
        while first is not None:
            second = next(rows, None)
            click.echo(f"  {json.dumps(first)}{',' if second is not None else ''}")
            if second is None:
                click.echo("]")
            first = second
    elif form == "csv":
        click.echo(",".join(COLUMNS))
        for row in rows:
            click.echo(_csv(row), nl=False)
    else:
        click.echo(_line(WIDTHS))
        for row in rows:
            click.echo(_line(_cells(row)))


def _csv(row: Row) -> str:
    flat = dict(output.flat(figures(row | {"tags": json.dumps(row["tags"])})))
    page = io.StringIO()
    csv.writer(page, lineterminator="\n").writerow(output.plain(flat[name]) for name in COLUMNS)
    return page.getvalue()


def _cells(row: Row) -> Row:
    return figures(row) | {
        "prompt": row["prompt_tokens"],
        "completion": row["completion_tokens"],
        "ms": round(row["ms"]["total"]),
    }


def _line(row: Mapping[str, Any]) -> str:
    header = row is WIDTHS
    cells = []
    for name, width in WIDTHS.items():
        cell = name if header else output.visible(output.plain(row[name])) or "-"
        cells.append((cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width))
    return "  ".join(cells).rstrip()
