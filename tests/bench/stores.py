"""Hits from disk, and what a large store costs: uniform over all entries, the pages in the cache.

A store is filled through the cache's own table and codec, with the entry that a real request left
there: a million calls would take half an hour. Memory is kept so small that the disk is asked.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

from gateway.cache.codec import decode, encode, encode_labels
from gateway.cache.rules import identity
from gateway.cache.table import Row, Table
from gateway.wire.chat import read_chat
from tests.bench import machine, sides
from tests.bench.figures import Figure
from tests.bench.hits import only
from tests.bench.load import Load
from tests.bench.material import FIXED, numbered, template
from tests.bench.scene import Scene
from tests.bench.sides import Side

MANY, QUICK_MANY, FEW = 1_000_000, 100_000, 10_000
BATCH = 5000  # rows in one transaction
LIMIT = 8 * 2**30  # bytes; a million entries are about two gibibytes
SETTINGS = {"memory": "1MiB", "size_limit": "8GiB", "disk_deadline": "2s"}
LIFE = 80_000.0  # seconds
IDLE = 0.05  # seconds of CPU in a second


def disk(scene: Scene) -> None:
    """A million entries beside ten thousand, and beside a hit from memory."""
    many = QUICK_MANY if scene.pace.quick else MANY
    body = template()
    memory = scene.product
    scene.fill(memory, body)
    with contextlib.ExitStack() as stack:
        found = {}
        for count in (many, FEW):
            name = f"{count:,} entries"

            def prepare(folder: Path, key: dict[str, Any], config: Any, count: int = count) -> None:
                scene.say(f"disk: a store of {count:,} entries is filled")
                fill(folder, key, config, count)

            side = stack.enter_context(scene.own_product(name.replace(",", ""), SETTINGS, prepare))
            found[name] = (side, Load(body, mode="uniform", count=count))
        for side, _ in found.values():
            settle(side)
        before = {name: side.states() for name, (side, _) in found.items()}
        rounds = scene.take_turns("disk", {**found, "memory": (memory, Load(body))})
        for name, (side, _) in found.items():
            only(side, before[name], "hit")
    large, small = (f"{count:,} entries" for count in (many, FEW))
    what = f"hit from disk, uniform over {large}, against memory"
    scene.figure(rounds.versus("disk", what, (large, "memory"), 0.4, 0.6))
    what = f"{large} against {FEW:,}: time of a hit"
    scene.figure(Figure("disk", what, rounds.ratios(large, small, "cpu"), "x", 1.3, 1.1, most=True))
    what = f"{large} against {FEW:,}: p99"
    scene.figure(Figure("disk", what, rounds.ratios(large, small, "p99"), "x", 1.3, 1.1, most=True))


def settle(side: Side) -> None:
    """Wait until it has looked through its store, as it does after each start: a second without
    work."""
    used = 1.0
    while used > IDLE:
        before = machine.cpu(side.pids)
        time.sleep(1.0)
        used = machine.cpu(side.pids) - before


def fill(folder: Path, key: dict[str, Any], config: dict[str, Any], count: int) -> None:
    """Put bodies 0 to `count` - 1 into the store, each with the answer that body 0 gets."""
    body = template()
    with sides.product(folder, config, key["key"]) as seed:
        seed.ask(numbered(body, 0))
    place = folder / "data" / "cache"
    table = Table(place, LIMIT)
    try:
        ((first, data),) = table._sql("SELECT key, value FROM Cache").fetchall()
        entry, base = decode(data, first), config["upstreams"][0]["base_url"]

        def key_of(number: int) -> bytes:
            digest = read_chat(numbered(body, number).encode(), frozenset()).digest
            assert digest is not None
            return identity(
                scope=entry.scope,
                path="chat/completions",
                query="",
                upstream=FIXED,
                base_url=f"{base}?[]",
                model=FIXED,
                headers=(),
                body=digest,
            )

        if key_of(0) != first:
            raise RuntimeError("the cache's keys are made in another way: see `identity`'s callers")
        labels = encode_labels(entry)
        numbers = iter(range(1, count))
        while batch := list(itertools.islice(numbers, BATCH)):
            keys = [key_of(number) for number in batch]
            now = time.time()
            table.write([Row(key, encode(entry, key), labels, now + LIFE) for key in keys], now)
    finally:
        table.close()
    warm(place)


def warm(place: Path) -> None:
    """Read the files once, so that their pages are in memory."""
    for path in place.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
