"""PromQL from the table of metrics.

Rule: a query names families and labels through here, so what the table does not have fails the
build. Each selector is narrowed to the variables that its dashboard shows and its family has.
Everything stays with what Prometheus 2.42 understands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.metrics import SPECS, Spec

RATE = "$__rate_interval"  # for what is drawn over time
RANGE = "$__range"  # for totals of the time that is shown
END = " @ end()"  # for a ranking that holds for all of what is drawn

# What the client library and Prometheus add to the table's families.
STANDARD = {
    name: Spec(name, kind, labels, "")
    for name, kind, labels in (
        ("process_cpu_seconds_total", "counter", ()),
        ("process_resident_memory_bytes", "gauge", ()),
        ("process_open_fds", "gauge", ()),
        ("process_max_fds", "gauge", ()),
        ("process_start_time_seconds", "gauge", ()),
        ("python_gc_collections_total", "counter", ("generation",)),
        ("up", "gauge", ()),
        ("scrape_duration_seconds", "gauge", ()),
        ("scrape_samples_scraped", "gauge", ()),
    )
}

# The objective: of the requests that are not the client's own mistake, 99.5 % end well. A stream
# that breaks off after its 200 did not. The recording rules hold the same.
OBJECTIVE = 0.995
VALID = 'code!~"4.."'
FAILED = (
    'reason=~"upstream_5..|upstream_error|upstream_timeout|in_band_error|internal_error|'
    'overloaded|draining|ledger_unavailable"'
)
FOUND = 'cache=~"hit|joined"'
LOOKED_UP = 'cache=~"hit|joined|miss"'

_LABEL = re.compile(r'(\w+)(?:=~|!~|!=|=)"')


def family(name: str) -> Spec:
    """KeyError: no scrape has such a family."""
    return SPECS[name] if name in SPECS else STANDARD[name]


@dataclass(frozen=True)
class Queries:
    """`variables`: of model, key, upstream, those that this dashboard lets people choose."""

    variables: tuple[str, ...] = ()

    def select(self, name: str, where: str = "", part: str = "", at: str = "") -> str:
        """A family's series that are asked for; `part` is `_bucket`, `_sum` or `_count`; `at` is
        END for their values at the end of what is shown."""
        spec = family(name)
        asked = _LABEL.findall(where)
        _known(spec, asked)
        chosen = [v for v in self.variables if v in spec.labels and v not in asked]
        scope = [f'{label}=~"${label}"' for label in ("job", "instance", *chosen)]
        return f"{name}{part}{{{', '.join([*scope, *([where] if where else [])])}}}{at}"

    def now(self, name: str, by: str = "", where: str = "", how: str = "sum", at: str = "") -> str:
        """A gauge as it is."""
        _is(name, "gauge")
        return f"{_over(how, name, by)} ({self.select(name, where, at=at)})"

    def rate(
        self, name: str, by: str = "", where: str = "", window: str = RATE, part: str = ""
    ) -> str:
        """How much a second."""
        _is(name, "summary" if part == "_sum" else "counter", "histogram" if part else "counter")
        return f"{_over('sum', name, by)} (rate({self.select(name, where, part)}[{window}]))"

    def total(self, name: str, by: str = "", where: str = "", window: str = RANGE) -> str:
        """How much in all of the time that is shown."""
        _is(name, "counter")
        return f"{_over('sum', name, by)} (increase({self.select(name, where)}[{window}]))"

    def largest(self, number: int, name: str, by: str) -> str:
        """The labels that have most of a counter in the time that is shown."""
        selector = self.select(name)
        total = f"{_over('sum', name, by)} (increase({selector}[{RANGE}]{END}))"
        return f"topk({number}, {total})"

    def quantile(
        self, share: float, name: str, by: str = "", where: str = "", window: str = RATE
    ) -> str:
        """What a share of the observations stays below; `> 0` leaves out times without any."""
        _is(name, "histogram")
        labels = f"le, {by}" if by else "le"
        rate = (
            f"{_over('sum', name, labels)} (rate({self.select(name, where, '_bucket')}[{window}]))"
        )
        return f"histogram_quantile({share}, {rate})"

    def mean(self, name: str, by: str = "", where: str = "", window: str = RATE) -> str:
        """The mean of what was observed."""
        _is(name, "histogram", "summary")
        sums, counts = (
            f"{_over('sum', name, by)} (rate({self.select(name, where, part)}[{window}]))"
            for part in ("_sum", "_count")
        )
        return f"{sums} / {counts}"

    def failed(self, window: str) -> str:
        """Share of the valid requests that failed, in a window; 0 where nothing has failed yet."""
        valid = self.total("gateway_requests_total", where=VALID, window=window)
        failed = self.total("gateway_errors_total", where=FAILED, window=window)
        return f"({failed} or 0 * {valid}) / {valid}"


def share(part: str, whole: str) -> str:
    """A part of a whole; 0 where the part has no series yet."""
    return f"({part} or 0 * {whole}) / {whole}"


def _over(how: str, name: str, by: str) -> str:
    _known(family(name), [label for label in re.findall(r"\w+", by) if label != "le"])
    return f"{how} by ({by})" if by else how


def _known(spec: Spec, labels: list[str]) -> None:
    unknown = set(labels) - {*spec.labels, "job", "instance"}
    if unknown:
        raise KeyError(f"{spec.name} has no label {', '.join(sorted(unknown))}")


def _is(name: str, *kinds: str) -> None:
    kind = family(name).type
    if kind not in kinds:
        raise TypeError(f"{name} is a {kind}, not a {' or '.join(kinds)}")
