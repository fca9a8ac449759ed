"""The current openai client, unchanged but for its base URL: what comes back, and which error is
raised (K4, K5)."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.conftest import OWN_TOKEN, Start
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import (
    CUT,
    DONE,
    GATE,
    STALL,
    USAGE,
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

HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def test_json(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    model = up.play(reply(completion("Guten Tag, 世界")))
    said = client.chat.completions.create(model=model, messages=HI, temperature=0.6)
    assert said.choices[0].message.content == "Guten Tag, 世界"
    assert said.usage and said.usage.total_tokens == USAGE["total_tokens"]
    assert up.wait(model, "ended").json()["temperature"] == 0.6
    line = house.line(model=model)
    assert (line["status"], line["outcome"], line["stream"]) == (200, "ok", False)
    assert line["prompt_tokens"] == USAGE["prompt_tokens"]
    assert line["completion_tokens"] == USAGE["completion_tokens"]


def test_stream(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    """A1, A3: the upstream is asked for usage, the client that did not ask never sees a chunk
    without choices."""
    model = up.play(stream(hello()))
    with client.chat.completions.create(model=model, messages=HI, stream=True) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello"
    assert up.wait(model, "ended").json()["stream_options"] == {"include_usage": True}
    line = house.line(model=model)
    assert (line["outcome"], line["stream"]) == ("ok", True)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (11, 7)
    assert line["usage_source"] == "upstream"


@pytest.mark.parametrize(("asked", "shown"), [(True, True), (False, False), (None, False)])
def test_usage_chunk_reaches_only_who_asked_for_it(
    client: openai.OpenAI, house: Gateway, up: Scripted, asked: bool | None, shown: bool
) -> None:
    """A3; an explicit false is honoured toward the client too."""
    model = up.play(stream(hello()))
    more: Any = {} if asked is None else {"stream_options": {"include_usage": asked}}
    with client.chat.completions.create(model=model, messages=HI, stream=True, **more) as chunks:
        got = list(chunks)
    assert [c.usage.total_tokens for c in got if c.usage] == ([18] if shown else [])
    assert any(not c.choices for c in got) is shown
    assert up.wait(model, "ended").json()["stream_options"]["include_usage"] is True
    assert house.line(model=model)["prompt_tokens"] == 11  # the books have it either way


def test_stream_helper_accumulates(client: openai.OpenAI, up: Scripted) -> None:
    model = up.play(stream(hello()))
    with client.chat.completions.stream(model=model, messages=HI) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == "Hello"


def test_raw_response(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    """K2: the upstream's own headers are there, beside the gateway's."""
    more = [("x-request-id", "req_up"), ("openai-processing-ms", "12")]
    model = up.play(reply(completion(), headers=more), stream(hello(), headers=more))
    got = client.chat.completions.with_raw_response.create(model=model, messages=HI)
    assert got.parse().choices[0].message.content == "Hello"
    assert got.request_id == "req_up"
    assert got.headers["openai-processing-ms"] == "12"
    assert len(got.headers["x-gateway-request-id"]) == 26
    line = house.line(id=got.headers["x-gateway-request-id"])
    assert line["upstream_request_id"] == "req_up"
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=HI, stream=True
    ) as streamed:
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert list(streamed.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_tools(client: openai.OpenAI, up: Scripted) -> None:
    calls = [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "上海"}'},
        }
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    model = up.play(reply(completion(choices=[choice])))
    said = client.chat.completions.create(
        model=model, messages=HI, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    called: Any = (said.choices[0].message.tool_calls or [])[0]
    assert called.function.arguments == '{"city": "上海"}'
    sent = up.wait(model, "ended").json()
    assert sent["tools"] == [TOOL]
    assert sent["tool_choice"] == "required" and sent["parallel_tool_calls"] is False


def test_streamed_tools(client: openai.OpenAI, up: Scripted) -> None:
    def part(arguments: str, **more: Any) -> bytes:
        call = {"index": 0, "function": {"arguments": arguments}} | more
        return event(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])

    first = part("", id="call_1", type="function", function={"name": "weather", "arguments": ""})
    model = up.play(
        stream(
            [first, part('{"city":'), part(' "上海"}'), finish("tool_calls"), usage_event(), DONE]
        )
    )
    with client.chat.completions.stream(model=model, messages=HI, tools=[TOOL]) as events:
        final = events.get_final_completion()
    called: Any = (final.choices[0].message.tool_calls or [])[0]
    assert (called.function.name, called.function.arguments) == ("weather", '{"city": "上海"}')
    assert final.choices[0].finish_reason == "tool_calls"


def test_response_format(client: openai.OpenAI, up: Scripted) -> None:
    model = up.play(reply(completion('{"answer": 42}')))
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}},
    }
    said = client.chat.completions.create(model=model, messages=HI, response_format=schema)
    assert said.choices[0].message.content == '{"answer": 42}'
    assert up.wait(model, "ended").json()["response_format"] == schema


def test_several_choices(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    def of(index: int, **more: Any) -> bytes:
        return event(choices=[{"index": index, "delta": {}, "finish_reason": None} | more])

    events = [of(0, delta={"content": "a"}), of(1, delta={"content": "b"})]
    ends = [of(1, finish_reason="stop"), of(0, finish_reason="length"), usage_event(), DONE]
    model = up.play(stream(events + ends))
    with client.chat.completions.create(model=model, messages=HI, n=2, stream=True) as chunks:
        got = [(c.choices[0].index, c.choices[0].delta.content) for c in chunks]
    assert got[:2] == [(0, "a"), (1, "b")]
    assert house.line(model=model)["outcome"] == "ok"


async def test_async(house: Gateway, up: Scripted) -> None:
    one, two = up.play(reply(completion("one"))), up.play(stream(hello()))
    async with openai.AsyncOpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=0) as client:
        said = await client.chat.completions.create(model=one, messages=HI)
        assert said.choices[0].message.content == "one"
        async with await client.chat.completions.create(
            model=two, messages=HI, stream=True
        ) as chunks:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert text == "Hello"
    assert house.line(model=two)["outcome"] == "ok"


async def test_async_cancelled_call_lets_go_of_the_upstream(house: Gateway, up: Scripted) -> None:
    """B5: cancelling the caller's task closes the upstream's socket."""
    model = up.play([STALL])
    async with openai.AsyncOpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=0) as client:
        task = asyncio.create_task(client.chat.completions.create(model=model, messages=HI))
        await asyncio.to_thread(up.wait, model, "head")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = await asyncio.to_thread(up.wait, model, "ended")
    assert seen.ended == "client_closed"
    assert house.line(model=model)["outcome"] == "client_disconnect"


def test_echo_needs_no_upstream(client: openai.OpenAI, house: Gateway) -> None:
    """The built-in model: deterministic, streaming, honest usage."""
    said = client.chat.completions.create(model="echo", messages=HI)
    again = client.chat.completions.create(model="echo", messages=HI)
    with client.chat.completions.create(
        model="echo", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        got = list(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in got if c.choices)
    assert text == said.choices[0].message.content == again.choices[0].message.content
    assert said.usage and said.usage == again.usage == got[-1].usage
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens > 0


def test_models(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    up.play(
        reply(
            {"object": "list", "data": [{"id": "open-listed", "object": "model", "owned_by": "x"}]}
        ),
        name="models",
    )
    names = [model.id for model in client.models.list()]
    assert "echo" in names and "open-listed" in names
    assert len(names) == len(set(names))


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        ("400 Bad Request", "context_length_exceeded", openai.BadRequestError),
        ("401 Unauthorized", "invalid_api_key", openai.AuthenticationError),
        ("403 Forbidden", "unsupported_country", openai.PermissionDeniedError),
        ("404 Not Found", "model_not_found", openai.NotFoundError),
        ("409 Conflict", "conflict", openai.ConflictError),
        ("422 Unprocessable Entity", "odd", openai.UnprocessableEntityError),
        ("429 Too Many Requests", "rate_limit_exceeded", openai.RateLimitError),
        ("500 Internal Server Error", "server_error", openai.InternalServerError),
        ("503 Service Unavailable", "engine_overloaded", openai.InternalServerError),
        ("529 Overloaded", "overloaded", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_upstream_errors_pass_with_status_and_body(
    client: openai.OpenAI,
    house: Gateway,
    up: Scripted,
    status: str,
    code: str,
    raised: type[openai.APIStatusError],
    streaming: bool,
) -> None:
    """K4: no 500 for a 429; J5: an error that answers a stream request is JSON."""
    model = up.play(reply(error(status, code), status, [("x-request-id", "req_e")]))
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model=model, messages=HI, stream=streaming)
    assert caught.value.status_code == int(status[:3])
    assert caught.value.body == error(status, code)["error"]
    assert caught.value.request_id == "req_e"
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (int(status[:3]), "upstream_status")


def test_bad_request_of_the_gateway(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=7, messages=HI)  # type: ignore[call-overload]
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("key", ["gw_" + "x" * 40, ADMIN_TOKEN])
def test_issued_looking_keys_never_leave_the_process(
    house: Gateway, up: Scripted, key: str
) -> None:
    """401, one body for all; `x-should-retry: false`, so the client asks once although it may ask
    thrice."""
    model = up.play(reply(completion()), prefix="own")
    with (
        openai.OpenAI(base_url=house.v1, api_key=key, max_retries=2) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.code == "invalid_api_key"
    assert key not in caught.value.response.text
    assert up.calls(model) == []


def test_upstream_not_allowed(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    model = up.play(reply(completion()), prefix="keyed")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.code == "upstream_not_allowed"
    assert up.calls(model) == []
    assert house.line(model=model)["outcome"] == "refused"


def test_model_not_found(client: openai.OpenAI, house: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody-serves-this", messages=HI)
    assert caught.value.code == "model_not_found"
    assert house.line(model="nobody-serves-this")["outcome"] == "refused"


def test_unknown_url(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.get("/../v2/nothing", cast_to=object)


def test_upstream_refused(client: openai.OpenAI, house: Gateway) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="down-1", messages=HI)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert house.line(model="down-1")["outcome"] == "upstream_error"


def test_upstream_silent(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    model = up.play([STALL], prefix="hasty")
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    assert up.wait(model, "ended").ended == "client_closed"
    assert house.line(model=model)["outcome"] == "upstream_timeout"


def test_clients_own_timeout(house: Gateway, up: Scripted) -> None:
    """The client gives up first: APITimeoutError there, a client that left here."""
    model = up.play([STALL])
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=0, timeout=0.3) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (499, "client_disconnect")


def _cut_json(size: int) -> list[Step]:
    fields = [("Content-Type", "application/json"), ("Content-Length", str(size))]
    return [send(head(headers=fields)), send(b'{"id": "' + b"x" * (size // 2)), CUT]


def test_small_json_cut_is_a_readable_502(
    client: openai.OpenAI, house: Gateway, up: Scripted
) -> None:
    model = up.play(_cut_json(1000))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert house.line(model=model)["outcome"] == "upstream_truncated"


def test_large_json_cut_is_a_cut(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    """What has been begun cannot be unsaid: the client must not take the half for the whole."""
    model = up.play(_cut_json(4_000_000))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=model, messages=HI)
    assert house.line(model=model)["outcome"] == "upstream_truncated"


@pytest.mark.parametrize(
    ("ending", "code", "outcome", "prefix"),
    [
        (CUT, "upstream_error", "upstream_truncated", "open"),
        (STALL, "upstream_timeout", "upstream_timeout", "hasty"),
    ],
)
def test_error_raised_inside_the_stream(
    client: openai.OpenAI,
    house: Gateway,
    up: Scripted,
    ending: Step,
    code: str,
    outcome: str,
    prefix: str,
) -> None:
    """B12: what came is delivered, then APIError, never a success."""
    model = up.play([*stream([delta("Hel")], close=False), ending], prefix=prefix)
    got = []
    with (
        pytest.raises(openai.APIError) as caught,
        client.chat.completions.create(model=model, messages=HI, stream=True) as chunks,
    ):
        for chunk in chunks:
            got.append(chunk.choices[0].delta.content)
    assert got == ["Hel"]
    assert type(caught.value) is openai.APIError and caught.value.code == code
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (200, outcome)


def test_upstreams_own_error_inside_the_stream(
    client: openai.OpenAI, house: Gateway, up: Scripted
) -> None:
    """B13: passed on unchanged, booked as an error."""
    inside = b'data: {"error": {"message": "boom", "code": "engine"}}\n\n'
    model = up.play(stream([delta("Hel"), inside]))
    with (
        pytest.raises(openai.APIError, match="boom"),
        client.chat.completions.create(model=model, messages=HI, stream=True) as chunks,
    ):
        assert [c.choices[0].delta.content for c in chunks] == ["Hel"]
    assert house.line(model=model)["outcome"] == "upstream_in_band_error"


# Retries ------------------------------------------------------------------------------------------


def test_client_retries_as_the_upstream_says(house: Gateway, up: Scripted) -> None:
    """K2: `retry-after-ms` and `x-should-retry` reach the client unchanged; K4: each retry is a
    line of its own."""
    limited = reply(
        error("429", "rate_limit_exceeded"), "429 Too Many Requests", [("retry-after-ms", "1")]
    )
    model = up.play(limited, limited, reply(completion("third")))
    with openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client:
        said = client.chat.completions.create(model=model, messages=HI)
    assert said.choices[0].message.content == "third"
    lines = house.log.wait(3, model=model)
    assert [x["status"] for x in lines] == [429, 429, 200]
    assert [x["retry"] for x in lines] == [0, 1, 2]


def test_client_obeys_an_upstream_that_forbids_retries(house: Gateway, up: Scripted) -> None:
    headers = [("x-should-retry", "false"), ("retry-after", "1")]
    model = up.play(reply(error("500", "x"), "500 Internal Server Error", headers))
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.response.headers["retry-after"] == "1"
    assert len(up.calls(model)) == 1
    house.line(model=model)


def test_gateways_4xx_are_asked_once(house: Gateway) -> None:
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(model="asked-once", messages=HI)
    house.line(model="asked-once")


def test_overloaded(start: Start, up: Scripted) -> None:
    """503 with Retry-After where there are too many in flight; the one in flight is not hurt."""
    model = up.play([GATE, *reply(completion("first"))])
    gateway = start(max_in_flight=1)

    async def both() -> None:
        async with openai.AsyncOpenAI(
            base_url=gateway.v1, api_key=OWN_TOKEN, max_retries=0
        ) as client:
            first = asyncio.create_task(client.chat.completions.create(model=model, messages=HI))
            await asyncio.to_thread(up.wait, model, "head")
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="echo", messages=HI)
            up.go(model)
            assert (await first).choices[0].message.content == "first"
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert int(caught.value.response.headers["retry-after"]) >= 1

    asyncio.run(both())
