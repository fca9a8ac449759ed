"""`gateway logs`: found, paged, followed, shown."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess

import pytest

from tests.cli.conftest import CONFIG
from tests.e2e.process import Lines, environment
from tests.scripted.client import PATIENCE

KEY = "sk-canary-caller-1"


@pytest.fixture
def gateway(house, stack):
    return house.serve(stack)


def test_a_request_is_found_by_the_id_that_its_answer_had(house, gateway):
    request_id, _ = house.chat("hello", key=KEY, tags="project=red")
    row = house.read("logs", "show", request_id)
    assert row["id"] == request_id
    assert (row["status"], row["outcome"], row["cache"]) == (200, "ok", "miss")
    assert row["tags"] == {"project": "red"}
    assert row["key"].startswith("pass-")
    assert row["usage_source"] == "upstream"
    assert row["ms"]["total"] > 0
    assert "ms.total" in house.run("logs", "show", request_id)
    house.run("logs", "show", "01K8ZQ4T3V9N2M6R7X5B1C0D8E", code=1)
    assert KEY not in "".join(house.said)


def test_filters_and_forms(house, gateway):
    first, _ = house.chat("hello", key=KEY)
    second, _ = house.chat("hello", key=KEY)
    third, _ = house.chat("hello", key=KEY, model="echo\x1b[31m")
    assert [row["id"] for row in house.read("logs")] == [third, second, first]
    assert [row["id"] for row in house.read("logs", "--limit", "1")] == [third]
    assert [row["id"] for row in house.read("logs", "--cache", "hit")] == [second]
    assert [row["id"] for row in house.read("logs", "--model", "echo")] == [second, first]
    assert house.read("logs", "--status", "5xx") == []
    assert len(house.read("logs", "--status", "2xx", "--since", "1h")) == 3
    table = house.run("logs")
    assert "\x1b" not in table
    assert table.splitlines()[0].split()[:3] == ["time", "id", "key"]
    rows = list(csv.DictReader(io.StringIO(house.run("logs", "--format", "csv"))))
    assert [row["id"] for row in rows] == [third, second, first]
    assert rows[1]["cache"] == "hit"
    assert json.loads(rows[0]["tags"]) == {}


def test_without_a_server_the_rows_are_read_from_the_file(house, gateway):
    request_id, _ = house.chat("hello", key=KEY)
    gateway.__exit__(None, None, None)
    assert [row["id"] for row in house.read("logs")] == [request_id]
    assert json.loads(house.run("logs", "--follow", "--format", "json"))["id"] == request_id


KEEPING = CONFIG | {"journal": {"bodies": True}}


def test_what_is_kept_is_searched_shown_and_exported(house, stack):
    house.serve(stack, KEEPING)
    first, _ = house.chat("where is order 4711", key=KEY)
    second, _ = house.chat("where is order 4712", key=KEY)
    assert [row["id"] for row in house.read("logs", "--search", "order 4711")] == [first]
    assert [row["id"] for row in house.read("logs", "--search", "ORDER 47")] == [second, first]
    house.run("logs", "--search", '"*', code=2)
    lines = house.run("logs", "--bodies", "--format", "jsonl", "--limit", "99").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [second, first]
    assert "4711" in json.loads(lines[1])["kept"]["request"]["body"]
    page = house.run("logs", "show", first)
    page = page[page.index("\ntimeline\n") :]
    parts = ["arrived", "received", "admitted", "looked_up", "connected", "first_byte"]
    parts += ["last_byte", "booked", "\nrequest\n", "where is order 4711", "\nresponse\n"]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert "authorization: [redacted]" in page.lower()
    assert KEY not in "".join(house.said)


@pytest.mark.parametrize("words", [(), ("--search", "order")], ids=["all", "of a search"])
def test_follow_shows_each_request_as_it_is_booked_until_ctrl_c(house, stack, words):
    house.serve(stack, KEEPING)
    before, _ = house.chat("order before", key=KEY)
    process = subprocess.Popen(
        house.command("logs", "--follow", "--format", "json", *words),
        cwd=house.folder,
        env=environment({"PYTHONUNBUFFERED": "1"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Who runs tests in the background has them ignore SIGINT, and each child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    lines = Lines(process.stdout)
    try:
        lines.until(lambda said: any(before in line for line in said) or None)
        after, _ = house.chat("order after", key=KEY)
        lines.until(lambda said: any(after in line for line in said) or None)
        assert [json.loads(line)["id"] for line in lines.all] == [before, after]
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        lines.close()


@pytest.mark.parametrize("words", [(), ("--follow",), ("--format", "csv")])
def test_bodies_are_for_json(house, words):
    """A table has no room for them; said, not left out."""
    house.run("logs", "--bodies", *words, code=2)
    assert "logs show ID" in house.said[-1]
