"""Edits by place: one member changes, every other byte stays (K1)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.members import add_members, edit_members, members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(["model", "stream", "a b", 'q"uo\\te', "模型", "x", ""]) | st.text(
    max_size=3
)
SPACES = st.text(" \t\r\n", max_size=3)


def escaped(text: str) -> str:
    """A JSON string with every character as an escape."""
    units = text.encode("utf-16-be", "surrogatepass")
    return (
        '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'
    )


@st.composite
def bodies(draw) -> tuple[dict[str, object], dict[str, str], str]:
    """An object, its values' texts by name, and its text in any spelling."""
    found = draw(st.dictionaries(NAMES, VALUES, max_size=6))
    texts = {}
    parts = []
    for name, value in found.items():
        ascii_only = draw(st.booleans())
        texts[name] = json.dumps(
            value, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1]))
        )
        quoted = escaped(name) if draw(st.booleans()) else json.dumps(name, ensure_ascii=False)
        before, around, after, end = draw(st.tuples(SPACES, SPACES, SPACES, SPACES))
        parts.append(f"{before}{quoted}{around}:{after}{texts[name]}{end}")
    start, empty, end = draw(st.tuples(SPACES, SPACES, SPACES))
    return found, texts, f"{start}{{{','.join(parts) or empty}}}{end}"


@given(bodies())
def test_each_member_is_found_where_it_is(body):
    found, texts, text = body
    raw = text.encode("utf-8", "surrogatepass")
    spans = {name: raw[start:end] for name, start, end in members(raw)}
    assert list(spans) == list(found)
    assert spans == {name: t.encode("utf-8", "surrogatepass") for name, t in texts.items()}


@given(bodies(), st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_an_edit_changes_only_the_members_it_names(body, changes):
    found, texts, text = body
    raw = text.encode("utf-8", "surrogatepass")
    values = {name: json.dumps(value).encode() for name, value in changes.items()}
    edited = edit_members(raw, values)
    assert repr(json.loads(edited)) == repr(json.loads(raw) | changes)
    assert list(json.loads(edited)) == [*found, *(name for name in changes if name not in found)]
    # Putting the old values back gives the old bytes: nothing else has moved.
    old = {name: texts[name].encode("utf-8", "surrogatepass") for name in changes if name in found}
    restored = edit_members(edited, old)
    added = [name for name in changes if name not in found]
    if not added:
        assert restored == raw
    else:
        end = raw[raw.rstrip(b" \t\r\n").rindex(b"}") :]
        kept = raw[: raw.rindex(b"}")].rstrip(b" \t\r\n")
        assert restored.startswith(kept)
        assert restored.endswith(end)


@pytest.mark.parametrize(
    ("body", "changes", "edited"),
    [
        (b"{}", {"a": b"1"}, b'{"a":1}'),
        (b" { \n} ", {"a": b"1"}, b' {"a":1 \n} '),
        (b'{"b":2 }', {"a": b"1"}, b'{"b":2,"a":1 }'),
        (b'{"a":2,"b":[{"a":3}]}', {"a": b"1"}, b'{"a":1,"b":[{"a":3}]}'),
        (b'{"b":"\\"a\\":2","a" :\t2}', {"a": b"1"}, b'{"b":"\\"a\\":2","a" :\t1}'),
        (b'{"b":"}","\\u0061":[]}', {"a": b"1"}, b'{"b":"}","\\u0061":1}'),
        (b'{"b":"\\\\","a":"\\\\\\""}', {"a": b"1"}, b'{"b":"\\\\","a":1}'),
        (b'{"a":1.0E+2,"b":-0.0}', {"b": b"1"}, b'{"a":1.0E+2,"b":1}'),
        (b'{"a":NaN,"b":-Infinity}', {"b": b"1"}, b'{"a":NaN,"b":1}'),
        (b'{"a":"\\ud800","b":{}}', {"b": b"1"}, b'{"a":"\\ud800","b":1}'),
        (b'\xef\xbb\xbf{"a":2}', {"a": b"1"}, b'\xef\xbb\xbf{"a":1}'),
        (b'{"a":2,"a":3}', {"a": b"1"}, b'{"a":1,"a":1}'),
    ],
)
def test_edits(body, changes, edited):
    assert edit_members(body, changes) == edited


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"a"', b'{"a":', b'{"a":[', b'{"a":1', b'{"a" 1}', b"{a:1}"]
)
def test_what_is_no_object_is_refused(body):
    with pytest.raises(ValueError, match="not a JSON object"):
        list(members(body))


def test_depth_and_size_cost_no_stack():
    """Linear, no recursion: a value nested half a million deep, and strings of as many escapes."""
    deep = b"[" * 500_000 + b"]" * 500_000
    text = b'"' + b'\\"' * 500_000 + b'"'
    body = b'{"x":' + deep + b',"y":' + text + b',"a":2}'
    assert edit_members(body, {"a": b"1"}) == body[:-2] + b"1}"


def test_members_are_added_without_reading_the_others():
    assert add_members(b'{"b": 2}\n', {"a": b"1", "c": b"{}"}) == b'{"b": 2,"a":1,"c":{}}\n'
