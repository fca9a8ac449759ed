"""The load: wrk for whole answers, `streams.py` for streams; a figure for what came back."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench import machine
from tests.bench.material import DISTINCT
from tests.bench.sides import ROOT, Side

SCRIPT = Path(__file__).with_name("load.lua")
CONNECTIONS = 32

_fresh = itertools.count(1_000_000_000, 100_000_000)


@dataclass(frozen=True)
class Sample:
    """One go of one side. Rates per second, times in microseconds.

    `cpu`: of the server, for each answer. `busy`: the part of the time that the server had its
    core; well below 1 the load was the limit, or somebody else had the core.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    busy: float

    @property
    def capacity(self) -> float:
        """Answers a second of a whole core: the rate, where the server has its core to itself. It
        stands still where neighbours take a part of the core, and the load is not its limit."""
        return 1e6 / self.cpu


@dataclass(frozen=True)
class Load:
    """What wrk sends: `mode`, `count` and `first` as `load.lua` has them."""

    template: str
    headers: tuple[tuple[str, str], ...] = ()
    mode: str = "cycle"
    count: int = DISTINCT
    first: int = 0
    connections: int = CONNECTIONS

    def run(self, side: Side, seconds: float) -> Sample:
        """Load a side. RuntimeError where anything but a 2xx came back."""
        first = next(_fresh) if self.mode == "fresh" else self.first
        with TemporaryDirectory(prefix="gateway-bench-") as folder:
            template, head = Path(folder, "template"), Path(folder, "head")
            template.write_text(self.template, "utf-8")
            head.write_text(side.head(self.headers), "latin-1")
            command = [
                *(str(machine.which("wrk")), "-t1", f"-c{self.connections}"),
                *(f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(SCRIPT)),
                *(side.url, "--", str(template), str(head)),
                *(self.mode, str(self.count), str(first)),
            ]
            before = machine.cpu(side.pids)
            with machine.on_core(machine.LOAD):
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            used = machine.cpu(side.pids) - before
        said = json.loads(done.stdout.strip().splitlines()[-1])
        if said["failed"] or said["refused"] or not said["requests"]:
            raise RuntimeError(f"{side.name}: {said}")
        return Sample(
            rate=said["requests"] / said["seconds"],
            p50=said["p50"],
            p99=said["p99"],
            cpu=used / said["requests"] * 1e6,
            busy=used / said["seconds"],
        )


@dataclass(frozen=True)
class Watch:
    """Streams as one who times them sees them; `mode` as `streams.py` has them. A sample's rate is
    of streams (`ttfb`) or events (`paced`) a second, its CPU that of each, its times those."""

    mode: str
    template: str
    connections: int = 1
    headers: tuple[tuple[str, str], ...] = ()

    def run(self, side: Side, seconds: float) -> Sample:
        """Watch a side. RuntimeError where a stream fails."""
        with self.started(side, seconds) as client:
            told(side, client, "begin")
            before = machine.cpu(side.pids)
            said = told(side, client, "end")
            used = machine.cpu(side.pids) - before
        count = max(1, said["count"])
        return Sample(
            rate=said["count"] / said["seconds"],
            p50=said["p50"],
            p99=said["p99"],
            cpu=used / count * 1e6,
            busy=used / said["seconds"],
        )

    @contextlib.contextmanager
    def started(self, side: Side, seconds: float = 0.0) -> Iterator[subprocess.Popen[str]]:
        """The client's process; it ends when its stdin is closed."""
        with TemporaryDirectory(prefix="gateway-bench-") as folder:
            template, head = Path(folder, "template"), Path(folder, "head")
            template.write_text(self.template, "utf-8")
            head.write_text(side.head(self.headers), "latin-1")
            command = [
                *(sys.executable, "-m", "tests.bench.streams", self.mode, str(side.port)),
                *(str(head), str(template), str(self.connections), str(seconds)),
            ]
            with machine.on_core(machine.LOAD):
                client = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            with client:
                yield client


def told(side: Side, client: subprocess.Popen[str], word: str) -> dict[str, Any]:
    """The client's next line, which has this member."""
    assert client.stdout is not None
    line = client.stdout.readline()
    said: dict[str, Any] = json.loads(line) if line else {}
    if word not in said or said.get("failed"):
        raise RuntimeError(f"{side.name}: instead of '{word}' the client said {line!r}")
    return said
