"""Sections of the books: prices are exact, and what cannot be meant is refused."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, format_price, load, masked, parse_price


def open_nothing(path: str) -> str:
    raise AssertionError(path)


@pytest.mark.parametrize(
    ("text", "price"),
    [("0", 0), ("0.15", 150_000), ("2.5", 2_500_000), ("10", 10_000_000), ("0.000001", 1)],
)
def test_a_price_is_read_exactly_and_written_back(text: str, price: int) -> None:
    assert parse_price(text) == price
    assert format_price(price) == text


@pytest.mark.parametrize("text", ["", "-1", "1e-3", "0.0000001", ".5", "1,5", "$1", "٣"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="million tokens"):
        parse_price(text)


def test_prices_stand_bare_or_quoted_and_are_shown_as_written() -> None:
    text = """
models:
  - {name: a, input: 0.15, output: "0.60", context_tokens: 8, tiers: {flex: {input: 0.07}}}
"""
    config = load(text, {}, open_nothing)
    assert config.models[0].input == 150_000
    assert config.models[0].output == 600_000
    assert config.models[0].tiers["flex"].input == 70_000
    [shown] = masked(config)["models"]
    assert shown["output"] == "0.6"
    assert shown["tiers"] == {"flex": {"input": "0.07", "output": None, "cached_input": None}}


def test_default_limits_have_the_form_of_a_key_s_own() -> None:
    """Money in nano-dollars, and only what is set (issue: quotas)."""
    text = """
quota:
  default: {rpm: 30, tpm: none, tokens_per_day: 20000, budget: 12.50, per: month}
"""
    config = load(text, {}, open_nothing)
    limits = {"rpm": 30, "tokens_per_day": 20_000, "budget": 12_500_000_000, "per": "month"}
    assert config.quota.default.by_name == limits
    assert type(config.quota.default.by_name["per"]) is str
    shown = masked(config)["quota"]["default"]
    assert (shown["rpm"], shown["tpm"], shown["budget"], shown["per"]) == (
        30,
        "none",
        "12.5",
        "month",
    )


def test_without_a_word_there_is_no_limit() -> None:
    assert load("quota:\n  default:\n", {}, open_nothing).quota.default.by_name == {}


@pytest.mark.parametrize(
    ("text", "path", "word"),
    [
        ("models: [{input: 1, output: 1}]", "models[0].name", "every model has one"),
        ("models: [{name: a, input: 1}]", "models[0].input", "needs output too"),
        ("models: [{name: a, cached_input: 1}]", "models[0].cached_input", "needs input"),
        ("models: [{name: a, tiers: {flex: {input: 1}}}]", "models[0].tiers", "needs input"),
        ("models: [{name: a, context_tokens: 0}]", "models[0].context_tokens", "above 0"),
        (
            "models: [{name: a, input: 1, output: 1, tiers: {flex: {}}}]",
            "models[0].tiers.flex",
            "says no price",
        ),
        ("quota: {timezone: Mars/Olympus}", "quota.timezone", "Europe/Berlin"),
        ("quota: {timezone: ../etc}", "quota.timezone", "Europe/Berlin"),
        ("quota: {default_output: 0}", "quota.default_output", "above 0"),
        ("quota: {clamp_min: 0}", "quota.clamp_min", "above 0"),
        ("quota: {wait: none}", "quota.wait", "a duration"),
        ("quota: {at_limit: none}", "quota.at_limit", "clamp, reject, last_request"),
        ("quota: {count_hits: tokens}", "quota.count_hits", "requests, all, none"),
        ("quota: {unpriced: free}", "quota.unpriced", "reject, allow"),
        ("quota: {default: {rpm: 0}}", "quota.default.rpm", "above 0"),
        ("quota: {default: {rpm: -1}}", "quota.default.rpm", "above 0"),
        ("quota: {default: {tpm: 1.5}}", "quota.default.tpm", "a whole number"),
        ("quota: {default: {rpd: 5}}", "quota.default.rpd", "unknown name"),
        ("quota: {default: {per: day}}", "quota.default.per", "needs budget too"),
        ("quota: {default: {budget: 5}}", "quota.default.budget", "needs per too"),
        ("quota: {default: {budget: 0, per: day}}", "quota.default.budget", "above 0"),
        ("quota: {default: {budget: $5, per: day}}", "quota.default.budget", "write 12.50"),
        ("quota: {default: {budget: 5, per: year}}", "quota.default.per", "day, week, month"),
        ("usage: {keep: 0}", "usage.keep", "above 0"),
        ("usage: {commit_wait: 0}", "usage.commit_wait", "above 0"),
        ("usage: {durability: none}", "usage.durability", "process, power"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, path: str, word: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(text, {}, open_nothing)
    [fault] = refusal.value.faults
    assert fault.path == path
    assert word in fault.message
