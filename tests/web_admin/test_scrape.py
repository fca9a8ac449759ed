"""The metrics page: valid in both formats, whole, made off the loop, shared (M4, M7)."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.exchange import Caller, CallerKind
from gateway.metrics import TABLE, Metrics, standard_registry
from gateway.web import scrape
from gateway.web.scrape import MetricsPage, wants_openmetrics
from tests.exchanges import CALLER, FixedClock, exchange

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def metrics(clock) -> Metrics:
    return Metrics(standard_registry(), clock)


@pytest.fixture
def page(metrics) -> MetricsPage:
    return MetricsPage(metrics)


def families(text: bytes, newer: bool):
    read = read_openmetrics if newer else read_text
    return {family.name: family for family in read(text.decode())}


@pytest.mark.parametrize(("accept", "newer"), [("", False), (PROMETHEUS, True)])
async def test_every_family_stands_with_help_and_type_before_anything_happened(page, accept, newer):
    text, kind = await page.scrape(accept)
    assert kind.startswith("application/openmetrics-text" if newer else "text/plain; version=0.0.4")
    found = families(text, newer)
    for spec in TABLE:
        written = spec.name.removesuffix("_total") if newer else spec.name
        assert f"# TYPE {written} {spec.type}\n" in text.decode()
        assert f"# HELP {written} {spec.help}\n" in text.decode()
        family = found[spec.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (spec.type, spec.help)
    assert {"process_resident_memory_bytes", "process_open_fds"} <= found.keys()


@pytest.mark.parametrize(("accept", "newer"), [("", False), (PROMETHEUS, True)])
async def test_the_page_says_what_was_counted(page, metrics, accept, newer):
    metrics.configure(models=["gpt-4o"], aliases=[])
    for _ in range(3):
        metrics.book(exchange())
    metrics.watch("gateway_requests_in_flight", lambda: 5)
    text, _ = await page.scrape(accept)
    samples = [sample for family in families(text, newer).values() for sample in family.samples]
    values = {(s.name, *sorted(s.labels.items())): s.value for s in samples}
    labels = dict(endpoint="chat/completions", model="gpt-4o", code="200", cache="bypass")
    assert values["gateway_requests_total", *sorted(labels.items())] == 3
    assert values["gateway_requests_in_flight",] == 5
    duration = [s for s in samples if s.name == "gateway_request_duration_seconds_bucket"]
    assert [s.value for s in duration] == [0] * 7 + [3] * 10  # 0.902 s is within 1 s
    assert duration[-1].labels["le"] == "+Inf"
    [total] = [s.value for s in samples if s.name == "gateway_request_duration_seconds_sum"]
    assert total == pytest.approx(3 * 0.902)


@pytest.mark.parametrize("newer", [False, True])
async def test_odd_names_leave_the_page_valid(page, metrics, newer):
    """And what is not printable is no label at all."""
    for name in ('say "hi"', "back\\slash", "数学", "a{b}", "x,y=z", "line\nend", "\ud800", ""):
        caller = Caller(CallerKind.PASSTHROUGH, "id", name.encode("utf-8", "replace").decode(), "t")
        metrics.book(exchange(model=name, caller=caller))
    text, _ = await page.scrape(PROMETHEUS if newer else "")
    found = families(text, newer)["gateway_requests"].samples
    assert {s.labels["model"] for s in found if s.name.endswith("_total")} == {
        'say "hi"', "back\\slash", "数学", "a{b}", "x,y=z", "", "other",
    }  # fmt: skip


async def test_no_secret_on_the_page(page, metrics):
    """G7, M7: names only."""
    metrics.book(exchange())
    text, _ = await page.scrape("")
    assert b"canary" not in text
    assert CALLER.id.encode() not in text


@pytest.mark.parametrize(
    ("accept", "newer"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("APPLICATION/OpenMetrics-Text ; version=1.0.0", True),
        ("application/openmetrics-text;q=0, text/plain", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        (";;;,,,=", False),
    ],
)
def test_the_format_is_what_was_asked_for(accept, newer):
    assert wants_openmetrics(accept) is newer


# Off the loop, once, for all --------------------------------------------------------------------


class Gate:
    """A collector that keeps the renderer waiting and says in which thread it runs."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.threads: list[int] = []

    def collect(self):
        self.threads.append(threading.get_ident())
        assert self.open.wait(30)
        return []


async def test_the_page_is_made_off_the_loop_and_shared_by_all_who_wait(page, metrics, clock):
    gate = Gate()
    metrics.registry.register(gate)
    waiting = [asyncio.create_task(page.scrape("")) for _ in range(20)]
    while not gate.threads:
        await asyncio.sleep(0)  # the loop runs on: it is another thread that waits
    clock.seconds += 10  # slower than a page stays fresh: still the one page
    waiting.append(asyncio.create_task(page.scrape("")))
    await asyncio.sleep(0)
    gate.open.set()
    pages = {(await task)[0] for task in waiting}
    assert len(pages) == len(gate.threads) == 1
    assert gate.threads[0] != threading.get_ident()


async def test_who_leaves_early_takes_the_page_from_nobody(page, metrics):
    gate = Gate()
    metrics.registry.register(gate)
    leaves, stays = (asyncio.create_task(page.scrape("")) for _ in range(2))
    while not gate.threads:
        await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    gate.open.set()
    assert b"gateway_build_info" in (await stays)[0]


async def test_a_page_serves_for_a_second(page, metrics, clock):
    first, _ = await page.scrape("")
    metrics.book(exchange())
    clock.seconds += scrape.FRESH - 0.01
    assert (await page.scrape(""))[0] is first
    assert b'code="200"' in (await page.scrape(PROMETHEUS))[0]  # the other format is its own page
    clock.seconds += 0.02
    assert b'code="200"' in (await page.scrape(""))[0]


async def test_a_page_that_failed_is_tried_again(page, metrics, clock):
    class Broken:
        def collect(self):
            raise RuntimeError("broken")

    broken = Broken()
    metrics.registry.register(broken)
    with pytest.raises(RuntimeError):
        await page.scrape("")
    metrics.registry.unregister(broken)
    clock.seconds += scrape.FRESH
    assert b"gateway_build_info" in (await page.scrape(""))[0]
