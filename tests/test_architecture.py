"""The house rules that no linter knows. Layers and purity are import-linter's, in `make check`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "gateway").rglob("*.py"))
THE_CLOCK = "gateway/clock.py"

# Past this, look again: either the file has two jobs, or it is named here with the reason.
LINES = 400
LONG_FOR_A_REASON = {
    "gateway/pipeline.py": "one request, top to bottom",
    "gateway/ports.py": "all seams on one page",
}

READS_THE_CLOCK = {
    *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"time.{name}_ns" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}
# Each of them runs or trusts what it reads back.
UNSAFE = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Each import as (line, the name it has here, the full name of what it means)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                here = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, here, alias.name if alias.asname else here
                if not alias.asname and "." in alias.name:
                    yield node.lineno, alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}"


def mentions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each imported thing that the code names, as (line, full name), behind any alias."""
    meaning = {here: full for _, here, full in imports(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        head, _, rest = ast.unparse(node).partition(".")
        if head in meaning:
            yield node.lineno, f"{meaning[head]}.{rest}" if rest else meaning[head]


def faults(found: Iterator[tuple[Path, int, str]]) -> list[str]:
    return [f"{name_of(path)}:{line}: {what}" for path, line, what in found]


def test_a_folder_is_a_package() -> None:
    """Without `__init__.py` neither the wheel nor import-linter sees what is in it."""
    folders = {path.parent for path in MODULES}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_states_its_job(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


def test_time_is_read_in_one_file() -> None:
    assert not faults(
        (path, line, f"reads {what}; take the Clock port")
        for path in MODULES
        if name_of(path) != THE_CLOCK
        for line, what in mentions(tree_of(path))
        if what in READS_THE_CLOCK
    )


def test_the_one_file_for_time_reads_it() -> None:
    """So that the test above cannot pass for having lost its subject."""
    found = {what for _, what in mentions(tree_of(ROOT / THE_CLOCK))}
    assert {"time.time", "time.monotonic"} <= found


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time as t\nt.monotonic_ns()", "time.monotonic_ns"),
        ("from time import monotonic as m\nm()", "time.monotonic"),
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime as d\nd.now(tz)", "datetime.datetime.now"),
        ("from datetime import date\nclock = date.today", "datetime.date.today"),
    ],
)
def test_a_reader_of_time_is_found_behind_any_name(code: str, what: str) -> None:
    assert what in {found for _, found in mentions(ast.parse(code))} & READS_THE_CLOCK


def test_nothing_unpickles() -> None:
    """diskcache pickles by default (CVE-2025-69872); a store keeps bytes only. See SECURITY.md."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert not faults(
        (path, line, f"imports {full}")
        for path in [*MODULES, *tests]
        for line, _, full in imports(tree_of(path))
        if full.partition(".")[0] in UNSAFE
    )


def test_aiohttp_serves_only_below_web() -> None:
    assert not faults(
        (path, line, f"uses {what}")
        for path in MODULES
        if not name_of(path).startswith("gateway/web/")
        for line, what in mentions(tree_of(path))
        if what == "aiohttp.web" or what.startswith("aiohttp.web.")
    )


def test_a_long_file_has_a_reason() -> None:
    """Past the limit a file may have two jobs: split it, or say in the table why it is one."""
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    long = {name: lines for name, lines in lengths.items() if lines > LINES}
    assert not {name: n for name, n in long.items() if name not in LONG_FOR_A_REASON}
    assert not LONG_FOR_A_REASON.keys() - long.keys(), "named as long, but is not (any more)"
