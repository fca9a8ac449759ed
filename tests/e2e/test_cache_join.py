"""Equal requests in flight share one call (D9, B6; design.md, "One path for everything: the
Flight")."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.e2e.cached import Lookups, admin, ask, figures, metric, state, states, until
from tests.e2e.conftest import OWN_TOKEN, Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Events, Raw, chat, request
from tests.scripted.client import PATIENCE, Scripted, Step
from tests.scripted.providers import TEXT
from tests.scripted.replies import (
    CUT,
    DONE,
    GATE,
    RESET,
    SSE_HEAD,
    STALL,
    chunk,
    completion,
    delta,
    error,
    finish,
    hello,
    reply,
    send,
    stream,
    usage_event,
)

MANY = 20
SILENT = b"".join(hello(usage=False))


def parted(events: list[bytes], first: int = 2) -> list[Step]:
    """A stream that stops for a gate after its `first` events."""
    return [*stream(events[:first], close=False), GATE, *stream(events[first:])[1:]]


@contextlib.contextmanager
def clients(gateway: Gateway, *bodies: Any, headers: Any = ()) -> Iterator[list[Raw]]:
    """A connection for each body, on which it has been sent."""
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(gateway.address)) for _ in bodies]
        for raw, body in zip(raws, bodies, strict=True):
            raw.send(request(CHAT, body, headers))
        yield raws


def all_of(raws: list[Raw]) -> list[Answer]:
    with ThreadPoolExecutor(len(raws)) as pool:
        return list(pool.map(Raw.answer, raws))


# One call -----------------------------------------------------------------------------------------


def test_json_shares_one_call(caching: Gateway, up: Scripted) -> None:
    model, looked = up.play([GATE, *reply(completion())]), Lookups(caching)
    with clients(caching, *[chat(model)] * MANY) as raws:
        looked.wait(MANY)
        up.go(model)
        answers = all_of(raws)
    assert states(answers) == {"miss": 1, "joined": MANY - 1}
    assert {answer.body for answer in answers} == {json.dumps(completion()).encode()}
    assert len(up.calls(model)) == 1
    assert len({answer.id for answer in answers}) == MANY
    assert state(ask(caching, chat(model))) == "hit"


def test_streams_share_one_call_live(caching: Gateway, up: Scripted) -> None:
    """Each has the first events while the upstream is still speaking; each its own usage chunk."""
    model, events = up.play(parted(hello())), hello()
    asks = chat(model, stream=True, stream_options={"include_usage": True})
    bodies = [asks, chat(model, stream=True)] * (MANY // 2)
    with clients(caching, *bodies) as raws:
        found = [Events(raw) for raw in raws]
        assert [one.next() + one.next() for one in found] == [events[0] + events[1]] * MANY
        up.go(model)
        rest = [b"".join(one.rest()) for one in found]
    shown, silent = b"".join(events[2:]), b"".join([*events[2:-2], DONE])
    assert rest == [shown, silent] * (MANY // 2)
    assert states(one.head for one in found) == {"miss": 1, "joined": MANY - 1}
    assert len(up.calls(model)) == 1
    lines = caching.log.wait(MANY, model=model)
    assert sorted(x["completion_tokens"] for x in lines) == [0] * (MANY - 1) + [7]
    assert sum(x["saved_tokens"] for x in lines) == 18 * (MANY - 1)
    assert {x["usage_source"] for x in lines if x["cache"] == "joined"} == {"cache"}


def test_json_boards_a_stream(caching: Gateway, up: Scripted) -> None:
    """Mixed: whoever asks for JSON gets it whole when the stream has landed."""
    model, looked = up.play(parted(TEXT.events)), Lookups(caching)
    half = MANY // 2
    with clients(caching, *[chat(model, stream=True)] * half) as streams:
        found = [Events(raw) for raw in streams]
        with clients(caching, *[chat(model)] * half) as raws:
            looked.wait(MANY)
            up.go(model)
            answers = all_of(raws)
        rest = {b"".join(one.rest()) for one in found}
    assert states([*answers, *(one.head for one in found)]) == {"miss": 1, "joined": MANY - 1}
    assert rest == {b"".join([*TEXT.events[:-2], DONE])}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].json()["choices"][0]["message"]["content"] == "Regen, 12 °C. 🌧"
    assert len(up.calls(model)) == 1


def test_a_stream_does_not_board_json(caching: Gateway, up: Scripted) -> None:
    """It would sit silent: it has a call of its own, and so two calls are made."""
    model, looked = up.play([GATE, *reply(completion())], stream(hello())), Lookups(caching)
    with clients(caching, chat(model)) as (leader,):
        looked.wait(1)
        live = ask(caching, chat(model, stream=True))
        assert (state(live), live.body) == ("miss", SILENT)
        up.go(model)
        assert state(leader.answer()) == "miss"
    assert len(up.calls(model)) == 2


def test_late_joiners_get_what_was_and_follow(caching: Gateway, up: Scripted) -> None:
    events = hello(usage=False)
    model = up.play(stream(events, paced=True))
    with contextlib.ExitStack() as stack:
        found: list[Events] = []
        for number, event in enumerate(events[:-1]):
            (raw,) = stack.enter_context(clients(caching, chat(model, stream=True)))
            if number:
                found.append(Events(raw))
                assert [found[-1].next() for _ in events[:number]] == events[:number]
            up.go(model)
            if not number:
                found.append(Events(raw))
            assert [one.next() for one in found] == [event] * len(found)
        up.go(model, 2)
        assert [one.rest() for one in found] == [[DONE]] * len(found)
    assert len(up.calls(model)) == 1


def test_the_openai_client_joins(caching: Gateway, up: Scripted) -> None:
    """Equal objects for the one that launched and for those that joined."""
    model = up.play(parted(TEXT.events))

    def one(_: int) -> tuple[str, list[Any]]:
        with openai.OpenAI(base_url=caching.v1, api_key=OWN_TOKEN, max_retries=0) as client:
            got = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": "hi"}], stream=True
            )
            here = got.headers["x-gateway-cache"]
            if here == "miss":
                up.go(model)
            return here, [chunk.model_dump() for chunk in got.parse()]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    assert len(up.calls(model)) == 1
    assert [word for word, _ in found].count("miss") == 1
    assert all(said == found[0][1] for _, said in found)


@pytest.mark.parametrize(
    "header",
    [("Cache-Control", "no-cache"), ("Cache-Control", "no-store")],
    ids=lambda pair: pair[1],
)
def test_who_asks_anew_flies_alone(caching: Gateway, up: Scripted, header: tuple[str, str]) -> None:
    looked = Lookups(caching)
    model = up.play([GATE, *reply(completion("first"))], reply(completion("anew")))
    with clients(caching, chat(model)) as (leader,):
        looked.wait(1)
        anew = ask(caching, chat(model), header)
        assert anew.json()["choices"][0]["message"]["content"] == "anew"
        up.go(model)
        assert leader.answer().json()["choices"][0]["message"]["content"] == "first"
    assert len(up.calls(model)) == 2


def test_only_if_cached_does_not_wait(caching: Gateway, up: Scripted) -> None:
    model = up.play(parted(hello()))
    with clients(caching, chat(model, stream=True)) as (leader,):
        events = Events(leader)
        events.next()
        refused = ask(caching, chat(model, stream=True), ("Cache-Control", "only-if-cached"))
        assert (refused.status, state(refused)) == (504, "miss")
        up.go(model)
        assert events.rest()[-1] == DONE


def test_what_is_not_converted_makes_its_own_call(caching: Gateway, up: Scripted) -> None:
    """A stream without usage cannot become JSON: the joiner asks itself."""
    looked = Lookups(caching)
    model = up.play(parted(hello(usage=False)), reply(completion()))
    with clients(caching, chat(model, stream=True)) as (leader,):
        events = Events(leader)
        with clients(caching, chat(model)) as (other,):
            looked.wait(2)
            up.go(model)
            answer = other.answer()
        assert events.rest()[-1] == DONE
    assert (state(answer), answer.json()) == ("miss", completion())
    assert len(up.calls(model)) == 2


# Leaving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["miss", "joined"])
def test_one_leaves_and_another_stays(caching: Gateway, up: Scripted, who: str, how: str) -> None:
    """B6: a browser's tab is closed in mid-stream, perhaps the one that launched the call; who
    stays gets it all, to the byte, and the launcher's line has the tokens."""
    model = up.play(parted(hello()))
    asking = chat(model, stream=True)
    with clients(caching, asking) as (leader,):
        aboard = {"miss": (leader, Events(leader))}
        with clients(caching, asking) as (joiner,):
            aboard["joined"] = (joiner, Events(joiner))
            assert {events.next() for _, events in aboard.values()} == {hello()[0]}
            assert all(state(events.head) == word for word, (_, events) in aboard.items())
            raw, gone = aboard.pop(who)
            getattr(raw, how)()
            figures(caching)  # what is answered after the leaving has seen it
            up.go(model)
            ((_, stays),) = aboard.values()
            assert stays.rest() == [*hello()[1:-2], DONE]
    assert up.wait(model, "ended").ended == "done"
    assert caching.line(id=gone.head.id)["outcome"] == "client_disconnect"
    assert caching.line(id=stays.head.id)["outcome"] == "ok"
    tokens = {x["cache"]: x["completion_tokens"] for x in caching.log.wait(2, model=model)}
    assert tokens == {"miss": 7, "joined": 0}
    assert state(ask(caching, asking)) == "hit"


def test_all_leave_and_the_answer_is_kept(caching: Gateway, up: Scripted) -> None:
    """B5, `on_disconnect: finish`: nobody is there, the call goes on, the next one hits."""
    model = up.play(parted(hello()))
    with clients(caching, *[chat(model, stream=True)] * 3) as raws:
        assert len({Events(raw).next() for raw in raws}) == 1
    caching.log.wait(2, model=model, cache="joined", outcome="client_disconnect")
    up.go(model)
    assert up.wait(model, "ended").ended == "done"
    launcher = caching.log.wait(model=model, cache="miss")[0]
    assert (launcher["outcome"], launcher["completion_tokens"]) == ("client_disconnect", 7)
    again = ask(caching, chat(model, stream=True))
    assert (state(again), again.body) == ("hit", SILENT)
    assert len(up.calls(model)) == 1


def test_an_abandoned_flight_can_be_boarded(caching: Gateway, up: Scripted) -> None:
    model = up.play(parted(hello()))
    with clients(caching, chat(model, stream=True)) as (leader,):
        Events(leader).next()
    until(lambda: metric(caching, "gateway_flights_abandoned") == 1, "an abandoned flight")
    with clients(caching, chat(model, stream=True)) as (other,):
        events = Events(other)
        assert state(events.head) == "joined"
        assert events.next() + events.next() == hello()[0] + hello()[1]
        up.go(model)
        assert events.rest()[-1] == DONE
    assert len(up.calls(model)) == 1


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_abort_lets_go_within_a_second_when_all_have_left(
    start: Start, up: Scripted, streaming: bool
) -> None:
    """B5, `on_disconnect: abort`: not while one is left, at once when none is."""
    config = caching_config(up)
    config["upstreams"][0]["on_disconnect"] = "abort"
    gateway = start(config)
    looked = Lookups(gateway)
    model = up.play([*(stream([delta("Hel")], close=False) if streaming else []), STALL])
    with clients(gateway, *[chat(model, stream=streaming)] * 3) as raws:
        looked.wait(3)
        if streaming:
            assert {Events(raw).next() for raw in raws} == {delta("Hel")}
        for raw in raws[:2]:
            raw.close()
        gateway.log.wait(1, model=model, cache="joined")
        assert up.calls(model)[0].ended is None
        left = time.monotonic()
    seen = up.wait(model, "ended")
    assert seen.ended == "client_closed"
    assert seen.ended_at is not None and seen.ended_at - left < 1.0
    assert {x["outcome"] for x in gateway.log.wait(3, model=model)} == {"client_disconnect"}


@pytest.mark.parametrize(
    "abandoned",
    [{"flights": 0}, {"bytes": "1B"}, {"time": "50ms"}],
    ids=["flights", "bytes", "time"],
)
def test_abandoned_flights_are_bounded(
    start: Start, up: Scripted, abandoned: dict[str, Any]
) -> None:
    """D10: past the bound the upstream is let go."""
    gateway = start(caching_config(up, abandoned=abandoned))
    model = up.play([*stream([delta("Hel")], close=False), STALL])
    with clients(gateway, chat(model, stream=True)) as (raw,):
        Events(raw).next()
    assert up.wait(model, "ended").ended == "client_closed"
    assert gateway.line(model=model)["outcome"] == "client_disconnect"
    until(lambda: metric(gateway, "gateway_flights_open") == 0, "no flight")


def test_their_bounds_are_for_when_all_have_left(start: Start, up: Scripted) -> None:
    """While one is aboard, no bound on abandoned flights ends the flight."""
    gateway = start(caching_config(up, abandoned={"flights": 1, "bytes": "1B", "time": "1ms"}))
    model = up.play(parted(hello()))
    with clients(gateway, *[chat(model, stream=True)] * 2) as (one, two):
        assert {Events(one).next(), (stays := Events(two)).next()} == {hello()[0]}
        one.close()
        figures(gateway)  # what is answered after the leaving has seen it
        up.go(model)
        assert stays.rest() == [*hello()[1:-2], DONE]


# Failing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (reply(error("500", "server_error"), "500 Internal Server Error"), 500),
        (reply(error("429", "rate_limit_exceeded"), "429 Too Many Requests"), 429),
        ([CUT], 502),
        ([RESET], 502),
        ([send(reply(completion())[0][1][:-9]), CUT], 502),
    ],
    ids=["500", "429", "cut", "reset", "cut-body"],
)
def test_a_failed_flight_fails_for_all(
    caching: Gateway, up: Scripted, steps: list[Step], status: int
) -> None:
    """D9: one call, or one retry for all, and nobody hangs; a failure is not remembered."""
    looked = Lookups(caching)
    model = up.play([GATE, *steps])
    with clients(caching, *[chat(model)] * MANY) as raws:
        looked.wait(MANY)
        up.go(model, 2)
        answers = all_of(raws)
    assert {answer.status for answer in answers} == {status}
    assert len({answer.body for answer in answers}) == 1
    assert len(up.calls(model)) <= 2
    up.play(reply(completion()), name=model)
    assert ask(caching, chat(model)).status == 200


def test_a_stream_breaks_off_for_all(caching: Gateway, up: Scripted) -> None:
    """B12: an in-stream error for each, [DONE] for none."""
    model = up.play([*stream([delta("Hel")], close=False), GATE, CUT], stream(hello()))
    with clients(caching, *[chat(model, stream=True)] * MANY) as raws:
        found = [Events(raw) for raw in raws]
        assert {one.next() for one in found} == {delta("Hel")}
        up.go(model)
        rests = [one.rest() for one in found]
    assert all(len(rest) == 1 and b'"upstream_error"' in rest[0] for rest in rests)
    outcomes = {x["outcome"] for x in caching.log.wait(MANY, model=model)}
    assert outcomes == {"upstream_truncated"}
    assert state(ask(caching, chat(model, stream=True))) == "miss"


# Pace and size ------------------------------------------------------------------------------------


def test_a_reader_that_stalls_holds_up_nobody(caching: Gateway, up: Scripted) -> None:
    """The recording is the buffer: others finish, and the slow one gets the same bytes."""
    piece = delta("x" * 50_000)
    events = [*[piece] * 80, finish(), usage_event(), DONE]
    model = up.play([*stream([piece], close=False), GATE, *stream(events[1:])[1:]])
    with Raw(caching.address, receive_buffer=4096) as slow:
        slow.send(request(CHAT, chat(model, stream=True)))
        up.wait(model, "body")
        with clients(caching, *[chat(model, stream=True)] * 4) as raws:
            found = [Events(raw) for raw in raws]
            assert {state(one.head) for one in found} == {"joined"}
            up.go(model)
            with ThreadPoolExecutor(4) as pool:
                bodies = set(pool.map(lambda one: b"".join(one.rest()), found))
        assert up.wait(model, "ended").ended == "done"
        assert slow.received == 0
        assert bodies == {b"".join([*events[:-2], DONE])} == {slow.answer().body}
    assert len(up.calls(model)) == 1


def test_past_the_cap_nobody_boards_and_nothing_is_kept(start: Start, up: Scripted) -> None:
    """Those aboard get it all, at the pace of the slowest; who comes then has a call of its own."""
    gateway = start(caching_config(up, max_entry="64KiB"))
    big = delta("x" * 70_000)
    whole = [big, delta("more"), finish(), usage_event(), DONE]
    model = up.play(
        [send(SSE_HEAD + chunk(whole[0])), GATE, *stream(whole[1:])[1:]], stream(hello())
    )
    asking = chat(model, stream=True)
    with clients(gateway, asking) as (leader,):
        first = Events(leader)
        assert first.next() == big
        own = ask(gateway, asking)
        assert (state(own), own.body) == ("miss", SILENT)
        up.go(model)
        assert first.rest() == [*whole[1:-2], DONE]
    assert gateway.line(id=first.head.id)["cache_reason"] == "too_large"
    assert figures(gateway)["skipped"]["too_large"] == 1
    again = ask(gateway, asking)
    assert (state(again), again.body) == ("hit", SILENT)  # the call that came second


def test_past_the_cap_those_aboard_share_a_window(start: Start, up: Scripted) -> None:
    """The upstream waits for the slowest, memory does not grow; all get the same bytes."""
    gateway = start(caching_config(up, max_entry="64KiB"))
    events = [*[delta("x" * 50_000)] * 200, finish(), DONE]
    looked = Lookups(gateway)
    model = up.play([GATE, *stream(events)])
    with Raw(gateway.address, receive_buffer=4096) as slow:
        slow.send(request(CHAT, chat(model, stream=True)))
        with clients(gateway, *[chat(model, stream=True)] * 2) as raws:
            looked.wait(3)
            before = gateway.memory()["VmRSS"]
            up.go(model)
            with ThreadPoolExecutor(3) as pool:
                quick = [pool.submit(raw.answer) for raw in raws]
                up.wait(model, "sent", least=2_000_000)
                assert not any(one.done() for one in quick)
                assert up.calls(model)[0].sent < 9_000_000
                bodies = {slow.answer().body} | {one.result(PATIENCE).body for one in quick}
    assert bodies == {b"".join(events)}
    assert gateway.memory()["VmHWM"] - before < 30_000_000


# Purges -------------------------------------------------------------------------------------------


def test_a_purge_holds_for_what_is_in_the_air(caching: Gateway, up: Scripted) -> None:
    """C7: what took off before it is not kept; those aboard are served."""
    model, looked = up.play([GATE, *reply(completion())], reply(completion())), Lookups(caching)
    with clients(caching, *[chat(model)] * 2) as raws:
        looked.wait(2)
        admin(caching, "/admin/cache/purge", {"model": model})
        up.go(model)
        assert {answer.status for answer in all_of(raws)} == {200}
    assert state(ask(caching, chat(model))) == "miss"
