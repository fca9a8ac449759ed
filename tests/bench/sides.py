"""What is measured and what it is held against, each a process of its own on its core."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.config import Config
from tests.bench import machine, material
from tests.e2e.process import ADMIN_TOKEN, Gateway, environment

ROOT = Path(__file__).parent.parent.parent
NGINX = Path(__file__).parent / "nginx"
LOOP = Config().server.event_loop  # the product's default holds for the references too
CHAT = "/v1/chat/completions"
PATIENCE = 20.0  # seconds
PAGE = 1.1  # seconds

# So high that nothing is refused: what is measured is that they are looked at and counted.
LIMITS = ("--rpm", "1000000000", "--tokens-per-day", "1000000000000")


@dataclass
class Side:
    """A server to be asked: where, which processes it is, what its requests carry."""

    name: str
    port: int
    pids: list[int]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{CHAT}"

    def head(self, more: tuple[tuple[str, str], ...] = ()) -> str:
        """The head of a request up to its Content-Length, as OpenAI's client sends it."""
        fields = (
            ("Host", f"127.0.0.1:{self.port}"),
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
            ("User-Agent", "OpenAI/Python 3.54.0"),
            *self.headers,
            *more,
        )
        return f"POST {CHAT} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields)

    def ask(self, body: str, *more: tuple[str, str]) -> tuple[dict[str, str], bytes]:
        """One request; headers and body of its answer. RuntimeError unless it is a 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Content-Type": "application/json", **dict(self.headers), **dict(more)}
        try:
            connection.request("POST", CHAT, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} answered {answer.status}: {data[:200]!r}")
        return {name.lower(): value for name, value in answer.getheaders()}, data


@dataclass
class Product(Side):
    """The gateway with everything on."""

    gateway: Gateway | None = field(default=None, repr=False)

    def states(self) -> Counter[str]:
        """Requests so far, by what they were to the cache. Waits: a metrics page is served for a
        second."""
        assert self.gateway is not None
        time.sleep(PAGE)
        found: Counter[str] = Counter()
        pattern = r'gateway_requests_total\{[^}]*cache="(\w+)"[^}]*\} ([0-9.e+]+)'
        for state, value in re.findall(pattern, scrape(self.gateway.admin_port)):
            found[state] += int(float(value))
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scrape(port: int) -> str:
    """The metrics page, as Prometheus asks for it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Accept-Encoding": "identity"}
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"/metrics answered {answer.status}")
    return text


# Processes ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command: list[str], core: int, folder: Path, name: str) -> Iterator[int]:
    """A process on a core until the end; its pid. Its output is in `name`.log."""
    with (folder / f"{name}.log").open("ab") as log, machine.on_core(core):
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, log: Path, within: float = PATIENCE) -> None:
    """Until somebody listens."""
    waiting = threading.Event()
    for _ in range(int(within / 0.02)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        waiting.wait(0.02)
    raise RuntimeError(f"nobody listens on {port}:\n{log.read_text('utf-8', 'replace')}")


@contextlib.contextmanager
def python(folder: Path, name: str, core: int, *arguments: str) -> Iterator[Side]:
    """`python -m tests.bench.MODULE ...`, with PORT in the arguments for a free one."""
    port = free_port()
    words = [str(port) if word == "PORT" else word for word in arguments]
    with running([sys.executable, "-m", *words], core, folder, name) as pid:
        wait_for(port, folder / f"{name}.log")
        yield Side(name, port, [pid])


@contextlib.contextmanager
def nginx(folder: Path, kind: str, core: int, upstream: Side | None = None) -> Iterator[Side]:
    """nginx with one of the committed configurations; its one worker is what is measured."""
    port = free_port()
    place = folder / f"nginx-{kind}-{port}"
    place.mkdir()
    text = (NGINX / f"{kind}.conf").read_text("utf-8").replace("PORT", str(port))
    text = text.replace("ANSWER", material.answer().decode())
    if upstream is not None:
        text = text.replace("UPSTREAM", f"127.0.0.1:{upstream.port}")
    (place / "nginx.conf").write_text(text, "utf-8")
    orders = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    command = [str(machine.which("nginx")), "-p", str(place), "-c", "nginx.conf", "-g", orders]
    with running([*command, "-e", "stderr"], core, folder, f"nginx-{kind}") as pid:
        wait_for(port, folder / f"nginx-{kind}.log")
        waiting = threading.Event()
        while not (workers := machine.children(pid)):  # it listens before it forks
            waiting.wait(0.02)
        yield Side(f"nginx {kind}", port, workers[:1])


# The product --------------------------------------------------------------------------------------


class Scraper:
    """Asks for the metrics each second, from another core."""

    def __init__(self, port: int) -> None:
        self._port, self._end = port, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(1.0):
            scrape(self._port)

    def close(self) -> None:
        self._end.set()
        self._thread.join(PATIENCE)


def command(folder: Path, config: Path, *words: str) -> dict[str, Any]:
    """`gateway WORDS --format json`; what it says."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", *words, "--format", "json"),
            *("--config", str(config), "--data", str(folder / "data")),
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"gateway {' '.join(words)}: {done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def issued_key(folder: Path) -> dict[str, Any]:
    """A key with rpm, tokens per day and a team limit; its record, the text in `key`."""
    bare = folder / "bare.yaml"
    bare.write_text(yaml.dump({"data": str(folder / "data")}), "utf-8")
    command(folder, bare, "teams", "set", "bench", "--tpm", "1000000000000")
    return command(folder, bare, "keys", "create", "bench", *LIMITS, "--team", "bench")


def settings(fixed: int, streams: int, loop: str, cache: Mapping[str, Any]) -> dict[str, Any]:
    """The product's configuration: its defaults, but for the upstreams and where the log goes."""
    upstream = {"auth": "none", "proxy": "none"}
    models = [material.BULK, material.PACED, material.SLOW]
    return {
        "server": {"event_loop": loop, "drain_timeout": "1s"},
        "upstreams": [
            {"name": "fixed", "base_url": f"http://127.0.0.1:{fixed}/v1", **upstream}
            | {"models": [material.FIXED]},
            {"name": "streams", "base_url": f"http://127.0.0.1:{streams}/v1", **upstream}
            | {"models": models},
        ],
        "usage": {"durability": "process"},
        "cache": dict(cache),
    }


@contextlib.contextmanager
def product(
    folder: Path, config: Mapping[str, Any], key: str, name: str = "gateway"
) -> Iterator[Product]:
    """The gateway on its core, with a key and a log file, its metrics scraped each second."""
    with machine.on_core(machine.SERVER):
        process = Gateway(folder, config)  # which puts the access log into the folder
    with quick_end(process):
        scraper = Scraper(process.admin_port)
        try:
            headers = (("Authorization", f"Bearer {key}"),)
            yield Product(name, process.port, [process.process.pid], headers, process)
        finally:
            scraper.close()


@contextlib.contextmanager
def quick_end(process: Gateway) -> Iterator[None]:
    """As the gateway's own context, without reading millions of access lines at the end."""
    process.__enter__()
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGTERM)
        try:
            process.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.process.kill()
            process.process.wait()
        process.close()
    if process.process.returncode or "Traceback" in process.stderr.text:
        raise RuntimeError(f"exit code {process.process.returncode}:\n{process.stderr.text}")
