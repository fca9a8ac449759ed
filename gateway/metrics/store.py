"""The samples: one small list for each series, which whoever counts holds on to.

Rule: a cell is plain numbers, changed in place on the loop's thread; finding one is what costs, and
is done once. No family has more than `SERIES` series: what comes beyond shares one, `other`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.metrics.spec import SERIES, Labels, Spec
from gateway.metrics.table import SPECS, TABLE

OTHER = "other"
SIMPLE = frozenset({"counter", "gauge"})
CAPPED = "gateway_metric_series_capped_total"

# Of a counter or gauge: its value. Of a histogram: the count of each bucket, of those above, and
# the sum. Of a summary: count and sum.
Cell = list[float]
Value = float | list[float]
Snapshot = dict[str, dict[Labels, Value]]

Exemplar = tuple[str, str | None, float, float]  # request, trace, value, wall seconds
Marks = list[Exemplar | None]  # the last one of each bucket
Exemplars = dict[str, dict[Labels, Marks]]


class Store:
    """All cells, by family and labels."""

    def __init__(self) -> None:
        self._families: dict[str, dict[Labels, Cell]] = {spec.name: {} for spec in TABLE}
        self._marks: Exemplars = {}

    def cell(self, name: str, *labels: str) -> Cell:
        """The cell of that series, made if need be; `other`'s where its family is full."""
        family = self._families[name]
        found = family.get(labels)
        if found is None:
            spec = SPECS[name]
            if len(labels) != len(spec.labels):
                raise KeyError(f"{name} has the labels {spec.labels}")
            if len(family) >= SERIES and labels:
                self.cell(CAPPED, name)[0] += 1
                labels = (OTHER,) * len(labels)
                found = family.get(labels)
            if found is None:
                found = family[labels] = zero(spec)
        return found

    def marks(self, name: str, *labels: str) -> Marks:
        """Room for the exemplars of that series of a histogram."""
        if labels not in self._families[name]:
            labels = (OTHER,) * len(labels)
        marks = self._marks.setdefault(name, {})
        return marks.setdefault(labels, [None] * (len(SPECS[name].buckets) + 1))

    def drop(self, label: str, value: str) -> None:
        """Remove every series in which `label` is `value`. Whoever holds a cell of one counts in
        vain."""
        for name, family in self._families.items():
            if label in SPECS[name].labels:
                place = SPECS[name].labels.index(label)
                for labels in [labels for labels in family if labels[place] == value]:
                    del family[labels]
                    self._marks.get(name, {}).pop(labels, None)

    def cells(self, name: str) -> Mapping[Labels, Cell]:
        """The cells of one family, as they are."""
        return self._families[name]

    def exemplars(self) -> Exemplars:
        """A copy of all exemplars."""
        return {
            name: {labels: row.copy() for labels, row in marks.items()}
            for name, marks in self._marks.items()
        }

    def snapshot(self) -> Snapshot:
        """A copy of all samples, of one moment."""
        return {
            name: {labels: cell[0] for labels, cell in family.items()}
            if SPECS[name].type in SIMPLE
            else {labels: cell.copy() for labels, cell in family.items()}
            for name, family in self._families.items()
        }


def zero(spec: Spec) -> Cell:
    """A cell in which nothing is counted yet."""
    return [0] * (1 if spec.type in SIMPLE else len(spec.buckets) + 2)
