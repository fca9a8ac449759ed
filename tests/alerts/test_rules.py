"""Alerts and recorded rules: each fires when it should and keeps silent when it should (M8)."""

from __future__ import annotations

import pytest

from tests.alerts.cases import CASES
from tests.alerts.promtool import ALERTS, FILES, Case, expected, promtool, run


def test_the_rules_have_no_fault() -> None:
    for file in FILES:
        promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.about}")
def test_an_alert(case: Case, tmp_path) -> None:
    alerts = {"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected(case)}
    run(tmp_path, case.every, case.series, alert_rule_test=[alerts])


def test_each_alert_is_seen_firing_and_silent() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)
