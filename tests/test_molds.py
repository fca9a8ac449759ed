"""A hit whose kind came before is booked from a mold: the books must not show the difference."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from gateway.exchange import (
    NO_COST,
    NO_USAGE,
    CacheState,
    Caller,
    CallerKind,
    Cost,
    Exchange,
    Kind,
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
        usage=Usage(source=UsageSource.CACHE),
        cost=Cost(0),
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
            **recorded(at % 5),
        )
        for at in range(number)
    ]


def recorded(at: int) -> dict[str, object]:
    """What hits of one recording have in common, beside their kind."""
    saved = [SAVED, Usage(1, 2, source=UsageSource.UPSTREAM), NO_USAGE][at % 3]
    return {
        "cache_key": f"{at:016x}",
        "saved": saved,
        "saved_cost": [Cost(123_456, "7"), NO_COST, Cost(0)][at % 3],
        "summary": Summary(saved, [("stop", "length"), ("%s",), ()][at % 3], complete=True),
        "bytes_in": 1000 + at,
        "bytes_out": 10 * at,
    }


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
    kind = Kind(plain[7])
    molds = [
        Mold(kind, replace(plain[8], **recorded(at)), f"R{at}", lambda: None) for at in range(5)
    ]
    molded = [replace(x, mold=molds[at % 5]) for at, x in enumerate(plain)]
    assert [molds[at % 5].like.cache_key for at in range(600)] == [x.cache_key for x in plain]
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
