"""`/admin/cache` as the control socket serves it, over a cache with known entries."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.admin.cache import PURGE, STATS
from gateway.admin.operation import Rooms
from gateway.entry import CacheStats
from gateway.errors import StorageError
from gateway.ports import PurgeFailed
from tests.cache.fake import FakeCache
from tests.cache.samples import entry, keep, key_of
from tests.control.test_socket import ask, served
from tests.exchanges import FixedClock

NOW = FixedClock().now()
BODY = '{"choices": [], "text": "canary-of-the-answer, ü"}'.encode()
ENTRIES = {
    "one": ("gpt-4o", "alice"),
    "two": ("gpt-4o-mini", "alice"),
    "three": ("gpt-4o", "bob"),
    "four": ("llama", "bob"),
}


@pytest.fixture
def cache() -> FakeCache:
    """Four entries; the request AGAIN was answered from the first."""
    made = FakeCache(FixedClock())
    for name, (model, key) in ENTRIES.items():
        found = entry(BODY, created=NOW - 60, model=model, key=key, request_id=f"ID-{name}")
        assert keep(made, key_of(name), found)
    made.remember("AGAIN", key_of("one"))
    return made


async def post(client, body: object):
    status, answer = await ask(client, "POST", "/admin/cache/purge", body)
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("selector", "gone"),
    [
        ({"key": "alice"}, {"one", "two"}),
        ({"key": "ALICE"}, set()),
        ({"model": "gpt-4o"}, {"one", "three"}),
        ({"model": "gpt-4o*"}, {"one", "two", "three"}),
        ({"model": "*"}, set(ENTRIES)),
        ({"request": "ID-three"}, {"three"}),
        ({"request": "AGAIN"}, {"one"}),
        ({"all": True}, set(ENTRIES)),
        ({"key": "alice", "model": "gpt-4o"}, {"one"}),
        ({"key": "bob", "model": "gpt-4o-mini"}, set()),
        ({"key": "bob", "request": "AGAIN"}, set()),
        ({"key": "bob", "all": True}, {"three", "four"}),
        ({"key": "bob", "model": None, "all": False}, {"three", "four"}),
    ],
)
async def test_a_purge_takes_what_matches_all_that_is_given(tmp_path, cache, selector, gone):
    async with served(tmp_path, cache) as client:
        assert await post(client, selector) == (200, {"purged": len(gone)})
    assert {name for name in ENTRIES if cache.find(key_of(name)) is None} == gone


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ({}, "key, model, request, or all"),
        ({"all": False}, "key, model, request, or all"),
        ({"key": None}, "key, model, request, or all"),
        ({"key": ""}, "length >= 1"),
        ({"key": "alice", "modle": "x"}, "unknown field `modle`"),
        ({"all": "true"}, "Expected `bool`"),
        ({"all": 1}, "Expected `bool`"),
        ({"key": ["alice"]}, "Expected `str | null`"),
        ([], "must be a JSON object"),
        ("all", "must be a JSON object"),
    ],
)
async def test_a_purge_that_is_not_clear_takes_nothing(tmp_path, cache, selector, says):
    """A misspelt member would make a purge take more than was meant."""
    async with served(tmp_path, cache) as client:
        status, answer = await post(client, selector)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert says in answer["error"]["message"]
    assert len(cache.entries) == len(ENTRIES)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_request"),
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"all": true, "all": true}', "invalid_request"),
    ],
)
async def test_a_body_that_is_not_clear(tmp_path, cache, body, code):
    async with served(tmp_path, cache) as client:
        status, answer = await post_raw(client, body)
    assert (status, answer["error"]["code"]) == (400, code)
    assert len(cache.entries) == len(ENTRIES)


async def test_a_body_that_is_too_large(tmp_path, cache):
    async with served(tmp_path, cache) as client:
        status, answer = await post_raw(client, b" " * (1 << 21))
    assert (status, answer["error"]["code"]) == (413, "request_too_large")


async def test_arguments_of_a_purge_stand_in_its_body_only(tmp_path, cache):
    async with served(tmp_path, cache) as client:
        status, _ = await ask(client, "POST", "/admin/cache/purge?key=alice", {"all": True})
    assert status == 400
    assert len(cache.entries) == len(ENTRIES)


async def post_raw(client, body: bytes):
    status, answer = await asyncio.to_thread(client.ask, "POST", "/admin/cache/purge", body)
    return status, json.loads(answer)


@pytest.mark.parametrize("request_id", ["UNKNOWN", "a/b", "%", "ü", "x" * 500])
async def test_an_id_that_nobody_knows(tmp_path, cache, request_id):
    async with served(tmp_path, cache) as client:
        status, answer = await post(client, {"request": request_id})
        assert (status, answer["error"]["code"]) == (404, "not_found")
        assert len(answer["error"]["message"]) < 200
    assert len(cache.entries) == len(ENTRIES)


async def test_one_entry(tmp_path, cache):
    async with served(tmp_path, cache) as client:
        for request_id in ("ID-one", "AGAIN"):
            status, answer = await ask(client, "GET", f"/admin/cache/{request_id}")
            assert status == 200
            assert b"canary" not in answer
            found = json.loads(answer)
            assert found == {
                "cache_key": key_of("one").hex()[:16],
                "scope": "issued:id-of-alice",
                "model": "gpt-4o",
                "upstream": "openai",
                "bytes": len(BODY),
                "forms": {
                    "json": {
                        "request_id": "ID-one",
                        "key": "alice",
                        "created": found["forms"]["json"]["created"],
                        "age": 60,
                        "ttl": 3540,
                        "bytes": len(BODY),
                        "prompt_tokens": 9,
                        "completion_tokens": 12,
                        "cached_tokens": 0,
                        "reasoning_tokens": 3,
                        "finish_reasons": ["stop"],
                    }
                },
            }
            assert found["forms"]["json"]["created"].endswith("Z")


async def test_an_answer_is_shown_to_who_asks_for_it(tmp_path, cache):
    async with served(tmp_path, cache) as client:
        _, answer = await ask(client, "GET", "/admin/cache/ID-one?body=1")
        assert json.loads(answer)["forms"]["json"]["body"] == BODY.decode()
        for query in ("body=perhaps", "bdy=1", "body=1&body=1", "id=ID-two"):
            status, _ = await ask(client, "GET", f"/admin/cache/ID-one?{query}")
            assert status == 400


async def test_the_figures(tmp_path, cache):
    cache.stats = lambda: CacheStats(enabled=True, stored=7)
    async with served(tmp_path, cache) as client:
        status, answer = await ask(client, "GET", "/admin/cache")
        assert status == 200
        found = json.loads(answer)
        assert (found["enabled"], found["stored"]) == (True, 7)
        assert {"entries", "bytes", "limit", "hits", "misses", "evictions"} <= set(found["memory"])
        assert {"state", "entries", "bytes", "errors", "dropped"} <= set(found["disk"])
        assert found["skipped"] == {}
        assert (await ask(client, "GET", "/admin/cache?by=key"))[0] == 400


async def test_a_disk_that_fails_is_not_a_purge_that_holds(cache):
    """C4: who asked must not believe that it is gone."""

    async def fails(_):
        raise PurgeFailed("the disk is locked")

    cache.purge = fails
    with pytest.raises(StorageError, match="the disk is locked"):
        await PURGE.run(Rooms(cache, FixedClock()), {"all": True})


async def test_why_answers_were_not_kept(cache):
    """D1."""
    rooms = Rooms(cache, FixedClock(), skipped=lambda: {"too_large": 3})
    found = await STATS.run(rooms, {})
    assert isinstance(found, dict)
    assert found["skipped"] == {"too_large": 3}
