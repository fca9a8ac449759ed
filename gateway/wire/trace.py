"""W3C Trace Context: the headers `traceparent` and `tracestate`, read and written. Pure.

Rule: what cannot be read is ignored, never an error (www.w3.org/TR/trace-context, section 3.2.2).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.exchange import HeaderList, TraceContext

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NAMES = frozenset({"traceparent", "tracestate"})


class Parent(NamedTuple):
    """The span that made a request; ids in lower-case hex."""

    trace: str
    span: str
    flags: int


def read_traceparent(value: str | None) -> Parent | None:
    """What a `traceparent` says, or None. A later version's first four fields are read as ours."""
    match = _TRACEPARENT.fullmatch(value or "")
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return Parent(trace, span, int(flags, 16))


def read_trace_id(value: str | None) -> str | None:
    """The trace id of a `traceparent`, or None."""
    parent = read_traceparent(value)
    return None if parent is None else parent.trace


def onward(headers: HeaderList, context: TraceContext | None) -> HeaderList:
    """What is sent on: our own span in the place of the caller's. Without a context nothing is
    changed. A `tracestate` belongs to its `traceparent`, and goes where that is no good."""
    if context is None:
        return headers
    kept = [pair for pair in headers if pair[0] not in _NAMES]
    kept.append(("traceparent", f"00-{context.trace}-{context.client}-{context.flags:02x}"))
    if context.state:
        kept.append(("tracestate", context.state))
    return kept
