"""Quotas under many requests at once: never above a limit, nobody refused falsely, nothing leaked,
and the books agree after a kill (issue 5, proofs 1, 2, 4; F1-F5)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.cached import killed, metric, until
from tests.e2e.conftest import Start
from tests.e2e.process import Gateway
from tests.e2e.quotas import (
    BOUND,
    PROMPT,
    TOOK,
    at_rest,
    booked,
    config,
    create,
    say,
    short,
    standing,
    streamed,
    team,
    tokens,
    used,
)
from tests.e2e.raw import CHAT, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import GATE, STALL

CLIENTS = 200
CAP = TOOK - PROMPT
ROOM = 10 * TOOK  # tokens
LIMITS: dict[str, dict[str, Any]] = {
    "rpm": {"rpm": 10},
    "requests_per_day": {"requests_per_day": 10},
    "tpm": {"tpm": ROOM},
    "tokens_per_day": {"tokens_per_day": ROOM},
    "tokens_per_month": {"tokens_per_month": ROOM},
    "budget": {"budget": f"{ROOM / 10**6:.6f}", "per": "week"},
    "max_parallel": {"max_parallel": 10},
}
PATIENT = 3  # seconds: who is told to wait longer gives up


@pytest.fixture(scope="module", params=["clamp", "reject"])
def counted(
    request: pytest.FixtureRequest, up: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp(request.param)
    quota = config(up, at_limit=request.param, clamp_min=16)
    with Gateway(folder, quota) as running:
        yield running


class Client:
    """Asks once, and again as it is told."""

    def __init__(self, gateway: Gateway, key: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = gateway.url + CHAT, session
        self.headers = {"Authorization": f"Bearer {key}"}
        self.served = self.asked = 0
        self.refused: list[str] = []

    async def ask(self, body: dict[str, Any]) -> str | None:
        """None: it was served; else the code of the refusal that ended its patience."""
        while True:
            self.asked += 1
            async with self.session.post(self.url, json=body, headers=self.headers) as answer:
                told = await answer.read()
                if answer.status == 200:
                    assert b'"error"' not in told
                    self.served += 1
                    return None
                assert answer.status == 429, told
                code = str((await answer.json())["error"]["code"])
                self.refused.append(code)
                wait = float(answer.headers.get("retry-after-ms", "inf")) / 1000
                again = answer.headers.get("x-should-retry") != "false"
                assert again is (code == "rate_limit_exceeded")
            if not again or wait > PATIENT:
                return code
            await asyncio.sleep(wait)


@pytest.mark.parametrize("kind", LIMITS)
async def test_200_at_once_never_pass_a_limit(counted: Gateway, up: Scripted, kind: str) -> None:
    """Proof 1. All of the first calls are under way before one is answered."""
    gateway, name = counted, f"many-{kind}"
    key = await asyncio.to_thread(create, gateway, name, **LIMITS[kind])
    models = [up.play([GATE, *short()]), up.play([GATE, *streamed()])]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(60)
    ) as session:
        client = Client(gateway, key, session)
        asked = [
            asyncio.ensure_future(
                client.ask(chat(models[n % 2], stream=n % 2 == 1, max_completion_tokens=CAP))
            )
            for n in range(60 if kind == "max_parallel" else CLIENTS)  # who wait a second each
        ]
        await asyncio.to_thread(up.wait, models[0], "head", 2)
        for model in models:
            await asyncio.to_thread(up.go, model, 10_000)
        ended = await asyncio.gather(*asked)
    await asyncio.to_thread(_check, gateway, name, kind, client, ended, up, models)


def _check(
    gateway: Gateway,
    name: str,
    kind: str,
    client: Client,
    ended: list[str | None],
    up: Scripted,
    models: list[str],
) -> None:
    at_rest(gateway)
    gateway.check()
    limit, row = standing(gateway, name)[kind], booked(gateway)[name]
    calls = sum(len(up.calls(model)) for model in models)
    assert limit["reserved"] == 0
    assert client.served == calls == ended.count(None)
    assert tokens(row) == calls * TOOK
    if kind == "max_parallel":
        assert limit["used"] == 0
        assert client.served == len(ended)
        return
    taken = {
        "rpm": calls,
        "requests_per_day": calls,
        "budget": row["cost_usd"],
    }.get(kind, tokens(row))
    assert limit["used"] == pytest.approx(taken)
    until(
        lambda: metric(gateway, "gateway_quota_used", key=name, kind=kind) == pytest.approx(taken),
        "the metric says the same",
    )
    assert 0.9 * limit["limit"] <= taken <= limit["limit"]
    hard = {"rpm": "rate_limit_exceeded", "tpm": "rate_limit_exceeded"}.get(
        kind, "insufficient_quota"
    )
    assert {code for code in ended if code is not None} == {hard}


def _under_way(gateway: Gateway, number: int) -> bool:
    return metric(gateway, "gateway_requests_in_flight") == number


async def test_no_more_than_so_many_at_a_time(start: Start, up: Scripted) -> None:
    """Calls are held back at the upstream: of 200 it sees 10, the others are told at once."""
    gateway = start(config(up))
    key = await asyncio.to_thread(create, gateway, "alice", max_parallel=10)
    model = up.play([GATE, *short()])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Client(gateway, key, session)

        async def once() -> str | None:
            async with session.post(client.url, json=chat(model), headers=client.headers) as answer:
                told = await answer.json()
                return told["error"]["code"] if answer.status != 200 else None

        asked = [asyncio.ensure_future(once()) for _ in range(CLIENTS)]
        refused: list[str | None] = []
        for done in asyncio.as_completed(asked):
            refused.append(await done)
            if len(refused) == CLIENTS - 10:
                break
        assert set(refused) == {"rate_limit_exceeded"}
        await asyncio.to_thread(up.wait, model, "head", 9)
        assert len(await asyncio.to_thread(up.calls, model)) == 10
        assert (await asyncio.to_thread(standing, gateway, "alice"))["max_parallel"]["used"] == 10
        await asyncio.to_thread(up.go, model, 10)
        ended = await asyncio.gather(*asked)
    assert ended.count(None) == 10
    await asyncio.to_thread(at_rest, gateway)


async def test_no_refusal_before_80_percent_is_used(start: Start, up: Scripted) -> None:
    """Proof 2: 10 clients, answers of 150 tokens, no cap, 20,000 tokens a day, all as shipped."""
    gateway = start(config(up))
    key = await asyncio.to_thread(create, gateway, "alice", tokens_per_day=20_000)
    models = [up.play(short()), up.play(streamed())]
    at_first_refusal: list[int] = []
    async with aiohttp.ClientSession() as session:
        client = Client(gateway, key, session)

        async def work(number: int) -> None:
            body = chat(models[number % 2], stream=number % 2 == 1)
            while await client.ask(body) is None:
                if client.refused and not at_first_refusal:
                    at_first_refusal.append(client.served)

        await asyncio.gather(*(work(number) for number in range(10)))
    assert not at_first_refusal or at_first_refusal[0] * TOOK >= 0.8 * 20_000
    spent = (await asyncio.to_thread(used, gateway, "alice"))["tokens_per_day"]
    assert spent == client.served * TOOK
    assert 0.9 * 20_000 <= spent <= 20_000
    await asyncio.to_thread(at_rest, gateway)


def test_after_a_kill_balances_are_the_ledger_s(up: Scripted, tmp_path: Path) -> None:
    """Proof 4: settled calls, calls under way at the kill, refused ones, and a team's."""
    limits: dict[str, Any] = {
        "rpm": 50,
        "requests_per_day": 9,
        "tokens_per_day": 50_000,
        "tpm": 50_000,
    }
    limits |= {"budget": "5", "per": "month"}
    done, open_call = up.play(short()), up.play([STALL])
    with killed(tmp_path, config(up)) as gateway:
        team(gateway, "red", **limits)
        keys = [create(gateway, name, team="red", **limits) for name in ("alice", "bob")]
        for key in keys:
            for _ in range(3):
                assert say(gateway, key, done).status == 200
        links = [Raw(gateway.address) for _ in range(3)]
        for link in links:
            body = chat(open_call, max_completion_tokens=500)
            auth = [("Authorization", f"Bearer {keys[0]}")]
            link.send(request(CHAT, body, headers=auth))
        up.wait(open_call, "body", 2)
        say(gateway, keys[1], done).error(429, "insufficient_quota")  # the team's 9 are used
        held = standing(gateway, "alice")["tokens_per_day"]["reserved"]
        assert held == 3 * (BOUND + 500)
        booked(gateway)  # what is queued, and the reservations, are written
        before = standing(gateway, "red", "teams")
        for link in links:
            link.close()
        gateway.kill()
    with Gateway(tmp_path, config(up)) as gateway:
        for by, kind, names in (("key", "keys", ["alice", "bob"]), ("team", "teams", ["red"])):
            rows = booked(gateway, by)
            for name in names:
                found, row = used(gateway, name, kind), rows[name]
                assert found["tokens_per_day"] == found["tpm"] == tokens(row)
                assert found["budget"] == pytest.approx(row["cost_usd"])
                assert found["requests_per_day"] == found["rpm"]
        found = used(gateway, "red", "teams")
        assert found["requests_per_day"] == before["requests_per_day"]["used"] == 9
        assert found["tokens_per_day"] == 6 * TOOK + 3 * BOUND  # usage.after_crash: prompt
        say(gateway, keys[1], done).error(429, "insufficient_quota")
        at_rest(gateway)


def test_who_leaves_while_it_waits_gives_up_its_place(start: Start, up: Scripted) -> None:
    """And its call is never made; those behind it go on."""
    gateway = start(config(up, wait="60s", at_limit="reject"))
    key = create(gateway, "alice", tokens_per_day=1000)
    first, second, third = (up.play([GATE, *short()]) for _ in range(3))
    auth = [("Authorization", f"Bearer {key}")]
    links = []
    for model, cap in ((first, 600), (second, 800), (third, 100)):
        links.append(link := Raw(gateway.address))
        link.send(request(CHAT, chat(model, max_completion_tokens=cap), headers=auth))
        if model == first:
            up.wait(first, "body")
        else:
            until(partial(_under_way, gateway, len(links)), "it waits")
    assert not up.calls(second) and not up.calls(third)  # the third fits, and came later
    links[1].reset()
    up.wait(third, "body")
    assert not up.calls(second)
    for model, link in ((first, links[0]), (third, links[2])):
        up.go(model)
        assert link.answer().status == 200
    for link in links:
        link.close()
    assert gateway.line(model=second)["status"] == 499
    at_rest(gateway)
    assert used(gateway, "alice")["tokens_per_day"] == 2 * TOOK


def test_calls_whose_client_has_left_settle(start: Start, up: Scripted) -> None:
    """With the cache on they fly on and are booked with what they took; and they are no longer
    among the caller's own requests at a time."""
    gateway = start(config(up, cache=True))
    key = create(gateway, "alice", tokens_per_day=5000, max_parallel=1)
    model = up.play([GATE, *short()])
    with Raw(gateway.address) as link:
        auth = [("Authorization", f"Bearer {key}")]
        link.send(request(CHAT, chat(model, max_completion_tokens=500), headers=auth))
        up.wait(model, "body")
    other = up.play(short())
    until(lambda: say(gateway, key, other).status == 200, "its place is free")
    assert standing(gateway, "alice")["tokens_per_day"]["reserved"] == BOUND + 500
    up.go(model)
    at_rest(gateway)
    assert used(gateway, "alice") == {"tokens_per_day": 2 * TOOK, "max_parallel": 0}


def test_one_after_another_is_never_too_many(start: Start, up: Scripted) -> None:
    """`max_parallel` 1 and a client that asks as soon as it has read its answer."""
    gateway = start(config(up, cache=True))
    key = create(gateway, "alice", max_parallel=1)
    models = [up.play(short()), up.play(streamed()), "echo"]
    for number in range(120):
        model = models[number % 3]
        stream = number % 2 == 1 if model == "echo" else model == models[1]
        answer = say(gateway, key, model, stream=stream, seed=number // 2)
        assert answer.status == 200, answer.body
    at_rest(gateway)
