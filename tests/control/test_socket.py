"""The control socket: both ends in one process, over a real socket file (contract, "Files"; N4)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.admin import Rooms
from gateway.cache.store import NoCache
from gateway.config import Admin, Config, Secret
from gateway.control import LONGEST, ControlClient, NoAnswer, NoServer, PathTooLong, address_of
from gateway.metrics import Metrics, standard_registry
from gateway.web.admin import AdminPlane
from gateway.web.control import ControlSocket
from gateway.web.ops import Ops
from tests.exchanges import FixedClock

TOKEN = "admin-token-canary-0123456789"


@asynccontextmanager
async def served(data: Path, cache=None):
    """A plane on `data/control.sock`; the client half, to be asked in a thread."""
    plane = AdminPlane(
        Config(admin=Admin(port=0, token=Secret(TOKEN))),
        token=TOKEN,
        metrics=Metrics(standard_registry(), FixedClock()),
        config_view=lambda: {"seen": True},
        ops=Ops(),
        rooms=Rooms(cache or NoCache(), FixedClock()),
    )
    await plane.start()
    control = ControlSocket(data, plane.control_connection)
    try:
        await control.start()
        yield ControlClient(data)
    finally:
        control.close()
        control.close()
        await plane.close()


async def ask(client: ControlClient, method: str, target: str, body: object = None):
    data = None if body is None else json.dumps(body).encode()
    return await asyncio.to_thread(client.ask, method, target, data, timeout=30)


async def test_who_has_the_file_needs_no_token(tmp_path):
    async with served(tmp_path) as client:
        assert await ask(client, "GET", "/admin/config") == (200, b'{"seen":true}')
        await asyncio.to_thread(client.ping)


async def test_it_is_private_and_goes_with_the_server(tmp_path):
    """0600 whatever the umask is, and whatever the folder's mode."""
    before = os.umask(0)
    try:
        async with served(tmp_path) as client:
            found = (tmp_path / "control.sock").lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o600
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NoServer):
        await asyncio.to_thread(client.ping)


async def test_what_a_killed_server_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoServer):
        ControlClient(tmp_path).ping()
    async with served(tmp_path) as client:
        await asyncio.to_thread(client.ping)


async def test_what_is_no_socket_is_not_removed(tmp_path):
    (tmp_path / "control.sock").write_text("notes")
    with pytest.raises(FileExistsError, match="not a socket"):
        async with served(tmp_path):
            raise AssertionError("it started")
    assert (tmp_path / "control.sock").read_text() == "notes"


async def test_a_path_longer_than_an_address(tmp_path):
    """Both ends; sun_path has 108 bytes on Linux."""
    data = tmp_path / ("long" * 25) / ("name" * 25)
    data.mkdir(parents=True)
    assert len(str(data)) > 200
    async with served(data) as client:
        assert (data / "control.sock").is_socket()
        await asyncio.to_thread(client.ping)
    assert not (data / "control.sock").exists()


def test_a_path_that_fits_from_here_is_spelt_from_here(tmp_path, monkeypatch):
    data = tmp_path / ("long" * 25)
    data.mkdir()
    monkeypatch.chdir(data)
    with address_of(data / "control.sock") as address:
        assert address == "control.sock"


def test_a_system_without_another_way_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    way = address_of(tmp_path / ("x" * LONGEST) / "control.sock")
    with pytest.raises(PathTooLong, match="shorter data directory"):
        way.__enter__()


async def test_a_page_in_a_browser_gets_nothing_here_either(tmp_path):
    """As on the admin plane: an Origin and a POST that is not JSON are refused."""
    async with served(tmp_path):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        for head, status in (
            ("GET /admin/config HTTP/1.1\r\nOrigin: http://x", b"403"),
            ("POST /admin/cache/purge HTTP/1.1\r\nContent-Length: 0", b"415"),
        ):
            writer.write(f"{head}\r\nHost: x\r\n\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.split()[1] == status
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "said", [b"", b"no http\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"]
)
async def test_who_listens_and_talks_nonsense_is_no_answer(tmp_path, said):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_unix_server(talk, str(tmp_path / "control.sock"))
    async with server:
        with pytest.raises(NoAnswer):
            await asyncio.to_thread(ControlClient(tmp_path).ping)


def test_who_listens_and_says_nothing_is_no_answer(tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen()
        with pytest.raises(NoAnswer, match=r"within 0\.05 s"):
            ControlClient(tmp_path).ping(0.05)
