"""What Exchanges count in: cells that are found once for all requests with the same labels.

Rule: names are looked at where a lane is made. Exchanges are booked many at a time, by figure: one
list of it for all of them, and C's loops (`map`, `sum`). What happens only with an upstream's call
is beside it, in a lane of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import repeat

from gateway.exchange import CacheState, Exchange, Outcome, Timings, UsageSource
from gateway.metrics.spec import (
    AGE,
    BYTES,
    DURATION,
    FIRST_TOKEN,
    OVERHEAD,
    PER_TOKEN,
    TOKENS,
    WAIT,
)
from gateway.metrics.store import Cell, Marks, Store

MOST = 2**53  # what one answer may add: floats count exactly up to here
HIT, JOINED = CacheState.HIT, CacheState.JOINED
UPSTREAM, ESTIMATED, NONE = UsageSource.UPSTREAM, UsageSource.ESTIMATED, UsageSource.NONE
STAGES = (
    *("receive", "admit", "look_up", "connect", "first_byte", "relay", "finish"),
    *("replay", "join"),
)
Way = tuple[int, ...]  # stages, by their place among `STAGES`
ENTERED, SOUGHT, CALL, REPLAY, JOIN = (0, 1), (0, 1, 2), (3, 4, 5, 6), 7, 8
HIT_WAY = (*SOUGHT, REPLAY)


def observe(row: Cell, bounds: tuple[float, ...], value: float) -> None:
    """One observation of a histogram."""
    row[bisect_left(bounds, value)] += 1
    row[-1] += value


def observe_all(row: Cell, bounds: tuple[float, ...], values: Sequence[float]) -> list[int]:
    """One of each value; in which buckets."""
    places = list(map(bisect_left, repeat(bounds), values))
    for place in {*places}:
        row[place] += places.count(place)
    row[-1] += sum(values)
    return places


def mark(marks: Marks, places: list[int], booked: Sequence[Exchange], values: list[float]) -> None:
    """The last of each bucket is its exemplar."""
    for place, last in dict(zip(places, range(len(places)), strict=True)).items():
        x, value = booked[last], values[last]
        marks[place] = (x.id, x.trace, value, x.at + value)


def tokens(count: int) -> int:
    """As a counter takes them: it never falls (B1)."""
    return count if 0 <= count <= MOST else max(0, min(count, MOST))


class Lane:
    """Requests that differ in figures only."""

    __slots__ = (
        *("age", "bytes_in", "bytes_out", "duration", "duration_marks", "errors", "first", "found"),
        *("first_marks", "key_requests", "overhead", "requests", "saved", "stages", "waiting"),
    )

    def __init__(self, store: Store, x: Exchange, model: str, key: str) -> None:
        cell, cache = store.cell, x.cache.value
        self.waiting: list[Exchange] = []  # to be booked
        self.requests = cell("gateway_requests_total", x.endpoint, model, str(x.status), cache)
        self.key_requests = self.errors = None
        if x.caller is not None:
            self.key_requests = cell("gateway_key_requests_total", key, key_outcome(x))
        if x.outcome is not Outcome.OK:
            self.errors = cell("gateway_errors_total", model, x.error or x.outcome.value)
        self.duration = cell("gateway_request_duration_seconds", model, cache)
        self.duration_marks = store.marks("gateway_request_duration_seconds", model, cache)
        self.overhead = cell("gateway_overhead_seconds", x.endpoint)
        self.first: Cell | None = None
        if x.stream and x.status == 200:
            self.first = cell("gateway_time_to_first_token_seconds", model, cache)
            self.first_marks = store.marks("gateway_time_to_first_token_seconds", model, cache)
        self.bytes_in = cell("gateway_request_bytes")
        self.bytes_out = cell("gateway_response_bytes")
        self.age = cell("gateway_cache_hit_age_seconds")
        self.stages = Stages(store)
        self.found = x.cache is HIT or x.cache is JOINED
        self.saved: Saved | None = None
        if x.caller is not None and self.found:
            self.saved = Saved(store, model, key)

    def book(self) -> None:
        """Count those that wait in what every request counts in."""
        booked, self.waiting = self.waiting, []
        times = [x.timings for x in booked]
        self.requests[0] += len(booked)
        if self.key_requests is not None:
            self.key_requests[0] += len(booked)
        if self.errors is not None:
            self.errors[0] += len(booked)
        seconds = [t.total / 1000 for t in times]
        places = observe_all(self.duration, DURATION, seconds)
        mark(self.duration_marks, places, booked, seconds)
        observe_all(
            self.overhead,
            OVERHEAD,
            [(t.overhead if t.upstream or t.quota else t.total) / 1000 for t in times],
        )
        if self.first is not None:
            streamed = [x for x in booked if x.timings.first_token is not None]
            first = [(x.timings.first_token or 0.0) / 1000 for x in streamed]
            places = observe_all(self.first, FIRST_TOKEN, first)
            mark(self.first_marks, places, streamed, first)
        observe_all(self.bytes_in, BYTES, [x.bytes_in for x in booked])
        observe_all(self.bytes_out, BYTES, [x.bytes_out for x in booked])
        if self.found:
            ages = [x.cache_age for x in booked if x.cache_age is not None and x.cache is HIT]
            observe_all(self.age, AGE, ages)
        self.stages.book(booked)
        if self.saved is not None:
            self.saved.book([x for x in booked if not x.attempts])


class Stages:
    """Where the time went: each stage ends at one point of the request's timings."""

    __slots__ = ("_cells",)

    def __init__(self, store: Store) -> None:
        self._cells = [store.cell("gateway_stage_duration_seconds", stage) for stage in STAGES]

    def book(self, booked: Sequence[Exchange]) -> None:
        """Count the stages that they went through, as far as they came."""
        ways: dict[Way, list[tuple[float, ...]]] = {}
        for x in booked:
            if x.mold is None:
                way, points = _way(x, x.timings)
                ways.setdefault(way, []).append(points)
        hits = [x.timings for x in booked if x.mold is not None]
        if hits:  # all of them came to the same points
            ways[HIT_WAY] = ways.get(HIT_WAY, []) + [
                (t.received or 0.0, t.admitted or 0.0, t.looked_up or 0.0, t.total) for t in hits
            ]
        for way, ends in ways.items():
            last = 0.0
            for stage, column in zip(way, zip(*ends, strict=True), strict=True):
                cell, end = self._cells[stage], sum(column) / 1000
                cell[0] += len(ends)
                cell[1] += end - last
                last = end


def _way(x: Exchange, t: Timings) -> tuple[Way, tuple[float, ...]]:
    """The stages of one request, and the milliseconds at which each of them ended."""
    if t.received is None or t.admitted is None:
        return (), ()
    way: Way = ENTERED
    points: tuple[float, ...] = (t.received, t.admitted)
    if t.looked_up is not None:
        way, points = SOUGHT, (t.received, t.admitted, t.looked_up)
    if x.cache is HIT or x.cache is JOINED:
        return (*way, REPLAY if x.cache is HIT else JOIN), (*points, t.total)
    if not x.attempts:
        return way, points
    last, ends = points[-1], (t.connected, t.first_byte, t.last_byte, t.total)
    for stage, end in zip(CALL, ends, strict=True):
        if end is None or end < last:  # not reached, or reached by an earlier call only
            break
        way, points, last = (*way, stage), (*points, end), end
    return way, points


class Saved:
    """What hits and joined requests of one model and key did not cost."""

    __slots__ = ("cost", "seconds", "tokens")

    def __init__(self, store: Store, model: str, key: str) -> None:
        self.tokens = store.cell("gateway_cache_saved_tokens_total", model, key)
        self.cost = store.cell("gateway_cache_saved_cost_usd_total", model, key)
        self.seconds = store.cell("gateway_cache_saved_seconds_total", model)

    def book(self, booked: Sequence[Exchange]) -> None:
        """Count them."""
        saved = [x.saved for x in booked]
        counts = [s.prompt_tokens + s.completion_tokens for s in saved]
        if counts and not 0 <= min(counts) <= max(counts) <= MOST:
            counts = [tokens(count) for count in counts]
        self.tokens[0] += sum(counts)
        self.seconds[0] += sum([x.saved_seconds for x in booked])
        self.cost[0] += sum([x.saved_cost.nano_usd or 0 for x in booked]) / 1e9


class Used:
    """What calls of one model took for one key."""

    __slots__ = (
        *("cached", "cost", "estimated", "estimates", "input", "inputs", "output", "outputs"),
        *("reasoning", "token_time", "unpriced", "waiting"),
    )

    def __init__(self, store: Store, model: str, key: str) -> None:
        cell = store.cell
        self.waiting: list[Exchange] = []  # to be booked
        self.input = cell("gateway_input_tokens_total", model, key)
        self.output = cell("gateway_output_tokens_total", model, key)
        self.cached = cell("gateway_cached_input_tokens_total", model, key)
        self.reasoning = cell("gateway_reasoning_tokens_total", model, key)
        self.estimated = cell("gateway_estimated_tokens_total", model, key)
        self.cost = cell("gateway_cost_usd_total", model, key)
        self.estimates = cell("gateway_usage_estimated_total", model)
        self.unpriced = cell("gateway_unpriced_requests_total", model)
        self.inputs = cell("gateway_request_input_tokens", model)
        self.outputs = cell("gateway_request_output_tokens", model)
        self.token_time = cell("gateway_time_per_output_token_seconds", model)

    def book(self) -> None:
        """Count tokens and money of calls. Estimates never stand among what was told (A10)."""
        booked, self.waiting = self.waiting, []
        told = [x.usage for x in booked if x.usage.source is UPSTREAM]
        inputs = [tokens(u.prompt_tokens) for u in told]
        outputs = [tokens(u.completion_tokens) for u in told]
        self.input[0] += sum(inputs)
        self.output[0] += sum(outputs)
        self.cached[0] += sum([tokens(u.cached_tokens) for u in told])
        self.reasoning[0] += sum([tokens(u.reasoning_tokens) for u in told])
        observe_all(self.inputs, TOKENS, inputs)
        observe_all(self.outputs, TOKENS, outputs)
        self.cost[0] += sum([x.cost.nano_usd or 0 for x in booked]) / 1e9
        for x in booked:
            if x.usage.source is ESTIMATED:
                self.estimates[0] += 1
                self.estimated[0] += tokens(x.usage.prompt_tokens + x.usage.completion_tokens)
            elif x.stream and x.usage.source is UPSTREAM:
                self._book_pace(x, x.usage.completion_tokens)
            if x.cost.nano_usd is None and x.usage.source is not NONE:
                self.unpriced[0] += 1

    def _book_pace(self, x: Exchange, completion: int) -> None:
        first, last = x.timings.first_token, x.timings.last_byte
        if x.outcome is Outcome.OK and completion > 1 and first and last:
            pace = max(0.0, last - first) / 1000 / (tokens(completion) - 1)
            observe(self.token_time, PER_TOKEN, pace)


class Called:
    """Calls of one model to one upstream that ended in one way."""

    __slots__ = (
        *("calls", "duration", "first_byte", "good", "ok", "retries", "up", "wait", "waiting"),
    )

    def __init__(self, store: Store, upstream: str, model: str, outcome: str) -> None:
        cell = store.cell
        self.waiting: list[Exchange] = []  # to be booked
        self.calls = cell("gateway_upstream_requests_total", upstream, model, outcome)
        self.retries = cell("gateway_upstream_retries_total", upstream)
        self.wait = cell("gateway_upstream_queue_wait_seconds", upstream)
        self.first_byte = cell("gateway_upstream_first_byte_seconds", upstream)
        self.duration = cell("gateway_upstream_request_duration_seconds", upstream)
        self.ok = self.up = None
        self.good = outcome in GOOD
        if outcome != "abandoned":
            self.up = cell("gateway_upstream_up", upstream)
        if outcome == "2xx":
            self.ok = cell("gateway_upstream_last_success_timestamp_seconds", upstream)

    def book(self) -> None:
        """Count calls, their retries among them."""
        booked, self.waiting = self.waiting, []
        self.calls[0] += len(booked)
        self.retries[0] += sum([x.attempts - 1 for x in booked])
        times = [x.timings for x in booked]
        observe_all(self.wait, WAIT, [t.queued / 1000 for t in times])
        if self.up is not None:
            self.up[0] = self.good
        if self.ok is not None:
            self.ok[0] = booked[-1].at + (times[-1].last_byte or times[-1].total) / 1000
        first = [
            t.first_byte - t.connected if t.first_byte > t.connected else 0.0
            for t in times
            if t.connected is not None and t.first_byte is not None
        ]
        observe_all(self.first_byte, FIRST_TOKEN, [took / 1000 for took in first])
        last = [
            t.last_byte - t.connected if t.last_byte > t.connected else 0.0
            for t in times
            if t.connected is not None and t.last_byte is not None
        ]
        observe_all(self.duration, DURATION, [took / 1000 for took in last])


GOOD = frozenset({"2xx", "3xx", "4xx", "429"})

_BY_OUTCOME = {
    Outcome.UPSTREAM_ERROR: "error",
    Outcome.UPSTREAM_TIMEOUT: "timeout",
    Outcome.UPSTREAM_TRUNCATED: "cut",
    Outcome.UPSTREAM_IN_BAND_ERROR: "in_band_error",
    Outcome.DRAINED: "abandoned",
    Outcome.INTERNAL: "abandoned",
}
UPSTREAM_OUTCOMES = (
    *("2xx", "4xx", "429", "5xx", "timeout", "error", "cut", "in_band_error", "abandoned"),
)


def upstream_outcome(x: Exchange) -> str:
    """How the last call of an exchange ended, from the upstream's side."""
    if x.outcome is Outcome.CLIENT_DISCONNECT:
        return "2xx" if x.summary is not None and x.summary.complete else "abandoned"
    if x.outcome in _BY_OUTCOME:
        return _BY_OUTCOME[x.outcome]
    return "429" if x.status == 429 else f"{x.status // 100}xx"


KEY_OUTCOMES = ("ok", "refused", "client_error", "server_error", "left")


def key_outcome(x: Exchange) -> str:
    """How a request ended for the one who asked."""
    if x.outcome is Outcome.OK:
        return "ok"
    if x.outcome is Outcome.REFUSED:
        return "refused"
    if x.outcome is Outcome.CLIENT_DISCONNECT:
        return "left"
    upstreams_4xx = x.outcome is Outcome.UPSTREAM_STATUS and x.status < 500
    return "client_error" if upstreams_4xx else "server_error"
