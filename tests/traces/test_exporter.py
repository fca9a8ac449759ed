"""The exporter beside a collector that takes, refuses, hangs, or is not there (G2's rule: a sink
never hurts a request)."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.config import Duration, Part, Secret, Traces, UpstreamSection
from gateway.exchange import CacheState, Exchange
from gateway.ports import Origin
from gateway.traces import NoTraces, names, open_traces
from gateway.traces.exporter import Exporter
from tests.exchanges import exchange
from tests.scripted.client import PATIENCE
from tests.traces.collector import Collector

PARENT = f"00-{'a' * 32}-{'d' * 16}-01"
SECRET = "canary-collector-key"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def origin(**headers: str) -> Origin:
    return Origin("POST", "x", "", list(headers.items()), "127.0.0.1")


def exporter(url: str, *, capacity: int = 4096, **more: Any) -> Exporter:
    section = Traces(endpoint=url, headers={"X-Key": Secret(SECRET)}, **more)
    upstreams = [UpstreamSection("openai", "https://api.openai.com/v1")]
    return Exporter(section, upstreams, scheme="http", instance="abcd", capacity=capacity)


def booked(traces: Exporter, **headers: str) -> Exchange:
    context = traces.begin(origin(**headers))
    done = exchange(context=context, trace=context.trace)
    traces.book(done)
    return done


def until(true: Callable[[], bool]) -> None:
    """Counts of another thread cannot be waited for."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("never")


def test_spans_arrive_with_their_ids(collector: Collector) -> None:
    traces = exporter(collector.url, service_name="front")
    done = booked(traces, traceparent=PARENT, tracestate="v=1")
    assert traces.close(PATIENCE)
    spans = collector.trace("a" * 32, 2)
    assert done.context is not None
    server, client = spans["server"], spans["client"]
    assert (server.parent, server.id) == ("d" * 16, done.context.server)
    assert (client.parent, client.id) == (server.id, done.context.client)
    assert {span.state for span in spans.values()} == {"v=1"}
    assert server.resource["service.name"] == "front"
    assert server.resource["service.instance.id"] == "abcd"
    assert server.scope == ("gateway", names.SCHEMA_URL)
    assert client.attributes[names.ADDRESS] == "api.openai.com"
    [(path, headers)] = collector.requests
    assert path == "/v1/traces"
    assert headers["x-key"] == SECRET
    assert headers["content-encoding"] == "gzip"
    assert (traces.exported, traces.failed, traces.dropped) == (2, 0, 0)


def test_a_request_without_a_parent_begins_a_trace(collector: Collector) -> None:
    traces = exporter(collector.url)
    one, other = booked(traces), booked(traces)
    assert traces.close(PATIENCE)
    assert one.trace and other.trace and one.trace != other.trace
    assert collector.trace(one.trace, 2)["server"].parent == ""
    assert len({span.id for span in collector.spans}) == 4


def test_each_look_up_has_an_id_of_its_own(collector: Collector) -> None:
    traces = exporter(collector.url)
    for _ in range(3):
        done = exchange(context=traces.begin(origin()), cache=CacheState.HIT, attempts=0)
        traces.book(done)
    timings = type(done.timings)(admitted=1.0, looked_up=2.0)
    traces.book(exchange(context=traces.begin(origin()), attempts=0, timings=timings))
    traces.book(exchange(context=traces.begin(origin()), attempts=0, timings=timings))
    assert traces.close(PATIENCE)
    ids = [span.id for span in collector.spans if span.kind == "internal"]
    assert len(set(ids)) == 2
    assert "0" * 16 not in ids


def test_the_sample_may_change_while_it_runs(collector: Collector) -> None:
    traces = exporter(collector.url, sample=Part(0.0))
    booked(traces)
    booked(traces, traceparent=PARENT)  # its caller has decided
    traces.reconfigure(Traces(endpoint=collector.url, sample=Part(1.0)), [])
    last = booked(traces)
    assert traces.close(PATIENCE)
    assert {span.trace for span in collector.spans} == {"a" * 32, last.trace}


def test_a_state_that_is_none_costs_nothing_and_is_not_logged(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    traces = exporter(collector.url)
    booked(traces, traceparent=PARENT, tracestate="canary of a client, \x7f=;")
    assert traces.close(PATIENCE)
    assert {span.state for span in collector.trace("a" * 32, 2).values()} == {""}
    assert not caplog.records


def test_a_full_queue_drops_and_counts(collector: Collector) -> None:
    """While an export hangs, `book` returns all the same."""
    collector.gate.clear()
    traces = exporter(collector.url, capacity=3)
    booked(traces)
    collector.asked(1)
    for _ in range(5):
        booked(traces)
    assert traces.waiting == 3
    assert traces.dropped == 2 * 2
    collector.gate.set()
    assert traces.close(PATIENCE)
    assert traces.exported == len(collector.spans) == 4 * 2
    booked(traces)
    assert traces.dropped == 3 * 2  # closed


def test_a_collector_that_hangs_does_not_hold_the_stop(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.gate.clear()
    traces = exporter(collector.url)
    booked(traces)
    collector.asked(1)
    assert not traces.close(0.05)
    assert "stopped before" in caplog.text
    collector.gate.set()
    traces._thread.join(PATIENCE)
    assert not traces._thread.is_alive()


def test_a_collector_that_refuses_is_told_of_once(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key stands in no line."""
    collector.status = 401
    traces = exporter(collector.url)
    traces._hurry.set()  # one export for each
    for number in (1, 2, 3):
        booked(traces)
        collector.asked(number)
    traces.close(PATIENCE)
    traces._thread.join(PATIENCE)
    assert sum("401" in record.getMessage() for record in caplog.records) == 1
    assert traces.failed == 6
    assert SECRET not in caplog.text


def test_when_it_is_well_again_that_is_said(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 401
    traces = exporter(collector.url)
    traces._hurry.set()
    booked(traces)
    until(lambda: traces.failed == 2)
    collector.status = 200
    booked(traces)
    until(lambda: traces.exported == 2)
    assert traces.close(PATIENCE)
    assert sum("again" in record.getMessage() for record in caplog.records) == 1


def test_nobody_there_is_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Refused connections are tried again until the stop, which does not wait for them."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        traces = exporter(f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=Duration(60))
        traces._hurry.set()
        with caplog.at_level(logging.WARNING):
            booked(traces)
            assert not traces.close(0.2) or traces.failed == 2
        traces._thread.join(PATIENCE)
        assert not traces._thread.is_alive()
    assert traces.failed == 2


def test_an_odd_exchange_costs_its_own_spans_only(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    traces = exporter(collector.url)
    odd: Any = "not a number"
    traces.book(exchange(context=traces.begin(origin()), at=odd))
    good = booked(traces)
    assert traces.close(PATIENCE)
    assert {span.trace for span in collector.spans} == {good.trace}
    assert traces.failed == 2
    assert "no spans" in caplog.text


def test_a_redirect_does_not_take_the_key_along_and_is_a_failure(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 307
    traces = exporter(collector.url)
    booked(traces)
    traces.close(PATIENCE)
    traces._thread.join(PATIENCE)
    assert (traces.failed, traces.exported) == (2, 0)
    assert len(collector.requests) == 1
    assert "redirected (307)" in caplog.text


def test_the_key_is_not_taken_from_netrc(
    collector: Collector, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    traces = exporter(collector.url)
    booked(traces)
    assert traces.close(PATIENCE)
    assert "authorization" not in collector.requests[0][1]


def test_off_is_an_object_that_does_nothing() -> None:
    traces = open_traces(Traces(), [], scheme="http", instance="x")
    assert isinstance(traces, NoTraces)
    assert traces.begin(origin(traceparent=PARENT)) is None  # type: ignore[func-returns-value]
    traces.book(exchange())
    traces.reconfigure(Traces(), [])
    assert traces.close(0)
    assert traces.exported == traces.failed == traces.dropped == traces.waiting == 0
