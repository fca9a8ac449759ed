"""What is remembered to save work is bounded in bytes, as they are (docs/operations.md, "Memory").

A bound that counts a body and forgets the objects around it holds for large ones only.
"""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from gateway.boarding import Boarding
from gateway.cache.codec import decode, encode
from gateway.cache.store import NoCache
from gateway.config import Cache, Size
from gateway.entry import Entry, Recording, weight
from gateway.exchange import CacheState, Kind, Timings, Usage, UsageSource
from gateway.forms import Forms
from gateway.journal.rules import line
from gateway.metrics import Metrics
from gateway.usage.rows import rows_of
from gateway.wire.chat import read_chat
from tests.exchanges import CALLER, FixedClock, exchange
from tests.fakes import FakeClock, FakePrices, FakeUpstream, ask

T = TypeVar("T")
MIB = 1024 * 1024
KEY = bytes(32)
PLAIN = read_chat(b'{"model":"m","messages":[]}')
STREAM = read_chat(b'{"model":"m","messages":[],"stream":true}')
STREAM_WITH_USAGE = read_chat(
    b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
)


class Here:
    """`Calls`, as far as it is asked here: all bodies are worked on in a turn of the loop's."""

    def __init__(self) -> None:
        self.asked = 0

    async def off_loop(self, work: Callable[[bytes], T], body: bytes) -> T:
        self.asked += 1
        await asyncio.sleep(0)
        return work(body)


def boarding(memory: int) -> Boarding:
    return Boarding(Cache(memory=Size(memory)), NoCache(), FakeClock(), Here())  # type: ignore[arg-type]


def body(number: int, padding: int = 0, model: str = "m") -> bytes:
    said = f"{number:09d}" + "x" * padding
    asked = {"model": model, "messages": [{"role": "user", "content": said}]}
    return json.dumps(asked, ensure_ascii=False).encode()


def stream(number: int, padding: int) -> Entry:
    """A kept stream that can be turned into JSON exactly."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    delta = {"role": "assistant", "content": "x" * padding}
    first = {**chunk, "choices": [{"index": 0, "delta": delta}]}
    last = {**chunk, "choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]}
    usage = {**chunk, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    events = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in (first, last, usage)]
    return Entry(
        "issued:1",
        "m",
        "openai",
        stream=Recording(
            request_id=f"R{number}",
            created=1.0,
            ttl=60.0,
            key_id="1",
            key_name="alice",
            headers=(("content-type", "text/event-stream"),),
            body=b"".join([*events, b"data: [DONE]\n\n"]),
            usage=Usage(1, 1, source=UsageSource.UPSTREAM),
            finish_reasons=("stop",),
        ),
    )


async def grown(work: Callable[[int], Awaitable[object]], times: int) -> int:
    """Bytes that are held after `work` was done so often and were not before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(times):
            await work(number)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("padding", "model", "times"),
    [(0, "m", 4000), (400, "gpt-4o", 3000), (0, "\U0001f600" * 500, 1000), (20_000, "m", 150)],
)
async def test_bodies_that_came_before_take_no_more_than_their_bound(padding, model, times):
    """Twice as many as fit, and more: short ones, a model's name four bytes wide, long ones."""
    inside = boarding(memory=8 * MIB)
    await inside.plans.know(body(-1))
    took = await grown(lambda number: inside.plans.know(body(number, padding, model)), times)
    assert 0.25 * MIB < took <= MIB


@pytest.mark.parametrize("asked", [10, 200, 20_000])
async def test_their_plans_are_within_that_bound(asked):
    """Also where each request has a head of its own."""
    inside = boarding(memory=8 * MIB)
    story: list[object] = []
    upstreams = [FakeUpstream(story)]

    async def plan(number: int) -> None:
        known = await inside.plans.know(body(number))
        headers = [("openai-beta", str(number) + "x" * asked)]
        asking = ask(body(number), headers=headers)
        inside.plans.make(known, CALLER, asking, upstreams[0], upstreams, logged=False)

    await plan(-1)
    took = await grown(plan, 1500)
    assert 0.25 * MIB < took <= MIB


async def test_the_molds_of_hits_are_within_that_bound():
    """With what the sinks make of them."""
    inside = boarding(memory=8 * MIB)
    upstreams = [FakeUpstream([])]
    kinds = {False: Kind(exchange(at=60.0, cache=CacheState.HIT))}
    times = Timings(0.1, 0.2, 0.3, first_token=0.3, booked=0.4, total=0.4)
    entries: list[Entry] = []
    forms = Forms(Here())  # type: ignore[arg-type]
    for number in range(1000):
        recording = msgspec.structs.replace(stream(number, 0).recordings[0], headers=())
        entries.append(Entry("issued:1", "m", "openai", json=recording))
        assert forms.at_hand(entries[-1], PLAIN, 2.0, None) is not None  # its image is its own
    metrics = Metrics(CollectorRegistry(), FixedClock())
    metrics.configure(models=["gpt-4o"])

    async def mold(number: int) -> None:
        known, asking = await inside.plans.know(body(number)), ask(body(number))
        plan = inside.plans.make(known, CALLER, asking, upstreams[0], upstreams, logged=False)
        plan.kinds.update(kinds)
        made = inside.mold_of(plan, entries[number], 2.0, FakePrices())
        assert made is not None
        hit = msgspec.structs.replace(made.like, timings=times, mold=made)
        line(hit)
        rows_of([hit])
        metrics.book(hit)

    await mold(-1)
    took = await grown(mold, 1000)
    assert 0.5 * MIB < took <= MIB


async def test_a_body_that_came_before_is_not_read_again():
    inside = boarding(memory=8 * MIB)
    first = await inside.plans.know(body(0))
    for number in range(10_000):
        await inside.plans.know(body(number))
        assert number % 100 or await inside.plans.know(body(0)) is first
    second = await inside.plans.know(body(1))
    assert second is not await inside.plans.know(body(2))
    assert await inside.plans.know(body(1)) is second


async def test_the_bound_follows_the_configured_memory():
    inside = boarding(memory=64 * MIB)
    large = await grown(lambda number: inside.plans.know(body(number, 20_000)), 600)
    inside.reconfigure(Cache(memory=Size(8 * MIB)))
    small = await grown(lambda number: inside.plans.know(body(number, 20_000)), 600)
    assert large > 7 * MIB
    assert small <= MIB


@pytest.mark.parametrize(("padding", "times"), [(0, 4000), (20_000, 200)])
async def test_answers_built_in_the_other_form_take_no_more_than_their_bound(padding, times):
    forms = Forms(Here())  # type: ignore[arg-type]
    forms.resize(MIB)

    async def build(number: int) -> None:
        assert await forms.replay(stream(number, padding), PLAIN, 2.0, None) is not None

    await build(-1)
    took = await grown(build, times)
    assert 0.25 * MIB < took <= MIB


@pytest.mark.parametrize("span", [None, (200, 300)])
@pytest.mark.parametrize("times", [1, 9])  # a header that is replayed, so often
async def test_an_entry_weighs_what_it_takes_with_its_images(span, times):
    """Images are made when it is a hit, long after it was weighed (D10)."""
    forms = Forms(Here())  # type: ignore[arg-type]
    headers = [("content-type", "text/event-stream")]
    headers += [("openai-version", f"2020-10-{number:02}" * 5) for number in range(times)]
    written = stream(0, 1000)
    assert written.stream is not None
    written = replace(
        written, stream=replace(written.stream, usage_span=span, headers=tuple(headers))
    )
    data = encode(written, KEY)
    kept: list[Entry] = []

    async def hit(number: int) -> None:
        kept.append(decode(data, KEY))
        for asked in (STREAM, STREAM_WITH_USAGE):
            assert await forms.replay(kept[-1], asked, 2.0, None) is not None

    await hit(-1)
    took = await grown(hit, 200)
    assert took / 200 <= weight(written) <= took / 200 * 2.5


async def test_an_answer_that_is_built_twice_at_once_is_counted_once():
    """Else each such pair would take from the room for ever."""
    calls = Here()
    forms = Forms(calls)  # type: ignore[arg-type]
    forms.resize(MIB)
    entries = [stream(number, 300_000) for number in range(3)]
    for entry in entries:
        await asyncio.gather(*(forms.replay(entry, PLAIN, 2.0, None) for _ in range(2)))
    assert calls.asked == 6
    for entry in entries:
        await forms.replay(entry, PLAIN, 2.0, None)
    assert calls.asked == 6
