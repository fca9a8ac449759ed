"""Across forms: exact or not at all (D5-D7; design.md). The official client is the judge."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.wire import sse
from gateway.wire.assemble import assemble, disassemble

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "x_details": {"a": [1.0]}}
HEAD = {"id": "chatcmpl-1", "created": 7, "model": "m", "system_fingerprint": "fp"}


def events(*chunks: object, done: bool = True) -> bytes:
    found = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return (found + ("data: [DONE]\n\n" if done else "")).encode()


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return (
        {"object": "chat.completion.chunk", "usage": None, "choices": list(choices)} | HEAD | more
    )


def part(
    delta: Any = None, finish: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    return {"index": index, "delta": delta or {}, "finish_reason": finish} | more


END = (chunk(part(finish="stop")), chunk(usage=USAGE))


def built(*chunks: Any) -> Any:
    found = assemble(events(*chunks))
    return None if found is None else json.loads(found)


def message(*deltas: Any) -> Any:
    found = built(*(chunk(part(delta)) for delta in deltas), *END)
    return None if found is None else found["choices"][0]["message"]


# The official client ------------------------------------------------------------------------------


def accumulated(chunks: list[Any]) -> dict[str, Any]:
    """What openai-python makes of a stream."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for found in chunks:
        typed: Any = construct_type(type_=ChatCompletionChunk, value=found)
        list(state.handle_chunk(typed))
    return plain(state.current_completion_snapshot.to_dict())


def received(completion: Any) -> dict[str, Any]:
    """What openai-python makes of a completion."""
    typed: Any = construct_type(type_=ChatCompletion, value=completion)
    return plain(typed.to_dict())


def plain(found: Any) -> Any:
    """Without what openai-python adds of its own, and null for absent as its attributes are."""
    if isinstance(found, list):
        return [plain(item) for item in found]
    if not isinstance(found, dict):
        return found
    own = {"parsed", "parsed_arguments"} | ({"index"} if "function" in found else set())
    return {n: plain(v) for n, v in found.items() if n not in own and v is not None}


def read(stream: list[bytes]) -> list[Any]:
    payloads = [sse.payload(event) for event in stream]
    return [json.loads(p) for p in payloads if p and p != b"[DONE]"]


# Generated completions and streams ----------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
TOKENS = st.lists(
    st.fixed_dictionaries({"token": TEXT, "logprob": st.floats(-9, 0), "bytes": st.none()}),
    max_size=3,
)
FUNCTION = st.fixed_dictionaries({"name": st.just("f"), "arguments": TEXT})
CALL = st.fixed_dictionaries(
    {"id": st.just("call_1"), "type": st.just("function"), "function": FUNCTION}
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXT},
    optional={
        "refusal": st.none() | TEXT,
        "reasoning_content": st.none() | TEXT,
        "reasoning": TEXT,
        "tool_calls": st.lists(CALL, min_size=1, max_size=3),
        "function_call": FUNCTION,
        "made_up": st.none() | TEXT,
        "annotations": st.just([]),
        "audio": st.none(),
    },
)
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE, "finish_reason": st.sampled_from(["stop", "tool_calls", "function_call"])},
    optional={
        "logprobs": st.none()
        | st.fixed_dictionaries({"content": TOKENS, "refusal": st.none() | TOKENS}),
        "content_filter_results": st.just({"hate": {"filtered": False}}),
    },
)
COMPLETION = st.builds(
    lambda choices, more: (
        HEAD
        | {"object": "chat.completion", "usage": USAGE}
        | more
        | {"choices": [{"index": i} | choice for i, choice in enumerate(choices)]}
    ),
    st.lists(CHOICE, min_size=1, max_size=3),
    st.fixed_dictionaries(
        {}, optional={"service_tier": st.just("default"), "timings": st.just({"ms": 1.0})}
    ),
)


def cut(text: str, draw: Any) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def deltas_of(found: dict[str, Any], draw: Any) -> list[Any]:
    """A message as a provider might stream it: texts in pieces, calls by index."""
    deltas: list[Any] = [{}]
    for name, value in found.items():
        if name in ("content", "refusal", "reasoning_content", "reasoning") and value is not None:
            deltas += [{name: piece} for piece in cut(value, draw)]
        elif name == "tool_calls":
            for i, call in enumerate(value):
                pieces = cut(call["function"]["arguments"], draw)
                first = call | {"function": call["function"] | {"arguments": pieces[0]}}
                deltas.append({"tool_calls": [{"index": i} | first]})
                deltas += [
                    {"tool_calls": [{"index": i, "function": {"arguments": p}}]} for p in pieces[1:]
                ]
        elif name == "function_call":
            pieces = cut(value["arguments"], draw)
            deltas.append({name: value | {"arguments": pieces[0]}})
            deltas += [{name: {"arguments": p}} for p in pieces[1:]]
        else:
            deltas[0][name] = value
    return deltas


@st.composite
def streams(draw: Any) -> tuple[Any, list[Any]]:
    """A completion, and chunks that make it up."""
    completion = draw(COMPLETION)
    head = {
        n: v for n, v in completion.items() if n not in ("choices", "usage", "object", "timings")
    }
    queues = []
    for choice in completion["choices"]:
        more = {
            n: v for n, v in choice.items() if n not in ("message", "finish_reason", "logprobs")
        }
        parts = [
            more | {"delta": d, "finish_reason": None} for d in deltas_of(choice["message"], draw)
        ]
        if "logprobs" in choice:
            parts[0]["logprobs"] = choice["logprobs"]
            if choice["logprobs"] and draw(st.booleans()):
                tokens = choice["logprobs"]["content"]
                parts[0]["logprobs"] = choice["logprobs"] | {"content": tokens[:1]}
                parts.append(
                    more | {"delta": {}, "logprobs": {"content": tokens[1:], "refusal": None}}
                )
        parts.append(more | {"delta": {}, "finish_reason": choice["finish_reason"]})
        queues.append(parts)
    chunks = [chunk(*(queue.pop(0) for queue in queues))]
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        chunks.append(chunk(queue.pop(0), obfuscation="xyz"))
    chunks.append(chunk(usage=USAGE))
    chunks = [found | head for found in chunks]
    if "timings" in completion:
        chunks[-2]["timings"] = completion["timings"]
    return completion, chunks


@given(streams())
def test_d6_a_stream_makes_up_the_completion(case):
    completion, chunks = case
    assert built(*chunks) == completion


@given(streams())
def test_d6_it_is_what_the_official_client_accumulates(case):
    _, chunks = case
    expected = received(json.loads(assemble(events(*chunks)) or b"null"))
    expected.pop("timings", None)  # openai-python keeps unknown members of the first chunk only
    assert accumulated(chunks) == expected


@given(COMPLETION)
def test_d6_disassembled_and_assembled_is_the_same(completion):
    body = json.dumps(completion).encode()
    stream = disassemble(body, True)
    assert stream is not None
    assert json.loads(assemble(b"".join(stream)) or b"null") == completion
    assert accumulated(read(stream)) == received(completion)


@given(COMPLETION)
def test_d7_usage_is_there_for_who_asked(completion):
    stream = disassemble(json.dumps(completion).encode(), False)
    assert stream is not None
    assert stream[-1] == b"data: [DONE]\n\n"
    assert all("usage" not in found and found["choices"] for found in read(stream))
    asked = disassemble(json.dumps(completion).encode(), True)
    assert asked is not None
    assert [found["usage"] for found in read(asked)] == [None] * (len(asked) - 2) + [USAGE]
    assert read(asked)[-1]["choices"] == []


# Rules, one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([{"content": "a"}, {"content": "b"}], {"content": "ab"}),
        ([{"content": ""}, {"content": "b"}, {"content": ""}], {"content": "b"}),
        ([{"content": None}, {"content": "b"}, {"content": None}], {"content": "b"}),
        ([{"content": None}, {"content": None}], {"content": None}),
        ([{"role": "assistant", "content": ""}], {"role": "assistant", "content": ""}),
        ([{"role": "assistant"}, {"role": None}], {"role": "assistant"}),
        ([{"role": "assistant"}, {"role": "assistant"}], None),
        ([{"reasoning": "a"}, {"content": "b"}], {"reasoning": "a", "content": "b"}),
        ([{"reasoning_content": "a"}, {"reasoning_content": "b"}], {"reasoning_content": "ab"}),
        ([{"refusal": "a"}, {"refusal": "b"}], {"refusal": "ab"}),
        ([{"content": 1}], None),
        ([{"content": ["a"]}], None),
        ([{"made_up": "a"}], {"made_up": "a"}),
        ([{"made_up": "a"}, {"made_up": "b"}], None),
        ([{"made_up": {"a": 1}}], None),
        ([{"made_up": 1}], None),
        ([{"annotations": [{"type": "url_citation"}]}], None),
        ([{"annotations": []}], {"annotations": []}),
        ([{"audio": {"id": "a"}}], None),
        ([{"audio": None}], {"audio": None}),
        ([{"tool_calls": None}], {"tool_calls": None}),
        ([{"tool_calls": []}], {"tool_calls": []}),
        ([{"tool_calls": [{"index": 1, "id": "a"}]}], None),
        ([{"tool_calls": [{"id": "a"}]}], None),
        ([{"tool_calls": ["a"]}], None),
        ([{"tool_calls": [{"index": 0, "id": "a"}]}] * 2, None),
        ([{"tool_calls": [{"index": 0, "function": {"name": "f"}}]}] * 2, None),
        (
            [
                {"tool_calls": [{"index": 0, "id": "a", "type": "function",
                                 "function": {"name": "f", "arguments": ""}}]},
                {"tool_calls": [{"index": 0, "id": None, "type": "function",
                                 "function": {"name": None, "arguments": "{"}}]},
                {"tool_calls": [{"index": 0, "id": "",
                                 "function": {"name": "", "arguments": "}"}}]},
            ],
            {"tool_calls": [{"id": "a", "type": "function",
                             "function": {"name": "f", "arguments": "{}"}}]},
        ),
        (
            [
                {"function_call": {"name": "f", "arguments": "{"}},
                {"function_call": {"arguments": "}"}},
            ],
            {"function_call": {"name": "f", "arguments": "{}"}},
        ),
    ],
)  # fmt: skip
def test_members_of_the_message(deltas, expected):
    assert message(*deltas) == expected


HELLO = chunk(part({"role": "assistant", "content": "a"}))


@pytest.mark.parametrize(
    "chunks",
    [
        [HELLO, END[0]],  # no usage
        [HELLO, END[0], chunk(usage="?")],
        [HELLO, END[1]],  # no finish reason
        [END[1]],  # no choices
        [],
        [HELLO, *END, chunk()],  # openai-python forgets the usage
        [HELLO, END[0], chunk(usage=USAGE, system_fingerprint=None)],
        [HELLO | {"object": "other"}, *END],
        [HELLO, {"error": {"message": "x"}}, *END],
        [HELLO, chunk(part(finish="length")), *END],
        [HELLO, chunk(part({}, index=2)), *END],
        [HELLO, chunk(part({}) | {"index": None}), *END],
        [HELLO, chunk(part({}) | {"index": True}), *END],
        [HELLO, chunk(part({}, stop_reason=1)), chunk(part({}, stop_reason=1.0)), *END],
        [HELLO, chunk(part({}, logprobs={"tokens": []})), *END],
        [HELLO, chunk(part({}, logprobs={"content": "x"})), *END],
        [HELLO, chunk(part([1])), *END],
        [HELLO, chunk(choices=None), *END],
        [HELLO, chunk(made_up=1), chunk(made_up=2), *END],
        [HELLO, chunk(id="another"), *END],
        [[HELLO], *END],
    ],
)
def test_what_is_not_surely_exact_is_no_completion(chunks):
    assert assemble(events(*chunks)) is None


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: [DONE]\n\n",
        b"data: {\n\ndata: [DONE]\n\n",
        b"data: \xff\n\n",
        events(HELLO, *END, done=False),
        events(HELLO, *END)[:-20],
        events(chunk(part({"content": "\ud800"})), *END),
        b"data: " + b"[" * 100_000,
    ],
)
def test_what_is_no_whole_stream_is_no_completion(stream):
    assert assemble(stream) is None


def test_framing_comments_and_what_follows_the_end_do_not_matter():
    stream = b": hi\n\n" + events(HELLO, *END).replace(b"\n", b"\r\n") + b"data: rubbish\n\n"
    assert assemble(stream) == assemble(events(HELLO, *END))
    assert assemble(stream) is not None


def test_a9_the_last_usage_is_the_completions():
    assert built(HELLO | {"usage": {"prompt_tokens": 1}}, *END)["usage"] == USAGE


def test_the_first_chunks_time_is_the_completions():
    assert built(HELLO | {"created": 5}, *END)["created"] == 5


COMPLETE = HEAD | {
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    ],
    "usage": USAGE,
}


def test_a_completion_in_events():
    assert b"".join(disassemble(json.dumps(COMPLETE).encode(), True) or []) == (
        b'data: {"id":"chatcmpl-1","created":7,"model":"m","system_fingerprint":"fp",'
        b'"object":"chat.completion.chunk","choices":[{"index":0,'
        b'"delta":{"role":"assistant","content":"a"},"finish_reason":null}],"usage":null}\n\n'
        b'data: {"id":"chatcmpl-1","created":7,"model":"m","system_fingerprint":"fp",'
        b'"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},'
        b'"finish_reason":"stop"}],"usage":null}\n\n'
        b'data: {"id":"chatcmpl-1","created":7,"model":"m","system_fingerprint":"fp",'
        b'"object":"chat.completion.chunk","choices":[],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"x_details":{"a":[1.0]}}}\n\n'
        b"data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"usage": None},
        {"object": "text_completion"},
        {"choices": []},
        {"choices": None},
        {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "message": {}, "finish_reason": None}]},
        {"choices": [{"index": 1, "message": {}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "message": {"audio": {"id": "a"}}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "message": {"annotations": [1]}, "finish_reason": "stop"}]},
        {
            "choices": [
                {"index": 0, "message": {"tool_calls": [{"index": 0}]}, "finish_reason": "stop"}
            ]
        },
        {
            "choices": [
                {"index": 0, "message": {}, "finish_reason": "stop", "delta": {"content": "x"}}
            ]
        },
        {"obfuscation": "x"},
        {"error": {"message": "x"}},
    ],
)
def test_a_completion_that_would_not_come_back_is_no_stream(change):
    assert disassemble(json.dumps(COMPLETE | change).encode(), True) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_completion_is_no_stream(body):
    assert disassemble(body, False) is None


@given(st.binary(max_size=50))
def test_no_bytes_raise(data):
    assert disassemble(data, True) is None
    assert assemble(b"data: " + data + b"\n\ndata: [DONE]\n\n") is None
