"""The dashboards on a real Prometheus that scrapes a real gateway: every query of every panel has
values, the figures people decide by are the ones the driver counted, and a metric that is renamed
is missed by exactly the panels that show it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.dashboards import scenario
from tests.dashboards.boards import (
    FILES,
    PANELS,
    Panel,
    any_of,
    filled,
    parsed,
    selectors,
    variables,
)
from tests.dashboards.prometheus import Prometheus, until
from tests.dashboards.scenario import COST, LIMITS, OUTPUT, PROMPT, Scenario, Truth
from tests.e2e.process import Gateway
from tests.scripted.client import Scripted

ROUNDS = 6
RENAMED = "gateway_upstream_first_byte_seconds"
OTHER_NAME = "gateway_upstream_first_bite_seconds"
UNPRICED_ESTIMATES = 3  # in a round: cut, left, silent
UP = {"fast": 1, "flaky": 1, "free": 1, "down": 0}
JOB, RENAMING_JOB = "gateway", "renaming"


@dataclass
class Live:
    """What ran: `start` is before the first request, `counted` to `end` are the counted rounds, by
    the scrapes of one job; at `last` the other has seen them too."""

    prometheus: Prometheus
    truth: Truth
    start: float
    counted: float
    end: float
    last: float

    def values(self, board: str, job: str = JOB) -> dict[str, str]:
        """Grafana's variables with everything chosen, the whole time shown."""
        found = {
            "datasource": "gateway-prometheus",
            "job": any_of([job]),
            "__rate_interval": "10s",
            "__range": f"{math.ceil(self.last - self.start)}s",
        }
        for name, variable in list(variables(FILES[board]).items())[2:]:
            if "allValue" in variable:
                found[name] = variable["allValue"]
                continue
            selector = filled(_selector(variable), found)
            found[name] = any_of(
                self.prometheus.label_values(selector, name, self.start, self.last)
            )
        return found

    def result(self, panel: Panel, target: Any, values: dict[str, str]) -> list[list[float]]:
        """The finite values of each series that a target has."""
        expr = filled(target["expr"], values)
        if target.get("instant"):
            found = [[one["value"]] for one in self.prometheus.instant(expr, self.last)]
        else:
            course = self.prometheus.course(expr, self.start, self.last)
            found = [one["values"] for one in course]
        numbers = [[float(value) for _, value in series] for series in found]
        return [[value for value in series if math.isfinite(value)] for series in numbers]

    def empty(self, job: str = JOB) -> set[str]:
        """Panels with a target that shows nothing."""
        values = {board: self.values(board, job) for board in FILES}
        return {
            str(panel)
            for panel in PANELS
            if not panel.may_be_empty
            for target in panel.targets
            if not any(self.result(panel, target, values[panel.board]))
        }

    def shown(self, board: str, title: str, ref: str = "A", **labels: str) -> float:
        """The value of a panel's target for the counted rounds alone."""
        [panel] = [p for p in PANELS if (p.board, p.title) == (board, title)]
        [target] = [t for t in panel.targets if t["refId"] == ref]
        # Both ends are scrapes, so nothing is extrapolated and an increase is exact.
        window = f"{round((self.end - self.counted) * 1000)}ms"
        expr = filled(target["expr"], self.values(board) | {"__range": window})
        found = [
            one
            for one in self.prometheus.instant(expr, self.end)
            if labels.items() <= one["metric"].items()
        ]
        assert len(found) == 1, (panel.title, labels, found)
        return float(found[0]["value"][1])


def _selector(variable: Any) -> str:
    query = variable["query"] if isinstance(variable["query"], str) else variable["query"]["query"]
    return str(query.removeprefix("label_values(").rpartition(", ")[0])


def _scraped(prometheus: Prometheus, sent: int) -> float:
    """The time of a scrape that has seen every request, by both jobs, once it is there."""

    def look() -> float | None:
        counts = prometheus.instant("sum by (job) (gateway_requests_total)")
        if {float(one["value"][1]) for one in counts} != {sent} or len(counts) != 2:
            return None
        at = prometheus.number(f'max(timestamp(gateway_build_info{{job="{JOB}"}}))')
        # The same at that very time: the counts were of this scrape, or of an older one.
        then = prometheus.number(f'sum(gateway_requests_total{{job="{JOB}"}})', at)
        return at if then == sent else None

    return until(look, f"a scrape with {sent} requests")


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, up: Scripted, closed_port: int
) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "prometheus").mkdir()
    with Gateway(folder, scenario.config(up, closed_port)) as gateway:
        target = {"static_configs": [{"targets": [f"127.0.0.1:{gateway.admin_port}"]}]}
        rename = {
            "source_labels": ["__name__"],
            "regex": f"{RENAMED}(.*)",
            "target_label": "__name__",
            "replacement": f"{OTHER_NAME}$1",
        }
        jobs = [
            {"job_name": JOB, **target},
            {"job_name": RENAMING_JOB, **target, "metric_relabel_configs": [rename]},
        ]
        with Prometheus(folder / "prometheus", jobs) as prometheus:
            start = prometheus.number("min(timestamp(gateway_build_info))")
            load = Scenario(gateway, up)
            load.warm()
            counted = _scraped(prometheus, load.sent)
            for _ in range(ROUNDS):
                load.round()
            end = _scraped(prometheus, load.sent)
            last = prometheus.number("max(timestamp(gateway_build_info))")
            yield Live(prometheus, load.truth, start, counted, end, last)


def test_every_panel_has_values(live: Live) -> None:
    assert not live.empty()


def test_a_renamed_metric_is_missed_by_exactly_its_panels(live: Live) -> None:
    """The negative control: the test above can fail, and says where."""
    users = {
        str(panel)
        for panel in PANELS
        for target in panel.targets
        if any(one.name.startswith(RENAMED) for one in selectors(parsed(target["expr"])))
    }
    assert users
    assert live.empty(RENAMING_JOB) == users


def test_the_figures_are_the_driver_s(live: Live) -> None:
    """Exactly: both ends of the window are scrapes, and every series was there before."""
    truth, shown = live.truth, live.shown
    served = truth.hits + truth.joined
    told, priced = truth.told.total(), truth.priced.total()
    assert told and priced and served and truth.failed and truth.rejected, (
        "the scenario has lost a part"
    )
    wanted = {
        ("overview", "Success"): 1 - truth.failed / (truth.requests - truth.invalid),
        ("overview", "From the cache"): served / (served + truth.misses),
        ("overview", "Spent and saved"): priced * COST,
        ("cost", "Requests"): truth.by_key.total(),
        ("cost", "Spent"): priced * COST,
        ("cost", "Input tokens"): told * PROMPT,
        ("cost", "Output tokens"): told * OUTPUT,
        ("cost", "Calls without a price"): told - priced + UNPRICED_ESTIMATES * ROUNDS,
        ("quotas", "Refused for a limit"): truth.rejected,
        ("quotas", "Limits"): LIMITS,
        ("quotas", "Limits used up"): 1,
        ("cache", "Saved"): served * COST,
        ("cache", "Bill smaller by"): served / (served + priced),
        ("cache", "From the cache"): served / (served + truth.misses),
        ("cache", "Tokens saved"): served * (PROMPT + OUTPUT),
    }
    found = {place: shown(*place) for place in wanted}
    assert found == pytest.approx(wanted, rel=1e-9)


def test_each_key_has_its_own(live: Live) -> None:
    for key in ("alice", "bob"):
        by_key = {
            title: live.shown("cost", "Keys", ref, key=key)
            for title, ref in (("requests", "A"), ("input", "D"), ("output", "E"), ("spent", "F"))
        }
        told, priced = live.truth.told[key], live.truth.priced[key]
        assert by_key == pytest.approx(
            {
                "requests": live.truth.by_key[key],
                "input": told * PROMPT,
                "output": told * OUTPUT,
                "spent": priced * COST,
            },
            rel=1e-9,
        )


def test_each_upstream_has_its_own(live: Live) -> None:
    for upstream in ("fast", "flaky", "down"):
        calls, failed = live.truth.upstream_calls[upstream], live.truth.upstream_failed[upstream]
        assert live.shown("upstreams", "Each upstream", "C", upstream=upstream) == pytest.approx(
            failed / calls, rel=1e-9
        )
    states = {name: live.shown("upstreams", "Up or down", upstream=name) for name in UP}
    assert states == UP
