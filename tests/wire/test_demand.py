"""What a request may take: never less than its text has bytes, and not known where it is no text.

Issue: quotas, "Reserve, then settle". The bound is UTF-8 bytes + 64 + 16 for each message.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.demand import Demand, demand_of, with_cap

CHAT = "chat/completions"
UNREADABLE = (None, None, False)


def demand(path: str = CHAT, **body: Any) -> Demand:
    return demand_of(json.dumps(body).encode(), path)


def chat(*messages: Any, **more: Any) -> Demand:
    return demand(messages=list(messages), model="m", **more)


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def compact(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


TOOL = {"type": "function", "function": {"name": "grüße", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([], 0),
        ([user("")], 0),
        ([user("hello")], 5),
        ([user("äß€🙂")], 2 + 2 + 3 + 4),
        ([user("a", name="alice")], 6),
        ([user(None, refusal="no")], 2),
        ([user([text("ab"), text("c")])], 3 + 1),  # and what joins them
        ([user(["ab", "c"])], 3 + 1),
        ([user([{"type": "refusal", "refusal": "no"}])], 2),
        ([{"role": "assistant", "tool_calls": [CALL]}], compact([CALL])),
        ([{"role": "tool", "tool_call_id": "c1", "content": "7"}], 3),
        ([{"role": "x" * 50, "content": "a"}], 51),  # a template may write any role out
        ([user("a"), {"role": "developer", "content": "b"}], 2),
    ],
)
def test_a_prompt_s_bound_is_its_bytes(messages, size):
    found = chat(*messages)
    assert found.prompt == size + 64 + 16 * len(messages)
    assert found.text_bytes == size
    assert (found.n, found.output, found.extra_output, found.capped) == (1, None, 0, ())
    assert found.metered


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [TOOL, {"type": "custom", "custom": {"name": "x"}}]},
        {"functions": [TOOL["function"]]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "ä", "schema": {}}}},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"documents": [{"title": "not OpenAI's"}]},
        {"tools": None},
    ],
)
def test_what_stands_beside_the_messages_is_read_as_its_json(more):
    [value] = more.values()
    size = 0 if value is None else compact(value)
    assert chat(user("hi"), **more).prompt == 2 + size + 64 + 16


@pytest.mark.parametrize(
    "more",
    [{"metadata": {"a": "b" * 99}}, {"user": "u" * 99}, {"logit_bias": {"1": -100}}, {"stop": "x"}],
)
def test_what_no_model_reads_takes_nothing(more):
    assert chat(user("hi"), **more) == chat(user("hi"))


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [user([text("look"), PICTURE])]},
        {"messages": [user([{"type": "input_audio", "input_audio": {}}])]},
        {"messages": [user([{"type": "file", "file": {"file_id": "f"}}])]},
        {"messages": [user([{"type": "video_url"}])]},
        {"messages": [user([{"text": "no type"}])]},
        {"messages": [user([{"type": ["text"], "text": "x"}])]},
        {"messages": [user([5])]},
        {"messages": [user({"text": "x"})]},
        {"messages": [user(5)]},
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}]},
        {"messages": ["hello"]},
        {"messages": "hello"},
        {"messages": {"role": "user"}},
        {"messages": None},
        {},
        {"messages": [user("x")], "tools": [{"type": "web_search"}]},
        {"messages": [user("x")], "tools": [{"function": {}}]},
        {"messages": [user("x")], "tools": ["x"]},
        {"messages": [user("x")], "tools": {}},
        {"messages": [user("x")], "web_search_options": {}},
        {"messages": [user("x")], "chat_template": "{{ x }}"},
        {"messages": [user("x")], "prediction": {"type": "content", "content": [PICTURE]}},
        {"messages": [user("x")], "prediction": "x"},
    ],
)
def test_what_is_no_text_has_no_bound(body):
    found = demand(**body)
    assert found.prompt is None
    assert found.metered  # its usage is told all the same


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":"long and longer","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"long","con\\u0074ent":"a \\u003a"}]}',
        rb'{"messages":[{"role":"user","content":"long","content":"\u003a"}]}',
        rb'{"messages":[{"role":"user","content":"long","content":"\u003A"}]}',
    ],
)
def test_a_name_that_stands_twice_has_no_bound(body):
    """Readers differ in which they take, and the longer one may be the upstream's."""
    assert demand_of(body, CHAT).prompt is None


def test_an_escape_that_is_spoken_of_is_no_name_that_stands_twice():
    found = demand_of(rb'{"messages":[{"role":"user","content":"write \\u003a or \u003a"}]}', CHAT)
    assert found.prompt == len(rb"write \u003a or :") + 64 + 16


@pytest.mark.parametrize(
    ("more", "output", "capped"),
    [
        ({}, None, ()),
        ({"max_tokens": None}, None, ()),
        ({"max_tokens": 5}, 5, ("max_tokens",)),
        ({"max_completion_tokens": 7}, 7, ("max_completion_tokens",)),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9, ("max_completion_tokens", "max_tokens")),
        ({"max_tokens": 0}, 0, ("max_tokens",)),
        ({"max_tokens": 5.0}, 5, ("max_tokens",)),
        ({"max_tokens": "5"}, 5, ("max_tokens",)),
        ({"max_tokens": -1}, None, ("max_tokens",)),
        ({"max_tokens": 5, "max_completion_tokens": -1}, None,
         ("max_completion_tokens", "max_tokens")),
        ({"max_tokens": "many"}, None, ("max_tokens",)),
        ({"max_tokens": True}, None, ("max_tokens",)),
    ],
)  # fmt: skip
def test_the_largest_cap_counts(more, output, capped):
    """Lenient servers read 5.0 and "5", some take -1 for no cap."""
    found = chat(user("x"), **more)
    assert (found.output, found.capped) == (output, capped)


@pytest.mark.parametrize(
    ("more", "n"), [({}, 1), ({"n": None}, 1), ({"n": 3}, 3), ({"n": 0}, 1), ({"n": "x"}, 1)]
)
def test_each_answer_counts(more, n):
    assert chat(user("x"), **more).n == n


def test_a_prediction_may_be_billed_as_output():
    predicted = {"type": "content", "content": [text("äb")]}
    found = chat(user("x"), prediction=predicted)
    assert (found.extra_output, found.prompt) == (3, 1 + 64 + 16)


@pytest.mark.parametrize(
    ("prompt", "size", "pieces"),
    [
        (None, 0, 1), ("", 0, 1), ("äb", 3, 1), (["a", "bc"], 3, 2), ([5, 6, 7], 3, 1),
        ([[5], [6, 7]], 3, 2), (["a", [5, 6]], 3, 2), ([], 0, 0), ([5, "a"], None, 2),
        ([True], None, 1), ([1.5], None, 1), ({"a": 1}, None, 1), ([[]], None, 1),
    ],
)  # fmt: skip
def test_completions_have_prompts_and_answers_for_each(prompt, size, pieces):
    found = demand("completions", prompt=prompt, n=2, best_of=3, max_tokens=10, suffix="xyz")
    assert found.prompt == (None if size is None else size + 3 + 64 + 16 * pieces)
    assert found.n == 3 * max(1, pieces)
    assert (found.output, found.field, found.metered) == (10, "max_tokens", True)


def test_embeddings_take_no_output():
    found = demand("embeddings", input=["ab", "c"], dimensions=5, max_tokens=5)
    assert (found.prompt, found.output, found.n) == (3 + 64 + 32, 0, 1)
    assert demand("embeddings", input=[[1, 2], [3]]).prompt == 3 + 64 + 32
    assert demand("embeddings", input=[{"image": "x"}]).prompt is None
    assert demand("embeddings", messages=[user("x")]).prompt is None


def test_moderations_are_bounded_pictures_included():
    assert demand("moderations", input=["ab", "c"]).prompt is not None
    assert demand("moderations", input=[text("ab"), PICTURE]).output == 0
    assert demand("moderations", input=[text("ab"), PICTURE]).prompt is not None


@pytest.mark.parametrize(
    ("more", "metered"),
    [
        ({}, True), ({"background": True}, False), ({"background": False}, True),
        ({"tools": [{"type": "function", "name": "f"}]}, True),
        ({"tools": [{"type": "web_search"}]}, False),
    ],
)  # fmt: skip
def test_responses_are_metered_where_they_end_with_their_answer(more, metered):
    found = demand("responses", input="hi", max_output_tokens=9, **more)
    assert (found.metered, found.prompt) == (metered, None)
    assert (found.output, found.capped, found.field) == (
        9,
        ("max_output_tokens",),
        "max_output_tokens",
    )


@pytest.mark.parametrize("path", ["images/generations", "audio/speech", "files", "x", ""])
def test_other_paths_are_not_metered(path):
    assert not demand(path, prompt="x").metered


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"5", b"{", b"\xff", b'{"messages":' + b"[" * 100_000,
     b'{"a":' + b"1" * 9999, b'{"messages":[],"x":' + b'{"x":' * 5000 + b"1" + b"}" * 5001],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "completions", "embeddings", "moderations", "responses"])
def test_what_cannot_be_read_is_not_metered(body, path):
    found = demand_of(body, path)
    assert (found.prompt, found.output, found.metered) == UNREADABLE
    assert found.text_bytes == len(body)


def test_a_body_that_only_lenient_readers_read_is_bounded_too():
    """NaN, half a character, a byte order mark: relayed, so counted."""
    odd = b'\xef\xbb\xbf{"messages":[{"role":"user","content":"a\\ud800"}],"temperature":NaN}'
    assert demand_of(odd, CHAT).prompt == 1 + 3 + 64 + 16


# Properties ---------------------------------------------------------------------------------------

words = st.text(max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"])},
        optional={
            "content": words | st.lists(st.builds(text, words), max_size=3),
            "name": words,
            "tool_calls": st.lists(anything, max_size=2),
            "reasoning_content": words,
        },
    ),
    max_size=4,
)


def said(value: Any) -> int:
    """UTF-8 bytes of every string, however deep, but roles and the types of parts."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        typed = value.get("type") == "text"
        left = {k: v for k, v in value.items() if k != "role" and not (typed and k == "type")}
        return sum(said(inner) for inner in left.values())
    return sum(said(inner) for inner in value) if isinstance(value, list) else 0


@given(messages, st.booleans())
def test_no_string_is_left_out(conversation, escaped):
    body = json.dumps({"model": "m", "messages": conversation}, ensure_ascii=escaped)
    found = demand_of(body.encode(), CHAT)
    assert found.prompt is not None
    assert found.prompt >= said(conversation) + 64 + 16 * len(conversation)
    assert found.prompt <= len(json.dumps(conversation).encode()) + 64 + 16 * len(conversation)


@given(messages, messages, words)
def test_more_to_read_never_takes_less(conversation, more, added):
    least = chat(*conversation).prompt
    assert least is not None
    for longer in (chat(*conversation, *more), chat(*conversation, user=added, stop=added),
                   chat(*conversation, documents=added)):  # fmt: skip
        assert longer.prompt is not None
        assert longer.prompt >= least


names = st.sampled_from(
    [*("messages", "prompt", "input", "n", "tools", "max_tokens", "prediction", "best_of")]
)
paths = st.sampled_from([CHAT, "completions", "embeddings", "moderations", "responses", "x"])


@given(st.dictionaries(names | words, anything), paths)
def test_nothing_raises(body, path):
    found = demand_of(json.dumps(body).encode(), path)
    assert found.prompt is None or found.prompt >= found.text_bytes
    assert found.n >= 1
    assert found.output is None or found.output >= 0


@given(st.binary(max_size=40))
def test_no_bytes_raise(body):
    assert demand_of(body, CHAT).text_bytes >= 0


caps = st.none() | st.integers(-1, 10**6) | st.sampled_from([5.0, "7", "many"])


@given(
    st.dictionaries(words.filter(lambda name: "max" not in name), anything, max_size=3),
    st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens"]), caps),
    st.integers(1, 10**6),
    st.booleans(),
)
def test_a_cap_is_lowered_and_nothing_else_changes(body, asked, cap, indented):
    raw = json.dumps({**body, **asked, "z": 1}, indent=2 if indented else None).encode()
    before = demand_of(raw, CHAT)
    edited = with_cap(raw, cap, before, "max_completion_tokens")
    found = json.loads(edited)
    assert {k: v for k, v in found.items() if not k.startswith("max_")} == {**body, "z": 1}
    after = demand_of(edited, CHAT)
    assert after.output is not None
    assert after.output <= cap
    assert after.capped == (before.capped or ("max_completion_tokens",))
    for name in before.capped:
        low = isinstance(asked[name], int) and 0 <= asked[name] <= cap
        assert not low or found[name] == asked[name]


@pytest.mark.parametrize(
    ("body", "path", "edited"),
    [
        (b'{ "max_tokens" : 900 }', CHAT, b'{ "max_tokens" : 300 }'),
        (b'{"max_tokens":200}', CHAT, b'{"max_tokens":200}'),
        (b'{"max_tokens":900,"max_completion_tokens":200}', CHAT,
         b'{"max_tokens":300,"max_completion_tokens":200}'),
        (b'{"max_tokens":-1}', CHAT, b'{"max_tokens":300}'),
        (b'{"max_tokens":null}', CHAT, b'{"max_tokens":null,"max_completion_tokens":300}'),
        (b'{"max_completion_tokens":null}', CHAT, b'{"max_completion_tokens":300}'),
        (b'{"prompt":"x"}', "completions", b'{"prompt":"x","max_tokens":300}'),
        (b'{"input":"x"}', "responses", b'{"input":"x","max_output_tokens":300}'),
    ],
)  # fmt: skip
def test_where_a_cap_is_put(body, path, edited):
    assert with_cap(body, 300, demand_of(body, path), "max_completion_tokens") == edited
