"""What of a body and of headers is kept: redaction, cutting, words (G6, G7)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Redact
from gateway.exchange import Timings
from gateway.journal.redact import REDACTED, Redactor, kept_headers, searchable
from gateway.journal.shape import SLACK, Captured, Record, Side, record_of, unpacked
from gateway.keys.rules import blotted

TOKEN = "sk-canary-of-the-caller-0123456789"
UPSTREAM = "canary-upstream-key-987654321"
ISSUED = "gw_" + "A1B" * 14 + "A"
JSON = [("content-type", "application/json")]
SSE = [("content-type", "text/event-stream; charset=utf-8")]
LIMIT = 2000


def redactor(*patterns: str, members: list[str] | None = None) -> Redactor:
    section = Redact(patterns=list(patterns)) if members is None else Redact(members, [*patterns])
    return Redactor(section, [UPSTREAM], blotted)


def record(body: bytes, *patterns: str, headers: Any = JSON, size: int | None = None) -> Record:
    side = Side(list(headers), body, len(body) if size is None else size)
    captured = Captured("ID", Side(), side, 200, Timings(), (TOKEN,))
    return record_of(captured, redactor(*patterns), LIMIT)


def shown(body: bytes, *patterns: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = unpacked(record(body, *patterns, **more).content)["response"]
    return found


def kept(value: object, *patterns: str) -> Any:
    return json.loads(shown(json.dumps(value).encode(), *patterns)["body"])


BODIES = [
    b'{"a": 1.0,  "b": [true, null, 1e400], "c": "\\u00e9 \\/ x", "n": 123456789012345678901}',
    b"  [1, 2]\n",
    '{"text": "wörld 我们"}'.encode(),
    b"plain words\nand more",
    b'{"a": "\\ud800"}',
    b"data: hello\n\n",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_with_nothing_to_take_out_is_kept_byte_for_byte(body):
    found = shown(body)
    assert found["body"].encode() == body
    assert (found["bytes"], found["cut"], found["left_out"]) == (len(body), False, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"password": "x"}, {"password": REDACTED}),
        ({"PassWord": ["x", 1]}, {"PassWord": REDACTED}),
        ({"a": [{"api_key": 7}]}, {"a": [{"api_key": REDACTED}]}),
        ({"password": None, "pass": "x"}, {"password": None, "pass": "x"}),
        (
            {"arguments": json.dumps({"secret": "x", "b": 1})},
            {"arguments": json.dumps({"secret": REDACTED, "b": 1}, separators=(",", ":"))},
        ),
        (
            {"arguments": json.dumps({"inner": json.dumps({"secret": "x"})})},
            {
                "arguments": json.dumps(
                    {"inner": json.dumps({"secret": REDACTED}, separators=(",", ":"))},
                    separators=(",", ":"),
                )
            },
        ),
        ({"t": f"my key is {TOKEN}."}, {"t": f"my key is {REDACTED}."}),
        ({"t": f"yours: {UPSTREAM}"}, {"t": f"yours: {REDACTED}"}),
        ({"t": f"ours: {ISSUED}"}, {"t": "ours: [key]"}),
        ({TOKEN: "as a name"}, {REDACTED: "as a name"}),
        ({"t": 'so: {"password":"x"} it is'}, {"t": f'so: {{"password":"{REDACTED}"}} it is'}),
        ({"t": "card 1234 5678"}, {"t": f"card {REDACTED}"}),
    ],
)
def test_g6_what_is_taken_out_of_json(value, expected):
    assert kept(value, r"\d{4} \d{4}") == expected


def test_g6_it_is_not_in_the_words_either():
    body = {"a": f"hello {TOKEN}", "password": "hunter2", "args": json.dumps({"secret": "zebra"})}
    words = record(json.dumps(body).encode(), "hel+o").words
    for gone in (TOKEN, "hunter2", "zebra", "hello"):
        assert gone not in words


@pytest.mark.parametrize(
    "text",
    [
        'broken {"password": "hunter2", "a',
        '{"a": 1} trailing "Password" : "hunter2"',
        '{\\"password\\": \\"hunter2\\"} in a log line',
        '"api_key":hunter2,',
    ],
)
def test_members_in_what_is_no_json(text):
    assert "hunter2" not in shown(text.encode(), headers=())["body"]


def test_a_streams_pieces_are_redacted_as_one():
    """A password in pieces, of a tool's arguments, in a stream that broke off."""
    pieces = ['{"pass', 'word": "hun', "ter2"]
    parts = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "function": {"arguments": piece}}]}}]}
        for piece in pieces
    ]  # fmt: skip
    body = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)
    found = shown(body, headers=SSE)
    assert found["form"] == "stream"
    assert "hun" not in found["body"]
    assert REDACTED in found["body"]


@pytest.mark.parametrize("size", [LIMIT - 9, LIMIT, LIMIT + 1, LIMIT + SLACK + 50, 10 * LIMIT])
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_is_cut_is_cut_behind_what_is_taken_out(size, form):
    """A secret at every place of the end: not even a half of it stays."""
    for gap in range(0, 60, 7):
        text = "x" * max(0, LIMIT - gap) + TOKEN + "y" * size
        whole = json.dumps({"t": text}).encode() if form == "json" else text.encode()
        found = shown(whole[: LIMIT + SLACK], headers=(), size=len(whole))
        assert found["form"] == form
        assert found["cut"]
        assert len(found["body"]) <= LIMIT + 10  # what closes it
        assert TOKEN[:8] not in found["body"]
        if form == "json":
            assert json.loads(found["body"])["t"].startswith("x" * (LIMIT - 100))


def test_json_that_was_cut_is_json_of_its_beginning():
    messages = [{"role": "user", "content": f"message {n}"} for n in range(500)]
    whole = json.dumps({"model": "m", "messages": messages}).encode()
    found = shown(whole[: LIMIT + SLACK], size=len(whole))
    read = json.loads(found["body"])
    assert (read["model"], read["messages"][:5]) == ("m", messages[:5])
    assert (found["bytes"], found["cut"]) == (len(whole), True)


@pytest.mark.parametrize("body", [b"\x89PNG\r\n\x1a\n\x00", bytes(range(256)) * 40])
@pytest.mark.parametrize("cut", [0, 5])
def test_what_is_no_text_is_not_kept(body, cut):
    found = shown(body, headers=(), size=len(body) + cut)
    assert (found["form"], found["body"], found["left_out"]) == ("binary", None, "binary")


def test_a_character_at_the_cut_is_left_out():
    text = "é" * (LIMIT + SLACK)
    found = shown(text.encode()[: LIMIT + SLACK - 1], headers=(), size=len(text) * 2)
    assert set(found["body"]) == {"é"}


def test_g7_headers_keep_their_names_and_lose_their_credentials():
    secret = ["Authorization", "api-key", "X-Api-Key", "Cookie", "X-Amz-Security-Token"]
    secret += ["X-Session-Id", "Proxy-Authorization", "X-My-Password", "x-goog-signature"]
    plain = ["User-Agent", "x-stainless-lang", "idempotency-key", "x-gateway-cache-key"]
    plain += ["x-ratelimit-remaining-tokens", "x-upstream-ratelimit-limit-tokens"]
    headers = [(name, f"value {TOKEN}") for name in secret + plain]
    found = kept_headers(headers, lambda value: redactor().scrub(value, (TOKEN,)))
    assert [name for name, _ in found] == secret + plain
    assert {value for name, value in found if name in secret} == {REDACTED}
    assert {value for name, value in found if name in plain} == {f"value {REDACTED}"}


def test_images_are_no_words():
    url = "data:image/png;base64," + "iVBORw0KGgo" * 40
    words = searchable(f"look {url} here")
    assert "iVBOR" not in words
    assert words.split() == ["look", "data:image/png;base64,", "here"]


def test_scripts_without_spaces_are_found_by_character():
    assert searchable("我们ok").split() == ["我", "们", "ok"]


NAMES = st.sampled_from(["password", "content", "SECRET", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("canary42"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.integers(0, 80))
def test_g6_no_redacted_text_survives_nesting_or_cutting(value, more):
    """Any JSON, also as a string in JSON, also cut anywhere."""
    text = json.dumps({"a": value, "arguments": json.dumps(value)})
    found = record(text.encode()[: max(1, len(text) - more)], "canary42", size=len(text))
    packed = unpacked(found.content)["response"]
    assert "canary42" not in str(packed) + found.words
    assert not re.search(r'"(?i:password|secret)": ?"(?!\[redacted\])[^"]', packed["body"] or "")
