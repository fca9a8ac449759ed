"""What plans have in common is worked out once, and never outlives what it depends on (C1-C9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import pytest
from attrs import evolve

from gateway import plans
from gateway.config import Cache, Size
from gateway.plans import Plan, Plans
from gateway.said import said
from tests.exchanges import CALLER
from tests.fakes import FakeUpstream, ask

T = TypeVar("T")
UPSTREAMS = [FakeUpstream([])]
BODIES: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"stream": True},
    {"store": True},
    {"n": 2, "temperature": 0},
    {"x": 2**70},
]
HEADS = [
    [],
    [("cache-control", "no-cache")],
    [("cache-control", "no-store")],
    [("openai-beta", "x")],
]


class Here:
    """`Calls`, as far as it is asked here."""

    async def off_loop(self, work: Callable[[bytes], T], body: bytes) -> T:
        await asyncio.sleep(0)
        return work(body)


def made(section: Cache | None = None) -> Plans:
    return Plans(section or Cache(), Here())  # type: ignore[arg-type]


def body(number: int, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [number], **more}).encode()


async def plan(
    on: Plans, data: bytes, *, head: Any = (), caller: Any = CALLER, upstreams: Any = UPSTREAMS
) -> tuple[Plan, bool]:
    """As the pipeline makes it; was it worked out from what an earlier one had."""
    known, asking = await on.know(data), ask(data, headers=list(head))
    alike = on.alike(known, caller, said(asking).asks, upstreams)
    if alike is not None:
        return alike, True
    return on.make(known, caller, asking, upstreams[0], upstreams, logged=False), False


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("head", HEADS)
async def test_a_plan_is_the_same_whether_another_came_before_or_not(head, sampled):
    section = evolve(Cache(), sampled=sampled)
    on = made(section)
    for number, more in enumerate(BODIES):
        data = body(number, **more)
        found, alike = await plan(on, data, head=head)
        alone, _ = await plan(made(section), data, head=head)
        assert alike == (number > 0)
        assert found == alone
        assert (found.key is None) == (found.bypass is not None)


async def test_plans_of_other_bodies_have_other_keys():
    on = made()
    keys = {(await plan(on, body(number)))[0].key for number in range(20)}
    assert len(keys) == 20


@pytest.mark.parametrize(
    "other",
    [
        {"caller": copy(CALLER)},  # equal, and revoked or changed for all that is known
        {"upstreams": list(UPSTREAMS)},
        {"head": [("openai-beta", "x")]},
    ],
)
async def test_another_caller_head_or_configuration_begins_anew(other):
    on = made()
    await plan(on, body(0))
    assert (await plan(on, body(1)))[1]
    assert not (await plan(on, body(2), **other))[1]


async def test_a_reload_forgets():
    on = made()
    await plan(on, body(0))
    on.reconfigure(evolve(Cache(), sampled=False))
    found, alike = await plan(on, body(1))
    assert not alike
    assert found.bypass == "sampled"


async def test_no_more_than_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(plans, "TERMS", 5)
    on = made()
    for number in range(50):
        await plan(on, body(0, model=f"m{number}"))
        await plan(on, body(number), head=[("openai-beta", "x" * 1000 + str(number))])
        assert len(on._terms) <= 5


async def test_bodies_that_come_once_drive_out_none_that_come_again():
    on = made(Cache(memory=Size(1)))  # so there is room for 1 MiB of them
    often = [body(number, more="x" * 2000) for number in range(20)]
    first = [await on.know(data) for data in often]
    for number in range(100, 2000):
        await on.know(body(number, more="x" * 2000))
    assert all([await on.know(data) is known for data, known in zip(often, first, strict=True)])
    again = body(150, more="x" * 2000)
    known = [await on.know(again) for _ in range(3)]
    assert known[2] is known[1] or known[1] is known[0]
