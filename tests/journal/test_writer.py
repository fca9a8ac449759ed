"""The access log's thread: order, batches, a blocked pipe, a full disk, rotation (G1, G2)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.journal import writer
from gateway.journal.rules import line
from gateway.journal.writer import AccessLog, NoAccessLog, open_access_log
from tests.exchanges import FixedClock, exchange

TIMEOUT = 30  # seconds, only reached by a failure


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def counts(log: AccessLog | NoAccessLog) -> dict[str, int]:
    names = ("written", "dropped", "failed", "suppressed")
    return {name: getattr(log, name) for name in names if getattr(log, name)}


def test_each_exchange_is_a_line_in_order(tmp_path):
    log = open_access_log(str(tmp_path / "access.log"), FixedClock())
    for number in range(2000):
        assert log.book(exchange(bytes_in=number)) is None
    assert log.close(TIMEOUT)
    assert [said["bytes_in"] for said in lines(tmp_path / "access.log")] == list(range(2000))
    assert counts(log) == {"written": 2000}


def test_a_new_file_is_its_owner_s_alone_and_an_old_one_is_continued(tmp_path):
    path = tmp_path / "access.log"
    for _ in range(2):
        log = open_access_log(str(path), FixedClock())
        log.book(exchange())
        assert log.close(TIMEOUT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(lines(path)) == 2


def test_stdout_is_the_default_destination(capfd):
    log = open_access_log("stdout", FixedClock())
    log.book(exchange())
    assert log.close(TIMEOUT)
    out = capfd.readouterr().out
    assert json.loads(out)["id"] == exchange().id
    os.fstat(1)  # and it is still open


def test_none_is_an_object_like_the_other():
    log = open_access_log("none", FixedClock())
    assert isinstance(log, NoAccessLog)
    log.book(exchange())
    log.reopen()
    assert log.close(0)
    assert (log.written, log.dropped, log.failed, log.suppressed) == (0, 0, 0, 0)


def test_a_path_that_cannot_be_opened_fails_the_start(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_access_log(str(tmp_path / "missing" / "access.log"), FixedClock())


# A reader that does not read --------------------------------------------------------------------


@pytest.fixture
def pipe():
    """A pipe that nobody reads, as small as the kernel lets it be."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    yield out, into
    for end in (out, into):
        with contextlib.suppress(OSError):
            os.close(end)


def drain(out: int, found: list[bytes]) -> threading.Thread:
    def run() -> None:
        while data := os.read(out, 65536):
            found.append(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("blocking", [True, False])
def test_a_blocked_pipe_blocks_no_caller_and_what_does_not_fit_is_dropped_and_counted(
    pipe, blocking
):
    """design.md: a blocked pipe must not stop the loop. Each `book` returns, or the test hangs."""
    out, into = pipe
    os.set_blocking(into, blocking)
    log = AccessLog(None, FixedClock(), descriptor=into, capacity=100)
    for _ in range(5000):
        log.book(exchange())
    assert log.dropped >= 5000 - 100 - writer.BATCH - 20
    assert not log.close(0.01)  # the thread is stuck in the pipe, and says so

    found: list[bytes] = []
    reader = drain(out, found)
    assert log.close(TIMEOUT)
    os.close(into)
    reader.join(TIMEOUT)
    assert log.written + log.dropped == 5000
    whole = b"".join(found).splitlines()
    assert len(whole) == log.written
    assert {json.loads(text)["id"] for text in whole} == {exchange().id}


def test_the_queue_holds_ten_thousand_lines():
    assert writer.CAPACITY == 10_000


def test_a_reader_that_is_gone_costs_lines_and_not_the_thread(pipe, caplog):
    out, into = pipe
    os.close(out)
    log = AccessLog(None, FixedClock(), descriptor=into)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            log.book(exchange())
        assert log.close(TIMEOUT)
    assert counts(log) == {"failed": 3}
    assert [record.message for record in caplog.records] == [
        "the access log cannot be written: Broken pipe"
    ]


# A disk that is full ----------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 700, 2000])
def test_a_full_disk_tears_no_later_line(tmp_path, monkeypatch, room):
    """A part of a write may have gone through: the next line starts on a line of its own."""
    path = tmp_path / "access.log"
    real, left, full = os.write, [room], [True]

    def write(descriptor: int, data: memoryview) -> int:
        if not full[0]:
            return real(descriptor, data)
        if not left[0]:
            raise OSError(28, "No space left on device")
        done = real(descriptor, data[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr("os.write", write)
    monkeypatch.setattr(writer, "BATCH", 3)
    log = AccessLog(str(path), FixedClock())
    batch = [line(exchange(bytes_in=number)) for number in range(3)]
    log.close(TIMEOUT)  # the thread is done: the batches below are written here, one by one
    log._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    log._write(batch)
    log._write(batch)
    full[0] = False
    log._write(batch)
    os.close(log._descriptor)
    whole = [
        text
        for text in path.read_text().splitlines()
        if text.startswith("{") and text.endswith("}")
    ]
    assert [json.loads(text)["bytes_in"] for text in whole][-3:] == [0, 1, 2]
    assert len(whole) == log.written
    assert log.written + log.failed == 9


def test_a_disk_that_is_really_full_is_counted():
    log = AccessLog("/dev/full", FixedClock())
    for _ in range(5):
        log.book(exchange())
    assert log.close(TIMEOUT)
    assert counts(log) == {"failed": 5}


# Rotation ---------------------------------------------------------------------------------------


def test_reopen_goes_on_in_a_new_file_and_loses_nothing(tmp_path):
    path = tmp_path / "access.log"
    log = AccessLog(str(path), FixedClock())
    for number in range(300):
        log.book(exchange(bytes_in=number))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    for number in range(300, 600):
        log.book(exchange(bytes_in=number))
    assert log.close(TIMEOUT)
    old, new = lines(tmp_path / "access.log.1"), lines(path)
    assert [said["bytes_in"] for said in old + new] == list(range(600))
    assert len(new) == 300
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reopen_that_fails_keeps_the_old_file(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(str(folder / "access.log"), FixedClock())
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.book(exchange())
    assert log.close(TIMEOUT)
    assert len(lines(tmp_path / "moved" / "access.log")) == 1
    assert "reopening failed" in caplog.text


# Sampling, faults, end --------------------------------------------------------------------------


def test_requests_without_a_caller_are_sampled_and_the_next_line_says_how_many(tmp_path):
    """An anonymous flood must not fill the disk (design.md)."""
    clock = FixedClock()
    log = AccessLog(str(tmp_path / "access.log"), clock)
    for _ in range(1000):
        log.book(exchange(caller=None, status=401))
    log.book(exchange())
    log.book(exchange())
    clock.seconds += 1
    log.book(exchange(caller=None, status=401))
    assert log.close(TIMEOUT)
    said = lines(tmp_path / "access.log")
    assert [row.get("suppressed") for row in said] == [None] * 10 + [990, None, None]
    assert counts(log) == {"written": 13, "suppressed": 990}


def test_an_exchange_that_makes_no_line_costs_no_other(tmp_path, caplog):
    log = AccessLog(str(tmp_path / "access.log"), FixedClock())
    for at in (1.0, float("nan"), 2.0):
        log.book(exchange(at=at))
    assert log.close(TIMEOUT)
    assert len(lines(tmp_path / "access.log")) == 2
    assert counts(log) == {"written": 2, "failed": 1}
    assert "canary" not in caplog.text


def test_what_comes_after_the_close_is_dropped(tmp_path):
    log = AccessLog(str(tmp_path / "access.log"), FixedClock())
    assert log.close(TIMEOUT)
    log.book(exchange())
    assert log.close(TIMEOUT)
    assert counts(log) == {"dropped": 1}
