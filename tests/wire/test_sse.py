"""The splitter: whole events out of any chunks, in any framing, unchanged (A5, I2, J1-J3)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import sse

EVENTS = (
    b'data: {"a":1}\n\n'
    b"\n"
    b": ping\n"
    b"\n"
    b'event: note\nid: 7\nretry: 10\ndata:{"b":\ndata: 2}\n\n'
    b"data\n\n"
    b"id: 8\n\n"
    b"data:  [DONE]\n\n"
    b'data: {"last":"\xe4\xbd\xa0\xf0\x9f\x98\x80"}'  # no blank line at the end
)
PAYLOADS = [b'{"a":1}', b'{"b":\n2}', b"", b" [DONE]", '{"last":"你😀"}'.encode()]
FRAMINGS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


def split(chunks: list[bytes], hold: int = sse.HOLD) -> list[bytes]:
    splitter = sse.Splitter(hold)
    found = [event for chunk in chunks for event in splitter.feed(chunk)]
    rest = splitter.close()
    assert splitter.idle or splitter.torn
    return [*found, rest] if rest else found


def payloads(events: list[bytes]) -> list[bytes]:
    return [data for event in events if (data := sse.payload(event)) is not None]


def dispatched(stream: bytes) -> list[bytes]:
    """What the HTML standard's steps dispatch; at the stream's end, what openai-python does."""
    found: list[bytes] = []
    data: list[bytes] = []
    for line in [*stream.splitlines(), b""]:
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        elif not line.startswith(b":"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
    return found


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_cut_in_two_at_every_byte_gives_the_same_events(framing):
    stream = EVENTS.replace(b"\n", FRAMINGS[framing])
    for cut in range(len(stream) + 1):
        events = split([stream[:cut], stream[cut:]])
        assert b"".join(events) == stream
        assert payloads(events) == PAYLOADS


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_fed_byte_by_byte_gives_the_same_events(framing):
    stream = EVENTS.replace(b"\n", FRAMINGS[framing])
    events = split([stream[at : at + 1] for at in range(len(stream))])
    assert b"".join(events) == stream
    assert payloads(events) == PAYLOADS


LINES = st.lists(
    st.sampled_from(
        [b"data:", b"data: ", b"data", b"x", b":", b"\n", b"\r\n", b"\r", b"\n\n", b"\xf0\x9f"]
    )
).map(b"".join)


@given(stream=LINES, cuts=st.lists(st.integers(0, 60)), hold=st.sampled_from([3, 10, sse.HOLD]))
def test_any_bytes_cut_anywhere_come_out_as_they_went_in(stream, cuts, hold):
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(places)]
    events = split(chunks, hold)
    assert b"".join(events) == stream
    if hold == sse.HOLD:
        assert payloads(events) == dispatched(stream)


@given(stream=LINES, cut=st.integers(0, 60))
def test_what_is_released_in_parts_ends_where_it_would_have_ended_whole(stream, cut):
    """Whatever the hold, the last event begins at the same byte."""
    whole, parts = sse.Splitter(), sse.Splitter(hold=2)
    released = b"".join(whole.feed(stream[:cut]) + whole.feed(stream[cut:]))
    parts.feed(stream[:cut])
    parts.feed(stream[cut:])
    assert (len(released) == len(stream)) == parts.idle


@pytest.mark.parametrize("line", [b": ping\n", b":\n", b": ping\r\n", b"\n", b": ping\r\n\r\n"])
def test_a_heartbeat_does_not_wait_for_the_event_after_it(line):
    """J2, J3: a comment is released when its line is whole, the pending event is not."""
    splitter = sse.Splitter()
    assert b"".join(splitter.feed(line)) == line
    assert splitter.idle


def test_an_event_in_bare_cr_does_not_wait_for_the_next_one():
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\r\r") == [b"data: 1\r\r"]
    assert splitter.feed(b"\ndata: 2\n\n") == [b"\n", b"data: 2\n\n"]


def test_a_trailing_cr_waits_for_its_lf():
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == []
    assert splitter.feed(b"\ndata: 2") == [b"data: 1\r\n\r\n"]
    assert splitter.close() == b"data: 2"


@pytest.mark.parametrize(
    "blank", [b"\n\n", b"\r\n\n", b"\n\r\n", b"\n\r", b"\r\n\r", b"\r\r", b"\r\r\n"]
)
def test_line_ends_may_be_mixed(blank):
    assert payloads(split([b"data: 1" + blank + b"data: 2" + blank])) == [b"1", b"2"]


def test_a_chunk_that_is_one_event_is_passed_on_without_a_copy():
    chunk = b'data: {"a":1}\n\n'
    assert sse.Splitter().feed(chunk)[0] is chunk


def test_a_line_of_20_mb_passes_in_flat_memory():
    """I2: what is held never exceeds the hold and one chunk; what follows is whole events again."""
    chunk = b"x" * 65536
    splitter = sse.Splitter()
    fed, released = 6, 0
    splitter.feed(b"data: ")
    for _ in range(320):
        released += sum(map(len, splitter.feed(chunk)))
        fed += len(chunk)
        assert fed - released <= sse.HOLD + len(chunk)
    assert splitter.torn
    end = splitter.feed(b"y\n\ndata: 2\n\n")
    assert end == [b"y\n\n", b"data: 2\n\n"]
    assert [type(event) for event in end] == [sse.Part, bytes]
    assert splitter.idle


def test_an_event_in_tiny_chunks_is_searched_once():
    """Each byte is searched once: with a search from the start at each byte this takes an hour."""
    splitter = sse.Splitter(hold=10**9)
    size = 300_000
    for _ in range(size):
        assert splitter.feed(b"x") == []
    assert splitter.feed(b"\n\n") == [b"x" * size + b"\n\n"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: 1\n\n", b"1"),
        (b"data:1\n\n", b"1"),
        (b"data:  1\n\n", b" 1"),
        (b"data: 1", b"1"),
        (b"data: 1\r\n\r\n", b"1"),
        (b"data: 1\r\r", b"1"),
        (b"data: 1\ndata: 2\n\n", b"1\n2"),
        (b"data:\n\n", b""),
        (b"data\n\n", b""),
        (b"\xef\xbb\xbfdata: 1\n\n", b"1"),
        (b"event: x\nid: 3\nretry: 5\n: c\ndata: 1\n\n", b"1"),
        (b"data: \xe2\x80\xa8 \x0b\x0c\x1c\xc2\x85\n\n", "\u2028 \x0b\x0c\x1c\x85".encode()),
        (b"database: 1\n\n", None),
        (b" data: 1\n\n", None),
        (b": ping\n\n", None),
        (b"id: 1\n\n", None),
        (b"\n", None),
        (b"", None),
    ],
)
def test_the_payload_of_an_event(event, data):
    assert sse.payload(event) == data


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (b"event: error\ndata: 1\n\n", b"error"),
        (b"data: 1\r\nevent:error\r\n\r\n", b"error"),
        (b"event: a\nevent: b\n\n", b"b"),
        (b"data: event: error\n\n", b""),
        (b"", b""),
    ],
)
def test_the_name_of_an_event(event, name):
    assert sse.name(event) == name
