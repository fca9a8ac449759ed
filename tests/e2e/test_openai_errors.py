"""The current openai client: which error is raised, and when it asks again (K2, K4, B12)."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.conftest import OWN_TOKEN, Start
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import (
    CUT,
    GATE,
    STALL,
    completion,
    delta,
    error,
    head,
    reply,
    send,
    stream,
)

HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        ("400 Bad Request", "context_length_exceeded", openai.BadRequestError),
        ("401 Unauthorized", "invalid_api_key", openai.AuthenticationError),
        ("403 Forbidden", "unsupported_country", openai.PermissionDeniedError),
        ("404 Not Found", "model_not_found", openai.NotFoundError),
        ("409 Conflict", "conflict", openai.ConflictError),
        ("422 Unprocessable Entity", "odd", openai.UnprocessableEntityError),
        ("429 Too Many Requests", "rate_limit_exceeded", openai.RateLimitError),
        ("500 Internal Server Error", "server_error", openai.InternalServerError),
        ("503 Service Unavailable", "engine_overloaded", openai.InternalServerError),
        ("529 Overloaded", "overloaded", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_upstream_errors_pass_with_status_and_body(
    client: openai.OpenAI,
    house: Gateway,
    up: Scripted,
    status: str,
    code: str,
    raised: type[openai.APIStatusError],
    streaming: bool,
) -> None:
    """K4: no 500 for a 429; J5: an error that answers a stream request is JSON."""
    model = up.play(reply(error(status, code), status, [("x-request-id", "req_e")]))
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model=model, messages=HI, stream=streaming)
    assert caught.value.status_code == int(status[:3])
    assert caught.value.body == error(status, code)["error"]
    assert caught.value.request_id == "req_e"
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (int(status[:3]), "upstream_status")


def test_bad_request_of_the_gateway(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=7, messages=HI)  # type: ignore[call-overload]
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("key", ["gw_" + "x" * 40, ADMIN_TOKEN])
def test_issued_looking_keys_never_leave_the_process(
    house: Gateway, up: Scripted, key: str
) -> None:
    """401, one body for all; `x-should-retry: false`, so the client asks once although it may ask
    thrice."""
    model = up.play(reply(completion()), prefix="own")
    with (
        openai.OpenAI(base_url=house.v1, api_key=key, max_retries=2) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.code == "invalid_api_key"
    assert key not in caught.value.response.text
    assert up.calls(model) == []


def test_upstream_not_allowed(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    model = up.play(reply(completion()), prefix="keyed")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.code == "upstream_not_allowed"
    assert up.calls(model) == []
    assert house.line(model=model)["outcome"] == "refused"


def test_model_not_found(client: openai.OpenAI, house: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody-serves-this", messages=HI)
    assert caught.value.code == "model_not_found"
    assert house.line(model="nobody-serves-this")["outcome"] == "refused"


def test_unknown_url(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.get("/../v2/nothing", cast_to=object)


def test_upstream_refused(client: openai.OpenAI, house: Gateway) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="down-refused", messages=HI)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert house.line(model="down-refused")["outcome"] == "upstream_error"


def test_upstream_silent(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    model = up.play([STALL], prefix="hasty")
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    assert up.wait(model, "ended").ended == "client_closed"
    assert house.line(model=model)["outcome"] == "upstream_timeout"


def test_clients_own_timeout(house: Gateway, up: Scripted) -> None:
    """The client gives up first: APITimeoutError there, a client that left here."""
    model = up.play([STALL])
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=0, timeout=0.3) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert up.wait(model, "ended").ended == "client_closed"
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (499, "client_disconnect")


def _cut_json(size: int) -> list[Step]:
    fields = [("Content-Type", "application/json"), ("Content-Length", str(size))]
    return [send(head(headers=fields)), send(b'{"id": "' + b"x" * (size // 2)), CUT]


def test_small_json_cut_is_a_readable_502(
    client: openai.OpenAI, house: Gateway, up: Scripted
) -> None:
    model = up.play(_cut_json(1000))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert house.line(model=model)["outcome"] == "upstream_truncated"


def test_large_json_cut_is_a_cut(client: openai.OpenAI, house: Gateway, up: Scripted) -> None:
    """What has been begun cannot be unsaid: the client must not take the half for the whole."""
    model = up.play(_cut_json(4_000_000))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=model, messages=HI)
    assert house.line(model=model)["outcome"] == "upstream_truncated"


@pytest.mark.parametrize(
    ("ending", "code", "outcome", "prefix"),
    [
        (CUT, "upstream_error", "upstream_truncated", "open"),
        (STALL, "upstream_timeout", "upstream_timeout", "hasty"),
    ],
)
def test_error_raised_inside_the_stream(
    client: openai.OpenAI,
    house: Gateway,
    up: Scripted,
    ending: Step,
    code: str,
    outcome: str,
    prefix: str,
) -> None:
    """B12: what came is delivered, then APIError, never a success."""
    model = up.play([*stream([delta("Hel")], close=False), ending], prefix=prefix)
    got = []
    with (
        pytest.raises(openai.APIError) as caught,
        client.chat.completions.create(model=model, messages=HI, stream=True) as chunks,
    ):
        for chunk in chunks:
            got.append(chunk.choices[0].delta.content)
    assert got == ["Hel"]
    assert type(caught.value) is openai.APIError and caught.value.code == code
    line = house.line(model=model)
    assert (line["status"], line["outcome"]) == (200, outcome)


def test_upstreams_own_error_inside_the_stream(
    client: openai.OpenAI, house: Gateway, up: Scripted
) -> None:
    """B13: passed on unchanged, booked as an error."""
    inside = b'data: {"error": {"message": "boom", "code": "engine"}}\n\n'
    model = up.play(stream([delta("Hel"), inside]))
    with (
        pytest.raises(openai.APIError, match="boom"),
        client.chat.completions.create(model=model, messages=HI, stream=True) as chunks,
    ):
        assert [c.choices[0].delta.content for c in chunks] == ["Hel"]
    assert house.line(model=model)["outcome"] == "upstream_in_band_error"


# Retries ------------------------------------------------------------------------------------------


def test_client_retries_as_the_upstream_says(house: Gateway, up: Scripted) -> None:
    """K2: `retry-after-ms` and `x-should-retry` reach the client unchanged; K4: each retry is a
    line of its own."""
    limited = reply(
        error("429", "rate_limit_exceeded"), "429 Too Many Requests", [("retry-after-ms", "1")]
    )
    model = up.play(limited, limited, reply(completion("third")))
    with openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client:
        said = client.chat.completions.create(model=model, messages=HI)
    assert said.choices[0].message.content == "third"
    lines = house.log.wait(3, model=model)
    assert [x["status"] for x in lines] == [429, 429, 200]
    assert [x["retry"] for x in lines] == [0, 1, 2]


def test_client_obeys_an_upstream_that_forbids_retries(house: Gateway, up: Scripted) -> None:
    headers = [("x-should-retry", "false"), ("retry-after", "1")]
    model = up.play(reply(error("500", "x"), "500 Internal Server Error", headers))
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model=model, messages=HI)
    assert caught.value.response.headers["retry-after"] == "1"
    assert len(up.calls(model)) == 1
    house.line(model=model)


def test_gateways_4xx_are_asked_once(house: Gateway) -> None:
    with (
        openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=2) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(model="asked-once", messages=HI)
    house.line(model="asked-once")


def test_overloaded(start: Start, up: Scripted) -> None:
    """503 with Retry-After where there are too many in flight; the one in flight is not hurt."""
    model = up.play([GATE, *reply(completion("first"))])
    gateway = start(max_in_flight=1)

    async def both() -> None:
        async with openai.AsyncOpenAI(
            base_url=gateway.v1, api_key=OWN_TOKEN, max_retries=0
        ) as client:
            first = asyncio.create_task(client.chat.completions.create(model=model, messages=HI))
            await asyncio.to_thread(up.wait, model, "head")
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="echo", messages=HI)
            up.go(model)
            assert (await first).choices[0].message.content == "first"
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert int(caught.value.response.headers["retry-after"]) >= 1

    asyncio.run(both())
