"""The committed dashboards as their tests see them: panels, targets, and queries filled in as
Grafana fills them in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql

from tools.dashboards.all import DASHBOARDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dashboards"
FILES = {name: json.loads((FOLDER / f"{name}.json").read_text("utf-8")) for name in DASHBOARDS}
MAY_BE_EMPTY = {
    (name, panel.title): panel.may_be_empty
    for name, make in DASHBOARDS.items()
    for panel in make().panels
    if panel.may_be_empty
}

Node = Any  # promql_parser has classes without a common base


@dataclass(frozen=True)
class Panel:
    """One panel of one dashboard; rows are none."""

    board: str
    json: Mapping[str, Any]

    @property
    def title(self) -> str:
        return str(self.json["title"])

    @property
    def targets(self) -> list[Mapping[str, Any]]:
        return list(self.json.get("targets", []))

    @property
    def may_be_empty(self) -> bool:
        return (self.board, self.title) in MAY_BE_EMPTY

    def __str__(self) -> str:
        return f"{self.board}: {self.title}"


PANELS = [
    Panel(name, panel)
    for name, board in FILES.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]


def variables(board: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["name"]: one for one in board["templating"]["list"]}


def escaped(value: str) -> str:
    """A value inside a regular expression inside a PromQL string, by Grafana's own rule. Python's
    re.escape makes `gpt\\-4o` of gpt-4o, which PromQL refuses."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


def any_of(values: Sequence[str]) -> str:
    """What Grafana puts in for a variable with several values."""
    found = [escaped(value) for value in values]
    return found[0] if len(found) == 1 else f"({'|'.join(found)})"


def filled(expr: str, values: Mapping[str, str]) -> str:
    """A query as it is sent: `$name` and `${name}` replaced. KeyError: an unknown one."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values[m[1] or m[2]], expr)


EXAMPLE = {
    "datasource": "p",
    "job": "gateway",
    "instance": any_of(["127.0.0.1:8081", "[::1]:8081"]),
    "model": any_of(["gpt-4o", "qwen3.5+", "a|b(c)"]),
    "key": any_of(["alice"]),
    "upstream": ".*",
    "__rate_interval": "1m0s",
    "__range": "3600s",
}


def parsed(expr: str) -> Node:
    return promql.parse(filled(expr, EXAMPLE))


def nodes(tree: Node) -> Iterator[Node]:
    """A query's syntax tree, the outermost first."""
    yield tree
    if isinstance(tree, promql.BinaryExpr):
        inner = [tree.lhs, tree.rhs]
    elif isinstance(tree, promql.Call):
        inner = list(tree.args)
    elif isinstance(tree, promql.MatrixSelector):
        inner = [tree.vector_selector]
    elif isinstance(tree, promql.VectorSelector | promql.NumberLiteral | promql.StringLiteral):
        inner = []
    else:  # aggregation, parentheses, sign, subquery
        inner = [tree.expr]
        inner += [tree.param] if getattr(tree, "param", None) is not None else []
    for one in inner:
        yield from nodes(one)


def selectors(tree: Node) -> list[Node]:
    return [node for node in nodes(tree) if isinstance(node, promql.VectorSelector)]


def matchers(selector: Node) -> dict[str, str]:
    """Labels a selector asks for, each as operator and value."""
    found = selector.matchers.matchers
    return {one.name: f"{_OPERATORS[str(one.op)]}{one.value}" for one in found}


_OPERATORS = {
    str(op): text
    for op, text in (
        (promql.MatchOp.Equal, "="),
        (promql.MatchOp.NotEqual, "!="),
        (promql.MatchOp.Re, "=~"),
        (promql.MatchOp.NotRe, "!~"),
    )
}
