"""How a command shows what it found: a table for people, or one JSON document, or CSV.

Rule: only what was asked for goes to stdout. Nothing here colours, and a table shows no control
character: names in it were chosen by others, and a terminal obeys what it is shown.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

WIDEST = 60  # characters of a cell in a table


def listing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: str) -> None:
    """Rows under a header; in JSON an array of objects."""
    if form == "json":
        _say(_json(rows))
    elif form == "csv":
        _say(_csv(columns, ([row.get(name) for name in columns] for row in rows)))
    else:
        _say(_table([columns, *([_cell(n, row.get(n)) for n in columns] for row in rows)]))


def record(found: Mapping[str, Any], form: str) -> None:
    """One thing: in a table and in CSV its members under each other, nested ones with dots."""
    if form == "json":
        _say(_json(found))
    elif form == "csv":
        _say(_csv(("name", "value"), flat(found)))
    else:
        _say(_table([(name, _cell(name, value)) for name, value in flat(found)]))


def text(said: str) -> None:
    """Words for people; line ends and tabs stay."""
    _say(visible(said, also="\n\t"))


def flat(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The members of nested mappings as (`a.b.c`, value), in their order."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _json(found: object) -> str:
    return json.dumps(found, indent=2)


def figure(value: Any) -> str:
    """A number with its thousands apart; anything else as it is."""
    return f"{value:,}" if isinstance(value, int | float) else plain(value)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([plain(value) for value in row] for row in rows)
    return page.getvalue().rstrip("\n")


def plain(value: Any) -> str:
    """A value as a cell has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(plain, value))
    return "" if value is None else str(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    last = name.rpartition(".")[2]
    if type(value) is int and last in ("bytes", "queued_bytes", "limit"):
        return _size(value)
    shown = visible(plain(value)) or "-"
    return shown if len(shown) <= WIDEST else shown[: WIDEST - 1] + "…"


def visible(said: str, also: str = "") -> str:
    """The text with what a terminal might obey or a reader not see written as `\\x1b`; characters
    in `also` stay."""
    return "".join(
        c if c.isprintable() or c in also else c.encode("unicode_escape").decode() for c in said
    )


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _say(page: str) -> None:
    """To stdout, whatever its encoding can write."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    click.echo(page)
