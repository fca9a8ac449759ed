"""SIGKILL under load: every answer that was read whole has its row (issue 4, proofs 1 and 2)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat
from tests.faults.books import agree, kills, mixed, whole
from tests.scripted.client import Scripted
from tests.scripted.replies import completion, reply
from tests.usage.samples import column


def test_five_kills_lose_no_row(tmp_path: Path, up: Scripted) -> None:
    kills(tmp_path, up, 5)


@pytest.mark.faults
def test_sixty_kills_lose_no_row(tmp_path: Path, up: Scripted) -> None:
    kills(tmp_path, up, 60)


@pytest.mark.parametrize(
    "rounds", [20, pytest.param(1429, marks=pytest.mark.faults)], ids=["short", "ten thousand"]
)
def test_the_books_are_what_the_upstream_says(
    tmp_path: Path, up: Scripted, closed_port: int, rounds: int
) -> None:
    """B1, G4: disconnects, cuts, errors; every other row is marked."""
    with Gateway(tmp_path, config_for(up, closed_port)) as gateway:
        said = mixed(gateway, up, rounds)
    agree(tmp_path / "data", said)


def test_a_stop_writes_all_that_waits(start: Start, up: Scripted, tmp_path: Path) -> None:
    """SIGTERM right behind the last answer; hits and refusals are waited for by nobody."""
    gateway = start(config_for(up) | {"cache": {"disk_deadline": "60s"}})
    model, ids = up.play(reply(completion())), []
    with Raw(gateway.address) as raw:
        for _ in range(200):
            ids.append(raw.ask(CHAT, chat(model)).id)
            ids.append(raw.ask(CHAT, chat("nobody-serves-this")).id)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    whole(tmp_path / "data", ids)
    states = column(tmp_path / "data", "SELECT DISTINCT cache FROM requests ORDER BY 1")
    assert states == ["hit", "miss", "none"]
