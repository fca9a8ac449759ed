"""`gateway logs`: found, paged, followed, shown."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess

import pytest

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


def test_follow_shows_each_request_as_it_is_booked_until_ctrl_c(house, gateway):
    before, _ = house.chat("before", key=KEY)
    process = subprocess.Popen(
        house.command("logs", "--follow", "--format", "json"),
        cwd=house.folder,
        env=environment({"PYTHONUNBUFFERED": "1"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = Lines(process.stdout)
    try:
        lines.until(lambda said: any(before in line for line in said) or None)
        after, _ = house.chat("after", key=KEY)
        lines.until(lambda said: any(after in line for line in said) or None)
        assert [json.loads(line)["id"] for line in lines.all] == [before, after]
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        lines.close()
