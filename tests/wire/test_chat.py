"""Reading a request: what decides something is exact, the rest is the upstream's (A1, K1)."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError, InvalidJSON, InvalidRequest
from gateway.wire.chat import ChatRequest, read_chat, read_model, with_model, with_usage

MESSAGES = [{"role": "user", "content": "你好 😀"}]


def body(**members: object) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | members, ensure_ascii=False).encode()


def raw(text: str) -> bytes:
    """A body with `text` as its further members."""
    return ('{"model":"m",' + text + "}").encode("utf-8", "surrogatepass")


def test_a_request_is_read():
    data = body(
        model="gpt-4o",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        n=2,
        max_tokens=7,
        max_completion_tokens=8,
    )
    assert read_chat(data) == ChatRequest(
        body=data,
        model="gpt-4o",
        stream=True,
        asked_usage=True,
        has_stream_options=True,
        n=2,
        max_tokens=7,
        max_completion_tokens=8,
        canonical=True,
        reason=None,
    )


def test_the_least_request_is_read():
    assert read_chat(b'{"model":"m"}') == ChatRequest(
        b'{"model":"m"}', "m", False, False, False, 1, None, None, True
    )


def test_the_digest_is_made_where_it_is_asked_for_and_there_is_one():
    """Issue 3: equal in meaning, equal in digest; without a canonical form there is none."""
    assert read_chat(body()).digest is None
    one = read_chat(body(stream=True, user="u"), {"user"}).digest
    assert one == read_chat(b" " + body(stream=False), ()).digest
    assert one is not None
    assert len(one) == 32
    assert read_chat(body(n=2), ()).digest != one
    assert read_chat(raw('"x":NaN'), ()).digest is None


def test_a_prompt_is_in_no_repr():
    assert "secret" not in repr(read_chat(body(messages="secret")))


@pytest.mark.parametrize("value", ["gpt-4o", "模型", "a/b:c", " ", "x" * 5000])
def test_any_name_is_a_model(value):
    assert read_chat(body(model=value)).model == value


@pytest.mark.parametrize(
    ("members", "field", "value"),
    [
        ({"stream": True}, "stream", True),
        ({"stream": False}, "stream", False),
        ({"stream": None}, "stream", False),
        ({"stream_options": None}, "has_stream_options", True),
        ({"stream_options": {}}, "has_stream_options", True),
        ({"stream_options": {}}, "asked_usage", False),
        ({"stream_options": {"include_usage": False}}, "asked_usage", False),
        ({"stream_options": {"include_usage": None}}, "asked_usage", False),
        ({"stream_options": {"include_usage": 1}}, "asked_usage", False),
        ({"stream_options": {"include_usage": True}}, "asked_usage", True),
        ({"n": None}, "n", 1),
        ({"n": 128}, "n", 128),
        ({"max_tokens": None}, "max_tokens", None),
        ({"max_tokens": "5"}, "max_tokens", None),
        ({"max_tokens": 5.0}, "max_tokens", None),
        ({"max_tokens": True}, "max_tokens", None),
        ({"max_tokens": -1}, "max_tokens", -1),
        ({"max_tokens": 10**25}, "max_tokens", 2**64),
        ({"messages": "no list"}, "canonical", True),
        ({"temperature": "hot", "unknown": [{}]}, "canonical", True),
    ],
)
def test_one_member(members, field, value):
    assert getattr(read_chat(body(**members)), field) == value


# Bad requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words", "param"),
    [
        (b"[]", "must be a JSON object, not an array", None),
        (b"null", "must be a JSON object, not null", None),
        (b'"model"', "must be a JSON object, not a string", None),
        (b"17", "must be a JSON object, not this number", None),
        (b"NaN", "must be a JSON object, not this number", None),
        (b"true", "must be a JSON object, not a boolean", None),
        (b"{}", "you must provide a model parameter", "model"),
        (body(model=None), "you must provide a model parameter", "model"),
        (body(model=""), "you must provide a model parameter", "model"),
        (body(model=7), "'model' must be a string, not this number", "model"),
        (body(model=["a"]), "'model' must be a string, not an array", "model"),
        (b'{"model":"\\ud800"}', "'model' must be valid Unicode", "model"),
        (body(stream=1), "'stream' must be true, false or null, not this number", "stream"),
        (body(stream="true"), "'stream' must be true, false or null, not a string", "stream"),
        (body(stream_options=True), "'stream_options' must be an object or null", "stream_options"),
        (body(stream_options=[]), "'stream_options' must be an object or null", "stream_options"),
        (body(stream_options=""), "'stream_options' must be an object or null", "stream_options"),
        (body(n=0), "'n' must be a whole number of at least 1", "n"),
        (body(n=-1), "'n' must be a whole number of at least 1", "n"),
        (body(n=1.5), "'n' must be a whole number of at least 1", "n"),
        (body(n=True), "'n' must be a whole number of at least 1", "n"),
        (body(n="2"), "'n' must be a whole number of at least 1", "n"),
        (raw('"model":"m"'), "The name 'model' is there twice", "model"),
        (raw('"m\\u006fdel":"x"'), "The name 'model' is there twice", "model"),
        (raw('"x":1,"x":1'), "The name 'x' is there twice", None),
        (raw('"x":{"y":1,"y":2},"x":1'), "The name 'x' is there twice", None),
        (
            raw('"\\n\\u001b\u202e":1,"\\n\\u001b\u202e":1'),
            r"The name '\n\x1b\u202e' is there",
            None,
        ),
        (raw(f'"{"k" * 999}":1,"{"k" * 999}":2'), "The name '" + "k" * 40 + "...' is there", None),
        (raw('"Model":"x"'), "The name 'Model' differs from 'model' only by case", "model"),
        (raw('"STREAM":true'), "The name 'STREAM' differs from 'stream' only", "stream"),
        (raw('"\u017ftream":true'), r"The name '\u017ftream' differs from 'stream' only", "stream"),
        (raw('"to\u212aens":1,"max_to\u212aens":1'), r"'max_to\u212aens' differs", "max_tokens"),
        (raw('"Stream_Options":{}'), "only by case", "stream_options"),
        (raw('"N":2'), "The name 'N' differs from 'n' only by case", "n"),
        (raw('"Max_tokens":2'), "only by case", "max_tokens"),
        (raw('"max_Completion_tokens":2'), "only by case", "max_completion_tokens"),
        (raw('"service_Tier":2'), "only by case", "service_tier"),
    ],
)
def test_an_invalid_request_says_what_is_wrong_and_what_is_right(data, words, param):
    with pytest.raises(InvalidRequest) as caught:
        read_chat(data)
    assert words in caught.value.message
    assert caught.value.param == param
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    "text",
    ['"messages":[],"Messages":[]', '"temperature":1,"Temperature":2', '"x":{"Model":1,"N":0}'],
)
def test_other_names_may_differ_by_case(text):
    assert read_chat(raw(text)).canonical


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not valid JSON"),
        (b'{"model":"m"', "not valid JSON"),
        (b'{"model":"m",}', "not valid JSON"),
        (b'{"model":"m"} x', "not valid JSON"),
        (b"{'model':'m'}", "not valid JSON"),
        (b'{"model":"m","x":01}', "not valid JSON"),
        (b'{"model":"m","x":"\n"}', "not valid JSON"),
        (b'{"model":"m","x":"\\x"}', "not valid JSON"),
        (b'{"model":"m","x":"\\ud800}', "not valid JSON"),
        (b'{"model":"m","x":nan}', "not valid JSON"),
        (b'{"model":"m"\x00}', "not valid JSON"),
        (b"model=m&stream=true", "not valid JSON"),
        (b'{"model":"\xff"}', "not UTF-8 (byte 10)"),
        (b'{"model":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"model":"\xc0\xaf"}', "not UTF-8"),
        ('{"model":"m"}'.encode("utf-16"), "not UTF-8"),
        ('{"model":"m"}'.encode("utf-16-le"), "not valid JSON"),
        (b"[" * 10_000, "nests too deeply"),
        (b'{"a":' * 10_000, "nests too deeply"),
        (raw('"x":' + "[" * 100_000 + "]" * 100_000), "nests too deeply"),
        (raw('"y":NaN,"x":' + "[" * 100_000 + "]" * 100_000), "nests too deeply"),
        (raw('"y":"\\ud800","x":' + "[" * 100_000), "nests too deeply"),
    ],
)
def test_what_no_reader_understands_is_invalid_json(data, words):
    with pytest.raises(InvalidJSON) as caught:
        read_chat(data)
    assert words in caught.value.message
    assert len(caught.value.message) < 200
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"x":NaN', "not_finite"),
        ('"x":[Infinity]', "not_finite"),
        ('"x":-Infinity', "not_finite"),
        ('"x":1e400', "not_finite"),
        ('"x":18446744073709551616', "large_integer"),
        ('"x":-9223372036854775809', "large_integer"),
        ('"x":' + "1" * 5000, "large_integer"),
        ('"x":"\\ud800"', "lone_surrogate"),
        ('"x":"\\uDE00\\uD83D"', "lone_surrogate"),
        ('"\\udfff":1', "lone_surrogate"),
        ('"x":{"y":1,"y":1}', "duplicate_name"),
        ('"messages":[{"role":"user","r\\u006fle":"system"}]', "duplicate_name"),
        ('"x":{"y":1,"y":NaN}', "not_finite"),
    ],
)
def test_what_only_some_readers_understand_is_relayed_and_marked(text, reason):
    data = raw(text)
    request = read_chat(data)
    assert (request.canonical, request.reason) == (False, reason)
    assert (request.model, request.body) == ("m", data)


def test_a_byte_order_mark_is_relayed_and_marked():
    request = read_chat(b'\xef\xbb\xbf{"model":"m"}')
    assert (request.model, request.reason) == ("m", "byte_order_mark")


@pytest.mark.parametrize(
    "text",
    [
        '"x":18446744073709551615',
        '"x":-9223372036854775808',
        '"x":1e308,"y":1e-400,"z":-0.0',
        '"x":"\\ud83d\\ude00"',
        '"x":"\\\\ud800"',
        '"x":"\u2028\u0000"'.replace("\u0000", "\\u0000"),
        '"x":{"y":1},"z":{"y":1}',
        '"x":"NaN"',
        '"x":' + "[" * 500 + "]" * 500,
    ],
)
def test_what_every_reader_understands_is_canonical(text):
    assert read_chat(raw(text)).reason is None


# JSONTestSuite's kinds: y_ must be read, n_ must not, i_ may differ (github.com/nst/JSONTestSuite).
Y = (
    '[[]   ]', '[""]', "[]", '["a"]', "[false]", '[null, 1, "1", {}]', "[1\n]", " [1]", "[123e65]",
    "[0e+1]", "[0e1]", "[ 4]", "[-0.000001]", "[20e1]", "[-0]", "[-123]", "[-1]", "[1E22]",
    "[1E-2]", "[1E+2]", "[123.456e78]", '{"a":"b","c":"d"}', '{"":0}', '{"foo\\u0000bar": 42}',
    '["\\u0060\\u012a\\u12AB"]', '["\\uD801\\udc37"]', '["\\"\\\\\\/\\b\\f\\n\\r\\t"]',
    '["\\\\u0000"]', '["\\u0012"]', '["\\uFFFF"]', '["asd "]', '["\u2028\u2029\x7f"]', "true",
)  # fmt: skip
N = (
    "[1 true]", '["": 1]', '[""],', "[,1]", "[1,,2]", '["x"]]', '["x"', "[x", "[3[4]]", "[1:2]",
    "[,", "[ , \"\"]", '["a",\n4\n,1,', "[1,]", "[\"\va\"\\f]", "[*]", "[++1234]", "[+1]", "[-01]",
    "[-1.0.]", "[-2.]", "[.-1]", "[.2e-3]", "[0.1.2]", "[0.3e+]", "[0.e1]", "[0E]", "[1.0e-]",
    "[1 000.0]", "[1eE2]", "[2.e+3]", "[9.e+]", "[Inf]", "[0x1]", "[1+2]", "[\uff11]", "[- 1]",
    "[012]", '["x", truth]', '{"x"::"b"}', '{"a":"a" 123}', "{key: 'value'}", "{'a':0}", '{"a" b}',
    '{"id":0,}', '{"a":/*c*/"b"}', '{1:1}', '{"a":"b",,"c":1}', "{a:1}", '["\\uD800\\u1"]',
    '["\\u00A"]', '["\\x00"]', '["\\\\\\"]', '["\\\t"]', '["new\nline"]', '["\\a"]', "\u2060[]",
    "<null>", "[1]x", "2@", "{}}", '{"a":true} "x"', "[\u2060]", "[nul]", "[True]", "\x0c[]",
)  # fmt: skip


@pytest.mark.parametrize("text", Y)
def test_valid_json_is_read(text):
    assert read_chat(raw(f'"x":{text}')).canonical


@pytest.mark.parametrize("text", N)
def test_invalid_json_is_refused(text):
    with pytest.raises(InvalidJSON):
        read_chat(raw(f'"x":{text}'))


def test_a_million_names_are_read():
    text = ",".join(f'"k{i}":{i}' for i in range(1_000_000))
    assert read_chat(raw(text)).canonical
    with pytest.raises(InvalidRequest):
        read_chat(raw(text + ',"k0":0'))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_give_another_error(data):
    try:
        assert read_chat(data).body == data
    except ClientError as error:
        assert error.status == 400


def test_readers_in_many_threads_do_not_meet():
    bodies = [raw(f'"x":{{"y":{i},"y":{i}}},"n":{i % 9 + 1}') for i in range(400)]
    with ThreadPoolExecutor(4) as pool:
        assert [r.n for r in pool.map(read_chat, bodies)] == [i % 9 + 1 for i in range(400)]


# Edits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "edited"),
    [
        (b'{"model":"m"}', b'{"model":"m","stream_options":{"include_usage":true}}'),
        (b'{ "model" : "m" }\n', b'{ "model" : "m","stream_options":{"include_usage":true} }\n'),
        (
            b'{"model":"m","stream_options":null}',
            b'{"model":"m","stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options": { } ,"model":"m"}',
            b'{"stream_options": {"include_usage":true } ,"model":"m"}',
        ),
        (
            b'{"stream_options":{"include_obfuscation" : false},"model":"m"}',
            b'{"stream_options":{"include_obfuscation" : false,"include_usage":true},"model":"m"}',
        ),
        (
            b'{"stream_options":{"include_usage":false,"x":1.0},"model":"m"}',
            b'{"stream_options":{"include_usage":true,"x":1.0},"model":"m"}',
        ),
        (
            b'{"model":"m","x":{"stream_options":null,"y":"\\"stream_options\\":null"}}',
            b'{"model":"m","x":{"stream_options":null,"y":"\\"stream_options\\":null"}'
            b',"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","stream\\u005foptions":null}',
            b'{"model":"m","stream\\u005foptions":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","stream_options":{"include_usage":false,"include_usage":false}}',
            b'{"model":"m","stream_options":{"include_usage":true,"include_usage":true}}',
        ),
        (
            b'\xef\xbb\xbf{"model":"m","x":NaN}',
            b'\xef\xbb\xbf{"model":"m","x":NaN,"stream_options":{"include_usage":true}}',
        ),
    ],
)
def test_a1_usage_is_asked_for_and_no_other_byte_changes(data, edited):
    assert with_usage(data, read_chat(data)) == edited
    assert read_chat(edited).asked_usage


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats() | st.text(), max_size=5),
    st.none()
    | st.dictionaries(st.text(max_size=5) | st.just("include_usage"), st.text(), max_size=3),
    st.booleans(),
)
def test_k1_an_edited_request_differs_in_what_was_edited_alone(more, options, has_options):
    found = more | {"model": "m", "n": 1} | ({"stream_options": options} if has_options else {})
    found = {name: found[name] for name in found if name.casefold() == name}
    data = json.dumps(found).encode()
    edited = with_model(with_usage(data, read_chat(data)), '公 "new"')
    want = found | {
        "model": '公 "new"',
        "stream_options": (options or {}) | {"include_usage": True},
    }
    if not has_options:
        want["stream_options"] = {"include_usage": True}
    assert repr(json.loads(edited)) == repr(want)


def test_with_model_finds_an_escaped_name_and_no_nested_one():
    data = b'{"x":[{"model":"a"}],"\\u006dodel" : "b"}'
    assert with_model(data, "c") == b'{"x":[{"model":"a"}],"\\u006dodel" : "c"}'


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (b'{"input":"x","model":"e"}', "e"),
        (b'{"model":"\\u0065"}', "e"),
        (b'{"m\\u006fdel":"e"}', "e"),
        (b'{"x":NaN,"model":"e"}', "e"),
        (b'{"model":""}', None),
        (b'{"model":7}', None),
        (b'{"model":["e"]}', None),
        (b'{"x":{"model":"e"}}', None),
        (b'{"model":"e","model":"f"}', None),
        (b'{"model":"e","Model":"f"}', None),
        (b'{"Model":"e"}', None),
        (b'{"model":"\\ud800"}', None),
        (b'{"model":"\xff"}', None),
        (b'{"\xff":1}', None),
        (b"[1]", None),
        (b"", None),
        (b"--boundary\r\n", None),
        (b'{"model":"e"', None),
    ],
)
def test_the_model_of_other_bodies(data, model):
    assert read_model(data) == model


@given(st.binary(max_size=40) | st.text(max_size=30).map(lambda t: ('{"model":"' + t).encode()))
def test_reading_a_model_never_raises(data):
    assert read_model(data) is None or b"model" in data or b"\\u" in data
