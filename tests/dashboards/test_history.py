"""The made-up day that the pictures in docs/dashboards.md are drawn from has every family, as a
scrape would give it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gateway.metrics import SPECS
from tests.dashboards.test_lint import series_of
from tools.dashboards.history import STEP, lines
from tools.dashboards.queries import STANDARD, family

END = 1_795_000_020 // STEP * STEP
# What only faults make: their panels say "none".
LEFT_OUT = {
    "gateway_cache_errors_total",
    "gateway_cache_dropped_total",
    "gateway_ledger_errors_total",
    "gateway_journal_errors_total",
    "gateway_metric_series_capped_total",
}


def test_it_has_every_family_and_no_other() -> None:
    names = {line.partition("{")[0] for line in lines(END, 2)} - {"# EOF\n"}
    found = {series_of(name)[0] for name in names}
    assert found <= {*SPECS, *STANDARD}
    assert {*SPECS, *STANDARD} - found == LEFT_OUT


def test_a_histogram_is_whole() -> None:
    name = "gateway_overhead_seconds"
    last = [line for line in lines(END, 1) if line.startswith(name) and line.endswith(f"{END}\n")]
    *buckets, count, total = [float(line.rsplit(" ", 2)[1]) for line in last]
    assert buckets == sorted(buckets) and len(buckets) == len(family(name).buckets) + 1
    assert count == buckets[-1] > 0 < total


def test_prometheus_takes_it(tmp_path: Path) -> None:
    day = tmp_path / "day.om"
    with day.open("w") as file:
        file.writelines(lines(END, 1))
    made = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(day), str(tmp_path / "data")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert list((tmp_path / "data").glob("*/meta.json"))
