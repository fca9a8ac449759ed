"""The dashboards as they are committed: Grafana's dashboard-linter's rules, and the table of
metrics held against every query (observability: a dashboard must not go blank unnoticed)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from gateway.metrics import SPECS, TABLE
from tests.dashboards.boards import (
    FILES,
    MAY_BE_EMPTY,
    PANELS,
    ROOT,
    Panel,
    escaped,
    matchers,
    nodes,
    parsed,
    selectors,
    variables,
)
from tools.dashboards.queries import FAILED, STANDARD, Queries, family

UNITS = {
    line
    for line in (Path(__file__).parent / "units.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
}
VARIABLES = ["datasource", "job", "instance", "model", "key", "upstream"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Not narrowed to a job: an alert's labels are those of its expression.
WITHOUT_A_JOB = {"ALERTS"}
# Families on no panel, each with the reason. Empty is what we want.
NOT_SHOWN: dict[str, str] = {}

panels = pytest.mark.parametrize("panel", PANELS, ids=str)
boards = pytest.mark.parametrize("name", FILES)
EXPRESSIONS = [(panel, target["expr"]) for panel in PANELS for target in panel.targets]
expressions = pytest.mark.parametrize(
    ("panel", "expr"),
    EXPRESSIONS,
    ids=[f"{panel} {target['refId']}" for panel in PANELS for target in panel.targets],
)


def series_of(name: str) -> tuple[str, str]:
    """A series' family and what it is of it: `_bucket`, `_sum`, `_count` or ""."""
    part = re.fullmatch(r"(.+)(_bucket|_sum|_count)", name)
    if part and part[1] in SPECS and SPECS[part[1]].type in ("histogram", "summary"):
        return part[1], part[2]
    return name, ""


# --- the dashboard --------------------------------------------------------------------------------


@boards
def test_it_is_read_only_and_says_what_it_answers(name: str) -> None:
    board = FILES[name]
    assert board["uid"] == f"gateway-{name}" and re.fullmatch(r"[a-z0-9-]{1,40}", board["uid"])
    assert board["description"].endswith("?")
    assert board["editable"] is False
    assert board.get("id") is None
    assert "__inputs" not in board, "provisioning from files resolves none"
    assert board["tags"] == ["gateway"] and board["refresh"] == "30s"


def test_uids_and_titles_are_unique() -> None:
    for member in ("uid", "title"):
        assert len({board[member] for board in FILES.values()}) == len(FILES) == 6


@boards
def test_the_variables(name: str) -> None:
    found = variables(FILES[name])
    assert list(found) == VARIABLES
    assert (
        found["datasource"]["type"] == "datasource" and found["datasource"]["query"] == "prometheus"
    )
    for variable in list(found.values())[1:]:
        query = (
            variable["query"] if isinstance(variable["query"], str) else variable["query"]["query"]
        )
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert asked and asked[2] == variable["name"]
        [selector] = selectors(parsed(asked[1]))
        assert asked[2] in {*SPECS[selector.name].labels, "job", "instance"}
        assert variable["type"] == "query" and variable["datasource"] == SOURCE
        assert variable["multi"] and variable["includeAll"] and variable["refresh"] == 2
        assert variable["label"]


@boards
def test_a_variable_is_shown_where_a_panel_uses_it(name: str) -> None:
    """The others are there, hidden, so that links keep what was chosen."""
    text = json.dumps([panel.json for panel in PANELS if panel.board == name])
    for variable in list(variables(FILES[name]).values())[1:]:
        used = re.search(rf"\${variable['name']}\b", text) is not None
        assert (variable.get("hide", 0) == 0) == used, variable["name"]


@boards
def test_links_keep_time_and_variables(name: str) -> None:
    [link] = FILES[name]["links"]
    assert link["type"] == "dashboards" and link["tags"] == ["gateway"]
    assert link["includeVars"] and link["keepTime"]


@boards
def test_annotations_are_queries_that_parse(name: str) -> None:
    for annotation in FILES[name]["annotations"]["list"]:
        assert annotation["datasource"] == SOURCE
        assert all(family(selector.name) for selector in selectors(parsed(annotation["expr"])))


@boards
def test_the_grid_has_no_hole_and_no_overlap(name: str) -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in FILES[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert set(taken.values()) == {1}, "panels overlap"
    rows = max(y for _, y in taken) + 1
    assert len(taken) == 24 * rows, "the grid has holes"


@boards
def test_ids_are_unique_and_above_the_fold_stands_the_answer(name: str) -> None:
    found = FILES[name]["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    assert all(isinstance(panel["id"], int) for panel in found)
    assert found[0]["type"] in ("stat", "bargauge"), "the first thing to see is an answer"


# --- its panels -----------------------------------------------------------------------------------


@panels
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    found = panel.json
    assert found["type"] in ("stat", "timeseries", "bargauge", "table")
    assert found["title"] and found["description"].endswith(".")
    assert found["datasource"] == SOURCE
    steps = found["fieldConfig"]["defaults"]["thresholds"]["steps"]
    values = [step["value"] for step in steps]
    assert values[0] is None and values[1:] == sorted(values[1:])


def units_in(panel: Panel) -> Iterator[str]:
    yield panel.json["fieldConfig"]["defaults"]["unit"]
    for override in panel.json["fieldConfig"].get("overrides", []):
        yield from (p["value"] for p in override["properties"] if p["id"] == "unit")


@panels
def test_a_panel_has_units_that_grafana_knows(panel: Panel) -> None:
    assert set(units_in(panel)) <= UNITS


@panels
def test_a_panel_has_queries(panel: Panel) -> None:
    refs = [target["refId"] for target in panel.targets]
    assert refs and all(refs) and len(set(refs)) == len(refs)
    for target in panel.targets:
        assert target["datasource"] == SOURCE
        assert bool(target.get("instant")) != bool(target.get("range"))
        assert target.get("instant") or panel.json["type"] != "table"


def test_a_rename_or_a_colour_is_of_something_that_is_there() -> None:
    """An override by a name that no column has does nothing, silently."""
    for panel in PANELS:
        if panel.json["type"] != "table":
            continue
        organize = next(t for t in panel.json["transformations"] if t["id"] == "organize")
        names = organize["options"]["renameByName"]
        overrides = panel.json["fieldConfig"]["overrides"]
        assert {one["matcher"]["options"] for one in overrides} <= set(names.values())
        values = {n for n in names if n.startswith("Value")}
        refs = [target["refId"] for target in panel.targets]
        assert values == ({f"Value #{ref}" for ref in refs} if len(refs) > 1 else {"Value"})
        labels = set(names) - values
        for target in panel.targets:
            tree = parsed(target["expr"])
            assert labels == grouped_by(tree), f"{panel}: rows of {target['expr']}"


def test_what_may_be_empty_is_a_panel() -> None:
    assert set(MAY_BE_EMPTY) <= {(panel.board, panel.title) for panel in PANELS}


# --- its queries ----------------------------------------------------------------------------------


def grouped_by(tree: Any) -> set[str]:
    """The labels that a query's result has, as far as aggregations say."""
    for node in nodes(tree):
        if isinstance(node, promql.AggregateExpr) and str(node.op) not in ("topk", "bottomk"):
            return set(node.modifier.labels) - {"le"} if node.modifier else set()
    return set()


@expressions
def test_a_query_asks_for_what_there_is(panel: Panel, expr: str) -> None:
    tree = parsed(expr)
    found = selectors(tree)
    assert found
    for selector in found:
        if selector.name in WITHOUT_A_JOB:
            continue
        name, part = series_of(selector.name)
        spec = family(name)
        asked = matchers(selector)
        assert set(asked) <= {*spec.labels, "job", "instance"}, f"{panel}: labels of {name}"
        assert {"job", "instance"} <= set(asked), f"{panel}: {name} of every job"
        assert part or spec.type in ("counter", "gauge"), f"{name} has no series of its own"
    for node in nodes(tree):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            inner = {series_of(s.name) for s in selectors(node) if s.name not in WITHOUT_A_JOB}
            for name, part in inner:
                known = {*family(name).labels, "job", "instance"}
                known |= {"le"} if part == "_bucket" else set()
                assert set(node.modifier.labels) <= known, f"{panel}: grouped by, {name}"


@expressions
def test_counters_are_rates_and_quantiles_are_of_buckets(panel: Panel, expr: str) -> None:
    tree = parsed(expr)
    windows = re.findall(r"\[([^\]]+)\]", expr)
    allowed = {"$__rate_interval", "$__range", "30d", "15m"}  # a budget's month, a pace
    assert set(windows) <= allowed, f"{panel}: {windows}"
    under_rate: set[str] = set()
    for node in nodes(tree):
        call = node.func.name if isinstance(node, promql.Call) else ""
        if call in ("rate", "increase"):
            under_rate |= {selector.name for selector in selectors(node)}
        if call == "histogram_quantile":
            [sums] = node.args[1:]
            assert "le" in sums.modifier.labels, f"{panel}: without le"
            assert all(s.name.endswith("_bucket") for s in selectors(sums))
    for selector in selectors(tree):
        if selector.name in WITHOUT_A_JOB:
            continue
        name, part = series_of(selector.name)
        grows = family(name).type == "counter" or bool(part)
        assert grows == (selector.name in under_rate), f"{panel}: {selector.name}"


def test_each_label_in_a_legend_is_in_the_result() -> None:
    for panel in PANELS:
        for target in panel.targets:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            tree = parsed(target["expr"])
            bare = not any(isinstance(node, promql.AggregateExpr) for node in nodes(tree))
            assert bare or labels <= grouped_by(tree), f"{panel}: {labels}"
            many = grouped_by(tree)
            if panel.json["type"] != "table":
                assert labels == many or bare, f"{panel}: {many} cannot be told apart"


def test_every_family_is_on_a_panel() -> None:
    asked = [expr for _, expr in EXPRESSIONS]
    asked += [one["expr"] for board in FILES.values() for one in board["annotations"]["list"]]
    shown = {series_of(one.name)[0] for expr in asked for one in selectors(parsed(expr))}
    missing = [spec.name for spec in TABLE if spec.name not in shown | NOT_SHOWN.keys()]
    assert not missing, f"on no dashboard: {missing}"
    assert not NOT_SHOWN.keys() & shown


def test_what_failed_is_what_the_alerts_say() -> None:
    """The success that is shown, and the one that wakes somebody, are the same."""
    rules = (ROOT / "dashboards" / "prometheus" / "rules" / "recording.yml").read_text("utf-8")
    assert f"gateway_errors_total{{{FAILED}}}" in rules


# --- what the tests themselves stand on -----------------------------------------------------------


def test_the_builder_refuses_what_the_table_does_not_have() -> None:
    q = Queries(("model",))
    with pytest.raises(KeyError):
        q.rate("gateway_request_total")
    with pytest.raises(KeyError):
        q.rate("gateway_requests_total", by="key")
    with pytest.raises(KeyError):
        q.rate("gateway_requests_total", where='upstream="x"')
    with pytest.raises(TypeError):
        q.quantile(0.5, "gateway_requests_total")
    with pytest.raises(TypeError):
        q.rate("gateway_ready")
    assert 'model=~"$model"' in q.rate("gateway_requests_total")
    assert not set(STANDARD) & set(SPECS)


def test_values_are_escaped_as_grafana_does() -> None:
    assert escaped("gpt-4o") == "gpt-4o"
    assert escaped("a.b") == r"a\\.b"
    assert escaped("x\\(1|2)") == r"x\\\\\\(1\\|2\\)"
