"""Money is whole numbers that add up; what was not said is estimated as told, and marked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import AfterCrash, OnMissingUsage, Price
from gateway.exchange import NO_COST, NO_USAGE, CacheState, Cost, Usage, UsageSource
from gateway.usage.rules import (
    Rates,
    Tokens,
    after_crash,
    booked_cost,
    flat,
    glob,
    missing_usage,
    nano,
    text_bytes,
    tokens_of,
)
from tests.usage.samples import call, held

COUNT = st.integers(0, 10**9)
PRICE = st.integers(0, 10**9).map(Price)
TOKENS = st.builds(Tokens, *[COUNT] * 6)


def added(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(
        one.plain_input + other.plain_input,
        one.cached + other.cached,
        one.written + other.written,
        one.audio_input + other.audio_input,
        one.plain_output + other.plain_output,
        one.audio_output + other.audio_output,
    )


@given(TOKENS, TOKENS, PRICE, PRICE, PRICE)
def test_cost_adds_up_and_is_a_whole_number(one, other, into, out, cached):
    rates = Rates(flat(into), flat(out), flat(cached))
    cost = rates.pico(one)
    assert type(cost) is int
    assert rates.pico(added(one, other)) == cost + rates.pico(other)
    assert type(nano(cost)) is int
    assert abs(nano(cost) * 1000 - cost) <= 500


@pytest.mark.parametrize(
    ("pico", "rounded"), [(0, 0), (499, 0), (500, 1), (1499, 1), (1500, 2), (10**18, 10**15)]
)
def test_a_row_s_cost_is_rounded_half_up(pico, rounded):
    assert nano(pico) == rounded


def test_cached_tokens_are_a_part_of_the_prompt_and_reasoning_of_the_completion():
    """A8; by hand: 800 at 2.50, 200 at 1.25, 100 at 10 dollars per million."""
    rates = Rates(flat(Price(2_500_000)), flat(Price(10_000_000)), flat(Price(1_250_000)))
    usage = Usage(1000, 100, 200, 90, UsageSource.UPSTREAM)
    assert nano(rates.pico(tokens_of(usage))) == 2_000_000 + 250_000 + 1_000_000


def test_without_a_price_of_its_own_a_part_costs_what_its_whole_does():
    rates = Rates(flat(Price(3)), flat(Price(5)))
    assert rates.pico(Tokens(1, 2, 4, 8, 16, 32)) == 3 * 15 + 5 * 48


@pytest.mark.parametrize(("prompt", "price"), [(200_000, 1), (200_001, 2), (400_001, 9)])
def test_a_large_prompt_has_its_price_for_all_its_tokens(prompt, price):
    """The data's rule: above the threshold, the whole call is dearer."""
    steps = ((0, Price(1)), (200_000, Price(2)), (400_000, Price(9)))
    assert Rates(steps, steps).pico(Tokens(prompt, 0, 0, 0, 7, 0)) == (prompt + 7) * price


@given(COUNT, COUNT, COUNT, st.integers(-5, 10**9), st.integers(-5, 10**9), st.integers(-5, 10**9))
def test_parts_never_exceed_their_whole(prompt, completion, cached, written, heard, spoken):
    details = {
        "prompt_tokens_details": {"cache_write_tokens": written, "audio_tokens": heard},
        "completion_tokens_details": {"audio_tokens": spoken},
    }
    tokens = tokens_of(Usage(prompt, completion, cached, details=details))
    assert tokens.prompt == prompt
    assert tokens.plain_output + tokens.audio_output == completion
    assert min(tokens.plain_input, tokens.written, tokens.audio_input, tokens.plain_output) >= 0


@pytest.mark.parametrize(
    "details", [None, {}, {"prompt_tokens_details": None}, {"prompt_tokens_details": [1]}]
    + [{"prompt_tokens_details": {"audio_tokens": odd}} for odd in ("9", 2.5, True, None)],
)  # fmt: skip
def test_odd_details_are_no_part(details: Any):
    assert tokens_of(Usage(5, 5, details=details)) == Tokens(5, 0, 0, 0, 5, 0)


def test_without_a_call_a_row_costs_nothing_and_an_unknown_price_stays_unknown():
    """D3."""
    assert booked_cost(call(1, cost=Cost(5, "1"))) == 5
    assert booked_cost(call(1, cost=NO_COST)) is None
    assert booked_cost(call(1, cost=NO_COST, attempts=0)) == 0
    assert booked_cost(call(1, cost=Cost(5), cache=CacheState.JOINED)) == 0


# What was not said --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "usage"),
    [
        (OnMissingUsage.ESTIMATE, 200, (3, 2)),
        (OnMissingUsage.PROMPT_ONLY, 200, (3, 0)),
        (OnMissingUsage.NONE, 200, None),
        (OnMissingUsage.ESTIMATE, 499, None),
        (OnMissingUsage.ESTIMATE, 500, None),
        (OnMissingUsage.PROMPT_ONLY, 429, None),
    ],
)
def test_what_is_booked_without_usage(policy, status, usage):
    """B3: bytes / 4, rounded up, and marked (A10); only answers with 200 have a price."""
    found = missing_usage(policy, status=status, prompt_bytes=9, content_bytes=8)
    if usage is None:
        assert found is NO_USAGE
    else:
        assert (found.prompt_tokens, found.completion_tokens) == usage
        assert found.source is UsageSource.ESTIMATED


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({}, 0),
        ({"model": "gpt-4o", "user": "not read"}, 0),
        ({"messages": [{"role": "user", "content": "häh"}]}, 8),
        ({"messages": [{"content": [{"type": "text", "text": "abcd"}]}]}, 8),
        ({"messages": [{"content": [{"image_url": {"url": "data:" + "x" * 9999}}]}]}, 0),
        ({"messages": [{"content": [{"input_audio": {"data": "x" * 9, "format": "wav"}}]}]}, 3),
        ({"messages": [{"content": [{"file": {"file_data": "x" * 9999}}]}]}, 0),
        ({"prompt": ["abc", "de"]}, 5),
        ({"messages": None, "tools": 3}, 0),
        ({"messages": "\ud800"}, 1),
    ],
)
def test_a_prompt_s_size_is_its_text_not_its_images(members, size):
    assert text_bytes(members) == size


def test_a_deep_body_is_no_danger():
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    assert text_bytes({"messages": deep}) == 1


def test_what_a_crash_leaves_is_booked_as_told():
    usage, cost = after_crash(AfterCrash.PROMPT, held(1))
    assert (usage.prompt_tokens, usage.completion_tokens, cost) == (100, 0, 300)
    assert usage.source is UsageSource.ESTIMATED
    usage, cost = after_crash(AfterCrash.FULL, held(1))
    assert (usage.prompt_tokens, usage.completion_tokens, cost) == (100, 1000, 5000)


def test_only_a_star_is_special_in_a_pattern():
    assert glob("gpt-[4]?*") == "gpt-[[]4][?]*"
