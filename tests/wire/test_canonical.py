"""The canonical form: blind to spelling, and to nothing else (C1, C3; RFC 8785; issue 3)."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.canonical import canonical, digest
from gateway.wire.chat import read_chat


def form(text: str, *ignore: str) -> bytes:
    assert read_chat(('{"model":"m",' + text.lstrip()[1:]).encode()).canonical
    return canonical(json.loads(text), ignore)


def test_rfc_8785_order_of_names():
    """Section 3.2.3's example: UTF-16 code units decide."""
    found = json.loads(
        r'{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}'
    )
    expected = '{"\\r":2,"1":4,"\x80":6,"ö":7,"€":1,"😀":5,"\ufb33":3}'
    assert canonical(found) == expected.encode()
    assert canonical({"x": [{"y": found}]}) == f'{{"x":[{{"y":{expected}}}]}}'.encode()


def test_rfc_8785_strings():
    """Section 3.2.2.2: the shortest escapes, lower-case hex, all else as it is."""
    found = json.loads(
        r'{"string":"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/\u007f\u2028"}'
    )
    assert canonical(found) == '{"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f\u2028"}'.encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":[{"c":2,"d":3}]}', ' { "b" : [ {"d":3, "c":2} ],\n"a":1 } '),
        ('{"a":"é😀/"}', '{"\\u0061":"\\u00e9\\uD83D\\ude00\\/"}'),
        ('{"a":1.0}', '{"a":1.00}'),
        ('{"a":1.0}', '{"a":1e0}'),
        ('{"a":100.0}', '{"a":1E+2}'),
        ('{"a":0}', '{"a":-0}'),
        ('{"a":1,"stream":true}', '{"a":1}'),
        ('{"a":1,"stream":false}', '{"a":1,"stream":null}'),
        ('{"a":1,"stream":true,"stream_options":{"include_usage":true}}', '{"a":1}'),
        ('{"a":1,"stream_options":{"include_usage":false}}', '{"a":1,"stream_options":null}'),
        ('{"a":1,"stream_options":{}}', '{"a":1}'),
        (
            '{"stream_options":{"include_usage":true,"include_obfuscation":false}}',
            '{"stream_options":{"include_obfuscation":false}}',
        ),
    ],
)
def test_equal_requests(one, other):
    assert form(one) == form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":true}'),
        ('{"a":0}', '{"a":false}'),
        ('{"a":0.0}', '{"a":-0.0}'),
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":null}', '{"b":1}'),
        ('{"a":null}', '{"a":""}'),
        ('{"a":[]}', '{"a":{}}'),
        ('{"a":0.7001}', '{"a":0.7004}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":18446744073709551615}', '{"a":18446744073709551614}'),
        ('{"a":"US"}', '{"a":"us"}'),
        ('{"a":"x"}', '{"a":"x "}'),
        ('{"a":"é"}', '{"a":"e\\u0301"}'),
        ('{"a":"\\u0000"}', '{"a":""}'),
        ('{"a":"\\\\u0041"}', '{"a":"\\u0041"}'),
        ('{"a":[1,2]}', '{"a":[2,1]}'),
        ('{"a":[[1],2]}', '{"a":[[1,2]]}'),
        ('{"a":{"stream":true}}', '{"a":{}}'),
        ('{"a":{"stream_options":null}}', '{"a":{}}'),
        ('{"a":1,"stream_options":{"include_obfuscation":true}}', '{"a":1}'),
        ('{"a":1,"user":"x"}', '{"a":1}'),
        ('{"a":1,"A":2}', '{"a":2,"A":1}'),
    ],
)
def test_different_requests(one, other):
    assert form(one) != form(other)


def test_configured_fields_are_left_out_at_the_top_alone():
    one = '{"a":{"user":1},"user":"x","metadata":{"b":1}}'
    assert form(one, "user", "metadata") == b'{"a":{"user":1}}'


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["😀", 'a":😀":', "\ufb33"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=3)
            | st.sampled_from(["😀", "\ufb33", "a😀b"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), JSON, max_size=5)


def shuffled(value: Any, draw: Any) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(value[name], draw) for name in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@given(OBJECTS, st.data())
def test_spelling_and_order_do_not_matter(found, data):
    respelled = json.dumps(
        shuffled(found, data.draw), ensure_ascii=data.draw(st.booleans()), indent=1
    )
    assert canonical(json.loads(respelled)) == canonical(found)


def reference(value: object) -> str:
    """RFC 8785 by the letter, but for numbers."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{reference(name)}:{reference(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(reference, value)) + "]"
    if isinstance(value, float):
        return f"float {value.hex()}"
    return json.dumps(value, ensure_ascii=False)


def floats_named(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: floats_named(item) for name, item in value.items()}
    if isinstance(value, list):
        return [floats_named(item) for item in value]
    return f"float {value.hex()}" if isinstance(value, float) else value


@given(OBJECTS)
def test_the_form_is_rfc_8785s(found):
    found.pop("stream", None)
    named = floats_named(found)
    assert canonical(named) == reference(named).encode()


@given(OBJECTS, OBJECTS)
def test_equal_forms_mean_equal_requests(one, other):
    assert (canonical(one) == canonical(other)) == (reference(one) == reference(other))


@given(OBJECTS)
def test_the_form_is_read_back_as_the_same(found):
    found.pop("stream", None)
    assert reference(json.loads(canonical(found))) == reference(found)


FULL = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}},
        }
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True}},
    "temperature": 0.7,
    "top_p": 1,
    "n": 1,
    "seed": 7,
    "stop": ["a"],
    "logprobs": True,
    "logit_bias": {"50256": -100},
    "reasoning_effort": "low",
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "max_completion_tokens": 100,
    "user": "u",
    "metadata": {"k": "v"},
    "made_up": {"deep": [{"er": None}]},
    "stream_options": {"include_obfuscation": False},
}


def paths(value: object, path: tuple = ()):
    if path:
        yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for place, item in inner:
        yield from paths(item, (*path, place))


@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("change", ["replaced", "removed", "joined"])
def test_c1_any_changed_field_gives_another_digest(path, change):
    found = json.loads(json.dumps(FULL))
    owner = found
    for place in path[:-1]:
        owner = owner[place]
    if change == "replaced":
        owner[path[-1]] = "something else"
    elif change == "removed":
        del owner[path[-1]]
    elif isinstance(owner, dict):
        owner["something new"] = None
    else:
        owner.append(None)
    assert digest(found) != digest(FULL)


def test_c3_the_digest_is_the_same_in_every_process():
    code = (
        "import json, sys; from gateway.wire.canonical import digest;"
        "print(digest(json.loads(sys.argv[1])).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, json.dumps(FULL)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    assert seen == {digest(FULL).hex()}


def test_the_form_is_fixed():
    """A change here makes every entry on disk unreachable: it needs a new format version."""
    assert canonical(FULL | {"stream": True, "x": 1e22, "y": 2**64 - 1, "z": -0.0}).endswith(
        b'"x":1e22,"y":18446744073709551615,"z":-0.0}'
    )
    assert digest({"a": [1, 1.0, "é"]}).hex() == DIGEST


DIGEST = "567a4ca203048caad5fdfbc47da8e647844b6699385eb798ec88daf4c519e8b9"


def test_many_astral_characters_cost_no_more():
    """Linear: a text of emoji only looks like names at each of them."""
    assert len(canonical({"a": "😀" * 500_000})) == 2_000_008
