"""A thousand clients join one stream; and what a hit costs beside a miss. The real process.

The floors: one call, equal bytes for all, less than 100 MB more than before they came.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import statistics
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import DONE, GATE, delta, finish, stream, usage_event

CLIENTS = 1000
EVENTS = 1000  # of the stream, some 200 bytes each
MOST_MEGABYTES = 100.0
ASKED = 3000  # for each of the two rates
ALL_ABOARD = 60.0  # seconds


async def one(address: tuple[str, int], body: bytes, aboard: asyncio.Semaphore) -> tuple[str, str]:
    """A client: its state, and the digest of all that it was sent after the head."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
    try:
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(
            line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if line
        )
        digest = sha256()
        aboard.release()
        while True:  # chunks are the gateway's to cut: only what is in them counts
            size = int(await reader.readline(), 16)
            rest = await reader.readexactly(size + 2)
            digest.update(rest[:-2])
            if not size:
                return fields["x-gateway-cache"], digest.hexdigest()
    finally:
        writer.close()


async def all_join(
    gateway: Gateway, up: Scripted, model: str
) -> tuple[Counter[str], set[str], float]:
    """All aboard, then the rest of the stream: states, digests, seconds for the rest."""
    body, aboard = request(CHAT, chat(model, stream=True)), asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one(gateway.address, body, aboard)) for _ in range(CLIENTS)]
    async with asyncio.timeout(ALL_ABOARD):
        for _ in tasks:
            await aboard.acquire()
        began = time.perf_counter()
        up.go(model)
        found = await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    return Counter(state for state, _ in found), {digest for _, digest in found}, seconds


def rate(gateway: Gateway, *headers: tuple[str, str]) -> tuple[float, float]:
    """Answers of `echo` a second over one connection, and the median in microseconds."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=15)
    body, times = json.dumps(chat("echo", rate=headers)), []
    try:
        for _ in range(ASKED):
            began = time.perf_counter()
            connection.request(
                "POST", CHAT, body, {"Content-Type": "application/json", **dict(headers)}
            )
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"the gateway answered {answer.status}")
    finally:
        connection.close()
    return ASKED / sum(times), statistics.median(times) * 1e6


def joins(gateway: Gateway, up: Scripted) -> bool:
    events = [delta(f"word {n:05d}, and some more of it; " * 3) for n in range(EVENTS)]
    events += [finish(), usage_event(), DONE]
    model = up.play([*stream(events[:1], close=False), GATE, *stream(events[1:])[1:]])
    before = gateway.memory()["VmRSS"]
    states, digests, seconds = asyncio.run(all_join(gateway, up, model))
    more = (gateway.memory()["VmHWM"] - before) / 1e6
    calls = len(up.calls(model))
    print(f"{CLIENTS} clients join    {dict(states)}, {calls} call, {len(digests)} answer")
    print(f"  {CLIENTS * EVENTS} events in   {seconds:6.2f} s")
    print(f"  memory in addition   {more:6.1f} MB   (floor {MOST_MEGABYTES} MB)")
    whole = {sha256(b"".join([*events[:-2], DONE])).hexdigest()}
    joined = states == {"miss": 1, "joined": CLIENTS - 1}
    return joined and calls == 1 and digests == whole and more < MOST_MEGABYTES


def main() -> bool:
    """Print the figures; True where all floors hold."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the gateway inherits it
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, Scripted() as up:
        config = {
            "upstreams": [
                {"name": "echo", "base_url": "echo:", "models": ["echo"]},
                {"name": "open", "base_url": up.url, "auth": "none"},
            ]
        }
        with Gateway(Path(folder), config) as gateway:
            rate(gateway)  # warm, and the entry is there
            good = joins(gateway, up)
            hits, hit = rate(gateway)
            misses, miss = rate(gateway, ("Cache-Control", "no-cache"))
    print(f"hits, one client       {hits:6.0f} /s   ({hit:.0f} microseconds each)")
    print(f"calls of echo instead  {misses:6.0f} /s   ({miss:.0f} microseconds each)")
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
