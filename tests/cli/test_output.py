"""What commands show: tables, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands import output

ROWS = [
    {"name": "alice", "requests": 3, "bytes": 1536, "last": None, "open": True},
    {"name": 'b"o,b\n', "requests": 0, "bytes": 0, "last": "today", "open": False},
]
COLUMNS = ["name", "requests", "bytes", "last", "open"]


def test_a_listing_in_json_is_an_array_of_objects(capsys):
    output.listing(ROWS, COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    output.listing([], COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == []


def test_a_listing_in_csv_has_a_header_and_plain_numbers(capsys):
    output.listing(ROWS, COLUMNS, "csv")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        COLUMNS,
        ["alice", "3", "1536", "", "true"],
        ['b"o,b\n', "0", "0", "today", "false"],
    ]
    output.listing([], COLUMNS, "csv")
    assert capsys.readouterr().out == ",".join(COLUMNS) + "\n"


def test_a_table_is_for_people(capsys):
    output.listing(ROWS, COLUMNS, "table")
    assert capsys.readouterr().out.splitlines() == [
        "name     requests  bytes    last   open",
        "alice    3         1.5 KiB  -      true",
        'b"o,b\\n  0         0 B      today  false',
    ]


def test_only_a_table_cuts(capsys):
    long = "x" * 500
    output.record({"value": long}, "table")
    [line] = capsys.readouterr().out.splitlines()
    assert line == f"value  {'x' * (output.WIDEST - 1)}…"
    for form in ("json", "csv"):
        output.record({"value": long}, form)
        assert long in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 40, "3072.0 GiB"),
    ],
)
def test_sizes_have_a_unit(capsys, size, shown):
    output.record({"bytes": size}, "table")
    assert capsys.readouterr().out == f"bytes  {shown}\n"


@given(st.text())
def test_a_table_shows_nothing_that_a_terminal_obeys(text):
    shown = output.visible(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_what_stdout_cannot_write_is_no_failure():
    code = "from gateway.commands import output; output.record({'a': 'ü€\\ud800'}, 'table')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"a  \xfc\\u20ac\\ud800\n"
