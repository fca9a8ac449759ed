"""The journal's queue, thread and files: bounds, faults of the disk, age, size, search (G1-G5)."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from msgspec.structs import replace

from gateway.clock import SystemClock
from gateway.config import Duration, Journal, JournalQueue, JournalRule, MiB, Size
from gateway.exchange import Caller, CallerKind, Grant, Timings, ulid
from gateway.journal.capture import NOT_KEPT, is_kept
from gateway.journal.keeper import FOLDER, Keeper
from gateway.journal.reader import JournalReader, Search, has_words
from gateway.journal.segments import segments
from gateway.journal.shape import Captured, Side
from tests.exchanges import GOOD
from tests.fakes import FakeClient, ask

ON = Journal(bodies=True)
NOW = 1_750_000_000.0
HEADERS = [("content-type", "application/json")]


class Clock(SystemClock):
    """A wall clock that tests turn; the other one runs."""

    def __init__(self) -> None:
        self.wall = NOW

    def now(self) -> float:
        return self.wall


def captured(number: int, text: str = "hello", at: float = NOW) -> Captured:
    body = json.dumps({"messages": [{"content": text}]}).encode()
    side = Side(list(HEADERS), body, len(body))
    request_id = ulid(int(at * 1000), number.to_bytes(10, "big"))
    return Captured(request_id, side, Side(), 200, Timings())


def some_id(number: int, at: float = NOW) -> str:
    return captured(number, at=at).id


@asynccontextmanager
async def journal(
    data: Path, section: Journal = ON, clock: SystemClock | None = None
) -> AsyncIterator[tuple[Keeper, JournalReader]]:
    keeper = Keeper(data, section, clock or Clock(), [], str)
    keeper.start()
    reader = JournalReader(data, keeper.flush)
    try:
        yield keeper, reader
    finally:
        reader.close()
        await keeper.close(5)


# Who is kept --------------------------------------------------------------------------------------


def caller(log_bodies: bool | None) -> Caller:
    return Caller(CallerKind.ISSUED, "id", "alice", grant=Grant(log_bodies=log_bodies))


RULES = [JournalRule(["off-*"], False), JournalRule(["on-*", "off-2"], True)]


@pytest.mark.parametrize(
    ("bodies", "key", "model", "header", "expected"),
    [
        (False, None, "m", None, False),
        (True, None, "m", None, True),
        (False, True, "m", None, True),
        (True, False, "m", None, False),
        (False, None, "on-1", None, True),
        (False, False, "on-1", None, False),
        (True, None, "off-1", None, False),
        (True, True, "off-1", None, False),
        (True, None, "off-2", None, False),  # the first rule that matches
        (True, None, None, None, False),  # it might have been off-1
        (True, None, "m", "none", False),
        (True, True, "on-1", " None ", False),
        (False, None, "m", "all", False),  # never to more
        (True, None, "m", "all", True),
    ],
)
def test_g6_who_decides(bodies, key, model, header, expected):
    section = Journal(bodies=bodies, models=RULES)
    assert is_kept(section, caller(key), model, header) is expected


async def test_off_wraps_nothing(tmp_path):
    async with journal(tmp_path, Journal()) as (keeper, reader):
        found = keeper.capture(ask(), caller(None), "m", b"{}")
        client: Any = FakeClient([])
        assert found is NOT_KEPT
        assert found.wrap(client) is client
        assert await reader.search(Search("hello")) == []
    assert not (tmp_path / FOLDER).exists()


# The queue ----------------------------------------------------------------------------------------


async def test_g2_bodies_go_first_then_records(tmp_path):
    """Past the queue's bytes there are no bodies, past its records nothing; all is counted."""
    section = Journal(bodies=True, queue=JournalQueue(records=3, bytes=Size(100)))
    async with journal(tmp_path, section) as (keeper, reader):
        found = [keeper.capture(ask(), caller(None), "m", b"x" * 60) for _ in range(5)]
        clients: list[Any] = [one.wrap(FakeClient([])) for one in found]
        assert keeper.held == 60
        clients[0].start(200, HEADERS, None)
        clients[0].write(b"y" * 30)
        clients[0].write(b"y" * 30)  # now its answer goes too
        for number, one in enumerate(found):
            one.end(exchange(number))
        assert await keeper.flush(5)
        figures = keeper.figures
        assert (figures.written, figures.dropped, figures.without_bodies) == (3, 2, 5)
        kept = await reader.kept([exchange(n).id for n in range(5)])
        sides = [kept[exchange(n).id] for n in range(3)]
        assert [one["request"]["left_out"] for one in sides] == [None, "queue_full", "queue_full"]
        assert sides[0]["response"]["left_out"] == "queue_full"
        assert keeper.held == 0


def exchange(number: int) -> Any:
    return replace(GOOD, id=some_id(number))


async def test_what_is_captured_is_what_the_client_got(tmp_path):
    story: list[Any] = []
    async with journal(tmp_path) as (keeper, reader):
        capture = keeper.capture(ask(b"{}"), caller(None), "m", b'{"a":1}')
        inner: Any = FakeClient(story, room=8)
        client = capture.wrap(inner)
        client.start(200, HEADERS, 9)
        assert client.started
        assert client.write(b'{"b"')
        assert not client.write(b": 22}")  # its buffer is full: the answer is the client's own
        inner.leave()
        client.write(b"lost")
        client.abort()
        capture.end(exchange(1))
        kept = (await reader.kept([some_id(1)]))[some_id(1)]
    assert (inner.body, inner.ended) == (b'{"b": 22}', "aborted")
    assert kept["response"]["body"] == '{"b": 22}'
    assert kept["request"]["body"] == '{"a":1}'
    assert kept["ms"]["received"] == 1.0


# The disk -----------------------------------------------------------------------------------------


async def test_files_are_the_owners_alone(tmp_path):
    async with journal(tmp_path) as (keeper, _):
        keeper.put(captured(1))
        assert await keeper.flush(5)
        folder = tmp_path / FOLDER
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}


async def test_g1_g3_a_locked_file_makes_records_wait_and_none_is_lost(tmp_path):
    async with journal(tmp_path) as (keeper, reader):
        keeper.put(captured(0))
        assert await keeper.flush(5)
        [path] = segments(tmp_path / FOLDER)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(1, 200):
                keeper.put(captured(number))
            while not keeper.figures.failures:
                await asyncio.sleep(0.01)
            assert keeper.waiting == 199
            other.execute("ROLLBACK")
        assert await keeper.flush(20)
        assert keeper.figures.written == 200
        assert list(keeper.figures.failures) == ["SQLITE_BUSY"]
        assert len(await reader.search(Search("hello", limit=1000))) == 200


@pytest.mark.parametrize("damage", ["not a base", "no table", "gone"])
async def test_a_damaged_file_is_left_and_a_new_one_begun(tmp_path, damage):
    async with journal(tmp_path) as (keeper, _):
        keeper.put(captured(0))
    [path] = segments(tmp_path / FOLDER)
    if damage == "not a base":
        path.write_bytes(b"nonsense" * 1000)
    elif damage == "no table":
        with closing(sqlite3.connect(path)) as base:
            base.execute("DROP TABLE records")
    async with journal(tmp_path) as (keeper, reader):
        keeper.put(captured(1, "first"))
        await keeper.flush(5)
        if damage == "gone":
            for one in (tmp_path / FOLDER).iterdir():
                one.unlink()
        keeper.put(captured(2, "second"))
        await keeper.flush(5)
        keeper.put(captured(3, "third"))
        assert await keeper.flush(5)
        found = await reader.search(Search("third"))
        assert [one.id for one in found] == [some_id(3)]


async def test_a_body_that_breaks_the_shaping_costs_its_own_record_only(tmp_path):
    async with journal(tmp_path) as (keeper, reader):
        bad = captured(1)
        bad.timings = None  # type: ignore[assignment]
        for one in (captured(0), bad, captured(2)):
            keeper.put(one)
        assert await keeper.flush(5)
        assert (keeper.figures.written, keeper.figures.failed) == (2, 1)
        assert len(await reader.search(Search("hello"))) == 2


async def test_a_record_that_cannot_be_written_is_parted_from_the_others(tmp_path):
    async with journal(tmp_path) as (keeper, reader):
        for number in (1, 2, 1, 3):  # an id twice
            keeper.put(captured(number))
        assert await keeper.flush(5)
        assert (keeper.figures.written, keeper.figures.failed) == (3, 1)
        assert len(await reader.search(Search("hello"))) == 3


# Age and size -------------------------------------------------------------------------------------


async def test_g5_nothing_is_older_than_keep_and_what_is_younger_by_a_part_is_there(tmp_path):
    clock, hour = Clock(), 3600.0
    section = attrs.evolve(ON, keep=Duration(16 * hour))
    async with journal(tmp_path, section, clock) as (keeper, reader):
        for number in range(40):
            keeper.put(captured(number, at=clock.wall))
            assert await keeper.flush(5)
            clock.wall += hour
        found = {one.id for one in await reader.search(Search("hello", limit=100))}
        ages = {n: 40 - n for n in range(40)}  # in hours
        assert {some_id(n, NOW + n * hour) for n, age in ages.items() if age <= 14} <= found
        assert not {some_id(n, NOW + n * hour) for n, age in ages.items() if age > 18} & found
        assert keeper.figures.deleted > 0


async def test_g5_the_files_keep_to_their_limit(tmp_path):
    section = attrs.evolve(ON, size_limit=Size(1 * MiB), keep=None)
    async with journal(tmp_path, section) as (keeper, reader):
        for number in range(600):
            keeper.put(captured(number, os.urandom(2000).hex()))
            if number % 30 == 29:
                assert await keeper.flush(5)
                files = (tmp_path / FOLDER).iterdir()
                assert sum(p.stat().st_blocks * 512 for p in files) < 1.3 * MiB
        keeper.put(captured(999, "newest"))
        assert len(await reader.search(Search("newest"))) == 1
        assert keeper.figures.deleted > 3


async def test_what_was_kept_ages_out_with_bodies_off_and_over_restarts(tmp_path):
    clock = Clock()
    async with journal(tmp_path, ON, clock) as (keeper, _):
        keeper.put(captured(1))
    clock.wall += 8 * 86_400
    async with journal(tmp_path, Journal(), clock) as (keeper, reader):
        while not keeper.figures.deleted:
            await asyncio.sleep(0.01)
        assert await reader.kept([some_id(1)]) == {}
    assert segments(tmp_path / FOLDER) == []


# Search -------------------------------------------------------------------------------------------


async def test_search_takes_text_and_never_a_query(tmp_path):
    texts = ["the quick brown fox", 'say "hi" OR NOT', "café order-4711", "我们的订单", "NEAR(a b)"]
    async with journal(tmp_path) as (keeper, reader):
        for number, text in enumerate(texts):
            keeper.put(captured(number, text))

        async def numbers(text: str) -> list[int]:
            found = await reader.search(Search(text))
            return [[some_id(n) for n in range(len(texts))].index(one.id) for one in found]

        assert await numbers("quick brown") == [0]
        assert await numbers("QUICK bro") == [0]
        assert await numbers("brown quick") == []
        assert await numbers("rown") == []
        assert await numbers('"hi" OR') == [1]
        assert await numbers("cafe order 47") == [2]
        assert await numbers("order-4711") == [2]
        assert await numbers("的订") == [3]
        assert await numbers("NEAR(a b)") == [4]
        for text in (
            '"',
            "*",
            "quick*",
            "a:b",
            "text:quick",
            "^quick",
            "a AND",
            "(",
            "-",
            "\0quick",
        ):
            await numbers(text)  # no syntax, no fault
        assert await numbers("quick NOT fox") == []
        assert not has_words('"*-')


async def test_pages_follow_each_other_over_files(tmp_path):
    """By `before` back to the start, by `after` forth to the end: each record once."""
    clock = Clock()
    section = attrs.evolve(ON, keep=Duration(16 * 3600))
    async with journal(tmp_path, section, clock) as (keeper, reader):
        for number in range(25):
            keeper.put(captured(number, at=clock.wall))
            assert await keeper.flush(5)
            clock.wall += 600
        assert len(segments(tmp_path / FOLDER)) > 2
        ids = [some_id(n, NOW + 600 * n) for n in range(25)]
        back: list[str] = []
        while page := await reader.search(
            Search("hello", limit=4, before=back[-1] if back else None)
        ):
            back += [one.id for one in page]
        assert back == ids[::-1]
        forth: list[str] = []
        after = 0
        while page := await reader.search(Search("hello", limit=4, follow=True, after=after)):
            forth += [one.id for one in page]
            after = page[-1].number
        assert forth == ids
        some = await reader.search(Search("hello", since=NOW + 3000, until=NOW + 6000))
        assert [one.id for one in some] == ids[9:4:-1]
