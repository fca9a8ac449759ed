"""`python -m tests.bench [CASE ...]`: measure, say what was reached, write it down."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    gateways,
    hits,
    joins,
    ledger,
    logs,
    machine,
    mixed,
    quota,
    relays,
    results,
    scrape,
    start,
    stores,
)
from tests.bench.scene import Pace, Scene
from tests.bench.sides import LOOP

FULL, QUICK = Pace(4.0, 5, quick=False), Pace(1.0, 3, quick=True)

CASES: dict[str, Callable[[Scene], None]] = {
    "hit": hits.hit,
    "hit1": hits.hit1,
    "body": hits.body,
    "replay": hits.replay,
    "relay": relays.relay,
    "miss": relays.miss,
    "bulk": relays.bulk,
    "ttfb": relays.ttfb,
    "paced": relays.paced,
    "open": relays.opened,
    "disk": stores.disk,
    "start": start.start,
    "others": gateways.others,
    "mixed": mixed.mixed,
}
LONG = frozenset({"mixed", "logs"})  # only where it is named
# Files with floors of their own.
OTHERS: dict[str, Callable[[], bool]] = {
    "joins": joins.main,
    "ledger": ledger.main,
    "logs": logs.main,
    "scrape": scrape.main,
    "quota": quota.main,
}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all that is started inherits it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    names = options.cases or [name for name in (*CASES, *OTHERS) if name not in LONG]
    began = time.perf_counter()
    scene = measure([name for name in names if name in CASES], options)
    good = all(figure.reaches(figure.floor) for figure in scene.figures)
    for name in names:
        if name in OTHERS:
            good &= OTHERS[name]()
    if scene.figures:
        print("\n" + "\n".join(map(str, scene.figures)))
    print(
        f"{time.perf_counter() - began:.0f} s; "
        + ("every floor holds" if good else "BELOW a floor")
    )
    return 0 if good else 1


def measure(names: list[str], options: argparse.Namespace) -> Scene:
    """Run the cases that share sides."""
    with (
        tempfile.TemporaryDirectory(prefix="gateway-bench-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        pace = QUICK if options.quick else FULL
        if options.rounds:
            pace = Pace(pace.seconds, options.rounds, pace.quick)
        scene = Scene(Path(folder), pace, options.loop, stack)
        for name in names:
            CASES[name](scene)
            if options.json:  # after each case: a later one may fail
                results.write(Path(options.json), scene, machine.described(scene.loop))
    return scene


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    every = [*CASES, *OTHERS]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(every)}")
    parser.add_argument("--quick", action="store_true", help="a few seconds for each case")
    parser.add_argument("--rounds", type=int, help="goes of each side")
    parser.add_argument("--loop", default=LOOP, choices=("asyncio", "uvloop"),
                        help="event loop of product and references")  # fmt: skip
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(every):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
