"""Who guesses keys waits; nobody else does (N2)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import penalty
from gateway.keys.penalty import FREE, MOST, REFILL, Penalty
from tests.keys.fake import SetClock

CLIENT = "192.0.2.1"


def failures(house: Penalty, count: int, client: str = CLIENT) -> list[float]:
    return [house.failed(client) for _ in range(count)]


def test_the_first_ten_cost_nothing_and_then_each_costs_more():
    waits = failures(Penalty(SetClock()), 30)
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 5] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert set(waits[FREE + 6 :]) == {MOST}


def test_an_address_that_waits_is_forgiven():
    clock = SetClock()
    house = Penalty(clock)
    failures(house, 1000)
    clock.mono += 10 * REFILL
    assert house.failed(CLIENT) > 0  # a flood is not forgiven at once,
    clock.mono += 30 * REFILL
    assert failures(house, FREE) == [0.0] * FREE  # nor held against it for ever


def test_one_who_fails_now_and_then_never_waits():
    clock = SetClock()
    house = Penalty(clock)
    for _ in range(100):
        assert house.failed(CLIENT) == 0.0
        clock.mono += REFILL


def test_addresses_pay_apart():
    house = Penalty(SetClock())
    failures(house, 50)
    assert house.failed("192.0.2.2") == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", CLIENT, True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unknown", "unknown", True),
        ("", "", True),
    ],
)
def test_a_host_cannot_choose_another_address(one, other, same):
    house = Penalty(SetClock())
    failures(house, 50, one)
    assert (house.failed(other) > 0) == same


def test_the_table_is_bounded_and_the_longest_quiet_is_forgotten(monkeypatch):
    monkeypatch.setattr(penalty, "REMEMBERED", 3)
    house = Penalty(SetClock())
    failures(house, 50)
    for number in range(50):
        house.failed(f"198.51.100.{number}")
        assert house.failed(CLIENT) > 0
    assert len(house._failures) == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100)), max_size=60))
def test_no_wait_is_longer_than_the_longest(tries):
    clock = SetClock()
    house = Penalty(clock)
    for client, later in tries:
        clock.mono += later
        assert 0.0 <= house.failed(client) <= MOST


async def test_a_refusal_is_held_back_and_only_so_many_at_once(monkeypatch):
    """Those that wait must not take the room of requests with a key."""
    monkeypatch.setattr(penalty, "WAITING", 2)
    slept: list[float] = []
    go = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await go.wait()

    house = Penalty(SetClock(), sleep)
    for _ in range(FREE):
        await house.pay(CLIENT)
    assert slept == []
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(house.pay(CLIENT)) for _ in range(2)]
    await asyncio.sleep(0)
    await house.pay(CLIENT)  # at once
    assert slept == [0.05, 0.1]
    waiting[0].cancel()
    go.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    await house.pay(CLIENT)
    assert len(slept) == 3
