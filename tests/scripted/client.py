"""The test's hand on the scripted upstream: put a script up, let it go on, wait for what it saw.

Everything here blocks, and every wait has a deadline that only a failure reaches.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 15.0  # seconds; no passing test comes near

Step = tuple[Any, ...]


@dataclass(frozen=True)
class Seen:
    """One request as the upstream saw it. Header names as they came."""

    name: str
    connection: int
    nth: int
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes
    length: int
    sha256: str
    whole: bool
    sent: int
    ended: str | None
    ended_at: float | None

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def names(self) -> set[str]:
        return {k.lower() for k, _ in self.headers}

    def json(self) -> Any:
        return json.loads(self.body)


def _seen(report: dict[str, Any]) -> Seen:
    report["headers"] = [(k, v) for k, v in report["headers"]]
    report["head"] = base64.b64decode(report["head"])
    report["body"] = base64.b64decode(report["body"])
    return Seen(**report)


class Scripted:
    """A running scripted upstream. `with Scripted() as up:`"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.scripted.upstream"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        ports = json.loads(self._process.stdout.readline())
        self.port: int = ports["port"]
        self._control: int = ports["control"]
        self._numbers = itertools.count(1)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _ask(self, op: str, **args: Any) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self._control), PATIENCE + 10) as link:
            link.sendall(json.dumps({"op": op, **args}).encode() + b"\n")
            with link.makefile("rb") as replies:
                reply: dict[str, Any] = json.loads(replies.readline())
        return reply

    def play(self, *calls: Sequence[Step], prefix: str = "open", name: str = "") -> str:
        """Put up a script (one list of steps for each call in turn); its name is a fresh
        model's."""
        name = name or f"{prefix}-{next(self._numbers)}"
        coded = [[_coded(step) for step in steps] for steps in calls]
        self._ask("play", name=name, calls=coded)
        return name

    def go(self, name: str, times: int = 1) -> None:
        """Let the script past its next gate."""
        self._ask("go", name=name, times=times)

    def wait(self, name: str, what: str, index: int = 0, *, least: int = 0) -> Seen:
        """Wait for a call: `head`, `body`, `received`, `sent` (`least` bytes) or `ended`."""
        reply = self._ask("wait", name=name, index=index, what=what, least=least, patience=PATIENCE)
        assert "call" in reply, (
            f"the upstream never saw {what!r} of call {index} to {name}: {reply}"
        )
        return _seen(reply["call"])

    def calls(self, name: str) -> list[Seen]:
        return [_seen(r) for r in self._ask("calls", name=name)["calls"]]

    def unscripted(self) -> list[Seen]:
        """Calls that no script was there for."""
        return [_seen(r) for r in self._ask("unscripted")["calls"]]

    def idle(self) -> int:
        """Wait until every connection is closed; the number there have been."""
        reply = self._ask("idle", patience=PATIENCE)
        assert "total" in reply, f"connections are left open: {reply}"
        return int(reply["total"])


def _coded(step: Step) -> list[Any]:
    return [base64.b64encode(x).decode() if isinstance(x, bytes) else x for x in step]
