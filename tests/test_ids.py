"""The ids of requests: whoever sorts by them has the order in which requests came."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Ids

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
NOON = 1_774_699_200.0


def time_of(made: str) -> float:
    """Wall seconds in an id."""
    ms = 0
    for letter in made[:10]:
        ms = ms * 32 + CROCKFORD.index(letter)
    return ms / 1000


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.0001, 0.001, 0.7, -0.0004, -0.3]), max_size=400),
    st.integers(),
)
def test_each_is_greater_than_the_one_before(steps, seed):
    """Also many within a millisecond, and where the clock is set back by less than a second."""
    ids, now, latest = Ids(random.Random(seed).randbytes), NOON, NOON
    made = [ids.make(now)]
    for step in steps:
        now = max(now + step, latest - 0.9)
        latest = max(now, latest)
        made.append(ids.make(now))
        assert 0 <= time_of(made[-1]) - int(now * 1000) / 1000 < 0.95
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(len(one) == 26 and set(one) <= set(CROCKFORD) for one in made)


def test_a_clock_set_back_by_more_is_believed():
    ids = Ids(random.Random(1).randbytes)
    assert time_of(ids.make(NOON)) == NOON
    assert time_of(ids.make(NOON - 3600)) == NOON - 3600
    assert time_of(ids.make(NOON - 3599)) == NOON - 3599
