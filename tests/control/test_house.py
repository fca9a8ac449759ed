"""Who does what a command asks: the server that holds the lock, or the command on the files."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import attrs
import pytest

from gateway.admin.cache import PURGE, SHOW, STATS
from gateway.cache.store import TwoTier
from gateway.commands.house import Refused, Unreachable, open_house
from gateway.config import Config
from gateway.keys.store import DataInUse, lock_data
from tests.cache.samples import SetClock, entry, keep, key_of, section


def config(data: Path, **cache) -> Config:
    return Config(data=str(data), cache=attrs.evolve(section(), **cache))


def fill(data: Path) -> None:
    """Two entries on disk, as a server leaves them that has stopped."""

    async def work() -> None:
        clock = SetClock()
        cache = TwoTier(section(), data / "cache", clock)
        await cache.start()
        for key in ("alice", "bob"):
            found = entry(created=clock.now(), key=key, request_id=f"ID-{key}")
            assert keep(cache, key_of(key), found)
        await cache.close()

    data.mkdir(mode=0o700, exist_ok=True)
    asyncio.run(work())


def purge(where: Config, **given) -> int:
    with open_house(where) as house:
        assert not house.live
        return house.ask(PURGE, **given)["purged"]


def knows(where: Config, request_id: str) -> bool:
    with open_house(where) as house:
        try:
            return bool(house.ask(SHOW, id=request_id))
        except Refused as refusal:
            assert refusal.status == 404
            return False


def test_without_a_server_the_files_are_worked_on(tmp_path):
    """And each command finds what the one before left."""
    fill(tmp_path)
    where = config(tmp_path)
    with open_house(where) as house:
        assert house.ask(STATS)["disk"]["entries"] == 2
    assert knows(where, "ID-alice")
    assert purge(where, key="alice") == 1
    assert not knows(where, "ID-alice")
    assert knows(where, "ID-bob")
    assert purge(where, all=True) == 1
    assert purge(where, all=True) == 0


@pytest.mark.parametrize("change", [{"enabled": False}, {"size_limit": 0}, {"memory": 0}])
def test_what_was_kept_can_be_purged_when_nothing_is_kept_any_more(tmp_path, change):
    """C4: answers in clear do not stay for having turned the cache off."""
    fill(tmp_path)
    assert purge(config(tmp_path, **change), request="ID-bob") == 1
    assert not knows(config(tmp_path), "ID-bob")
    assert knows(config(tmp_path), "ID-alice")


def test_looking_makes_nothing(tmp_path):
    data = tmp_path / "data"
    where = config(data)
    assert not knows(where, "ID-alice")
    assert purge(where, all=True) == 0
    assert not data.exists()
    data.mkdir(mode=0o700)
    assert not knows(where, "ID-alice")
    assert [one.name for one in data.iterdir()] == ["lock"]


def test_the_lock_is_held_as_long_as_the_files_are_worked_on(tmp_path):
    with open_house(config(tmp_path)):
        with pytest.raises(DataInUse) as refusal:
            lock_data(tmp_path, command=True)
        assert refusal.value.for_a_moment
    lock_data(tmp_path).close()


def test_a_server_waits_for_a_command(tmp_path):
    lock = lock_data(tmp_path, command=True)
    got = threading.Event()

    def serve() -> None:
        lock_data(tmp_path).close()
        got.set()

    server = threading.Thread(target=serve)
    server.start()
    assert not got.wait(0.2)
    lock.close()
    assert got.wait(10)
    server.join()


def test_a_second_server_is_refused_at_once(tmp_path, monkeypatch):
    lock = lock_data(tmp_path)
    monkeypatch.setattr("gateway.keys.store.time", None)  # it would be asked to sleep
    with pytest.raises(DataInUse, match="another gateway") as refusal:
        lock_data(tmp_path)
    assert not refusal.value.for_a_moment
    lock.close()


def test_a_command_waits_for_a_command(tmp_path):
    first = lock_data(tmp_path, command=True)
    threading.Timer(0.2, first.close).start()
    with open_house(config(tmp_path)) as house:
        assert not house.live


def test_a_lock_without_a_server_behind_it_is_said(tmp_path):
    lock = lock_data(tmp_path)
    with (
        pytest.raises(Unreachable, match=r"in use by .* nothing listens on its control\.sock"),
        open_house(config(tmp_path), tries=2),
    ):
        raise AssertionError("it opened")
    lock.close()


def test_a_server_that_hangs_is_said(tmp_path):
    lock = lock_data(tmp_path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen()
        with (
            pytest.raises(Unreachable, match="does not answer"),
            open_house(config(tmp_path), patience=0.05),
        ):
            raise AssertionError("it opened")
    lock.close()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(Unreachable, match="written by others"), open_house(config(tmp_path)):
        raise AssertionError("it opened")


def test_files_that_cannot_be_read_are_not_an_empty_cache(tmp_path, monkeypatch):
    """An unknown id and a purge of nothing would be lies. diskcache expands `$NAME` in a path, so
    such a folder is not opened."""
    monkeypatch.setenv("ELSEWHERE", "/tmp")
    data = tmp_path / "$ELSEWHERE"
    (data / "cache").mkdir(mode=0o700, parents=True)
    data.chmod(0o700)
    with (
        pytest.raises(Unreachable, match="cannot be read"),
        open_house(config(data)),
    ):
        raise AssertionError("it opened")
    lock_data(data).close()


def test_a_wrong_question_is_told_from_an_unknown_id(tmp_path):
    with open_house(config(tmp_path)) as house:
        with pytest.raises(Refused) as refusal:
            house.ask(PURGE)
        assert refusal.value.status == 400
        with pytest.raises(Refused) as refusal:
            house.ask(PURGE, request="ID")
        assert refusal.value.status == 404
