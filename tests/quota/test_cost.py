"""Admission has nothing to wait for: no suspension, and nothing but memory (issue 5, proof 6)."""

from __future__ import annotations

import builtins
import io
import os
import sqlite3
from typing import Any

import pytest

from gateway.exchange import Bound
from gateway.ports import Permit
from tests.quota.rig import NOON, Clock, admit, alice, quotas, reserve

LIMITS: dict[str, Any] = {"rpm": 50, "requests_per_day": 50, "tokens_per_day": 90_000}


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a disk is touched")


def test_admission_touches_no_disk_and_never_suspends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of a request and of a call that fits, in one turn of no loop at all."""
    rig = quotas(Clock())
    for place, name in ((builtins, "open"), (io, "open"), (os, "open"), (sqlite3, "connect")):
        monkeypatch.setattr(place, name, refuse)
    for number in range(3):
        permit = admit(rig, alice({"tpm": 90_000}, **LIMITS), reads=True)
        if number:
            assert not reserve(permit, Bound(10, 20))  # fails if it would suspend
            permit.settle(20, 0, "up")
        else:
            permit.hit(30)
        assert dict(permit.headers())["x-ratelimit-limit-requests"] == "50"
        permit.close()
    assert rig.open == (0, 0)


def test_limits_are_not_looked_for_on_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known caller whose limits are the same costs no new look at them."""
    rig, caller = quotas(Clock()), alice({"tpm": 90_000}, **LIMITS)
    admit(rig, caller).close()
    monkeypatch.setattr("gateway.quota.account.limits_of", refuse)
    for _ in range(5):
        permit = admit(rig, caller)
        permit.headers()
        permit.close()
    assert admit(rig, caller).headers()[1] == ("x-ratelimit-remaining-requests", "43")


def test_a_request_is_counted_when_it_is_let_in() -> None:
    """Its body may take long to come: no minute holds more because of that."""
    clock = Clock()
    rig = quotas(clock)
    slow = rig.permit(alice(rpm=1), shared=False)
    clock.pass_(59)
    slow.admit(reads=False)
    slow.close()
    clock.pass_(5)  # more than a minute after it came, and 5 s after it was let in
    with pytest.raises(Exception, match="a minute"):
        admit(rig, alice(rpm=1))


def test_headers_are_of_now_however_long_the_call_takes() -> None:
    clock = Clock()
    rig = quotas(clock)
    permit = admit(rig, alice(rpm=5))
    clock.pass_(30)
    assert dict(permit.headers())["x-ratelimit-reset-requests"] == "31s"
    clock.pass_(40)
    assert dict(permit.headers())["x-ratelimit-remaining-requests"] == "5"


def test_the_words_that_are_kept_for_headers_are_said_no_longer_than_they_hold() -> None:
    """F8: at each second, and below one."""
    clock = Clock()
    permit = admit(quotas(clock), alice(rpm=5))
    said = []
    for seconds in (30, 0.5, 0.25, 28, 1.5, 0.5):
        clock.pass_(seconds)
        said.append(dict(permit.headers())["x-ratelimit-reset-requests"])
    assert said == ["31s", "31s", "31s", "3s", "750ms", "250ms"]


def test_what_is_taken_within_a_second_is_told_within_it() -> None:
    """F8: the end of a minute moves with what comes last; the last second of a day runs out."""
    clock = Clock(wall=NOON + 43_199.0 - 20)
    limits: dict[str, Any] = {"rpm": 9, "tpm": 9000}
    rig = quotas(clock)
    first, second = admit(rig, alice(**limits)), admit(rig, alice(**limits))
    reserve(first, Bound(10, 20))

    def resets(permit: Permit) -> list[str]:
        return [v for name, v in permit.headers() if name.startswith("x-ratelimit-reset")]

    assert resets(second) == ["1m1s", "1m1s"]
    clock.pass_(20)
    assert resets(second) == ["41s", "41s"]
    reserve(second, Bound(10, 20))
    assert resets(second) == ["41s", "1m1s"]
    third = admit(rig, alice(**limits))
    assert resets(second) == ["1m1s", "1m1s"]
    second.settle(0, 0, "up")
    assert resets(third) == ["1m1s", "41s"]
    daily = admit(rig, alice(requests_per_day=9, tokens_per_day=9))
    for passed, said in ((0.25, "750ms"), (0.5, "250ms")):
        clock.pass_(passed)
        assert resets(daily) == [said, said]


def test_a_request_that_is_refused_late_leaves_the_headers_true() -> None:
    """F4, F8: its minute is over by then, its day is not, and another limit is the tightest."""
    clock = Clock()
    rig, caller = quotas(clock), alice(rpm=3, requests_per_day=4)
    admit(rig, caller).close()
    late = admit(rig, caller)
    clock.pass_(62)
    admit(rig, caller).close()
    assert dict(late.headers())["x-ratelimit-limit-requests"] == "4"
    late.uncount()
    assert late.headers()[:2] == [
        ("x-ratelimit-limit-requests", "3"),
        ("x-ratelimit-remaining-requests", "2"),
    ]


def test_a_day_of_requests_is_warned_of_a_minute_is_not() -> None:
    """F9: a minute is over before a warning is read."""
    rig, caller = quotas(Clock()), alice(rpm=10, requests_per_day=10)
    for _ in range(9):
        admit(rig, caller).close()
    assert rig.figures.warnings == {("alice", "requests_per_day"): 1}


def test_callers_without_a_key_are_bounded_also_when_all_are_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gateway.config import DefaultLimits, Limit
    from gateway.exchange import Caller, CallerKind

    monkeypatch.setattr("gateway.quota.store.ACCOUNTS", 3)
    rig = quotas(Clock(), default=DefaultLimits(rpm=Limit(1)))
    strangers = [Caller(CallerKind.PASSTHROUGH, str(n), f"pass-{n}", "t") for n in range(9)]
    for permit in [admit(rig, one) for one in strangers]:
        permit.close()
    for one in (Caller(CallerKind.PASSTHROUGH, "x", "pass-x", "t"), *strangers[:8]):
        rig.permit(one, shared=False)
    assert rig.open == (0, 0)
