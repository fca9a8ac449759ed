"""Alerts and recorded rules: each fires when it should and keeps silent when it should (M8)."""

from __future__ import annotations

import pytest

from tests.alerts.cases_books import BOOKS
from tests.alerts.cases_limits import LIMITS
from tests.alerts.cases_recorded import RECORDINGS, Recording
from tests.alerts.cases_serving import SERVING
from tests.alerts.promtool import (
    ALERTS,
    FILES,
    RECORDED,
    Case,
    expected,
    needed_by,
    promtool,
    run,
)

CASES = SERVING + BOOKS + LIMITS


def test_the_rules_have_no_fault() -> None:
    for file in FILES:
        promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.about}")
def test_an_alert(case: Case, tmp_path) -> None:
    alert = ALERTS[case.alert]
    alerts = {"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected(case)}
    rules = [*needed_by(alert["expr"]), alert]
    run(tmp_path, rules, case.every, case.series, alert_rule_test=[alerts])


def test_each_alert_is_seen_firing_and_silent() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.about)
def test_what_is_recorded(recording: Recording, tmp_path) -> None:
    checks = [
        {
            "expr": f"round({name} * 1e6)",  # promtool compares to the last bit
            "eval_time": recording.at,
            "exp_samples": [
                {"labels": f"{{{labels}}}", "value": round(value * 1e6)}
                for labels, value in samples.items()
            ],
        }
        for name, samples in recording.values.items()
    ]
    rules = list(RECORDED.values())
    run(tmp_path, rules, "1m", recording.series, promql_expr_test=checks)


def test_each_recorded_rule_is_held_to_a_value_and_used_by_an_alert() -> None:
    assert {name for recording in RECORDINGS for name in recording.values} == set(RECORDED)
    used = {rule["record"] for alert in ALERTS.values() for rule in needed_by(alert["expr"])}
    assert used == set(RECORDED)
