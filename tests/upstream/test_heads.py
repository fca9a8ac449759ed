"""Heads of answers: what was read before is recalled, and says the same as if it were read anew."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream import heads
from gateway.upstream.heads import FIELD_LIMIT, HEADERS_LIMIT, REMEMBERED, Answer, read

LINES = (
    "Content-Type: application/json", "Content-Type: text/event-stream", "Server: nginx",
    "Connection: keep-alive", "Connection: close", "Connection: X-Request-Id, CF-Ray",
    "Date: Mon, 01 Jan 2024 00:00:00 GMT", "Date: \xe9", "Set-Cookie: a=b; path=/",
    "Content-Length: 0", "Content-Length: 12", "content-length: 345", "Content-Length:7",
    "Content-Length: 7 ", "Content-Length: 1e3", "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Encoding: gzip",
    "x-request-id: req_1", "X-Request-ID: req_2", "x-request-id: ", "x-request-id: a b",
    "CF-Ray: 8a-FRA", "openai-processing-ms: 17", "x-ratelimit-remaining-tokens: 29",
    "x-ratelimit-reset-requests: 6m0s", "X-Gateway-Request-Id: not theirs to say", "Age: 5",
    "x-gateway-request-id: x", "X-Odd\x01: y", "x-request-id : z", " folded", "X-Note: a, b",
)  # fmt: skip
STARTS = ("HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 204 No", "HTTP/1.1 100 Go on", "HTTP/1.1")


def said(data: bytes) -> object:
    """All that is said of a head, or that it is none."""
    try:
        answer = read(data)
    except ValueError:
        return "no HTTP"
    if answer is None:
        return None
    head = answer.head
    return (
        *(answer.size, answer.length, answer.headers, answer.varies),
        *(head.status, head.outcome, head.encoded, head.chunked, head.keep_alive),
    )


def anew(data: bytes) -> object:
    heads._heads.clear()
    return said(data)


HEADS = st.builds(
    lambda start, lines: "\r\n".join([start, *lines, "", ""]).encode("latin-1"),
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(LINES), max_size=7),
)


@given(before=st.lists(HEADS, max_size=5), data=HEADS)
def test_whatever_was_read_before_a_head_says_the_same(before: list[bytes], data: bytes) -> None:
    expected = anew(data)
    heads._heads.clear()
    for one in (*before, data):
        said(one)
    assert said(data) == said(data + b"HTTP/1.1 500 No\r\n") == expected


def seen(data: bytes) -> Answer:
    answer = read(data)
    assert answer is not None
    return answer


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


def test_what_varies_is_each_answers_own() -> None:
    heads._heads.clear()
    for number in range(3):
        answer = seen(
            head(
                "Content-Type: text/plain",
                f"x-request-id: req_{number}",
                f"Content-Length: {number}",
                "Server: s",
                f"Date: {number}",
                f"x-ratelimit-remaining-tokens: 1{number}",
            )
        )
        varying = [
            ("x-request-id", f"req_{number}"),
            ("x-ratelimit-remaining-tokens", f"1{number}"),
        ]
        assert answer.varies
        assert answer.headers == [("content-type", "text/plain"), *varying]
        assert answer.length == number
    assert len(heads._heads) == 1


def test_of_one_header_that_is_there_twice_each_has_its_place() -> None:
    heads._heads.clear()
    for first, second in (("a", "a"), ("b", "c")):
        answer = seen(head(f"X-Request-Id: {first}", "X-A: b", f"x-request-id: {second}"))
        assert answer.headers == [("x-request-id", first), ("x-a", "b"), ("x-request-id", second)]


def test_what_ends_here_by_its_own_word_does_so_each_time() -> None:
    heads._heads.clear()
    for number in range(3):
        answer = seen(head("Connection: x-request-id", f"x-request-id: {number}", "CF-Ray: a"))
        assert answer.headers == [("cf-ray", "a")]


def test_heads_that_differ_only_in_what_varies_are_not_mixed_up() -> None:
    """In each order: the one that was read first says nothing about the others."""
    lines = ("Date: d", "Content-Length: 5", "Age: 5", "x-request-id: r", "X-Request-Id: r")
    alike = [
        head(*chosen) for count in (0, 1, 2) for chosen in itertools.permutations(lines, count)
    ]
    expected = {data: anew(data) for data in alike}
    for order in (alike, alike[::-1]):
        heads._heads.clear()
        assert {data: said(data) for data in order} == expected


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "content-length: 5"],
        ["X-Request-Id: a", "X-Request-Id : b"],
        ["Date: a\x00"],
        ["Date: a\rContent-Length: 5"],
    ],
)
def test_framing_in_doubt_is_doubted_each_time(lines: list[str]) -> None:
    for one in lines:
        if one.count(":") == 1 and "\r" not in one:
            said(head(one))
    for _ in range(3):
        assert said(head(*lines)) == "no HTTP"


def test_heads_have_limits_and_so_has_what_is_remembered() -> None:
    heads._heads.clear()
    assert said(head(*["x-request-id: a"] * (HEADERS_LIMIT + 1))) == "no HTTP"
    assert said(head("X-A: " + "a" * FIELD_LIMIT)) == "no HTTP"
    assert said(head(*[f"X-{n}: {'a' * 100_000}" for n in range(3)])) == "no HTTP"
    for number in range(2 * REMEMBERED):
        seen(head(f"X-Own: {number}"))
        seen(head(f"X-Large: {number}" + "a" * heads.LARGEST))
    assert len(heads._heads) == REMEMBERED
