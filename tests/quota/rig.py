"""Quotas under a clock that the test moves."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from gateway.config import Duration, Quota
from gateway.exchange import Bound, Caller, CallerKind, Grant
from gateway.ports import Permit
from gateway.quota.store import Quotas
from gateway.usage.calendar import window_bounds

NOON = 1_767_182_400.0  # 2025-12-31T12:00:00Z, a Wednesday


class Clock:
    """A wall clock that may jump, and a monotonic one that only runs on."""

    def __init__(self, wall: float = NOON, steady: float = 5000.0) -> None:
        self.wall, self.steady = wall, steady

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def section(**settings: Any) -> Quota:
    """Settings with nobody waiting, unless said."""
    settings.setdefault("wait", Duration(0))
    return Quota(**settings)


def quotas(clock: Clock, zone: str = "UTC", **settings: Any) -> Quotas:
    return Quotas(section(**settings), clock, partial(window_bounds, zone=ZoneInfo(zone)))


def alice(team: dict[str, Any] | None = None, **limits: Any) -> Caller:
    """An issued key, perhaps in the team `red`."""
    grant = Grant(limits=limits, team_limits=team or {})
    if team is None:
        return Caller(CallerKind.ISSUED, "id-alice", "alice", grant=grant)
    return Caller(CallerKind.ISSUED, "id-alice", "alice", None, "red", "id-red", grant)


def bob(team: dict[str, Any], **limits: Any) -> Caller:
    """Another key of that team."""
    grant = Grant(limits=limits, team_limits=team)
    return Caller(CallerKind.ISSUED, "id-bob", "bob", None, "red", "id-red", grant)


def admit(rig: Quotas, caller: Caller, *, reads: bool = False, shared: bool = False) -> Permit:
    """One request, let in."""
    permit = rig.permit(caller, shared=shared)
    permit.admit(reads=reads)
    return permit


def reserve(permit: Permit, bound: Bound) -> bool:
    """What does not wait needs no loop."""
    steps = permit.reserve(bound)
    assert inspect.iscoroutine(steps)
    try:
        steps.send(None)
    except StopIteration as end:
        return bool(end.value)
    steps.close()
    raise AssertionError("it waits")
