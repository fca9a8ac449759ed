"""Requests of every kind and ending from several keys at once, and what the scripted upstream says
it served of them.

Each answer of the upstream has tokens of its own and an `x-request-id` that names it, so that a row
of the books can be held against the very call it is of.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from tests.e2e.conftest import OWN_TOKEN, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Cut, Events, Raw, chat, request
from tests.e2e.test_keys import command, create
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
    head,
    reply,
    send,
    stream,
    usage_event,
)

CLIENTS = 12
TOKEN = "token"  # among the callers: one that brings its own
EMBEDDINGS = "/v1/embeddings"
NO_STORE = ("Cache-Control", "no-store")
PRICES = [
    {
        "name": "keyed-*",
        "input": 0.15,
        "cached_input": 0.075,
        "output": 0.6,
        "tiers": {"priority": {"input": 0.255, "output": 1.02}},
    },
    {"name": "open-*", "input": 3, "output": 15},
]  # and none for own-*
TIERS = (None, "default", "priority")

Tokens = tuple[int, int, int, int]  # prompt, completion, cached, reasoning
Job = Callable[[], object]


def config(up: Scripted, closed_port: int) -> dict[str, Any]:
    """The cache on, prices for some, and nobody without a credential."""
    made = config_for(up, closed_port)
    shy = {"name": "shy", "models": ["shy-*"], "base_url": up.url, "auth": "none"}
    return made | {
        "upstreams": [*made["upstreams"], shy],
        "cache": {"disk_deadline": "60s"},
        "keys": {"anonymous": "never"},
        "models": PRICES,
    }


class Mixture:
    """`run` sends them; the rest is what came of it."""

    def __init__(self, gateway: Gateway, up: Scripted, seed: int = 4) -> None:
        self.gateway, self.up = gateway, up
        self.sent = 0  # requests with a valid caller
        self.refused: list[str] = []  # ids of requests without one
        self.read: dict[str, Answer] = {}  # answers read whole, by id
        self.kinds: Counter[str] = Counter()
        self.served: dict[str, Tokens] = {}  # what the upstream says, by x-request-id
        self.unsure: set[str] = set()  # of these, whose client leaves meanwhile
        self.names: list[str] = []  # of scripts
        self._scripts: dict[str, list[list[Step]]] = {}
        self._dice = random.Random(seed)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        for team in ("red", "blue"):
            command(gateway, "teams", "set", team)
        self.keys = {
            "alice": create(gateway, "alice", "--team", "red"),
            "bob": create(gateway, "bob", "--team", "red"),
            "carol": create(gateway, "carol", "--team", "blue"),
            "dave": create(gateway, "dave", "--models", "keyed-*"),
            TOKEN: OWN_TOKEN,
        }
        self._no_keys = [create(gateway, "eve"), "gw_unknown", ""]
        command(gateway, "keys", "revoke", "eve")

    def run(self, requests: int) -> None:
        """At least so many requests, of CLIENTS clients."""
        jobs: list[Job] = []
        while sum(self.kinds.values()) < requests:
            for kind, times, plan in self._kinds():
                for _ in range(times):
                    number, job = plan(kind)
                    self.kinds[kind] += number
                    jobs.append(job)
        for name, calls in self._scripts.items():
            self.up.play(*calls, name=name)
            self.names.append(name)
        self._dice.shuffle(jobs)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()

    def calls(self) -> dict[str, list[str | None]]:
        """How each call ended, by model: the upstream's own count."""
        return {name: [one.ended for one in self.up.calls(name)] for name in self.names}

    # -- kinds -------------------------------------------------------------------------------------

    def _kinds(self) -> Iterable[tuple[str, int, Callable[[str], tuple[int, Job]]]]:
        """Each kind: its name, how often in a hundred or so, what plans one: requests, and how."""
        whole, broken, plain = self._whole, self._broken, self._plain
        yield "json", 16, whole
        yield "stream", 13, partial(whole, streaming=True)
        yield "asked", 5, partial(whole, streaming=True, asked=True)
        yield "cumulative", 3, partial(whole, prefix="open", streaming=True, cumulative=True)
        yield "own", 3, partial(whole, prefix="own", caller=TOKEN)
        yield "own-stream", 2, partial(whole, prefix="own", caller=TOKEN, streaming=True)
        yield "zeros", 1, partial(whole, zeros=True)
        yield "embeddings", 2, partial(whole, target=EMBEDDINGS)
        yield "again", 5, self._again
        yield "join", 3, self._join
        yield "finish", 3, self._finish_alone
        yield "leave", 3, self._leave
        yield "race", 2, self._race
        yield "early", 2, self._leave_early
        yield "half", 1, self._half
        yield "cut", 2, partial(broken, steps=[*stream([delta("x")], close=False), CUT])
        yield "json-cut", 1, partial(broken, steps=[send(_half_json()), CUT], streaming=False)
        yield "no-head", 1, partial(broken, steps=[CUT])
        yield "reset", 1, partial(broken, steps=[*stream([delta("x")], close=False), RESET])
        yield "in-band", 1, partial(broken, steps=stream([delta("x"), _in_band(), DONE]))
        yield "silent", 1, partial(broken, steps=stream([delta("x"), finish(), DONE]))
        yield "silent-json", 1, partial(broken, steps=reply(_silent()), streaming=False)
        yield "429", 1, partial(broken, steps=_refusal("429 Too Many Requests"))
        yield "400", 1, partial(broken, steps=_refusal("400 Bad Request"))
        yield "500", 1, partial(broken, steps=_refusal("500 Internal Server Error"))
        yield "down", 1, partial(plain, body=chat("down-1"))
        yield "nobody", 1, partial(plain, body=chat("serves-this"))
        yield "forbidden", 1, partial(plain, body=chat("own-1"), caller="dave")
        yield "not-json", 1, partial(plain, body=b"{")
        yield "no-path", 1, partial(plain, body=chat("keyed-1"), target="/v1/nothing")
        yield "echo", 1, partial(plain, body="echo")
        only = ("Cache-Control", "only-if-cached")
        yield "not-cached", 1, partial(plain, body=chat("keyed-0"), header=only)
        yield "models", 1, partial(plain, body=b"", target="/v1/models", method="GET")
        yield "refused", 4, self._refuse
        yield "shy", 0 if self.kinds["shy"] else 1, self._shy
        yield "hasty", 0 if self.kinds["hasty"] else 4, self._hasty

    def _whole(
        self,
        kind: str,
        *,
        prefix: str = "keyed",
        caller: str = "",
        asked: bool = False,
        target: str = CHAT,
        streaming: bool = False,
        **answer: Any,
    ) -> tuple[int, Job]:
        """An answer that is read to its end."""
        steps = partial(self._answer, streaming, target=target, **answer)
        body = self._body(self._script(prefix, kind, steps), streaming)
        if asked:
            body["stream_options"] = {"include_usage": True}
        caller = caller or self._caller("" if prefix == "keyed" else "dave")
        return 1, lambda: self._ask(body, caller=caller, target=target, status=200)

    def _again(self, kind: str) -> tuple[int, Job]:
        """The same thing three times, in both forms: two hits."""
        streaming, caller = self._dice.random() < 0.5, self._caller()
        name = self._script("keyed", f"{kind}-{streaming}", partial(self._answer, streaming))
        body = self._body(name)

        def job() -> None:
            for state, form in (("miss", streaming), ("hit", streaming), ("hit", not streaming)):
                answer = self._ask(body | {"stream": form}, caller=caller, status=200)
                assert answer.header("x-gateway-cache") == state

        return 3, job

    def _join(self, kind: str) -> tuple[int, Job]:
        """Four that are aboard one call."""
        name = self._script("keyed", "", partial(self._answer, True, gate=True))
        body, caller = self._body(name, True), self._caller()

        def job() -> None:
            aboard = []
            for _ in range(4):
                wire = Raw(self.gateway.address).send(self._request(body, caller=caller))
                aboard.append(Events(wire))
                assert aboard[-1].next()
            self.up.go(name)
            for state, events in zip(("miss", "joined", "joined", "joined"), aboard, strict=True):
                assert events.rest()[-1] == DONE
                assert events.head.header("x-gateway-cache") == state
                self._keep(events.head)
                events.raw.close()

        return 4, job

    def _finish_alone(self, kind: str) -> tuple[int, Job]:
        """The client leaves, and the answer is wanted all the same."""
        name = self._script("keyed", "", partial(self._answer, True, gate=True))
        body = self._body(name, True)

        def job() -> None:
            self._and_leave(body)
            self.up.go(name)

        return 1, job

    def _leave(self, kind: str) -> tuple[int, Job]:
        """The client leaves in the middle, and nobody wants the rest."""
        steps: list[Step] = [*stream([delta("x"), delta("y")], close=False), STALL]
        body = self._body(self._script("keyed", kind, lambda _: steps), True)
        return 1, lambda: self._and_leave(body, NO_STORE)

    def _race(self, kind: str) -> tuple[int, Job]:
        """The client leaves while the rest comes, which may have come or not."""
        body = self._body(
            self._script("keyed", kind, partial(self._answer, True, sure=False)), True
        )
        return 1, lambda: self._and_leave(body, NO_STORE)

    def _leave_early(self, kind: str) -> tuple[int, Job]:
        """The client leaves before there is a head."""
        name = self._script("keyed", "", lambda _: [STALL])
        body = self._body(name)

        def job() -> None:
            with Raw(self.gateway.address) as raw:
                raw.send(self._request(body, NO_STORE))
                self.up.wait(name, "body")

        return 1, job

    def _half(self, kind: str) -> tuple[int, Job]:
        """The client leaves in the middle of its own body."""

        def job() -> None:
            with Raw(self.gateway.address) as raw:
                raw.send(self._request(chat("keyed-half"))[:-9])

        return 1, job

    def _broken(self, kind: str, steps: list[Step], streaming: bool = True) -> tuple[int, Job]:
        """An answer that is none, or does not say what it took."""
        body = self._body(self._script("keyed", kind, lambda _: steps), streaming)
        return 1, lambda: self._ask(body)

    def _plain(
        self, kind: str, body: Any, *, header: tuple[str, str] | None = None, **more: Any
    ) -> tuple[int, Job]:
        """No scripted call at all."""
        body = self._body(body) if isinstance(body, str) else body
        return 1, lambda: self._ask(body, *([header] if header else []), **more)

    def _refuse(self, kind: str) -> tuple[int, Job]:
        """No caller: each from an address of its own, so that none has to wait."""
        key, number = self._dice.choice(self._no_keys), next(self._numbers)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        headers = [("X-Forwarded-For", address)]
        headers += [("Authorization", f"Bearer {key}")] if key else []

        def job() -> None:
            with Raw(self.gateway.address) as raw:
                answer = raw.ask(CHAT, chat("keyed-1"), headers=headers)
            answer.error(401, "invalid_api_key")
            with self._lock:
                self.refused.append(answer.id)

        return 1, job

    def _shy(self, kind: str) -> tuple[int, Job]:
        """An upstream that refuses to be asked for usage: the first request is two calls."""
        refusal = _refusal("400 Bad Request", "Unrecognized request argument: stream_options")
        answer = stream([delta("x"), finish(), DONE])
        self._scripts["shy-one"] = [refusal, answer]

        def job() -> None:
            for _ in range(3):
                self._ask(self._body("shy-one", True), status=200)

        return 3, job

    def _hasty(self, kind: str) -> tuple[int, Job]:
        """An upstream that says nothing in time."""
        body = self._body(self._script("hasty", kind, lambda _: [STALL]))
        return 1, lambda: self._ask(body, status=504)

    # -- the upstream's part -----------------------------------------------------------------------

    def _script(self, prefix: str, kind: str, steps: Callable[[str], list[Step]]) -> str:
        """One more call of a model: its name. Requests of a kind share one, and any of them may
        get it; without a kind it has a model, and so a gate, of its own."""
        number = next(self._numbers)
        name = f"{prefix}-{kind or number}"
        said = steps(f"{name}.{number}")
        if kind:
            self._scripts.setdefault(name, []).append(said)
        else:
            self.names.append(self.up.play(said, name=name))
        return name

    def _answer(
        self,
        streaming: bool,
        name: str,
        *,
        gate: bool = False,
        cumulative: bool = False,
        zeros: bool = False,
        sure: bool = True,
        target: str = CHAT,
    ) -> list[Step]:
        """A whole answer with tokens of its own."""
        usage = self._usage(name, most=0 if zeros else 9000, outputs=target == CHAT)
        if not sure:
            self.unsure.add(name)
        tier, headers = self._dice.choice(TIERS), [("x-request-id", name)]
        more: dict[str, Any] = {} if tier is None else {"service_tier": tier}
        if target != CHAT:
            return reply({"object": "list", "data": [], "usage": usage}, headers=headers)
        if not streaming:
            return reply(completion(usage=usage, **more), headers=headers)
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        early = {"usage": usage | {"completion_tokens": 1}} if cumulative else {}
        events = [
            event(choices=[role], **more),
            *(delta("Hel", **early, **more), delta("lo", **early, **more), finish(**more)),
            *(usage_event(usage), DONE),  # the last usage holds (A9)
        ]
        steps = stream(events, headers=headers)
        return [*steps[:3], GATE, *steps[3:]] if gate else steps

    def _usage(self, name: str, most: int, outputs: bool) -> dict[str, Any]:
        prompt, output = self._dice.randint(0, most), self._dice.randint(0, most) * outputs
        usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + output}
        if outputs:
            usage["completion_tokens"] = output
        self.served[name] = prompt, output, 0, 0
        if self._dice.random() < 0.5:
            cached, thought = self._dice.randint(0, prompt), self._dice.randint(0, output)
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
            self.served[name] = prompt, output, cached, thought
        return usage

    # -- the clients' part -------------------------------------------------------------------------

    def _caller(self, but: str = "") -> str:
        return self._dice.choice([name for name in self.keys if name not in (but, TOKEN)])

    def _body(self, name: str, streaming: bool = False) -> dict[str, Any]:
        """Like no other."""
        return chat(name, stream=streaming, user=str(next(self._numbers)))

    def _request(
        self,
        body: Any,
        *headers: tuple[str, str],
        caller: str = "alice",
        target: str = CHAT,
        method: str = "POST",
    ) -> bytes:
        with self._lock:
            self.sent += 1
            tags = self._dice.choice(["project=a", "project=b", "stage=test", ""])
        own = [("Authorization", f"Bearer {self.keys[caller]}"), ("X-Gateway-Tags", tags)]
        return request(target, body, [*own, *headers], method)

    def _ask(
        self, body: Any, *headers: tuple[str, str], status: int | None = None, **more: str
    ) -> Answer:
        """One request, its answer read whole where it comes whole."""
        with Raw(self.gateway.address) as raw:
            answer = raw.send(self._request(body, *headers, **more)).head()
            with suppress(Cut):
                answer.body = b"".join(raw.pieces(answer))
                self._keep(answer)
        assert status is None or answer.status == status, answer
        return answer

    def _keep(self, answer: Answer) -> None:
        with self._lock:
            assert answer.id not in self.read
            self.read[answer.id] = answer

    def _and_leave(self, body: Any, *headers: tuple[str, str]) -> None:
        with Raw(self.gateway.address) as raw:
            raw.send(self._request(body, *headers))
            assert Events(raw).next()


def _refusal(status: str, message: str = "said by the upstream") -> list[Step]:
    return reply(error(status[:3], "refused", message), status)


def _half_json() -> bytes:
    fields = [("Content-Type", "application/json"), ("Content-Length", "500")]
    return head(headers=fields) + b'{"id": "half", '


def _silent() -> dict[str, Any]:
    return {name: value for name, value in completion().items() if name != "usage"}


def _in_band() -> bytes:
    return b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
