"""What is never kept, counted by reason, and asked for anew the next time (D1, D2; B11)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.cached import ask, figures, metric, state, until
from tests.e2e.conftest import Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import Cut, chat
from tests.scripted.client import Scripted, Step
from tests.scripted.providers import TEXT
from tests.scripted.replies import (
    CUT,
    DONE,
    RESET,
    chunk,
    completion,
    delta,
    error,
    event,
    finish,
    head,
    hello,
    reply,
    send,
    stream,
    usage_event,
)

CAP = 20_000  # bytes; `cache.max_entry` of this module's gateway


def choice(**members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"}
    return {"index": 0, "message": message, "finish_reason": "stop"} | members


def over(reason: str) -> list[Step]:
    return stream([delta("Hel"), finish(reason), usage_event(), DONE])


@dataclass(frozen=True)
class Refused:
    """An answer that is not kept. `reason` "": no answer came that could be."""

    steps: list[Step]
    reason: str
    streaming: bool = False
    asks: dict[str, Any] = field(default_factory=dict)


JSON_HEAD = head(headers=[("Content-Type", "application/json"), ("Content-Length", "500")])
REFUSED = {
    "429": Refused(reply(error("429", "rate_limit_exceeded"), "429 Too Many Requests"), "status"),
    "500": Refused(reply(error("500", "server_error"), "500 Internal Server Error"), "status"),
    "201": Refused(reply(completion(), "201 Created"), "status"),
    "error-in-200": Refused(reply(error("200", "server_error")), "error"),
    "error-beside-an-answer": Refused(reply(completion(error={"message": "x"})), "error"),
    "no-choices": Refused(reply(completion(choices=[])), "no_choices"),
    "no-finish-reason": Refused(
        reply(completion(choices=[choice(finish_reason=None)])), "incomplete"
    ),
    "length": Refused(reply(completion(choices=[choice(finish_reason="length")])), "finish_reason"),
    "content-filter": Refused(
        reply(completion(choices=[choice(finish_reason="content_filter")])), "finish_reason"
    ),
    "one-of-two-cut-short": Refused(
        reply(completion(choices=[choice(), choice(index=1, finish_reason="length")])),
        "finish_reason",
    ),
    "not-json": Refused(reply(b'{"id": "chatcmpl-1", "choices": [{'), "not_json"),
    "text": Refused(reply(completion(), kind="text/plain"), "content_type"),
    "stream-unasked": Refused(stream(hello()), "content_type"),
    "encoded": Refused(reply(b"\x1f\x8b\x08", headers=[("Content-Encoding", "gzip")]), "encoded"),
    "too-large": Refused(reply(completion("x" * CAP)), "too_large"),
    "cut-json": Refused([send(JSON_HEAD + b'{"id": "chatcmpl-1"'), CUT], ""),
    "reset-json": Refused([send(JSON_HEAD + b'{"id": "chatcmpl-1"'), RESET], ""),
    "stream-length": Refused(over("length"), "finish_reason", True),
    "stream-content-filter": Refused(over("content_filter"), "finish_reason", True),
    "stream-error": Refused(
        stream([delta("Hel"), event(error={"message": "x"}), finish(), DONE]), "error", True
    ),
    "stream-cut": Refused([*stream([delta("Hel")], close=False), CUT], "incomplete", True),
    "stream-reset": Refused([*stream([delta("Hel")], close=False), RESET], "incomplete", True),
    "stream-without-done": Refused(stream([delta("Hel"), delta("lo")]), "incomplete", True),
    "stream-cut-after-its-finish": Refused(
        [*stream([delta("Hel"), finish()], close=False), CUT], "incomplete", True
    ),
    "stream-nothing-but-done": Refused(stream([DONE]), "no_choices", True),
    "stream-one-of-two": Refused(stream(hello()), "incomplete", True, {"n": 2}),
    "stream-garbage": Refused(
        stream([b"data: {not json}\n\n", finish(), usage_event(), DONE]), "not_json", True
    ),
    "stream-too-large": Refused(
        stream([delta("x" * CAP), finish(), usage_event(), DONE]), "too_large", True
    ),
    "json-unasked": Refused(reply(completion()), "content_type", True),
}


@pytest.fixture(scope="module")
def small(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway that keeps small answers only."""
    folder = tmp_path_factory.mktemp("small")
    with Gateway(folder, caching_config(up, max_entry=f"{CAP}B")) as running:
        yield running


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_is_not_kept(small: Gateway, up: Scripted, refused: Refused) -> None:
    """D1: the next one asks anew, and is kept; the reason is counted, once."""
    good = stream(TEXT.events) if refused.streaming else reply(TEXT.body)
    more = [refused.steps]
    two = refused.asks.get("n") == 2
    model = up.play(*more, good)
    asking = chat(model, stream=refused.streaming, **refused.asks)
    before = figures(small)["skipped"]
    with suppress(Cut):
        assert state(ask(small, asking)) in ("miss", None)

    def counted() -> dict[str, float]:
        after = figures(small)["skipped"]
        return {
            name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)
        }

    # Of an answer with a length the end is known before it is booked.
    if refused.reason:
        until(lambda: bool(counted()), "its reason is counted")
    assert counted() == ({refused.reason: 1} if refused.reason else {})
    assert state(ask(small, asking)) == "miss"
    assert len(up.calls(model)) == 2
    if not two:
        assert state(ask(small, asking)) == "hit"


def test_reasons_are_on_the_metrics_page(start: Start, up: Scripted) -> None:
    """As `gateway_cache_store_skipped_total{reason}`."""
    gateway = start(caching_config(up, max_entry=f"{CAP}B"))
    for refused in REFUSED.values():
        asking = chat(up.play(refused.steps), stream=refused.streaming, **refused.asks)
        with suppress(Cut):
            ask(gateway, asking)
    told = figures(gateway)["skipped"]

    def on_the_page() -> bool:
        name = "gateway_cache_store_skipped_total"
        return all(metric(gateway, name, reason=reason) == n for reason, n in told.items())

    until(on_the_page, f"{told} on the page")
    assert {refused.reason for refused in REFUSED.values()} - {""} == {
        k for k, v in told.items() if v
    }


def test_other_finish_reasons_where_configured(start: Start, up: Scripted) -> None:
    gateway = start(caching_config(up, finish_reasons=["stop", "length"]))
    model = up.play(over("length"))
    assert [state(ask(gateway, chat(model, stream=True))) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ; x=y"]
)
def test_content_types_as_they_are_written(caching: Gateway, up: Scripted, kind: str) -> None:
    model = up.play(reply(completion(), kind=kind))
    assert [state(ask(caching, chat(model))) for _ in range(2)] == ["miss", "hit"]


def test_a_stream_without_usage(caching: Gateway, up: Scripted) -> None:
    """It is kept; who asks for its usage, or for JSON, is not told what nobody knows (D6)."""
    model = up.play(stream(hello(usage=False)), stream(hello()), reply(completion()))
    assert [state(ask(caching, chat(model, stream=True))) for _ in range(2)] == ["miss", "hit"]
    with_usage = chat(model, stream=True, stream_options={"include_usage": True})
    assert [state(ask(caching, with_usage)) for _ in range(2)] == ["miss", "hit"]
    assert state(ask(caching, chat(model))) == "hit"  # of the second call, that said it


def test_bytes_are_kept_as_they_came(caching: Gateway, up: Scripted) -> None:
    """D5: comments, odd line ends, empty lines, an event with a name."""
    odd = [b": hi\r\n\r\n", b"event: x\ndata: {}\n\n", *hello(usage=False)]
    raw = b"".join(odd).replace(b"}\n\n", b"}\r\n\r\n", 2)
    pieces = [raw[at : at + 7] for at in range(0, len(raw), 7)]
    model = up.play(stream(pieces))
    live, hit = (ask(caching, chat(model, stream=True)) for _ in range(2))
    assert (state(live), state(hit)) == ("miss", "hit")
    assert live.body == hit.body == raw
    space = b'\n \n{"id":\t"a" ,' + TEXT.body[1:] + b" \n"
    model = up.play([send(head(headers=[("Content-Type", "application/json"),
                                        ("Transfer-Encoding", "chunked")])
                          + chunk(space[:9]) + chunk(space[9:]) + chunk(b""))])  # fmt: skip
    live, hit = (ask(caching, chat(model)) for _ in range(2))
    assert (state(live), state(hit)) == ("miss", "hit")
    assert live.body == hit.body == space
