"""What one Exchange counts in: cells that are found once for all requests with the same labels.

Rule: a request costs one look-up of its lane and a few additions; names are looked at where a lane
is made. What happens only with an upstream's call is beside it, in a lane of its own.
"""

from __future__ import annotations

from bisect import bisect_left

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
from gateway.metrics.store import Cell, Store

MOST = 2**53  # what one answer may add: floats count exactly up to here
HIT, JOINED = CacheState.HIT, CacheState.JOINED
UPSTREAM, ESTIMATED, NONE = UsageSource.UPSTREAM, UsageSource.ESTIMATED, UsageSource.NONE
STAGES = (
    *("receive", "admit", "look_up", "connect", "first_byte", "relay", "finish"),
    *("replay", "join"),
)


def observe(row: Cell, bounds: tuple[float, ...], value: float) -> None:
    """One observation of a histogram."""
    row[bisect_left(bounds, value)] += 1
    row[-1] += value


def tokens(count: int) -> int:
    """As a counter takes them: it never falls (B1)."""
    return count if 0 <= count <= MOST else max(0, min(count, MOST))


class Lane:
    """Requests that differ in figures only."""

    __slots__ = (
        *("age", "bytes_in", "bytes_out", "duration", "duration_marks", "errors", "first"),
        *("first_marks", "key_requests", "overhead", "requests", "saved", "stages"),
    )

    def __init__(self, store: Store, x: Exchange, model: str, key: str) -> None:
        cell, cache = store.cell, x.cache.value
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
        self.saved: Saved | None = None
        if x.caller is not None and (x.cache is HIT or x.cache is JOINED):
            self.saved = Saved(store, model, key)

    def book(self, x: Exchange) -> None:
        """Count what every request counts in."""
        times, seconds = x.timings, x.timings.total / 1000
        self.requests[0] += 1
        if self.key_requests is not None:
            self.key_requests[0] += 1
        if self.errors is not None:
            self.errors[0] += 1
        row, at = self.duration, bisect_left(DURATION, seconds)
        row[at] += 1
        row[-1] += seconds
        self.duration_marks[at] = (x.id, x.trace, seconds, x.at + seconds)
        row, own = self.overhead, times.overhead / 1000
        row[bisect_left(OVERHEAD, own)] += 1
        row[-1] += own
        if self.first is not None and times.first_token is not None:
            first = times.first_token / 1000
            row, at = self.first, bisect_left(FIRST_TOKEN, first)
            row[at] += 1
            row[-1] += first
            self.first_marks[at] = (x.id, x.trace, first, x.at + first)
        row, size = self.bytes_in, x.bytes_in
        row[bisect_left(BYTES, size)] += 1
        row[-1] += size
        row, size = self.bytes_out, x.bytes_out
        row[bisect_left(BYTES, size)] += 1
        row[-1] += size
        if x.cache_age is not None and x.cache is HIT:
            row, age = self.age, x.cache_age
            row[bisect_left(AGE, age)] += 1
            row[-1] += age
        self.stages.book(x, times)
        if self.saved is not None and not x.attempts:
            self.saved.book(x)


class Stages:
    """Where the time went: each stage ends at one point of the request's timings."""

    __slots__ = ("_cells",)

    def __init__(self, store: Store) -> None:
        cells = [store.cell("gateway_stage_duration_seconds", stage) for stage in STAGES]
        self._cells = tuple(cells)

    def book(self, x: Exchange, times: Timings) -> None:
        """Count the stages that it went through, as far as it came."""
        receive, admit, look_up, connect, first_byte, relay, finish, replay, join = self._cells
        received, last, found = times.received, times.admitted, times.looked_up
        if received is None or last is None:
            return
        receive[0] += 1
        receive[1] += received / 1000
        admit[0] += 1
        admit[1] += (last - received) / 1000
        if found is not None:
            look_up[0] += 1
            look_up[1] += (found - last) / 1000
            last = found
        if x.cache is HIT or x.cache is JOINED:
            rest = replay if x.cache is HIT else join
            rest[0] += 1
            rest[1] += (times.total - last) / 1000
        elif x.attempts:
            ends = times.connected, times.first_byte, times.last_byte, times.total
            for cell, end in zip((connect, first_byte, relay, finish), ends, strict=True):
                if end is None or end < last:  # not reached, or reached by an earlier call only
                    break
                cell[0] += 1
                cell[1] += (end - last) / 1000
                last = end


class Saved:
    """What hits and joined requests of one model and key did not cost."""

    __slots__ = ("cost", "seconds", "tokens")

    def __init__(self, store: Store, model: str, key: str) -> None:
        self.tokens = store.cell("gateway_cache_saved_tokens_total", model, key)
        self.cost = store.cell("gateway_cache_saved_cost_usd_total", model, key)
        self.seconds = store.cell("gateway_cache_saved_seconds_total", model)

    def book(self, x: Exchange) -> None:
        """Count it."""
        self.tokens[0] += tokens(x.saved.prompt_tokens + x.saved.completion_tokens)
        self.seconds[0] += x.saved_seconds
        if x.saved_cost.nano_usd:
            self.cost[0] += x.saved_cost.nano_usd / 1e9


class Used:
    """What calls of one model took for one key."""

    __slots__ = (
        *("cached", "cost", "estimated", "estimates", "input", "inputs", "output", "outputs"),
        *("reasoning", "token_time", "unpriced"),
    )

    def __init__(self, store: Store, model: str, key: str) -> None:
        cell = store.cell
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

    def book(self, x: Exchange) -> None:
        """Count one call's tokens and money. Estimates never stand among what was told (A10)."""
        usage, source = x.usage, x.usage.source
        if source is UPSTREAM:
            prompt, completion = tokens(usage.prompt_tokens), tokens(usage.completion_tokens)
            self.input[0] += prompt
            self.output[0] += completion
            self.cached[0] += tokens(usage.cached_tokens)
            self.reasoning[0] += tokens(usage.reasoning_tokens)
            observe(self.inputs, TOKENS, prompt)
            observe(self.outputs, TOKENS, completion)
            self._book_pace(x, completion)
        elif source is ESTIMATED:
            self.estimates[0] += 1
            self.estimated[0] += tokens(usage.prompt_tokens + usage.completion_tokens)
        if x.cost.nano_usd is not None:
            self.cost[0] += x.cost.nano_usd / 1e9
        elif source is not NONE:
            self.unpriced[0] += 1

    def _book_pace(self, x: Exchange, completion: int) -> None:
        first, last = x.timings.first_token, x.timings.last_byte
        if x.stream and x.outcome is Outcome.OK and completion > 1 and first and last:
            pace = max(0.0, last - first) / 1000 / (completion - 1)
            observe(self.token_time, PER_TOKEN, pace)


class Called:
    """Calls of one model to one upstream that ended in one way."""

    __slots__ = ("calls", "duration", "first_byte", "good", "ok", "retries", "up", "wait")

    def __init__(self, store: Store, upstream: str, model: str, outcome: str) -> None:
        cell = store.cell
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

    def book(self, x: Exchange) -> None:
        """Count one call, its retries among them."""
        times = x.timings
        self.calls[0] += 1
        self.retries[0] += x.attempts - 1
        observe(self.wait, WAIT, times.queued / 1000)
        if self.up is not None:
            self.up[0] = self.good
        if self.ok is not None:
            self.ok[0] = x.at + (times.last_byte or times.total) / 1000
        if times.connected is None:
            return
        if times.first_byte is not None:
            took = max(0.0, times.first_byte - times.connected) / 1000
            observe(self.first_byte, FIRST_TOKEN, took)
        if times.last_byte is not None:
            observe(self.duration, DURATION, max(0.0, times.last_byte - times.connected) / 1000)


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
