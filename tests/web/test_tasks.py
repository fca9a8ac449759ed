"""A request is begun without a task, and gets one where it waits for more than a pause."""

from __future__ import annotations

import asyncio

import pytest

from gateway.leash import Errand, Leash, Pause, begin, own_task, resumed, runner
from gateway.web.server import Answer, Request
from tests.web.conftest import Serve, settle

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
tasks: list[object] = []


async def at_once(request: Request, client: Answer) -> None:
    tasks.append(asyncio.current_task())
    client.send(200, [], b"at once")


async def after_a_turn(request: Request, client: Answer) -> None:
    await asyncio.sleep(0)
    await at_once(request, client)


async def after_a_future(request: Request, client: Answer) -> None:
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waiting.set_result, None)
    await waiting
    await after_a_turn(request, client)


async def after_a_failed_future(request: Request, client: Answer) -> None:
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waiting.set_exception, ValueError("seen"))
    with pytest.raises(ValueError, match="seen"):
        await waiting
    await at_once(request, client)


async def with_a_deadline(request: Request, client: Answer) -> None:
    await own_task()
    async with asyncio.timeout(20):
        await asyncio.sleep(0)
    await at_once(request, client)


@pytest.mark.parametrize(
    "handler", [at_once, after_a_turn, after_a_future, after_a_failed_future, with_a_deadline]
)
async def test_who_waits_has_a_task(serve: Serve, handler: object) -> None:
    tasks.clear()
    async with serve(handler) as plane:
        client = await plane.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"at once"
    assert [task is None for task in tasks] == [handler is at_once] * 2


async def test_what_is_under_way_is_counted_and_waited_for(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: Request, client: Answer) -> None:
        await go.wait()
        client.send(200, [], b"done")

    async with serve(handler) as plane:
        client = await plane.connect()
        await client.send(GET)
        await settle(lambda: plane.server.in_flight == 1)
        plane.server.begin_drain()
        assert not await plane.server.wait_closed(0)
        go.set()
        assert (await client.reply()).body == b"done"
        assert await plane.server.wait_closed(20)


async def test_a_cancel_reaches_what_was_begun_before() -> None:
    seen: list[str] = []

    async def begun() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("ended")

    coroutine = begun()
    task = asyncio.get_running_loop().create_task(resumed(coroutine, coroutine.send(None)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "ended"]


class Walk:
    """A coroutine begun without a task; what it did, and its pauses."""

    def __init__(self, *, first_in_a_task: bool = False) -> None:
        self.steps: list[str] = []
        self.pauses = [Pause(), Pause()]
        self.leash = Leash()
        self.ended: list[Errand] = []
        self._first_in_a_task = first_in_a_task

    def begin(self) -> Errand | None:
        return begin(self._way(), asyncio.get_running_loop(), self.ended.append)

    async def _way(self) -> None:
        if self._first_in_a_task:
            await own_task()
        try:
            with self.leash.holding(await runner()):
                await self.pauses[0]
                self.steps.append("went on")
        except KeyError:
            self.steps.append("broken off")
        await self.pauses[1]
        self.steps.append(f"in a task: {asyncio.current_task() is not None}")


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def outside(call: object) -> asyncio.Future[None]:
    """Run it in a callback, as sockets do."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        call()  # type: ignore[operator]
        done.set_result(None)

    loop.call_soon(run)
    return done


async def test_who_waits_for_a_pause_goes_on_as_it_ends() -> None:
    walk = Walk()

    def run() -> None:
        assert walk.begin() is not None
        walk.pauses[0].end()
        assert walk.steps == ["went on"]
        walk.pauses[1].end()
        walk.pauses[1].end()
        assert walk.steps == ["went on", "in a task: False"]

    await outside(run)
    assert [errand.over for errand in walk.ended] == [True]


async def test_a_pause_that_is_over_is_not_waited_for() -> None:
    walk = Walk()
    for pause in walk.pauses:
        pause.end()
    await outside(lambda: walk.steps.append(repr(walk.begin())))
    assert walk.steps == ["went on", "in a task: False", "None"]


async def test_who_ends_a_pause_within_a_task_lends_it_to_nobody() -> None:
    walk = Walk()
    await outside(walk.begin)
    walk.pauses[0].end()
    assert walk.steps == []
    await turns()
    await outside(walk.pauses[1].end)
    assert walk.steps == ["went on", "in a task: False"]


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_a_leash_breaks_one_section_off(in_a_task: bool) -> None:
    walk = Walk(first_in_a_task=in_a_task)
    await outside(walk.begin)
    await turns()
    await outside(lambda: walk.leash.pull(KeyError()))
    await turns()
    assert walk.steps == ["broken off"]
    await outside(walk.pauses[0].end)  # nobody waits for it any more
    await outside(walk.pauses[1].end)
    await turns()
    assert walk.steps == ["broken off", f"in a task: {in_a_task}"]
    assert len(walk.ended) == 1


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_a_pause_that_ends_first_is_not_broken_off(in_a_task: bool) -> None:
    """And nothing of the leash is left for what comes after its section."""
    walk = Walk(first_in_a_task=in_a_task)

    def run() -> None:
        walk.leash.pull(KeyError())
        walk.pauses[0].end()

    await outside(walk.begin)
    await turns()
    await outside(run)
    await turns()
    assert walk.steps == (["broken off"] if in_a_task else ["went on"])
    walk.pauses[1].end()
    await turns()
    assert walk.steps[1:] == [f"in a task: {in_a_task}"]


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_an_errand_is_cancelled_as_a_task_is(in_a_task: bool) -> None:
    walk = Walk(first_in_a_task=in_a_task)
    errands: list[Errand | None] = []
    await outside(lambda: errands.append(walk.begin()))
    await turns()
    (errand,) = errands
    assert errand is not None
    assert errand.cancel()
    await turns()
    assert (walk.steps, walk.ended, errand.over) == ([], [errand], True)
    assert not errand.cancel()
