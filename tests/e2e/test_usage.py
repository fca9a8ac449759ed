"""Usage on every answer, however it is framed, placed or mangled, and never at the cost of the
client's bytes (A1-A11)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    DONE,
    USAGE,
    completion,
    delta,
    error,
    event,
    finish,
    hello,
    reply,
    stream,
    usage_event,
)

ASKED = {"stream_options": {"include_usage": True}}


def usage(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    } | more


def framed(events: list[bytes], framing: str) -> bytes:
    body = b"".join(events)
    if framing == "crlf":
        return body.replace(b"\n", b"\r\n")
    if framing == "cr":
        return body.replace(b"\n", b"\r")
    if framing == "no-space":
        return body.replace(b"data: ", b"data:")
    if framing == "fields":
        return b": ping\n\n" + body.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: ")
    if framing == "no-last-line":
        return body.rstrip(b"\n")
    return body


@pytest.mark.parametrize("framing", ["lf", "crlf", "cr", "no-space", "fields", "no-last-line"])
def test_framings(raw: Raw, house: Gateway, up: Scripted, framing: str) -> None:
    """A5, A6: the same usage; the bytes of who asked for usage are exactly the upstream's (K1)."""
    body = framed(hello(), framing)
    model = up.play(stream([body]))
    answer = raw.ask(CHAT, chat(model, stream=True, **ASKED))
    assert answer.body == body
    line = house.line(id=answer.id)
    assert (line["outcome"], line["prompt_tokens"], line["completion_tokens"]) == ("ok", 11, 7)


@pytest.mark.parametrize("framing", ["lf", "crlf", "cr", "no-space", "fields"])
def test_hidden_usage_in_every_framing(
    raw: Raw, house: Gateway, up: Scripted, framing: str
) -> None:
    """A3: the injected event goes, the rest stays byte for byte."""
    model = up.play(stream([framed(hello(), framing)]))
    answer = raw.ask(CHAT, chat(model, stream=True))
    assert answer.body == framed(hello(usage=False), framing)
    assert house.line(id=answer.id)["prompt_tokens"] == 11


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([delta("Hi"), finish(usage=usage(3, 4)), DONE], (3, 4)),
        ([delta("H", usage=usage(3, 1)), delta("i", usage=usage(3, 2)), finish(), DONE], (3, 2)),
        ([delta("Hi"), finish(), usage_event(usage(0, 0)), DONE], (0, 0)),
        ([delta("Hi"), finish(), usage_event(usage(5, 6)), usage_event(usage(7, 8)), DONE], (7, 8)),
        ([delta("Hi", usage=None), finish(), usage_event(usage(2**40, 1)), DONE], (2**40, 1)),
    ],
    ids=["in-finish", "cumulative", "zeros", "last-wins", "large"],
)
def test_where_usage_stands(
    raw: Raw, house: Gateway, up: Scripted, events: list[bytes], expected: tuple[int, int]
) -> None:
    """A8, A9: zeros are zeros, the last one wins, chunks are not summed."""
    model = up.play(stream(events))
    answer = raw.ask(CHAT, chat(model, stream=True, **ASKED))
    assert answer.body == b"".join(events)
    line = house.line(id=answer.id)
    assert (line["prompt_tokens"], line["completion_tokens"]) == expected
    assert line["usage_source"] == "upstream"


def test_usage_beside_content_is_never_hidden(raw: Raw, up: Scripted) -> None:
    """A3 removes the event with empty choices and nothing else."""
    events = [delta("Hi", usage=usage(3, 1)), finish(usage=usage(3, 4)), DONE]
    model = up.play(stream(events))
    assert raw.ask(CHAT, chat(model, stream=True)).body == b"".join(events)


def test_details_are_booked(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A8: cached and reasoning tokens are kept."""
    full = usage(
        20,
        9,
        prompt_tokens_details={"cached_tokens": 12},
        completion_tokens_details={"reasoning_tokens": 5},
    )
    model = up.play(reply(completion(usage=full)))
    answer = raw.ask(CHAT, chat(model))
    line = house.line(id=answer.id)
    assert (line["cached_tokens"], line["reasoning_tokens"]) == (12, 5)


@pytest.mark.parametrize(
    "odd",
    [
        "many", 7, [], True, {"prompt_tokens": "x"},
        {"prompt_tokens": -1, "completion_tokens": 1.5},
        {"prompt_tokens": 10**400}, {"prompt_tokens": None}, {"prompt_tokens_details": 3},
    ],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True])
def test_malformed_usage_hurts_nobody(
    raw: Raw, house: Gateway, up: Scripted, odd: object, streaming: bool
) -> None:
    """A11."""
    events = [delta("Hi"), finish(), usage_event(odd), DONE]
    body = b"".join(events) if streaming else json.dumps(completion(usage=odd)).encode()
    model = up.play(stream(events) if streaming else reply(body))
    answer = raw.ask(CHAT, chat(model, stream=streaming, **ASKED))
    assert (answer.status, answer.body) == (200, body)
    assert house.line(id=answer.id)["outcome"] == "ok"


@pytest.mark.parametrize(
    "strange",
    [
        event(choices=None),
        event(),
        event(choices=[None]),
        event(choices=[{"index": 0, "delta": None, "finish_reason": None}]),
        event(choices=[{"delta": {"content": 5}}]),
        event(choices={"0": {}}),
        b"data: {\n\n",
        b"data: \xff\xfe\n\n",
        b"data: " + b"[" * 50_000 + b"\n\n",
        b"data: null\n\n",
        b"data:\n\n",
        b"event: ping\ndata: {}\n\n",
        b": OPENROUTER PROCESSING\n\n",
    ],
)
def test_strange_events_pass(raw: Raw, house: Gateway, up: Scripted, strange: bytes) -> None:
    """A4, J2: no choices, null delta, unknown objects, comments, no JSON at all."""
    events = [delta("Hi"), strange, finish(), usage_event(), DONE]
    model = up.play(stream(events))
    answer = raw.ask(CHAT, chat(model, stream=True, **ASKED))
    assert answer.body == b"".join(events)
    line = house.line(id=answer.id)
    assert (line["outcome"], line["prompt_tokens"]) == ("ok", 11)


def test_no_usage_at_all(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A7, A10: the line says that it has none."""
    model = up.play(stream(hello(usage=False)))
    line = house.line(id=raw.ask(CHAT, chat(model, stream=True)).id)
    assert line["outcome"] == "ok"
    assert line["usage_source"] in ("none", "estimated")


def test_upstream_that_refuses_the_option(start: Start, up: Scripted) -> None:
    """A2: asked once more without it, and remembered for the upstream."""
    refusal = reply(
        error("400", "bad", "Unrecognized request argument supplied: stream_options"),
        "400 Bad Request",
    )
    gateway = start()
    model = up.play(refusal, stream(hello(usage=False)))
    with Raw(gateway.address) as raw:
        answer = raw.ask(CHAT, chat(model, stream=True))
        assert answer.body == b"".join(hello(usage=False))
        first, second = up.calls(model)
        assert first.json()["stream_options"] == {"include_usage": True}
        assert second.json() == chat(model, stream=True)
        assert raw.ask(CHAT, chat(model, stream=True)).status == 200
        assert len(up.calls(model)) == 3, "the upstream's refusal was forgotten"
        assert "stream_options" not in up.calls(model)[2].json()
    lines = gateway.log.wait(2, model=model)
    assert [x["attempts"] for x in lines] == [2, 1]


def test_other_400_is_not_retried(raw: Raw, house: Gateway, up: Scripted) -> None:
    model = up.play(reply(error("400", "bad", "too long"), "400 Bad Request"))
    answer = raw.ask(CHAT, chat(model, stream=True))
    assert (answer.status, answer.json()) == (400, error("400", "bad", "too long"))
    assert len(up.calls(model)) == 1
    house.line(id=answer.id)


def test_clients_own_option_is_never_taken_away(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A client that asked itself gets the upstream's refusal to read."""
    said = error("400", "bad", "Unrecognized request argument supplied: stream_options")
    model = up.play(reply(said, "400 Bad Request"))
    answer = raw.ask(CHAT, chat(model, stream=True, **ASKED))
    assert (answer.status, answer.json()) == (400, said)
    assert len(up.calls(model)) == 1


def test_injection_is_switchable(start: Start, up: Scripted) -> None:
    """A2: `inject_usage: false` leaves the body alone."""
    config = config_for(up)
    config["upstreams"][0]["inject_usage"] = False
    gateway = start(config)
    model = up.play(stream(hello()))
    with Raw(gateway.address) as raw:
        body = json.dumps(chat(model, stream=True)).encode()
        raw.ask(CHAT, body)
    assert up.wait(model, "ended").body == body
    assert gateway.line(model=model)["completion_tokens"] == USAGE["completion_tokens"]
