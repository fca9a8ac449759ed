"""The row of a call is on the disk before the end of its answer is out, and what becomes of both
where the disk does not take it (design.md, "Durable and off the path"; issue 4, proof 3)."""

from __future__ import annotations

import os
import select
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cached import ask, state, until
from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Events, Raw, chat, request
from tests.e2e.test_keys import create
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import CUT, DONE, completion, delta, error, hello, reply, stream
from tests.usage.samples import column, sums_are_the_rows

# A disk that takes its time: SQLite waits for a lock instead of giving up after 250 ms.
PATIENT = "import gateway.usage.file as file\nfile.BUSY = file.FIRST_BUSY = 60_000\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def other(data: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the books; it can read, and hold them."""
    data.mkdir(mode=0o700)
    with closing(sqlite3.connect(data / "ledger.db", isolation_level=None)) as base:
        yield base
        if base.in_transaction:
            base.execute("ROLLBACK")


@pytest.fixture
def slow_disk(tmp_path: Path) -> dict[str, str]:
    """The environment of a gateway that waits for a held ledger as for a disk that hangs."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATIENT)
    return {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}


def caching(up: Scripted, **usage: Any) -> dict[str, Any]:
    return config_for(up, 1) | {"cache": {"disk_deadline": "60s"}, "usage": usage}


def booked(base: sqlite3.Connection, request_id: str) -> list[Any]:
    return base.execute("SELECT outcome FROM requests WHERE id = ?", (request_id,)).fetchall()


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


# The end comes after the row ----------------------------------------------------------------------

KINDS = {
    "json": (False, reply(completion())),
    "large json": (False, reply(completion("x" * 600_000))),
    "stream": (True, stream(hello())),
    "refused": (False, reply(error("429", "slow_down"), "429 Too Many Requests")),
    "no answer": (False, [CUT]),
    "cut": (True, [*stream([delta("x")], close=False), CUT]),
}


@pytest.mark.parametrize("cache", [True, False], ids=["kept", "relayed"])
def test_who_has_the_end_finds_the_row(
    start: Start, up: Scripted, data: Path, other: sqlite3.Connection, cache: bool
) -> None:
    """Looked for in the moment in which the last byte was read, answer after answer."""
    gateway = start(caching(up) | ({} if cache else {"cache": {"enabled": False}}))
    key = create(gateway, "alice")
    late = []
    for kind, (streaming, steps) in KINDS.items():
        model = up.play(steps, prefix="keyed")
        for number in range(25):
            with Raw(gateway.address) as raw:
                body = chat(model, stream=streaming, user=str(number))
                raw.send(request(CHAT, body, [bearer(key)]))
                events = Events(raw)
                last = b""
                while last != DONE and not last.startswith(b'data: {"error"'):
                    last = events.next()
                    if not streaming:
                        break
                late += [] if booked(other, events.head.id) else [kind]
    assert not late
    assert column(data, "SELECT count(*) FROM requests") == [25 * len(KINDS)]


def readable(*wires: Raw) -> list[Any]:
    return select.select([wire.sock for wire in wires], [], [], 0)[0]


def test_the_end_waits_for_its_row_and_hits_for_nothing(
    start: Start, up: Scripted, other: sqlite3.Connection, slow_disk: dict[str, str]
) -> None:
    """While the ledger is held all but the last bytes is out; as it is let go, they come."""
    gateway = start(caching(up, commit_wait="60s"), env=slow_disk)
    key = bearer(create(gateway, "alice"))
    whole, large, live = (
        up.play(KINDS[kind][1], prefix="keyed") for kind in ("json", "large json", "stream")
    )
    known = up.play(reply(completion()), prefix="keyed")
    assert state(ask(gateway, chat(known), key)) == "miss"
    with Raw(gateway.address) as json, Raw(gateway.address) as big, Raw(gateway.address) as sse:
        other.execute("BEGIN EXCLUSIVE")
        sse.send(request(CHAT, chat(live, stream=True), [key]))
        events = Events(sse)
        assert [events.next() for _ in range(4)] == hello()[:4]
        big.send(request(CHAT, chat(large), [key]))
        big_head = big.head()
        json.send(request(CHAT, chat(whole), [key]))
        for model in (whole, live, large):
            up.wait(model, "ended")
        for _ in range(20):
            assert state(ask(gateway, chat(known), key)) == "hit"
        assert ask(gateway, chat("nobody"), key).status == 404
        while readable(big):
            assert big.fill()
        assert not readable(sse, json)
        assert not sse.buffer.strip() and not json.buffer
        assert len(big.buffer) < int(str(big_head.header("content-length")))
        ids = (events.head.id, big_head.id)
        assert not any(booked(other, one) for one in ids)
        other.execute("ROLLBACK")
        assert events.rest() == [DONE]
        assert booked(other, events.head.id) == [("ok",)]
        assert len(b"".join(big.pieces(big_head))) > 600_000
        assert booked(other, big_head.id) == [("ok",)]
        answer = json.answer()
        assert answer.json() == completion()
        assert booked(other, answer.id) == [("ok",)]


def test_after_commit_wait_the_end_comes_and_the_row_later(
    start: Start, up: Scripted, other: sqlite3.Connection, slow_disk: dict[str, str]
) -> None:
    gateway = start(caching(up, commit_wait="100ms", when_down="none"), env=slow_disk)
    key = bearer(create(gateway, "alice"))
    other.execute("BEGIN EXCLUSIVE")
    models = [up.play(reply(completion()), prefix="keyed") for _ in range(5)]
    answers = [ask(gateway, chat(model), key) for model in models]
    assert {answer.status for answer in answers} == {200}
    assert not any(booked(other, answer.id) for answer in answers)
    other.execute("ROLLBACK")
    for answer in answers:
        until(lambda answer=answer: bool(booked(other, answer.id)), "its row")  # type: ignore[misc]


# It lasts -----------------------------------------------------------------------------------------


def ready(gateway: Gateway) -> Answer:
    with Raw(gateway.address) as raw:
        return raw.ask("/readyz", method="GET")


def test_when_it_lasts_calls_are_refused_and_hits_are_not(
    start: Start, up: Scripted, data: Path, other: sqlite3.Connection
) -> None:
    """`usage.when_down`: 503 with Retry-After, `/readyz` says it, nothing is free, and all is well
    again without a restart."""
    gateway = start(caching(up, when_down="200ms"))
    key = bearer(create(gateway, "alice"))
    known, calls = (up.play(reply(completion()), prefix="keyed") for _ in range(2))
    ids = [ask(gateway, chat(known), key).id]
    assert ready(gateway).status == 200
    other.execute("BEGIN EXCLUSIVE")

    def call() -> Answer:
        answer = ask(gateway, chat(calls), ("Cache-Control", "no-store"), key)
        ids.append(answer.id)
        return answer

    until(lambda: call().status == 503, "a refusal")
    served, answer = len(up.calls(calls)), call()
    answer.error(503, "ledger_unavailable")
    assert int(str(answer.header("retry-after"))) > 0
    hit = ask(gateway, chat(known), key)
    ids.append(hit.id)
    assert state(hit) == "hit"
    assert (ready(gateway).status, ready(gateway).json()["failed"]) == (503, ["ledger"])
    assert len(up.calls(calls)) == served
    other.execute("ROLLBACK")
    until(lambda: call().status == 200, "calls again")
    assert ready(gateway).status == 200
    until(lambda: set(ids) == set(column(data, "SELECT id FROM requests")), "every row")
    sums_are_the_rows(data)


# A stop -------------------------------------------------------------------------------------------


def test_a_stop_with_a_queue_waits_for_the_disk_and_loses_nothing(
    start: Start, up: Scripted, data: Path, other: sqlite3.Connection
) -> None:
    """Calls, hits and refusals of which not one was written when SIGTERM came; a restart has them
    all."""
    config = caching(up, when_down="none")
    gateway = start(config)
    key = bearer(create(gateway, "alice"))
    model = up.play(reply(completion()), prefix="keyed")
    other.execute("BEGIN EXCLUSIVE")
    bodies = [chat(model, user=str(number // 2)) for number in range(40)]
    ids = [ask(gateway, body, key).id for body in [*bodies, *[chat("nobody")] * 10]]
    assert column(data, "SELECT count(*) FROM requests") == [0]
    gateway.process.send_signal(signal.SIGTERM)
    gateway.stderr.until(lambda lines: any("gateway: stopped" in line for line in lines) or None)
    other.execute("ROLLBACK")
    assert gateway.process.wait(PATIENCE) == 0
    with Gateway(gateway.folder, config):
        assert sorted(column(data, "SELECT id FROM requests")) == sorted(ids)
        found = column(data, "SELECT cache || count(*) FROM requests GROUP BY cache")
        assert found == ["hit20", "miss20", "none10"]
    sums_are_the_rows(data)


def test_a_stop_cuts_what_is_under_way_and_books_it(start: Start, up: Scripted, data: Path) -> None:
    """B1: an answer that the drain cut off is a row, with what it had taken, marked."""
    gateway = start(config_for(up, drain_timeout="100ms"))
    key = bearer(create(gateway, "alice"))
    model = up.play(stream(hello(), paced=True), prefix="keyed")
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True), [key]))
        up.go(model, 2)
        events = Events(raw)
        assert [events.next(), events.next()] == hello()[:2]
        gateway.process.send_signal(signal.SIGTERM)
        rest = events.rest()
        assert b'"draining"' in rest[-1]
        found = column(data, "SELECT outcome || usage_source FROM requests")
        assert found == ["drainedestimated"]
    assert gateway.process.wait(PATIENCE) == 0
