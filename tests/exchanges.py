"""Exchanges for tests of sinks: one that went well, and what a test changes in it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gateway.exchange import (
    CacheState,
    Caller,
    CallerKind,
    Exchange,
    Outcome,
    Summary,
    Timings,
    Usage,
    UsageSource,
)

CALLER = Caller(CallerKind.PASSTHROUGH, "ab" * 32, "pass-abababab", "sk-canary-of-the-caller")

GOOD = Exchange(
    id="01JD0000000000000000000000",
    at=1_750_000_000.25,
    endpoint="chat/completions",
    method="POST",
    path="/v1/chat/completions",
    client="127.0.0.1",
    caller=CALLER,
    model="gpt-4o",
    model_served="gpt-4o-2024",
    upstream="openai",
    stream=True,
    status=200,
    outcome=Outcome.OK,
    error=None,
    cache=CacheState.BYPASS,
    usage=Usage(12, 34, 5, 6, UsageSource.UPSTREAM, {"prompt_tokens": 12, "completion_tokens": 34}),
    summary=Summary(finish_reasons=("stop",), complete=True, events=9),
    timings=Timings(
        received=1.0,
        admitted=1.5,
        connected=3.0,
        first_byte=203.25,
        first_token=210.0,
        last_byte=900.0,
        booked=901.0,
        total=902.0,
        queued=0.5,
        upstream=890.0,
    ),
    bytes_in=321,
    bytes_out=4321,
    attempts=1,
    upstream_request_id="req_upstream",
    client_retry="1",
    tags={"team": "blue"},
    trace="0af7651916cd43dd8448eb211c80319c",
)


def exchange(**changes: Any) -> Exchange:
    """The good one with `changes`."""
    return replace(GOOD, **changes)


class FixedClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return 1_750_000_000.0 + self.seconds

    def monotonic(self) -> float:
        return self.seconds
