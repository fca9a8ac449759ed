"""After a mix of everything that can happen to a request, the upstream, the rows, their sums, the
metrics and the access log say the same, to the token and the nano-dollar (issue 4, proof 2; A8-A10,
B1-B4, G4)."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cached import admin, until
from tests.e2e.mixture import Mixture, Tokens, config
from tests.e2e.process import Gateway
from tests.e2e.test_books import Samples, by, settled, total
from tests.e2e.test_keys import command
from tests.scripted.client import Scripted
from tests.usage.samples import sums_are_the_rows

NANO = 10**9
BY = ("key", "team", "model", "day", "tag:project")
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
Row = dict[str, Any]


class Books:
    """All that was written of one run."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture, self.gateway = mixture, mixture.gateway
        sent = mixture.sent
        until(lambda: len(self._lines()) >= sent, f"{sent} access lines")
        self.lines: dict[str, Row] = {line["id"]: line for line in self._lines()}
        self.samples: Samples = settled(self.gateway, sent + len(mixture.refused))
        admin(self.gateway, "/admin/usage")  # waits for what is queued
        self.data = self.gateway.folder / "data"
        self.rows = read_rows(self.data)
        self.calls = mixture.calls()

    def _lines(self) -> list[Row]:
        return [line for line in self.gateway.log.look() if line["key"] is not None]

    def of(self, source: str) -> list[Row]:
        return [row for row in self.rows if row["usage_source"] == source]


def read_rows(data: Path) -> list[Row]:
    """All rows, by a connection that is nobody's."""
    with closing(sqlite3.connect(data / "ledger.db")) as base:
        base.row_factory = sqlite3.Row
        return [dict(row) for row in base.execute("SELECT * FROM requests ORDER BY seq")]


def tokens(row: Row) -> Tokens:
    return (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"],
            row["reasoning_tokens"])  # fmt: skip


def added(rows: list[Row], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


@pytest.fixture(
    scope="module",
    params=[2000, pytest.param(10_000, marks=pytest.mark.soak)],
    ids=["2,000", "10,000"],
)
def books(
    request: pytest.FixtureRequest,
    up: Scripted,
    closed_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Books]:
    folder = tmp_path_factory.mktemp("books")
    with Gateway(folder, config(up, closed_port)) as gateway:
        mixture = Mixture(gateway, up)
        mixture.run(request.param)
        yield Books(mixture)


def test_one_row_for_each_valid_caller_s_request_and_none_for_others(books: Books) -> None:
    """B1."""
    ids = [row["id"] for row in books.rows]
    assert len(ids) == len(set(ids)) == books.mixture.sent
    assert set(books.mixture.read) <= set(ids)
    assert books.mixture.refused
    assert not set(books.mixture.refused) & set(ids)
    assert set(ids) == set(books.lines)


def test_tokens_are_the_upstream_s_own(books: Books) -> None:
    """A8, A9, B4: each row against the very call it is of, and all of them together."""
    said = books.mixture.served
    rows = [row for row in books.of("upstream") if row["upstream"] != "echo"]
    found = {row["upstream_request_id"]: tokens(row) for row in rows}
    assert len(found) == len(rows), "a call was booked twice, or under no name"
    assert found == {name: said[name] for name in found}
    missing = set(said) - set(found)
    assert missing <= books.mixture.unsure, "an answer that was whole is not booked as it was"
    whole = [served for name, served in said.items() if name not in missing]
    for name, column in zip(TOKENS, zip(*whole, strict=True), strict=True):
        assert added(rows, name) == sum(column)


def test_all_other_tokens_are_marked(books: Books) -> None:
    """A10, B3: an estimate says so; a hit, a join, an error and a refusal have none."""
    sources = Counter(row["usage_source"] for row in books.rows)
    assert set(sources) == {"upstream", "estimated", "cache", "none"}
    for row in books.of("none") + books.of("cache"):
        assert tokens(row) == (0, 0, 0, 0)
        assert not row["cost_nano"]
    assert {row["cache"] for row in books.of("cache")} == {"hit", "joined"}
    kinds = books.mixture.kinds
    hits, joins = kinds["again"] // 3 * 2, kinds["join"] // 4 * 3
    caches = Counter(row["cache"] for row in books.rows)
    assert (caches["hit"], caches["joined"]) == (hits, joins)
    estimated = books.of("estimated")
    assert {row["model"] for row in estimated} >= {"keyed-silent", "keyed-silent-json", "keyed-cut"}
    broken = {"upstream_truncated", "upstream_in_band_error", "client_disconnect"}
    assert {row["outcome"] for row in estimated} == {"ok", *broken}
    refused = [row for row in books.rows if row["outcome"] in ("upstream_status", "refused")]
    assert {row["usage_source"] for row in refused} == {"none"}


def test_attempts_are_the_upstream_s_own_count_of_calls(books: Books) -> None:
    """A retry without `stream_options` is a second call."""
    booked: Counter[str] = Counter()
    for row in books.rows:
        if row["model"] in books.calls:
            booked[row["model"]] += row["attempts"]
    assert booked == {name: len(calls) for name, calls in books.calls.items()}
    assert sum(booked.values()) > books.mixture.sent / 2
    assert booked["shy-one"] == 4


def test_each_access_line_says_what_its_row_says(books: Books) -> None:
    same = (
        *(*TOKENS, "usage_source", "saved_tokens", "key", "team", "model", "upstream"),
        *("upstream_request_id", "endpoint", "cache", "cache_key", "attempts"),
    )
    for row in books.rows:
        line = books.lines[row["id"]]
        assert {name: line[name] for name in same} == {name: row[name] for name in same}
        assert json.loads(row["tags"] or "{}") == line["tags"]
        assert row["cost_nano"] == nano(line["cost_usd"]), row["id"]
        if row["saved_tokens"]:
            assert row["saved_cost_nano"] == nano(line["saved_cost_usd"]), row["id"]
        if line["outcome"] != "client_disconnect":  # which may come after the row
            assert (row["outcome"], row["error"]) == (line["outcome"], line["error"])
            assert row["status"] == line["status"]


def nano(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * NANO)


def money(samples: Samples, name: str, key: str) -> int | None:
    """One key's sum over all models."""
    own = [value for (found, labels), value in samples.items()
           if found == name and dict(labels)["key"] == key]  # fmt: skip
    return nano(sum(own))


def test_metrics_say_what_the_rows_say(books: Books) -> None:
    """G4: tokens and money by key, requests by what the cache was to them."""
    rows, samples = books.rows, books.samples
    families = {
        "gateway_input_tokens_total": "prompt_tokens",
        "gateway_output_tokens_total": "completion_tokens",
        "gateway_cached_input_tokens_total": "cached_tokens",
        "gateway_reasoning_tokens_total": "reasoning_tokens",
    }
    for key in {row["key"] for row in rows}:
        own = [row for row in rows if row["key"] == key]
        sure = [row for row in own if row["usage_source"] == "upstream"]
        for family, column in families.items():
            assert by(samples, family, "key").get(key, 0) == added(sure, column)
        for family, column in (
            ("gateway_cost_usd_total", "cost_nano"),
            ("gateway_cache_saved_cost_usd_total", "saved_cost_nano"),
        ):
            assert money(samples, family, key) == added(own, column)
    assert total(samples, "gateway_cache_saved_tokens_total") == added(rows, "saved_tokens") > 0
    estimated = Counter[str]()
    for row in books.of("estimated"):
        estimated[row["key"]] += row["prompt_tokens"] + row["completion_tokens"]
    told = by(samples, "gateway_estimated_tokens_total", "key")
    assert {key: count for key, count in told.items() if count} == estimated
    asked = by(samples, "gateway_key_requests_total", "key")
    assert {key: n for key, n in asked.items() if n} == Counter(row["key"] for row in rows)
    assert total(samples, "gateway_cache_saved_seconds_total") > 0
    caches = Counter(row["cache"] for row in rows)
    caches["none"] += len(books.mixture.refused)
    assert by(samples, "gateway_requests_total", "cache") == caches
    durations = by(samples, "gateway_request_duration_seconds_count", "cache")
    assert durations == caches, "a request has no duration, or two"
    calls = [row for row in rows if row["attempts"]]
    assert total(samples, "gateway_upstream_requests_total") == len(calls)
    assert total(samples, "gateway_ledger_commit_seconds_count") >= len(
        [row for row in calls if row["outcome"] == "ok"]
    )
    assert total(samples, "gateway_usage_estimated_total") == len(books.of("estimated"))
    unpriced = [r for r in rows if r["cost_nano"] is None and r["usage_source"] != "none"]
    assert total(samples, "gateway_unpriced_requests_total") == len(unpriced) > 0


def summed(rows: list[Row], names: tuple[str, ...]) -> dict[tuple[str | None, ...], Row]:
    """What `gateway usage --by NAMES` is to say, from the rows by hand."""
    found: dict[tuple[str | None, ...], Counter[str]] = {}
    for row in rows:
        here = {
            "key": row["key"],
            "team": row["team"],
            "model": row["model"] if row["upstream"] else None,
            "day": day_of(row["at"]),
            "tag:project": json.loads(row["tags"] or "{}").get("project"),
        }
        sums = found.setdefault(tuple(here[name] for name in names), Counter())
        both = row["prompt_tokens"] + row["completion_tokens"]
        sums.update({name: row[name] for name in (*TOKENS, "saved_tokens")})
        sums.update(
            requests=1,
            cost_nano=row["cost_nano"] or 0,
            saved_cost_nano=row["saved_cost_nano"] or 0,
            unpriced_requests=row["cost_nano"] is None and both > 0,
            estimated_tokens=both * (row["usage_source"] == "estimated"),
        )
    return {names: dict(sums) for names, sums in found.items()}


def day_of(at: int) -> str:
    with closing(sqlite3.connect(":memory:")) as base:
        [(day,)] = base.execute("SELECT date(? / 1000, 'unixepoch')", (at,))
    return str(day)


def as_sums(row: Row, names: tuple[str, ...]) -> tuple[tuple[str | None, ...], Row]:
    """A row of the answer, money in whole nano-dollars."""
    sums = {name: value for name, value in row.items() if name not in names}
    for name in ("cost", "saved_cost"):
        sums[f"{name}_nano"] = round(float(sums.pop(f"{name}_usd") or 0) * NANO)
    return tuple(row[name] for name in names), {name: int(value) for name, value in sums.items()}


def test_usage_says_what_the_rows_say_in_every_combination(books: Books) -> None:
    """Every one of the 32, over HTTP; sums of sums are the rows themselves."""
    for size in range(len(BY) + 1):
        for names in combinations(BY, size):
            answer = admin(books.gateway, f"/admin/usage?by={','.join(names)}")
            told = dict(as_sums(row, names) for row in answer)
            assert len(told) == len(answer)
            assert told == summed(books.rows, names), names
    sums_are_the_rows(books.data)


def test_the_command_says_it_in_three_forms(books: Books) -> None:
    words = ("usage", "--by", ",".join(BY))
    expected = summed(books.rows, BY)
    rows = json.loads(command(books.gateway, *words, "--format", "json"))
    assert dict(as_sums(row, BY) for row in rows) == expected
    text = command(books.gateway, *words, "--format", "csv")
    told = list(csv.DictReader(io.StringIO(text)))
    blank = [{name: value or None for name, value in row.items()} for row in told]
    assert dict(as_sums(row, BY) for row in blank) == expected
    header, *lines = command(books.gateway, "usage", "--by", "key").splitlines()
    place = header.split().index("requests")
    requests = {line.split()[0]: int(line.split()[place]) for line in lines}
    assert requests == Counter(row["key"] for row in books.rows)


def test_logs_show_every_row_once(books: Books) -> None:
    """Page by page, the newest first, and a failed one by its status."""
    rows = json.loads(command(books.gateway, "logs", "--limit", "1000000", "--format", "json"))
    assert [row["id"] for row in rows] == sorted((row["id"] for row in books.rows), reverse=True)
    failed = json.loads(
        command(books.gateway, "logs", "--status", "5xx", "--limit", "100000", "--format", "json")
    )
    assert {row["id"] for row in failed} == {
        row["id"] for row in books.rows if row["status"] >= 500
    }
