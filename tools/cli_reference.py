"""Prints docs/cli.md: what stands here, then each command's own help."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from gateway.cli import main

HEAD = """\
# Commands

This page is made from the commands' own `--help` (`make fix` writes it).

**Where a command works.** Where a server runs on the same data directory, the command speaks to it
over `data/control.sock`, and the change holds, in memory too, when the command returns. Otherwise
the command works on the files, and holds `data/lock` while it does; a server that is started at
that moment waits for it. `--data`, or `data` in the configuration, says which directory: it must be
the server's, so give both the same `--config` and `--data`. The socket can be used by whoever can
write to it (0600: the server's user, and root); no token is asked for there. Where the lock is held
and nobody answers within some seconds, the command says so and exits with 1.

**How it answers.** What was asked for goes to stdout, messages to stderr, and nothing asks a
question. `--format json` is one document (a list is an array of objects) and `--format csv` has a
header; both give numbers as they are, sizes in bytes and times in seconds. Tables are for people:
they write sizes with their unit, cut long values and show no control character.

**Exit codes.** 0 done; 1 failed: an id that is not known, a server that does not answer, a disk
that fails; 2 wrong usage or configuration.
"""


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Each group and command with its full name, in the order in which they were made."""
    yield name, command
    if isinstance(command, click.Group):
        for sub, inner in command.commands.items():
            yield from leaves(inner, f"{name} {sub}")


def section(name: str, command: click.Command) -> Iterator[str]:
    """One command as Markdown."""
    context = click.Context(command, info_name=name)
    yield f"\n## {name}\n"
    yield words(command.help)
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return
    yield f"\n```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    yield "| option | |\n|---|---|"
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            option, text = (part.replace("|", "\\|") for part in record)
            yield f"| `{option}` | {text} |"
    examples = re.findall(r"^ *(gateway .*)$", command.epilog or "", re.MULTILINE)
    yield "\n```sh\n" + "\n".join(examples) + "\n```"


def words(text: str | None) -> str:
    """A docstring as Markdown: options and paths as code."""
    plain = cleandoc(text or "").replace("\b\n", "")
    return re.sub(r"(?<![`\w-])(--[a-z-]+|[a-z]+\.[a-z_]+\b(?!/))(?!`)", r"`\1`", plain)


def page() -> str:
    parts = [HEAD.rstrip("\n")]
    for name, command in leaves(main, "gateway"):
        if name != "gateway":
            parts += section(name, command)
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
