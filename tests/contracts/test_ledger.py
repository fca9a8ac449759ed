"""What every `Ledger` promises, whatever is behind the port (B1; ports.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ports import Ledger
from gateway.usage.ledger import SQLiteLedger
from gateway.usage.nothing import NoLedger
from tests.fakes import FakeLedger
from tests.usage.samples import call, column, held, hit, open_ledger, reserve

Rows = Callable[[], list[str]]


@pytest.fixture(params=["fake", "sqlite"])
async def opened(request, tmp_path: Path) -> AsyncIterator[tuple[Ledger, Rows]]:
    """A ledger, and the ids of its rows that can be read."""
    if request.param == "fake":
        fake = FakeLedger([])
        yield fake, lambda: [row.id for row in fake.rows]
    else:
        async with open_ledger(tmp_path) as ledger:
            yield ledger, lambda: column(tmp_path, "SELECT id FROM requests ORDER BY id")


async def written(ledger: Ledger) -> None:
    if isinstance(ledger, SQLiteLedger):
        assert await ledger.flush(20)


async def test_a_row_that_was_waited_for_can_be_read(opened):
    ledger, rows = opened
    await ledger.commit(call(1))
    assert rows() == [call(1).id]


async def test_a_row_that_nobody_waits_for_comes_by_itself(opened):
    ledger, rows = opened
    assert ledger.add(hit(1)) is None
    await written(ledger)
    assert rows() == [hit(1).id]


async def test_many_at_once_are_all_there(opened):
    ledger, rows = opened
    await asyncio.gather(*(ledger.commit(call(n)) for n in range(50)))
    for n in range(50, 100):
        ledger.add(hit(n))
    await written(ledger)
    assert sorted(rows()) == sorted(call(n).id for n in range(100))


async def test_a_reservation_waits_for_nobody_and_is_settled_by_its_row(opened):
    ledger, rows = opened
    ledger.admit()
    reserve(ledger, held(1))
    await ledger.commit(call(1))
    assert rows() == [call(1).id]


async def test_no_ledger_keeps_nothing_and_refuses_nothing():
    """Off is an object that does nothing (design, house rule 5)."""
    ledger: Ledger = NoLedger()
    ledger.admit()
    reserve(ledger, held(1))
    ledger.add(hit(2))
    waiting: Iterator[Any] = ledger.commit(call(1)).__await__()
    with pytest.raises(StopIteration):
        next(waiting)
