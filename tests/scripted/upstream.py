"""An upstream that does what a script says, in a process of its own: it cuts, stalls, lies, and
notes all it sees.

Rule of this file: standard library only, and no idea of HTTP beyond reading a request; the answer's
bytes are the test's. It speaks raw sockets, so that it may do what no honest server would.

A script is a list of steps, kept under a name; the name is looked for among the segments of the
request's path, then in the body's `model`. The n-th call under a name plays the n-th list of its
script (the last one again when there are no more). Steps, as JSON arrays:

    ["send", BASE64]           these bytes, exactly; on the wire when the step ends
    ["bulk", BASE64, COUNT]    the same bytes COUNT times, with back-pressure
    ["gate"]                   wait until the test says `go` once more
    ["body"]                   read the request's body here (without it: before the first step)
    ["take", N]                read N bytes of the body, and no more for now
    ["echo"]                   a JSON completion whose content is the last message's
    ["cut"]  ["reset"]         close the socket: in order, or with RST
    ["stall"]                  never anything again; ends when the peer leaves
    ["poison"]                 the connection dies on the first byte of its next request

Control: one JSON object a line over a second port, one reply a line; see `Control`.
The process ends when its standard input does, so it never outlives the test run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable
from typing import Any

from tests.scripted.control import Control
from tests.scripted.stage import KEPT, Call, Stage, Steps

HEAD_LIMIT = 1 << 20
PIECE = 1 << 18


class PeerLeft(Exception):
    """The gateway closed the connection while a script was playing."""


class Connection:
    """One connection of the gateway: requests one after another, each answered by a script."""

    def __init__(
        self, stage: Stage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.stage = stage
        self.reader = reader
        self.writer = writer
        self.buffer = bytearray()  # read and not used yet
        self.left = asyncio.Event()
        self.number = stage.connections
        self.poisoned = False
        stage.connections += 1

    # Reading a request ---------------------------------------------------------------------------

    async def fill(self) -> bool:
        data = await self.reader.read(PIECE)
        self.buffer += data
        if not data:
            self.left.set()
        return bool(data)

    async def line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n")) < 0:
            if not await self.fill():
                raise PeerLeft
        found = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return found

    async def head(self) -> bytes | None:
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > HEAD_LIMIT or not await self.fill():
                return None
            if self.poisoned:
                return None
        found = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        return found

    async def some(self, most: int) -> bytes:
        if not self.buffer and not await self.fill():
            raise PeerLeft
        found = bytes(self.buffer[:most])
        del self.buffer[:most]
        return found

    async def body(self, call: Call, most: int | None = None) -> None:
        """Read the body, or at least `most` bytes of it."""
        fields = {k.lower(): v for k, v in call.report()["headers"]}
        if "chunked" in fields.get("transfer-encoding", "").lower():
            await self.chunked(call, most)
        else:
            total = int(fields.get("content-length") or 0)
            while call.length < total and (most is None or call.length < most):
                self.keep(call, await self.some(total - call.length))
                if most is not None:
                    await self.stage.changed()
            call.whole = call.length == total
        await self.stage.changed()

    async def chunked(self, call: Call, most: int | None) -> None:
        while most is None or call.length < most:
            size = int((await self.line()).split(b";")[0], 16)
            left = size
            while left:
                data = await self.some(left)
                left -= len(data)
                self.keep(call, data)
            await self.line()
            if not size:
                call.whole = True
                return

    @staticmethod
    def keep(call: Call, data: bytes) -> None:
        call.length += len(data)
        call.digest.update(data)
        if len(call.body) < KEPT:
            call.body += data[: KEPT - len(call.body)]

    # Playing a script ----------------------------------------------------------------------------

    async def or_left(self, wait: Awaitable[Any]) -> None:
        """Wait for something, and give up when the peer leaves meanwhile."""
        task = asyncio.ensure_future(wait)
        leaving = asyncio.ensure_future(self.left.wait())
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise PeerLeft
        task.result()

    async def write(self, call: Call, data: bytes) -> None:
        self.writer.write(data)
        await self.or_left(self.writer.drain())
        call.sent += len(data)

    async def gate(self, name: str) -> None:
        await self.or_left(self.stage.until(lambda: self.stage.gates.get(name, 0) > 0))
        self.stage.gates[name] -= 1

    async def step(self, call: Call, verb: str, *args: Any) -> str | None:
        """One step; what it returns is how the connection ended."""
        if verb == "send":
            await self.write(call, base64.b64decode(args[0]))
        elif verb == "bulk":
            data = base64.b64decode(args[0])
            for _ in range(args[1]):
                await self.write(call, data)
        elif verb == "gate":
            await self.gate(call.name)
        elif verb == "echo":
            await self.write(call, echoed(bytes(call.body)))
        elif verb == "stall":
            await self.or_left(asyncio.Event().wait())
        elif verb == "poison":
            self.poisoned = True
        elif verb == "reset":
            self.abort()
            return "reset"
        elif verb == "cut":
            return "cut"
        else:
            raise ValueError(f"no such step: {verb}")
        await self.stage.changed()
        return None

    def abort(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def watch(self) -> None:
        """While a script plays: what comes is the next request, an end is the peer's leaving."""
        with contextlib.suppress(OSError):
            while await self.fill():
                pass
        self.left.set()

    async def play(self, call: Call, steps: Steps) -> str:
        reading = [step for step in steps if step[0] in ("body", "take")]
        if not reading:
            await self.body(call)
        watcher: asyncio.Future[None] | None = None
        try:
            for step in steps:
                if not reading and watcher is None:
                    watcher = asyncio.ensure_future(self.watch())
                if step[0] in ("body", "take"):
                    reading.pop()
                    await self.body(call, step[1] if step[0] == "take" else None)
                    continue
                if ended := await self.step(call, *step):
                    return ended
            return "done"
        finally:
            if watcher:
                watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watcher

    async def one(self, nth: int) -> bool:
        """Serve one request; True when the connection lives on."""
        head = await self.head()
        if head is None:
            return False
        call = Call(name="", connection=self.number, nth=nth, head=head)
        target = call.report()["target"]
        name = self.stage.name_in_path(target)
        if name is None:
            await self.body(call)
            name = self.stage.name_in_body(bytes(call.body))
        steps = UNSCRIPTED_MODELS if target.endswith("/models") else UNSCRIPTED
        if name is None:
            self.stage.unscripted.append(call)
        else:
            call.name = name
            script = self.stage.scripts[name]
            calls = self.stage.calls[name]
            steps = script[min(len(calls), len(script) - 1)]
            calls.append(call)
        await self.stage.changed()
        try:
            call.ended = await self.play(call, steps)
        except (PeerLeft, OSError):
            call.ended = "client_closed"
        call.ended_at = time.monotonic()
        await self.stage.changed()
        return call.ended == "done" and not self.left.is_set()

    async def serve(self) -> None:
        nth = 0
        self.stage.open_connections += 1
        try:
            while await self.one(nth):
                nth += 1
        except (PeerLeft, OSError):
            pass
        finally:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
            self.stage.open_connections -= 1
            await self.stage.changed()


def answer(status: str, body: bytes) -> bytes:
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body


def plain(status: str, body: bytes) -> Steps:
    return [["send", base64.b64encode(answer(status, body)).decode()]]


UNSCRIPTED = plain("404 Not Found", b'{"error":{"message":"no script for this request"}}')
UNSCRIPTED_MODELS = plain("200 OK", b'{"object":"list","data":[]}')


def echoed(body: bytes) -> bytes:
    asked = json.loads(body)
    message = {"role": "assistant", "content": asked["messages"][-1]["content"]}
    said = {
        "id": "chatcmpl-echo",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return answer("200 OK", json.dumps(said).encode())


async def main() -> None:
    loop = asyncio.get_running_loop()
    stage = Stage()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(stage, reader, writer).serve()

    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # A small, fixed buffer: what the gateway does not take stays here, and is not called sent.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    data = await asyncio.start_server(accept, sock=listening, limit=PIECE)
    control = await asyncio.start_server(Control(stage).serve, "127.0.0.1", 0, limit=1 << 28)
    ports = [server.sockets[0].getsockname()[1] for server in (data, control)]
    print(json.dumps({"port": ports[0], "control": ports[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
