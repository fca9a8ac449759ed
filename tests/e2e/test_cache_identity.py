"""What an equal request is, over HTTP: on doubt, another one (C1-C4; design.md, "What identifies an
equal request")."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cached import ask, state
from tests.e2e.conftest import Start, caching_config
from tests.e2e.process import Gateway
from tests.scripted.client import Scripted
from tests.scripted.providers import SCHEMA, TEXT, TOOLS
from tests.scripted.replies import completion, reply, stream

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
FULL: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, IMAGE], "name": "ann"},
    ],
    "temperature": 0.7,
    "top_p": 1,
    "seed": 7,
    "stop": ["\n", "END"],
    "n": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100},
    "presence_penalty": 0.0,
    "max_tokens": 100,
    "max_completion_tokens": 100,
    "response_format": SCHEMA,
    "tools": TOOLS,
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "hi"},
    "service_tier": "auto",
    "user": "ann",
    "metadata": {"run": "1"},
    "store": False,
    "made_up": {"deep": [1, {"er": None}]},
}


@pytest.fixture
def model(up: Scripted) -> str:
    """A model that always answers the same."""
    return up.play(reply(completion()))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a body, containers too."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in pairs:
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*path, name))
        else:
            yield (*path, name)


def parent(body: Any, path: tuple[Any, ...]) -> Any:
    for name in path[:-1]:
        body = body[name]
    return body


def other(value: Any) -> Any:
    """Something of the same kind, and valid where the gateway reads it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + " "
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, value[0]]
    return {**value, "another": 1} if isinstance(value, dict) else "not null"


# Equal --------------------------------------------------------------------------------------------


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "written",
    [
        lambda body: json.dumps(backwards(body)),
        lambda body: json.dumps(body, indent=3, ensure_ascii=False),
        lambda body: "\r\n\t " + json.dumps(body, separators=(",", ":")) + "\n",
        lambda body: json.dumps(body).replace('"hi"', '"\\u0068\\u0069"').replace("/", "\\/"),
        lambda body: json.dumps(body).replace('"seed"', '"\\u0073eed"'),
        lambda body: json.dumps(body).replace("0.7", "7e-1").replace("0.0", "0.000"),
        lambda body: json.dumps(body | {"stream": False}),
        lambda body: json.dumps(body | {"stream": None, "stream_options": None}),
        lambda body: json.dumps(body | {"stream_options": {"include_usage": True}}),
    ],
    ids=["order", "indented", "spaces", "escapes", "escaped-name", "numbers", "false", "null",
         "usage"],
)  # fmt: skip
def test_written_otherwise_is_equal(
    caching: Gateway, up: Scripted, model: str, written: Any
) -> None:
    body = {"model": model, **FULL}
    first = ask(caching, json.dumps(body).encode())
    again = ask(caching, written(body).encode())
    assert (state(first), state(again)) == ("miss", "hit")
    assert again.body == first.body
    assert len(up.calls(model)) == 1


def test_what_says_nothing_about_the_answer_makes_no_difference(
    caching: Gateway, up: Scripted, model: str
) -> None:
    """Headers of clients and of tracing, and the path as some clients write it."""
    body = {"model": model, **FULL}
    assert state(ask(caching, body)) == "miss"
    assert state(ask(caching, body, target="/chat/completions")) == "hit"
    more = [("User-Agent", "x"), ("X-Gateway-Tags", "a=b"), ("X-Stainless-Lang", "python"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("Accept", "*/*"), ("Idempotency-Key", "1")]  # fmt: skip
    assert state(ask(caching, body, *more)) == "hit"


# Not equal ----------------------------------------------------------------------------------------


def test_each_field_makes_a_difference(caching: Gateway, up: Scripted, model: str) -> None:
    """C1: every member, nested and unknown ones too: changed, left out, or with another beside
    it; all of them differ from each other, too."""
    body = {"model": model, **FULL}
    variants = [body]
    for path in leaves(FULL):
        changed = copy.deepcopy(body)
        owner = parent(changed, path)
        owner[path[-1]] = other(owner[path[-1]])
        variants.append(changed)
        if len(path) == 1 and path != ("messages",):
            variants.append({k: v for k, v in body.items() if k != path[0]})
        elif isinstance(owner, dict):
            less = copy.deepcopy(body)
            del parent(less, path)[path[-1]]
            variants.append(less)
    variants.append({**body, "unheard_of": None})
    variants.append({**body, "stream_options": {"include_obfuscation": False}})
    different = list({json.dumps(one, sort_keys=True): one for one in variants}.values())
    found = [(state(ask(caching, one)), one) for one in different]
    assert [one for word, one in found if word != "miss" and one.get("store") is not True] == []
    assert len(different) > 120
    assert state(ask(caching, body)) == "hit"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('"x": "US"', '"x": "us"'),
        ('"x": "hi"', '"x": "hi "'),
        ('"x": 0.7001', '"x": 0.7004'),
        ('"x": 1', '"x": 1.0'),
        ('"x": 1', '"x": true'),
        ('"x": 0.0', '"x": -0.0'),
        ('"x": 9007199254740993', '"x": 9007199254740992'),
        ('"x": 18446744073709551615', '"x": 18446744073709551614'),
        ('"x": null', '"y": null'),
        ('"x": []', '"x": {}'),
        ('"x": ""', '"x": null'),
        ('"x": "1"', '"x": 1'),
        ('"x": [1, 2]', '"x": [2, 1]'),
        ('"x": "\\u00e9"', '"x": "e\\u0301"'),
        ('"x": "a\\u0000"', '"x": "a"'),
        ('"x": "\\ud83d\\ude00"', '"x": "\\ud83d\\ude01"'),
    ],
)
def test_nearly_equal_is_not_equal(caching: Gateway, model: str, one: str, two: str) -> None:
    """C3, C4: no value is folded, trimmed, rounded or normalised."""
    said = [
        state(ask(caching, f'{{"model": "{model}", "messages": [], {x}}}'.encode()))
        for x in (one, two, one, two)
    ]
    assert said == ["miss", "miss", "hit", "hit"]


@pytest.mark.parametrize(
    "header",
    [("OpenAI-Organization", "org-2"), ("OpenAI-Project", "p"), ("OpenAI-Beta", "x=v2")],
    ids=lambda pair: pair[0],
)
def test_headers_with_a_meaning_make_a_difference(
    caching: Gateway, up: Scripted, header: tuple[str, str]
) -> None:
    """C2."""
    model, token = up.play(reply(completion()), prefix="own"), ("Authorization", "Bearer t")
    body = {"model": model, "messages": []}
    assert [state(ask(caching, body, token, *more)) for more in ((), (header,), (), (header,))] == [
        "miss", "miss", "hit", "hit",
    ]  # fmt: skip


def test_the_query_makes_a_difference(caching: Gateway, model: str) -> None:
    body = {"model": model, "messages": []}
    said = [
        state(ask(caching, body, target=f"/v1/chat/completions{query}"))
        for query in ("", "?api-version=1", "?api-version=2", "?api-version=1")
    ]
    assert said == ["miss", "miss", "miss", "hit"]


def test_ignored_fields_make_none(start: Start, up: Scripted, model: str) -> None:
    gateway = start(caching_config(up, ignore_fields=["user", "metadata"]))
    body = {"model": model, **FULL}
    assert state(ask(gateway, body)) == "miss"
    assert state(ask(gateway, body | {"user": "bob", "metadata": {"run": "2"}})) == "hit"
    assert state(ask(gateway, body | {"seed": 8})) == "miss"


# Without a canonical form -------------------------------------------------------------------------

ODD = {
    "NaN": '"x": NaN',
    "Infinity": '"x": -Infinity',
    "overflow": '"x": 1e999',
    "2^64": '"x": 18446744073709551616',
    "-2^63-1": '"x": -9223372036854775809',
    "high-surrogate": '"x": "\\ud800"',
    "low-surrogate": '"x": "a\\udc00b"',
    "surrogate-name": '"x": {"\\ud800": 1}',
    "deeper-duplicate": '"x": {"a": 1, "a": 1}',
    "duplicate-in-a-message": '"messages": [{"role": "user", "content": "1", "content": "2"}]',
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_readers_may_read_differently_is_relayed_and_not_kept(
    caching: Gateway, up: Scripted, model: str, odd: str
) -> None:
    """C3: the upstream's to judge, byte for byte."""
    rest = "" if "messages" in odd else ', "messages": []'
    body = f'{{ "model":"{model}", {odd}{rest} }}'.encode()
    answers = [ask(caching, body) for _ in range(2)]
    assert [state(answer) for answer in answers] == ["bypass", "bypass"]
    assert [answer.json() for answer in answers] == [completion()] * 2
    assert [call.body for call in up.calls(model)] == [body] * 2
    assert caching.log.wait(2, model=model, cache="bypass", cache_reason="not_canonical")


@pytest.mark.parametrize(
    "odd",
    ['"seed": 1, "seed": 2', '"seed": 1, "\\u0073eed": 1', '"Stream": true', '"MODEL": "m"',
     '"stream_Options": {}', '"N": 2', '"Max_Tokens": 1'],
)  # fmt: skip
def test_what_readers_would_read_differently_is_refused(
    caching: Gateway, up: Scripted, model: str, odd: str
) -> None:
    """A top-level name twice, or the twin of one that decides something."""
    answer = ask(caching, f'{{"model": "{model}", "messages": [], {odd}}}'.encode())
    answer.error(400, "invalid_request")
    assert state(answer) is None
    assert not up.calls(model)


@pytest.mark.parametrize(
    ("asks", "reason"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_what_an_answer_cannot_be_replayed_for(
    caching: Gateway, up: Scripted, model: str, asks: dict[str, Any], reason: str
) -> None:
    body = {"model": model, "messages": [], **asks}
    assert [state(ask(caching, body)) for _ in range(2)] == ["bypass", "bypass"]
    assert caching.log.wait(2, model=model, cache_reason=reason)


# Whoever runs -------------------------------------------------------------------------------------


def test_stable_over_processes_and_hash_seeds(tmp_path: Path, up: Scripted) -> None:
    """C3: tools and a schema, both forms; the key is the same, so the entry is."""
    config = caching_config(up)
    model = up.play(reply(TEXT.body), stream(TEXT.events))
    body = {"model": model, **FULL}
    keys = []
    for number, seed in enumerate(("0", "1", "4242")):
        with Gateway(tmp_path, config, env={"PYTHONHASHSEED": seed}) as gateway:
            answer = ask(gateway, json.dumps(body if number else backwards(body)).encode())
            assert state(answer) == ("hit" if number else "miss")
            again = ask(gateway, body)
            keys.append(again.header("x-gateway-cache-key"))
            assert keys[-1] == gateway.log.wait(number * 2 + 2, model=model)[-1]["cache_key"]
    assert len(set(keys)) == 1 and keys[0] and len(keys[0]) == 16
    assert len(up.calls(model)) == 1
