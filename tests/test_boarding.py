"""Kept answers, joined flights and the forms between them, told with fakes of the ports."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from gateway.cache.store import TwoTier
from gateway.config import Abandoned, Cache, Duration, Size
from gateway.entry import Selector
from gateway.errors import Draining, UpstreamCut, UpstreamError
from gateway.exchange import CacheState, Exchange, Outcome, UsageSource
from gateway.flight import Flight
from gateway.house import House
from gateway.pipeline import Pipeline
from tests.fakes import SSE, FakeClient, FakeClock, FakeReply, FakeUpstream, ask, house
from tests.test_pipeline import ANSWER, CHAT, DONE, STREAM, USAGE, delta, event

ASKED = json.dumps(
    {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
).encode()
JSON_OF_STREAM = json.dumps({"model": "m", "messages": []}).encode()
ID = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def whole_stream() -> list[bytes]:
    """A stream that can be turned into JSON exactly."""
    first = event(**ID, choices=[{"index": 0, "delta": {"role": "assistant", "content": "a"}}])
    last = event(**ID, choices=[{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}])
    usage = event(**ID, choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
    return [first, last, usage, DONE]


class Scene:
    """One house with a cache, and as many requests as a story needs."""

    def __init__(self, inside: House, upstream: FakeUpstream, story: list[Any]) -> None:
        self.house = inside
        self.upstream = upstream
        self.story = story
        self.clock: FakeClock = inside.clock  # type: ignore[assignment]
        self.number = 0

    def begin(
        self, body: bytes, *headers: tuple[str, str], room: int = 1 << 30
    ) -> tuple[FakeClient, asyncio.Task[None]]:
        self.number += 1
        client = FakeClient(self.story, room=room)
        request = ask(body, headers=list(headers))
        request.id = f"R{self.number}"
        way = Pipeline(self.house).chat(request, client)
        return client, asyncio.get_running_loop().create_task(way)

    async def chat(self, body: bytes, *headers: tuple[str, str]) -> FakeClient:
        client, task = self.begin(body, *headers)
        await task
        return client

    def exchange(self, number: int) -> Exchange:
        """The one exchange of a request."""
        found = [x for x in self.house.sinks[0].exchanges if x.id == f"R{number}"]  # type: ignore[attr-defined]
        assert len(found) == 1
        return found[0]

    @property
    def calls(self) -> int:
        return self.story.count("call")


@asynccontextmanager
async def scene(
    tmp_path: Path,
    *replies: FakeReply | Exception,
    section: Cache | None = None,
    disk: bool = False,
) -> AsyncIterator[Scene]:
    story: list[Any] = []
    for reply in replies:
        if isinstance(reply, FakeReply):
            reply.story = story
    # Without a disk a look-up never leaves the loop, so `settle` is enough to know where all are.
    section = evolve(
        section or Cache(), size_limit=Size(4 << 30 if disk else 0), disk_deadline=Duration(60)
    )
    upstream = FakeUpstream(story, *replies)
    cache = TwoTier(section, tmp_path / "cache", FakeClock())
    await cache.start()
    inside = house(story, upstream, section=section, cache=cache)
    try:
        yield Scene(inside, upstream, story)
    finally:
        await cache.close()


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True, params=[False, True], ids=["in pieces", "at once"])
def coming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However an answer comes, the story is the same."""
    monkeypatch.setattr(FakeReply, "at_once", request.param)


async def test_equal_request_is_a_hit_with_its_headers(tmp_path: Path) -> None:
    """C9, D3."""
    async with scene(tmp_path, FakeReply([], [ANSWER])) as on:
        first, second = await on.chat(CHAT), await on.chat(b" " + CHAT)
        assert first.headers["x-gateway-cache"] == "miss"
        assert second.headers["x-gateway-cache"] == "hit"
        assert second.body == first.body == ANSWER
        assert second.headers["age"] == "0"
        assert second.headers["x-gateway-saved-tokens"] == "8"
        assert second.headers["x-gateway-cache-ttl"] == str(86400)
        assert len(second.headers["x-gateway-cache-key"]) == 16
        assert second.headers["x-request-id"] == "R2"
        hit = on.exchange(2)
        assert hit.cache is CacheState.HIT
        assert (hit.usage.source, hit.usage.prompt_tokens) == (UsageSource.CACHE, 0)
        assert (hit.saved.prompt_tokens, hit.saved.completion_tokens) == (3, 5)
        assert hit.attempts == 0
        assert on.calls == 1


async def test_a_kept_flight_is_gone_with_its_request(tmp_path: Path) -> None:
    """It does not wait for the collector of cycles, whose walks hold everybody up."""
    async with scene(tmp_path, FakeReply([], [ANSWER])) as on:
        gc.collect()
        gc.disable()
        try:
            before = flights()
            client = await on.chat(CHAT)
            client.watch(settle, settle)  # type: ignore[arg-type]  # a real one forgets at its end
            assert flights() <= before
        finally:
            gc.enable()
        assert client.headers["x-gateway-cache"] == "miss"


def flights() -> set[int]:
    return {id(one) for one in gc.get_objects() if type(one) is Flight}


async def test_memory_hit_awaits_nothing(tmp_path: Path) -> None:
    """A hit runs from the body to the end without giving the loop a turn: no task, no disk."""
    async with scene(tmp_path, FakeReply([], [ANSWER])) as on:
        await on.chat(CHAT)
        client = FakeClient([])
        way = Pipeline(on.house).chat(ask(CHAT), client)
        with pytest.raises(StopIteration):
            way.send(None)
        assert client.ended == "finished"
        assert client.headers["x-gateway-cache"] == "hit"


async def test_stream_is_replayed_byte_for_byte_and_usage_follows_the_asker(tmp_path: Path) -> None:
    """D5, D7."""
    events = whole_stream()
    async with scene(tmp_path, FakeReply([], events, headers=SSE)) as on:
        live, silent, asked = (
            await on.chat(STREAM), await on.chat(STREAM), await on.chat(ASKED)
        )  # fmt: skip
        assert live.body == silent.body == events[0] + events[1] + DONE
        assert asked.body == b"".join(events)
        assert asked.headers["x-gateway-cache"] == "hit"
        assert asked.length is None
        assert on.calls == 1


async def test_the_other_form_is_built_where_that_is_exact(tmp_path: Path) -> None:
    async with scene(tmp_path, FakeReply([], whole_stream(), headers=SSE)) as on:
        await on.chat(STREAM)
        client = await on.chat(JSON_OF_STREAM)
        assert client.headers["x-gateway-cache"] == "hit"
        assert client.headers["content-type"] == "application/json"
        answer = json.loads(client.body)
        assert answer["choices"][0]["message"]["content"] == "ab"
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
        assert client.length == len(client.body)


async def test_where_it_is_not_exact_the_second_form_is_kept_beside_the_first(
    tmp_path: Path,
) -> None:
    """D6."""
    odd = [delta("a"), event(**ID, choices=[{"index": 0, "delta": {"x": 1}}]), delta("", "stop")]
    stream = FakeReply([], [*odd, event(**ID, choices=[{"index": 0, "delta": {"x": 2}}]), DONE])
    stream.headers = SSE
    async with scene(tmp_path, stream, FakeReply([], [ANSWER])) as on:
        await on.chat(STREAM)
        json_miss = await on.chat(JSON_OF_STREAM)
        assert json_miss.headers["x-gateway-cache"] == "miss"
        assert (await on.chat(JSON_OF_STREAM)).headers["x-gateway-cache"] == "hit"
        assert (await on.chat(STREAM)).headers["x-gateway-cache"] == "hit"
        assert on.calls == 2


@pytest.mark.parametrize(
    ("header", "state", "calls"),
    [
        (("cache-control", "no-cache"), "miss", 2),
        (("cache-control", "no-store"), "bypass", 2),
        (("cache-control", "max-age=0"), "hit", 1),
        (("cache-control", "only-if-cached"), "hit", 1),
        (("cache-control", "unheard-of=1, X"), "hit", 1),
    ],
)
async def test_what_a_request_may_ask(
    tmp_path: Path, header: tuple[str, str], state: str, calls: int
) -> None:
    """C8."""
    async with scene(tmp_path, FakeReply([], [ANSWER]), FakeReply([], [ANSWER])) as on:
        await on.chat(CHAT)
        assert (await on.chat(CHAT, header)).headers["x-gateway-cache"] == state
        assert on.calls == calls


async def test_only_if_cached_makes_no_call_and_does_not_wait(tmp_path: Path) -> None:
    more = asyncio.Event()
    async with scene(tmp_path, FakeReply([], [more, ANSWER])) as on:
        _, task = on.begin(CHAT)
        await settle()
        client = await on.chat(CHAT, ("cache-control", "only-if-cached"))
        assert client.status == 504
        assert client.headers["x-gateway-cache"] == "miss"
        assert json.loads(client.body)["error"]["code"] == "not_cached"
        more.set()
        await task
        assert on.calls == 1


async def test_equal_requests_in_flight_share_one_call(tmp_path: Path) -> None:
    """D9: live, late joiners too; tokens once."""
    first, second = asyncio.Event(), asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], first, events[1], second, *events[2:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        early, joined = on.begin(ASKED)
        await settle()
        assert early.body == events[0]
        assert early.headers["x-gateway-cache"] == "joined"
        first.set()
        await settle()
        late, joined_late = on.begin(STREAM)
        await settle()
        assert late.body == leader.body == events[0] + events[1]
        second.set()
        await asyncio.gather(led, joined, joined_late)
        assert leader.body == late.body == events[0] + events[1] + DONE
        assert early.body == b"".join(events)
        assert on.calls == 1
        assert on.exchange(1).usage.completion_tokens == 2
        join = on.exchange(2)
        assert (join.cache, join.usage.source, join.attempts) == (
            CacheState.JOINED, UsageSource.CACHE, 0,
        )  # fmt: skip
        assert join.usage.completion_tokens == 0
        assert join.saved.completion_tokens == 2


async def test_json_boards_a_stream_and_gets_it_whole(tmp_path: Path) -> None:
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        client, joined = on.begin(JSON_OF_STREAM)
        await settle()
        assert not client.started
        more.set()
        await asyncio.gather(led, joined)
        assert client.headers["x-gateway-cache"] == "joined"
        assert json.loads(client.body)["choices"][0]["message"]["content"] == "ab"
        assert on.calls == 1


async def test_a_stream_never_boards_json(tmp_path: Path) -> None:
    more = asyncio.Event()
    stream = FakeReply([], whole_stream(), headers=SSE)
    async with scene(tmp_path, FakeReply([], [more, ANSWER]), stream) as on:
        _, led = on.begin(JSON_OF_STREAM)
        await settle()
        client = await on.chat(STREAM)
        assert client.headers["x-gateway-cache"] == "miss"
        more.set()
        await led
        assert on.calls == 2


async def test_json_that_boarded_what_cannot_be_turned_calls_itself(tmp_path: Path) -> None:
    more = asyncio.Event()
    stream = FakeReply([], [delta("a"), more, delta("b", "stop"), DONE], headers=SSE)  # no usage
    async with scene(tmp_path, stream, FakeReply([], [ANSWER])) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        client, joined = on.begin(JSON_OF_STREAM)
        await settle()
        more.set()
        await asyncio.gather(led, joined)
        assert client.body == ANSWER
        assert client.headers["x-gateway-cache"] == "miss"
        assert on.calls == 2


async def test_leader_that_leaves_takes_nobody_with_it(tmp_path: Path) -> None:
    """B6: who joined still gets it all, the launcher's key pays."""
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        other, joined = on.begin(STREAM)
        await settle()
        leader.leave()
        more.set()
        await asyncio.gather(led, joined)
        assert other.body == events[0] + events[1] + DONE
        assert on.exchange(1).outcome is Outcome.CLIENT_DISCONNECT
        assert on.exchange(1).usage.completion_tokens == 2
        assert on.exchange(2).outcome is Outcome.OK
        assert on.calls == 1


async def test_flight_that_all_have_left_finishes_and_is_kept(tmp_path: Path) -> None:
    """B5: exact usage, and the next one hits."""
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        leader.leave()
        await settle()
        assert len(on.house.boarding.abandoned) == 1
        more.set()
        await led
        assert on.exchange(1).outcome is Outcome.CLIENT_DISCONNECT
        assert on.exchange(1).usage.completion_tokens == 2
        assert len(on.house.boarding.abandoned) == 0
        assert (await on.chat(STREAM)).headers["x-gateway-cache"] == "hit"


async def test_no_call_is_made_for_a_client_that_has_left_before_it(tmp_path: Path) -> None:
    """Not even one that would be finished for the cache."""
    async with scene(tmp_path, FakeReply([], [ANSWER])) as on:
        client, task = on.begin(CHAT)
        client.gone = True
        await task
        assert on.calls == 0
        assert on.exchange(1).status == 499


async def test_abandoned_flight_can_still_be_boarded(tmp_path: Path) -> None:
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        leader.leave()
        client, joined = on.begin(STREAM)
        await settle()
        assert client.body == events[0]
        assert len(on.house.boarding.abandoned) == 0
        more.set()
        await asyncio.gather(led, joined)
        assert client.ended == "finished"
        assert on.calls == 1


@pytest.mark.parametrize(
    "abandoned",
    [Abandoned(flights=0), Abandoned(bytes=Size(10))],
    ids=["number", "bytes"],
)
async def test_abandoned_flights_are_bounded(tmp_path: Path, abandoned: Abandoned) -> None:
    never = asyncio.Event()
    reply = FakeReply([], [whole_stream()[0], never], headers=SSE)
    async with scene(tmp_path, reply, section=Cache(abandoned=abandoned)) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        leader.leave()
        await led
        assert "closed" in on.story
        assert on.exchange(1).outcome is Outcome.CLIENT_DISCONNECT
        assert on.house.boarding.in_the_air == 0


async def test_abandoned_flight_ends_after_its_time(tmp_path: Path) -> None:
    never = asyncio.Event()
    reply = FakeReply([], [whole_stream()[0], never], headers=SSE)
    section = Cache(abandoned=Abandoned(time=0.01))  # type: ignore[arg-type]
    async with scene(tmp_path, reply, section=section) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        leader.leave()
        await led
        assert "closed" in on.story


async def test_upstream_that_aborts_on_disconnect_is_let_go(tmp_path: Path) -> None:
    never = asyncio.Event()
    reply = FakeReply([], [whole_stream()[0], never], headers=SSE)
    async with scene(tmp_path, reply) as on:
        on.upstream.finish_on_disconnect = False
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        leader.leave()
        await led
        assert "closed" in on.story


async def test_failed_flight_fails_for_all_and_nobody_hangs(tmp_path: Path) -> None:
    """D9."""
    more = asyncio.Event()

    class Slow(FakeUpstream):
        async def send(self, call: Any) -> FakeReply:
            await more.wait()
            return await super().send(call)

    async with scene(tmp_path) as on:
        slow = Slow(on.story, UpstreamError("refused"), FakeReply(on.story, [ANSWER]))
        on.house.upstreams = [slow]
        requests = [on.begin(CHAT) for _ in range(5)]
        await settle()
        more.set()
        await asyncio.gather(*(task for _, task in requests))
        assert [client.status for client, _ in requests] == [502] * 5
        assert on.calls == 1
        assert (await on.chat(CHAT)).status == 200  # a failure is not remembered


async def test_stream_that_breaks_off_breaks_off_for_all(tmp_path: Path) -> None:
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, UpstreamCut("cut")], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        other, joined = on.begin(STREAM)
        await settle()
        more.set()
        await asyncio.gather(led, joined)
        for client in (leader, other):
            assert client.body.startswith(events[0] + b'data: {"error":')
            assert b"[DONE]" not in client.body
        assert on.exchange(2).outcome is Outcome.UPSTREAM_TRUNCATED
        assert on.house.boarding.in_the_air == 0


async def test_reader_that_stalls_does_not_hold_up_the_others(tmp_path: Path) -> None:
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        stalled, joined = on.begin(STREAM, room=0)
        await settle()
        more.set()
        await led
        assert leader.ended == "finished"
        assert not stalled.ended
        stalled.drain()
        await joined
        assert stalled.body == leader.body


async def test_flight_past_the_cap_takes_nobody_more_and_is_not_kept(tmp_path: Path) -> None:
    more = asyncio.Event()
    big = delta("x" * 3000)
    one = FakeReply([], [big, more, delta("", "stop"), USAGE, DONE], headers=SSE)
    two = FakeReply([], [delta("b", "stop"), USAGE, DONE], headers=SSE)
    async with scene(tmp_path, one, two, section=Cache(max_entry=Size(2000))) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        other = await on.chat(STREAM)
        assert other.headers["x-gateway-cache"] == "miss"
        more.set()
        await led
        assert on.exchange(1).cache_reason == "too_large"
        assert leader.body == big + delta("", "stop") + DONE
        assert on.calls == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (FakeReply([], [b'{"error":{}}'], status=429), "status"),
        (FakeReply([], [b'{"error":{"message":"x"}}']), "error"),
        (FakeReply([], [b'{"choices":[]}']), "no_choices"),
        (FakeReply([], [ANSWER.replace(b'"stop"', b'"length"')]), "finish_reason"),
        (FakeReply([], [ANSWER], headers=[("content-type", "text/plain")]), "content_type"),
    ],
)
async def test_what_is_not_kept_is_said(tmp_path: Path, reply: FakeReply, reason: str) -> None:
    """D1."""
    async with scene(tmp_path, deepcopy(reply), FakeReply([], [ANSWER])) as on:
        await on.chat(CHAT)
        assert on.exchange(1).cache_reason == reason
        assert (await on.chat(CHAT)).headers["x-gateway-cache"] == "miss"


async def test_purge_holds_for_what_took_off_before(tmp_path: Path) -> None:
    more = asyncio.Event()
    reply = FakeReply([], [ANSWER[:5], more, ANSWER[5:]])
    async with scene(tmp_path, reply, FakeReply([], [ANSWER])) as on:
        client, task = on.begin(CHAT)
        await settle()
        await on.house.boarding.cache.purge(Selector(everything=True))
        more.set()
        await task
        assert client.body == ANSWER
        assert (await on.chat(CHAT)).headers["x-gateway-cache"] == "miss"


async def test_later_landing_wins_for_its_own_form(tmp_path: Path) -> None:
    newer = ANSWER.replace(b"hello", b"other")
    async with scene(tmp_path, FakeReply([], [ANSWER]), FakeReply([], [newer])) as on:
        await on.chat(CHAT)
        await on.chat(CHAT, ("cache-control", "no-cache"))
        assert (await on.chat(CHAT)).body == newer


async def test_ttl_is_the_launchers(tmp_path: Path) -> None:
    async with scene(tmp_path, FakeReply([], [ANSWER]), FakeReply([], [ANSWER])) as on:
        await on.chat(CHAT, ("x-gateway-cache-ttl", "60"))
        hit = await on.chat(CHAT, ("x-gateway-cache-ttl", "9999"))
        assert hit.headers["x-gateway-cache-ttl"] == "60"


async def test_two_callers_share_nothing(tmp_path: Path) -> None:
    """C4."""
    async with scene(tmp_path, FakeReply([], [ANSWER]), FakeReply([], [ANSWER])) as on:
        await on.chat(CHAT)
        keys = on.house.keys
        other = type("Other", (), {"identify": lambda self, a, b: _other()})()
        on.house.keys = other
        assert (await on.chat(CHAT)).headers["x-gateway-cache"] == "miss"
        on.house.keys = keys
        assert (await on.chat(CHAT)).headers["x-gateway-cache"] == "hit"


def _other() -> Any:
    from dataclasses import replace

    from tests.fakes import CALLER

    return replace(CALLER, id="another")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[],"seed":NaN}',
        b'{"model":"m","messages":[],"seed":18446744073709551616}',
        b'{"model":"m","messages":[{"a":1,"a":2}]}',
        b'{"model":"m","messages":["\\ud800"]}',
        b'{"model":"m","messages":[],"store":true}',
        b'{"model":"m","messages":[],"web_search_options":{}}',
    ],
)
async def test_bodies_that_pass_the_cache_by(tmp_path: Path, body: bytes) -> None:
    async with scene(tmp_path, FakeReply([], [ANSWER]), FakeReply([], [ANSWER])) as on:
        for _ in range(2):
            assert (await on.chat(body)).headers["x-gateway-cache"] == "bypass"
        assert on.calls == 2
        assert on.upstream.calls[0].body == body


async def test_kept_answers_survive_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path, FakeReply([], whole_stream(), headers=SSE), disk=True) as on:
        live = await on.chat(STREAM)
    async with scene(tmp_path, disk=True) as again:
        hit = await again.chat(STREAM)
        assert hit.headers["x-gateway-cache"] == "hit"
        assert hit.body == live.body
        assert again.calls == 0


async def test_joiner_that_is_cut_by_a_stop_gets_nothing_after_its_error(tmp_path: Path) -> None:
    """L1: the flight goes on without it."""
    more = asyncio.Event()
    events = whole_stream()
    reply = FakeReply([], [events[0], more, *events[1:]], headers=SSE)
    async with scene(tmp_path, reply) as on:
        leader, led = on.begin(STREAM)
        await leader.written.wait()
        before = set(on.house.flights)
        other, joined = on.begin(STREAM)
        await settle()
        (leash,) = set(on.house.flights) - before
        leash.pull(Draining("stop"))
        await joined
        more.set()
        await led
        assert other.body.startswith(events[0] + b'data: {"error":')
        assert leader.body == events[0] + events[1] + DONE
        assert on.exchange(2).outcome is Outcome.DRAINED


async def test_a_cache_that_fails_costs_nobody_the_answer(tmp_path: Path, caplog: Any) -> None:
    """E3."""
    async with scene(tmp_path, FakeReply([], [ANSWER])) as on:

        def broken(*_: object) -> bool:
            raise OSError("no disk")

        cache: Any = on.house.boarding.cache
        cache.store = broken
        client = await on.chat(CHAT)
        assert client.body == ANSWER
        assert on.exchange(1).outcome is Outcome.OK
        assert "could not be kept" in caplog.text


async def test_only_if_cached_is_a_miss_also_for_what_is_never_kept(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        client = await on.chat(CHAT, ("cache-control", "no-store, only-if-cached"))
        assert (client.status, client.headers["x-gateway-cache"]) == (504, "miss")
        assert on.calls == 0


async def test_waiting_for_an_equal_request_is_no_overhead(tmp_path: Path) -> None:
    more = asyncio.Event()
    async with scene(tmp_path, FakeReply([], [ANSWER[:9], more, ANSWER[9:]])) as on:
        _, led = on.begin(CHAT)
        await settle()
        _, joined = on.begin(CHAT)
        await settle()
        on.clock.time += 5
        more.set()
        await asyncio.gather(led, joined)
        times = on.exchange(2).timings
        assert (times.total, times.upstream, times.overhead) == (5000, 5000, 0)
