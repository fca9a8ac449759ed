"""What limits cost a request: permit, admission, headers, end; and a call that reserves and
settles. In this process, by CPU time; the best of several rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from zoneinfo import ZoneInfo

from gateway.clock import SystemClock
from gateway.config import Quota
from gateway.exchange import Bound, Caller, CallerKind, Grant
from gateway.quota.store import Quotas
from gateway.usage.calendar import window_bounds

ROUNDS, TIMES = 7, 20_000
MOST_HIT, MOST_CALL = 15.0, 60.0  # microseconds
ENDLESS = 10**15
LIMITS: dict[str, int | str] = dict.fromkeys(("rpm", "requests_per_day", "tokens_per_day"), ENDLESS)


def microseconds(work: Callable[[], None]) -> float:
    """Of one `work`."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            work()
        best = min(best, time.process_time() - began)
    return best / TIMES * 1e6


def main() -> bool:
    """Print the figures; True where the floors hold."""
    zone = ZoneInfo("UTC")
    quotas = Quotas(Quota(), SystemClock(), partial(window_bounds, zone=zone))
    grant = Grant(limits=LIMITS, team_limits={"tpm": ENDLESS})
    caller = Caller(CallerKind.ISSUED, "id", "alice", None, "red", "id-red", grant)
    bound = Bound(100, 400, input_pico=10, output_pico=10)

    def admitted() -> None:
        permit = quotas.permit(caller, shared=False)
        permit.admit(reads=True)
        permit.close()

    def hit() -> None:
        permit = quotas.permit(caller, shared=False)
        permit.admit(reads=True)
        permit.hit(100)
        permit.lines()
        permit.close()

    def call() -> None:
        permit = quotas.permit(caller, shared=False)
        permit.admit(reads=True)
        with suppress(StopIteration):
            permit.reserve(bound).send(None)
        permit.lines()
        permit.settle(200, 20, "up")
        permit.close()

    figures = {name: microseconds(work) for name, work in
               (("admit and close", admitted), ("hit", hit), ("call", call))}  # fmt: skip
    print("\nquota: a key with three limits in a team with one, us of CPU for each request")
    for name, figure in figures.items():
        print(f"  {name:16} {figure:6.2f}")
    return figures["hit"] <= MOST_HIT and figures["call"] <= MOST_CALL
