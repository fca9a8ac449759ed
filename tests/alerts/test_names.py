"""The rules ask for metrics and labels that there are, and that the dashboards show."""

from __future__ import annotations

import re
from typing import Any

import promql_parser as promql
import pytest
import yaml

from gateway.metrics import TABLE
from tests.alerts.promtool import ALERTS, RECORDED, RULES, needed_by
from tests.dashboards.boards import FILES, PANELS, matchers, nodes, parsed, selectors, variables
from tests.dashboards.test_lint import series_of
from tools.dashboards.queries import FAILED, FOUND, LOOKED_UP, VALID, family

TARGET = {"job", "instance"}
EXPRESSIONS = {name: rule["expr"] for name, rule in (RECORDED | ALERTS).items()}
# Labels whose values the table's help says: a value that it does not know would never match.
LISTED = {"outcome", "result", "tier", "cache", "kind"}

every_rule = pytest.mark.parametrize("name", EXPRESSIONS)


def labels_of(name: str) -> set[str]:
    """Those of a family, or of what a rule records: its name begins with them."""
    if name in RECORDED:
        return set(re.split(r"_(?!\w*:)|_", name.partition(":")[0]))
    found, part = series_of(name)
    spec = family(found)
    assert part or spec.type in ("counter", "gauge"), f"{name} has no series of its own"
    return {*spec.labels, *TARGET} | ({"le"} if part == "_bucket" else set())


def labels_left(tree: Any) -> set[str]:
    """The labels that a result has. KeyError, AssertionError: it asks for what there is not."""
    if isinstance(tree, promql.VectorSelector):
        found = labels_of(str(tree.name))
        assert set(matchers(tree)) <= found, tree.name
        return found
    if isinstance(tree, promql.AggregateExpr):
        inner, kept = labels_left(tree.expr), set(tree.modifier.labels if tree.modifier else ())
        assert kept <= inner, f"by {kept - inner}"
        return kept
    if isinstance(tree, promql.BinaryExpr):
        left, right = labels_left(tree.lhs), labels_left(tree.rhs)
        matched = tree.modifier and tree.modifier.matching
        if matched:
            assert set(matched.labels) <= left & right
        elif left and right:
            assert left == right, f"{left} are never {right}"
        return left or right
    if isinstance(tree, promql.Call):
        inner = set().union(*(labels_left(one) for one in tree.args))
        return inner - {"le"} if tree.func.name == "histogram_quantile" else inner
    if isinstance(tree, promql.MatrixSelector):
        return labels_left(tree.vector_selector)
    if isinstance(tree, promql.NumberLiteral | promql.StringLiteral):
        return set()
    return labels_left(tree.expr)


@every_rule
def test_a_rule_asks_for_what_there_is(name: str) -> None:
    left = labels_left(parsed(EXPRESSIONS[name]))
    if name in RECORDED:
        assert left == labels_of(name), "a recorded rule's name begins with its labels"


@every_rule
def test_a_value_asked_for_is_one_that_the_table_knows(name: str) -> None:
    for selector in selectors(parsed(EXPRESSIONS[name])):
        if selector.name in RECORDED:
            continue
        for label in LISTED & matchers(selector).keys():
            listed = f"{label}:"
            having = [family(series_of(selector.name)[0])]
            if listed not in having[0].help:  # one of the others with the label lists them
                having = [spec for spec in TABLE if label in spec.labels and listed in spec.help]
            known = " ".join(spec.help for spec in having)
            for value in matchers(selector)[label].lstrip("=!~").split("|"):
                assert re.search(rf"\b{value}\b", known), value


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_speaks_only_of_labels_that_it_has(name: str) -> None:
    texts = " ".join(ALERTS[name]["annotations"].values())
    left = labels_left(parsed(ALERTS[name]["expr"]))
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= left


@every_rule
def test_counters_are_asked_for_their_increase(name: str) -> None:
    under_rate: list[str] = []
    tree = parsed(EXPRESSIONS[name])
    for node in nodes(tree):
        if isinstance(node, promql.Call) and node.func.name in ("rate", "increase"):
            under_rate += [selector.name for selector in selectors(node)]
    for one in selectors(tree):
        if one.name in RECORDED or one.name == "up":
            continue
        found, part = series_of(one.name)
        if family(found).type == "counter" or part:
            assert one.name in under_rate or name == "GatewaySeriesCapped", one.name  # for good


# --- the dashboards -------------------------------------------------------------------------------


def families(expr: str) -> set[str]:
    return {series_of(one.name)[0] for one in selectors(parsed(expr))}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_leads_to_a_dashboard_that_shows_its_metric(name: str) -> None:
    link = ALERTS[name]["annotations"]["dashboard_url"]
    uid, _, query = link.removeprefix("/d/").partition("?")
    [board] = [board for board, json in FILES.items() if json["uid"] == uid]
    assert {pair.partition("=")[0] for pair in query.split("&")} <= {
        f"var-{variable}" for variable in variables(FILES[board])
    }
    rules = [ALERTS[name], *needed_by(ALERTS[name]["expr"])]
    asked = set().union(*(families(rule["expr"]) for rule in rules)) - RECORDED.keys()
    shown = set().union(
        *(families(target["expr"]) for p in PANELS if p.board == board for target in p.targets)
    )
    assert asked & shown or asked == {"up"}, f"{sorted(asked)} are not on {board}"


def test_alerts_and_dashboards_mean_the_same_by_failed_and_by_found() -> None:
    for word, name in (
        (VALID, "job:gateway_requests_valid:rate5m"),
        (FAILED, "job:gateway_requests_failed:rate5m"),
        (LOOKED_UP, "job:gateway_cache_lookups:rate30m"),
        (FOUND, "job:gateway_cache_hits:ratio_rate30m"),
    ):
        assert f"{{{word}}}" in RECORDED[name]["expr"]


@pytest.mark.parametrize("file", ["prometheus.yml", "compose.yml"])
def test_prometheus_takes_the_rules_and_has_the_job_that_one_knows(file: str) -> None:
    settings = yaml.safe_load((RULES.parent / file).read_text("utf-8"))
    assert settings["rule_files"] == ["rules/*.yml"]
    [job] = [scrape["job_name"] for scrape in settings["scrape_configs"]]
    assert set(re.findall(r'job="(\w+)"', ALERTS["GatewayDown"]["expr"])) == {job}
