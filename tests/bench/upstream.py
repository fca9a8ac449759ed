"""An upstream of streams on httptools and uvloop: as fast as they go, at a pace, or hardly at all.

`bulk`: all events in one write, each a chunk of its own. `paced`: 40 events a second for ten
seconds, each with the time it was sent (CLOCK_MONOTONIC, nanoseconds, 20 digits). `slow`: three
events, then one each five seconds. Usage comes where the request asks for it. A request without
`stream` gets the fixed answer.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import cast

import httptools
import uvloop

from tests.bench.material import DONE, answer, bulk_events, event, usage_event

RATE = 40  # events a second of a paced stream
LENGTH = 400  # its events
STAMP = "t=%020d"
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\nX-Request-Id: req_bench\r\n\r\n"
)
SLOW = 5.0  # seconds

_before, _, _after = event(" word", stamp="t=@").partition(b"t=@")
_turns = itertools.count()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = chunk(b"")
_events = bulk_events()
_bulk = {
    True: HEAD + b"".join(map(chunk, _events)) + END,
    False: HEAD + b"".join(chunk(one) for one in _events if one != usage_event()) + END,
}
_json = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"X-Request-Id: req_bench\r\n\r\n%s" % (len(answer()), answer())
)


class Streams(asyncio.Protocol):
    """One connection: a request, its stream, the next one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._usage = b"include_usage" in body
        if b'"stream":true' not in body.replace(b" ", b""):  # others write it without the space
            self._transport.write(_json)
        elif b'"bulk"' in body:
            self._transport.write(_bulk[self._usage])
        elif b'"paced"' in body:
            self._left = LENGTH
            self._transport.write(HEAD)
            # Spread over the period, as streams of different clients are.
            self._due = self._loop.time() + next(_turns) % 50 / 50 / RATE
            self._timer = self._loop.call_at(self._due, self._tick)
        else:
            self._transport.write(HEAD + b"".join(chunk(event(" word")) for _ in range(3)))
            self._timer = self._loop.call_later(SLOW, self._again)

    def _tick(self) -> None:
        self._left -= 1
        if self._left <= 0:
            ends = [event(None, finish="stop"), *([usage_event()] if self._usage else []), DONE]
            self._transport.write(b"".join(map(chunk, ends)) + END)
            return
        stamp = (STAMP % time.monotonic_ns()).encode()
        self._transport.write(chunk(_before + stamp + _after))
        self._due += 1 / RATE
        self._timer = self._loop.call_at(self._due, self._tick)

    def _again(self) -> None:
        self._transport.write(chunk(event(" word")))
        self._timer = self._loop.call_later(SLOW, self._again)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        Streams, "127.0.0.1", port, backlog=4096
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
