"""What a request costs in bytecode instructions and calls, held below committed ceilings.

Seconds depend on the machine; instructions do not: the same Python executes the same ones. A real
gateway, everything on, answers over real connection objects in this process, each request on a
transport that keeps what is written. Counted is what runs on the loop's thread, this file left out.
Instructions of C code are not seen, so a call of C counts as a call.

The ceilings in `guard.json` hold for one minor version of Python; on another one nothing is
compared, and that is said. `python -m tests.bench.guard --rebase` writes them anew; `--show` says
in which functions the instructions are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import yaml
from attrs import evolve

from gateway.app import Gateway
from gateway.config import Size
from gateway.metrics.sink import AT_ONCE
from gateway.watch import ConfigFile
from gateway.web.connection import Connection
from tests.bench import sides, upstream
from tests.bench.material import BULK, FIXED, numbered, template
from tests.bench.scene import NO_STORE

CEILINGS = Path(__file__).with_name("guard.json")
HERE = str(Path(__file__).parent)
SLACK = 1.10  # what harmless changes may add
STALE = 0.80  # of a ceiling: below it, the ceiling should be lowered
WARM, RUNS = 30, AT_ONCE
SHOWN = 60  # functions
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

Lines = tuple[tuple[str, str], ...]
SAME = itertools.repeat(1)  # body
Trace = Callable[[FrameType, str, Any], Any]


@dataclass(frozen=True)
class Count:
    """Bytecode instructions, calls of Python functions, calls of C functions."""

    instructions: int
    calls: int
    c_calls: int


class Counter:
    """Counts on this thread what is neither the bench's nor between two turns of the loop."""

    def __init__(self) -> None:
        self.instructions = self.calls = self.c_calls = 0
        self.by_code: dict[CodeType, int] = {}
        self._ours: dict[CodeType, bool] = {}

    def _is_counted(self, code: CodeType) -> bool:
        found = self._ours.get(code)
        if found is None:
            name = code.co_filename
            # How often the loop turns, and what it looks at then, is a matter of time.
            turns = code.co_name == "_run_once" or name.endswith("/selectors.py")
            found = self._ours[code] = not (turns or name.startswith(HERE))
        return found

    def trace(self, frame: FrameType, event: str, arg: Any) -> Trace | None:
        """For `sys.settrace`."""
        if not self._is_counted(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, arg: Any) -> Trace:
        if event == "opcode":
            self.instructions += 1
            self.by_code[frame.f_code] = self.by_code.get(frame.f_code, 0) + 1
        return self._opcode

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """For `sys.setprofile`."""
        if event == "call":
            self.calls += self._is_counted(frame.f_code)
        elif event == "c_call":
            self.c_calls += self._is_counted(frame.f_code)


class Wire(asyncio.Transport):
    """The kernel's side of a connection: keeps what is written until an answer is whole."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000)})
        self._written = b""
        self._whole: asyncio.Future[bytes] | None = None

    async def ask(self, connection: Connection, request: bytes) -> bytes:
        """One request and its whole answer."""
        self._written, self._whole = b"", asyncio.get_running_loop().create_future()
        # As the loop does it: not from within a task.
        asyncio.get_running_loop().call_soon(connection.data_received, request)
        return await self._whole

    def write(self, data: Any) -> None:
        self._written += data
        head, _, body = self._written.partition(b"\r\n\r\n")
        _, _, rest = head.lower().partition(b"content-length: ")
        whole = len(body) == int(rest.split(b"\r\n")[0]) if rest else body.endswith(b"0\r\n\r\n")
        if whole and self._whole is not None and not self._whole.done():
            self._whole.set_result(self._written)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is always room."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""

    def abort(self) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(RuntimeError("the connection was cut"))

    close = abort


def shown(name: str, counter: Counter) -> None:
    """Print where the instructions of a run are, by function."""
    print(f"{name}: {counter.instructions // RUNS:,} instructions")
    for code, number in sorted(counter.by_code.items(), key=lambda pair: -pair[1])[:SHOWN]:
        path = Path(code.co_filename)
        print(f"  {number / RUNS:8,.1f}  {path.parent.name}/{path.name}: {code.co_qualname}")


async def counted(go: Callable[[], Awaitable[bytes]], show: str) -> Count:
    """The mean of as many runs as the metrics count at once: what is done for many at a time has
    its part in each. `show` names what is printed."""
    counter = Counter()
    for _ in range(RUNS):
        sys.settrace(counter.trace)
        try:
            await go()
        finally:
            sys.settrace(None)
    for _ in range(RUNS):
        sys.setprofile(counter.profile)
        try:
            await go()
        finally:
            sys.setprofile(None)
    if show:
        shown(show, counter)
    return Count(counter.instructions // RUNS, counter.calls // RUNS, counter.c_calls // RUNS)


async def measured(folder: Path, *, show: bool) -> dict[str, Count]:
    """A gateway comes up, answers and goes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(upstream.Streams, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = sides.settings(port, port, "asyncio", {})
    config["server"] |= {"access_log": str(folder / "access.log"), "port": 0}
    config |= {"admin": {"port": 0}, "data": str(folder / "data")}
    key = sides.issued_key(folder)["key"]
    place = folder / "config.yaml"
    place.write_text(yaml.dump(config), "utf-8")
    file = ConfigFile(place, {})
    gateway = Gateway(file.read(), file)
    async with gateway._stack:
        await gateway.start()
        wire, connection = Wire(), Connection(gateway.plane)
        connection.connection_made(wire)
        head = sides.Side("guard", 80, [], (("Authorization", f"Bearer {key}"),))

        def asking(
            model: str, stream: bool, more: Lines = (), numbers: Iterator[int] = SAME
        ) -> Any:
            text, begin = template(model, stream=stream), head.head(more)

            def go() -> Awaitable[bytes]:
                body = numbered(text, next(numbers))
                request = f"{begin}Content-Length: {len(body)}\r\n\r\n{body}"
                return wire.ask(connection, request.encode())

            return go

        ways = {
            "hit": (asking(FIXED, False), "hit"),
            "replay": (asking(BULK, True), "hit"),
            "relay": (asking(FIXED, False, NO_STORE), "bypass"),
            "miss": (asking(FIXED, False, numbers=itertools.count(2)), "miss"),
            "stream": (asking(BULK, True, NO_STORE), "bypass"),
            "disk": (asking(FIXED, False, numbers=itertools.count(2)), "hit"),  # what was missed
        }
        found = {}
        for name, (go, state) in ways.items():
            if name == "disk":
                await gateway.cache.flush()
                _forget(gateway)
            for _ in range(WARM):
                answer = await go()
            if f"\r\nx-gateway-cache: {state}\r\n".encode() not in answer:
                raise RuntimeError(f"{name}: {answer[:300]!r}")
            found[name] = await counted(go, name if show else "")
        connection.connection_lost(None)
    server.close()
    return found


def _forget(gateway: Gateway) -> None:
    """Memory keeps nothing from now on, and no body is known."""
    section = evolve(gateway.config.cache, memory=Size(1))
    gateway.cache.reconfigure(section)
    gateway.boarding.reconfigure(section)


def main(arguments: list[str]) -> int:
    """Compare, or write with --rebase; 1 above a ceiling."""
    with tempfile.TemporaryDirectory(prefix="gateway-guard-") as folder:
        found = asyncio.run(measured(Path(folder), show=arguments == ["--show"]))
    if arguments == ["--rebase"]:
        said = {name: vars_of(count, SLACK) for name, count in found.items()}
        CEILINGS.write_text(json.dumps({"python": PYTHON, "ceilings": said}, indent=2) + "\n")
        print(f"wrote {CEILINGS.name}")
        return 0
    kept = json.loads(CEILINGS.read_text("utf-8"))
    if kept["python"] != PYTHON:
        print(f"the ceilings are Python {kept['python']}'s, this is {PYTHON}: nothing is compared")
        return 0
    return compare(found, kept["ceilings"])


def compare(found: dict[str, Count], ceilings: dict[str, dict[str, int]]) -> int:
    """Print each figure beside its ceiling; 1 where one is above."""
    above = False
    for name, count in found.items():
        for unit, value in vars_of(count).items():
            ceiling = ceilings[name][unit]
            word = ""
            if value > ceiling:
                above, word = (
                    True,
                    "  ABOVE: make it cheaper, or say why in the commit that rebases",
                )
            elif value < STALE * ceiling:
                word = "  well below: lower the ceiling with --rebase"
            print(f"{name:8} {unit:13} {value:8,} of {ceiling:8,}{word}")
    return int(above)


def vars_of(count: Count, times: float = 1.0) -> dict[str, int]:
    units = ("instructions", "calls", "c_calls")
    return {unit: int(getattr(count, unit) * times) for unit in units}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
