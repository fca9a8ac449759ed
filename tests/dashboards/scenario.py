"""A load that gives every panel something to show, and what it should show: counted here, by the
one who sends it, from what the scripted upstream was told to say.

One round has a request of each kind. The first round makes the series (one that is born with its
first count has no increase); the rounds after it are counted.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tests.dashboards.prometheus import until
from tests.e2e.cached import metric
from tests.e2e.process import Gateway
from tests.e2e.raw import Answer, Cut, Events, Raw, chat, request
from tests.e2e.test_keys import admin
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import (
    CUT,
    DONE,
    GATE,
    RESET,
    STALL,
    completion,
    delta,
    error,
    event,
    finish,
    reply,
    stream,
    usage_event,
)

PROMPT, CACHED, OUTPUT, THOUGHT = 1_000, 400, 200, 50
USAGE = {
    "prompt_tokens": PROMPT,
    "completion_tokens": OUTPUT,
    "total_tokens": PROMPT + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": THOUGHT},
}
PRICE = {"input": 3.0, "cached_input": 1.5, "output": 15.0}  # dollars per million tokens
COST = ((PROMPT - CACHED) * 3.0 + CACHED * 1.5 + OUTPUT * 15.0) / 1e6
LEFT = [("x-ratelimit-remaining-requests", "99"), ("x-ratelimit-remaining-tokens", "54321")]
PRICED = ("fast-json", "fast-stream", "fast-gate", "flaky-1")
NO_STORE = ("Cache-Control", "no-store")
ROLE = {"index": 0, "delta": {"role": "assistant", "content": ""}}
WORDS = [event(choices=[ROLE]), delta("Hel"), delta("lo"), finish()]
LIMIT = 2  # requests a day of carol
LIMITS = 4  # of all keys together


def config(up: Scripted, closed_port: int) -> dict[str, Any]:
    """Upstreams by what they do; the models that matter are named, so they have their series."""
    keyed = {"base_url": up.url, "api_key": "canary-provider-key"}
    return {
        "cache": {"disk_deadline": "60s"},
        "keys": {"anonymous": "never"},
        "quota": {"wait": "100ms", "timezone": _where_it_is_noon()},
        "models": [{"name": name, **PRICE} for name in PRICED],
        "upstreams": [
            {"name": "fast", "models": ["fast-json", "fast-stream", "fast-*"], **keyed},
            {"name": "flaky", "models": ["flaky-1", "flaky-*"], **keyed},
            {"name": "free", "models": ["free-1"], **keyed},
            {
                "name": "down",
                "models": ["down-1"],
                "base_url": f"http://127.0.0.1:{closed_port}/v1",
                "api_key": "canary-provider-key",
            },
        ],
    }


def _where_it_is_noon() -> str:
    """No day ends during the test."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@dataclass
class Truth:
    """What was sent and what had to come of it."""

    requests: int = 0
    by_key: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)  # calls that said what they took, by key
    priced: Counter[str] = field(default_factory=Counter)  # those of a model with a price
    upstream_calls: Counter[str] = field(default_factory=Counter)  # what clients gave up left out
    upstream_failed: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    joined: int = 0
    misses: int = 0
    failed: int = 0
    invalid: int = 0  # answered 4xx
    rejected: int = 0


class Scenario:
    """`warm` once, then `rounds`; `truth` is of the rounds alone, `sent` of everything."""

    def __init__(self, gateway: Gateway, up: Scripted) -> None:
        self.gateway, self.up = gateway, up
        self.truth = Truth()
        self.sent = 0
        self._numbers = itertools.count(1)
        self.keys = {
            "alice": self._create("alice"),
            "bob": self._create(
                "bob", models=["fast-*"], budget=9000, per="month", tokens_per_day=10**9
            ),
            "carol": self._create("carol", requests_per_day=LIMIT),
            "dora": self._create("dora", tokens_per_day=6_000),
        }
        self._play("fast-json", reply(completion(usage=USAGE), headers=LEFT))
        self._play("fast-stream", stream([*WORDS, usage_event(USAGE), DONE]))
        self._play("fast-cut", [*stream([delta("x")], close=False), CUT])
        self._play("fast-stall", [*stream([delta("x")], close=False), STALL])
        self._play("fast-429", reply(error("429", "rate_limit"), "429 Too Many Requests"))
        self._play("fast-silent", stream([*WORDS, DONE]))  # without usage
        self._play("free-1", reply(completion(usage=USAGE)))  # without a price

    def _create(self, name: str, **options: Any) -> str:
        status, made = admin(self.gateway, "POST", "/admin/keys", {"name": name, **options})
        assert status == 200, made
        return str(made["key"])

    def _play(self, name: str, *calls: list[Step]) -> None:
        self.up.play(*calls, name=name)

    # -- what happens ------------------------------------------------------------------------------

    def warm(self) -> None:
        """One round, and what happens once: a limit is reached, a call waits for what another
        holds, a configuration is refused, the cache is purged."""
        for _ in range(LIMIT):
            self._ask(self._body("fast-json"), "carol", state="miss")
        self._wait_for_what_is_held()
        self.round()
        self._refused_configuration()
        status, _ = admin(self.gateway, "POST", "/admin/cache/purge", {"all": True})
        assert status == 200
        self.truth = Truth()

    def round(self) -> None:
        """A request of each kind; each upstream's last call ends as its state shall be."""
        self._ask(self._body("fast-cut", True), "alice", failed=True, state="miss")
        for caller in ("alice", "bob"):
            for model, streaming in (("fast-json", False), ("fast-stream", True)):
                body = self._body(model, streaming)
                self._ask(body, caller, state="miss", whole=True)
                self._ask(body, caller, state="hit")
        self._join()
        self._ask(self._body("fast-json"), "alice", NO_STORE, state="bypass", whole=True)
        self._ask(self._body("fast-silent", True), "alice", state="miss")
        self._ask(self._body("free-1"), "alice", state="miss", whole=True)
        self._ask(self._body("fast-429"), "alice", status=429, state="miss")
        self._ask(self._body("free-1"), "bob", status=403)  # a model that is not his
        self._ask(self._body("nobody-serves-this"), "bob", status=403)
        self._ask(self._body("nobody-serves-this"), "alice", status=404)
        self._ask(self._body("fast-json"), "", status=401)
        self._ask(self._body("down-1"), "alice", status=502, failed=True)
        self._down_and_up()
        self._leave()
        self._over_the_limit()

    def _over_the_limit(self) -> None:
        """A key that has used up its requests of the day."""
        self._ask(self._body("fast-json"), "carol", status=429, called=False)
        self.truth.rejected += 1

    def _wait_for_what_is_held(self) -> None:
        """A call for which enough is left only when another has ended; it waits for that in vain,
        and its cap is lowered."""
        name = "fast-gate"
        self._play(name, [GATE, *reply(completion(usage=USAGE))])
        with Raw(self.gateway.address) as raw:
            raw.send(self._request(self._body(name), "dora"))
            self.up.wait(name, "body")
            answer = self._ask(self._body("fast-json"), "dora", state="miss")
            assert answer.header("x-gateway-clamped")
            self.up.go(name)
            assert raw.answer().status == 200
        self._count("dora")

    def _down_and_up(self) -> None:
        """An upstream that breaks off before a byte, and works again."""
        self._play("flaky-1", [RESET])
        self._ask(self._body("flaky-1"), "alice", status=502, failed=True)
        self._play("flaky-1", reply(completion(usage=USAGE)))
        self._ask(self._body("flaky-1"), "alice", state="miss", whole=True)

    def _join(self) -> None:
        """Two that are aboard one call."""
        name = "fast-gate"
        steps = stream([*WORDS, usage_event(USAGE), DONE])
        self._play(name, [*steps[:2], GATE, *steps[2:]])
        body, aboard = self._body(name, True), []
        for _ in range(2):
            wire = Raw(self.gateway.address).send(self._request(body, "alice"))
            aboard.append(Events(wire))
            assert aboard[-1].next()
        self.up.go(name)
        for events in aboard:
            assert events.rest()[-1] == DONE
            events.raw.close()
        self._count("alice", 2)
        self._called("fast-gate", "alice", whole=True)
        self.truth.misses += 1
        self.truth.joined += 1

    def _leave(self) -> None:
        """A client that leaves in the middle, and nobody wants the rest."""
        with Raw(self.gateway.address) as raw:
            raw.send(self._request(self._body("fast-stall", True), "alice", NO_STORE))
            assert Events(raw).next()
        self._count("alice")

    def _refused_configuration(self) -> None:
        good = self.gateway.config_file.read_text("utf-8")
        for text, wanted in ((good + "\nnonsense: 1\n", 0.0), (good, 1.0)):
            self.gateway.config_file.write_text(text, "utf-8")
            self.gateway.process.send_signal(signal.SIGHUP)
            until(partial(self._reloaded, wanted), "a reload")

    def _reloaded(self, wanted: float) -> bool:
        return metric(self.gateway, "gateway_config_last_reload_successful") == wanted

    # -- one request -------------------------------------------------------------------------------

    def _body(self, model: str, streaming: bool = False) -> dict[str, Any]:
        """Like no other: it is a miss."""
        return chat(model, stream=streaming, user=str(next(self._numbers)))

    def _request(self, body: Any, caller: str, *headers: tuple[str, str]) -> bytes:
        own = [("Authorization", f"Bearer {self.keys[caller]}")] if caller else []
        return request(body=body, headers=[*own, *headers])

    def _ask(
        self,
        body: Any,
        caller: str,
        *headers: tuple[str, str],
        status: int = 200,
        state: str = "",
        whole: bool = False,
        failed: bool = False,
        called: bool = True,
    ) -> Answer:
        with Raw(self.gateway.address) as raw:
            answer = raw.send(self._request(body, caller, *headers)).head()
            with suppress(Cut):
                answer.body = b"".join(raw.pieces(answer))
        assert answer.status == status, (answer, json.dumps(body))
        assert not state or answer.header("x-gateway-cache") == state, answer
        self._count(caller)
        truth = self.truth
        if called and status in (200, 429, 502) and state != "hit":
            self._called(body["model"], caller, whole=whole, failed=failed)
        truth.failed += failed
        truth.invalid += 400 <= status < 500
        truth.hits += state == "hit"
        truth.misses += state == "miss"
        return answer

    def _called(self, model: str, caller: str, *, whole: bool, failed: bool = False) -> None:
        upstream = model.partition("-")[0]
        self.truth.upstream_calls[upstream] += 1
        self.truth.upstream_failed[upstream] += failed
        self.truth.told[caller] += whole
        self.truth.priced[caller] += whole and model in PRICED

    def _count(self, caller: str, number: int = 1) -> None:
        self.sent += number
        self.truth.requests += number
        if caller:
            self.truth.by_key[caller] += number
