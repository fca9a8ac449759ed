"""The `cache` section: what is taken, and what is refused with its line."""

from __future__ import annotations

import pytest

from gateway.config import Cache, CacheRule, ConfigError, Duration, Scope, UpstreamSection, load


def no_file(path: str) -> str:
    raise AssertionError(path)


def cache_of(text: str) -> Cache:
    return load(text, {}, no_file).cache


@pytest.mark.parametrize("word", ["on", "true", "On", "TRUE", "off", "false", "OFF", "False"])
def test_on_and_off_are_true_and_false(word):
    assert cache_of(f"cache: {{enabled: {word}}}").enabled is (word.lower() in ("on", "true"))


@pytest.mark.parametrize("word", ["yes", "no", "oN", "1", '"on"', "maybe", "[]"])
def test_no_other_word_is(word):
    with pytest.raises(ConfigError, match=r"cache\.enabled: true or false is wanted"):
        cache_of(f"cache: {{enabled: {word}}}")


def test_the_defaults_are_the_contract_s():
    made = Cache()
    assert made.enabled and made.sampled
    assert made.ttl / 3600 == 24
    assert made.max_ttl / made.ttl == 30
    assert made.scope is Scope.KEY
    assert made.ignore_fields == []
    assert made.finish_reasons == ["stop", "tool_calls", "function_call"]
    assert [made.memory, made.size_limit, made.max_entry] == [256 << 20, 4 << 30, 8 << 20]
    bounds = made.abandoned
    assert [bounds.flights, bounds.bytes, bounds.time] == [100, 64 << 20, 600]


def test_rules_for_models_and_upstreams():
    text = """
cache:
  scope: team
  models: [{models: ["gpt-*"], enabled: off}, {ttl: 1h, sampled: off}]
upstreams: [{name: a, base_url: "echo:", cache: off, cache_ttl: 5m}]
"""
    config = load(text, {}, no_file)
    assert config.cache.scope is Scope.TEAM
    assert config.cache.models == [
        CacheRule(["gpt-*"], enabled=False),
        CacheRule(["*"], ttl=Duration(3600), sampled=False),
    ]
    upstream = config.upstreams[0]
    assert [upstream.cache, upstream.cache_ttl] == [False, 300]
    made = UpstreamSection("b", "echo:")
    assert [made.cache, made.cache_ttl] == [True, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttl: 0s", "cache.ttl: must be above 0"),
        ("ttl: 31d", "cache.ttl: longer than max_ttl"),
        ("max_entry: 0", "cache.max_entry: must be above 0"),
        ("size_limit: 100MiB", "cache.size_limit: smaller than 20 times max_entry"),
        ("ignore_fields: [user, messages]", r"ignore_fields\[1\]: answers depend on it"),
        ('ignore_fields: [" "]', r"ignore_fields\[0\]: a field's name"),
        ("finish_reasons: []", "finish_reasons: empty"),
        ('finish_reasons: ["a b"]', r"finish_reasons\[0\]: a finish reason"),
        ("models: [{models: ['']}]", r"models\[0\]\.models\[0\]: a model's name"),
        ("models: [{ttl: 0s}]", r"models\[0\]\.ttl: must be above 0"),
        ("models: [{ttl: 90d}]", r"models\[0\]\.ttl: longer than max_ttl"),
        ("models: [{tll: 1d}]", r"models\[0\]\.tll: unknown name \(did you mean 'ttl'"),
        ("scope: all", "scope: one of key, team, global"),
        ("abandoned: {time: 0s}", "abandoned.time: must be above 0"),
    ],
)
def test_what_cannot_stand_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        cache_of(f"cache:\n  {text}")


def test_a_disk_of_nothing_is_allowed():
    assert cache_of("cache: {size_limit: 0}").size_limit == 0
