"""The file on the disk: reload by change and by SIGHUP; a bad one keeps the old (L5)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Fault, with_overrides
from gateway.watch import ConfigFile, Watcher

SOON = 0.01  # seconds between two looks
NEVER = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text("data: ./one\n")
    return file


Told = asyncio.Queue[Config | list[Fault]]


@asynccontextmanager
async def watching(
    file: ConfigFile, interval: float, *, sighup: bool = False
) -> AsyncIterator[Told]:
    told: Told = asyncio.Queue()
    watcher = Watcher(file, told.put_nowait, told.put_nowait, interval=interval)
    watcher.start(sighup=sighup)
    try:
        async with asyncio.timeout(30):
            yield told
    finally:
        await watcher.close()


async def config_from(told: Told) -> Config:
    got = await told.get()
    assert isinstance(got, Config), got
    return got


async def faults_from(told: Told) -> list[str]:
    got = await told.get()
    assert isinstance(got, list), got
    return [fault.message for fault in got]


def test_a_file_is_read_with_the_command_line_above_it(path: Path) -> None:
    file = ConfigFile(path, {}, overrides=partial(with_overrides, port=0))
    config = file.read()
    assert (config.data, config.server.port) == ("./one", 0)


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    missing = tmp_path / "no.yaml"
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read: No such file or directory$"):
        ConfigFile(missing, {}).read()
    assert ConfigFile(missing, {}, missing_ok=True).read() == Config()
    with pytest.raises(ConfigError, match="Is a directory"):
        ConfigFile(tmp_path, {}, missing_ok=True).read()


async def test_a_changed_file_is_taken_over(path: Path) -> None:
    file = ConfigFile(path, {})
    file.read()
    async with watching(file, SOON) as told:
        path.write_text("data: ./two\n")
        assert (await config_from(told)).data == "./two"
        replacement = path.with_suffix(".new")  # as editors and configuration tools do
        replacement.write_text("data: ./six\n")
        os.utime(replacement, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        replacement.replace(path)  # the same size and time: only the content tells
        assert (await config_from(told)).data == "./six"


async def test_a_change_before_the_watch_began_is_seen(path: Path) -> None:
    file = ConfigFile(path, {})
    file.read()
    path.write_text("data: ./two\n")
    async with watching(file, SOON) as told:
        assert (await config_from(told)).data == "./two"


async def test_a_bad_file_is_told_once_and_the_next_good_one_is_taken(path: Path) -> None:
    """The old stays: no configuration is handed over, only the faults."""
    file = ConfigFile(path, {})
    file.read()
    async with watching(file, SOON) as told:
        path.write_text("date: ./two\n")
        assert await faults_from(told) == ["unknown name (did you mean 'data'?)"]
        path.unlink()
        assert await faults_from(told) == ["cannot be read: No such file or directory"]
        path.write_text("data: ./two\n")
        assert (await config_from(told)).data == "./two"
        assert told.empty()


async def test_what_has_not_changed_is_told_only_to_who_asks(path: Path) -> None:
    file = ConfigFile(path, {})
    file.read()
    told: Told = asyncio.Queue()
    watcher = Watcher(file, told.put_nowait, told.put_nowait, interval=NEVER)
    watcher.start(sighup=False)
    os.utime(path, (0, 0))
    assert file.changed() is None
    watcher.poke()
    async with asyncio.timeout(30):
        assert (await config_from(told)).data == "./one"
    await watcher.close()
    assert told.empty()


async def test_sighup_reads_again_at_once(path: Path) -> None:
    file = ConfigFile(path, {})
    file.read()
    async with watching(file, NEVER, sighup=True) as told:
        path.write_text("data: ./two\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await config_from(told)).data == "./two"
        path.write_text("{")
        os.kill(os.getpid(), signal.SIGHUP)
        [fault] = await faults_from(told)
        assert fault.startswith("not YAML")


async def test_a_changed_secret_file_is_a_change(path: Path) -> None:
    """Rotated secrets are taken over (requirement L6), and one that comes late ends the fault."""
    secret = path.parent / "token"
    path.write_text("admin: {token: '${T}'}\n")
    file = ConfigFile(path, {"T_FILE": str(secret)})
    with pytest.raises(ConfigError, match="T_FILE: cannot read"):
        file.read()
    async with watching(file, SOON) as told:
        secret.write_text("0123456789abcdeX\n")
        assert (await config_from(told)).admin.token == "0123456789abcdeX"
        secret.write_text("0123456789abcdeY\n")
        assert (await config_from(told)).admin.token == "0123456789abcdeY"


async def test_what_the_command_line_makes_wrong_is_told_at_reload(path: Path) -> None:
    file = ConfigFile(path, {}, overrides=partial(with_overrides, admin_port=9000))
    file.read()
    async with watching(file, SOON) as told:
        path.write_text("server: {port: 9000}\n")
        assert await faults_from(told) == ["the same as admin.port: each plane needs its own"]


async def test_a_callback_that_fails_does_not_end_the_watch(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = ConfigFile(path, {})
    file.read()
    told: Told = asyncio.Queue()

    def on_config(config: Config) -> None:
        told.put_nowait(config)
        if config.data == "./two":
            raise RuntimeError("cannot apply this")

    watcher = Watcher(file, on_config, told.put_nowait, interval=SOON)
    watcher.start(sighup=False)
    async with asyncio.timeout(30):
        for data in ("./two", "./three"):
            path.write_text(f"data: {data}\n")
            assert (await config_from(told)).data == data
    await watcher.close()
    await watcher.close()  # idempotent
    assert "the old configuration stays" in caplog.text
