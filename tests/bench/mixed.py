"""Memory after 500,000 mixed requests against after 50,000. Takes minutes, so only where named.

Hits, replayed streams, misses that are kept, relays and relayed streams at once, each from its own
connections, as fast as they are answered. What is compared is growth by the request, not a cache
that fills: all that is bounded (`cache.memory`, set low here, and what goes by it) is full before
the first look, and the misses, each of a body of its own, push out as much as they bring from then
on.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from tests.bench import machine
from tests.bench.figures import Figure
from tests.bench.load import Load
from tests.bench.material import BULK, template
from tests.bench.scene import NO_STORE, Scene
from tests.bench.sides import Product, scrape

EARLY, LATE, QUICK_LATE = 50_000, 500_000, 100_000
DISTINCT = 200
SETTINGS = {"memory": "16MiB"}
PUSHED_OUT = 5000  # answers, before the first look: about twice as many as fit
SLICE = 5.0  # seconds between two looks at how many requests there were

JSON, STREAM = template(), template(BULK, stream=True)
FRESH = Load(JSON, mode="fresh", connections=4)
PARTS = (
    Load(JSON, count=DISTINCT, connections=12),
    Load(STREAM, count=DISTINCT, connections=8),
    FRESH,
    Load(JSON, NO_STORE, connections=4),
    Load(STREAM, NO_STORE, connections=4),
)


def mixed(scene: Scene) -> None:
    """The mixture, looked at twice."""
    late = QUICK_LATE if scene.pace.quick else LATE
    with scene.own_product("mixed", SETTINGS) as product, ThreadPoolExecutor(len(PARTS)) as pool:
        while (gone := pushed_out(product)) < PUSHED_OUT:
            scene.say(f"mixed: {gone:,} of {PUSHED_OUT:,} answers pushed out")
            FRESH.run(product, SLICE)
        memory = []
        for wanted in (EARLY, late):
            while (done := product.states().total()) < wanted:
                scene.say(f"mixed: {done:,} of {late:,} requests")
                list(pool.map(lambda part: part.run(product, SLICE), PARTS))
            memory.append(machine.resident(product.pids[0]) / 2**20)
            what = f"memory after {wanted:,} mixed requests"
            scene.figure(Figure("mixed", what, memory[-1:], "MiB", most=True))
        print(f"  {dict(product.states())}")
    what = f"memory after {late:,} mixed requests against {EARLY:,}"
    scene.figure(Figure("mixed", what, [memory[1] / memory[0]], "x", 1.05, 1.0, most=True))


def pushed_out(product: Product) -> int:
    """Answers that had to leave memory for others."""
    assert product.gateway is not None
    product.states()  # waits for a page that is not an old one
    pattern = r'gateway_cache_evictions_total\{tier="memory",reason="size"\} ([0-9.e+]+)'
    found = re.search(pattern, scrape(product.gateway.admin_port))
    return int(float(found[1])) if found else 0
