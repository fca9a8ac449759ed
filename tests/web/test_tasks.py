"""A request is begun without a task, and gets one when it has to wait (design.md)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.leash import own_task, resumed
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
