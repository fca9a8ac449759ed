"""What a scrape costs those who ask meanwhile: hits at a steady rate, with and without a scrape
each second of a page of 5,000 series (requirement M4). The real process.

Both sides take turns, so that what else the machine does meets both. The floor: the 99th percentile
of the hits stays where it was.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, chat

MODELS = 22  # which have 5,000 series from the start
LEAST_SERIES = 5000
CLIENTS, RATE = 4, 100  # hits a second, of each client: a steady load, not a race
SECONDS, ROUNDS = 4.0, 6
MOST_TIMES = 1.25  # the p99 of hits beside scrapes, to that without
MOST_MORE = 0.5e-3  # seconds that it may be more whatever the ratio: what two cores are noisy by
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def hits(gateway: Gateway, until: float) -> list[float]:
    """Seconds of each hit of one client, asked when its turn was: what waits is counted."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=15)
    body, took, due = json.dumps(chat("model-0")), [], time.perf_counter()
    try:
        while (due := due + 1 / RATE) < until:
            time.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"the gateway answered {answer.status}")
    finally:
        connection.close()
    return took


def scrape(gateway: Gateway) -> tuple[int, float]:
    """Lines of the page that are samples, and the seconds that it took."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=15)
    began = time.perf_counter()
    try:
        connection.request("GET", "/metrics", headers={"Accept": ACCEPT})
        page = connection.getresponse().read()
    finally:
        connection.close()
    took = time.perf_counter() - began
    return sum(not line.startswith(b"#") for line in page.splitlines()), took


def p99(gateway: Gateway, scrapes: list[float] | None) -> float:
    """Of all clients' hits in one go; a list takes what each scrape took."""
    until, over = time.perf_counter() + SECONDS, threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(hits, gateway, until) for _ in range(CLIENTS)]
        while scrapes is not None and time.perf_counter() < until - 0.5:
            scrapes.append(scrape(gateway)[1])
            over.wait(1.01)  # a page serves for a second
        took = sorted(one for client in clients for one in client.result())
    return took[len(took) * 99 // 100]


def main() -> bool:
    """Print the figures; True where the floor holds."""
    models = [f"model-{number}" for number in range(MODELS)]
    config = {"upstreams": [{"name": "echo", "base_url": "echo:", "models": models}]}
    with (
        tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder,
        Gateway(Path(folder), config) as gateway,
    ):
        p99(gateway, [])  # warm, and the entry is there
        series, _ = scrape(gateway)
        without: list[float] = []
        beside: list[float] = []
        scrapes: list[float] = []
        for _ in range(ROUNDS):
            without.append(p99(gateway, None))
            beside.append(p99(gateway, scrapes))
    before, after = statistics.median(without), statistics.median(beside)
    good = after <= max(before * MOST_TIMES, before + MOST_MORE) and series >= LEAST_SERIES
    print(f"page of {series} series      {statistics.median(scrapes) * 1e3:6.1f} ms")
    print(
        f"p99 of hits beside it  {after * 1e3:6.2f} ms, {before * 1e3:.2f} ms without  "
        f"(floor {MOST_TIMES} times, or {MOST_MORE * 1e3:g} ms more)"
    )
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
