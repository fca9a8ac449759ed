"""What an access line says and never says (G6, G7, G8; C3 item 9)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Caller, CallerKind, Summary, Timings, Usage, UsageSource
from gateway.journal.rules import DEPTH, PATH, Bucket, clean, line, rfc3339
from tests.exchanges import CALLER, exchange

FIELDS = [
    "id",
    "time",
    "client",
    "key",
    "key_kind",
    "team",
    "endpoint",
    "method",
    "path",
    "model",
    "model_served",
    "upstream",
    "upstream_request_id",
    "stream",
    "status",
    "outcome",
    "error",
    "cache",
    "cache_key",
    "cache_reason",
    "cache_age",
    "saved_tokens",
    "cost_usd",
    "saved_cost_usd",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "usage_source",
    "usage_details",
    "usage_missing",
    "finish_reasons",
    "attempts",
    "retry",
    "bytes_in",
    "bytes_out",
    "ms",
    "tags",
    "trace",
]
POINTS = [
    "received",
    "admitted",
    "looked_up",
    "connected",
    "first_byte",
    "first_token",
    "last_byte",
    "booked",
    "total",
    "queued",
    "upstream",
    "overhead",
]


def read(changed, suppressed: int = 0):
    return json.loads(line(changed, suppressed))


def test_a_line_has_all_of_g8_in_a_stable_order():
    said = read(exchange())
    assert list(said) == FIELDS
    assert list(said["ms"]) == POINTS
    assert said["time"] == "2025-06-15T15:06:40.250Z"
    assert (said["key"], said["key_kind"]) == ("pass-abababab", "passthrough")
    assert (said["prompt_tokens"], said["completion_tokens"]) == (12, 34)
    assert (said["cached_tokens"], said["reasoning_tokens"]) == (5, 6)
    assert said["usage_source"] == "upstream"
    assert said["ms"]["overhead"] == 12.0
    assert said["ms"]["looked_up"] is None
    assert (said["retry"], said["finish_reasons"]) == (1, ["stop"])


def test_the_same_fields_stand_in_a_line_about_nothing():
    bare = exchange(
        caller=None, model=None, model_served=None, upstream=None, summary=None, usage=Usage(),
        timings=Timings(), upstream_request_id=None, client_retry=None, tags={}, trace=None,
    )  # fmt: skip
    said = read(bare)
    assert list(said) == FIELDS
    assert said["key"] is said["key_kind"] is said["model"] is None
    assert (said["usage_source"], said["prompt_tokens"]) == ("none", 0)


def test_lines_left_out_are_told_by_the_next():
    assert read(exchange(), 7)["suppressed"] == 7
    assert "suppressed" not in read(exchange())


def test_a_lowered_cap_and_a_bound_that_was_too_low_are_told_where_they_are():
    told = read(exchange(clamped=300, bound_exceeded=True))
    assert (told["clamped"], told["bound_exceeded"]) == (300, True)
    assert not {"clamped", "bound_exceeded"} & read(exchange()).keys()


INJECTIONS = [
    "\n", "\r\n", '\n{"id":"forged"}', "\x00", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x7f",
    "\x85", "\u2028", "\u2029", "\u202e\u2066", "\ufeff", "\ud800", "\udcff", '"', "\\",
    "a" * 100_000,    "\n" * 100_000, "\U000e0001" * 1000, "é" * 9000, "数" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_nothing_a_client_sends_makes_two_lines_or_a_long_one(evil):
    """Log injection: one request, one line, printable and bounded, whatever stands where."""
    sent = exchange(
        client=evil, endpoint=evil, method=evil, path="/v1/" + evil, model=evil, model_served=evil,
        upstream_request_id=evil, client_retry=evil, trace=evil, error=evil, usage_missing=evil,
        tags={f"{n}{evil}": evil for n in range(50)},
        summary=Summary(finish_reasons=(evil,) * 500),
        usage=Usage(details={evil: 1, "text": evil, "deep": {evil: {evil: {evil: {evil: 2}}}}}),
        caller=Caller(CallerKind.PASSTHROUGH, "id", evil, evil),
    )  # fmt: skip
    written = line(sent)
    assert written.count(b"\n") == 1 and written.endswith(b"\n")
    assert len(written) < 16_000
    text = written[:-1].decode()
    assert text.isprintable()
    assert all(shown.isprintable() for shown in texts_in(json.loads(text)))


def texts_in(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, str):
        yield value


@given(st.text(st.characters()), st.integers(2, 40))
def test_clean_text_is_printable_bounded_and_stays_as_it_is(text, limit):
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert clean(shown, limit) == shown
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_an_escape_says_what_was_there():
    assert clean("a\nb\x1bc", 100) == r"a\nb\x1bc"
    assert clean("x" * 11, 10) == "x" * 9 + "…"


def test_no_query_in_the_path():
    """`?key=` is a credential for some clients (G7)."""
    assert read(exchange(path="/v1/models?key=sk-canary"))["path"] == "/v1/models"
    assert len(read(exchange(path="/v1/" + "x" * 9000))["path"]) == PATH


@pytest.mark.parametrize(
    "field", ["path", "model", "model_served", "client_retry", "trace", "client"]
)
def test_a_caller_s_token_is_blotted_out_wherever_the_client_put_it(field):
    """A bearer token inside a metadata field was logged elsewhere: G7."""
    token = CALLER.token
    assert token is not None
    said = line(exchange(**{field: f"x{token}y"}, tags={token: f"at {token}"}))
    assert b"canary" not in said
    assert b"[key]" in said


def test_a_caller_s_token_is_blotted_out_before_anything_is_cut_or_kept():
    """No part of it is left where a limit goes through it, nor in a line of another caller."""
    token = CALLER.token
    assert token is not None
    summary = Summary(finish_reasons=(f"{token}",))
    said = line(exchange(model="m" * 120 + token, path="/" * 505 + token, summary=summary))
    assert b"canary" not in said and token[:5].encode() not in said
    assert read(exchange(model="m" * 120 + token, caller=None))["model"][:120] == "m" * 120


def test_parts_that_come_again_are_each_their_own():
    """They are kept as written: a line never has another's."""
    names = ("a", "b", None, 'q"', "é")
    for first in names:
        for second in names:
            said = read(exchange(model=first, model_served=second, client=second or "c"))
            assert (said["model"], said["model_served"]) == (first, second)
            assert said["client"] == (second or "c")


def test_a_short_token_blots_nothing_out():
    """Clients that need no key send `none` or `test`, and models may be named so."""
    said = read(exchange(caller=Caller(CallerKind.PASSTHROUGH, "i", "n", "test"), model="test-1"))
    assert said["model"] == "test-1"


def test_no_secret_in_a_line():
    said = line(exchange())
    assert b"canary" not in said
    assert CALLER.id.encode() not in said


def test_usage_details_keep_unknown_numbers_and_no_text():
    """A8, G6: unknown members of the usage are kept; text in it could be anything."""
    details = {
        "prompt_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 3, "new": {"x": {"y": 1}}},
        "cost": 0.25,
        "note": "canary",
        "flag": True,
        "list": ["canary"],
        "nothing": None,
        "huge": 10**400,
        "nan": float("nan"),
    }
    said = read(exchange(usage=Usage(source=UsageSource.UPSTREAM, details=details)))
    assert DEPTH == 3
    assert said["usage_details"] == {
        "prompt_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 3, "new": {}},
        "cost": 0.25,
    }


def test_absurd_token_counts_still_make_a_line():
    assert read(exchange(usage=Usage(prompt_tokens=10**400)))["prompt_tokens"] == 2**63 - 1


@pytest.mark.parametrize(
    ("sent", "said"), [(None, None), ("", None), ("0", 0), ("2", 2), ("-1", None), ("x", None),
                       ("99999", None), ("٣", None), ("²", None)]
)  # fmt: skip
def test_the_client_s_retry_count_is_a_count_or_nothing(sent, said):
    assert read(exchange(client_retry=sent))["retry"] == said


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_750_000_000, "2025-06-15T15:06:40.000Z"),
        (1_750_000_000.9996, "2025-06-15T15:06:40.999Z"),
        (951_782_400.5, "2000-02-29T00:00:00.500Z"),
    ],
)
def test_times_are_utc_with_milliseconds(at, said):
    assert rfc3339(at) == said


def test_a_flood_is_thinned_to_the_rate():
    bucket = Bucket(10)
    passed = sum(bucket.take(n / 1000) for n in range(10_000))  # 1,000 a second for 10 s
    assert 100 <= passed <= 110


@given(st.lists(st.floats(0, 100)))
def test_no_second_has_more_than_the_rate_and_one_burst(gaps):
    bucket, now, times = Bucket(10), 0.0, []
    for gap in gaps:
        now += gap / 100
        if bucket.take(now):
            times.append(now)
    for start in times:
        assert sum(start <= at < start + 1 for at in times) <= 20


def test_a_clock_that_stands_or_steps_back_gives_nothing():
    bucket = Bucket(3)
    assert [bucket.take(5.0) for _ in range(5)] == [True, True, True, False, False]
    assert not bucket.take(1.0)
    assert not bucket.take(1.1)
    assert bucket.take(2.0)
