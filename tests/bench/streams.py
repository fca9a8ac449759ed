"""A client of streams on httptools and uvloop, a process of its own: what it sees, as JSON lines.

`ttfb`: one connection, streams one after the other, microseconds from the request to the first
byte of the answer's body. `paced`: many at once, each event's age when it arrives, in a window
between the lines `begin` and `end`. `open`: many at once, held until stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import cast

import httptools
import uvloop

from tests.bench.material import MARK

SETTLE = 1.5  # seconds until all streams of `paced` run
STAMP = len("00000000000000000000")


class Client:
    """What all connections share."""

    def __init__(self, mode: str, head: str, template: str) -> None:
        self.mode = mode
        length = f"Content-Length: {len(template)}\r\n\r\n"
        self._before, _, self._after = (head + length + template).partition(MARK)
        self._number = time.monotonic_ns() % 10**9 * 1000
        self.times: list[int] = []  # nanoseconds
        self.counting = mode == "ttfb"
        self.failed = ""
        self.begun = asyncio.Semaphore(0)  # first bytes of bodies

    def request(self) -> bytes:
        self._number += 1
        return f"{self._before}{self._number:012d}{self._after}".encode()


class Stream(asyncio.Protocol):
    """One connection: a stream after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._waiting, self._sent = True, time.monotonic_ns()
        self._transport.write(self._client.request())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._client.failed = f"status {self._parser.get_status_code()}"

    def on_body(self, data: bytes) -> None:
        client, now = self._client, time.monotonic_ns()
        if self._waiting:
            self._waiting = False
            client.begun.release()
            if client.mode == "ttfb":
                client.times.append(now - self._sent)
        if client.counting and client.mode == "paced":
            at = data.find(b"t=")
            while at >= 0:
                client.times.append(now - int(data[at + 2 : at + 2 + STAMP]))
                at = data.find(b"t=", at + STAMP)

    def on_message_complete(self) -> None:
        asyncio.get_running_loop().call_soon(self._ask)  # the parser is still at work

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.failed = self._client.failed or "a connection was closed"


def say(**members: object) -> None:
    print(json.dumps(members), flush=True)


def percentile(times: list[int], part: float) -> float:
    """Microseconds."""
    return times[min(len(times) - 1, int(len(times) * part))] / 1000 if times else 0.0


async def main(
    mode: str, port: int, head: str, template: str, connections: int, seconds: float
) -> None:
    loop, client = asyncio.get_running_loop(), Client(mode, head, template)
    for number in range(connections):
        await loop.create_connection(lambda: Stream(client), "127.0.0.1", port)
        if number % 50 == 49:
            await asyncio.sleep(0.02)
    if mode == "open":
        for _ in range(connections):
            await client.begun.acquire()
        say(open=connections, failed=client.failed)
        await loop.run_in_executor(None, sys.stdin.read)
        return
    if mode == "paced":
        await asyncio.sleep(SETTLE)
        client.counting = True
    began = loop.time()
    say(begin=True)
    await asyncio.sleep(seconds)
    client.counting, took = False, loop.time() - began
    times = sorted(client.times)
    say(
        end=True,
        count=len(times),
        seconds=took,
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        failed=client.failed,
    )


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    mode, port, head, template, connections, seconds = sys.argv[1:]
    uvloop.run(
        main(
            mode,
            int(port),
            Path(head).read_bytes().decode("latin-1"),  # as text, its CR LF would be LF
            Path(template).read_text("utf-8"),
            int(connections),
            float(seconds),
        )
    )
