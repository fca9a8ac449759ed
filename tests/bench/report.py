"""`python -m tests.bench.report`: docs/benchmarks.md from the committed results."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.figures import Figure, number

RESULTS = Path(__file__).with_name("results.json")
ORDER = (
    *("hit", "hit1", "body", "replay", "disk", "relay", "miss", "ttfb", "bulk", "paced", "open"),
    *("start", "mixed"),
)
HEAD = """\
# Benchmarks

This page is made from `tests/bench/results.json` (`make fix` writes it); `make bench
ARGS='--json tests/bench/results.json'` measures again. The floors and goals are the project's own:
the gateway is held against the least that can do the same job, not against other gateways.

## Reached

"Reached" is the median of the rounds, "spread" the lowest and the highest. A row that only tells
has no floor. `x` is "times as many a second" or, where the row names a time or CPU, "times as
much".

"""
METHOD = """\

## How it is measured

- **The same for both sides.** One process and one worker each, on a core of its own (`taskset`'s
  way), with the load and the upstreams on another core; in turn, A B A B and every other round
  backwards; the same requests, the same event loop (the gateway's default).
- **What a figure is.** Ratios of rates are ratios of *answers per second of a whole core*: a
  million microseconds divided by the CPU that an answer costs the server, all its threads, in
  nanoseconds as Linux's scheduler counts them. Where a server has its core to itself and the load
  is fast enough, that is its rate. Where neighbours take part of the core, or the load is the
  limit, the rate falls and this does not. The rates as they were seen, and how much of its core a
  server got, stand beside it below.
- **Everything on.** The gateway checks an issued key with `rpm`, tokens per day and a team's limit
  (so high that nothing is refused), writes its ledger (`usage.durability: process`), its access log
  to a file, keeps answers in memory and on disk, and is scraped each second. All else is the
  default, but for `server.drain_timeout`. The references do none of that.
- **The references** (`tests/bench/references.py`, `tests/bench/nginx/`): a bare handler on
  `aiohttp.web.Server` that parses the body, hashes it and looks up a dict; the same writing one
  finished byte string to the transport; a bare relay of that server and `aiohttp.ClientSession`;
  nginx with `proxy_cache` keyed by the body, and with `proxy_pass`. nginx and the references write
  no log.
- **The load.** wrk with one thread and 32 connections, 1,000 distinct bodies in turn, of 418 bytes;
  answers of 948 bytes or streams of 103 events. Streams that are timed, and streams at a pace, have
  a client of their own on httptools and uvloop. Fixed answers come from nginx, streams from
  `tests/bench/upstream.py`: neither is the limit.
- **Memory after mixed requests** (`ARGS=mixed`) compares growth by the request, not caches that
  fill: `cache.memory` is 16 MiB, and before the first look twice as many answers have gone through
  it as fit. From then on each miss has a body of its own and pushes out as much as it brings.
- **A case fails** where anything but a 2xx comes back, or where the gateway's own metrics do not
  say that its requests were what the case is about (hits, misses, relays).

## What it does not say

- The ratio of two programs on one machine carries over to another machine roughly, a rate does not.
- CPU is dearer while neighbours share the caches of a virtual machine: rounds in turn spread that
  over both sides, and the spread shows what is left of it. Latencies (p50, p99) suffer most.
- A row whose sides had much less than their core ("of its core" below) was measured beside other
  work: its ratio of CPU holds; its rates, times and start-up are the neighbours' as well.
- wrk waits for each answer before it asks again on a connection: its p99 is that of a closed loop.
- The gateway's threads (ledger, access log, disk) share its one core here. A second core for them
  would help it and none of the references.
- The store's pages are in the page cache; a cold disk is the disk's affair.
- LiteLLM and Portkey are measured where they are installed (`make bench ARGS=others`), without
  keys, limits or logs.

## Goals that are not reached, and what would reach them

Where the time of a hit from memory goes (perf, all threads, of some 40 us): the interpreter's own
loop 27 %, its objects and calls some 40 %, the kernel's send and receive a fifth, the ledger's and
the log's threads a fifth (their part of the first two included), nothing of ours above 5 %.

- **hit, 1.25 x**: between 0.98 and 1.14 x from run to run; the same program differs by 5 % from
  start to start. The protocol and the booking outside the interpreter (C or Rust), or one that
  compiles, would reach it; so would a second core, for the threads.
- **replay, 1 x**: 24 KB that stand in no cache of the processor cost 4 to 5 us to be copied into
  the socket, beside a hit of 40. Replays are as many a second as ever; hits became cheaper.
- **disk, 0.6 x**: a body that is new is parsed, hashed and planned (13 us), and a row is read,
  checked and decoded in a thread (20 us). Both are C's already; fewer objects would help.
- **miss, 0.75 x**: reading the new body, its key, a reservation, an entry to the disk, a row before
  the end: the bare relay does none of it.
- **start, 0.5 s; idle, 60 MB**: imports, a third of them aiohttp's for the admin plane.
"""


def page(said: dict[str, Any]) -> str:
    """The whole page."""
    cases: dict[str, Any] = said["cases"]
    names = [name for name in ORDER if name in cases]
    names += sorted(name for name in cases if name not in ORDER)
    lines = [
        HEAD,
        "| case | | floor | goal | reached | spread | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [row(name, figure) for name in names for figure in figures(cases[name])]
    lines += [f"\nNot measured yet: {', '.join(gone)}." for gone in [missing(cases)] if gone]
    lines += [METHOD, "## What each side did", ""]
    lines += ["Medians of the rounds; `a core` is what the ratios above are made of.", ""]
    for name in names:
        if cases[name]["sides"]:
            lines += sides(name, cases[name]["sides"])
    lines += ["## Machines and commands", ""]
    for machine, of in machines(cases, names):
        lines += [*machine_lines(machine), f"- `make bench ARGS='{' '.join(of)}'`", ""]
    return "\n".join(lines).rstrip() + "\n"


def figures(case: dict[str, Any]) -> list[Figure]:
    return [Figure(**figure) for figure in case["figures"]]


def missing(cases: dict[str, Any]) -> list[str]:
    return [f"`{name}`" for name in ORDER if name not in cases]


def row(case: str, figure: Figure) -> str:
    bounds = [
        "" if bound is None else f"{'at most ' if figure.most else ''}{number(bound)}"
        for bound in (figure.floor, figure.goal)
    ]
    low, high = number(min(figure.values)), number(max(figure.values))
    spread = f"{low} to {high}" if len(figure.values) > 1 else ""
    word = {"below the floor": "**below the floor**", "told": ""}.get(
        figure.verdict, figure.verdict
    )
    reached = f"{number(figure.median)} {figure.unit}"
    return f"| {case} | {figure.what} | {bounds[0]} | {bounds[1]} | {reached} | {spread} | {word} |"


def sides(name: str, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """The table of one case."""
    lines = [
        f"### {name}",
        "",
        "| side | /s | a core | CPU, us | p50, ms | p99, ms | of its core |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for side, samples in found.items():

        def median(what: str, samples: list[dict[str, float]] = samples) -> float:
            return statistics.median(sample[what] for sample in samples)

        lines.append(
            f"| {side} | {median('rate'):,.0f} | {1e6 / median('cpu'):,.0f} | "
            f"{median('cpu'):,.1f} | {median('p50') / 1000:.3f} | {median('p99') / 1000:.3f} | "
            f"{median('busy'):.0%} |"
        )
    return [*lines, ""]


def machines(cases: dict[str, Any], names: list[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """Each machine and state of the code, with the cases that were measured on it."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for name in names:
        machine = cases[name]["machine"]
        known = next((of for other, of in found if other == machine), None)
        if known is None:
            known = []
            found.append((machine, known))
        known.append(name.partition(":")[0])
    return [(machine, list(dict.fromkeys(of))) for machine, of in found]


def machine_lines(machine: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}; {machine['pinned']}",
        f"- Python {machine['python']}, event loop {machine['event_loop']}, {versions}",
        f"- the gateway at `{machine['commit']}`",
    ]


if __name__ == "__main__":
    sys.stdout.write(page(results.read(RESULTS)))
