"""The table is sound, and docs/metrics.md is made from it (M7, M8)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gateway.metrics import SPECS, TABLE, markdown

ROOT = Path(__file__).parents[2]


def test_names_say_what_they_are():
    assert len(SPECS) == len(TABLE)
    for spec in TABLE:
        assert re.fullmatch(r"gateway_[a-z0-9]+(_[a-z0-9]+)*", spec.name)
        assert spec.name.endswith("_total") == (spec.type == "counter")
        assert bool(spec.buckets) == (spec.type == "histogram")
        assert spec.type in {"counter", "gauge", "histogram", "summary"}
        assert spec.help.endswith(".")
        assert all(re.fullmatch(r"[a-z]+", label) for label in spec.labels)


def test_no_label_could_hold_a_person_or_a_secret():
    """M1: never an end user, an address, a request's id, a raw path or an error's text."""
    known = set(
        [
            "endpoint",
            "model",
            "code",
            "cache",
            "key",
            "reason",
            "upstream",
            "outcome",
            "result",
            "metric",
            "version",
            "python",
            "tier",
            "kind",
            "stage",
            "operation",
            "volume",
        ]
    )
    assert {label for spec in TABLE for label in spec.labels} <= known


def test_the_families_of_the_contract_that_can_be_fed_are_there():
    assert SPECS["gateway_requests_total"].labels == ("endpoint", "model", "code", "cache")
    assert SPECS["gateway_upstream_requests_total"].labels == ("upstream", "model", "outcome")
    for name in ("gateway_input_tokens_total", "gateway_output_tokens_total"):
        assert SPECS[name].labels == ("model", "key")
    for name in ("request_duration", "time_to_first_token", "overhead"):
        assert SPECS[f"gateway_{name}_seconds"].type == "histogram"


def test_the_page_in_the_docs_is_the_table():
    """Remake it with: python -m gateway.metrics --markdown > docs/metrics.md"""
    assert (ROOT / "docs/metrics.md").read_text("utf-8") == markdown()
    assert all(f"| `{spec.name}` | {spec.type} |" in markdown() for spec in TABLE)


def test_the_command_prints_the_page():
    command = [sys.executable, "-m", "gateway.metrics"]
    shown = subprocess.run([*command, "--markdown"], capture_output=True, cwd=ROOT, check=True)
    assert shown.stdout.decode() == markdown()
    wrong = subprocess.run([*command, "--html"], capture_output=True, cwd=ROOT, check=False)
    assert wrong.returncode == 1 and b"usage" in wrong.stderr
