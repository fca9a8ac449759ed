"""docs/cli.md has every command and option, and each of its examples is one that works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli import main

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (gateway [a-z ]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *names, name)
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(names), command


COMMANDS = dict(commands(main, "gateway"))


def test_each_command_has_its_section_and_no_other_is_there():
    groups = {name.rpartition(" ")[0] for name in COMMANDS} - {"gateway"}
    assert set(SECTIONS) == set(COMMANDS) | groups


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_each_option_and_an_example(name):
    command, text = COMMANDS[name], SECTIONS[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
            assert f"| `{parameter.opts[0]}" in text
        else:
            assert parameter.make_metavar(click.Context(command)) in text
    assert re.search(rf"^{name}\b", text.partition("```sh")[2], re.M)


EXAMPLES = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_understood(line):
    words = shlex.split(line)
    name = max((one for one in COMMANDS if line.startswith(one)), key=len)
    context = COMMANDS[name].make_context(name, words[len(name.split()) :])
    assert context.args == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "gateway serve"])
def test_where_and_in_which_form_may_always_be_said(name):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--config", "--data"} <= options
    assert "--format" in options or name == "gateway check"


def test_a_command_starts_without_a_server_s_libraries():
    code = "import sys, gateway.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"aiohttp", "prometheus_client", "httptools", "diskcache"} & set(done.stdout.split())
