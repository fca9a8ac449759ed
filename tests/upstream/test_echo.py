"""The built-in model: deterministic bytes, honest usage, OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import SystemClock
from gateway.config import Duration, UpstreamSection
from gateway.errors import UpstreamCut
from gateway.exchange import CallerKind
from gateway.upstream import build
from gateway.upstream.echo import EchoUpstream, count, pieces
from tests.upstream.conftest import ISSUED, call


def echo(delay: float = 0) -> EchoUpstream:
    section = UpstreamSection(
        name="echo", base_url="echo:", models=["echo", "e-*"], delay=Duration(delay)
    )
    found = build(section, instance_id="me", clock=SystemClock())
    assert isinstance(found, EchoUpstream)
    return found


async def ask(body: Any, **changes: Any) -> tuple[int, dict[str, str], list[bytes]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with await echo().send(call(raw, **changes)) as reply:
        chunks = []
        while data := await reply.read():
            chunks.append(data)
        assert reply.length in (None, sum(map(len, chunks)))
        return reply.status, dict(reply.headers), chunks


def request(content: Any = "Hello, world", **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": content}], **more}


async def completion(body: Any) -> dict[str, Any]:
    status, headers, chunks = await ask(body)
    assert status == 200, chunks
    assert headers["content-type"] == "application/json"
    found: dict[str, Any] = json.loads(b"".join(chunks))
    return found


async def events(body: dict[str, Any]) -> list[Any]:
    status, headers, chunks = await ask({**body, "stream": True})
    assert status == 200, chunks
    assert headers["content-type"].startswith("text/event-stream")
    assert all(c.startswith(b"data: ") and c.endswith(b"\n\n") for c in chunks)
    assert chunks[-1] == b"data: [DONE]\n\n"
    return [json.loads(c[6:]) for c in chunks[:-1]]


async def test_the_whole_completion() -> None:
    found = await completion(request())
    assert found == {
        "id": found["id"],
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "echo",
        "system_fingerprint": "fp_echo",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip
    assert found["id"].startswith("chatcmpl-")


@pytest.mark.parametrize(
    ("messages", "content", "prompt_tokens"),
    [
        ([], "", 0),
        ([{"role": "system", "content": "only"}], "", 1),
        ([{"role": "user", "content": "one"}, {"role": "assistant", "content": "x"}], "one", 2),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "b", 2),
        ([{"role": "user", "content": None}], "", 0),
        ([{"role": "user"}], "", 0),
        ([{"role": "user", "content": "你好吗"}], "你好吗", 3),
        (
            [{"role": "user", "content": [
                {"type": "text", "text": "what "}, {"type": "image_url", "image_url": {"url": "x"}},
                {"type": "text", "text": "is"}, "odd", {},
            ]}],
            "what [image_url]is[part]",
            8,
        ),
    ],
)  # fmt: skip
async def test_it_says_the_last_user_message(
    messages: list[Any], content: str, prompt_tokens: int
) -> None:
    found = await completion({"model": "echo", "messages": messages})
    assert found["choices"][0]["message"]["content"] == content
    assert found["usage"]["prompt_tokens"] == prompt_tokens


async def test_equal_requests_get_equal_bytes_and_others_another_id() -> None:
    first, again, other = [await ask(b) for b in (request("a"), request("a"), request("b"))]
    assert first == again
    assert json.loads(first[2][0])["id"] != json.loads(other[2][0])["id"]
    streamed = await events(request("a", stream_options={"include_usage": True}))
    assert streamed[0]["id"] == json.loads(first[2][0])["id"]


async def test_a_stream_has_a_role_a_chunk_per_token_and_an_end() -> None:
    found = await events(request("Hello, 你 world \n"))
    deltas = [e["choices"][0]["delta"] for e in found]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [d["content"] for d in deltas[1:-1]] == ["Hello", ",", " 你", " world \n"]
    assert deltas[-1] == {}
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * 5 + ["stop"]
    assert not any("usage" in e for e in found)
    assert {e["object"] for e in found} == {"chat.completion.chunk"}


async def test_usage_on_a_stream_only_where_asked() -> None:
    """As OpenAI: null on the others, choices [] on its own (A2, A3)."""
    found = await events(request("a b", stream_options={"include_usage": True}))
    assert [e["usage"] for e in found[:-1]] == [None] * 4
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 4
    assert not any("usage" in e for e in await events(request(stream_options={})))


@given(st.text(max_size=60))
def test_pieces_join_to_the_text_and_number_its_tokens(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    assert len(found) == max(count(text), 1 if text else 0)


@given(st.text(max_size=40))
def test_a_stream_says_what_the_completion_says(text: str) -> None:
    """Lone surrogates included: JSON can say them, UTF-8 cannot."""

    async def both() -> None:
        whole = (await completion(request(text)))["choices"][0]["message"]["content"]
        parts = [e["choices"][0]["delta"].get("content", "") for e in await events(request(text))]
        assert "".join(parts) == whole == text

    asyncio.run(both())


async def test_a_lone_surrogate_survives() -> None:
    found = await completion(b'{"model":"echo","messages":[{"role":"user","content":"\\ud800"}]}')
    assert found["choices"][0]["message"]["content"] == "\ud800"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_cap_cuts_and_says_so(name: str) -> None:
    found = await completion(request("one two three", **{name: 2}))
    assert found["choices"][0]["message"]["content"] == "one two"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 2
    enough = await completion(request("one two three", **{name: 3}))
    assert enough["choices"][0]["finish_reason"] == "stop"


async def test_several_choices() -> None:
    found = await completion(request("a b", n=3))
    assert [c["index"] for c in found["choices"]] == [0, 1, 2]
    assert found["usage"]["completion_tokens"] == 6
    streamed = await events(request("a b", n=3))
    for index in range(3):
        of_one = [e["choices"][0] for e in streamed if e["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in of_one) == "a b"
        assert of_one[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_where_json_is_asked_for(kind: str) -> None:
    found = await completion(request('say "hi"', response_format={"type": kind}))
    assert json.loads(found["choices"][0]["message"]["content"]) == {"echo": 'say "hi"'}


TOOLS = [{"type": "function", "function": {"name": f}} for f in ("first", "second")]
NAMED = {"type": "function", "function": {"name": "second"}}


@pytest.mark.parametrize(("choice", "tool"), [("required", "first"), (NAMED, "second")])
async def test_a_tool_is_called_where_it_must_be(choice: Any, tool: str) -> None:
    body = request("du 你", tools=TOOLS, tool_choice=choice)
    found = (await completion(body))["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] is None
    [called] = found["message"]["tool_calls"]
    assert (called["type"], called["function"]["name"]) == ("function", tool)
    assert json.loads(called["function"]["arguments"]) == {"text": "du 你"}
    deltas = [e["choices"][0]["delta"] for e in await events(body)]
    [first] = deltas[0]["tool_calls"]
    assert (first["index"], first["id"], first["function"]["name"]) == (0, called["id"], tool)
    joined = "".join(
        d["tool_calls"][0]["function"]["arguments"] for d in deltas if d.get("tool_calls")
    )
    assert joined == called["function"]["arguments"]


@pytest.mark.parametrize("choice", [None, "auto", "none"])
async def test_tools_alone_change_nothing(choice: str | None) -> None:
    found = await completion(request("a", tools=TOOLS, tool_choice=choice))
    assert found["choices"][0]["message"]["content"] == "a"


BAD: list[tuple[Any, str, str | None]] = [
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b"null", "invalid_json", None),
    (b'"\xff"', "invalid_json", None),
    (b"[" * 100_000, "invalid_json", None),
    ({"messages": []}, "invalid_request", "model"),
    ({"model": 1, "messages": []}, "invalid_request", "model"),
    ({"model": "echo"}, "invalid_request", "messages"),
    ({"model": "echo", "messages": "hi"}, "invalid_request", "messages"),
    ({"model": "echo", "messages": ["hi"]}, "invalid_request", "messages"),
    (request(n=0), "invalid_request", "n"),
    (request(n=129), "invalid_request", "n"),
    (request(n=True), "invalid_request", "n"),
    (request(max_tokens=-1), "invalid_request", "max_tokens"),
    (request(max_completion_tokens="9"), "invalid_request", "max_completion_tokens"),
    (request(tool_choice="required"), "invalid_request", "tool_choice"),
    (request(tool_choice="required", tools=[]), "invalid_request", "tool_choice"),
    (request(tool_choice="required", tools=[5]), "invalid_request", "tool_choice"),
    (request(tool_choice=NAMED), "invalid_request", "tool_choice"),
    (request(tool_choice={}), "invalid_request", "tool_choice"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD)
async def test_bad_input_is_a_400_in_openais_shape(body: Any, code: str, param: str | None) -> None:
    status, headers, chunks = await ask(body)
    error = json.loads(b"".join(chunks))["error"]
    assert (status, headers["content-type"]) == (400, "application/json")
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "models", 200),
        ("GET", "models/echo", 200),
        ("GET", "models/e-1", 200),
        ("GET", "models/other", 404),
        ("POST", "embeddings", 404),
        ("GET", "chat/completions", 404),
    ],
)
async def test_other_paths(method: str, path: str, status: int) -> None:
    found, _, chunks = await ask(b"", method=method, path=path)
    assert found == status
    assert ("error" in json.loads(chunks[0])) is (status == 404)


async def test_a_streamed_request_body_is_read() -> None:
    async def body() -> Any:
        raw = json.dumps(request("x y")).encode()
        yield raw[:10]
        yield raw[10:]

    with await echo().send(call(body())) as reply:
        found = json.loads(await reply.read())
    assert found["choices"][0]["message"]["content"] == "x y"


async def test_what_it_is() -> None:
    upstream = echo()
    assert upstream.builtin
    assert all(upstream.accepts(kind) for kind in CallerKind)
    assert upstream.serves("echo")
    assert not upstream.serves("gpt")
    assert upstream.injects_usage
    assert [m["id"] for m in await upstream.models(ISSUED)] == ["echo"]
    assert not upstream.relays("models/../x", "GET")


async def test_the_delay_stands_before_each_chunk_and_ends_with_close() -> None:
    """No waiting for a minute: `close` wakes who waits."""
    upstream = echo(delay=60)
    reply = await upstream.send(call(json.dumps(request("a", stream=True)).encode()))
    waiting = asyncio.create_task(reply.read())
    await asyncio.sleep(0)
    assert upstream.stats.in_flight == 1
    reply.close()
    reply.close()
    with pytest.raises(UpstreamCut):
        await waiting
    with pytest.raises(UpstreamCut):
        await reply.read()
    assert upstream.stats.outcomes == {"abandoned": 1}
    assert upstream.stats.in_flight == 0


async def test_a_stream_lets_others_run() -> None:
    """A long echo must not hold the loop."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await events(request("word " * 50))
    task.cancel()
    assert turns > 50
