"""The pipeline against fakes of its ports: each story is whole, and booked exactly once (B1)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.config import OnMissingUsage
from gateway.errors import (
    Draining,
    InvalidAPIKey,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.exchange import CacheState, Grant, Outcome, UsageSource
from gateway.pipeline import Pipeline
from tests.fakes import (
    CALLER,
    SSE,
    FakeBody,
    FakeClient,
    FakeKeys,
    FakeReply,
    FakeUpstream,
    ask,
    house,
)
from tests.quota.rig import Clock, alice, quotas

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
ANSWER = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }
).encode()


@pytest.fixture(autouse=True, params=[False, True], ids=["in pieces", "at once"])
def coming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However an answer comes, the story is the same."""
    monkeypatch.setattr(FakeReply, "at_once", request.param)


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"


async def chat(body: bytes, *replies: Any, **more: Any) -> tuple[list[Any], FakeClient, Any, Any]:
    story: list[Any] = []
    for reply in replies:
        if isinstance(reply, FakeReply):
            reply.story = story
    client = more.pop("client", None) or FakeClient(story)
    client.story = story
    upstream = FakeUpstream(story, *replies)
    inside = house(story, upstream, keys=more.pop("keys", None))
    inside.draining = more.pop("draining", False)
    await Pipeline(inside).chat(more.pop("ask", None) or ask(body), client)
    return story, client, upstream, inside.sinks[0].only  # type: ignore[attr-defined]


async def test_the_row_has_the_whole_wait_for_the_upstream() -> None:
    """It is written before the end is released, and what the gateway took is told by it (H1)."""

    class Slow(FakeReply):
        def whole(self) -> None:
            return None

        async def read(self) -> bytes:
            inside.clock.time += 10  # type: ignore[attr-defined]
            return await super().read()

    story: list[Any] = []
    inside = house(story, FakeUpstream(story, Slow(story, [ANSWER[:20], ANSWER[20:]])))
    await Pipeline(inside).chat(ask(CHAT), FakeClient(story))
    [row] = inside.ledger.rows  # type: ignore[attr-defined]
    assert row.timings.upstream == 30_000
    assert row.timings.overhead == 0


async def test_json_is_answered_in_one_piece_with_its_length() -> None:
    story, client, upstream, exchange = await chat(CHAT, FakeReply([], [ANSWER[:20], ANSWER[20:]]))
    assert story == ["call", "closed", "commit", ("head", 200), "finished", ("booked", "ok")]
    assert client.body == ANSWER
    assert client.length == len(ANSWER)
    assert upstream.calls[0].body == CHAT
    assert (exchange.usage.prompt_tokens, exchange.usage.completion_tokens) == (3, 5)
    assert exchange.usage.source is UsageSource.UPSTREAM
    assert exchange.summary.finish_reasons == ("stop",)
    assert exchange.cache is CacheState.BYPASS
    assert client.headers["x-gateway-cache"] == "bypass"
    assert client.headers["x-gateway-request-id"] == client.headers["x-request-id"] == "ID"
    assert client.headers["cache-control"] == "private, no-store, no-transform"


async def test_stream_is_asked_for_usage_and_hides_it_from_who_did_not_ask() -> None:
    """A1, A3."""
    reply = FakeReply([], [delta("a"), delta("b", "stop"), USAGE, DONE], headers=SSE)
    _, client, upstream, exchange = await chat(STREAM, reply)
    assert client.body == delta("a") + delta("b", "stop") + DONE
    assert client.headers["x-accel-buffering"] == "no"
    sent = json.loads(upstream.calls[0].body)
    assert sent.pop("stream_options") == {"include_usage": True}
    assert sent == json.loads(STREAM)
    assert exchange.outcome is Outcome.OK
    assert exchange.usage.completion_tokens == 2


async def test_stream_shows_usage_to_who_asked() -> None:
    body = json.dumps(
        {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    reply = FakeReply([], [delta("a", "stop") + USAGE + DONE], headers=SSE)
    _, client, upstream, _ = await chat(body, reply)
    assert client.body == delta("a", "stop") + USAGE + DONE
    assert upstream.calls[0].body == body


async def test_upstream_that_refuses_the_option_is_asked_once_more_and_remembered() -> None:
    """A2."""
    refusal = FakeReply([], [b'{"error":{"message":"unknown field stream_options"}}'], status=400)
    reply = FakeReply([], [delta("a", "stop"), DONE], headers=SSE)
    story, client, upstream, exchange = await chat(STREAM, refusal, reply)
    assert story[:4] == ["call", "closed", "call", ("head", 200)]
    assert upstream.calls[-1].body == STREAM
    assert not upstream.injects_usage
    assert client.body == delta("a", "stop") + DONE
    assert exchange.attempts == 2
    assert exchange.usage_missing == "no_usage"


async def test_another_400_passes_with_its_body() -> None:
    body = b'{"error":{"message":"bad messages"}}'
    _, client, upstream, exchange = await chat(STREAM, FakeReply([], [body], status=400))
    assert (client.status, client.body) == (400, body)
    assert upstream.injects_usage
    assert exchange.outcome is Outcome.UPSTREAM_STATUS


async def test_each_event_reaches_the_client_before_the_next_is_read() -> None:
    """J4."""
    more = asyncio.Event()
    story: list[Any] = []
    client = FakeClient(story)
    reply = FakeReply(story, [delta("a"), more, delta("b", "stop") + DONE], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    assert client.body == delta("a")
    more.set()
    await task
    assert client.body == delta("a") + delta("b", "stop") + DONE


async def test_slow_client_stops_the_reading_until_it_has_room() -> None:
    """I6: what is in flight stays within the window."""
    story: list[Any] = []
    client = FakeClient(story, room=0)
    big = delta("x" * 600_000)
    reply = FakeReply(story, [big, big, big, delta("", "stop") + DONE], headers=SSE)
    reply.at_once = False
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert reply.reads == 3  # one is with the client, two fill the window of 1 MiB
    client.drain()
    await task
    assert client.body == big * 3 + delta("", "stop") + DONE


@pytest.mark.parametrize(
    ("error", "status", "code", "outcome"),
    [
        (UpstreamError("refused"), 502, "upstream_error", Outcome.UPSTREAM_ERROR),
        (UpstreamTimeout("silent"), 504, "upstream_timeout", Outcome.UPSTREAM_TIMEOUT),
    ],
)
async def test_upstream_that_gives_no_head(
    error: Exception, status: int, code: str, outcome: Outcome
) -> None:
    _, client, _, exchange = await chat(CHAT, error)
    assert client.status == status
    assert json.loads(client.body)["error"]["code"] == code
    assert "x-gateway-cache" not in client.headers
    assert (exchange.outcome, exchange.error, exchange.status) == (outcome, code, status)


async def test_json_that_breaks_off_is_a_readable_502() -> None:
    reply = FakeReply([], [ANSWER[:20], UpstreamCut("cut")], length=len(ANSWER))
    _, client, _, exchange = await chat(CHAT, reply)
    assert client.status == 502
    assert exchange.outcome is Outcome.UPSTREAM_TRUNCATED


async def test_stream_that_breaks_off_ends_with_an_error_and_no_done() -> None:
    """B11, B12: the unfinished event is dropped."""
    reply = FakeReply([], [delta("a") + b'data: {"cho', UpstreamCut("cut off")], headers=SSE)
    _, client, _, exchange = await chat(STREAM, reply)
    assert client.body.startswith(delta("a") + b'data: {"error":')
    assert b"[DONE]" not in client.body
    error = json.loads(client.body.removeprefix(delta("a") + b"data: "))["error"]
    assert error == {
        "message": "cut off",
        "type": "api_error",
        "param": None,
        "code": "upstream_error",
    }
    assert client.ended == "finished"
    assert exchange.outcome is Outcome.UPSTREAM_TRUNCATED
    assert exchange.status == 200


async def test_stream_without_terminator_is_no_success() -> None:
    _, client, _, exchange = await chat(STREAM, FakeReply([], [delta("a")], headers=SSE))
    assert b'"upstream_error"' in client.body
    assert exchange.outcome is Outcome.UPSTREAM_TRUNCATED


async def test_stream_that_ends_without_done_but_finished_is_whole() -> None:
    reply = FakeReply([], [delta("a", "stop"), USAGE], headers=SSE)
    _, client, _, exchange = await chat(STREAM, reply)
    assert client.body == delta("a", "stop")
    assert exchange.outcome is Outcome.OK


async def test_error_inside_a_200_passes_and_is_booked_as_one() -> None:
    """B13."""
    error = event(error={"message": "overloaded"})
    _, client, _, exchange = await chat(STREAM, FakeReply([], [error], headers=SSE))
    assert client.body == error
    assert exchange.outcome is Outcome.UPSTREAM_IN_BAND_ERROR


async def test_web_page_in_place_of_a_completion_is_a_502() -> None:
    page = FakeReply([], [b"<html>login</html>"], headers=[("content-type", "text/html")])
    story, client, _, exchange = await chat(CHAT, page)
    assert client.status == 502
    assert b"login" not in client.body
    assert "closed" in story
    assert exchange.outcome is Outcome.UPSTREAM_ERROR


async def test_client_that_leaves_while_the_upstream_thinks_lets_go_of_it() -> None:
    """B2, B5."""
    story: list[Any] = []
    client = FakeClient(story)
    never = asyncio.Event()
    reply = FakeReply(story, [delta("a"), never], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    client.leave()
    await task
    assert story == ["call", ("head", 200), "closed", ("booked", "client_disconnect")]
    assert inside.sinks[0].only.status == 200  # type: ignore[attr-defined]
    assert not inside.flights
    assert inside.streams == 0


async def test_client_that_leaves_before_the_head_is_booked_as_499() -> None:
    story: list[Any] = []
    client = FakeClient(story)
    reached = asyncio.Event()

    class Thinking(FakeUpstream):
        async def send(self, call: Any) -> FakeReply:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

    inside = house(story, Thinking(story))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(CHAT), client))
    await reached.wait()
    client.leave()
    await task
    exchange = inside.sinks[0].only  # type: ignore[attr-defined]
    assert (exchange.status, exchange.outcome) == (499, Outcome.CLIENT_DISCONNECT)
    assert exchange.attempts == 1


async def test_client_that_leaves_with_finish_and_usage_in_hand_has_it_all() -> None:
    """B4."""
    story: list[Any] = []
    client = FakeClient(story)
    never = asyncio.Event()
    reply = FakeReply(story, [delta("a", "stop") + USAGE, never], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    client.leave()
    await task
    exchange = inside.sinks[0].only  # type: ignore[attr-defined]
    assert exchange.outcome is Outcome.OK
    assert exchange.usage.completion_tokens == 2


async def test_errors_before_admission_tell_of_an_issued_key_s_limits() -> None:
    """F8: whose they are is known; and nothing is counted."""
    story: list[Any] = []
    keys, client = FakeKeys(), FakeClient(story)
    keys.caller = alice(rpm=7)
    inside = house(story, FakeUpstream(story), keys=keys, quota=quotas(Clock()))
    await Pipeline(inside).chat(ask(b"no JSON"), client)
    assert client.status == 400
    assert client.headers["x-ratelimit-remaining-requests"] == "7"


async def test_client_that_leaves_while_still_sending() -> None:
    client = FakeClient([])
    story, _, upstream, exchange = await chat(b"", ask=ask(body=FakeBody(gone=True)), client=client)
    assert story == [("booked", "client_disconnect")]
    assert upstream.calls == []
    assert exchange.status == 499


async def test_cut_at_a_stop_is_told_inside_the_stream() -> None:
    """L1."""
    story: list[Any] = []
    client = FakeClient(story)
    never = asyncio.Event()
    reply = FakeReply(story, [delta("a"), never], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    for leash in inside.flights:
        leash.pull(Draining("The gateway has stopped."))
    await task
    assert b'"draining"' in client.body
    assert inside.sinks[0].only.outcome is Outcome.DRAINED  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", [], 400, "invalid_json"),
        (b"[]", [], 400, "invalid_request"),
        (b'{"messages":[]}', [], 400, "invalid_request"),
        (CHAT, [("content-encoding", "gzip")], 415, "unsupported_encoding"),
        (CHAT, [("via", "1.1 gateway-instance")], 502, "upstream_error"),
    ],
)
async def test_refusals(body: bytes, headers: Any, status: int, code: str) -> None:
    story, client, upstream, exchange = await chat(body, ask=ask(body, headers=headers))
    assert client.status == status
    assert json.loads(client.body)["error"]["code"] == code
    assert upstream.calls == []
    assert story[-1] == ("booked", "refused")
    assert exchange.error == code


async def test_no_credential_no_body_read() -> None:
    """H6: a refusal comes before the body is asked for."""
    request = ask(CHAT)
    _, client, _, exchange = await chat(CHAT, ask=request, keys=FakeKeys(InvalidAPIKey()))
    assert client.status == 401
    assert client.headers["x-should-retry"] == "false"
    assert request.body.received == 0
    assert exchange.caller is None


async def test_draining_refuses_with_retry_after() -> None:
    _, client, _, _ = await chat(CHAT, draining=True)
    assert client.status == 503
    assert client.headers["retry-after"] == "1"


async def test_a_fault_of_the_gateway_is_a_500_and_booked(caplog: Any) -> None:
    _, client, _, exchange = await chat(CHAT, ValueError("boom"))
    assert client.status == 500
    assert b"boom" not in client.body
    assert exchange.outcome is Outcome.INTERNAL
    assert "a fault of the gateway" in caplog.text


async def test_rename_changes_the_model_and_nothing_else() -> None:
    """K1."""
    story: list[Any] = []
    upstream = FakeUpstream(story, FakeReply(story, [ANSWER]))
    upstream.renames = {"m": "real"}
    inside = house(story, upstream)
    body = b'{ "x": 1.50, "model" : "m", "messages": [] }'
    await Pipeline(inside).chat(ask(body), FakeClient(story))
    assert upstream.calls[0].body == body.replace(b'"m"', b'"real"')
    exchange = inside.sinks[0].only  # type: ignore[attr-defined]
    assert (exchange.model, exchange.model_served) == ("m", "real")


async def test_other_paths_are_relayed_as_they_are() -> None:
    story: list[Any] = []
    upstream = FakeUpstream(story, FakeReply(story, [b"abc", b"def"], headers=[("x-a", "1")]))
    inside = house(story, upstream)
    client = FakeClient(story)
    request = ask(b"form", path="files", headers=[("content-type", "multipart/form-data")])
    await Pipeline(inside).relay(request, client, "files")
    assert client.body == b"abcdef"
    assert client.headers["x-a"] == "1"
    assert inside.sinks[0].only.endpoint == "files"  # type: ignore[attr-defined]


async def test_json_of_other_paths_names_its_model() -> None:
    story: list[Any] = []
    first = FakeUpstream(story, name="first", model="a")
    second = FakeUpstream(story, FakeReply(story, [b"{}"]), name="second", model="b")
    inside = house(story, first, second)
    await Pipeline(inside).relay(
        ask(b'{"model":"b"}', path="embeddings"), FakeClient(story), "embeddings"
    )
    assert inside.sinks[0].only.upstream == "second"  # type: ignore[attr-defined]


async def test_models_of_all_upstreams_in_one_list() -> None:
    story: list[Any] = []
    inside = house(story, FakeUpstream(story, name="a"), FakeUpstream(story, name="b"))
    client = FakeClient(story)
    await Pipeline(inside).models(ask(path="models", method="GET"), client)
    assert [model["id"] for model in json.loads(client.body)["data"]] == ["a-model", "b-model"]
    assert inside.sinks[0].only.outcome is Outcome.OK  # type: ignore[attr-defined]


async def test_white_space_that_keeps_a_connection_alive_is_not_held_back() -> None:
    story: list[Any] = []
    client = FakeClient(story)
    more = asyncio.Event()
    reply = FakeReply(story, [b"\n", more, ANSWER])
    inside = house(story, FakeUpstream(story, reply))
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(CHAT), client))
    await client.written.wait()
    assert client.body == b"\n"
    more.set()
    await task
    assert client.body == b"\n" + ANSWER


async def test_who_leaves_while_the_row_is_written_is_booked_as_gone() -> None:
    """B2: nothing of the answer was out."""
    story: list[Any] = []
    client = FakeClient(story)
    inside = house(story, FakeUpstream(story, FakeReply(story, [ANSWER])))
    ledger: Any = inside.ledger
    ledger.durable.clear()
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(CHAT), client))
    while "commit" not in story:
        await asyncio.sleep(0)
    client.leave()
    ledger.durable.set()
    await task
    exchange = inside.sinks[0].only  # type: ignore[attr-defined]
    assert exchange.outcome is Outcome.CLIENT_DISCONNECT
    assert client.body == b""
    assert not client.started


async def test_row_is_durable_before_the_end_is_out() -> None:
    """Durable and off the path: who has read the end may rely on the books."""
    story: list[Any] = []
    client = FakeClient(story)
    reply = FakeReply(story, [delta("a"), delta("b", "stop"), USAGE, DONE], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    ledger: Any = inside.ledger
    ledger.durable.clear()
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    while "commit" not in story:
        await asyncio.sleep(0)
    assert client.body == delta("a") + delta("b", "stop")
    assert not client.ended
    ledger.durable.set()
    await task
    assert client.body.endswith(DONE)
    (row,) = ledger.rows
    assert (row.usage.completion_tokens, row.cost.nano_usd, row.outcome) == (2, 5, Outcome.OK)


async def test_error_after_a_call_is_booked_before_it_is_told() -> None:
    story, _, _, _ = await chat(CHAT, UpstreamError("refused"))
    assert story == ["call", "commit", ("head", 502), "finished", ("booked", "upstream_error")]


async def test_no_call_is_made_that_could_not_be_booked() -> None:
    story: list[Any] = []
    client = FakeClient(story)
    inside = house(story, FakeUpstream(story))
    inside.ledger.down = True  # type: ignore[attr-defined]
    await Pipeline(inside).chat(ask(CHAT), client)
    assert client.status == 503
    assert json.loads(client.body)["error"]["code"] == "ledger_unavailable"
    assert "call" not in story


async def test_refusals_of_a_key_wait_and_get_no_row() -> None:
    """N2; anonymous floods must not fill the disk."""
    story: list[Any] = []
    inside = house(story, FakeUpstream(story), keys=FakeKeys(InvalidAPIKey()))
    await Pipeline(inside).chat(ask(CHAT), FakeClient(story))
    assert story[0] == ("penalty", "127.0.0.1")
    assert inside.ledger.rows == []  # type: ignore[attr-defined]


async def test_refusal_of_a_known_caller_gets_a_row() -> None:
    story: list[Any] = []
    inside = house(story, FakeUpstream(story))
    await Pipeline(inside).chat(ask(b"{"), FakeClient(story))
    (row,) = inside.ledger.rows  # type: ignore[attr-defined]
    assert (row.outcome, row.cost.nano_usd) == (Outcome.REFUSED, 0)


async def test_key_for_other_models_is_refused_before_anything_is_looked_up() -> None:
    """C5."""
    story: list[Any] = []
    keys = FakeKeys()
    keys.caller = replace(CALLER, grant=Grant(models=("gpt-*",)))
    inside = house(story, FakeUpstream(story), keys=keys)
    client = FakeClient(story)
    await Pipeline(inside).chat(ask(CHAT), client)
    assert client.status == 403
    assert json.loads(client.body)["error"]["code"] == "model_not_allowed"
    assert "call" not in story


@pytest.mark.parametrize(
    ("policy", "prompt", "completion", "source"),
    [
        (OnMissingUsage.ESTIMATE, 2, 2, UsageSource.ESTIMATED),
        (OnMissingUsage.PROMPT_ONLY, 2, 0, UsageSource.ESTIMATED),
        (OnMissingUsage.NONE, 0, 0, UsageSource.NONE),
    ],
)
async def test_answer_without_usage_is_estimated_by_policy_and_marked(
    policy: OnMissingUsage, prompt: int, completion: int, source: UsageSource
) -> None:
    """B3: six bytes of prompt (its role counts) and five of answer are two tokens each."""
    story: list[Any] = []
    answer = json.dumps(
        {"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]}
    ).encode()
    inside = house(story, FakeUpstream(story, FakeReply(story, [answer])))
    inside.missing_usage = policy
    await Pipeline(inside).chat(ask(CHAT), FakeClient(story))
    usage = inside.sinks[0].only.usage  # type: ignore[attr-defined]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (
        prompt, completion, source,
    )  # fmt: skip


async def test_client_that_leaves_mid_stream_is_booked_with_an_estimate_of_what_came() -> None:
    story: list[Any] = []
    client = FakeClient(story)
    never = asyncio.Event()
    reply = FakeReply(story, [delta("abcdefgh"), never], headers=SSE)
    inside = house(story, FakeUpstream(story, reply))
    inside.missing_usage = OnMissingUsage.ESTIMATE
    task = asyncio.get_running_loop().create_task(Pipeline(inside).chat(ask(STREAM), client))
    await client.written.wait()
    client.leave()
    await task
    exchange = inside.sinks[0].only  # type: ignore[attr-defined]
    assert exchange.outcome is Outcome.CLIENT_DISCONNECT
    assert (exchange.usage.completion_tokens, exchange.usage.source) == (2, UsageSource.ESTIMATED)


async def test_error_text_is_never_output() -> None:
    story: list[Any] = []
    error = event(error={"message": "content filter", "content": None})
    inside = house(story, FakeUpstream(story, FakeReply(story, [error], headers=SSE)))
    inside.missing_usage = OnMissingUsage.ESTIMATE
    await Pipeline(inside).chat(ask(STREAM), FakeClient(story))
    assert inside.sinks[0].only.usage.source is UsageSource.NONE  # type: ignore[attr-defined]
