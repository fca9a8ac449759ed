"""What the six dashboards have in common: variables, links, annotations, and the grid.

Every dashboard carries every variable, so that links keep what was chosen; those that none of its
panels uses are hidden.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from tools.dashboards.panels import SOURCE, Panel
from tools.dashboards.queries import Queries

COLUMNS = 24
TAG = "gateway"
SCOPE = '{job=~"$job", instance=~"$instance"}'
CHOICES = {  # a variable: its label, and the families whose values it offers
    "model": ("Model", "gateway_requests_total"),
    "key": ("Key", "gateway_key_requests_total"),
    "upstream": ("Upstream", "gateway_upstream_in_flight"),
}
OTHERS = {"quotas": {"key": ("Key or team", "gateway_quota_limit")}}


class Board:
    """One dashboard. Panels stand in rows, in the order they are added."""

    def __init__(self, name: str, title: str, question: str, *variables: str, span: str) -> None:
        self.uid = f"gateway-{name}"
        self.queries = Queries(variables)
        self.panels: list[Panel] = []
        self._placed: list[dict[str, Any]] = []
        self._x = self._y = self._row = 0
        choices = CHOICES | OTHERS.get(name, {})
        self._made = (
            dashboard.Dashboard(title)
            .uid(self.uid)
            .description(question)
            .tags([TAG])
            .readonly()
            .refresh("30s")
            .timezone("browser")
            .time(f"now-{span}", "now")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .variables([_source(), _job(), _instance()])
            .link(
                dashboard.DashboardLink("Gateway")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .include_vars(True)
                .keep_time(True)
            )
            .annotations([_restarts(), _reloads()])
        )
        for variable, (label, family) in choices.items():
            self._made.with_variable(_choice(variable, label, family, variable in variables))

    def row(self, title: str) -> None:
        """A heading over what follows."""
        self._wrap()
        place = {"x": 0, "y": self._y, "w": COLUMNS, "h": 1}
        self._placed.append(
            {
                "type": "row",
                "title": title,
                "id": _id(f"row {title}"),
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        self._y += 1

    def add(self, *panels: Panel) -> None:
        """From left to right; what does not fit begins a new line."""
        for panel in panels:
            if self._x + panel.width > COLUMNS:
                self._wrap()
            place = models.GridPos(x=self._x, y=self._y, w=panel.width, h=panel.height)
            built = panel.builder.id(_id(panel.title)).grid_pos(place).build()
            self._placed.append(json.loads(json.dumps(built, cls=JSONEncoder)))
            self.panels.append(panel)
            self._x += panel.width
            self._row = max(self._row, panel.height)

    def json(self) -> str:
        """The dashboard as Grafana reads it (the classic form, which every version imports)."""
        found = json.loads(json.dumps(self._made.build(), cls=JSONEncoder))
        found["panels"] = self._placed
        return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _wrap(self) -> None:
        self._x, self._y, self._row = 0, self._y + self._row, 0


def _id(title: str) -> int:
    """The same as long as the title is: links to a panel hold."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1


def _source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _job() -> dashboard.QueryVariable:
    # Without an own value for "All", it is the gateways alone: `process_*` is everybody's.
    return _query("job", "Job", "label_values(gateway_build_info, job)")


def _instance() -> dashboard.QueryVariable:
    query = 'label_values(gateway_build_info{job=~"$job"}, instance)'
    return _query("instance", "Instance", query)


def _choice(name: str, label: str, family: str, shown: bool) -> dashboard.QueryVariable:
    made = _query(name, label, f"label_values({family}{SCOPE}, {name})").all_value(".*")
    return made if shown else made.hide(models.VariableHide.HIDE_VARIABLE)


def _query(name: str, label: str, query: str) -> dashboard.QueryVariable:
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .multi(True)
        .include_all(True)
        .current(everything)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _restarts() -> dashboard.AnnotationQuery:
    expr = f"changes(process_start_time_seconds{SCOPE}[$__rate_interval]) > 0"
    return _annotation("Restarts", "orange", expr)


def _reloads() -> dashboard.AnnotationQuery:
    family = "gateway_config_last_reload_success_timestamp_seconds"
    return _annotation(
        "Configuration reloads", "blue", f"changes({family}{SCOPE}[$__rate_interval]) > 0"
    )


def _annotation(name: str, color: str, expr: str) -> dashboard.AnnotationQuery:
    made = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True)
    return made.icon_color(color).expr(expr)
