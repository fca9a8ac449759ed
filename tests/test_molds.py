"""A hit like one before it is booked from a mold: the books must not show the difference."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from gateway.exchange import (
    CacheState,
    Caller,
    CallerKind,
    Cost,
    Exchange,
    Mold,
    Summary,
    Timings,
    Usage,
    UsageSource,
)
from gateway.journal.rules import line
from gateway.metrics import Metrics
from gateway.usage.rows import row_of
from tests.exchanges import FixedClock, exchange

SAVED = Usage(1200, 345, 100, 20, UsageSource.UPSTREAM)


def hits(number: int, **same: object) -> list[Exchange]:
    """Equal hits, each with figures of its own."""
    like = exchange(
        cache=CacheState.HIT,
        cache_key="0123456789abcdef",
        usage=Usage(source=UsageSource.CACHE),
        saved=SAVED,
        cost=Cost(0),
        saved_cost=Cost(123_456, "7"),
        summary=Summary(SAVED, ("stop", "length"), complete=True),
        attempts=0,
        **same,
    )
    return [
        replace(
            like,
            id=f"{at:026}",
            at=1_750_000_000.9994 + at,
            client=f"10.0.0.{at % 3}",
            timings=Timings(
                0.01 * at, 0.02 * at, 0.03 * at, first_token=0.03 * at, booked=at, total=at
            ),
            cache_age=at / 7,
            saved_seconds=at / 3,
            client_retry=str(at) if at % 2 else None,
            tags={"team": f"t{at}"} if at % 3 else {},
            trace="ab" * 16 if at % 4 else None,
            counted=bool(at % 2),
            counted_tokens=at % 5,
        )
        for at in range(number)
    ]


TOKEN = "sk-" + "t0ken" * 5
CASES = [
    {},
    {"stream": True},
    {"model": "100%s%%", "path": "/v1/%d"},
    {"model": "x" * 300, "model_served": "\ud800é"},
    {"path": f"/v1/chat/{TOKEN}", "caller": Caller(CallerKind.PASSTHROUGH, "id", "n", TOKEN)},
]


@pytest.mark.parametrize("same", CASES)
def test_what_is_booked_from_a_mold_is_what_is_booked_without(same):
    plain = hits(600, **same)
    mold = Mold(plain[0], "R1", lambda: None)
    molded = [replace(x, mold=mold) for x in plain]
    assert [line(x) for x in molded] == [line(x) for x in plain]
    assert [line(x, 3) for x in molded] == [line(x, 3) for x in plain]
    assert [row_of(x) for x in molded] == [row_of(x) for x in plain]
    snapshots, exemplars = [], []
    for booked in (plain, molded):
        metrics = Metrics(CollectorRegistry(), FixedClock())
        metrics.configure(models=["gpt-4o"])
        for x in booked:
            metrics.book(x)
        snapshots.append(metrics.snapshot())
        exemplars.append(metrics.exemplars())
    assert exemplars[0] == exemplars[1]
    for name, found in snapshots[0].items():
        for labels, value in found.items():
            assert snapshots[1][name][labels] == pytest.approx(value), (name, labels)
        assert snapshots[1][name].keys() == found.keys()
    assert TOKEN.encode() not in b"".join(line(x) for x in molded)
