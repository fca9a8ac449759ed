"""Whatever the upstream does, the client hears of it, and there is one line with the outcome.

B11-B14, I3-I4, J5.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Cut, Events, Raw, chat, request
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import (
    CUT,
    DONE,
    GATE,
    POISON,
    RESET,
    SSE_HEAD,
    STALL,
    chunk,
    completion,
    delta,
    error,
    finish,
    head,
    hello,
    reply,
    send,
    stream,
    usage_event,
)

BODIES = pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])


def ask(raw: Raw, model: str, *, streaming: bool) -> Answer:
    return raw.ask(CHAT, chat(model, stream=streaming))


# The upstream fails before its head ---------------------------------------------------------------


@BODIES
@pytest.mark.parametrize(
    "steps",
    [
        [CUT],
        [RESET],
        [send(b"HTTP/1.1 200"), CUT],
        [send(b"this is not HTTP at all\r\n\r\n"), CUT],
        [send(b"\x16\x03\x01\x02\x00"), CUT],
        [send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), CUT],
        [send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"), CUT],
    ],
    ids=["cut", "reset", "half-status-line", "garbage", "tls", "two-lengths", "huge-header"],
)
def test_no_head_is_502(
    raw: Raw, house: Gateway, up: Scripted, steps: Sequence[Step], streaming: bool
) -> None:
    model = up.play(steps)
    answer = ask(raw, model, streaming=streaming)
    answer.error(502, "upstream_error")
    line = house.line(id=answer.id)
    assert (line["status"], line["outcome"], line["error"]) == (
        502,
        "upstream_error",
        "upstream_error",
    )
    assert all(call.nth > 0 for call in up.calls(model)[:-1]), (
        "sent again, and not on a stale connection"
    )
    assert ask(raw, "echo", streaming=streaming).status == 200, "the client's connection lives on"


@BODIES
def test_refused_is_502(raw: Raw, house: Gateway, streaming: bool) -> None:
    answer = ask(raw, "down-2", streaming=streaming)
    answer.error(502, "upstream_error")
    assert house.line(id=answer.id)["outcome"] == "upstream_error"


@BODIES
def test_silence_is_504(raw: Raw, house: Gateway, up: Scripted, streaming: bool) -> None:
    model = up.play([STALL], prefix="hasty")
    answer = ask(raw, model, streaming=streaming)
    answer.error(504, "upstream_timeout")
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(id=answer.id)
    assert (line["status"], line["outcome"]) == (504, "upstream_timeout")


@BODIES
def test_half_a_head_and_silence_is_504(
    raw: Raw, house: Gateway, up: Scripted, streaming: bool
) -> None:
    model = up.play([send(b"HTTP/1.1 200 OK\r\nContent-"), STALL], prefix="hasty")
    ask(raw, model, streaming=streaming).error(504, "upstream_timeout")
    assert house.line(model=model)["outcome"] == "upstream_timeout"


# The upstream answers with something else ---------------------------------------------------------


@BODIES
def test_web_page_with_200_is_502(raw: Raw, house: Gateway, up: Scripted, streaming: bool) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    model = up.play(reply(page, kind="text/html"))
    answer = ask(raw, model, streaming=streaming)
    answer.error(502, "upstream_error")
    assert b"Sign in" not in answer.body
    assert house.line(id=answer.id)["outcome"] == "upstream_error"


@BODIES
def test_error_inside_200_passes_and_is_booked(
    raw: Raw, house: Gateway, up: Scripted, streaming: bool
) -> None:
    """B13, K1."""
    said = json.dumps(error("200", "boom")).encode()
    model = up.play(reply(said))
    answer = ask(raw, model, streaming=streaming)
    assert (answer.status, answer.body) == (200, said)
    assert house.line(id=answer.id)["outcome"] == "upstream_in_band_error"


@BODIES
@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "429 Odd", "500 Oh"])
def test_error_status_passes(
    raw: Raw, house: Gateway, up: Scripted, streaming: bool, status: str
) -> None:
    """K4: status and body are the upstream's, also where the body is no JSON."""
    model = up.play(reply(b"<h1>no</h1>", status, kind="text/html"))
    answer = ask(raw, model, streaming=streaming)
    assert (answer.status, answer.body) == (int(status[:3]), b"<h1>no</h1>")
    line = house.line(id=answer.id)
    assert (line["status"], line["outcome"]) == (int(status[:3]), "upstream_status")


@BODIES
def test_redirect_is_never_followed(
    raw: Raw, house: Gateway, up: Scripted, streaming: bool
) -> None:
    """K3: a credential does not travel to where an upstream points."""
    target = up.play(reply(completion()))
    model = up.play(reply(b"", "302 Found", [("Location", f"{up.url}/chat/{target}")]))
    answer = ask(raw, model, streaming=streaming)
    assert answer.status in (302, 502)
    assert up.calls(target) == [] and len(up.calls(model)) == 1
    house.line(id=answer.id)


def test_json_for_a_stream_request_passes_as_json(raw: Raw, house: Gateway, up: Scripted) -> None:
    """J5: the answer's content type decides, not what was asked."""
    said = json.dumps(completion()).encode()
    model = up.play(reply(said))
    answer = ask(raw, model, streaming=True)
    assert (answer.body, answer.header("content-type")) == (said, "application/json")
    line = house.line(id=answer.id)
    assert (line["outcome"], line["prompt_tokens"]) == ("ok", 11)


def test_stream_for_a_json_request_passes_as_stream(raw: Raw, house: Gateway, up: Scripted) -> None:
    """J5, the other way round."""
    model = up.play(stream(hello()))
    answer = ask(raw, model, streaming=False)
    assert (answer.header("content-type") or "").startswith("text/event-stream")
    assert answer.body.endswith(DONE)
    assert house.line(id=answer.id)["outcome"] == "ok"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"{" * 100_000])
def test_odd_json_passes_unharmed(raw: Raw, house: Gateway, up: Scripted, body: bytes) -> None:
    """A11: whatever the observer makes of it, the bytes are the upstream's."""
    model = up.play(reply(body))
    answer = ask(raw, model, streaming=False)
    assert (answer.status, answer.body) == (200, body)
    house.line(id=answer.id)


@BODIES
def test_gzip_although_identity_was_asked(
    raw: Raw, house: Gateway, up: Scripted, streaming: bool
) -> None:
    """I3: the encoding was not wanted; decoded or raw, the body and its header agree."""
    plain = b"".join(hello()) if streaming else json.dumps(completion()).encode()
    kind = "text/event-stream" if streaming else "application/json"
    model = up.play(reply(gzip.compress(plain), headers=[("Content-Encoding", "gzip")], kind=kind))
    answer = ask(raw, model, streaming=streaming)
    body = answer.body
    if answer.header("content-encoding"):
        assert answer.header("content-encoding") == "gzip"
        body = gzip.decompress(body)
    if streaming and usage_event() not in body:  # the one edit of an answer (A3)
        plain = plain.replace(usage_event(), b"")
    assert (answer.status, body) == (200, plain)
    assert up.wait(model, "ended").header("accept-encoding") in (None, "identity")
    house.line(id=answer.id)


# The upstream fails after its head ----------------------------------------------------------------


def data_of(event: bytes) -> bytes:
    """The data of an event, as a client reads it: comments are nothing."""
    lines = [x for x in event.splitlines() if x and not x.startswith(b":")]
    assert all(x.startswith(b"data: ") for x in lines), event
    return b"\n".join(x.removeprefix(b"data: ") for x in lines)


def in_stream_error(events: list[bytes], code: str) -> dict[str, Any]:
    """The last event is the gateway's error, parsable, and nothing says success after it (B12)."""
    assert DONE not in events
    assert all(e.count(b"\n\n") == 1 for e in events)
    *_, last = [json.loads(data) for event in events if (data := data_of(event))]
    said = last["error"]
    assert set(said) == {"message", "type", "param", "code"} and said["code"] == code
    return dict(said)


@pytest.mark.parametrize("ending", [CUT, RESET], ids=["cut", "reset"])
@pytest.mark.parametrize(
    "said",
    [
        [],
        [delta("Hel")],
        [delta("Hel"), delta("lo")],
        [delta("Hel"), delta("lo")[:30]],
        [delta("Hel"), b"data: "],
        [delta("Hel"), delta("你好")[:-9]],
        [delta("Hel"), b": a comment\n"],
    ],
    ids=["head", "one", "two", "mid-event", "mid-field", "mid-character", "mid-comment"],
)
def test_stream_that_breaks_off(
    raw: Raw, house: Gateway, up: Scripted, said: list[bytes], ending: Step
) -> None:
    """B11, B12: what came whole arrives, then an error event; the half event does not spoil it.
    A reset may overtake bytes, so they are awaited before it."""
    model = up.play([*stream(said, close=False), GATE, ending])
    raw.send(request(CHAT, chat(model, stream=True)))
    events = Events(raw)
    whole = [x for x in said if x.endswith(b"\n\n")]
    assert [events.next() for _ in whole] == whole
    up.go(model)
    assert not in_stream_error(events.rest(), "upstream_error")["param"]
    line = house.line(id=events.head.id)
    assert (line["status"], line["outcome"]) == (200, "upstream_truncated")
    assert ask(raw, "echo", streaming=False).status == 200


def test_stream_that_ends_in_order_but_incomplete(raw: Raw, house: Gateway, up: Scripted) -> None:
    """B11: no terminator and no finish reason is a truncation, however clean the close."""
    model = up.play(stream([delta("Hel")]))
    raw.send(request(CHAT, chat(model, stream=True)))
    events = Events(raw)
    said = events.rest()
    assert said[0] == delta("Hel")
    in_stream_error(said, "upstream_error")
    assert house.line(id=events.head.id)["outcome"] == "upstream_truncated"


def test_stream_without_terminator_but_finished(raw: Raw, house: Gateway, up: Scripted) -> None:
    """B11: a finish reason on every choice and a clean end is complete; no [DONE] is invented."""
    events = [delta("Hello"), finish()]
    model = up.play(stream(events))
    answer = ask(raw, model, streaming=True)
    assert answer.body == b"".join(events)
    assert house.line(id=answer.id)["outcome"] == "ok"


def test_stream_that_falls_silent(raw: Raw, house: Gateway, up: Scripted) -> None:
    model = up.play([*stream([delta("Hel")], close=False), STALL], prefix="hasty")
    raw.send(request(CHAT, chat(model, stream=True)))
    events = Events(raw)
    said = events.rest()
    assert said[0] == delta("Hel")
    in_stream_error(said, "upstream_timeout")
    assert up.wait(model, "ended").ended == "client_closed"
    assert house.line(id=events.head.id)["outcome"] == "upstream_timeout"


def test_garbage_where_a_chunk_should_be(raw: Raw, house: Gateway, up: Scripted) -> None:
    good = send(SSE_HEAD + chunk(delta("Hel")))
    model = up.play([good, GATE, send(b"zz\r\nnot a chunk\r\n"), CUT])
    raw.send(request(CHAT, chat(model, stream=True)))
    events = Events(raw)
    assert events.next() == delta("Hel")
    up.go(model)
    in_stream_error(events.rest(), "upstream_error")
    assert house.line(id=events.head.id)["outcome"] == "upstream_truncated"


def test_stream_that_dribbles(raw: Raw, house: Gateway, up: Scripted) -> None:
    """One byte a chunk: only whole events are handed on, all of them (J1)."""
    said = b"".join([delta("你好 🌍"), finish(), DONE])
    model = up.play([send(SSE_HEAD), *(send(chunk(said[i : i + 1])) for i in range(len(said))),
                     send(chunk(b""))])  # fmt: skip
    raw.send(request(CHAT, chat(model, stream=True)))
    events = Events(raw)
    assert b"".join(events.rest()) == said
    assert house.line(id=events.head.id)["outcome"] == "ok"


def test_bytes_after_the_terminator(raw: Raw, house: Gateway, up: Scripted) -> None:
    """They do not break the next request on the connection; [DONE] stands once."""
    model = up.play(stream([*hello(), b": later\n\n", delta("ghost")]), reply(completion()))
    answer = ask(raw, model, streaming=True)
    assert answer.body.count(b"[DONE]") == 1
    assert house.line(id=answer.id)["outcome"] == "ok"
    assert ask(raw, model, streaming=False).json() == completion()


def test_bytes_after_the_answer_on_the_connection(raw: Raw, house: Gateway, up: Scripted) -> None:
    """Smuggling: bytes beyond the answer's length never become part of anybody's answer."""
    extra = reply(completion("smuggled"))[0][1]
    honest = reply(completion("honest"))[0][1]
    model = up.play([send(honest + extra)], reply(completion("second")))
    assert ask(raw, model, streaming=False).json() == completion("honest")
    assert ask(raw, model, streaming=False).json() == completion("second")


@pytest.mark.parametrize("size", [1000, 4_000_000], ids=["small", "large"])
def test_json_that_breaks_off(raw: Raw, house: Gateway, up: Scripted, size: int) -> None:
    """Either a readable 502 or a cut: never a half that looks whole."""
    first = head(headers=[("Content-Type", "application/json"), ("Content-Length", str(size))])
    model = up.play([send(first + b"x" * (size // 2)), CUT])
    try:
        ask(raw, model, streaming=False).error(502, "upstream_error")
    except Cut:
        assert size > 1000
    assert house.line(model=model)["outcome"] == "upstream_truncated"


# Retries that are safe ----------------------------------------------------------------------------


@BODIES
def test_stale_pooled_connection_is_retried_once(
    start: Start, up: Scripted, streaming: bool
) -> None:
    """I4: the upstream closed its idle socket just when the next request took it: nobody
    notices."""
    good: Sequence[Step] = stream(hello()) if streaming else reply(completion())
    warm, model = up.play([*reply(completion()), POISON]), up.play(good)
    house = start()  # a pool with that one connection
    with Raw(house.address) as raw:
        assert ask(raw, warm, streaming=False).status == 200
        answer = ask(raw, model, streaming=streaming)
    assert answer.status == 200
    (seen,) = up.calls(model)
    assert seen.connection != up.calls(warm)[0].connection and seen.nth == 0
    line = house.line(id=answer.id)
    assert (line["outcome"], line["attempts"]) == ("ok", 2)


@BODIES
@pytest.mark.parametrize("ending", [CUT, RESET], ids=["cut", "reset"])
def test_fresh_connection_is_never_retried(
    start: Start, up: Scripted, ending: Step, streaming: bool
) -> None:
    """B14's sibling: the call may have been executed and billed."""
    model = up.play([ending], reply(completion()))
    house = start()  # an empty pool
    with Raw(house.address) as raw:
        answer = ask(raw, model, streaming=streaming)
    answer.error(502, "upstream_error")
    assert len(up.calls(model)) == 1
    assert house.line(id=answer.id)["attempts"] == 1
