"""A real model through the gateway: the client matrix in short, and the bytes of a real stream.

Greedy decoding (temperature 0, a seed) makes one request twice the same text, so that what came
through the gateway can be held against what the server says directly.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.e2e.process import Gateway, environment
from tests.e2e.raw import CHAT, Events, Raw, request
from tests.e2e.test_clients import first_generation
from tests.real.conftest import MODEL

pytestmark = pytest.mark.real

ASKED: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 7, "max_tokens": 48}
BODY = {"model": MODEL, "messages": ASKED, **GREEDY}


@pytest.fixture
def client(house: Gateway) -> Any:
    with openai.OpenAI(base_url=house.v1, api_key="sk-none", max_retries=0, timeout=120) as found:
        yield found


@pytest.fixture
def direct(llama: str) -> Any:
    """The same client without the gateway."""
    with openai.OpenAI(base_url=f"{llama}/v1", api_key="sk-none", timeout=120) as found:
        yield found


def booked(house: Gateway, id: str, usage: Any) -> dict[str, Any]:
    """The access line agrees with the usage that the client read, to the token."""
    line = house.line(id=id)
    assert (line["status"], line["outcome"], line["usage_source"]) == (200, "ok", "upstream")
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert (line["prompt_tokens"], line["completion_tokens"]) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    return line


def test_json(client: openai.OpenAI, direct: openai.OpenAI, house: Gateway) -> None:
    got = client.chat.completions.with_raw_response.create(**BODY)
    said = got.parse()
    assert said.choices[0].message.content
    assert (
        said.choices[0].message.content
        == direct.chat.completions.create(**BODY).choices[0].message.content
    )
    booked(house, got.headers["x-gateway-request-id"], said.usage)


def test_stream(client: openai.OpenAI, direct: openai.OpenAI, house: Gateway) -> None:
    """Not asked for usage: none seen, all booked."""
    whole = direct.chat.completions.create(**BODY)
    got = client.chat.completions.with_raw_response.create(**BODY, stream=True)
    with got.parse() as chunks:
        seen = list(chunks)
    assert all(chunk.choices for chunk in seen)
    assert all(chunk.usage is None for chunk in seen)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in seen)
    assert text == whole.choices[0].message.content
    assert seen[-1].choices[0].finish_reason in ("stop", "length")
    booked(house, got.headers["x-gateway-request-id"], whole.usage)


def test_stream_with_usage(client: openai.OpenAI, house: Gateway) -> None:
    got = client.chat.completions.with_raw_response.create(
        **BODY, stream=True, stream_options={"include_usage": True}
    )
    with got.parse() as chunks:
        *_, last = chunks
    assert last.choices == []
    booked(house, got.headers["x-gateway-request-id"], last.usage)


def test_stream_bytes(house: Gateway) -> None:
    """Every event is whole, parses, and says one thing; the terminator stands once, at the end."""
    with Raw(house.address) as raw:
        raw.sock.settimeout(120)
        raw.send(request(CHAT, BODY | {"stream": True}))
        got = Events(raw)
        events = got.rest()
    assert (got.head.header("content-type") or "").startswith("text/event-stream")
    *said, done = events
    assert done == b"data: [DONE]\n\n"
    parsed = [json.loads(event.removeprefix(b"data: ")) for event in said]
    assert len({chunk["id"] for chunk in parsed}) == 1
    assert all(re.fullmatch(rb"data: [^\n]+\n\n", event) for event in said)


def test_chinese(client: openai.OpenAI) -> None:
    """Characters of several bytes, in the prompt and (maybe) in the answer, survive the stream."""
    asked: Any = [{"role": "user", "content": "请重复：你好，世界 🌍"}]
    with client.chat.completions.create(
        model=MODEL, messages=asked, stream=True, **GREEDY
    ) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text and "\ufffd" not in text.rstrip(
        "\ufffd"
    )  # a last character may be cut by max_tokens


def test_client_leaves(client: openai.OpenAI, house: Gateway) -> None:
    """The generation is let go: the server (of one slot) answers the next request."""
    got = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASKED, stream=True, max_tokens=4000, temperature=1.0
    )
    with got.parse() as chunks:
        next(iter(chunks))
    line = house.line(id=got.headers["x-gateway-request-id"])
    assert line["outcome"] == "client_disconnect"
    assert client.chat.completions.create(**BODY).choices[0].message.content


def test_error_of_the_server(client: openai.OpenAI, house: Gateway) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages="not a list")  # type: ignore[arg-type]
    line = house.line(id=caught.value.response.headers["x-gateway-request-id"])
    assert line["outcome"] == "upstream_status" and line["status"] == caught.value.status_code


def test_langchain(house: Gateway) -> None:
    model = ChatOpenAI(
        model=MODEL, base_url=house.v1, api_key=lambda: "sk-none", temperature=0, timeout=120
    )
    assert model.invoke("Say hello.").content
    assert "".join(str(part.content) for part in model.stream("Say hello."))
    model.root_client.close()


def test_first_generation(house: Gateway) -> None:
    said = first_generation(
        house,
        f"""
    asked = dict(model={MODEL!r}, messages=messages, temperature=0.6, max_tokens=32)
    response = openai.ChatCompletion.create(**asked)
    parts = openai.ChatCompletion.create(**asked, stream=True)
    text = "".join(part['choices'][0]['delta'].get('content') or '' for part in parts)
    print(json.dumps([response['choices'][0]['message']['content'], response['usage'], text]))
    """,
    )
    assert said[0] and said[2]
    assert said[1]["total_tokens"] == said[1]["prompt_tokens"] + said[1]["completion_tokens"] > 0


def test_curl(house: Gateway) -> None:
    done = subprocess.run(
        ["curl", "-sN", house.url + CHAT, "-d", json.dumps(BODY | {"stream": True})],
        env=environment(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.endswith(b"data: [DONE]\n\n")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()]
