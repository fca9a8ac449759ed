"""SIGKILL under load, with issued keys, streams, JSON and hits at once: what a client has read to
its end stands in the books with the tokens of its very call (issue 4, proof 1)."""

from __future__ import annotations

import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.cached import admin, killed
from tests.e2e.conftest import caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Cut, Events, Raw, chat, request
from tests.e2e.test_keys import create
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import DONE, completion, delta, finish, reply, stream, usage_event
from tests.usage.samples import column, read, sums_are_the_rows

CLIENTS = 6
CALLS = 500  # of each model; further ones are like the last
LONGEST = 0.3  # seconds from the first answer to the kill
Seen = dict[str, str]  # request id: the upstream's id of the call


def answers(streaming: bool, served: dict[str, int]) -> list[list[Step]]:
    """Calls with tokens of their own, written down by the id that they are told under."""
    said = []
    for _ in range(CALLS):
        number = len(served) + 1
        name, usage = f"call-{number}", {"prompt_tokens": number, "completion_tokens": 2 * number}
        served[name] = number
        usage["total_tokens"] = 3 * number
        headers = [("x-request-id", name)]
        events = [delta("x"), finish(), usage_event(usage), DONE]
        whole = completion(usage=usage)
        said.append(stream(events, headers=headers) if streaming else reply(whole, headers=headers))
    return said


def load(gateway: Gateway, models: list[str], keys: list[str], delay: float) -> Seen:
    """Ask from several clients until the gateway is killed: the calls whose answer came whole."""
    seen: Seen = {}
    began, numbers = threading.Event(), itertools.count()

    def once(raw: Raw, number: int, streaming: bool, key: str) -> None:
        body = chat(models[streaming], stream=streaming, user=str(number))
        raw.send(request(CHAT, body, [("Authorization", f"Bearer {key}")]))
        events = Events(raw)
        if streaming:
            while events.next() != DONE:  # who has this has the answer
                pass
            answer = events.head
        else:
            answer = events.head
            assert events.rest()
        assert answer.status == 200
        if answer.header("x-gateway-cache") == "miss":
            seen[answer.id] = str(answer.header("x-request-id"))
        if streaming:
            events.rest()
        began.set()

    def client(place: int) -> None:
        key, streaming = keys[place % len(keys)], place % 2 == 1
        with suppress(OSError, Cut), Raw(gateway.address) as raw:
            for number in numbers:
                for _ in range(1 + number % 2):  # every second one once more: a hit
                    once(raw, number, streaming, key)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, place) for place in range(CLIENTS)]
        began.wait(15)
        threading.Event().wait(delay)  # the one use of time: to hit another moment each round
        gateway.process.kill()
    for one in clients:
        one.result()
    return seen


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.faults)])
def test_what_was_read_is_booked_as_it_was_said(tmp_path: Path, up: Scripted, rounds: int) -> None:
    """None is missing, none is there twice, and the next start takes over what is there."""
    served: dict[str, int] = {}
    models = [up.play(*answers(form, served), prefix="keyed") for form in (False, True)]
    data, dice, config = tmp_path / "data", random.Random(rounds), caching_config(up)
    with Gateway(tmp_path, config) as gateway:
        keys = [create(gateway, name) for name in ("alice", "bob", "carol")]
    seen: Seen = {}
    for _ in range(rounds):
        with killed(tmp_path, config) as gateway:
            check(data, seen, served)  # only now: it has taken over what the kill before left
            seen |= load(gateway, models, keys, dice.uniform(0, LONGEST))
        models = [up.play(*answers(form, served), prefix="keyed") for form in (False, True)]
    assert len(seen) > rounds * CLIENTS, "the kills came before anything: they prove nothing"
    assert column(data, "SELECT count(*) > 0 FROM requests WHERE cache = 'hit'") == [1]
    with Gateway(tmp_path, config) as gateway:
        check(data, seen, served)
        [told] = admin(gateway, "/admin/usage")
    tokens = "sum(prompt_tokens), sum(completion_tokens), sum(saved_tokens)"
    figures = (told["requests"], *(told[f"{kind}_tokens"] for kind in FIGURES))
    assert read(data, f"SELECT count(*), {tokens} FROM requests") == [figures]


FIGURES = ("prompt", "completion", "saved")


def check(data: Path, seen: Seen, served: dict[str, int]) -> None:
    sums_are_the_rows(data)  # and integrity_check
    assert column(data, "SELECT count(*) - count(DISTINCT id) FROM requests") == [0]
    assert column(data, "SELECT count(*) FROM reservations") == [0]
    booked = {
        name: (call, *tokens)
        for name, call, *tokens in read(
            data, "SELECT id, upstream_request_id, prompt_tokens, completion_tokens FROM requests"
        )
    }
    for name, call in seen.items():
        assert booked.get(name) == (call, served[call], 2 * served[call])
