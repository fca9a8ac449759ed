"""Runs Prometheus' own unit tests over the shipped rules: `promtool test rules`."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import yaml

Rule = dict[str, Any]
Series = dict[str, str]  # series: its values, in promtool's notation ("0+6x60")

LABEL = r"\{\{ \$labels\.(\w+) \}\}"
QUOTED_LABEL = r"\{\{ \$labels\.(\w+) \| urlquery \}\}"

RULES = Path(__file__).parents[2] / "dashboards" / "prometheus" / "rules"
FILES = [RULES / "recording.yml", RULES / "alerts.yml"]
GROUPS = [group for file in FILES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
ALL = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: dict[str, Rule] = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED: dict[str, Rule] = {rule["record"]: rule for rule in ALL if "record" in rule}


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert as a person gets it: its labels but `severity`, and the description's text."""

    labels: dict[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class Case:
    """Whether `alert` fires `at` some time over `series` of one sample per `every`."""

    alert: str
    about: str
    series: Series
    fires: tuple[Firing, ...] = ()
    at: str = "30m"
    every: str = "1m"


def promtool(*arguments: str) -> str:
    """What it says. AssertionError where it fails."""
    ran = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def run(folder: Path, rules: list[Rule], every: str, series: Series, **expected: Any) -> None:
    """One unit test of promtool's. AssertionError, with its words, where it does not hold."""
    test = {
        "interval": every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        **expected,
    }
    document = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": every,
        "tests": [test],
    }
    groups = [{"name": "these", "rules": rules}]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}), "utf-8")
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    promtool("test", "rules", str(path))


def needed_by(expr: str) -> list[Rule]:
    """The recording rules that `expr` stands on, in their order: all others only take time."""
    found = {
        name
        for direct in re.findall(r"\b\w+:\w+:\w+\b", expr)
        for name in (direct, *(rule["record"] for rule in needed_by(RECORDED[direct]["expr"])))
    }
    return [rule for name, rule in RECORDED.items() if name in found]


def expected(case: Case) -> list[dict[str, Any]]:
    """The alerts that promtool shall see, each with all of its labels and annotations."""
    rule = ALERTS[case.alert]
    return [
        {
            "exp_labels": {**firing.labels, "severity": rule["labels"]["severity"]},
            "exp_annotations": {
                **{name: filled(text, firing.labels) for name, text in rule["annotations"].items()},
                "description": firing.description,
            },
        }
        for firing in case.fires
    ]


def filled(text: str, labels: dict[str, str]) -> str:
    """The text with labels in their places: all that annotations but `description` may use."""
    text = re.sub(LABEL, lambda found: labels.get(found[1], ""), text)
    return re.sub(QUOTED_LABEL, lambda found: quote_plus(labels.get(found[1], "")), text)
