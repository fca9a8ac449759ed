"""Nothing the outside can see is undocumented: settings, commands, errors, headers, metrics.

"The docs" are README.md and docs/*.md. A setting counts as documented where its path stands in the
text (`server.port`, `upstreams[].timeouts.connect`) or in a fenced ```yaml block that holds it.
"""

from __future__ import annotations

import importlib
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest
import yaml

from gateway import config, errors, metrics

ROOT = Path(__file__).parent.parent
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text("utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if page.exists()
}
DOCS = "\n".join(PAGES.values())
FENCED_YAML = re.compile(r"^```ya?ml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def stands_in_the_docs(word: str, *, text: str = DOCS) -> bool:
    """`word` as a word of its own, not as a part of another name."""
    return re.search(rf"(?<![\w.\-]){re.escape(word)}(?![\w\-])", text) is not None


def a_list(items: list[str]) -> str:
    return "".join(f"\n  {item}" for item in items)


# --- settings -------------------------------------------------------------------------------------


def sections_in(hint: object) -> Iterator[tuple[type, str]]:
    """The attrs classes inside a type, each with what its place adds to the path."""
    if isinstance(hint, type) and attrs.has(hint):
        yield hint, ""
        return
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    within = "[]" if isinstance(origin, type) and issubclass(origin, list | tuple) else ""
    if isinstance(origin, type) and issubclass(origin, dict):
        within = ".NAME"
    if origin in (typing.Union, types.UnionType):
        within = ""
    for arg in args:
        for section, more in sections_in(arg):
            yield section, within + more


def settings_of(section: type, path: str = "") -> Iterator[str]:
    """The path of each setting with a value: `server.port`, `upstreams[].timeouts.connect`."""
    hints = typing.get_type_hints(section)
    for field in attrs.fields(section):
        here = f"{path}.{field.name}" if path else field.name
        inner = list(sections_in(hints[field.name]))
        if not inner:
            yield here
        for other, within in inner:
            yield from settings_of(other, here + within)


def paths_in(value: object, path: str = "") -> Iterator[str]:
    """The paths that a parsed YAML document holds, in the form of `settings_of`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            yield here
            yield from paths_in(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner, f"{path}[]")


YAML_BLOCKS = [(page, block) for page, text in PAGES.items() for block in FENCED_YAML.findall(text)]
SETTINGS = sorted(set(settings_of(config.Config)))
SECTIONS = {field.name for field in attrs.fields(config.Config)}


def test_each_setting_is_documented() -> None:
    in_yaml = {path for _, block in YAML_BLOCKS for path in paths_in(yaml.safe_load(block))}
    missing = [
        setting
        for setting in SETTINGS
        if setting not in in_yaml
        and not stands_in_the_docs(setting)
        and not stands_in_the_docs(setting.replace("[]", ""))
    ]
    assert not missing, f"settings missing in README.md and docs/:{a_list(missing)}"


def is_at(setting: str, path: str) -> bool:
    """`path` is the setting, or on the way to it; NAME stands for any name in a mapping."""
    steps = [r"[^.]+" if step == "NAME" else re.escape(step) for step in setting.split(".")]
    return any(
        re.fullmatch(r"\.".join(steps[:length]).removesuffix(r"\[\]") + r"(\[\])?", path)
        for length in range(1, len(steps) + 1)
    )


def test_the_docs_show_only_settings_that_exist() -> None:
    """In a block whose every section is the gateway's, each setting is."""
    unknown = [
        f"{page}: {path}"
        for page, block in YAML_BLOCKS
        if isinstance(found := yaml.safe_load(block), dict) and found.keys() <= SECTIONS
        for path in paths_in(found)
        if not any(is_at(setting, path) for setting in SETTINGS)
        and not any(path.startswith(f"{setting}.") for setting in SETTINGS)  # a mapping's own names
    ]
    assert not unknown, f"settings in the docs that do not exist:{a_list(unknown)}"


def test_the_shipped_file_shows_only_settings_that_exist() -> None:
    """And is read without a variable set; `gateway check` proves the rest."""
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    assert shipped.keys() <= SECTIONS


# --- commands -------------------------------------------------------------------------------------


def commands_of(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for sub, inner in command.commands.items():
            yield from commands_of(inner, f"{name} {sub}")
        if command.invoke_without_command:
            yield name, command
    elif not command.hidden:
        yield name, command


def the_command_line() -> click.Command:
    """The outermost click command of gateway.cli, whatever its name."""
    cli = importlib.import_module("gateway.cli")
    found = [value for value in vars(cli).values() if isinstance(value, click.Command)]
    inner = {
        id(sub)
        for group in found
        if isinstance(group, click.Group)
        for sub in group.commands.values()
    }
    [outermost] = {id(command): command for command in found if id(command) not in inner}.values()
    return outermost


def test_each_command_is_documented() -> None:
    missing = [
        name
        for name, _ in commands_of(the_command_line(), "gateway")
        if not stands_in_the_docs(name)
    ]
    assert not missing, f"commands missing in README.md and docs/:{a_list(missing)}"


def test_each_option_is_documented() -> None:
    missing = sorted(
        {
            f"{name} {option}"
            for name, command in commands_of(the_command_line(), "gateway")
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.hidden
            for option in parameter.opts
            if option.startswith("--") and not stands_in_the_docs(option)
        }
    )
    assert not missing, f"options missing in README.md and docs/:{a_list(missing)}"


# --- what goes over the wire ----------------------------------------------------------------------


def descendants(kind: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_each_error_code_is_documented() -> None:
    root = errors.GatewayError
    codes = sorted({root.code} | {kind.code for kind in descendants(root)})
    missing = [code for code in codes if not stands_in_the_docs(code)]
    assert not missing, f"error codes missing in README.md and docs/:{a_list(missing)}"


def test_each_header_of_ours_is_documented() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    names = {name.lower() for name in re.findall(r"\bx-gateway(?:-[a-z]+)+\b", code, re.IGNORECASE)}
    missing = sorted(name for name in names if not stands_in_the_docs(name, text=DOCS.lower()))
    assert not missing, f"headers missing in README.md and docs/:{a_list(missing)}"


def test_each_metric_is_documented() -> None:
    missing = [spec.name for spec in metrics.TABLE if not stands_in_the_docs(spec.name)]
    assert not missing, f"metrics missing in README.md and docs/:{a_list(missing)}"


# --- the docs themselves --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_a_file_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", PAGES[page])
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing, f"{page} links to what is not there:{a_list(missing)}"
