"""SIGKILL while answers are being stored, again and again on one data directory."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.cached import ask, figures, killed, state
from tests.e2e.conftest import caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import Cut
from tests.scripted.client import Scripted
from tests.scripted.replies import ECHO

ONLY = ("Cache-Control", "only-if-cached")
CLIENTS = 4
LONGEST = 0.3  # seconds from the first answer to the kill


def prompt(number: int) -> str:
    """What is asked, and echoed: of another length and other bytes for each number."""
    return f"{number}: " + random.Random(number).randbytes(1 + number * 7919 % 40_000).hex()


def asking(model: str, number: int) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": prompt(number)}]}


def kills(folder: Path, up: Scripted, rounds: int) -> None:
    """Store until killed; then each answer that is still there must be whole, and the right one."""
    model, dice = up.play([ECHO]), random.Random(11)
    asked = kept = 0
    for _ in range(rounds):
        first = asked + 1
        with killed(folder, caching_config(up)) as gateway:
            asked = _store(gateway, model, first, dice.uniform(0, LONGEST))
        with contextlib.closing(sqlite3.connect(folder / "data" / "cache" / "cache.db")) as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with Gateway(folder, caching_config(up)) as gateway:
            kept += _whole(gateway, model, range(first, asked + CLIENTS + 1))
            found = figures(gateway)["disk"]
            assert not sum(found["errors"].values()) and not found["rebuilt"], found
    assert kept >= rounds, "the kills came before anything was kept: they prove nothing"
    assert asked > kept or rounds < 10, "no kill hit an answer on its way: they prove nothing"


def _store(gateway: Gateway, model: str, first: int, delay: float) -> int:
    """Ask from several clients at once until the gateway is gone; the last number asked."""
    lock, numbers, began = threading.Lock(), iter(range(first, 10**9)), threading.Event()
    last = first

    def client() -> None:
        nonlocal last
        with contextlib.suppress(OSError, Cut):
            while True:
                with lock:
                    last = number = next(numbers)
                answer = ask(gateway, asking(model, number))
                assert answer.status == 200, answer
                began.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        began.wait(15)
        threading.Event().wait(delay)  # the one use of time: to hit another moment each round
        gateway.process.kill()
    for one in clients:
        one.result()
    return last


def _whole(gateway: Gateway, model: str, numbers: range) -> int:
    """How many of these are kept; each as it was said."""
    kept = 0
    for number in numbers:
        answer = ask(gateway, asking(model, number), ONLY)
        assert (answer.status, state(answer)) in ((200, "hit"), (504, "miss")), answer
        if answer.status == 200:
            kept += 1
            assert answer.json()["choices"][0]["message"]["content"] == prompt(number)
    return kept
