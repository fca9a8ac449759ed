"""Traces through a real gateway into a collector: hit, miss, stream, error, what goes upstream,
and what must not go out (issue 6, "Traces")."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.cached import metric
from tests.e2e.conftest import OWN_TOKEN, PROVIDER_KEY, Start, caching_config, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat
from tests.scripted.client import Scripted
from tests.scripted.replies import CUT, completion, delta, error, hello, reply, stream
from tests.traces.collector import Collector

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "rojo=1")]
KEY = "canary-collector-key-41fe"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def traced(
    collector: Collector, up: Scripted, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = caching_config(up) | {
        "upstreams": config_for(up, closed_port)["upstreams"],
        "traces": {"endpoint": collector.url, "headers": {"X-Key": KEY}},
    }
    with Gateway(tmp_path_factory.mktemp("traced"), config) as running:
        yield running


def trace_of(gateway: Gateway, id: str) -> str:
    trace = gateway.line(id=id)["trace"]
    assert isinstance(trace, str)
    return trace


def test_a_miss_then_a_hit(traced: Gateway, collector: Collector, up: Scripted) -> None:
    """A hit makes no client span; the miss's is the upstream's parent."""
    model = up.play(reply(completion()))
    with Raw(traced.address) as raw:
        miss = raw.ask(CHAT, chat(model), headers=[("x-gateway-tags", "team=blue")])
        hit = raw.ask(CHAT, chat(model))
    assert [a.header("x-gateway-cache") for a in (miss, hit)] == ["miss", "hit"]
    spans = collector.trace(trace_of(traced, miss.id), 3)
    server, look_up, client = (spans[kind] for kind in ("server", "internal", "client"))
    assert (server.parent, look_up.parent, client.parent) == ("", server.id, server.id)
    assert server.name == "POST /v1/chat/completions"
    assert client.name == f"chat {model}"
    assert server.start <= look_up.start <= look_up.end <= client.start <= client.end <= server.end
    assert not any(span.error for span in spans.values())
    assert server.attributes["gateway.request.id"] == miss.id
    assert server.attributes["gateway.tag.team"] == "blue"
    assert client.attributes["gen_ai.provider.name"] == "open"
    assert client.attributes["gen_ai.usage.input_tokens"] > 0
    sent = up.wait(model, "ended")
    assert sent.header("traceparent") == f"00-{server.trace}-{client.id}-01"
    assert sent.header("tracestate") is None

    spans = collector.trace(trace_of(traced, hit.id), 2)
    assert spans["server"].attributes["gateway.cache.status"] == "hit"
    assert spans["server"].attributes["gateway.saved.tokens"] > 0
    assert spans["internal"].attributes["gateway.cache.status"] == "hit"


def test_a_stream_in_the_callers_trace(traced: Gateway, collector: Collector, up: Scripted) -> None:
    """The openai client's own headers: its trace goes on, through us, to the upstream."""
    model = up.play(stream(hello()))
    with openai.OpenAI(base_url=traced.v1, api_key=OWN_TOKEN, max_retries=0) as client:
        list(
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                extra_headers=dict(PARENT),
            )
        )
    spans = collector.trace(TRACE, 3)
    assert spans["server"].parent == SPAN
    assert {span.state for span in spans.values()} == {"rojo=1"}
    said = spans["client"].attributes
    assert said["gen_ai.request.stream"] is True
    assert said["gen_ai.response.time_to_first_chunk"] >= 0
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    sent = up.wait(model, "ended")
    assert sent.header("traceparent") == f"00-{TRACE}-{spans['client'].id}-01"
    assert sent.header("tracestate") == "rojo=1"


def test_an_upstreams_refusal_is_the_calls_error(
    traced: Gateway, collector: Collector, up: Scripted
) -> None:
    """recording-errors.md: a 4xx passed on is no error of ours, and one of the call."""
    model = up.play(reply(error("429", "rate_limit_exceeded"), status="429 Too Many Requests"))
    with Raw(traced.address) as raw:
        answer = raw.ask(CHAT, chat(model))
    assert answer.status == 429
    spans = collector.trace(trace_of(traced, answer.id), 3)
    assert spans["client"].error and not spans["server"].error
    assert spans["client"].attributes["error.type"] == "upstream_429"


def test_a_stream_that_breaks_off_is_both_spans_error(
    traced: Gateway, collector: Collector, up: Scripted
) -> None:
    model = up.play([*stream([delta("He")])[:-1], CUT])
    with Raw(traced.address) as raw:
        answer = raw.ask(CHAT, chat(model, stream=True))
    assert answer.status == 200
    spans = collector.trace(trace_of(traced, answer.id), 3)
    assert spans["client"].error and spans["server"].error
    assert spans["server"].attributes["gateway.outcome"] == "upstream_truncated"


def test_nobody_there_is_an_error(traced: Gateway, collector: Collector) -> None:
    with Raw(traced.address) as raw:
        answer = raw.ask(CHAT, chat("down-model"))
    assert answer.status == 502
    spans = collector.trace(trace_of(traced, answer.id), 3)
    assert spans["server"].attributes["error.type"] == "upstream_error"
    assert spans["server"].attributes["http.response.status_code"] == 502


def test_a_caller_who_does_not_record_is_not_recorded(
    traced: Gateway, collector: Collector, up: Scripted
) -> None:
    """Its decision goes on to the upstream; the log has the trace's id all the same."""
    model = up.play(reply(completion()))
    trace = "ab" * 16
    with Raw(traced.address) as raw:
        answer = raw.ask(CHAT, chat(model), headers=[("traceparent", f"00-{trace}-{SPAN}-00")])
        assert trace_of(traced, answer.id) == trace
        later = raw.ask(CHAT, chat("echo"))
    collector.trace(trace_of(traced, later.id), 3)
    assert trace not in {span.trace for span in collector.spans}
    sent = up.wait(model, "ended").header("traceparent")
    assert sent is not None
    assert re.fullmatch(rf"00-{trace}-(?!{SPAN})[0-9a-f]{{16}}-00", sent)


def test_a_stranger_makes_no_span(traced: Gateway, collector: Collector) -> None:
    with Raw(traced.address) as raw:
        refused = raw.ask(
            CHAT, chat("echo"), headers=[("Authorization", "Bearer gw_nobody"), PARENT[0]]
        )
        later = raw.ask(CHAT, chat("echo"))
    assert refused.status == 401
    collector.trace(trace_of(traced, later.id), 2 if later.header("age") else 3)
    ids = {span.attributes.get("gateway.request.id") for span in collector.spans}
    assert later.id in ids
    assert refused.id not in ids


def test_no_content_and_no_secret_goes_out(
    traced: Gateway, collector: Collector, up: Scripted
) -> None:
    """G7: prompts, tool arguments, answers, errors, keys; the collector's own key in no log."""
    asked, answered, failed = "canary-of-a-prompt", "canary-of-an-answer", "canary-of-an-error"
    good = up.play(reply(completion(answered)), prefix="shared")
    bad = up.play(reply(error("400", "nope", failed), status="400 Bad Request"), prefix="own")
    tools = [{"type": "function", "function": {"name": "canary-of-a-tool"}}]
    body = {"messages": [{"role": "user", "content": asked}], "user": "canary-of-a-user"}
    with Raw(traced.address) as raw:
        for model in (good, bad, good):
            last = raw.ask(
                f"{CHAT}?q=canary-of-a-query",
                chat(model) | body | {"tools": tools},
                headers=[("Authorization", f"Bearer {OWN_TOKEN}"), ("X-Any", "canary-of-a-header")],
            )
    collector.trace(trace_of(traced, last.id), 2)
    assert b"gen_ai.operation.name" in collector.raw
    assert b"canary" not in collector.raw
    for secret in (OWN_TOKEN, PROVIDER_KEY, asked, answered, failed):
        assert secret.encode() not in collector.raw
    assert KEY not in traced.stderr.text + traced.stdout.text
    assert collector.requests[0][1]["x-key"] == KEY
    assert metric(traced, "gateway_trace_spans_total", result="exported") > 0


def test_off_the_callers_headers_pass(house: Gateway, raw: Raw, up: Scripted) -> None:
    model = up.play(reply(completion()))
    answer = raw.ask(CHAT, chat(model), headers=PARENT)
    sent = up.wait(model, "ended")
    assert [(name, sent.header(name)) for name, _ in PARENT] == PARENT
    assert house.line(id=answer.id)["trace"] == TRACE


def test_a_dead_collector_hurts_neither_a_request_nor_the_stop(
    start: Start, up: Scripted, closed_port: int
) -> None:
    """One line says it; what ends the test would fail if the stop took long or badly."""
    traces = {"endpoint": f"http://127.0.0.1:{closed_port}", "timeout": "60s"}
    gateway = start(config_for(up) | {"traces": traces})
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200
        gateway.stderr.until(lambda lines: [line for line in lines if "Transient error" in line])
        for _ in range(3):
            assert raw.ask(CHAT, chat("echo")).status == 200
    gateway.process.terminate()
    assert gateway.process.wait(20) == 0
    assert sum("spans batch" in line for line in gateway.stderr.all) == 1


# Without the extra --------------------------------------------------------------------------------

BARE = "import sys; sys.modules['opentelemetry'] = None; from gateway.cli import main; main()"


@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_endpoint_without_the_extra_says_what_to_install(tmp_path: Path, command: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("traces:\n  endpoint: http://127.0.0.1:4318\n")
    done = subprocess.run(
        [sys.executable, "-c", BARE, command, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "c.yaml:2: traces.endpoint: needs the extra gateway[otel]" in done.stderr
    assert "pip install '.[otel]'" in done.stderr
    assert not (tmp_path / "data").exists()


def test_off_nothing_of_it_is_loaded() -> None:
    code = "import sys, gateway.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "gateway" in loaded
    assert not loaded & {"opentelemetry", "requests", "google"}
