"""wrk as the load: one thread, bodies by number, a figure for what came back."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import machine
from tests.bench.material import DISTINCT
from tests.bench.sides import Side

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
