"""Any order of what may happen to two keys and their team: never above a limit, never below zero,
nothing leaked, and balances that equal the books (F1, F3, F4, F5)."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.balances import pasts
from gateway.errors import InsufficientQuota, RateLimited
from gateway.exchange import Bound
from gateway.quota.windows import LOOK_BACK, MONEY, REQUESTS, TOKENS
from gateway.usage.calendar import window_bounds
from gateway.usage.reader import OpenWindows, Spent
from tests.quota.rig import NOON, Clock, admit, alice, bob, quotas, reserve

ZONE = ZoneInfo("Europe/Berlin")
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "rpm": st.integers(1, 5),
        "requests_per_day": st.integers(1, 12),
        "max_parallel": st.integers(1, 4),
        "tpm": st.integers(300, 2000),
        "tokens_per_day": st.integers(300, 4000),
        "tokens_per_month": st.integers(300, 6000),
        "budget": st.integers(300, 5000),
    },
).map(lambda found: found | ({"per": "week"} if "budget" in found else {}))
PRICED = {"input_pico": 1000, "output_pico": 1000}  # a nano-dollar for each token


ACCOUNTS = {("key", "id-alice"): "alice", ("key", "id-bob"): "bob", ("team", "id-red"): "red"}


class Row:
    """One request in the books."""

    def __init__(self, key, wall, steady):
        self.key, self.wall, self.steady = key, wall, steady
        self.spent_at = steady  # when its call was made; a ledger only knows when it came
        self.counted, self.tokens = False, 0


class Books(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = Clock(NOON, 5000.55)  # no step ends where a second does
        self.limits: dict[str, Any] = {"alice": {}, "bob": {}, "red": {}}
        self.rows: list[Row] = []
        self.open: list[tuple[Row, Any, Any]] = []
        self.rig = quotas(self.clock, "Europe/Berlin", clamp_min=50)

    def caller(self, key):
        team = self.limits["red"]
        make = alice if key == "alice" else bob
        return make(team, **self.limits[key])

    # -- what happens ------------------------------------------------------------------------------

    @rule(name=st.sampled_from(["alice", "bob", "red"]), limits=LIMITS)
    def set_limits(self, name, limits):
        self.limits[name] = limits

    @rule(key=st.sampled_from(["alice", "bob"]))
    def request(self, key):
        before = self.rig.open
        row = Row(key, self.clock.wall, self.clock.steady)
        try:
            permit = admit(self.rig, self.caller(key))
        except (RateLimited, InsufficientQuota):
            assert self.rig.open == before
            return
        row.counted = True
        self.rows.append(row)
        self.open.append((row, permit, None))
        self.check_requests(key)

    def pick(self, index, *, called):
        found = [one for one in self.open if (one[2] is not None) is called]
        return found[index % len(found)] if found else None

    @rule(index=st.integers(0, 9), prompt=st.integers(0, 400), output=st.integers(0, 900))
    def call(self, index, prompt, output):
        one = self.pick(index, called=False)
        if one is None:
            return
        row, permit, _ = one
        self.open.remove(one)
        bound = Bound(prompt, output, **PRICED)
        try:
            reserve(permit, bound)
        except (RateLimited, InsufficientQuota):
            row.counted = False
            permit.close()
            return
        row.spent_at = self.clock.steady
        most = prompt + (output if permit.clamped is None else permit.clamped)
        self.open.append((row, permit, Bound(most)))
        self.check_spending(row.key)

    @rule(index=st.integers(0, 9), share=st.floats(0, 1))
    def settle(self, index, share):
        one = self.pick(index, called=True)
        if one is None:
            return
        row, permit, bound = one
        self.open.remove(one)
        row.tokens = int(bound.prompt * share)
        permit.settle(row.tokens, row.tokens, "up")
        permit.close()

    @rule(index=st.integers(0, 9), called=st.booleans())
    def cancel(self, index, called):
        one = self.pick(index, called=called)
        if one is not None:
            self.open.remove(one)
            one[1].close()

    @rule(seconds=st.sampled_from([0.4, 1, 7, 30, 59, 61, 600]))
    def time_passes(self, seconds):
        self.clock.pass_(seconds)

    @rule(hours=st.sampled_from([13, 30]))
    def a_day_passes(self, hours):
        if not self.open:  # rows of calls that cross midnight: see the test of windows
            self.clock.pass_(hours * 3600)

    @rule(hours=st.sampled_from([-26, -2, 3, 50]))
    def wall_clock_jumps(self, hours):
        """There and back: windows are found again."""
        self.clock.wall += hours * 3600
        self.rig.permit(self.caller("alice"), shared=False)
        self.clock.wall -= hours * 3600
        self.rig.permit(self.caller("alice"), shared=False)

    @rule()
    def crash(self):
        """The calls under way are booked with what they held, and it starts anew from the books."""
        for row, _, bound in self.open:
            row.tokens = 0 if bound is None else bound.prompt
        for row in self.rows:
            row.spent_at = row.steady
        self.open.clear()
        self.rig = quotas(self.clock, "Europe/Berlin", clamp_min=50)
        found = OpenWindows()
        for span in ("day", "week", "month", "total"):
            found.spent[span] = {
                (f"id-{key}", "id-red", "up"): Spent(
                    *(self.used(key, span, unit) for unit in (REQUESTS, TOKENS, MONEY))
                )
                for key in ("alice", "bob")
            }
        for row in self.rows:
            ago = self.clock.steady - row.steady
            if ago <= LOOK_BACK + 1:
                at, key = self.clock.wall - ago, f"id-{row.key}"
                found.minute.append((at, key, "id-red", "up", int(row.counted), row.tokens))
        self.rig.restore(pasts(found, self.clock.wall, {"id-alice", "id-bob"}))

    # -- what must hold ----------------------------------------------------------------------------

    def used(self, name, span, unit):
        """Of a key, or of the team that both are in."""
        start, end = window_bounds(self.clock.wall, ZONE)[span]
        rows = [r for r in self.rows if name in (r.key, "red") and start <= r.wall < end]
        return sum(int(r.counted) if unit == REQUESTS else r.tokens for r in rows)

    def last_minute(self, name, kind):
        oldest = int(self.clock.steady) - LOOK_BACK
        rows = [r for r in self.rows if name in (r.key, "red")]
        if kind == "rpm":
            return sum(r.counted for r in rows if int(r.steady) >= oldest)
        return sum(r.tokens for r in rows if int(r.spent_at) >= oldest)

    def standing(self, name):
        [(kind, id)] = [key for key, value in ACCOUNTS.items() if value == name]
        return {one["kind"]: one for one in self.rig.standing(kind, id, name, self.limits[name])}

    def check_requests(self, key):
        """Who was just let in is within every limit on requests that stands now."""
        for name in (key, "red"):
            limits = self.limits[name]
            rows = [row for row in self.rows if name in (row.key, "red") and row.counted]
            if "rpm" in limits:
                assert sum(self.clock.steady - r.steady < 60 for r in rows) <= limits["rpm"]
            if "requests_per_day" in limits:
                assert self.used(name, "day", REQUESTS) <= limits["requests_per_day"]
            if "max_parallel" in limits:
                under_way = [one for one in self.open if name in (one[0].key, "red")]
                assert len(under_way) <= limits["max_parallel"]

    def check_spending(self, key):
        """Were every open call to take its whole bound, no limit would be passed."""
        for name in (key, "red"):
            for kind, one in self.standing(name).items():
                if kind in ("tpm", "tokens_per_day", "tokens_per_month"):
                    assert one["used"] + one["reserved"] <= one["limit"]
                if kind == "budget":
                    assert round((one["used"] + one["reserved"] - one["limit"]) * 1e9) <= 0

    @invariant()
    def balances_equal_the_books(self):
        for name in ("alice", "bob", "red"):
            calls = [one for one in self.open if one[2] and name in (one[0].key, "red")]
            held = sum(bound.prompt for _, _, bound in calls)
            for kind, one in self.standing(name).items():
                assert one["used"] >= 0
                assert one["reserved"] >= 0
                if kind in ("tokens_per_day", "tokens_per_month"):
                    span = kind.removeprefix("tokens_per_")
                    assert (one["used"], one["reserved"]) == (self.used(name, span, TOKENS), held)
                if kind == "requests_per_day":
                    assert one["used"] == self.used(name, "day", REQUESTS)
                if kind in ("rpm", "tpm"):
                    assert one["used"] == self.last_minute(name, kind)
                if kind == "budget":
                    assert round(one["used"] * 1e9) == self.used(name, "week", MONEY)

    @invariant()
    def nothing_is_leaked(self):
        if not self.open:
            assert self.rig.open == (0, 0)

    def teardown(self):
        for _, permit, _ in self.open:
            permit.close()
        assert self.rig.open == (0, 0)


Books.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_books = Books.TestCase
