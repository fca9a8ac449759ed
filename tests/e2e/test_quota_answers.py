"""What a caller with limits is told and given: headers, lowered caps, refusals, hits, changes that
hold at once (issue 5, proof 5; contract, "Response headers", "Errors"; F6-F9)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.cached import Lookups, metric, state, until
from tests.e2e.conftest import OWN_TOKEN, Start
from tests.e2e.process import Gateway
from tests.e2e.quotas import (
    BOUND,
    TOOK,
    at_rest,
    config,
    create,
    say,
    short,
    standing,
    streamed,
    team,
    use,
    used,
)
from tests.e2e.raw import CHAT, Raw, chat, request
from tests.e2e.test_keys import command
from tests.scripted.client import Scripted
from tests.scripted.replies import GATE, STALL, completion, reply

HI: Any = [{"role": "user", "content": "hi"}]
USAGE_NAMES = ("prompt_tokens", "completion_tokens")
DAY = {"tokens_per_day": 1000}
OWN = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")


def limits_told(answer: Any) -> dict[str, str]:
    return {k: v for k, v in answer.headers if k.startswith(("x-ratelimit", "x-upstream-rate"))}


@pytest.fixture(scope="module")
def _plain(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("plain"), config(up)) as running:
        yield running


@pytest.fixture
def plain(_plain: Gateway) -> Iterator[Gateway]:
    """Quotas as shipped, the cache off; each test has keys of its own."""
    yield _plain
    _plain.check()


@pytest.fixture(scope="module")
def _kept(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("kept"), config(up, cache=True)) as running:
        yield running


@pytest.fixture
def kept(_kept: Gateway) -> Iterator[Gateway]:
    """The same with the cache on."""
    yield _kept
    _kept.check()


# The openai client (proof 5) ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_gives_up_at_once_where_waiting_is_of_no_use(
    plain: Gateway, up: Scripted, stream: bool
) -> None:
    gateway, model = plain, up.play(short())
    key = create(gateway, f"patience-{stream}", requests_per_day=1)
    assert say(gateway, key, model).status == 200
    with (
        openai.OpenAI(base_url=gateway.v1, api_key=key) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.chat.completions.create(model=model, messages=HI, stream=stream)
    assert (refused.value.code, refused.value.type) == ("insufficient_quota",) * 2
    assert int(refused.value.response.headers["retry-after"]) <= 86_400
    gateway.log.wait(2, key=f"patience-{stream}")
    until(
        lambda: metric(gateway, "gateway_quota_rejections_total", key=f"patience-{stream}") == 1,
        "counted",
    )


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_waits_what_it_is_told(plain: Gateway, up: Scripted, stream: bool) -> None:
    """Another call is under way: after a second the client asks again, and is served."""
    gateway, model = plain, up.play(streamed() if stream else short())
    busy = up.play([GATE, *short()])
    key = create(gateway, f"waits-{stream}", max_parallel=1)
    with Raw(gateway.address) as link:
        link.send(request(CHAT, chat(busy), headers=[("Authorization", f"Bearer {key}")]))
        up.wait(busy, "body")
        began = time.monotonic()
        with openai.OpenAI(base_url=gateway.v1, api_key=key, max_retries=1) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model=model, messages=HI, stream=stream)
            assert time.monotonic() - began >= 1
            assert refused.value.code == "rate_limit_exceeded"
            gateway.log.wait(2, key=f"waits-{stream}")
            up.go(busy)
            assert link.answer().status == 200
            said = client.chat.completions.create(model=model, messages=HI, stream=stream)
            assert said if not stream else list(said)
    at_rest(gateway)


@pytest.mark.parametrize("kind", ["rpm", "requests_per_day"])
async def test_the_asynchronous_client_does_the_same(
    plain: Gateway, up: Scripted, kind: str
) -> None:
    gateway, model = plain, up.play(short())
    key = create(gateway, f"asyncio-{kind}", **{kind: 1})
    async with openai.AsyncOpenAI(base_url=gateway.v1, api_key=key, max_retries=0) as client:
        await client.chat.completions.create(model=model, messages=HI)
        patient = client.with_options(max_retries=2) if kind != "rpm" else client
        with pytest.raises(openai.RateLimitError) as refused:
            await patient.chat.completions.create(model=model, messages=HI)
    headers = refused.value.response.headers
    if kind == "rpm":
        assert refused.value.code == "rate_limit_exceeded"
        assert 55 <= int(headers["retry-after"]) <= 61
        assert 55_000 < int(headers["retry-after-ms"]) <= 61_000
        assert "x-should-retry" not in headers
    else:
        assert refused.value.code == "insufficient_quota"
        assert headers["x-should-retry"] == "false"
    gateway.log.wait(2, key=f"asyncio-{kind}")


# Lowered caps -------------------------------------------------------------------------------------


def test_a_lowered_cap(plain: Gateway, up: Scripted) -> None:
    """Both fields are lowered, one is added where there is none; the answer says so."""
    gateway = plain
    cases: list[tuple[dict[str, int], set[str]]] = [
        ({"max_tokens": 2000, "max_completion_tokens": 3000}, {"max_tokens"}),
        ({"max_tokens": 2000}, {"max_tokens"}),
        ({}, set()),
    ]
    for number, (caps, names) in enumerate(cases):
        key = create(gateway, f"key{number}", **DAY)
        for stream in (False, True):
            model = up.play(streamed() if stream else short())
            answer = say(gateway, key, model, stream=stream, **caps)
            left = 1000 - BOUND - TOOK * stream
            assert answer.header("x-gateway-clamped") == str(left)
            sent = up.wait(model, "ended").json()
            lowered = {k: v for k, v in sent.items() if k.startswith("max_")}
            expected = {*caps, *names} or {"max_completion_tokens"}
            assert lowered == dict.fromkeys(expected, left)
    until(lambda: metric(gateway, "gateway_quota_clamped_total", key="key2") == 2, "counted")
    line = gateway.log.find(model=model)[0]
    assert line["clamped"] == left


def test_nobody_boards_a_lowered_flight_and_no_short_answer_is_kept(
    kept: Gateway, up: Scripted
) -> None:
    gateway = kept
    team(gateway, "team-board", tokens_per_day=100_000)
    poor = create(gateway, "poor", tokens_per_day=1000, team="team-board", scope="team")
    rich = create(gateway, "rich", team="team-board", scope="team")
    model = up.play([GATE, *short("cut", "length")], short("whole"))
    with Raw(gateway.address) as link:
        auth = [("Authorization", f"Bearer {poor}")]
        link.send(request(CHAT, chat(model, max_tokens=2000), headers=auth))
        up.wait(model, "body")
        other = say(gateway, rich, model, max_tokens=2000)
        assert (state(other), b"whole" in other.body) == ("miss", True)
        up.go(model)
        cut = link.answer()
        assert (cut.header("x-gateway-clamped"), b"cut" in cut.body) == (str(1000 - BOUND), True)
    assert b"whole" in say(gateway, poor, model, max_tokens=2000).body
    short_one = up.play(short("cut", "length"))
    for _ in range(2):
        assert state(say(gateway, poor, short_one, max_tokens=2000)) == "miss"
    ended = up.play(short("all of it"))
    assert [state(say(gateway, poor, ended, max_tokens=2000)) for _ in range(2)] == ["miss", "hit"]
    at_rest(gateway)


def test_equal_large_requests_make_one_call(kept: Gateway, up: Scripted) -> None:
    """The bound of a large body is read in a thread; meanwhile an equal one may come."""
    gateway = kept
    key = create(gateway, "large", tokens_per_day=9_000_000)
    model = up.play([GATE, *short()])
    body = chat(model) | {"messages": [{"role": "user", "content": "x" * 1_000_000}]}
    lookups = Lookups(gateway)
    links = [Raw(gateway.address) for _ in range(4)]
    for link in links:
        link.send(request(CHAT, body, headers=[("Authorization", f"Bearer {key}")]))
    lookups.wait(4)
    up.wait(model, "body")
    up.go(model, 9)
    found = sorted(str(state(link.answer())) for link in links)
    for link in links:
        link.close()
    assert len(up.calls(model)) == 1, found
    assert found.count("miss") == 1 and set(found) <= {"hit", "joined", "miss"}
    at_rest(gateway)


# Headers ------------------------------------------------------------------------------------------


def test_every_answer_tells_of_the_tightest_limits(kept: Gateway, up: Scripted) -> None:
    """F8: JSON, stream, hit, joined, refused; the upstream's own beside them."""
    theirs = [("x-ratelimit-limit-tokens", "77"), ("x-ratelimit-remaining-requests", "5")]
    gateway = kept
    team(gateway, "team-told", tokens_per_day=8000)
    key = create(
        gateway, "told", tokens_per_day=9000, rpm=6, requests_per_day=100, team="team-told"
    )
    model = up.play(
        [GATE, *reply(completion(usage=dict.fromkeys(USAGE_NAMES, 50)), headers=theirs)]
    )
    auth = [("Authorization", f"Bearer {key}")]
    lookups = Lookups(gateway)
    with Raw(gateway.address) as link, Raw(gateway.address) as second:
        link.send(request(CHAT, chat(model, max_tokens=100), headers=auth))
        up.wait(model, "body")
        second.send(request(CHAT, chat(model, max_tokens=100), headers=auth))
        lookups.wait(2)
        up.go(model, 9)
        first, joined = link.answer(), second.answer()
    hit = say(gateway, key, model, max_tokens=100)
    live = say(gateway, key, up.play(streamed()), stream=True, max_tokens=100)
    assert [state(x) for x in (first, joined, hit, live)] == ["miss", "joined", "hit", "miss"]
    for number, answer in enumerate((first, joined, hit, live), start=1):
        told = limits_told(answer)
        assert told["x-ratelimit-limit-requests"] == "6"
        assert told["x-ratelimit-remaining-requests"] == str(6 - max(2, number))
        assert told["x-ratelimit-reset-requests"] in ("1m0s", "1m1s", "59s")
        assert told["x-ratelimit-limit-tokens"] == "8000"  # the team's has less left
        assert "h" in told["x-ratelimit-reset-tokens"] or "m" in told["x-ratelimit-reset-tokens"]
    assert limits_told(live)["x-ratelimit-remaining-tokens"] == str(8000 - 100 - BOUND - 100)
    assert limits_told(hit)["x-ratelimit-remaining-tokens"] == "7900"
    for answer in (first, joined):
        assert limits_told(answer)["x-upstream-ratelimit-limit-tokens"] == "77"
        assert limits_told(answer)["x-upstream-ratelimit-remaining-requests"] == "5"
    for seed in range(2):
        say(gateway, key, model, seed=seed)
    refused = say(gateway, key, model, seed=3)
    refused.error(429, "rate_limit_exceeded")
    assert limits_told(refused)["x-ratelimit-remaining-requests"] == "0"
    assert not limits_told(say(gateway, create(gateway, "free"), up.play(short())))


# Refusals -----------------------------------------------------------------------------------------


def test_what_cannot_be_metered_or_priced_is_refused(plain: Gateway, up: Scripted) -> None:
    """And takes nothing (F4)."""
    gateway = plain
    key = create(gateway, "unmetered", budget="1", per="month", rpm=50)
    picture = [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
    seen = chat(up.play(short())) | {"messages": [{"role": "user", "content": picture}]}
    error = use(gateway, key, seen).error(403, "endpoint_not_metered")
    assert "context_tokens" in error["message"]
    error = say(gateway, key, "hasty-model").error(403, "model_not_priced")
    assert "unpriced" in error["message"]
    with Raw(gateway.address) as link:
        auth = [("Authorization", f"Bearer {key}")]
        answer = link.ask("/v1/images/generations", {"model": "open-1"}, headers=auth)
    answer.error(403, "endpoint_not_metered")
    assert used(gateway, "unmetered") == {"rpm": 0, "budget": 0}


def test_the_tightest_of_key_and_team_is_named(plain: Gateway, up: Scripted) -> None:
    gateway, model = plain, up.play(short())
    team(gateway, "team-tight", tokens_per_month=1000)
    key = create(gateway, "tight", tokens_per_day=1000, team="team-tight")
    other = create(gateway, "tight-2", team="team-tight")
    for _ in range(5):
        assert say(gateway, key, model, max_tokens=50).status == 200
    assert say(gateway, other, model, max_tokens=50).status == 200
    error = say(gateway, key, model, max_tokens=50).error(429, "insufficient_quota")
    for words in (
        "Team 'team-tight'",
        "900",
        "1,000",
        "tokens a month (tokens_per_month)",
        "T00:00:00Z",
    ):
        assert words in error["message"]
    at_rest(gateway)


def test_a_warning_at_80_percent_once(plain: Gateway, up: Scripted) -> None:
    """F9: on stderr, counted, and not said again."""
    gateway, model = plain, up.play(short())
    key = create(gateway, "warned", **DAY)
    for _ in range(6):
        assert say(gateway, key, model, max_tokens=100).status == 200
    said = gateway.stderr.until(lambda lines: [x for x in lines if "'warned'" in x])
    assert len(said) == 1
    assert "has used 900 of its 1,000 tokens a day (tokens_per_day); it resets at" in said[0]
    until(lambda: metric(gateway, "gateway_quota_warnings_total", key="warned") == 1, "counted")


# Hits and joins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "requests", "tokens"), [("requests", 3, 0), ("all", 3, 2 * TOOK), ("none", 1, 0)]
)
def test_what_hits_count(
    start: Start, up: Scripted, count: str, requests: int, tokens: int
) -> None:
    """In memory, and in the ledger from which a new start takes it."""
    quota = config(up, cache=True, count_hits=count)
    gateway, model = start(quota), up.play(short())
    key = create(gateway, "alice", tokens_per_day=5000, requests_per_day=50)
    found = [state(say(gateway, key, model, max_tokens=200)) for _ in range(3)]
    assert found == ["miss", "hit", "hit"]
    expected = {"tokens_per_day": TOOK + tokens, "requests_per_day": requests}
    assert used(gateway, "alice") == expected
    gateway.__exit__(None, None, None)
    with Gateway(gateway.folder, quota) as again:
        assert used(again, "alice") == expected


@pytest.mark.parametrize("served", [True, False])
def test_hits_when_nothing_is_left(start: Start, up: Scripted, served: bool) -> None:
    gateway, model = start(config(up, cache=True, hits_when_spent=served)), up.play(short())
    key = create(gateway, "alice", tokens_per_day=400)
    assert say(gateway, key, model, max_tokens=300).status == 200
    command(gateway, "keys", "set", "alice", "--tokens-per-day", str(TOOK))
    again = say(gateway, key, model, max_tokens=300)
    if served:
        assert state(again) == "hit"
    else:
        again.error(429, "insufficient_quota")
    say(gateway, key, model, max_tokens=301).error(429, "insufficient_quota")


def test_who_joins_counts_as_a_request_and_holds_nothing(kept: Gateway, up: Scripted) -> None:
    gateway = kept
    key = create(gateway, "joins", tokens_per_day=9000, max_parallel=5, requests_per_day=9)
    model = up.play([GATE, *short()])
    lookups = Lookups(gateway)
    links = [Raw(gateway.address) for _ in range(3)]
    for link in links:
        auth = [("Authorization", f"Bearer {key}")]
        link.send(request(CHAT, chat(model, max_tokens=500), headers=auth))
    lookups.wait(3)
    assert standing(gateway, "joins")["max_parallel"]["used"] == 3
    held = BOUND + 500
    until(lambda: standing(gateway, "joins")["tokens_per_day"]["reserved"] == held, "one holds")
    up.go(model)
    assert sorted(str(state(link.answer())) for link in links) == ["joined", "joined", "miss"]
    for link in links:
        link.close()
    at_rest(gateway)
    expected = {"tokens_per_day": TOOK, "max_parallel": 0, "requests_per_day": 3}
    assert used(gateway, "joins") == expected


# Changes ------------------------------------------------------------------------------------------


def test_a_changed_limit_holds_at_once(plain: Gateway, up: Scripted) -> None:
    """F6: on the next request, also a first one, which counts what was used before."""
    gateway, model = plain, up.play(short())
    key = create(gateway, "changed")
    for _ in range(3):
        assert say(gateway, key, model).status == 200
    command(gateway, "keys", "set", "changed", "--rpm", "3")
    say(gateway, key, model).error(429, "rate_limit_exceeded")
    command(gateway, "keys", "set", "changed", "--rpm", "none", "--tokens-per-day", str(3 * TOOK))
    say(gateway, key, model).error(429, "insufficient_quota")
    command(gateway, "keys", "set", "changed", "--tokens-per-day", "none")
    assert say(gateway, key, model).status == 200
    command(gateway, "teams", "set", "team-changed", "--requests-per-day", "1")
    command(gateway, "keys", "set", "changed", "--team", "team-changed")
    assert say(gateway, key, model).status == 200
    say(gateway, key, model).error(429, "insufficient_quota")


def test_the_default_holds_for_callers_without_a_key_from_its_reload_on(
    start: Start, up: Scripted
) -> None:
    """Each for itself where they bring a credential, together where they do not; what they used
    before is known from the ledger; and it goes as it came."""
    bare = config(up) | {"keys": {"anonymous": "always"}}
    gateway = start(bare)
    own, shared = up.play(short(), prefix="own"), up.play(short())
    for _ in range(3):
        assert say(gateway, OWN_TOKEN, own).status == 200
    assert say(gateway, OWN_TOKEN, shared).status == 200
    gateway.write(bare | {"quota": {"default": {"requests_per_day": 4}}})
    gateway.stderr.until(lambda lines: "gateway: configuration reloaded" in lines)
    until(lambda: metric(gateway, "gateway_quota_limit", kind="requests_per_day") > 0, "it holds")
    assert say(gateway, OWN_TOKEN, own).status == 200  # the fourth there
    error = say(gateway, OWN_TOKEN, own).error(429, "insufficient_quota")
    assert "pass-" in error["message"] and "requests_per_day" in error["message"]
    assert say(gateway, "another-token", own).status == 200
    for token in ("another-token", OWN_TOKEN, "third"):
        assert say(gateway, token, shared).status == 200
    error = say(gateway, "fourth", shared).error(429, "insufficient_quota")
    assert "share" in error["message"]
    key = create(gateway, "alice", requests_per_day=9)
    for _ in range(5):
        assert say(gateway, key, shared).status == 200  # its own is wider
    gateway.write(bare)
    gateway.stderr.until(lambda x: x.count("gateway: configuration reloaded") == 2)
    assert say(gateway, OWN_TOKEN, own).status == 200


def test_a_reload_changes_what_happens_at_the_limit(start: Start, up: Scripted) -> None:
    gateway, model = start(config(up)), up.play(short())
    key = create(gateway, "alice", **DAY)
    assert say(gateway, key, model).header("x-gateway-clamped")
    gateway.write(config(up, at_limit="reject", wait="0s"))
    gateway.stderr.until(lambda lines: "gateway: configuration reloaded" in lines)
    error = say(gateway, key, model).error(429, "insufficient_quota")
    assert f"{1000 - BOUND:,}" in error["message"]  # the largest cap that fits
    assert say(gateway, key, model, max_tokens=100).status == 200
    stalled = up.play([STALL])
    with Raw(gateway.address) as link:
        auth = [("Authorization", f"Bearer {key}")]
        link.send(request(CHAT, chat(stalled, max_tokens=500), headers=auth))
        up.wait(stalled, "body")
        held = say(gateway, key, model, max_tokens=200)
        held.error(429, "rate_limit_exceeded")  # not used up: held by a call under way
        assert (held.header("retry-after"), held.header("retry-after-ms")) == ("1", "1000")
    at_rest(gateway)
