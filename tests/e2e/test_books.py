"""After a mix of every kind of ending, log and metrics agree to the token, and nothing is left
under way (B1, G4, F3)."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from contextlib import suppress
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Cut, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    CUT,
    STALL,
    completion,
    delta,
    error,
    hello,
    reply,
    stream,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(gateway: Gateway) -> Samples:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=20) as got:
        text = got.read().decode()
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def total(samples: Samples, name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == name)


def by(samples: Samples, name: str, label: str) -> dict[str, float]:
    found: Counter[str] = Counter()
    for (sample, labels), value in samples.items():
        if sample == name and value:
            found[dict(labels)[label]] += int(value)
    return dict(found)


def settled(gateway: Gateway, requests: int) -> Samples:
    """The metrics once they have counted all requests and none is under way."""
    waiting = threading.Event()
    for _ in range(1000):
        samples = scrape(gateway)
        if (
            total(samples, "gateway_requests_total") >= requests
            and not total(samples, "gateway_requests_in_flight")
            and not total(samples, "gateway_upstream_in_flight")
        ):
            return samples
        waiting.wait(0.01)  # a page cannot be waited for
    raise AssertionError(f"never settled: {samples}")


def test_log_and_metrics_agree(start: Start, up: Scripted, closed_port: int) -> None:
    gateway = start(config_for(up, closed_port))
    refused = reply(error("429", "rate_limit_exceeded"), "429 Too Many Requests")
    broken = [*stream([delta("Hel")], close=False), CUT]
    left: list[dict[str, Any]] = []
    ended = [
        *(chat(up.play(reply(completion()))) for _ in range(5)),
        *(chat(up.play(stream(hello())), stream=True) for _ in range(5)),
        *(chat(up.play(refused)) for _ in range(3)),
        *(chat(up.play(broken), stream=True) for _ in range(3)),
        *(chat("echo", stream=n % 2 == 0) for n in range(4)),
        *(chat("down-1"), chat("keyed-1"), chat("nobody")),
    ]
    stalled = [*stream([delta("Hel")], close=False), STALL]
    for _ in range(4):
        left.append(chat(up.play(stalled, prefix="open"), stream=True))
        left.append(chat(up.play([STALL])))
    for body in ended:
        with Raw(gateway.address) as raw, suppress(Cut):
            raw.ask(CHAT, body)
    for body in left:
        with Raw(gateway.address) as raw:
            raw.send(request(CHAT, body))
            up.wait(body["model"], "body")
            if body.get("stream"):
                Events(raw).next()
        assert up.wait(body["model"], "ended").ended == "client_closed"
    number = len(ended) + len(left)
    lines = gateway.log.wait(number)
    samples = settled(gateway, number)
    assert total(samples, "gateway_requests_total") == number
    assert by(samples, "gateway_requests_total", "code") == Counter(str(x["status"]) for x in lines)
    # Estimates have a counter of their own, and are in no sum of tokens (A10).
    told = [x for x in lines if x["usage_source"] == "upstream"]
    assert total(samples, "gateway_input_tokens_total") == sum(x["prompt_tokens"] for x in told)
    assert total(samples, "gateway_output_tokens_total") == sum(
        x["completion_tokens"] for x in told
    )
    estimated = [x for x in lines if x["usage_source"] == "estimated"]
    assert total(samples, "gateway_usage_estimated_total") == len(estimated)
    assert total(samples, "gateway_streams_open") == 0
    assert total(samples, "gateway_upstream_queued") == 0
    assert Counter(x["outcome"] for x in lines) == {
        "ok": 14,
        "upstream_status": 3,
        "upstream_truncated": 3,
        "upstream_error": 1,
        "refused": 2,
        "client_disconnect": 8,
    }
