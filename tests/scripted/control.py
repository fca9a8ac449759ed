"""The scripted upstream's control port: one JSON object a line, one reply a line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.scripted.stage import Stage, Steps


class Control:
    """What the test may ask: play, go, wait, calls, state."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked = json.loads(line)
            reply = await getattr(self, "do_" + asked.pop("op"))(**asked)
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def do_play(self, name: str, calls: list[Steps]) -> dict[str, Any]:
        """Put a script under a name."""
        self.stage.scripts[name] = calls
        self.stage.calls[name] = []
        self.stage.gates[name] = 0
        return {}

    async def do_go(self, name: str, times: int) -> dict[str, Any]:
        """Open the gate, `times` times."""
        self.stage.gates[name] += times
        await self.stage.changed()
        return {}

    async def do_wait(
        self, name: str, index: int, what: str, least: int, patience: float
    ) -> dict[str, Any]:
        """Wait for a call to be there (`head`), to have its `body`, at least `least` bytes
        `received` or `sent`, or to have `ended`."""

        def reached() -> bool:
            calls = self.stage.calls[name]
            if len(calls) <= index:
                return False
            call = calls[index]
            return {
                "head": True,
                "body": call.whole,
                "received": call.length >= least,
                "sent": call.sent >= least,
                "ended": call.ended is not None,
            }[what]

        try:
            await asyncio.wait_for(self.stage.until(reached), patience)
        except TimeoutError:
            return {"timeout": True, "calls": [c.report() for c in self.stage.calls[name]]}
        return {"call": self.stage.calls[name][index].report()}

    async def do_calls(self, name: str) -> dict[str, Any]:
        """All calls under a name so far."""
        return {"calls": [c.report() for c in self.stage.calls[name]]}

    async def do_unscripted(self) -> dict[str, Any]:
        """All calls that no script was there for."""
        return {"calls": [c.report() for c in self.stage.unscripted]}

    async def do_idle(self, patience: float) -> dict[str, Any]:
        """Wait until no connection is open."""
        try:
            await asyncio.wait_for(
                self.stage.until(lambda: not self.stage.open_connections), patience
            )
        except TimeoutError:
            return {"timeout": True, "open": self.stage.open_connections}
        return {"total": self.stage.connections}
