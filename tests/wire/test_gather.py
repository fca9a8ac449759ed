"""What a client has accumulated of a stream, whole or not (the journal shows it to people)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.assemble import assemble
from gateway.wire.gather import gather
from tests.wire.test_assemble import END, HEAD, USAGE, chunk, events, part, streams


def plain(found: object) -> bytes:
    """As JSON, for comparison: names sorted."""
    return msgspec.json.encode(found, order="deterministic")


@given(streams())
def test_where_assembling_is_exact_both_are_the_same(case):
    _, chunks = case
    stream = events(*chunks)
    exact = assemble(stream)
    assert exact is not None
    assert plain(gather(stream)) == plain(msgspec.json.decode(exact))


def test_a_stream_that_broke_off_gives_what_there_was():
    whole = events(
        chunk(part({"role": "assistant", "content": "Hel"})), chunk(part({"content": "lo"}))
    )
    assert assemble(whole) is None
    found = gather(whole[: whole.index(b"[DONE]")] + b'data: {"choices": [{"index": 0, "del')
    assert found is not None
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert found["object"] == "chat.completion"


def test_pieces_of_a_tools_arguments_are_one_text():
    calls = [
        [
            {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a'},
            }
        ],
        [{"index": 0, "function": {"arguments": '": 1}'}}],
        [{"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}}],
    ]
    found = gather(events(*(chunk(part({"tool_calls": one})) for one in calls)))
    assert found is not None
    assert found["choices"][0]["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]


def test_an_error_inside_a_stream_is_in_it():
    found = gather(events(chunk(part({"content": "x"})), {"error": {"message": "no"}}))
    assert found is not None
    assert found["error"] == {"message": "no"}
    assert found["choices"][0]["message"] == {"content": "x"}


def test_older_and_newer_streams():
    texts = [
        HEAD | {"object": "text_completion", "choices": [{"index": 0, "text": t}]} for t in "ab"
    ]
    assert gather(events(*texts)) == HEAD | {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "ab"}],
    }
    response = {"id": "r", "output": [{"text": "ab"}]}
    done = b"event: response.completed\n" + events(
        {"type": "response.completed", "response": response}, done=False
    )
    assert gather(events({"type": "response.output_text.delta", "delta": "a"}) + done) == response


@pytest.mark.parametrize("stream", [b"", b"hello", b"data: 1\n\n", b"data: {}\n\n", b": ping\n\n"])
def test_what_is_no_stream_of_completions_is_none(stream):
    assert gather(stream) is None


def test_the_last_usage_counts():
    found = gather(events(*END, chunk(usage=None)))
    assert found is not None
    assert found["usage"] == USAGE


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["choices", "index", "delta", "usage", "error", "id"]),
            st.recursive(
                st.none() | st.integers() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["index", "delta", "content", "tool_calls"]), inner
                    )
                ),
                max_leaves=6,
            ),
        )
    )
)
def test_nothing_raises(chunks):
    gather(events(*chunks))
