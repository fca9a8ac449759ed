"""config.yaml and docs/configuration.md say what the code does: each setting, each default."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from gateway.config import RESTART, Config, UpstreamSection, load, masked

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "config.yaml").read_text("utf-8")
PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
ROW = re.compile(
    r"^\| `([a-z_\[\].]+)` \| (.+?) \| (.+?) \| (.+?) \| (yes|restart) \|$", re.MULTILINE
)
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def no_file(path: str) -> str:
    raise AssertionError(path)


def defaults(section: type, shown: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting's path and default, in the file's own writing."""
    hints = typing.get_type_hints(section)
    for name, value in shown.items():
        here = f"{path}.{name}" if path else name
        if attrs.has(hints[name]):
            yield from defaults(hints[name], value, here)
        else:
            yield here, value


UPSTREAM = masked(attrs.evolve(Config(), upstreams=[UpstreamSection("a", "echo:")]))["upstreams"][0]
SETTINGS: dict[str, Any] = {
    **{path: value for path, value in defaults(Config, masked(Config())) if path != "upstreams"},
    **dict(defaults(UpstreamSection, UPSTREAM, "upstreams[]")),
}
# What no literal can say; the page says it in words.
IN_WORDS = {
    "upstreams[].name": "required",
    "upstreams[].base_url": "required",
    "upstreams[].passthrough": "as `api_key` is empty",
}


def test_the_shipped_file_is_the_defaults() -> None:
    assert load(SHIPPED, {}, no_file) == Config() == load("", {}, no_file)


def test_the_shipped_file_takes_the_same_variables_as_no_file() -> None:
    env = {"OPENAI_API_KEY": "sk-1", "GATEWAY_ADMIN_TOKEN": "0123456789abcdeX"}
    assert load(SHIPPED, env, no_file) == load("", env, no_file) != Config()


def test_each_value_of_the_shipped_file_has_one_comment() -> None:
    """With its unit; a comment of its own line is a heading."""
    lines = [line for line in SHIPPED.splitlines() if line and not line.lstrip().startswith("#")]
    values = [line for line in lines if not re.fullmatch(r"\s*\w+:( #.*)?", line)]
    assert len(values) > 30
    assert not [line for line in values if line.count(" # ") != 1]


def test_the_shipped_file_shows_each_setting() -> None:
    """Those of an upstream that are not set stand there as comments, with their defaults."""
    uncommented = re.sub(r"^    # (?=[a-z_]+:|  [a-z_]+:)", "    ", SHIPPED, flags=re.MULTILINE)
    shown = yaml.safe_load(uncommented)
    full = masked(load(uncommented, {}, no_file))
    assert full == {**masked(Config()), "upstreams": full["upstreams"]}
    echo, openai = full["upstreams"]
    assert echo == masked(Config())["upstreams"][0]
    assert openai == {**masked(Config())["upstreams"][1], "passthrough": True}
    for section in attrs.fields(Config):
        if attrs.has(kind := typing.get_type_hints(Config)[section.name]):
            assert shown[section.name].keys() == {field.name for field in attrs.fields(kind)}
    upstreams = {name for upstream in shown["upstreams"] for name in upstream}
    assert upstreams == {field.name for field in attrs.fields(UpstreamSection)}


def test_the_page_has_each_setting_once_with_its_default() -> None:
    rows = ROW.findall(PAGE)
    assert sorted(path for path, *_ in rows) == sorted(SETTINGS)
    wrong = {}
    for path, _, default, *_ in rows:
        if path in IN_WORDS:
            assert default == IN_WORDS[path]
        elif yaml.load(default.strip("`"), yaml.BaseLoader) != plain(SETTINGS[path]):
            wrong[path] = (default, SETTINGS[path])
    assert not wrong


def plain(value: Any) -> Any:
    """As YAML without types has it: every scalar a text."""
    return yaml.load(yaml.safe_dump(value), yaml.BaseLoader)


def test_the_page_says_what_needs_a_restart() -> None:
    said = {path for path, *_, reloads in ROW.findall(PAGE) if reloads == "restart"}
    assert said == {
        path for path in SETTINGS if any(f"{path}.".startswith(f"{name}.") for name in RESTART)
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_page_is_taken(example: str) -> None:
    names = set(re.findall(r"\$\{([A-Z_]+)\}", example))
    assert load(example, dict.fromkeys(names, "x"), no_file).upstreams


def test_the_masked_view_reads_back_as_the_same_configuration() -> None:
    view = masked(Config())
    for upstream in view["upstreams"]:
        del upstream["passthrough"]  # null there: it follows from api_key
    assert load(yaml.safe_dump(view), {}, no_file) == Config()


def test_reading_a_configuration_loads_no_network_code() -> None:
    """`gateway check` starts fast, and config is pure."""
    code = "import gateway.config, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "gateway.config" in loaded
    assert not loaded & {"aiohttp", "asyncio", "sqlite3", "ssl"}
