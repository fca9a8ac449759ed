"""What is read of a `traceparent`, and what goes on (www.w3.org/TR/trace-context)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import TraceContext
from gateway.wire.trace import onward, read_trace_id, read_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = TraceContext(TRACE, "1" * 16, "2" * 16, 1, SPAN, "rojo=00f067aa0ba902b7")
CALLERS = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "rojo=1"), ("accept", "a/b")]


@pytest.mark.parametrize(
    "value",
    [f"00-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what.comes-later"],
)
def test_a_traceparent_is_read(value: str) -> None:
    """Section 4.3: of a later version, the fields of ours."""
    assert read_traceparent(value) == (TRACE, SPAN, 1)
    assert read_trace_id(value) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "x", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-1"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",  # sent twice
        f"00-{TRACE}-{SPAN}-0\u0661",
    ],
)
def test_what_is_no_traceparent_is_ignored(value: str | None) -> None:
    assert read_traceparent(value) is None
    assert read_trace_id(value) is None


@given(st.text(max_size=80))
def test_nothing_is_an_error(value: str) -> None:
    read_traceparent(value)


def test_without_traces_the_callers_headers_pass() -> None:
    assert onward(CALLERS, None) is CALLERS


def test_our_span_takes_the_callers_place() -> None:
    assert onward(CALLERS, CONTEXT) == [
        ("accept", "a/b"),
        ("traceparent", f"00-{TRACE}-{'2' * 16}-01"),
        ("tracestate", "rojo=00f067aa0ba902b7"),
    ]
    assert len(CALLERS) == 3


def test_a_state_does_not_outlive_its_parent() -> None:
    alone = TraceContext(TRACE, "1" * 16, "2" * 16, 0)
    sent = dict(onward(CALLERS, alone))
    assert sent == {"accept": "a/b", "traceparent": f"00-{TRACE}-{'2' * 16}-00"}


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 3))
def test_what_is_written_is_read_back(trace: int, span: int, flags: int) -> None:
    context = TraceContext(f"{trace:032x}", "1" * 16, f"{span:016x}", flags)
    [(name, value)] = onward([], context)
    assert name == "traceparent"
    assert re.fullmatch(r"[0-9a-f-]{55}", value)
    assert read_traceparent(value) == (context.trace, context.client, flags)
