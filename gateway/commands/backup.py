"""`gateway backup`: a consistent copy, while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.admin.backup import BACKUP
from gateway.commands import output
from gateway.commands.options import common
from gateway.commands.session import session


@click.command(
    epilog="""Examples:

    \b
      gateway backup /var/backups/gateway/2026-03-29"""
)
@click.argument("folder", metavar="DIR")
@common
def backup(folder: str, form: str, **where: Any) -> None:
    """Copy the secret, the keys, the books and the journal into DIR, which is made.

    Each file is consistent in itself, also while requests are answered. DIR holds the secret: it
    can be read by you alone. docs/operations.md says how to put it back.
    """
    target = Path(folder).absolute()
    with session(where) as house:
        found = house.ask(BACKUP, dir=str(target))
    if form == "table":
        output.text(f"{found['dir']}: {', '.join(found['files']) or 'there was nothing to copy'}")
    else:
        output.record(found, form)
