"""Bytes in are bytes out, but for the documented edits: bodies, headers, timing (K1-K3, J1-J5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import HEADER_SECRET, OWN_TOKEN, PROVIDER_KEY, QUERY_SECRET
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    DONE,
    SSE_HEAD,
    chunk,
    completion,
    delta,
    finish,
    hello,
    reply,
    send,
    stream,
)

# What a codec would change: order, spaces, escapes, number forms, repeated names below the top
# level.
ODD = (
    b'{ "zeta":1 ,"model" : "%s","messages":[{"role":"user",'
    b'"content":"\\u4f60\\u597d \xe4\xb8\x96"}],\r\n'
    b'\t"unknown":{"b":1,"a":1.0,"a2":1e2,"big":123456789012345678901234567890,"b2":-0.0,"x":1,"x":2},'
    b'"temperature":0.60,"nan":NaN,"n":null } '
)


@pytest.mark.parametrize("prefix", ["open", "own", "shared"])
def test_request_body_is_untouched(house: Gateway, raw: Raw, up: Scripted, prefix: str) -> None:
    """K1."""
    model = up.play(reply(completion()), prefix=prefix)
    body = ODD % model.encode()
    answer = raw.ask(CHAT, body, headers=[("Authorization", f"Bearer {OWN_TOKEN}")])
    assert answer.status == 200
    assert up.wait(model, "ended").body == body


def test_injected_usage_is_the_only_edit(raw: Raw, up: Scripted) -> None:
    """A1: a stream that lacks it gets `stream_options`; what was written stays as it was
    written."""
    model = up.play(stream(hello()))
    body = ODD.replace(b'"n":null', b'"stream":true,"n":null') % model.encode()
    assert raw.ask(CHAT, body).status == 200
    sent = up.wait(model, "ended").body
    added = b'"stream_options":{"include_usage":true}'
    assert sent.replace(added + b",", b"").replace(b"," + added, b"") == body
    assert sent.count(added) == 1


def test_other_stream_options_are_kept(raw: Raw, up: Scripted) -> None:
    """A1: merged, not replaced."""
    model = up.play(stream(hello()))
    options = {"include_obfuscation": False, "unknown": [1]}
    assert raw.ask(CHAT, chat(model, stream=True, stream_options=options)).status == 200
    assert up.wait(model, "ended").json()["stream_options"] == options | {"include_usage": True}


def test_renamed_model(raw: Raw, house: Gateway, up: Scripted) -> None:
    up.play(reply(completion()), name="real-name")
    body = ODD % b"public-name"
    answer = raw.ask(CHAT, body)
    assert answer.status == 200
    assert up.wait("real-name", "ended").body == ODD % b"real-name"
    line = house.line(id=answer.id)
    assert (line["model"], line["model_served"]) == ("public-name", "real-name")


def test_response_body_is_untouched(raw: Raw, up: Scripted) -> None:
    """K1, the other way."""
    model = up.play([], [])
    body = ODD % b"anything"
    up.play(
        reply(body, headers=[("x-odd", "1")], kind="application/json; charset=UTF-8"), name=model
    )
    answer = raw.ask(CHAT, chat(model))
    assert answer.body == body
    assert answer.header("content-type") == "application/json; charset=UTF-8"
    assert answer.header("content-length") == str(len(body))


def test_response_without_length(raw: Raw, up: Scripted) -> None:
    """A JSON answer in chunks arrives as the same bytes."""
    body = json.dumps(completion("x" * 700_000)).encode()
    parts = [chunk(body[i : i + 100_000]) for i in range(0, len(body), 100_000)]
    start = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    model = up.play([send(start + b"".join(parts) + chunk(b""))])
    assert raw.ask(CHAT, chat(model)).body == body


def test_response_that_ends_with_the_connection(raw: Raw, up: Scripted) -> None:
    """HTTP/1.0 style upstream, JSON and stream."""
    body = json.dumps(completion()).encode()
    model = up.play(
        [send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body), ("cut",)],
        [send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
         send(b"".join(hello(usage=False))), ("cut",)],
    )  # fmt: skip
    assert raw.ask(CHAT, chat(model)).body == body
    assert raw.ask(CHAT, chat(model, stream=True)).body == b"".join(hello(usage=False))


def test_each_event_arrives_before_the_next_is_sent(raw: Raw, house: Gateway, up: Scripted) -> None:
    """J4: nothing is held back. The upstream sends event k+1 only when the test has read event
    k."""
    events = [delta(f"{n}") for n in range(5)]
    model = up.play(stream([*events, finish(), DONE], paced=True))
    raw.send(request(CHAT, chat(model, stream=True)))
    got = Events(raw)  # the head is here, and no event was sent yet
    assert up.wait(model, "head").sent == len(SSE_HEAD)
    for said in events:
        up.go(model)
        assert got.next() == said
    up.go(model, 3)
    assert got.rest() == [finish(), DONE]
    assert got.head.header("content-length") is None
    assert got.head.header("x-accel-buffering") == "no"
    assert got.head.header("cache-control") == "private, no-store, no-transform"
    assert got.head.header("content-type") == "text/event-stream; charset=utf-8"
    assert house.line(model=model)["outcome"] == "ok"


def test_comments_arrive_at_once(raw: Raw, up: Scripted) -> None:
    """J2: an upstream's keep-alive comments keep the client alive too."""
    ping = b": ping\n\n"
    model = up.play(stream([ping, ping, delta("Hi"), finish(), DONE], paced=True))
    raw.send(request(CHAT, chat(model, stream=True)))
    got = Events(raw)
    for _ in range(2):
        up.go(model)
        assert got.next() == ping
    up.go(model, 4)
    assert got.rest() == [delta("Hi"), finish(), DONE]


@pytest.mark.parametrize("cut", range(1, 28))
def test_characters_split_at_each_byte(raw: Raw, up: Scripted, cut: int) -> None:
    """J1: 你好🌍 in pieces is 你好🌍."""
    said = delta("你好🌍")
    at = said.index("你好".encode()) - 8 + cut
    model = up.play(stream([said[:at], said[at:], finish(), DONE]))
    assert raw.ask(CHAT, chat(model, stream=True)).body == said + finish() + DONE


# Headers ------------------------------------------------------------------------------------------


def test_headers_to_the_client(raw: Raw, house: Gateway, up: Scripted) -> None:
    """K2: what clients steer by passes, what belongs to a connection or a browser does not."""
    passed = {
        "x-request-id": "req_123",
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-should-retry": "true",
        "openai-processing-ms": "5",
        "openai-version": "2020-10-01",
        "openai-organization": "org-x",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    dropped = {
        "Set-Cookie": "session=canary",
        "Server": "cloudflare",
        "Alt-Svc": 'h3=":443"',
        "Connection": "x-hop, keep-alive",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authenticate": "Basic",
        "Trailer": "x",
        "Upgrade": "h2c",
        "X-Gateway-Cache": "hit",
        "X-Gateway-Request-Id": "forged",
        "Cache-Control": "public, max-age=999",
    }
    model = up.play(reply(completion(), headers=[*passed.items(), *dropped.items()]))
    answer = raw.ask(CHAT, chat(model))
    for name, value in passed.items():
        assert [v for k, v in answer.headers if k.lower() == name] == [value], name
    gone = {
        "set-cookie",
        "alt-svc",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "trailer",
        "upgrade",
    }
    assert not gone & answer.names
    assert answer.header("server") != "cloudflare"
    assert [v for k, v in answer.headers if k.lower() == "cache-control"] == [
        "private, no-store, no-transform"
    ]
    assert [v for k, v in answer.headers if k.lower() == "x-gateway-cache"] == ["bypass"]
    assert len(answer.id) == 26
    assert house.line(id=answer.id)["upstream_request_id"] == "req_123"


def test_request_id_is_ours_where_the_upstream_has_none(raw: Raw, up: Scripted) -> None:
    answer = raw.ask(CHAT, chat(up.play(reply(completion()))))
    assert answer.header("x-request-id") == answer.id


def sent_headers(raw: Raw, up: Scripted, prefix: str) -> dict[str, str]:
    """What the upstream sees of a request that carries everything."""
    model = up.play(reply(completion()), prefix=prefix)
    headers = [
        ("Authorization", f"Bearer {OWN_TOKEN}"),
        ("Cookie", "session=canary-cookie"),
        ("X-Forwarded-For", "10.1.1.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "for=10.1.1.1"),
        ("X-Real-IP", "10.1.1.1"),
        ("X-Gateway-Tags", "a=b"),
        ("X-Gateway-Log", "none"),
        ("Connection", "keep-alive, x-hop"),
        ("X-Hop", "1"),
        ("Proxy-Authorization", "Basic canary"),
        ("TE", "trailers"),
        ("Accept-Encoding", "gzip, br"),
        ("User-Agent", "OpenAI/Python 3.54.0"),
        ("X-Stainless-Lang", "python"),
        ("X-Stainless-Retry-Count", "0"),
        ("OpenAI-Beta", "assistants=v2"),
        ("Idempotency-Key", "idem-1"),
    ]
    assert raw.ask(CHAT, chat(model), headers=headers).status == 200
    seen = up.wait(model, "ended")
    assert len(seen.headers) == len(seen.names), "a header was sent twice"
    return {k.lower(): v for k, v in seen.headers}


GONE = {
    "cookie", "x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "x-hop", "te",
    "proxy-authorization", "x-gateway-tags", "x-gateway-log", "api-key", "transfer-encoding",
}  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "credential"),
    [("open", None), ("own", f"Bearer {OWN_TOKEN}"), ("shared", f"Bearer {PROVIDER_KEY}")],
)
def test_headers_to_the_upstream(
    raw: Raw, up: Scripted, prefix: str, credential: str | None
) -> None:
    """K3: each upstream sees its own credential and no other; cookies and forwarding stay here."""
    seen = sent_headers(raw, up, prefix)
    assert not GONE & set(seen)
    assert seen.get("authorization") == credential
    assert seen["user-agent"] == "OpenAI/Python 3.54.0"
    assert seen["x-stainless-lang"] == "python"
    assert seen["openai-beta"] == "assistants=v2"
    assert seen["idempotency-key"] == "idem-1"
    assert seen["content-type"] == "application/json"
    assert seen.get("accept-encoding", "identity") == "identity"
    assert seen["host"] == f"127.0.0.1:{up.port}"
    assert seen["via"]
    canaries = {OWN_TOKEN, PROVIDER_KEY} - {(credential or "").removeprefix("Bearer ")}
    assert not any(canary in value for canary in canaries for value in seen.values())


def test_configured_headers_and_query(raw: Raw, up: Scripted) -> None:
    """Extra headers and query of the upstream are added, the client's query is kept."""
    model = up.play(reply(completion()), prefix="shared")
    assert raw.ask(CHAT + "?api-version=2&b=%20", chat(model)).status == 200
    seen = up.wait(model, "ended")
    assert seen.header("x-extra") == HEADER_SECRET
    path, _, query = seen.target.partition("?")
    assert path == "/v1/chat/completions"
    assert f"key={QUERY_SECRET}" in query.split("&")
    assert {"api-version=2", "b=%20"} <= set(query.split("&"))


def test_api_key_header_is_a_credential(raw: Raw, up: Scripted) -> None:
    model = up.play(reply(completion()), prefix="own")
    assert raw.ask(CHAT, chat(model), headers=[("api-key", OWN_TOKEN)]).status == 200
    seen = up.wait(model, "ended")
    assert seen.header("authorization") == f"Bearer {OWN_TOKEN}" and not seen.header("api-key")


def test_body_cannot_choose_the_upstream(raw: Raw, up: Scripted) -> None:
    """N4: `api_base` and its kin are members like any other."""
    model = up.play(reply(completion()))
    more: Any = {"api_base": "http://127.0.0.1:1", "base_url": "http://127.0.0.1:1", "api_key": "x"}
    assert raw.ask(CHAT, chat(model, **more)).status == 200
    assert up.wait(model, "ended").json() == chat(model, **more)


# Other paths --------------------------------------------------------------------------------------


def test_other_paths_are_relayed(raw: Raw, house: Gateway, up: Scripted) -> None:
    """K6: the same authentication and booking, any method, the query as it was written."""
    name = up.play(reply(b'{"object":"file"}', "201 Created"), reply(b"", "200 OK"))
    answer = raw.ask(f"/v1/files/{name}?a=%2F&b", b'{"x": 1}', method="PATCH")
    assert (answer.status, answer.body) == (201, b'{"object":"file"}')
    seen = up.wait(name, "ended")
    assert (seen.method, seen.target) == ("PATCH", f"/v1/files/{name}?a=%2F&b")
    assert seen.body == b'{"x": 1}'
    line = house.line(id=answer.id)
    assert (line["status"], line["outcome"], line["method"]) == (201, "ok", "PATCH")
    deleted = raw.ask(f"/v1/files/{name}", method="DELETE")
    assert deleted.status == 200
    assert up.wait(name, "ended", 1).method == "DELETE"


def test_own_key_relays_listed_paths_only(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A provider's key serves `paths`, nothing else (contract)."""
    model = up.play(reply(b"{}"), prefix="shared")
    answer = raw.ask("/v1/responses", {"model": model, "input": "x"})
    answer.error(404, "unknown_url")
    assert up.calls(model) == []
    assert raw.ask("/v1/embeddings", {"model": model, "input": "x"}).status == 200
    assert up.wait(model, "ended").target.startswith("/v1/embeddings?")


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1//chat/completions", "/v1/chat/completions"]
)
def test_base_urls_that_people_write(raw: Raw, up: Scripted, path: str) -> None:
    model = up.play(reply(completion()))
    assert raw.ask(path, chat(model)).status == 200
    assert up.wait(model, "ended").target == "/v1/chat/completions"


def test_twenty_megabytes_in_one_line(raw: Raw, house: Gateway, up: Scripted) -> None:
    """I2: no line is too long; the observer may stop looking, the bytes do not stop flowing."""
    said = b"".join([delta("x" * 20_000_000), finish(), DONE])
    model = up.play([send(SSE_HEAD + chunk(said) + chunk(b""))])
    answer = raw.ask(CHAT, chat(model, stream=True))
    assert answer.body == said
    assert house.line(id=answer.id)["outcome"] == "ok"
