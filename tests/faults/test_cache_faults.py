"""The disk below the cache is full, read-only or gone; fifty kills in mid-store (D2, E3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.cached import ask, figures, metric, on_disk, state, until
from tests.e2e.conftest import Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import Answer, chat
from tests.faults.conftest import Remount
from tests.faults.kills import ONLY, kills
from tests.scripted.client import Scripted
from tests.scripted.providers import TEXT
from tests.scripted.replies import completion, reply

pytestmark = pytest.mark.faults

LARGE = completion("x" * 300_000)
SERVED = 40


def serve(gateway: Gateway, up: Scripted, number: int = SERVED) -> list[Answer]:
    """Ask that many models, each twice; the second answers."""
    models = [up.play(reply(LARGE)) for _ in range(number)]
    for model in models:
        assert ask(gateway, chat(model)).json() == LARGE
    return [ask(gateway, chat(model)) for model in models]


def counted(gateway: Gateway, name: str, reason: str) -> None:
    """A counter rises, in the figures and on the metrics page."""
    until(lambda: bool(figures(gateway)["disk"][name][reason]), f"{name} {reason}")
    family = f"gateway_cache_{name}_total"
    until(lambda: metric(gateway, family, reason=reason) > 0, f"{family} {reason}")


def test_a_full_disk(start: Start, up: Scripted, small_disk: Remount) -> None:
    """E3: requests are answered, memory still hits, errors and dropped answers are counted; and
    when there is room again, answers are kept again."""
    gateway = start(caching_config(up))
    answers = serve(gateway, up)
    assert {(answer.status, state(answer)) for answer in answers} == {(200, "hit")}
    counted(gateway, "errors", "full")
    counted(gateway, "dropped", "full")
    assert figures(gateway)["disk"]["rebuilt"] == 0
    small_disk("size=100m")
    written = figures(gateway)["disk"]["written"]
    serve(gateway, up, 3)
    until(lambda: figures(gateway)["disk"]["written"] >= written + 3, "answers on disk again")


def test_a_disk_that_is_full_from_the_start(
    start: Start, up: Scripted, small_disk: Remount, tmp_path: Path
) -> None:
    filler = tmp_path / "data" / "cache" / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    gateway = start(caching_config(up))
    assert {(a.status, state(a)) for a in serve(gateway, up, 3)} == {(200, "hit")}
    assert sum(figures(gateway)["disk"]["errors"].values())
    assert not list((tmp_path / "data").glob("cache.broken-*"))


def test_a_read_only_disk(tmp_path: Path, up: Scripted, small_disk: Remount) -> None:
    """E3: a miss and a counter; memory still hits. Writable again, it is as it was."""
    old, new, config = up.play(reply(TEXT.body)), up.play(reply(TEXT.body)), caching_config(up)
    with Gateway(tmp_path, config) as gateway:
        ask(gateway, chat(old))
    small_disk("ro")
    with Gateway(tmp_path, config) as gateway:
        assert [state(ask(gateway, chat(new))) for _ in range(2)] == ["miss", "hit"]
        assert ask(gateway, chat(old)).body == TEXT.body
        found = figures(gateway)["disk"]
        assert (found["state"], found["rebuilt"]) == ("unavailable", 0)
        counted(gateway, "errors", "readonly")
        counted(gateway, "dropped", "unavailable")
    small_disk("rw")
    with Gateway(tmp_path, config) as gateway:
        assert state(ask(gateway, chat(old), ONLY)) == "hit"
        assert state(ask(gateway, chat(new))) == "miss"


def test_files_that_vanish_and_a_folder_that_is_replaced(
    start: Start, up: Scripted, tmp_path: Path
) -> None:
    """Somebody cleans up under the running gateway."""
    gateway = start(caching_config(up, memory="0B"))
    model = up.play(reply(TEXT.body))
    ask(gateway, chat(model))
    on_disk(gateway, 1)
    folder = tmp_path / "data" / "cache"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    for _ in range(3):
        assert ask(gateway, chat(model)).body == TEXT.body
    folder.write_text("not a folder")
    for _ in range(3):
        assert ask(gateway, chat(model)).body == TEXT.body
    folder.unlink()
    os.symlink("/nonexistent", folder)
    for _ in range(3):
        assert ask(gateway, chat(model)).body == TEXT.body


def test_fifty_kills_in_the_middle_of_stores(tmp_path: Path, up: Scripted) -> None:
    """Issue 3: no half entry is ever served."""
    kills(tmp_path, up, 50)
