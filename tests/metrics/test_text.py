"""Our text is what the client library's own parsers read, and what its renderer means (M4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.utils import floatToGoString

from gateway.metrics import TABLE, Metrics, render
from tests.exchanges import FixedClock, exchange

SIMPLE: Any = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
PLAIN = some.characters(exclude_categories=("C", "Zl", "Zp"))
NAMES = some.text(some.sampled_from('"\\\n{},=# ') | PLAIN, max_size=12)
COUNTS = some.integers(0, 2**53)
NUMBERS = some.one_of(COUNTS, some.floats(min_value=0, allow_nan=False, allow_infinity=False))


@some.composite
def snapshots(draw):
    """Some series in each of some families."""
    taken: Any = {spec.name: {} for spec in TABLE}
    for spec in draw(some.lists(some.sampled_from(TABLE), max_size=6)):
        for _ in range(draw(some.integers(0, 3)) if spec.labels else 1):
            labels = tuple(draw(NAMES) for _ in spec.labels)
            if spec.type in SIMPLE:
                taken[spec.name][labels] = draw(NUMBERS)
            else:
                counts = [draw(some.integers(0, 2**40)) for _ in range(len(spec.buckets) + 1)]
                taken[spec.name][labels] = [*counts, draw(NUMBERS)]
    return taken


class Library:
    """The same, as the client library is told it."""

    def __init__(self, taken) -> None:
        self.taken = taken

    def collect(self):
        for spec in TABLE:
            family = (
                SIMPLE | {"histogram": HistogramMetricFamily, "summary": SummaryMetricFamily}
            )[spec.type](spec.name, spec.help, labels=spec.labels)
            for labels, value in self.taken[spec.name].items():
                if spec.type == "histogram":
                    counts = [sum(value[: n + 1]) for n in range(len(value) - 1)]
                    bounds = [*map(floatToGoString, spec.buckets), "+Inf"]
                    family.add_metric(labels, list(zip(bounds, counts, strict=True)), value[-1])
                elif spec.type == "summary":
                    family.add_metric(labels, value[0], value[-1])
                else:
                    family.add_metric(labels, value)
            yield family


def meaning(families):
    return {
        family.name: (
            family.type,
            family.documentation,
            {(s.name, *sorted(s.labels.items())): s.value for s in family.samples},
        )
        for family in families
    }


@pytest.mark.parametrize("newer", [False, True], ids=["text", "openmetrics"])
@given(taken=snapshots())
def test_our_page_means_what_the_library_s_page_means(newer, taken):
    ours = render(taken, {}, newer=newer)
    if newer:
        theirs = openmetrics.generate_latest(Library(taken)).decode()
        assert meaning(read_openmetrics(ours + "# EOF\n")) == meaning(read_openmetrics(theirs))
    else:
        theirs = generate_latest(Library(taken)).decode()
        assert meaning(read_text(ours)) == meaning(read_text(theirs))


def test_exemplars_name_the_request_and_its_trace():
    """On durations and first tokens, in OpenMetrics only, in the bucket of their value."""
    metrics = Metrics(CollectorRegistry(), FixedClock())
    metrics.configure(models=["gpt-4o"])
    metrics.book(exchange(id="01JD0000000000000000000001", trace=None))
    metrics.book(exchange())
    page = render(metrics.snapshot(), metrics.exemplars(), newer=True) + "# EOF\n"
    found = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in read_openmetrics(page) for sample in family.samples if sample.exemplar
    }  # fmt: skip
    assert set(found) == {
        ("gateway_request_duration_seconds_bucket", "1.0"),
        ("gateway_time_to_first_token_seconds_bucket", "0.25"),
    }
    trace = "0af7651916cd43dd8448eb211c80319c"
    for exemplar, seconds in zip(found.values(), (0.902, 0.21), strict=True):
        assert exemplar.labels == {"request_id": "01JD0000000000000000000000", "trace_id": trace}
        assert math.isclose(exemplar.value, seconds)
        assert math.isclose(exemplar.timestamp, 1_750_000_000.25 + seconds, abs_tol=0.001)
    assert " # {" not in render(metrics.snapshot(), metrics.exemplars(), newer=False)


def test_a_request_without_a_trace_is_an_exemplar_too():
    metrics = Metrics(CollectorRegistry(), FixedClock())
    metrics.book(exchange(trace=None))
    page = render(metrics.snapshot(), metrics.exemplars(), newer=True)
    assert '# {request_id="01JD0000000000000000000000"} 0.902 ' in page
