"""Limits met by requests and calls, from outside: who gets in, who waits, who is told what."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gateway.config import AtLimit, CountHits, DefaultLimits, Duration, Limit
from gateway.errors import InsufficientQuota, RateLimited
from gateway.exchange import Bound, Caller, CallerKind, Grant
from gateway.quota.permit import FREE
from gateway.quota.store import Spent
from tests.quota.rig import Clock, admit, alice, bob, quotas, reserve

CALL = Bound(prompt=100, output=400)
UNITS = ("requests", "tokens")
STRANGER = Caller(CallerKind.PASSTHROUGH, "f" * 64, "pass-ffffffff", "token")


def told(permit):
    return dict(permit.headers())


# Requests -----------------------------------------------------------------------------------------


def test_requests_a_minute_are_an_exact_sliding_window():
    """Design, "Traps": no 60 seconds hold more than the limit, whatever their offset."""
    clock = Clock()
    rig = quotas(clock)
    for _ in range(3):
        admit(rig, alice(rpm=3)).close()
        clock.pass_(10)
    with pytest.raises(RateLimited) as refused:
        admit(rig, alice(rpm=3))
    assert refused.value.retry_after == pytest.approx(31)  # the first leaves after 61 s
    assert "'alice'" in refused.value.message and "rpm" in refused.value.message
    clock.pass_(31)
    admit(rig, alice(rpm=3)).close()
    with pytest.raises(RateLimited):
        admit(rig, alice(rpm=3))


def test_a_day_of_requests_ends_with_the_day_and_never_before():
    clock = Clock()
    rig = quotas(clock)
    admit(rig, alice(requests_per_day=1)).close()
    with pytest.raises(InsufficientQuota) as refused:
        admit(rig, alice(requests_per_day=1))
    assert refused.value.retry_after == pytest.approx(12 * 3600)
    assert dict(refused.value.headers())["x-should-retry"] == "false"
    clock.pass_(12 * 3600)
    admit(rig, alice(requests_per_day=1)).close()


@pytest.mark.parametrize(
    ("zone", "noon", "seconds"),
    [
        ("Europe/Berlin", 1774738800.0, 11 * 3600),  # 2026-03-29, the clock goes forward
        ("Europe/Berlin", 1792926000.0, 13 * 3600),  # 2026-10-25, it goes back: 11:00 UTC is noon
        ("America/New_York", 1767200400.0, 12 * 3600),
    ],
)
def test_days_are_days_of_the_zone_over_daylight_saving(zone, noon, seconds):
    """F6: a day of 23 or 25 hours ends at midnight there."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    local = datetime.fromtimestamp(noon, ZoneInfo(zone))
    midnight = local.replace(hour=0, minute=0).timestamp()
    clock = Clock(midnight)
    rig = quotas(clock, zone)
    admit(rig, alice(requests_per_day=1)).close()
    following = datetime.fromtimestamp(midnight + 36 * 3600, ZoneInfo(zone))
    end = following.replace(hour=0, minute=0, second=0).timestamp()
    clock.pass_(end - midnight - 1)
    with pytest.raises(InsufficientQuota) as refused:
        admit(rig, alice(requests_per_day=1))
    assert refused.value.retry_after == pytest.approx(1)
    clock.pass_(1)
    admit(rig, alice(requests_per_day=1)).close()


def test_weeks_begin_on_monday():
    clock = Clock()  # a Wednesday at noon
    rig = quotas(clock)
    permit = admit(rig, alice(budget=10, per="week"))
    reserve(permit, Bound(10, 0, input_pico=1000))
    permit.settle(10, 10, "up")
    permit.close()
    late = admit(rig, alice(budget=10, per="week"))
    with pytest.raises(InsufficientQuota) as refused:
        reserve(late, Bound(10, 0, input_pico=1000))
    assert refused.value.retry_after == pytest.approx(4.5 * 86400)


def test_a_clock_that_jumps_ahead_and_back_forgets_nothing():
    """The window that was left is found again."""
    clock = Clock()
    rig = quotas(clock)
    admit(rig, alice(requests_per_day=1)).close()
    clock.wall += 10 * 86400
    admit(rig, alice(requests_per_day=1)).close()
    with pytest.raises(InsufficientQuota):
        admit(rig, alice(requests_per_day=1))
    clock.wall -= 10 * 86400
    with pytest.raises(InsufficientQuota):
        admit(rig, alice(requests_per_day=1))


def test_a_minute_does_not_care_what_the_wall_clock_does():
    clock = Clock()
    rig = quotas(clock)
    admit(rig, alice(rpm=1)).close()
    clock.wall += 3600
    with pytest.raises(RateLimited):
        admit(rig, alice(rpm=1))


def test_requests_at_a_time():
    rig = quotas(Clock())
    first = admit(rig, alice(max_parallel=1))
    with pytest.raises(RateLimited) as refused:
        admit(rig, alice(max_parallel=1))
    assert refused.value.retry_after == 1
    first.close()
    first.close()  # in every ending once
    admit(rig, alice(max_parallel=1)).close()
    assert rig.open == (0, 0)


def test_requests_at_a_time_count_those_that_came_before_the_limit():
    """And a team's, those of all of its keys."""
    rig, team = quotas(Clock()), {"max_parallel": 3}
    before = [admit(rig, alice({})), admit(rig, bob({}))]
    third = admit(rig, alice(team))
    with pytest.raises(RateLimited, match="has 3 requests at a time"):
        admit(rig, bob(team))
    for permit in (*before, third):
        permit.close()
    last = [admit(rig, alice(team)) for _ in range(3)]
    admit(rig, bob({})).close()  # the limit is gone
    with pytest.raises(RateLimited):
        admit(rig, bob(team))
    for permit in last:
        permit.close()
    assert rig.open == (0, 0)


def test_who_has_left_no_longer_counts_as_under_way():
    rig = quotas(Clock())
    admit(rig, alice(max_parallel=1)).depart()
    admit(rig, alice(max_parallel=1)).close()


def test_a_refused_request_takes_nothing_from_any_limit():
    """F4: the team refuses; the key's own minute and day stay as they were."""
    rig = quotas(Clock())
    team = {"requests_per_day": 1}
    admit(rig, alice(team, rpm=5, requests_per_day=5)).close()
    with pytest.raises(InsufficientQuota, match="Team 'red'"):
        admit(rig, alice(team, rpm=5, requests_per_day=5))
    limits = {"rpm": 5, "requests_per_day": 5}
    standing = rig.standing("key", "id-alice", "alice", limits)
    used = {one["kind"]: one["used"] for one in standing}
    assert used == {"rpm": 1, "requests_per_day": 1}
    caller = alice(rpm=5, tokens_per_day=50)
    refused = admit(rig, caller)
    with pytest.raises(InsufficientQuota):
        reserve(refused, CALL)
    refused.close()
    assert (
        rig.standing("key", "id-alice", "alice", {"rpm": 5, "tokens_per_day": 50})[0]["used"] == 1
    )
    assert not refused.counted
    assert rig.open == (0, 0)


def test_a_team_s_limit_is_shared_and_named():
    rig = quotas(Clock())
    team = {"rpm": 2}
    admit(rig, alice(team)).close()
    admit(rig, bob(team)).close()
    with pytest.raises(RateLimited, match="Team 'red'"):
        admit(rig, bob(team))
    assert rig.figures.rejections == {("team:red", "rpm"): 1}


# Tokens and money ---------------------------------------------------------------------------------


def test_a_reservation_is_held_and_then_settled_to_the_truth():
    rig = quotas(Clock())
    permit = admit(rig, alice(tokens_per_day=1000))
    reserve(permit, CALL)
    [day] = rig.standing("key", "id-alice", "alice", {"tokens_per_day": 1000})
    assert (day["used"], day["reserved"], day["left"]) == (0, 500, 500)
    permit.settle(120, 0, "up")
    permit.settle(999, 0, "up")  # only the first time counts
    permit.close()
    [day] = rig.standing("key", "id-alice", "alice", {"tokens_per_day": 1000})
    assert (day["used"], day["reserved"], day["left"]) == (120, 0, 880)
    assert not permit.bound_exceeded


def test_what_no_call_took_is_given_back():
    rig = quotas(Clock())
    permit = admit(rig, alice(tokens_per_day=500))
    reserve(permit, CALL)
    permit.close()
    again = admit(rig, alice(tokens_per_day=500))
    reserve(again, CALL)
    again.close()
    assert rig.open == (0, 0)


def test_a_cap_is_lowered_to_what_is_left():
    rig = quotas(Clock())
    permit = admit(rig, alice(tokens_per_day=1000))
    reserve(permit, Bound(prompt=100, output=4096))
    assert permit.clamped == 900
    assert told(permit)["x-gateway-clamped"] == "900"
    assert told(permit)["x-ratelimit-remaining-tokens"] == "0"
    assert rig.figures.clamped == {"alice": 1}


def test_a_cap_counts_for_each_answer():
    rig = quotas(Clock(), clamp_min=10)
    permit = admit(rig, alice(tokens_per_day=1000))
    reserve(permit, Bound(prompt=100, output=4096, n=3, extra=30))
    assert permit.clamped == 290  # 100 + 3 * 290 + 30


def test_the_tightest_of_tokens_and_money_lowers_it():
    """Output at 2 nano-dollars, prompt at 1: of 1,000 the prompt takes 100."""
    rig = quotas(Clock())
    permit = admit(rig, alice(tokens_per_day=100_000, budget=1000, per="day"))
    reserve(permit, Bound(prompt=100, output=4096, input_pico=1000, output_pico=2000))
    assert permit.clamped == 450


@pytest.mark.parametrize("at_limit", [AtLimit.CLAMP, AtLimit.REJECT])
def test_with_too_little_left_it_is_refused_and_told_until_when(at_limit):
    rig = quotas(Clock(), at_limit=at_limit)
    first = admit(rig, alice(tokens_per_day=1000))
    reserve(first, Bound(prompt=100, output=800))
    first.settle(900, 0, "up")
    with pytest.raises(InsufficientQuota) as refused:
        reserve(admit(rig, alice(tokens_per_day=1000)), Bound(prompt=10, output=300))
    assert refused.value.retry_after == pytest.approx(12 * 3600)
    for word in ("'alice'", "900", "1,000", "tokens_per_day", "2026-01-01T00:00:00Z", "90"):
        assert word in refused.value.message


def test_reject_never_lowers_a_cap():
    rig = quotas(Clock(), at_limit=AtLimit.REJECT)
    with pytest.raises(InsufficientQuota) as refused:
        reserve(admit(rig, alice(tokens_per_day=1000)), Bound(prompt=100, output=4096))
    assert refused.value.retry_after is None  # no window is large enough
    assert "Retry-After" not in dict(refused.value.headers())
    assert "900" in refused.value.message  # the largest cap that fits


def test_a_minute_that_is_too_small_for_the_request_is_no_matter_of_waiting():
    rig = quotas(Clock())
    with pytest.raises(InsufficientQuota) as refused:
        reserve(admit(rig, alice(tpm=200)), Bound(prompt=100, output=4096))
    assert refused.value.retry_after is None


def test_tokens_a_minute_say_when_there_is_room_again():
    clock = Clock()
    rig = quotas(clock)
    first = admit(rig, alice(tpm=1000))
    reserve(first, Bound(prompt=100, output=900))
    first.settle(1000, 0, "up")
    first.close()
    clock.pass_(20)
    with pytest.raises(RateLimited) as refused:
        reserve(admit(rig, alice(tpm=1000)), CALL)
    assert refused.value.retry_after == pytest.approx(41)
    clock.pass_(41)
    reserve(admit(rig, alice(tpm=1000)), CALL)


def test_last_request_may_cross_and_those_behind_it_may_not():
    rig = quotas(Clock(), at_limit=AtLimit.LAST_REQUEST)
    first = admit(rig, alice(tokens_per_day=100))
    reserve(first, CALL)
    assert first.clamped is None
    with pytest.raises(RateLimited):  # it may turn out to have taken little
        reserve(admit(rig, alice(tokens_per_day=100)), CALL)
    first.settle(450, 0, "up")
    with pytest.raises(InsufficientQuota):
        reserve(admit(rig, alice(tokens_per_day=100)), CALL)


def test_last_request_is_refused_when_nothing_is_left_also_if_it_takes_nothing():
    rig = quotas(Clock(), at_limit=AtLimit.LAST_REQUEST)
    first = admit(rig, alice(tokens_per_day=100))
    reserve(first, CALL)
    first.settle(100, 0, "up")
    with pytest.raises(InsufficientQuota):
        reserve(admit(rig, alice(tokens_per_day=100)), Bound(0, 0))


def test_what_settles_after_its_minute_is_none_of_the_minute_s():
    clock = Clock()
    limits: dict[str, Any] = {"tpm": 1000, "tokens_per_day": 1000}
    rig = quotas(clock)
    permit = admit(rig, alice(**limits))
    reserve(permit, CALL)
    for seconds, held in ((30, [500, 500]), (31, [0, 500])):
        clock.pass_(seconds)
        standing = rig.standing("key", "id-alice", "alice", limits)
        assert [one["reserved"] for one in standing] == held
    permit.settle(450, 0, "up")
    minute, day = rig.standing("key", "id-alice", "alice", limits)
    assert (minute["used"], minute["reserved"]) == (0, 0)
    assert (day["used"], day["reserved"]) == (450, 0)


def test_a_truth_above_its_bound_is_booked_in_full():
    rig = quotas(Clock())
    permit = admit(rig, alice(tokens_per_day=1000))
    reserve(permit, CALL)
    permit.settle(700, 0, "up")
    assert permit.bound_exceeded
    assert (rig.figures.exceeded, rig.figures.overrun) == ({"up": 1}, {"up": 200})
    assert rig.standing("key", "id-alice", "alice", {"tokens_per_day": 1000})[0]["used"] == 700


def test_a_call_belongs_to_the_windows_of_its_admission():
    clock = Clock()
    rig = quotas(clock)
    permit = admit(rig, alice(tokens_per_day=1000))
    reserve(permit, CALL)
    clock.pass_(13 * 3600)
    admit(rig, alice(tokens_per_day=1000)).close()
    permit.settle(500, 0, "up")
    permit.close()
    [day] = rig.standing("key", "id-alice", "alice", {"tokens_per_day": 1000})
    assert (day["used"], day["reserved"]) == (0, 0)


def test_what_a_call_takes_over_midnight_is_yesterday_s_and_the_month_s():
    """F6: its day is over, its month is not; and a clock that is set back finds both."""
    clock = Clock(1_768_046_400.0)  # 2026-01-10T12:00:00Z
    limits: dict[str, Any] = {"tokens_per_day": 9000, "tokens_per_month": 9000}
    limits |= {"budget": 9000, "per": "week"}
    rig, priced = quotas(clock), Bound(100, 400, input_pico=1000, output_pico=1000)
    permit = admit(rig, alice(**limits))
    reserve(permit, priced)

    def figures():
        standing = rig.standing("key", "id-alice", "alice", limits)
        day, month, week = ((one["used"], one["reserved"]) for one in standing)
        assert tuple(round(figure * 1e9) for figure in week) == month
        return day, month

    assert figures() == ((0, 500), (0, 500))
    clock.pass_(13 * 3600)
    assert figures() == ((0, 0), (0, 500))
    today = admit(rig, alice(**limits))
    reserve(today, priced)
    permit.settle(300, 300, "up")
    assert figures() == ((0, 500), (300, 500))
    today.settle(20, 20, "up")
    assert figures() == ((20, 0), (320, 0))
    clock.wall -= 86400
    assert figures() == ((300, 0), (320, 0))
    clock.wall += 86400
    assert figures() == ((20, 0), (320, 0))


def test_a_limit_that_is_set_later_counts_what_was_used_before():
    rig = quotas(Clock())
    permit = admit(rig, alice())
    reserve(permit, CALL)
    permit.settle(450, 0, "up")
    permit.close()
    with pytest.raises(InsufficientQuota):
        reserve(admit(rig, alice(tokens_per_day=460)), CALL)


# Waiting ------------------------------------------------------------------------------------------


async def waiting(rig, caller, bound):
    """A call that waits; its task, and its permit."""
    permit = admit(rig, caller)
    task = asyncio.get_running_loop().create_task(permit.reserve(bound))
    await asyncio.sleep(0)
    assert not task.done()
    return task, permit


async def test_a_call_waits_for_reservations_to_settle():
    rig = quotas(Clock(), wait=Duration(60))
    caller = alice(tokens_per_day=1000)
    first = admit(rig, caller)
    await first.reserve(Bound(100, 700))
    task, second = await waiting(rig, caller, CALL)
    first.settle(200, 0, "up")
    assert await task is True
    assert second.clamped is None
    second.close()
    first.close()
    assert rig.open == (0, 0)


async def test_first_come_first_served_also_across_a_team():
    rig = quotas(Clock(), wait=Duration(60))
    team = {"tokens_per_day": 1000}
    first = admit(rig, alice(team))
    await first.reserve(Bound(100, 800))
    large, one = await waiting(rig, bob(team), Bound(100, 700))
    small, two = await waiting(rig, alice(team), Bound(10, 50))  # would fit, but came later
    first.settle(300, 0, "up")
    assert await large
    assert not small.done()  # 300 + 800 are taken
    one.settle(10, 0, "up")
    assert await small
    two.close()
    assert rig.open[1] == 0


async def test_who_waits_behind_a_key_that_changed_its_team_goes_on_with_it():
    """Red's call ends: alice's next one goes, which is blue's by now, and so may blue's next."""
    rig, limits = quotas(Clock(), wait=Duration(60)), {"tokens_per_day": 1000}
    blue = Grant(limits=limits, team_limits=limits)
    first = admit(rig, alice(limits, **limits))
    await first.reserve(Bound(100, 800))
    moved = Caller(CallerKind.ISSUED, "id-alice", "alice", None, "blue", "id-blue", blue)
    other = Caller(CallerKind.ISSUED, "id-carl", "carl", None, "blue", "id-blue", blue)
    mine, one = await waiting(rig, moved, Bound(100, 300))
    behind, two = await waiting(rig, other, Bound(100, 300))
    first.settle(10, 0, "up")
    assert await mine and await behind
    for permit in (first, one, two):
        permit.close()
    assert rig.open == (0, 0)


async def test_who_waits_in_vain_is_lowered_and_else_told_to_come_back():
    rig = quotas(Clock(), wait=Duration(0.01))
    caller = alice(tokens_per_day=1000)
    first = admit(rig, caller)
    await first.reserve(Bound(100, 300))
    second = admit(rig, caller)
    assert await second.reserve(Bound(100, 700))
    assert second.clamped == 500
    third = admit(rig, caller)
    with pytest.raises(RateLimited) as refused:  # never insufficient_quota: others hold it
        await third.reserve(CALL)
    assert refused.value.retry_after == 1
    third.close()


async def test_who_leaves_while_it_waits_gives_up_its_place():
    rig = quotas(Clock(), wait=Duration(60))
    caller = alice(tokens_per_day=1000)
    first = admit(rig, caller)
    await first.reserve(Bound(100, 700))
    large, one = await waiting(rig, caller, Bound(100, 850))
    small, two = await waiting(rig, caller, Bound(100, 50))
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    one.close()
    assert await small  # it was only behind the one that left
    two.close()
    first.close()
    assert rig.open == (0, 0)


async def test_who_is_cancelled_with_its_reservation_in_hand_gives_it_back():
    rig = quotas(Clock(), wait=Duration(60))
    caller = alice(tokens_per_day=1000)
    first = admit(rig, caller)
    await first.reserve(Bound(100, 700))
    task, second = await waiting(rig, caller, CALL)
    first.close()  # grants it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    second.close()
    assert rig.open == (0, 0)


async def test_who_can_never_fit_does_not_wait():
    rig = quotas(Clock(), wait=Duration(60))
    caller = alice(tokens_per_day=1000)
    first = admit(rig, caller)
    await first.reserve(Bound(100, 700))
    with pytest.raises(InsufficientQuota):
        await admit(rig, caller).reserve(Bound(2000, 10))


# Hits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "requests", "tokens"),
    [(CountHits.REQUESTS, 1, 0), (CountHits.ALL, 1, 70), (CountHits.NONE, 0, 0)],
)
def test_what_a_hit_counts(counts, requests, tokens):
    rig = quotas(Clock(), count_hits=counts)
    limits: dict[str, Any] = {"rpm": 5, "tokens_per_day": 1000}
    permit = admit(rig, alice(**limits), reads=True)
    permit.hit(70)
    permit.close()
    used = [one["used"] for one in rig.standing("key", "id-alice", "alice", limits)]
    assert used == [requests, tokens]
    assert (permit.counted, permit.hit_tokens) == (bool(requests), tokens)


def test_hits_that_do_not_count_are_served_also_when_requests_are_used_up():
    rig = quotas(Clock(), count_hits=CountHits.NONE)
    admit(rig, alice(rpm=1)).close()
    permit = admit(rig, alice(rpm=1), reads=True)
    permit.hit(10)
    permit.close()
    missed = admit(rig, alice(rpm=1), reads=True)
    with pytest.raises(RateLimited):
        missed.count()


@pytest.mark.parametrize("served", [True, False])
def test_hits_when_tokens_are_spent(served):
    rig = quotas(Clock(), hits_when_spent=served)
    caller = alice(tokens_per_day=400)
    first = admit(rig, caller)
    reserve(first, Bound(100, 300))
    first.settle(400, 0, "up")
    if served:
        admit(rig, caller, reads=True).hit(10)
    else:
        with pytest.raises(InsufficientQuota):
            admit(rig, caller, reads=True)


# Whose limits -------------------------------------------------------------------------------------


def test_without_limits_a_stranger_is_not_even_remembered():
    assert quotas(Clock()).permit(STRANGER, shared=False) is FREE


def test_the_default_holds_for_who_has_none_of_that_kind():
    rig = quotas(Clock(), default=DefaultLimits(rpm=Limit(1), max_parallel=Limit(9)))
    admit(rig, alice(rpm=2)).close()
    admit(rig, alice(rpm=2)).close()  # its own is wider
    admit(rig, bob({})).close()
    with pytest.raises(RateLimited, match="'bob'"):
        admit(rig, bob({}))
    admit(rig, STRANGER).close()
    with pytest.raises(RateLimited, match="pass-ffffffff"):
        admit(rig, STRANGER)
    assert rig.figures.rejections[("other", "rpm")] == 1  # no label that anybody can invent (M1)


def test_strangers_share_one_quota_where_they_bring_no_credential():
    rig = quotas(Clock(), default=DefaultLimits(rpm=Limit(1)))
    admit(rig, STRANGER, shared=True).close()
    other = Caller(CallerKind.ANONYMOUS, "anonymous", "anonymous")
    with pytest.raises(RateLimited, match="share"):
        admit(rig, other, shared=True)


# Telling ------------------------------------------------------------------------------------------


def test_headers_tell_of_the_tightest_limit():
    """F8, in OpenAI's form."""
    rig = quotas(Clock())
    permit = admit(rig, alice({"rpm": 2}, rpm=60, requests_per_day=100, tokens_per_day=20_000))
    reserve(permit, CALL)
    assert told(permit) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "20000",
        "x-ratelimit-remaining-tokens": "19500",
        "x-ratelimit-reset-tokens": "12h0m0s",
    }
    assert told(admit(rig, alice())) == {}


def test_headers_count_down_within_a_second_and_know_what_others_took():
    """F8: also where the tightest limit is another one from some request on, or is lowered."""
    clock = Clock()
    rig, team = quotas(clock), {"rpm": 6, "tpm": 2000}
    limits: dict[str, Any] = {"requests_per_day": 8, "tokens_per_day": 1900}
    before, left = admit(rig, alice(team, **limits)), []
    for caller in (bob(team), alice(team, **limits), bob(team)):
        permit = admit(rig, caller)
        reserve(permit, Bound(100, 200))
        left.append([told(before)[f"x-ratelimit-remaining-{unit}"] for unit in UNITS])
    assert left == [["4", "1700"], ["3", "1400"], ["2", "1100"]]
    permit.settle(10, 0, "up")
    assert told(before)["x-ratelimit-remaining-tokens"] == "1390"
    with pytest.raises(InsufficientQuota):
        reserve(admit(rig, bob(team)), Bound(5000, 1))
    assert told(before)["x-ratelimit-remaining-requests"] == "2"
    with pytest.raises(RateLimited):
        admit(rig, alice(team | {"rpm": 3}, **limits | {"requests_per_day": 5}))
    assert told(before)["x-ratelimit-limit-requests"] == "3"
    assert told(before)["x-ratelimit-remaining-requests"] == "0"
    clock.pass_(61)
    assert told(before)["x-ratelimit-limit-requests"] == "5"
    assert told(before)["x-ratelimit-remaining-requests"] == "3"


def test_one_warning_in_each_window(caplog):
    """F9: at 80 %, before the stop."""
    clock = Clock()
    rig = quotas(clock)
    caller = alice(tokens_per_day=1000)
    for taken in (700, 100, 100):
        permit = admit(rig, caller)
        reserve(permit, Bound(10, 90))
        permit.settle(taken, 0, "up")
        permit.close()
    assert rig.figures.warnings == {("alice", "tokens_per_day"): 1}
    [line] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "Key 'alice' has used 800 of its 1,000 tokens a day" in line.getMessage()
    clock.pass_(86_400)
    permit = admit(rig, caller)
    reserve(permit, Bound(10, 90))
    permit.settle(900, 0, "up")
    assert rig.figures.warnings == {("alice", "tokens_per_day"): 2}


def test_no_warning_is_given_again_after_a_start():
    rig = quotas(Clock())
    caller = alice(tokens_per_day=1000)
    rig.restore({("key", "id-alice"): Spent({("day", "tokens"): 850}, [(10.0, 1, 850)])})
    permit = admit(rig, caller)
    reserve(permit, Bound(10, 90))
    permit.settle(50, 0, "up")
    assert not rig.figures.warnings
    [day, minute] = rig.standing("key", "id-alice", "alice", {"tokens_per_day": 1000, "tpm": 5000})
    assert {day["used"], minute["used"]} == {900}


def test_money_is_shown_in_dollars():
    rig = quotas(Clock())
    permit = admit(rig, alice(budget=5 * 10**9, per="month"))
    reserve(permit, Bound(1000, 1000, input_pico=2_500_000, output_pico=10_000_000))
    [month] = rig.standing("key", "id-alice", "alice", {"budget": 5 * 10**9, "per": "month"})
    assert (month["limit"], month["reserved"]) == (5.0, 0.0125)
    assert month["reset"] == "2026-01-01T00:00:00Z"
