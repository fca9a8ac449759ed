"""The current openai client, unchanged but for its base URL (K5)."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.conftest import OWN_TOKEN
from tests.e2e.process import Gateway
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    DONE,
    STALL,
    USAGE,
    completion,
    event,
    finish,
    hello,
    reply,
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


# Other endpoints ----------------------------------------------------------------------------------


def test_embeddings(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    model = up.play(reply({"object": "list", "model": "m", "data": [vector], "usage": usage}))
    got = client.embeddings.create(model=model, input="hi", encoding_format="float")
    assert got.data[0].embedding == [0.5, -1.0]
    line = house.line(model=model)
    assert (line["endpoint"], line["outcome"], line["prompt_tokens"]) == ("embeddings", "ok", 3)


def test_file_upload_and_download(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    """K6: multipart up, bytes down, neither touched."""
    data = bytes(range(256)) * 2000
    made = {"id": "f", "object": "file", "bytes": len(data), "created_at": 1, "filename": "x",
            "purpose": "batch", "status": "processed"}  # fmt: skip
    up.play(reply(made), name="files")
    assert client.files.create(file=("x.bin", data), purpose="batch").id == "f"
    seen = up.wait("files", "ended")
    assert data in seen.body
    file = up.play(reply(data, kind="application/octet-stream"))
    assert client.files.content(file).read() == data
    assert house.line(path=f"/v1/files/{file}/content")["bytes_out"] == len(data)
