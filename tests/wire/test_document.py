"""Two readers of a body, a fast one and a careful one: what the first vouches for, the second reads
the same (C1, C3, K1)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.canonical import canonical
from gateway.wire.document import _at_once, _carefully, read_document
from tests.wire.test_canonical import JSON, OBJECTS


def vouched(body: bytes) -> bool:
    """The fast reader vouches for it; and then the careful one agrees, kinds of numbers included
    (a repr tells 1 from 1.0 and -0.0 from 0.0)."""
    read = _at_once(body)
    if read is not None:
        assert (repr(read[0]), None) == tuple(map(repr_unless_none, _carefully(body.decode(), ())))
    return read is not None


def repr_unless_none(value: object) -> object:
    return value if value is None else repr(value)


@given(OBJECTS, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_what_a_client_writes_is_vouched_for(found, escaped, separators):
    """Unless it has an escape that might be a colon's."""
    body = json.dumps(found, ensure_ascii=escaped, separators=separators).encode()
    assert vouched(body) == (b"\\u003" not in body)


@given(OBJECTS, st.sampled_from([(), ("a",), ("user", "stream")]))
def test_what_was_written_anew_saves_the_canonical_form_and_never_changes_it(found, ignored):
    read = read_document(json.dumps(found).encode())
    assert canonical(read.found, ignored, read.ordered) == canonical(read.found, ignored)


def with_twins(value: Any, dice: random.Random) -> str:
    """JSON in which each object has one of its names twice, spelled in one of two ways."""
    if isinstance(value, dict):
        pairs = [(name, with_twins(item, dice)) for name, item in value.items()]
        if pairs:
            pairs.insert(dice.randrange(len(pairs) + 1), dice.choice(pairs))
        names = [json.dumps(name, ensure_ascii=dice.random() < 0.5) for name, _ in pairs]
        return "{" + ",".join(f"{n}:{v}" for n, (_, v) in zip(names, pairs, strict=True)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(with_twins(item, dice) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1, max_size=4), st.randoms())
def test_a_name_twice_is_never_vouched_for(found, dice):
    try:
        body = with_twins({"x": [found]}, dice).encode()
    except UnicodeEncodeError:
        return
    assert not vouched(body)


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)


@given(NUMBERS)
@example("18446744073709551615")
@example("18446744073709551616")
@example("-9223372036854775808")
@example("-9223372036854775809")
@example("1e400")
@example("0." + "1" * 800)
@example("2.2250738585072011e-308")
@example("9007199254740993.0")
@example("-0")
def test_numbers_are_read_alike_or_left_to_care(text):
    body = f'{{"x":[{text}]}}'.encode()
    vouched(body)
    assert read_document(body).found == {"x": [json.loads(text)]} or len(text) > 20


@given(OBJECTS, st.data())
def test_no_broken_text_is_vouched_for(found, data):
    """One byte of it replaced, inserted or gone: refused, or read alike."""
    body = bytearray(json.dumps(found, ensure_ascii=data.draw(st.booleans())).encode())
    place = data.draw(st.integers(0, len(body) - 1))
    other = data.draw(st.sampled_from(b'"\\:,{}[]0-.eu3a \t\n\x00\x1f\x7f\x80\xc0\xed\xff'))
    body[place : place + data.draw(st.integers(0, 1))] = bytes(
        data.draw(st.sampled_from([[other], []]))
    )
    vouched(bytes(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a\\u003ab":1,"a:b":2,"a:b":3}',
        b'{"x":"\\u003a","y":1,"y":1}',
        b'{"x":"\\u003A","y":1,"y":1}',
        b'{"x":":","y":1,"y":1}',
        b'{"y":{"z":":::"},"y":1}',
        b'{"x":"\\ud800"}',
        b'\xef\xbb\xbf{"x":1}',
        b"[]",
        b"",
        b'{"x":NaN}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
    ],
)
def test_what_only_care_can_tell_is_left_to_it(body):
    assert _at_once(body) is None
