"""An entry: its age, its bytes on disk, its weight in memory (C4, E1, E3)."""

from __future__ import annotations

import copy
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.cache.codec import Corrupt, decode, decode_labels, encode, encode_labels
from gateway.entry import Entry, Label, Recording, weight
from gateway.exchange import Usage, UsageSource
from tests.cache.samples import entry, key_of, recording

KEY = key_of("a")
BOTH = replace(
    entry(b'{"a": "\xff\x00"}', created=1.5),
    stream=recording(b"data: [DONE]\n\n", created=2.5, key="bob", request_id="01S"),
)

# Age ---------------------------------------------------------------------------------------------


def test_age_and_freshness():
    made = recording(created=1000, ttl=60)
    assert [made.age(now) for now in (1000, 1030.5, 900)] == [0, 30.5, 0]
    assert [made.left(now) for now in (1000, 1030.5, 1060, 2000)] == [60, 29.5, 0, 0]
    assert [made.fresh(now) for now in (1000, 1059.9, 1060, 2000)] == [True, True, False, False]


def test_an_age_is_never_negative_and_a_wrong_stamp_is_not_fresh_for_ever():
    """A clock set back by less than the ttl is borne; a stamp from next year is not."""
    made = recording(created=1000, ttl=60)
    assert made.age(950) == 0
    assert made.fresh(950)
    assert not made.fresh(900)


def test_max_age_is_a_bound_of_the_request_s_own():
    made = recording(created=1000, ttl=60)
    assert made.fresh(1010, max_age=10)
    assert not made.fresh(1010.5, max_age=10)
    assert not made.fresh(1000.1, max_age=0)


def test_an_entry_loses_what_is_stale():
    made = Entry("s", "m", "u", recording(created=1000, ttl=60), recording(created=1000, ttl=600))
    assert made.at(1059) is made
    assert made.at(1060) == replace(made, stream=None)
    assert made.at(1600) is None
    assert (made.stale_from, made.expires) == (1060, 1600)


# Bytes -------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TOKENS = st.integers(0, 2**53)
RECORDINGS = st.builds(
    Recording,
    request_id=TEXT,
    created=st.floats(0, 1e11),
    ttl=st.floats(0, 1e9),
    key_id=TEXT,
    key_name=TEXT,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    body=st.binary(max_size=200),
    usage=st.builds(
        Usage, TOKENS, TOKENS, TOKENS, TOKENS, st.sampled_from(UsageSource),
        st.none() | st.dictionaries(TEXT, VALUES, max_size=3),
    ),
    finish_reasons=st.lists(TEXT, max_size=3).map(tuple),
    usage_span=st.none() | st.tuples(TOKENS, TOKENS),
)  # fmt: skip
ENTRIES = st.builds(
    Entry, scope=TEXT, model=TEXT, upstream=TEXT, stream=st.none() | RECORDINGS,
    json=st.none() | RECORDINGS,
)  # fmt: skip


@given(ENTRIES, st.binary(min_size=1, max_size=64))
def test_what_was_written_is_read(made, key):
    assert decode(encode(made, key), key) == made
    assert decode_labels(encode_labels(made)) == made.labels


@given(st.data())
def test_any_flipped_bit_is_seen(data):
    """E3, reliability section 0.4: diskcache alone would serve it."""
    written = bytearray(encode(BOTH, KEY))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        decode(bytes(written), KEY)


def test_every_byte_counts_and_so_does_the_end():
    written = encode(BOTH, KEY)
    for place in range(len(written)):
        for cut in (written[:place], written[:place] + b"\xaa" + written[place:]):
            with pytest.raises(Corrupt):
                decode(cut, KEY)
    for more in (b"\0", written):
        with pytest.raises(Corrupt):
            decode(written + more, KEY)


def test_a_row_under_another_key_is_refused():
    """C4: a row moved to where somebody else looks is not served there."""
    with pytest.raises(Corrupt):
        decode(encode(BOTH, KEY), key_of("b"))
    with pytest.raises(Corrupt):
        decode(encode(BOTH, b"ab"), b"a")


@given(st.binary(max_size=200))
def test_garbage_is_corrupt_and_nothing_worse(data):
    with pytest.raises(Corrupt):
        decode(data, KEY)
    for head in (b"GWE1", b"GWE1" + bytes(32)):
        with pytest.raises(Corrupt):
            decode(head + data, KEY)


@pytest.mark.parametrize("data", [None, "text", 5, b"", b"\xc1", b"\x91\x01", b"\x90\x00"])
def test_labels_that_are_none(data):
    with pytest.raises(Corrupt):
        decode_labels(data)


def test_labels_tell_both_callers():
    assert BOTH.labels == (
        Label("id-of-bob", "bob", "gpt-4o", "01S"),
        Label("id-of-alice", "alice", "gpt-4o", "01REQUEST"),
    )


# Weight ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 100_000])
@pytest.mark.parametrize("headers", [0, 20])
def test_the_weight_is_not_below_what_an_entry_takes(size, headers):
    """So that `cache.memory` bounds memory (D10)."""
    names = tuple((f"x-header-{number}", "v" * 30 + str(number)) for number in range(headers))
    template = replace(recording(b"", created=1.0), headers=names)
    written = encode(Entry("issued:1", "gpt-4o", "openai", template, template), KEY)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = []
    for _ in range(50):
        one = decode(written, KEY)
        assert one.stream is not None
        made.append(replace(one, stream=replace(one.stream, body=bytes(size))))
    taken = (tracemalloc.get_traced_memory()[0] - before) / len(made)
    tracemalloc.stop()
    images = 3000  # which it has not been asked for yet
    assert taken <= weight(made[0]) <= taken * 2.5 + 3000 + images


def test_a_body_stands_in_no_repr():
    assert "choices" not in repr(copy.copy(BOTH))
