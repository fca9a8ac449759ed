"""The four kinds of panels, as this project draws them: stat, time series, bar gauge, table.

Rule: a panel says what it answers (`about`), has a unit, and starts its axis at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.builders import stat as stat_builder
from grafana_foundation_sdk.builders import table as table_builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GOOD, WARN, BAD, CALM = "green", "orange", "red", "blue"

Steps = Sequence[tuple[float | None, str]]
Words = Mapping[str, tuple[str, str]]  # a value: what is shown for it, and its colour

NEUTRAL: Steps = [(None, CALM)]
ANY_IS_BAD: Steps = [(None, GOOD), (1e-9, BAD)]
ANY_IS_NOTABLE: Steps = [(None, GOOD), (1e-9, WARN)]


@dataclass(frozen=True)
class Target:
    """A query and what its series are called. `instant`: asked for the end of the range alone."""

    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: one query, one value for each row."""

    title: str
    expr: str
    unit: str = "short"
    decimals: int | None = None
    steps: Steps = ()
    words: Words | None = None
    gauge: bool = False  # a bar in the cell; the value is a share
    width: int = 0


@dataclass(frozen=True)
class Panel:
    """A panel that has its size, and no place yet. `may_be_empty`: why no test can demand data."""

    title: str
    builder: Any
    width: int
    height: int
    may_be_empty: str = ""


def stat(
    title: str,
    about: str,
    *targets: Target | str,
    unit: str,
    width: int = 3,
    height: int = 4,
    steps: Steps = NEUTRAL,
    words: Words | None = None,
    decimals: int | None = None,
    graph: bool = False,
    text: str = "value",
    none: str = "",
    may_be_empty: str = "",
) -> Panel:
    """One number, or a few. `graph`: with its course behind it; then it is the last value. `text`:
    value, name, or value_and_name."""
    made = stat_builder.Panel()
    _common(made, title, about, unit, steps, words, decimals)
    made.text_mode(kinds.BigValueTextMode(text)).justify_mode(kinds.BigValueJustifyMode.CENTER)
    made.color_mode(kinds.BigValueColorMode.VALUE)
    made.graph_mode(kinds.BigValueGraphMode.AREA if graph else kinds.BigValueGraphMode.NONE)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if none:
        made.no_value(none)
    _ask(made, [_target(target, instant=not graph) for target in targets])
    return Panel(title, made, width, height, may_be_empty)


def series(
    title: str,
    about: str,
    *targets: Target,
    unit: str,
    width: int = 8,
    height: int = 8,
    stack: bool = False,
    most: float | None = None,
    decimals: int | None = None,
    limit: Steps = (),
    colors: Mapping[str, str] | None = None,
    calcs: Sequence[str] = (),
    may_be_empty: str = "",
) -> Panel:
    """Lines over time. `limit`: thresholds, drawn as dashed lines; `colors`: by a line's name;
    `calcs`: columns of its legend, as a table."""
    made = timeseries.Panel()
    _common(made, title, about, unit, limit or NEUTRAL, None, decimals)
    made.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    made.min(0).line_width(1).fill_opacity(25 if stack else 8)
    made.show_points(kinds.VisibilityMode.NEVER).span_nulls(True)
    made.tooltip(
        common.VizTooltipOptions()
        .mode(kinds.TooltipDisplayMode.MULTI)
        .sort(kinds.SortOrder.DESCENDING)
    )
    legend = common.VizLegendOptions().placement(kinds.LegendPlacement.BOTTOM).show_legend(True)
    shape = kinds.LegendDisplayMode.TABLE if calcs else kinds.LegendDisplayMode.LIST
    made.legend(legend.display_mode(shape).calcs(list(calcs)))
    if most is not None:
        made.max(most)
    if unit == "short":
        made.axis_soft_max(1)  # nothing but zeros is drawn at the bottom
    if stack:
        made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if limit:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    for name, color in (colors or {}).items():
        made.override_by_name(name, [_value("color", {"mode": "fixed", "fixedColor": color})])
    _ask(made, [_target(target) for target in targets])
    return Panel(title, made, width, height, may_be_empty)


def bars(
    title: str,
    about: str,
    target: Target,
    *,
    unit: str,
    width: int = 8,
    height: int = 8,
    steps: Steps = NEUTRAL,
    most: float | None = None,
    decimals: int | None = None,
    may_be_empty: str = "",
) -> Panel:
    """A ranking: the query sorts it."""
    made = bargauge.Panel()
    _common(made, title, about, unit, steps, None, decimals)
    made.min(0).orientation(kinds.VizOrientation.HORIZONTAL)
    made.display_mode(kinds.BarGaugeDisplayMode.BASIC).show_unfilled(True)
    made.value_mode(kinds.BarGaugeValueMode.TEXT).name_placement(kinds.BarGaugeNamePlacement.LEFT)
    made.text(common.VizTextDisplayOptions().value_size(16))
    made.sizing(kinds.BarGaugeSizing.AUTO).min_viz_height(16).max_viz_height(32)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if most is not None:
        made.max(most)
    _ask(made, [_target(target, instant=True)])
    return Panel(title, made, width, height, may_be_empty)


def table(
    title: str,
    about: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    sort: str,
    width: int = 24,
    height: int = 9,
    descending: bool = True,
    may_be_empty: str = "",
) -> Panel:
    """A row for each combination of `labels` (each with its heading), one query for each column."""
    made = table_builder.Panel()
    _common(made, title, about, "short", NEUTRAL, None, None)
    made.cell_height(kinds.TableCellHeight.SM).align(kinds.FieldTextAlignment.AUTO)
    refs = [chr(ord("A") + index) for index in range(len(columns))]
    for column, ref in zip(columns, refs, strict=True):
        query = prometheus.Dataquery().expr(column.expr).instant().ref_id(ref)
        made.with_target(query.format(PromQueryFormat.TABLE).datasource(SOURCE))
        made.override_by_name(column.title, list(_cell(column)))
    fields = [f"Value #{ref}" for ref in refs] if len(refs) > 1 else ["Value"]
    titles = dict(labels) | dict(zip(fields, [column.title for column in columns], strict=True))
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(titles)},
        "renameByName": titles,
    }
    made.with_transformation(models.DataTransformerConfig("merge", options={}))
    made.with_transformation(models.DataTransformerConfig("organize", options=organize))
    order = {"sort": [{"field": sort, "desc": descending}]}
    made.with_transformation(models.DataTransformerConfig("sortBy", options=order))
    return Panel(title, made, width, height, may_be_empty)


def _cell(column: Column) -> list[models.DynamicConfigValue]:
    found = [_value("unit", column.unit)]
    if column.decimals is not None:
        found.append(_value("decimals", column.decimals))
    if column.width:
        found.append(_value("custom.width", column.width))
    if column.words:
        found.append(_value("mappings", [_mapping(column.words)]))
    if column.steps:
        found.append(_value("thresholds", {"mode": "absolute", "steps": _steps(column.steps)}))
    if column.gauge:
        found += [_value("min", 0), _value("max", 1)]
        cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        found.append(_value("custom.cellOptions", cell))
    elif column.steps or column.words:
        found.append(_value("custom.cellOptions", {"type": "color-text"}))
    return found


def _common(
    made: Any,
    title: str,
    about: str,
    unit: str,
    steps: Steps,
    words: Words | None,
    decimals: int | None,
) -> None:
    made.title(title).description(about).datasource(SOURCE).unit(unit)
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    made.thresholds(thresholds.steps(_steps(steps)))
    made.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    if words:
        made.mappings([_mapping(words)])
    if decimals is not None:
        made.decimals(decimals)


def _steps(steps: Steps) -> list[models.Threshold]:
    return [models.Threshold(value, color) for value, color in steps]


def _mapping(words: Words) -> models.ValueMap:
    return models.ValueMap(
        {
            value: models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
    )


def _value(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(name, value)


def _target(target: Target | str, instant: bool = False) -> Target:
    if isinstance(target, str):
        return Target(target, instant=instant)
    return Target(target.expr, target.legend, target.instant or instant, target.exemplars)


def _ask(made: Any, targets: Sequence[Target]) -> None:
    for index, target in enumerate(targets):
        query = prometheus.Dataquery().expr(target.expr).ref_id(chr(ord("A") + index))
        query.datasource(SOURCE).legend_format(target.legend or "__auto")
        if target.exemplars:
            query.exemplar(True)
        made.with_target(query.instant() if target.instant else query.range())
