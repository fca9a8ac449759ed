"""Each client misses, then hits, in both forms, and cannot tell the two apart (issue 3; D5-D7)."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.e2e.cached import killed
from tests.e2e.conftest import OWN_TOKEN, Start, caching_config
from tests.e2e.process import Gateway, environment
from tests.e2e.raw import CHAT, chat
from tests.e2e.test_clients import ROOT, curl, first_generation
from tests.scripted.client import Scripted
from tests.scripted.providers import CASES, PROMPT, TEXT, TWO_CALLS, Case
from tests.scripted.replies import reply, stream

SOON_ON_DISK = 0.5  # seconds: the promise itself (design.md, "What may be kept")
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
USAGE: Any = {"stream_options": {"include_usage": True}}


def play(up: Scripted, case: Case, *, form: str, prefix: str = "open") -> str:
    """A model that answers in one form, once; another call would be a 404 of the upstream's."""
    answer = reply(case.body) if form == "json" else stream(case.events)
    gone = reply(b'{"error":{"message":"asked twice"}}', "404 Not Found")
    return up.play(answer, gone, prefix=prefix)


class Told:
    """What a client of one kind was told, as plain data; and what the gateway's header said."""

    def __init__(self, client: openai.OpenAI, case: Case) -> None:
        self.client, self.case = client, case

    def json(self, model: str) -> tuple[str, Any]:
        got = self.client.chat.completions.with_raw_response.create(
            model=model, messages=PROMPT, **self.case.asks
        )
        said = got.parse()
        assert isinstance(said, openai.types.chat.ChatCompletion)
        return got.headers["x-gateway-cache"], said.model_dump()

    def chunks(self, model: str, **more: Any) -> tuple[str, list[Any]]:
        got = self.client.chat.completions.with_raw_response.create(
            model=model, messages=PROMPT, stream=True, **self.case.asks, **more
        )
        return got.headers["x-gateway-cache"], list(got.parse())


class AsyncTold:
    """The same of the asynchronous client."""

    def __init__(self, client: openai.AsyncOpenAI, case: Case) -> None:
        self.client, self.case = client, case

    async def json(self, model: str) -> tuple[str, Any]:
        got = await self.client.chat.completions.with_raw_response.create(
            model=model, messages=PROMPT, **self.case.asks
        )
        return got.headers["x-gateway-cache"], got.parse().model_dump()

    async def chunks(self, model: str, **more: Any) -> tuple[str, list[Any]]:
        got = await self.client.chat.completions.with_raw_response.create(
            model=model, messages=PROMPT, stream=True, **self.case.asks, **more
        )
        found: Any = got.parse()
        return got.headers["x-gateway-cache"], [chunk async for chunk in found]


def dumped(chunks: list[Any]) -> list[Any]:
    return [chunk.model_dump() for chunk in chunks]


def accumulated(chunks: list[Any]) -> Any:
    """The completion that the client makes of a stream, without the helper's own additions; and
    llama.cpp's `timings`: of unknown members the helper keeps those of the first chunk alone."""
    building: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks:
        list(building.handle_chunk(chunk))
    timings = [found for c in chunks if (found := getattr(c, "timings", None))]
    more = {"timings": timings[-1]} if timings else {}
    return without(building.current_completion_snapshot.to_dict()) | more


def without(found: Any) -> Any:
    """Without the helper's additions, and without null: to its attributes null is absent."""
    if isinstance(found, list):
        return [without(item) for item in found]
    if not isinstance(found, dict):
        return found
    own = {"parsed", "parsed_arguments"} | ({"index"} if "function" in found else set())
    return {k: without(v) for k, v in found.items() if k not in own and v is not None}


# The current client -------------------------------------------------------------------------------


@EACH_CASE
def test_json(caller: openai.OpenAI, caching: Gateway, up: Scripted, case: Case) -> None:
    model, told = play(up, case, form="json"), Told(caller, case)
    live, replayed = told.json(model), told.json(model)
    assert (live[0], replayed[0]) == ("miss", "hit")
    assert replayed[1] == live[1]
    assert (live[1]["id"], live[1]["created"]) == (case.json["id"], case.json["created"])
    assert len(up.calls(model)) == 1
    line = caching.log.wait(model=model, cache="hit")[0]
    assert (line["prompt_tokens"], line["usage_source"]) == (0, "cache")


@EACH_CASE
def test_stream(caller: openai.OpenAI, up: Scripted, case: Case) -> None:
    """D5, D7: the usage chunk follows who asks, whoever it was that stored the answer."""
    model, told = play(up, case, form="stream"), Told(caller, case)
    live = told.chunks(model)
    assert live[0] == "miss"
    for asks in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        again = told.chunks(model, **asks)
        assert again[0] == "hit"
        assert dumped(again[1]) == dumped(live[1])
    with_usage = told.chunks(model, **USAGE)
    assert with_usage[0] == "hit"
    assert [chunk.to_dict() for chunk in with_usage[1]] == case.chunks
    assert len(up.calls(model)) == 1


@EACH_CASE
def test_stream_that_asked_for_usage(caller: openai.OpenAI, up: Scripted, case: Case) -> None:
    model, told = play(up, case, form="stream"), Told(caller, case)
    live, again = told.chunks(model, **USAGE), told.chunks(model, **USAGE)
    assert (live[0], again[0]) == ("miss", "hit")
    assert dumped(again[1]) == dumped(live[1])
    hidden = [chunk for chunk in live[1] if chunk.choices]
    assert dumped(told.chunks(model)[1]) == dumped(hidden)


@EACH_CASE
async def test_async(caching: Gateway, up: Scripted, case: Case) -> None:
    models = play(up, case, form="json"), play(up, case, form="stream")
    async with openai.AsyncOpenAI(base_url=caching.v1, api_key=OWN_TOKEN, max_retries=0) as client:
        told = AsyncTold(client, case)
        live, again = [await told.json(models[0]) for _ in range(2)]
        chunks, replayed = [await told.chunks(models[1]) for _ in range(2)]
    assert (live[0], again[0], chunks[0], replayed[0]) == ("miss", "hit", "miss", "hit")
    assert again[1] == live[1]
    assert dumped(replayed[1]) == dumped(chunks[1])


@EACH_CASE
def test_stored_as_a_stream_asked_as_json(caller: openai.OpenAI, up: Scripted, case: Case) -> None:
    """D6: what the client makes of the stream is what it gets as JSON."""
    model, told = play(up, case, form="stream"), Told(caller, case)
    live = told.chunks(model, **USAGE)[1]
    found, said = told.json(model)
    assert found == "hit"
    assert without(said) == accumulated(live)
    assert (said["id"], said["created"]) == (live[0].id, live[0].created)
    assert told.json(model) == (found, said)


@EACH_CASE
def test_stored_as_json_asked_as_a_stream(caller: openai.OpenAI, up: Scripted, case: Case) -> None:
    """D6, D7."""
    model, told = play(up, case, form="json"), Told(caller, case)
    live = told.json(model)[1]
    found, chunks = told.chunks(model, **USAGE)
    assert found == "hit"
    assert accumulated(chunks) == without(live)
    assert (chunks[0].id, chunks[0].created) == (live["id"], live["created"])
    assert not chunks[-1].choices and chunks[-1].usage.total_tokens
    silent = told.chunks(model)
    assert silent[0] == "hit"
    assert all(chunk.choices and chunk.usage is None for chunk in silent[1])


def test_a_form_that_cannot_be_built_is_kept_beside_the_first(
    caller: openai.OpenAI, up: Scripted
) -> None:
    """D6: audio is no text that could be joined; no conversion loses anything."""
    spoken = [{"audio": {"id": "a", "data": "UklG"}}, {"audio": {"data": "RgAA"}}]
    chunks = [
        {**TEXT.chunks[1], "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in spoken
    ]
    message = {"role": "assistant", "content": None, "audio": {"id": "a", "data": "UklGRgAA"}}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    case = Case("audio", TEXT.json | {"choices": [choice]}, [*chunks, *TEXT.chunks[-2:]])
    model, told = up.play(stream(case.events), reply(case.body)), Told(caller, case)
    assert [told.chunks(model)[0], told.json(model)[0]] == ["miss", "miss"]
    assert [told.chunks(model)[0], told.json(model)[0]] == ["hit", "hit"]
    assert [chunk.to_dict() for chunk in told.chunks(model, **USAGE)[1]] == case.chunks
    assert len(up.calls(model)) == 2


# Over restarts and kills --------------------------------------------------------------------------


class Everything:
    """Every case in both forms, asked of one gateway after the other."""

    def __init__(self, up: Scripted) -> None:
        self.up = up
        self.models = [(case, play(up, case, form="json"), play(up, case, form="stream"))
                       for case in CASES]  # fmt: skip

    def ask(self, gateway: Gateway) -> tuple[set[str], list[Any]]:
        """The states there were, and all that was said."""
        found, said = set(), []
        with openai.OpenAI(base_url=gateway.v1, api_key=OWN_TOKEN, max_retries=0) as client:
            for case, for_json, for_stream in self.models:
                told = Told(client, case)
                one, two = told.json(for_json), told.chunks(for_stream)
                three = told.chunks(for_stream, **USAGE)
                four = told.json(for_stream) if one[0] == "hit" else ("hit", None)
                found |= {one[0], two[0]}
                said.append([one[1], dumped(two[1]), dumped(three[1])])
                if four[1] is not None:
                    assert four[0] == "hit"
                    assert without(four[1]) == accumulated(three[1])
        return found, said

    def calls(self) -> int:
        return sum(len(self.up.calls(model)) for _, *both in self.models for model in both)


def test_over_a_restart_and_a_kill(tmp_path: Any, up: Scripted) -> None:
    """Equal objects, whoever runs: after SIGTERM, and after SIGKILL half a second later."""
    everything, config = Everything(up), caching_config(up)
    with killed(tmp_path, config) as first:
        found, live = everything.ask(first)
        assert found == {"miss"}
        time.sleep(SOON_ON_DISK)
    for _ in range(2):
        with Gateway(tmp_path, config) as next_one:
            assert everything.ask(next_one) == ({"hit"}, live)
    assert everything.calls() == 2 * len(CASES)


# The first-generation client, curl ----------------------------------------------------------------

OLD_CLIENT = """
    def plain(found):
        return found.to_dict_recursive()

    def ask(model):
        return plain(openai.ChatCompletion.create(model=model, messages=messages))

    def listen(model):
        return [plain(chunk) for chunk in openai.ChatCompletion.create(
            model=model, messages=messages, stream=True)]
"""


@pytest.mark.parametrize("case", [TEXT, TWO_CALLS], ids=lambda case: case.name)
def test_first_generation(caching: Gateway, up: Scripted, case: Case) -> None:
    """Miss, hit and the other form, in both directions."""
    one, two = play(up, case, form="json"), play(up, case, form="stream")
    said = first_generation(
        caching,
        OLD_CLIENT
        + f"""
    print(json.dumps([ask({one!r}), ask({one!r}), listen({two!r}), listen({two!r}),
                      listen({one!r}), ask({two!r})]))
    """,
    )
    live, replayed, chunks, replayed_chunks, built_chunks, built = said
    assert replayed == live == case.json
    assert replayed_chunks == chunks == [chunk for chunk in case.chunks if chunk["choices"]]
    joined = "".join(c["choices"][0]["delta"].get("content") or "" for c in built_chunks)
    assert joined == (case.json["choices"][0]["message"]["content"] or "")
    assert built["choices"][0]["finish_reason"] == case.json["choices"][0]["finish_reason"]
    for model in (one, two):
        lines = caching.log.wait(3, model=model)
        assert [line["cache"] for line in lines] == ["miss", "hit", "hit"]
        assert len(up.calls(model)) == 1


@pytest.fixture
def asking(caching: Gateway) -> Iterator[Any]:
    """curl's answer: the cache's word from the head, and the body's bytes."""

    def ask_curl(model: str, *args: str, **more: Any) -> tuple[str, bytes]:
        got = curl("-i", *args, caching.url + CHAT, "-d", json.dumps(chat(model, **more)))
        head, _, body = got.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        return fields["x-gateway-cache"], body

    yield ask_curl


def test_curl(asking: Any, up: Scripted) -> None:
    model = play(up, TEXT, form="json")
    assert asking(model) == ("miss", TEXT.body)
    assert asking(model) == ("hit", TEXT.body)


def test_curl_streams(asking: Any, up: Scripted) -> None:
    model = play(up, TEXT, form="stream")
    silent = b"".join(TEXT.events[:-2] + TEXT.events[-1:])
    assert asking(model, "-N", stream=True) == ("miss", silent)
    assert asking(model, "-N", stream=True) == ("hit", silent)
    found, said = asking(model)
    assert (found, json.loads(said)["choices"][0]["message"]["content"]) == (
        "hit",
        "Regen, 12 °C. 🌧",
    )


def test_the_readmes_first_screen(start: Start, up: Scripted) -> None:
    """Its own command, twice, and with its way to ask anew: the headers are those it shows."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^```sh\n(curl -i .*?)\n```", readme, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```http\n(.*?)\n```", readme, re.DOTALL | re.MULTILINE)
    (anew,) = re.findall(r"add `(-H '[^`]*)`", readme)
    gateway = start({"cache": {}})  # as shipped
    told = []
    for line in (command, command, f"{command} {anew}"):
        done = subprocess.run(
            ["sh", "-c", line.replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}")],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        head = done.stdout.partition("\n\n")[0].lower().splitlines()[1:]
        told.append(dict(field.split(": ", 1) for field in head if field))
    assert [fields["x-gateway-cache"] for fields in told] == ["miss", "hit", "miss"]
    promised = dict(field.split(": ", 1) for field in shown.splitlines())
    assert promised.keys() <= told[1].keys()
    fixed = {"x-gateway-cache-key", "x-gateway-saved-tokens"}
    assert {k: told[1][k] for k in fixed} == {k: promised[k] for k in fixed}
