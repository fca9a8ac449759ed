"""Observers: right figures from any framing, never a byte or a client hurt (A1-A11, B11-B13)."""

import itertools
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.exchange import Summary, Usage, UsageSource
from gateway.wire.findings import MISSING
from gateway.wire.observe import (
    BlindObserver,
    EndEvent,
    JSONObserver,
    Observer,
    StreamObserver,
    UsageEvent,
    observer_for,
)

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "new_kind_of_tokens": 1},
    "made_up": {"by": ["a", "provider"]},
}
BOOKED = Usage(20, 9, 16, 4, UsageSource.UPSTREAM, USAGE)


def chunk(delta: object = None, finish: object = None, **more: object) -> dict[str, object]:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "choices": [choice],
        "usage": None,
    } | more


CHUNKS = [
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"content": "Zwölf Boxkämpfer: 你好 😀"}),
    chunk({"content": 'say "usage": {"prompt_tokens": 1} and [DONE], error'}),
    chunk({"content": "."}),
    chunk({}, "stop"),
    chunk(choices=[], usage=USAGE),
]
EXPECTED = Summary(
    content_bytes=0,  # counted where usage does not come
    usage=BOOKED,
    finish_reasons=("stop",),
    model="gpt-4o-2024-08-06",
    service_tier="default",
    complete=True,
    events=6,
)


def sse(*found: object) -> bytes:
    """One-line events as OpenAI frames them; strings go in as they are."""
    texts = (e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in found)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


STREAM = sse(*CHUNKS, "[DONE]")


def multi_line(stream: bytes) -> bytes:
    """Each event's JSON on several data lines."""
    lines = [json.dumps(c, indent=1, ensure_ascii=False).splitlines() for c in CHUNKS]
    events = ["".join(f"data: {line}\n" for line in event) for event in lines]
    return ("\n".join(events) + "\ndata: [DONE]\n\n").encode()


FRAMINGS = {
    "LF": STREAM,
    "CRLF": STREAM.replace(b"\n", b"\r\n"),
    "CR": STREAM.replace(b"\n", b"\r"),
    "no space": STREAM.replace(b"data: ", b"data:"),
    "several data lines": multi_line(STREAM),
    "other fields": STREAM.replace(b"data: ", b"event: message\nid: 1\nretry: 9\ndata: "),
    "fields after": STREAM.replace(b"\n\n", b"\nid: 1\n\n"),
    "comments": b": hello\n\n" + STREAM.replace(b"data: ", b": ping\n\ndata: "),
    "comments in events": STREAM.replace(b"data: ", b"data: ", 1).replace(b"}\n\n", b"}\n: c\n\n"),
    "empty lines between": b"\n" + STREAM.replace(b"\n\n", b"\n\n\n"),
    "ASCII escapes": "".join(f"data: {json.dumps(c)}\n\n" for c in CHUNKS).encode()
    + b"data: [DONE]\n\n",
    "mixed line ends": STREAM.replace(b"}\n\n", b"}\r\n\n", 2).replace(b"}\n\n", b"}\r\r", 1),
    "no blank line at the end": STREAM.rstrip(b"\n"),
    "byte order mark": b"\xef\xbb\xbf" + STREAM,
}


def watch(observer: Observer, chunks: list[bytes], cut: bool = False) -> list[bytes]:
    pieces = [piece for data in chunks for piece in observer.feed(data)]
    if cut:
        observer.cut()
        return pieces
    return pieces + observer.close()


def seen(stream: bytes, **kw: int) -> Summary:
    observer = StreamObserver(**kw)
    assert b"".join(watch(observer, [stream])) == stream
    return observer.summary()


def visible(pieces: list[bytes]) -> bytes:
    """What a client gets that did not ask for usage, before the end is released."""
    return b"".join(p for p in pieces if not isinstance(p, UsageEvent | EndEvent))


# A5: any framing, any cut -------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a5_each_framing_cut_at_every_byte_gives_the_same_summary_and_bytes(framing):
    stream = FRAMINGS[framing]
    whole = StreamObserver()
    shown = visible(watch(whole, [stream]))
    assert not shown.rstrip().endswith(b"[DONE]")
    assert whole.summary() == EXPECTED
    for cut in range(len(stream) + 1):
        observer = StreamObserver()
        pieces = watch(observer, [stream[:cut], stream[cut:]])
        assert b"".join(pieces) == stream
        assert observer.summary() == EXPECTED
        if framing not in ("comments", "empty lines between"):
            assert visible(pieces) == shown


@pytest.mark.parametrize("framing", FRAMINGS)
@given(cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_a5_each_framing_in_any_chunks_gives_the_same_summary_and_bytes(framing, cuts):
    stream = FRAMINGS[framing]
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    observer = StreamObserver()
    pieces = watch(observer, [stream[a:b] for a, b in pairwise(places)])
    assert b"".join(pieces) == stream
    assert observer.summary() == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_j1_characters_split_anywhere_survive(framing, size):
    stream = FRAMINGS[framing]
    observer = StreamObserver()
    pieces = watch(observer, [stream[at : at + size] for at in range(0, len(stream), size)])
    assert b"".join(pieces) == stream
    assert observer.summary() == EXPECTED


def test_a5_unparsed_events_are_counted_like_parsed_ones():
    """The short way for chunks that cannot matter agrees with the long one."""
    content = sse(*[chunk({"content": "x"})] * 7)
    for parts in ([content], [content[:50], content[50:]], [content.replace(b"\n", b"\r\n")]):
        observer = StreamObserver()
        watch(observer, [sse(CHUNKS[1]), *parts, STREAM])
        assert observer.summary().events == 8 + 6


def test_a5_a_name_and_its_value_on_two_data_lines_are_found():
    """Past the first content too, where most events are not parsed."""
    event = b'data: {"choices":[],"usage"\ndata: :{"prompt_tokens":1}}\n\n'
    observer = StreamObserver()
    watch(observer, [sse(CHUNKS[1]), event])
    assert figures(observer.summary().usage) == (1, 0, 0, 0)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
def test_a6_the_last_event_counts_without_its_blank_line(end):
    observer = StreamObserver()
    stream = sse(*CHUNKS).rstrip(b"\n") + end
    pieces = watch(observer, [stream])
    assert b"".join(pieces) == stream
    assert type(pieces[-1]) is UsageEvent
    assert observer.summary() == EXPECTED


# Pieces -------------------------------------------------------------------------------------------


def test_a3_the_usage_event_and_the_end_are_pieces_of_their_own():
    pieces = watch(StreamObserver(), [STREAM])
    assert [type(piece) for piece in pieces] == [bytes, UsageEvent, EndEvent]
    assert pieces == [sse(*CHUNKS[:5]), sse(CHUNKS[5]), sse("[DONE]")]


@pytest.mark.parametrize("size", [1, 7, 100, 333, 5000, 1_000_000])
@pytest.mark.parametrize("turns", [1, 40])
def test_what_was_said_is_counted_where_usage_does_not_come(size, turns):
    """B3: however it is cut, and however much of it waits to be counted."""
    stream = sse(*CHUNKS[:4] * turns, CHUNKS[4], "[DONE]")
    observer = StreamObserver()
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert b"".join(watch(observer, parts)) == stream
    summary = observer.summary()
    assert (summary.content_bytes, summary.events) == (83 * turns, 4 * turns + 1)
    assert summary.finish_reasons == ("stop",)


def test_an_event_that_matters_is_found_among_those_that_do_not():
    """Whatever stands before and behind it: nothing, or whole events in the same chunk."""
    finish, bare = sse(chunk({}, "stop")), sse(chunk(choices=[], usage=USAGE))
    error = sse({"error": {"message": "no"}})
    plain = sse(*[chunk({"content": "word"})] * 3)
    for before, behind in itertools.product((b"", plain), repeat=2):
        for seen_before in (b"", plain):
            observer = StreamObserver()
            observer.feed(seen_before)
            pieces = observer.feed(before + finish + bare + behind)
            assert b"".join(pieces) == before + finish + bare + behind
            assert [type(piece) for piece in pieces if piece == bare] == [UsageEvent]
            assert observer.summary().finish_reasons == ("stop",)
            assert observer.summary().usage == BOOKED
            assert not observer.summary().error
            observer.feed(before + error + behind)
            assert observer.summary().error


def test_plain_events_of_one_chunk_are_one_write():
    observer = StreamObserver()
    data = sse(*CHUNKS[:5]).replace(b"\n", b"\r\n")
    assert observer.feed(data) == [data]


def test_j4_an_event_is_passed_on_as_soon_as_it_is_whole():
    observer = StreamObserver()
    for event in CHUNKS[:5]:
        assert observer.feed(sse(event)) == [sse(event)]


def test_j2_a_heartbeat_is_passed_on_at_once_and_is_no_content():
    observer = StreamObserver()
    assert observer.feed(b": OPENROUTER PROCESSING\n\n") == [b": OPENROUTER PROCESSING\n\n"]
    assert not observer.saw_content
    assert observer.summary().events == 0


@pytest.mark.parametrize("done", ["[DONE]", "[DONE] ", "[DONE]x", " [DONE]"])
def test_whatever_follows_the_end_is_held_back_with_it(done):
    observer = StreamObserver()
    end = sse(done)
    more = sse(chunk(choices=[], usage={"prompt_tokens": 999}), {"error": "late"}) + b"data: half"
    pieces = watch(observer, [sse(*CHUNKS) + end + more, b" an event", b"\n\n"])
    assert visible(pieces) == sse(*CHUNKS[:5])
    assert b"".join(p for p in pieces if isinstance(p, EndEvent)) == end + more + b" an event\n\n"
    assert observer.summary() == EXPECTED


@pytest.mark.parametrize(
    "event",
    [
        chunk(choices=[], usage=None),  # Azure's first, with its content filter
        chunk(choices=[], usage="none"),
        chunk(choices=[], usage=[]),
        chunk({}, "stop", usage=USAGE),
        {"usage": USAGE},
        {"choices": None, "usage": USAGE},
        {"choices": {}, "usage": USAGE},
        {"type": "response.completed", "response": {"choices": [], "usage": USAGE}},
    ],
)
def test_a3_no_other_event_is_hidden(event):
    assert all(type(p) is bytes for p in watch(StreamObserver(), [sse(event)]))


def test_a3_a_usage_event_with_null_figures_is_hidden_too():
    """The client did not ask for it, whatever it is worth."""
    pieces = watch(StreamObserver(), [sse(chunk(choices=[], usage={}))])
    assert [type(p) for p in pieces] == [UsageEvent]


# Content ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (chunk({"role": "assistant"}), False),
        (chunk({"role": "assistant", "content": ""}), False),
        (chunk({"role": "assistant", "content": None, "tool_calls": []}), False),
        (chunk({}, "stop"), False),
        (chunk(choices=[], usage=USAGE), False),
        (chunk({"content": "a"}), True),
        (chunk({"content": "\n"}), True),
        (chunk({"reasoning_content": "a"}), True),
        (chunk({"reasoning": "a"}), True),
        (chunk({"refusal": "a"}), True),
        (chunk({"tool_calls": [{"index": 0}]}), True),
        (chunk({"function_call": {"name": "f"}}), True),
        ({"choices": [{"index": 0, "text": "a"}]}, True),
        ({"choices": [{"index": 0, "text": ""}]}, False),
        ({"type": "response.output_text.delta", "delta": "a"}, True),
        ({"type": "response.output_text.delta", "delta": ""}, False),
    ],
)
def test_the_first_content_is_seen(event, content):
    observer = StreamObserver()
    observer.feed(sse(event))
    assert observer.saw_content is content


# Usage --------------------------------------------------------------------------------------------


def booked(*events: object) -> Usage | None:
    return seen(sse(*events, "[DONE]")).usage


def test_a9_the_last_usage_wins_and_nothing_is_summed():
    growing = [
        chunk({"content": "a"}, usage={"prompt_tokens": 7, "completion_tokens": n})
        for n in (1, 2, 3)
    ]
    usage = booked(*growing)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


def test_a8_zeros_are_figures():
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert booked(chunk(choices=[], usage=zeros)) == Usage(
        source=UsageSource.UPSTREAM, details=zeros
    )


def test_a8_zeros_replace_what_came_before():
    usage = booked(chunk(usage={"prompt_tokens": 5}), chunk(usage={"prompt_tokens": 0}))
    assert usage is not None
    assert usage.prompt_tokens == 0


def figures(usage: Usage | None) -> tuple[int, int, int, int] | None:
    if usage is None:
        return None
    assert usage.source is UsageSource.UPSTREAM
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens


PLAIN = {"prompt_tokens": 5, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (PLAIN, (5, 2, 0, 0)),
        ({"prompt_tokens": 5, "total_tokens": 5}, (5, 0, 0, 0)),  # embeddings
        ({"completion_tokens": 5}, (0, 5, 0, 0)),
        (PLAIN | {"completion_tokens": None}, (5, 0, 0, 0)),
        (PLAIN | {"prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 2}, (5, 2, 3, 0)),
        (PLAIN | {"cached_tokens": 3}, (5, 2, 3, 0)),
        (
            PLAIN | {"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 3},
            (5, 2, 0, 0),
        ),
        (PLAIN | {"prompt_tokens_details": None, "completion_tokens_details": "?"}, (5, 2, 0, 0)),
        (PLAIN | {"prompt_tokens_details": {"cached_tokens": "many"}}, (5, 2, 0, 0)),
        (PLAIN | {"prompt_tokens_details": {"cached_tokens": -1}}, (5, 2, 0, 0)),
        (PLAIN | {"prompt_tokens_details": {"cached_tokens": 99}}, (5, 2, 5, 0)),
        (
            {
                "input_tokens": 5,
                "output_tokens": 4,
                "input_tokens_details": {"cached_tokens": 1},
                "output_tokens_details": {"reasoning_tokens": 2},
            },
            (5, 4, 1, 2),
        ),
        ({}, None),
        ({"total_tokens": 5}, None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        (PLAIN | {"prompt_tokens": "5"}, None),
        (PLAIN | {"prompt_tokens": True}, None),
        (PLAIN | {"completion_tokens": 2.0}, None),
        (PLAIN | {"completion_tokens": -1}, None),
        (PLAIN | {"completion_tokens": 2**60}, None),
        (PLAIN | {"completion_tokens": 10**30}, None),
        ("none", None),
        ([1], None),
        (7, None),
        (True, None),
    ],
)
def test_usage_is_read_or_refused_whole(usage, expected):
    summary = seen(sse(*CHUNKS[:5], chunk(choices=[], usage=usage), "[DONE]"))
    assert figures(summary.usage) == expected
    assert summary.missing == (None if expected else "malformed")
    assert summary.complete
    observer = JSONObserver()
    watch(observer, [json.dumps({"usage": usage}).encode()])
    assert figures(observer.summary().usage) == expected


def test_a_malformed_usage_does_not_undo_a_good_one():
    assert booked(chunk(usage=USAGE), chunk(choices=[], usage="?")) == BOOKED


@pytest.mark.parametrize(
    "event",
    [
        chunk({}, "stop", usage=USAGE),  # DeepSeek, Mistral: in the finish chunk
        chunk({}, "stop", x_groq={"id": "req_1", "usage": USAGE}),
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]),
        {"type": "response.completed", "response": {"status": "completed", "usage": USAGE}},
        {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": USAGE},
    ],
)
def test_usage_is_found_where_providers_put_it(event):
    assert booked(CHUNKS[1], event) == BOOKED


def test_a_surrogate_or_a_book_in_usage_is_not_kept():
    for odd in ('"\\ud800"', '"' + "x" * 20_000 + '"'):
        usage = booked(f'{{"choices":[],"usage":{{"prompt_tokens":3,"x":{odd}}}}}')
        assert usage == Usage(3, source=UsageSource.UPSTREAM)


# Ends ---------------------------------------------------------------------------------------------


def finish(index: int, reason: object) -> dict[str, object]:
    return chunk(choices=[{"index": index, "delta": {}, "finish_reason": reason}])


@pytest.mark.parametrize(
    ("events", "choices", "reasons", "complete"),
    [
        ([*CHUNKS, "[DONE]"], 1, ("stop",), True),
        (["[DONE]"], 1, (), True),
        (CHUNKS, 1, ("stop",), True),
        (CHUNKS[:4], 1, (), False),
        ([], 1, (), False),
        ([finish(0, "stop")], 2, ("stop",), False),
        ([finish(1, "length"), finish(0, "stop")], 2, ("stop", "length"), True),
        ([finish(0, "stop"), CHUNKS[1]], 1, ("stop",), True),
        ([finish(0, ""), CHUNKS[1]], 1, (), False),
        ([finish(0, 7), CHUNKS[1]], 1, (), False),
        ([finish(0, "x" * 300)], 1, (), False),
        ([chunk(choices=[{"finish_reason": "stop"}, {"finish_reason": "length"}])], 2,
         ("stop", "length"), True),
    ],
)  # fmt: skip
def test_b11_complete_is_the_terminator_or_a_finish_for_every_choice(
    events, choices, reasons, complete
):
    summary = seen(sse(*events), choices=choices)
    assert summary.finish_reasons == reasons
    assert summary.complete is complete
    assert summary.missing in (None, "no_usage" if complete else "truncated")


@pytest.mark.parametrize("cut", range(0, len(STREAM), 11))
def test_b11_a_stream_that_broke_off_is_complete_only_with_its_end(cut):
    """B12: what was not whole is dropped, so that an error event can follow."""
    observer = StreamObserver()
    pieces = watch(observer, [STREAM[:cut]], cut=True)
    given = b"".join(pieces)
    assert STREAM.startswith(given)
    assert given == b"" or given.endswith(b"\n\n")
    assert not observer.torn
    assert observer.summary().complete is (cut >= len(STREAM))
    assert observer.close() == []


def test_b4_a_cut_after_the_end_is_complete():
    observer = StreamObserver()
    watch(observer, [STREAM], cut=True)
    assert observer.summary() == EXPECTED


def test_a_path_without_choices_is_complete_at_a_clean_end():
    observer = observer_for("text/event-stream", "responses")
    usage = {"input_tokens": 3, "output_tokens": 2}
    watch(
        observer,
        [b"event: response.completed\n" + sse({"response": {"usage": usage, "model": "m"}})],
    )
    summary = observer.summary()
    assert summary.complete
    assert summary.model == "m"
    assert figures(summary.usage) == (3, 2, 0, 0)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (sse(CHUNKS[1], {"error": {"message": "overloaded"}}), True),
        (sse({"error": "x"}), True),
        (sse({"error": {"message": "x"}}).replace(b"\n", b"\r\n"), True),
        (b"event: error\ndata: {}\n\n", True),
        (sse(CHUNKS[1]) + b"data: {}\nevent: error\n\n", True),
        (b'event: error\ndata: {"message": "no such object"}\n\n', True),
        (sse(CHUNKS[1] | {"error": None}), False),
        (sse(CHUNKS[1] | {"error": {}}), False),
        (sse(chunk({"content": '{"error": 1}'})), False),
        (sse(*CHUNKS), False),
    ],
)
def test_b13_an_error_inside_is_seen_and_passes_unchanged(stream, error):
    assert seen(stream).error is error


# A4, A11: nothing hurts ---------------------------------------------------------------------------

NAMES = (
    *("choices", "usage", "delta", "error", "finish_reason", "index", "text", "model", "role"),
    *("service_tier", "content", "prompt_tokens", "completion_tokens", "prompt_tokens_details"),
    *("response", "x_groq"),
)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**25) | st.floats() | st.text(max_size=5)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            NAMES
        ),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@given(events=st.lists(ODD, max_size=6))
def test_a11_no_object_raises_or_changes_a_byte(events):
    stream = sse(*[json.dumps(event) for event in events], "[DONE]")
    summary = seen(stream)
    assert summary.complete
    assert summary.events == len(events)
    assert summary.usage is None or summary.usage.prompt_tokens >= 0
    json.dumps(summary.finish_reasons).encode()
    observer = JSONObserver()
    for event in events:
        body = json.dumps(event).encode()
        assert b"".join(watch(observer, [body])) == body
        observer.summary()


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"data: ", b"\n\n", b'{"usage":', b"}"])))
def test_a11_no_bytes_raise_or_are_changed(chunks):
    for observer in (StreamObserver(), StreamObserver(hold=5), JSONObserver(), BlindObserver()):
        assert b"".join(watch(observer, chunks)) == b"".join(chunks)
        assert observer.summary().missing in {None, *MISSING}


@pytest.mark.parametrize(
    "data",
    [
        '{"usage": {',
        '{"usage": {}} x',
        '"usage": "x"',
        "[" * 100_000 + '"error"',
        "error: overloaded",
        "\ud800",
    ],
)
def test_a11_an_event_that_cannot_be_read_is_counted(data):
    stream = sse(*CHUNKS[:2]) + f"data: {data}\n\n".encode("utf-8", "surrogatepass") + STREAM
    summary = seen(stream)
    assert summary.usage == BOOKED
    assert summary.observer_errors == (0 if data == "\ud800" else 1)


def test_a11_a_surrogate_pair_torn_over_two_events_is_no_error():
    """Each half is legal JSON to Python's reader, so to the client."""
    torn = [
        sse(f'{{"choices":[{{"delta":{{"content":"\\u{half}"}}}}]}}') for half in ("d83d", "de00")
    ]
    summary, plain = seen(b"".join(torn) + STREAM), seen(sse(CHUNKS[1], CHUNKS[1]) + STREAM)
    assert replace(summary, content_bytes=plain.content_bytes) == plain


def test_i2_an_event_too_large_to_hold_is_passed_on_unread():
    observer = StreamObserver(hold=1000)
    large = sse(chunk({"content": "x" * 5000}))
    assert b"".join(observer.feed(large[:3000])) == large[:3000]
    assert observer.torn
    assert b"".join(observer.feed(large[3000:])) == large[3000:]
    assert not observer.torn
    watch(observer, [sse(CHUNKS[4], "[DONE]")])
    summary = observer.summary()
    assert summary.complete
    assert summary.missing == "too_large"


def test_i2_a_cut_in_an_event_too_large_to_hold_is_told():
    observer = StreamObserver(hold=10)
    observer.feed(b"data: " + b"x" * 100)
    observer.cut()
    assert observer.torn


def test_a_reason_or_model_that_cannot_be_written_is_none():
    summary = seen(sse(json.dumps(finish(0, "\ud800") | {"model": "m\ud800"}), "[DONE]"))
    assert (summary.finish_reasons, summary.model) == ((), None)


def test_finish_reasons_remembered_are_bounded():
    summary = seen(sse(*[finish(i, "stop") for i in range(3000)]))
    assert len(summary.finish_reasons) == 1024


# JSON ---------------------------------------------------------------------------------------------

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "你好"}, "finish_reason": "stop"}
    ],
    "usage": USAGE,
    "timings": {"predicted_ms": 1.5},
}


def read(answer: object, cap: int = 10**6) -> Summary:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    observer = JSONObserver(cap)
    assert b"".join(watch(observer, [body[:30], body[30:]])) == body
    return observer.summary()


def test_a_json_answer():
    assert read(ANSWER) == Summary(
        usage=BOOKED,
        finish_reasons=("stop",),
        model="gpt-4o-2024-08-06",
        service_tier="default",
        complete=True,
    )


def test_an_embeddings_answer_is_booked_without_its_numbers():
    answer = {
        "object": "list",
        "data": [{"embedding": [0.1] * 100}],
        "model": "e",
        "usage": {"prompt_tokens": 8},
    }
    summary = read(answer)
    assert figures(summary.usage) == (8, 0, 0, 0)
    assert summary.complete


@pytest.mark.parametrize(
    ("answer", "complete", "error", "missing"),
    [
        ({}, True, False, "no_usage"),
        ([], True, False, "no_usage"),
        ({"error": {"message": "x"}}, True, True, "no_usage"),
        ({"error": None}, True, False, "no_usage"),
        (ANSWER | {"usage": None}, True, False, "no_usage"),
        (ANSWER | {"usage": "?"}, True, False, "malformed"),
        (ANSWER | {"choices": []}, True, False, None),
        (ANSWER | {"choices": [{"finish_reason": None}]}, False, False, None),
        (ANSWER | {"choices": None}, True, False, None),
        (ANSWER | {"x": float("nan")}, True, False, None),
        (ANSWER | {"x": "\ud800", "y": 2**70}, True, False, None),
        (json.dumps(ANSWER).encode()[:-1], False, False, "not_json"),
        (b"<html>", False, False, "not_json"),
        (b"", False, False, "not_json"),
        (b"[" * 100_000, False, False, "not_json"),
        (b"\xff", False, False, "not_json"),
        (json.dumps(ANSWER).encode("utf-16"), True, False, None),
    ],
)
def test_other_json_answers(answer, complete, error, missing):
    summary = read(answer)
    assert (summary.complete, summary.error, summary.missing) == (complete, error, missing)


def test_a_json_answer_past_the_cap_passes_unread_and_unkept():
    body = json.dumps(ANSWER).encode()
    observer = JSONObserver(cap=len(body) - 1)
    assert b"".join(watch(observer, [body[:9], body[9:]])) == body
    assert observer.summary() == Summary(complete=True, missing="too_large")
    assert read(body, cap=len(body)).usage == BOOKED


def test_a_json_answer_that_broke_off_is_not_complete():
    observer = JSONObserver()
    watch(observer, [json.dumps(ANSWER).encode()], cut=True)
    assert observer.summary() == Summary(missing="truncated")


# Which observer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("text/event-stream", StreamObserver),
        ("Text/Event-Stream; charset=utf-8", StreamObserver),
        ("application/json", JSONObserver),
        ("application/json;charset=UTF-8", JSONObserver),
        ("application/problem+json", JSONObserver),
        ("application/x-ndjson", BlindObserver),
        ("text/html", BlindObserver),
        ("audio/mpeg", BlindObserver),
        ("", BlindObserver),
    ],
)
def test_j5_the_answers_type_decides(content_type, kind):
    assert type(observer_for(content_type, "chat/completions")) is kind


def test_n_choices_are_expected_on_paths_that_have_them():
    for path, complete in (
        ("chat/completions", False),
        ("completions", False),
        ("responses", True),
    ):
        observer = observer_for("text/event-stream", path, 2)
        watch(observer, [sse(finish(0, "stop"))])
        assert observer.summary().complete is complete


def test_a_blind_observer_passes_everything():
    observer = BlindObserver()
    assert not observer.saw_content
    assert watch(observer, [b"\x00\xff", b"", b"data: 1"]) == [b"\x00\xff", b"data: 1"]
    assert observer.saw_content
    assert observer.summary() == Summary(complete=True, missing="unobserved")
    observer = BlindObserver()
    watch(observer, [b"x"], cut=True)
    assert not observer.summary().complete
