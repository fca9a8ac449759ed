"""What a request may ask of the cache, and what a hit's headers say (C8, C9; contract, "Request
headers", "Response headers")."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.e2e.cached import ask, figures, metric, state, until
from tests.e2e.conftest import ORIGIN, OWN_TOKEN, Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import chat
from tests.scripted.client import Scripted
from tests.scripted.providers import TEXT
from tests.scripted.replies import completion, reply, stream

NO_CACHE = ("Cache-Control", "no-cache")
NO_STORE = ("Cache-Control", "no-store")
ONLY = ("Cache-Control", "only-if-cached")
BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])


@pytest.fixture
def model(up: Scripted) -> str:
    """A model whose second answer is another than its first."""
    return up.play(reply(completion("first")), reply(completion("second")))


def said(answer: Any) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


# Headers of a hit ---------------------------------------------------------------------------------


@BOTH
def test_headers_of_a_hit(caching: Gateway, up: Scripted, streaming: bool) -> None:
    """D8, C6: nothing of the stored call's connection; a new id; what it saved."""
    theirs = [
        ("x-request-id", "req_theirs"), ("Date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("Set-Cookie", "a=b"), ("x-ratelimit-remaining-requests", "9"), ("x-ratelimit-limit", "1"),
        ("openai-processing-ms", "12"), ("retry-after", "3"), ("cf-ray", "x"), ("Server", "theirs"),
        ("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"), ("openai-version", "2020-10-01"),
    ]  # fmt: skip
    model = up.play(
        stream(TEXT.events, headers=theirs) if streaming else reply(TEXT.body, headers=theirs)
    )
    live, hit = (ask(caching, chat(model, stream=streaming)) for _ in range(2))
    assert (state(live), state(hit)) == ("miss", "hit")
    assert live.header("x-request-id") == "req_theirs"
    assert hit.body == live.body
    assert hit.header("content-type") == live.header("content-type")
    assert hit.header("openai-version") == "2020-10-01"
    assert hit.names.isdisjoint(
        {"set-cookie", "x-ratelimit-remaining-requests", "x-ratelimit-limit", "retry-after",
         "cf-ray", "openai-processing-ms", "server", "keep-alive"}
    )  # fmt: skip
    assert hit.header("date") != "Mon, 01 Jan 2024 00:00:00 GMT"
    assert hit.id == hit.header("x-request-id") != live.id
    assert hit.header("cache-control") == "private, no-store, no-transform"
    assert int(hit.header("age") or "") < 60
    assert 86_400 - 60 < int(hit.header("x-gateway-cache-ttl") or "") <= 86_400
    assert hit.header("x-gateway-saved-tokens") == "31"
    assert re.fullmatch("[0-9a-f]{16}", hit.header("x-gateway-cache-key") or "")
    assert hit.header("x-accel-buffering") == ("no" if streaming else None)
    only_hits = {"age", "x-gateway-cache-key", "x-gateway-cache-ttl", "x-gateway-saved-tokens"}
    assert only_hits <= hit.names
    assert only_hits.isdisjoint(live.names)
    line = caching.line(id=hit.id)
    assert (line["cache"], line["cache_key"]) == ("hit", hit.header("x-gateway-cache-key"))
    assert (line["saved_tokens"], line["prompt_tokens"], line["attempts"]) == (31, 0, 0)
    assert line["upstream_request_id"] is None


def test_a_pages_script_may_read_them(caching: Gateway, model: str) -> None:
    """CORS exposes the gateway's headers on a hit as on a miss."""
    for _ in range(2):
        answer = ask(caching, chat(model), ("Origin", ORIGIN))
        assert answer.header("access-control-allow-origin") == ORIGIN
    assert state(answer) == "hit"
    assert "x-gateway-cache" in (answer.header("access-control-expose-headers") or "").lower()


def test_age_and_what_is_left(caching: Gateway, model: str) -> None:
    """They count in seconds and add up to the time it was given."""
    ask(caching, chat(model), ("X-Gateway-Cache-TTL", "100"))
    found = []

    def older() -> bool:
        hit = ask(caching, chat(model))
        found.append((int(hit.header("age") or ""), int(hit.header("x-gateway-cache-ttl") or "")))
        return found[-1][0] >= 1

    until(older, "an age of a second")
    assert found[0][0] == 0
    assert all(99 <= age + left <= 100 for age, left in found)


def test_metrics_tell_what_was_saved(start: Start, up: Scripted) -> None:
    """D3, D4: saved tokens are their own counter; those of the upstream count once."""
    gateway = start(caching_config(up))
    model = up.play(reply(TEXT.body))
    for _ in range(3):
        ask(gateway, chat(model))
    until(
        lambda: metric(gateway, "gateway_cache_saved_tokens_total", model=model) == 62,
        "62 saved tokens",
    )
    assert metric(gateway, "gateway_input_tokens_total", model=model) == 19
    assert metric(gateway, "gateway_output_tokens_total", model=model) == 12
    assert metric(gateway, "gateway_requests_total", model=model, cache="hit") == 2
    assert metric(gateway, "gateway_requests_total", model=model, cache="miss") == 1
    assert metric(gateway, "gateway_cached_input_tokens_total") == 0


# Cache-Control ------------------------------------------------------------------------------------


def test_no_cache_asks_anew_and_keeps_that(caching: Gateway, model: str) -> None:
    """C8: the README's way to another answer."""
    assert said(ask(caching, chat(model))) == "first"
    anew = ask(caching, chat(model), NO_CACHE)
    assert (state(anew), said(anew)) == ("miss", "second")
    again = ask(caching, chat(model))
    assert (state(again), said(again)) == ("hit", "second")


def test_no_store_neither_reads_nor_keeps(caching: Gateway, model: str) -> None:
    passed = ask(caching, chat(model), NO_STORE)
    assert (state(passed), said(passed)) == ("bypass", "first")
    assert caching.line(id=passed.id)["cache_reason"] == "no_store"
    assert state(ask(caching, chat(model))) == "miss"
    assert state(ask(caching, chat(model), NO_STORE)) == "bypass"
    assert said(ask(caching, chat(model))) == "second"


@BOTH
def test_only_if_cached_makes_no_call(caching: Gateway, up: Scripted, streaming: bool) -> None:
    model = up.play(stream(TEXT.events) if streaming else reply(TEXT.body))
    asking = chat(model, stream=streaming)
    refused = ask(caching, asking, ONLY)
    refused.error(504, "not_cached")
    assert state(refused) == "miss"
    assert refused.header("x-should-retry") == "false"
    assert not up.calls(model)
    assert caching.line(id=refused.id)["attempts"] == 0
    live = ask(caching, asking)
    hit = ask(caching, asking, ONLY)
    assert (hit.status, state(hit), hit.body) == (200, "hit", live.body)
    other = ask(caching, chat(model, stream=not streaming), ONLY)
    assert (other.status, state(other)) == (200, "hit")
    assert ask(caching, asking, ("Cache-Control", "no-cache, only-if-cached")).status == 504
    assert len(up.calls(model)) == 1


def test_max_age(caching: Gateway, model: str) -> None:
    """RFC 9111 section 5.2.1.1: no older than that; what is asked anew is kept."""
    assert state(ask(caching, chat(model))) == "miss"
    assert state(ask(caching, chat(model), ("Cache-Control", "max-age=3600"))) == "hit"
    until(lambda: int(ask(caching, chat(model)).header("age") or "") >= 1, "an answer of a second")
    anew = ask(caching, chat(model), ("Cache-Control", "MAX-AGE=0"))
    assert (state(anew), said(anew)) == ("miss", "second")
    assert said(ask(caching, chat(model))) == "second"


@pytest.mark.parametrize(
    "header",
    [
        ("Cache-Control", "unheard-of, x=1"),
        ("Cache-Control", "max-age=soon"),
        ("Cache-Control", ",,=,"),
        ("Pragma", "no-cache"),
        ("X-Gateway-Cache-TTL", "a day"),
        ("X-Gateway-Cache-TTL", "-1"),
        ("X-Gateway-Cache-TTL", ""),
    ],
    ids=lambda pair: f"{pair[0]}:{pair[1]}",
)
def test_what_is_unknown_is_ignored(caching: Gateway, model: str, header: tuple[str, str]) -> None:
    """C8: never a 500."""
    assert [state(ask(caching, chat(model), header)) for _ in range(2)] == ["miss", "hit"]


def test_directives_over_several_headers(caching: Gateway, model: str) -> None:
    assert state(ask(caching, chat(model))) == "miss"
    anew = ask(caching, chat(model), ("Cache-Control", "max-age=99"), NO_CACHE)
    assert (state(anew), said(anew)) == ("miss", "second")


# X-Gateway-Cache-TTL ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"),
    [("60", 60), ("2591999", 2_591_999), ("99999999", 2_592_000), ("9" * 400, 2_592_000)],
    ids=["minute", "below", "above", "far-above"],
)
def test_ttl_as_asked_up_to_max_ttl(caching: Gateway, model: str, asked: str, given: int) -> None:
    ask(caching, chat(model), ("X-Gateway-Cache-TTL", asked))
    hit = ask(caching, chat(model), ("X-Gateway-Cache-TTL", "7"))  # the launcher's counts
    assert state(hit) == "hit"
    assert given - 60 < int(hit.header("x-gateway-cache-ttl") or "") <= given


def test_ttl_0_keeps_nothing(caching: Gateway, model: str) -> None:
    before = figures(caching)["skipped"].get("no_store", 0)
    ask(caching, chat(model), ("X-Gateway-Cache-TTL", "0"))
    assert figures(caching)["skipped"]["no_store"] - before == 1
    assert state(ask(caching, chat(model))) == "miss"


def test_what_has_expired_is_a_miss(caching: Gateway, model: str) -> None:
    """In memory and on disk: it is asked for until it is gone."""
    ask(caching, chat(model), ("X-Gateway-Cache-TTL", "1"))
    until(lambda: state(ask(caching, chat(model), ONLY)) == "miss", "an entry that expires")
    assert said(ask(caching, chat(model))) == "second"


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cache",
    [{"sampled": False}, {"models": [{"models": ["open-*"], "sampled": False}]}],
    ids=["section", "model"],
)
def test_sampled_off(start: Start, up: Scripted, cache: dict[str, Any]) -> None:
    """C9: then only what is asked to be the same is the same; and where a model's rule says so."""
    gateway = start(caching_config(up, **cache))
    model = up.play(reply(completion("first")), reply(completion("second")))
    cold, drawn = chat(model, temperature=0), chat(model)
    assert [state(ask(gateway, x)) for x in (drawn, drawn)] == ["bypass"] * 2
    assert [state(ask(gateway, x)) for x in (cold, cold)] == ["miss", "hit"]
    assert state(ask(gateway, chat(model, temperature=0, n=2))) == "bypass"
    assert gateway.log.wait(3, model=model, cache_reason="sampled")


@pytest.mark.parametrize("where", ["section", "upstream", "model"])
def test_off(start: Start, up: Scripted, where: str) -> None:
    config = caching_config(up)
    if where == "upstream":
        config["upstreams"][0]["cache"] = False
    elif where == "model":
        config["cache"] = {"models": [{"models": ["open-*"], "enabled": False}]}
    else:
        config["cache"] = {"enabled": False}
    gateway = start(config)
    model = up.play(reply(completion()))
    assert [state(ask(gateway, chat(model))) for _ in range(2)] == ["bypass", "bypass"]
    assert gateway.log.wait(2, model=model, cache_reason="disabled")
    refused = ask(gateway, chat(model), ONLY)
    refused.error(504, "not_cached")
    assert state(refused) == "miss"  # contract: whatever the reason
    assert "disabled" not in figures(gateway)["skipped"]  # nothing was there to be kept
    elsewhere = [state(ask(gateway, chat("echo"))) for _ in range(2)]
    assert elsewhere == (["bypass"] * 2 if where == "section" else ["miss", "hit"])


def test_ttl_by_model_by_upstream(start: Start, up: Scripted) -> None:
    config = caching_config(up, ttl="1h", models=[{"models": ["open-9*"], "ttl": "5m"}])
    config["upstreams"][0]["cache_ttl"] = "10m"
    gateway = start(config)
    models = [up.play(reply(completion()), name=name) for name in ("open-9", "open-x", "shared-x")]
    left = []
    for model in models:
        ask(gateway, chat(model), ("Authorization", f"Bearer {OWN_TOKEN}"))
        hit = ask(gateway, chat(model), ("Authorization", f"Bearer {OWN_TOKEN}"))
        left.append(int(hit.header("x-gateway-cache-ttl") or ""))
    assert all(
        given - 60 < each <= given for each, given in zip(left, (300, 600, 3600), strict=True)
    )
