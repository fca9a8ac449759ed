"""What the scripted upstream was told and what it has seen; who waits for either is woken."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEPT = 64 << 20  # bytes of a request's body that are kept
SHOWN = 4 << 20  # of which the test is shown

Steps = list[list[Any]]


@dataclass
class Call:
    """One request and what became of it. `ended`: None, done, cut, reset, or client_closed."""

    name: str
    connection: int
    nth: int  # on its connection, from 0
    head: bytes
    body: bytearray = field(default_factory=bytearray)
    length: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    whole: bool = False  # the body has been read to its end
    sent: int = 0
    ended: str | None = None
    ended_at: float | None = None

    def report(self) -> dict[str, Any]:
        line, *fields = self.head.decode("latin-1").split("\r\n")
        method, target, version = [*line.split(" ", 2), "", ""][:3]
        pairs = [f.partition(":") for f in fields if f]
        return {
            "name": self.name,
            "connection": self.connection,
            "nth": self.nth,
            "method": method,
            "target": target,
            "version": version,
            "headers": [[k, v.strip(" \t")] for k, _, v in pairs],
            "head": base64.b64encode(self.head).decode(),
            "body": base64.b64encode(bytes(self.body[:SHOWN])).decode(),
            "length": self.length,
            "sha256": self.digest.hexdigest(),
            "whole": self.whole,
            "sent": self.sent,
            "ended": self.ended,
            "ended_at": self.ended_at,
        }


class Stage:
    """Scripts, calls and gates; whoever waits is woken by every change."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Steps]] = {}
        self.calls: dict[str, list[Call]] = {}
        self.gates: dict[str, int] = {}
        self.unscripted: list[Call] = []
        self.connections = 0
        self.open_connections = 0
        self._changed = asyncio.Condition()

    async def changed(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(true)

    def name_in_path(self, target: str) -> str | None:
        path = target.partition("?")[0]
        return next((s for s in reversed(path.split("/")) if s in self.scripts), None)

    def name_in_body(self, body: bytes) -> str | None:
        try:
            model = json.loads(body)["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return model if isinstance(model, str) and model in self.scripts else None
