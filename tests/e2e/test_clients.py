"""Other clients, as their users have them: openai 0.27, LangChain, curl; and many at once (K5)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.e2e.conftest import OWN_TOKEN
from tests.e2e.process import Gateway, environment
from tests.e2e.raw import CHAT, chat
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import (
    DONE,
    ECHO,
    completion,
    delta,
    error,
    finish,
    hello,
    reply,
    stream,
)

ROOT = Path(__file__).parents[2]
FIRST_GENERATION = ROOT / ".venv-openai027" / "bin" / "python"

SNIPPET = """
    import json, sys
    import openai
    openai.api_key = {token!r}
    openai.api_base = {base!r}

    messages = [
        {{"role": "system", "content": "你是一个有用的助手。"}},
        {{"role": "user", "content": "你好，请介绍一下上海。"}},
        {{"role": "assistant", "content": "上海是中国的一座城市。"}},
        {{"role": "user", "content": "那里有什么好吃的？"}},
    ]
"""


def first_generation(house: Gateway, code: str, token: str = OWN_TOKEN) -> Any:
    """Run `code` after the snippet in the old client's environment; what it prints, as JSON."""
    assert FIRST_GENERATION.exists(), (
        "`make test` sets up the first-generation client's environment"
    )
    program = SNIPPET.format(token=token, base=house.v1) + code
    done = subprocess.run(
        [str(FIRST_GENERATION), "-c", textwrap.dedent(program)],
        env=environment({"PYTHONIOENCODING": "utf-8"}),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_first_generation_json(house: Gateway, up: Scripted) -> None:
    """The issue's snippet, word for word but for the base URL."""
    model = up.play(reply(completion("小笼包。")), prefix="own")
    said = first_generation(
        house,
        f"""
    response = openai.ChatCompletion.create(model={model!r}, messages=messages, temperature=0.6)
    print(json.dumps([response['choices'][0]['message']['content'], response['usage']]))
    """,
    )
    assert said == ["小笼包。", {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}]
    sent = up.wait(model, "ended")
    assert [m["role"] for m in sent.json()["messages"]] == ["system", "user", "assistant", "user"]
    assert sent.json()["messages"][3]["content"] == "那里有什么好吃的？"
    assert sent.header("authorization") == f"Bearer {OWN_TOKEN}"
    assert house.line(model=model)["completion_tokens"] == 7


def test_first_generation_stream(house: Gateway, up: Scripted) -> None:
    """It indexes `choices[0]` of every chunk: the hidden usage event would break it (A3)."""
    model = up.play(stream([delta("小笼"), delta("包。"), *hello()[3:]]))
    said = first_generation(
        house,
        f"""
    text = ""
    for chunk in openai.ChatCompletion.create(
            model={model!r}, messages=messages, temperature=0.6, stream=True):
        text += chunk['choices'][0]['delta'].get('content', '')
    print(json.dumps(text))
    """,
    )
    assert said == "小笼包。"
    line = house.line(model=model)
    assert (line["outcome"], line["completion_tokens"]) == ("ok", 7)


def test_first_generation_echo_and_errors(house: Gateway, up: Scripted) -> None:
    limited = up.play(reply(error("429", "rate_limit_exceeded"), "429 Too Many Requests"))
    said = first_generation(
        house,
        f"""
    from openai import error
    response = openai.ChatCompletion.create(model='echo', messages=messages)
    found = [response['choices'][0]['message']['content']]
    for model, kind in ((7, error.InvalidRequestError), ('nobody', error.InvalidRequestError),
                        ({limited!r}, error.RateLimitError), ('down-1', error.APIError)):
        try:
            openai.ChatCompletion.create(model=model, messages=messages)
        except kind as caught:
            found.append([caught.http_status, caught.code or caught.json_body['error']['code']])
    print(json.dumps(found))
    """,
    )
    assert "那里有什么好吃的？" in said[0]
    assert said[1:] == [
        [400, "invalid_request"],
        [404, "model_not_found"],
        [429, "rate_limit_exceeded"],
        [502, "upstream_error"],
    ]


def test_first_generation_bad_key(house: Gateway) -> None:
    said = first_generation(
        house,
        """
    try:
        openai.ChatCompletion.create(model='echo', messages=messages)
    except openai.error.AuthenticationError as caught:
        print(json.dumps(caught.http_status))
    """,
        token="gw_unknown",
    )
    assert said == 401


def test_langchain(house: Gateway, up: Scripted) -> None:
    model = up.play(reply(completion("Bonjour")), stream(hello()))
    chat_model = ChatOpenAI(
        model=model, base_url=house.v1, api_key=lambda: OWN_TOKEN, max_retries=0
    )
    said = chat_model.invoke("hi")
    assert said.content == "Bonjour"
    assert said.usage_metadata and said.usage_metadata["total_tokens"] == 18
    assert "".join(str(part.content) for part in chat_model.stream("hi")) == "Hello"
    assert [x["outcome"] for x in house.log.wait(2, model=model)] == ["ok", "ok"]
    chat_model.root_client.close()


async def test_langchain_async(house: Gateway, up: Scripted) -> None:
    model = up.play(stream(hello()))
    chat_model = ChatOpenAI(
        model=model,
        base_url=house.v1,
        api_key=lambda: OWN_TOKEN,
        max_retries=0,
        stream_usage=True,
    )
    parts = [part async for part in chat_model.astream("hi")]
    assert "".join(str(part.content) for part in parts) == "Hello"
    assert sum(part.usage_metadata["total_tokens"] for part in parts if part.usage_metadata) == 18
    await chat_model.root_async_client.close()
    chat_model.root_client.close()


def curl(*args: str, stdin: bytes | None = None) -> bytes:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", *args],
        env=environment(),
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_curl(house: Gateway) -> None:
    """As a README says it, without a word about JSON's content type (curl then says
    form-urlencoded)."""
    body = json.dumps(chat("echo"))
    assert json.loads(curl(house.url + CHAT, "-d", body))["choices"][0]["message"]["content"]
    with_header = curl(
        house.url + "/chat/completions", "-H", "Content-Type: application/json", "-d", body
    )
    assert json.loads(with_header)["object"] == "chat.completion"


def test_curl_with_a_large_body(house: Gateway, up: Scripted) -> None:
    """curl sends `Expect: 100-continue` with bodies above 1 MB."""
    model = up.play(reply(completion()))
    body = json.dumps(chat(model, pad="x" * 3_000_000)).encode()
    got = curl(
        house.url + CHAT, "-H", "Content-Type: application/json", "--data-binary", "@-", stdin=body
    )
    assert json.loads(got) == completion()
    assert up.wait(model, "ended").body[:100] == body[:100]


def test_curl_streams(house: Gateway, up: Scripted) -> None:
    """`curl -N`: each event is on its stdout before the upstream sends the next (J4)."""
    events = [delta("Hel"), delta("lo"), finish(), DONE]
    model = up.play(stream(events, paced=True))
    with subprocess.Popen(
        ["curl", "-sN", house.url + CHAT, "-d", json.dumps(chat(model, stream=True))],
        env=environment(),
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout
        for said in events[:2]:
            up.go(model)
            assert running.stdout.readline() + running.stdout.readline() == said
        up.go(model, 5)
        assert running.stdout.read() == finish() + DONE
        assert running.wait(PATIENCE) == 0
    assert house.line(model=model)["outcome"] == "ok"


def test_curl_interrupted(house: Gateway, up: Scripted) -> None:
    """Somebody presses Ctrl-C."""
    model = up.play([*stream([delta("Hel")], close=False), ("stall",)])
    with subprocess.Popen(
        ["curl", "-sN", house.url + CHAT, "-d", json.dumps(chat(model, stream=True))],
        env=environment(),
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout and running.stdout.readline()
        running.terminate()
    assert up.wait(model, "ended").ended == "client_closed"
    assert house.line(model=model)["outcome"] == "client_disconnect"


@pytest.mark.parametrize("base", ["", "/v1", "/v1/", "/v1//"])
def test_base_urls(house: Gateway, base: str) -> None:
    """Clients that forgot /v1, and those that wrote a slash too many."""
    with openai.OpenAI(base_url=house.url + base, api_key=OWN_TOKEN, max_retries=0) as client:
        said = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "hi"}]
        )
    assert said.choices[0].message.content


@pytest.mark.parametrize("where", ["builtin", "upstream"])
async def test_two_hundred_at_once_each_gets_its_own(
    house: Gateway, up: Scripted, where: str
) -> None:
    """Interleaving: unique prompts through one pool, no answer in the wrong hands (B10)."""
    model = "echo" if where == "builtin" else up.play([ECHO])
    async with openai.AsyncOpenAI(
        base_url=house.v1, api_key=OWN_TOKEN, max_retries=0, timeout=60
    ) as client:

        async def one(n: int) -> bool:
            prompt = f"prompt number {n} of this test, 第{n}个"
            messages: Any = [{"role": "user", "content": prompt}]
            if where == "upstream" or n % 2:
                said = await client.chat.completions.create(model=model, messages=messages)
                return prompt in (said.choices[0].message.content or "")
            async with await client.chat.completions.create(
                model=model, messages=messages, stream=True
            ) as chunks:
                text = "".join([c.choices[0].delta.content or "" async for c in chunks])
            return prompt in text

        found = await asyncio.gather(*(one(n) for n in range(200)))
    assert found == [True] * 200


def test_interpreter_is_the_environments() -> None:
    """The gateway under test runs on the interpreter that runs the tests."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip()
