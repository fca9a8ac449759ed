"""With the cache on, as shipped: what changes for who leaves, and that nothing changes for who
stays (B5, J4)."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.e2e.conftest import Start, config_for
from tests.e2e.raw import CHAT, Events, Raw, chat, request
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import CUT, GATE, completion, delta, hello, reply, stream


def cached(up: Scripted, **upstream: Any) -> dict[str, Any]:
    config = config_for(up)
    del config["cache"]
    config["upstreams"][0] |= upstream
    return config


def test_equal_requests_are_answered_once(start: Start, up: Scripted) -> None:
    """Byte for byte, JSON and stream, and each has its line."""
    gateway = start(cached(up))
    one, two = up.play(reply(completion())), up.play(stream(hello()))
    for model, streaming in ((one, False), (two, True)):
        with Raw(gateway.address) as raw:
            first, second = (raw.ask(CHAT, chat(model, stream=streaming)) for _ in range(2))
        assert first.body == second.body
        assert first.header("content-type") == second.header("content-type")
        assert first.header("x-gateway-cache") == "miss"
        assert second.header("x-gateway-cache") == "hit"
        assert len(up.calls(model)) == 1
        assert [x["cache"] for x in gateway.log.wait(2, model=model)] == ["miss", "hit"]


def test_each_event_is_still_handed_on_at_once(start: Start, up: Scripted) -> None:
    """J4: a stream that is being kept is no slower than one that is not."""
    gateway = start(cached(up))
    events = hello(usage=False)
    model = up.play(stream(events, paced=True))
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        got = Events(raw)
        for event in events[:3]:
            up.go(model)
            assert got.next() == event
        up.go(model, 5)
        assert got.rest() == events[3:]


def test_abandoned_answer_is_finished_and_kept(start: Start, up: Scripted) -> None:
    """B5, `on_disconnect: finish`: the client is gone, the answer comes to its end, the next one
    gets it."""
    gateway = start(cached(up))
    events = hello()
    model = up.play([*stream(events[:2], close=False), GATE, *stream(events[2:])[1:]])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        assert [Events(raw).next()] == events[:1]
    up.go(model)
    assert up.wait(model, "ended").ended == "done"
    line = gateway.line(model=model)
    assert (line["outcome"], line["completion_tokens"]) == ("client_disconnect", 7)
    with Raw(gateway.address) as raw:
        again = raw.ask(CHAT, chat(model, stream=True))
    assert again.header("x-gateway-cache") == "hit"
    assert again.body == b"".join(hello(usage=False))


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_abort_lets_go_at_once(start: Start, up: Scripted, streaming: bool) -> None:
    """B5, `on_disconnect: abort`."""
    gateway = start(cached(up, on_disconnect="abort"))
    model = up.play([*(stream([delta("Hel")], close=False) if streaming else []), ("stall",)])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=streaming)))
        up.wait(model, "body")
        if streaming:
            assert Events(raw).next() == delta("Hel")
    assert up.wait(model, "ended").ended == "client_closed"
    assert gateway.line(model=model)["outcome"] == "client_disconnect"


def test_broken_answers_are_not_kept(start: Start, up: Scripted) -> None:
    """B11: asked again, the upstream is asked again."""
    gateway = start(cached(up))
    model = up.play([*stream([delta("Hel")], close=False), CUT], stream(hello()))
    with Raw(gateway.address) as raw:
        raw.ask(CHAT, chat(model, stream=True))
        whole = raw.ask(CHAT, chat(model, stream=True))
    assert whole.body == b"".join(hello(usage=False))
    assert len(up.calls(model)) == 2


def test_stop_waits_for_no_abandoned_answer_beyond_the_drain_time(
    start: Start, up: Scripted
) -> None:
    """L1: nobody waits for it any more; the stop does not hang on it."""
    gateway = start(cached(up) | {"server": {"drain_timeout": "300ms"}})
    model = up.play([("stall",)])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model)))
        up.wait(model, "body")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(PATIENCE) == 0
    assert up.wait(model, "ended").ended == "client_closed"
    assert len(gateway.log.wait(model=model)) == 1
