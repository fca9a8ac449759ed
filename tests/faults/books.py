"""Load for the books, and what must hold of them afterwards: read beside the gateway's own code."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.cached import ask, killed
from tests.e2e.conftest import config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Cut, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import CUT, STALL, USAGE, completion, delta, error, hello, reply, stream
from tests.usage.samples import column, read, sums_are_the_rows

CLIENTS = 8
LONGEST = 0.2  # seconds from the first answer to the kill


def whole(data: Path, acked: list[str]) -> None:
    """Every answer that was read to its end has its row, none twice, and the sums are the rows."""
    counted = Counter(column(data, "SELECT id FROM requests"))
    assert not [one for one in acked if counted[one] != 1]
    assert set(counted.values()) <= {1}
    sums_are_the_rows(data)


def kills(folder: Path, up: Scripted, rounds: int) -> None:
    """Answer until killed, again and again on one file."""
    models = [up.play(reply(completion())), up.play(stream(hello()))]
    dice, acked = random.Random(5), list[str]()
    for _ in range(rounds):
        with killed(folder, config_for(up)) as gateway:
            acked += _load(gateway, models, dice.uniform(0, LONGEST))
        whole(folder / "data", acked)
    assert len(acked) > rounds * CLIENTS, "the kills came before anything: they prove nothing"


def _load(gateway: Gateway, models: list[str], delay: float) -> list[str]:
    """Ask from several clients at once until the gateway is gone; the ids of whole answers."""
    acked: list[str] = []
    began = threading.Event()

    def client(number: int) -> None:
        model = models[number % len(models)]
        body = chat(model, stream=number % len(models) == 1)
        with contextlib.suppress(OSError, Cut):
            while True:
                answer = ask(gateway, body)
                assert answer.status == 200
                acked.append(str(answer.header("x-gateway-request-id")))
                began.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        began.wait(15)
        threading.Event().wait(delay)  # the one use of time: to hit another moment each round
        gateway.process.kill()
    for one in clients:
        one.result()
    return acked


# All kinds of endings -----------------------------------------------------------------------------


def mixed(gateway: Gateway, up: Scripted, rounds: int) -> dict[str, Any]:
    """Each ending `rounds` times; what the upstream says: calls, and tokens of whole answers."""
    good, streamed = up.play(reply(completion())), up.play(stream(hello()))
    refused = up.play(reply(error("429 Too Many Requests", "slow_down"), "429 Too Many Requests"))
    cut = up.play([*stream(hello()[:3], close=False), CUT])
    silent = up.play(reply({key: v for key, v in completion().items() if key != "usage"}))
    kinds = [
        chat(good),
        chat(streamed, stream=True),
        chat(refused),
        chat(cut, stream=True),
        chat(silent),
        chat("down-1"),
        "leave",
    ]
    left = up.play([*stream([delta("x")], close=False), STALL])

    def one(number: int) -> None:
        kind = kinds[number % len(kinds)]
        if kind == "leave":
            with Raw(gateway.address) as raw:
                raw.send(request(CHAT, chat(left, stream=True)))
                Events(raw).next()
        else:
            with contextlib.suppress(Cut):
                ask(gateway, kind)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(rounds * len(kinds))))
    calls = {name: len(up.calls(name)) for name in (good, streamed, refused, cut, silent, left)}
    return {
        "calls": sum(calls.values()),
        "prompt": (calls[good] + calls[streamed]) * USAGE["prompt_tokens"],
        "completion": (calls[good] + calls[streamed]) * USAGE["completion_tokens"],
        "requests": rounds * len(kinds),
        "down": rounds,
    }


def agree(data: Path, said: dict[str, Any]) -> None:
    """The books against the upstream's own count (issue 4, proofs 1 and 2)."""
    [row] = read(
        data,
        "SELECT count(*), sum(CASE WHEN upstream = 'down' THEN 0 ELSE attempts END), "
        "sum(prompt_tokens) FILTER (WHERE usage_source = 'upstream'), "
        "sum(completion_tokens) FILTER (WHERE usage_source = 'upstream') FROM requests",
    )
    assert row == (said["requests"], said["calls"], said["prompt"], said["completion"])
    sources = set(column(data, "SELECT DISTINCT usage_source FROM requests"))
    assert sources <= {"upstream", "estimated", "none"}
    outcomes = set(column(data, "SELECT DISTINCT outcome FROM requests"))
    assert outcomes == {
        *("ok", "upstream_status", "upstream_truncated", "upstream_error", "client_disconnect")
    }
    sums_are_the_rows(data)
