"""The client leaves, at every moment: the upstream is let go, and the line says so (B2, B4, B5,
B9)."""

from __future__ import annotations

import pytest

from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    GATE,
    SSE_HEAD,
    STALL,
    chunk,
    completion,
    delta,
    head,
    hello,
    reply,
    send,
    stream,
)

BODIES = pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])


def ask(raw: Raw, model: str, *, streaming: bool) -> Answer:
    return raw.ask(CHAT, chat(model, stream=streaming))


@pytest.mark.parametrize("how", ["close", "reset"])
@BODIES
def test_client_leaves_before_the_head(
    house: Gateway, up: Scripted, streaming: bool, how: str
) -> None:
    """B2, B5: nothing is kept, so the upstream is let go; nothing but the leaving could end it."""
    model = up.play([STALL])
    with Raw(house.address) as raw:
        raw.send(request(CHAT, chat(model, stream=streaming)))
        up.wait(model, "body")
        getattr(raw, how)()
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (499, "client_disconnect")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_leaves_in_mid_stream(house: Gateway, up: Scripted, how: str) -> None:
    """B2, B5: the line says how much was delivered."""
    model = up.play([*stream([delta("Hel"), delta("lo")], close=False), STALL])
    with Raw(house.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        events = Events(raw)
        got = events.next() + events.next()
        getattr(raw, how)()
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(id=events.head.id)
    assert (line["status"], line["outcome"]) == (200, "client_disconnect")
    assert line["bytes_out"] == len(got)


def test_client_leaves_while_the_upstream_pours(house: Gateway, up: Scripted) -> None:
    """Leaving under back-pressure, with everything full, lets go too (B9: and quietly)."""
    piece = chunk(delta("x" * 100_000))
    model = up.play([send(SSE_HEAD), ("bulk", piece, 1000), STALL])
    with Raw(house.address, receive_buffer=8192) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        events = Events(raw)
        events.next()
        raw.reset()
    seen = up.wait(model, "ended")
    assert seen.ended == "client_closed" and seen.sent < 1000 * len(piece)
    assert house.line(id=events.head.id)["outcome"] == "client_disconnect"


def test_client_leaves_in_mid_json(house: Gateway, up: Scripted) -> None:
    first = head(headers=[("Content-Type", "application/json"), ("Content-Length", "9000000")])
    model = up.play([send(first + b"x" * 4_000_000), STALL])
    with Raw(house.address) as raw:
        raw.send(request(CHAT, chat(model)))
        assert raw.head().status == 200
        raw.exactly(1_000_000)
    assert up.wait(model, "ended").ended == "client_closed"
    assert house.line(model=model)["outcome"] == "client_disconnect"


@BODIES
def test_client_leaves_after_the_last_byte(house: Gateway, up: Scripted, streaming: bool) -> None:
    """B4: who has read the end had a success, however it leaves."""
    model = up.play(stream(hello()) if streaming else reply(completion()))
    with Raw(house.address) as raw:
        answer = ask(raw, model, streaming=streaming)
        raw.reset()
    line = house.line(id=answer.id)
    assert (line["status"], line["outcome"]) == (200, "ok")
    assert line["bytes_out"] == len(answer.body)


def test_client_leaves_between_usage_and_terminator(house: Gateway, up: Scripted) -> None:
    """B4, the race: the answer and its usage were there, only [DONE] was not."""
    *events, done = hello()
    model = up.play([*stream(events, close=False), GATE, send(chunk(done) + chunk(b""))])
    with Raw(house.address) as raw:
        asking = chat(model, stream=True, stream_options={"include_usage": True})
        raw.send(request(CHAT, asking))
        got = Events(raw)
        assert [got.next() for _ in events] == events
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(id=got.head.id)
    assert (line["outcome"], line["prompt_tokens"]) == ("ok", 11)


def test_client_leaves_in_the_middle_of_its_request(house: Gateway) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with Raw(house.address) as raw:
        raw.send(
            request(CHAT, chat("echo"), [("traceparent", f"00-{trace}-00f067aa0ba902b7-01")])[:-5]
        )
    line = house.line(trace=trace)
    assert (line["status"], line["outcome"]) == (499, "client_disconnect")


def test_many_clients_leave_at_every_moment(house: Gateway, up: Scripted) -> None:
    """B1 over a sweep: after each number of events, one line each, and every upstream socket is
    free."""
    events = hello()
    models = []
    for stop in range(len(events)):
        model = up.play(stream(events, paced=True))
        models.append(model)
        with Raw(house.address) as raw:
            raw.send(request(CHAT, chat(model, stream=True)))
            up.wait(model, "body")
            up.go(model, stop)
            if stop:
                got = Events(raw)
                assert [got.next() for _ in range(min(stop, 4))] == events[: min(stop, 4)]
    for model in models:
        assert up.wait(model, "ended").ended == "client_closed"
        assert house.line(model=model)["outcome"] in ("client_disconnect", "ok")
