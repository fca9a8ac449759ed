"""Bad input is answered by name, readably, and never with a 500: the contract's error table, and
bombs (K4, N3)."""

from __future__ import annotations

import gzip
import json
from typing import Any

import openai
import pytest

from tests.e2e.conftest import OWN_TOKEN, Start, config_for
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.e2e.raw import CHAT, Cut, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import completion, reply

HI: Any = [{"role": "user", "content": "hi"}]
BEARER = "Authorization"
BAD = "invalid_request"
TOO_LARGE = "request_too_large"

Row = tuple[bytes, int, str]


def post(body: bytes, *headers: tuple[str, str], target: str = CHAT) -> bytes:
    return request(target, body, headers)


GOOD = json.dumps(chat("echo")).encode()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        pytest.param(*row, id=name)
        for name, row in {
            # Bodies.
            "no-body": (request(CHAT, headers=[("Content-Length", "0")]), 400, "invalid_json"),
            "not-json": (post(b"hello"), 400, "invalid_json"),
            "half": (post(GOOD[:-3]), 400, "invalid_json"),
            "two-values": (post(GOOD + GOOD), 400, "invalid_json"),
            "not-utf-8": (post(b'{"model":"echo","messages":"\xff\xfe"}'), 400, "invalid_json"),
            "utf-16": (post(GOOD.decode().encode("utf-16")), 400, "invalid_json"),
            "array": (post(b"[]"), 400, "invalid_request"),
            "string": (post(b'"echo"'), 400, "invalid_request"),
            "null": (post(b"null"), 400, "invalid_request"),
            "number-as-model": (post(b'{"model": 7, "messages": []}'), 400, "invalid_request"),
            "model-twice": (post(b'{"model":"echo","model":"x"}'), 400, "invalid_request"),
            "name-twice": (post(b'{"model":"echo","seed":1,"seed":2}'), 400, "invalid_request"),
            "escaped-twice": (post(b'{"model":"echo","m\\u006fdel":"x"}'), 400, "invalid_request"),
            **{
                f"case-{name}": (post(b'{"model":"echo","%s":1}' % name.encode()), 400, BAD)
                for name in ("Model", "STREAM", "Stream_Options", "N", "Max_tokens",
                             "max_Completion_tokens", "service_Tier")
            },
            "stream-is-text": (post(b'{"model":"echo","stream":"yes"}'), 400, "invalid_request"),
            "options-is-list": (
                post(b'{"model":"echo","stream":true,"stream_options":[]}'), 400, BAD),
            # Who asks.
            "issued": (post(GOOD, (BEARER, "Bearer gw_unknown")), 401, "invalid_api_key"),
            "issued-api-key": (post(GOOD, ("api-key", "gw_unknown")), 401, "invalid_api_key"),
            "admin": (post(GOOD, (BEARER, f"Bearer {ADMIN_TOKEN}")), 401, "invalid_api_key"),
            "injection": (post(GOOD, (BEARER, "Bearer gw_' OR '1'='1")), 401, "invalid_api_key"),
            "keyed": (post(json.dumps(chat("keyed-1")).encode()), 403, "upstream_not_allowed"),
            # What for.
            "model": (post(json.dumps(chat("nobody")).encode()), 404, "model_not_found"),
            "model-newline": (
                post(json.dumps(chat("no\r\nX-Evil: 1")).encode()), 404, "model_not_found"),
            "model-long": (post(json.dumps(chat("m" * 100_000)).encode()), 404, "model_not_found"),
            "url": (post(GOOD, target="/v2/chat/completions"), 404, "unknown_url"),
            "root": (request("/", method="GET"), 404, "unknown_url"),
            "dots": (post(GOOD, target="/v1/../admin/keys"), 404, "unknown_url"),
            "encoded-dots": (post(GOOD, target="/v1/%2e%2e/admin/keys"), 404, "unknown_url"),
            # How.
            "gzip": (
                post(gzip.compress(GOOD), ("Content-Encoding", "gzip")),
                415, "unsupported_encoding"),
            "br": (post(GOOD, ("Content-Encoding", "br")), 415, "unsupported_encoding"),
            "large": (
                request(CHAT, headers=[("Content-Length", str(65 << 20))]), 413, TOO_LARGE),
            "upload": (
                request("/v1/files", headers=[("Content-Length", str(2 << 30))]), 413, TOO_LARGE),
        }.items()
    ],
)  # fmt: skip
def test_table(house: Gateway, sent: bytes, status: int, code: str) -> None:
    """Each row: status, code, all four members of the error, whether to retry."""
    with Raw(house.address) as raw:
        answer = raw.send(sent).answer()
        error = answer.error(status, code)
    assert len(answer.body) < 2000, "an error must not carry its cause's megabytes"
    assert "gw_unknown" not in error["message"] and ADMIN_TOKEN not in error["message"]
    assert "x-evil" not in answer.names
    if status != 401:  # without a valid caller lines are sampled
        line = house.line(id=answer.id)
        assert (line["status"], line["outcome"], line["error"]) == (status, "refused", code)


def test_one_401_for_every_reason(house: Gateway, start: Start, up: Scripted) -> None:
    """No oracle: missing, unknown, malformed and administrative look alike."""
    config = config_for(up)
    config["keys"] = {"anonymous": "never", "passthrough": False}
    gateway = start(config)
    bodies = set()
    for headers in (
        [], [(BEARER, "Bearer gw_x")], [(BEARER, "Bearer sk-x")], [(BEARER, "Basic eDp5")],
        [(BEARER, "")], [(BEARER, f"Bearer {ADMIN_TOKEN}")], [("api-key", "gw_x")],
        [(BEARER, "Bearer gw_" + "x" * 5000)],
    ):  # fmt: skip
        with Raw(gateway.address) as raw:
            answer = raw.ask(CHAT, GOOD, headers=headers)
            answer.error(401, "invalid_api_key")
            bodies.add(answer.body)
    assert len(bodies) == 1


def test_anonymous_callers_may_be_refused(start: Start, up: Scripted) -> None:
    config = config_for(up)
    config["keys"] = {"anonymous": "never"}
    gateway = start(config)
    with Raw(gateway.address) as raw:
        raw.ask(CHAT, GOOD).error(401, "invalid_api_key")
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, GOOD, headers=[(BEARER, f"Bearer {OWN_TOKEN}")]).status == 200


# A client that is still sending -------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_too_large_is_readable_while_sending(start: Start, up: Scripted, chunked: bool) -> None:
    """H6: an honest 413 and not a reset, for the client that sends everything before it reads."""
    gateway = start(body_limit="1MiB")

    def body() -> Any:
        yield GOOD[:-1] + b', "pad": "'
        for _ in range(96):
            yield b"x" * 65536
        yield b'"}'

    data = b"".join(body())
    head = [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(len(data)))]
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, headers=[*head, ("Content-Type", "application/json")]))
        if chunked:
            for piece in body():
                raw.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            raw.send(b"0\r\n\r\n")
        else:
            raw.send(data)
        raw.answer().error(413, "request_too_large")
    assert gateway.log.wait(status=413)[0]["outcome"] == "refused"


@pytest.mark.parametrize(
    ("model", "raised"),
    [("echo", openai.APIStatusError), ("nobody", openai.APIStatusError)],
)
def test_openai_client_reads_413(
    start: Start, model: str, raised: type[openai.APIStatusError]
) -> None:
    """H6, as a user meets it: images as base64, far over the limit."""
    gateway = start(body_limit="1MiB")
    huge: Any = [{"role": "user", "content": "x" * 8_000_000}]
    with openai.OpenAI(base_url=gateway.v1, api_key=OWN_TOKEN, max_retries=0) as client:
        with pytest.raises(raised) as caught:
            client.chat.completions.create(model=model, messages=huge)
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_openai_client_reads_401_while_sending(house: Gateway) -> None:
    """H6: the credential is refused before 8 MB have been read, and the client sees why."""
    huge: Any = [{"role": "user", "content": "x" * 8_000_000}]
    with (
        openai.OpenAI(base_url=house.v1, api_key="gw_x", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="echo", messages=huge)


def test_openai_client_reads_404_with_a_large_body(client: openai.OpenAI) -> None:
    huge: Any = [{"role": "user", "content": "x" * 8_000_000}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=huge)


@pytest.mark.parametrize("part", ["nothing", "request-line", "headers", "body", "chunk"])
def test_slow_requests_are_ended(start: Start, part: str) -> None:
    """The header's and the body's deadline, apart; 408 once there was a byte to answer to."""
    gateway = start(header_timeout="300ms", body_timeout="300ms")
    head = request(CHAT, headers=[("Content-Length", "100")])
    chunked = request(CHAT, headers=[("Transfer-Encoding", "chunked")])
    sent = {
        "nothing": b"",
        "request-line": b"POST /v1/chat",
        "headers": head[:-2] + b"X-More",
        "body": head + b'{"model"',
        "chunk": chunked + b'8\r\n{"model"\r\n4\r\nab',
    }[part]
    with Raw(gateway.address) as raw:
        raw.send(sent)
        try:
            raw.answer().error(408, "request_timeout")
        except Cut as cut:
            assert part == "nothing" and cut.args[0] == b""
        assert raw.ended()
    if part in ("body", "chunk"):
        line = gateway.log.wait(status=408)[0]
        assert (line["outcome"], line["error"]) == ("refused", "request_timeout")


# HTTP that is none --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"\r\n" * 10 + b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        request(CHAT, GOOD, [("Transfer-Encoding", "chunked"), ("Content-Length", "5")]),
        request(CHAT, GOOD, [("Transfer-Encoding", "xchunked")]),
        request(CHAT, GOOD, [("Transfer-Encoding", "chunked, identity")]),
        request(CHAT, GOOD, [("Transfer-Encoding", "gzip, chunked")]),
        request(CHAT, GOOD, [("Content-Length", "5"), ("Content-Length", "6")]),
        request(CHAT, GOOD, [("Content-Length", "-5")]),
        request(CHAT, GOOD, [("Content-Length", "+5")]),
        request(CHAT, GOOD, [("Content-Length", "5x")]),
        request(CHAT, GOOD, [("Content-Length", "9" * 40)]),
        request(CHAT, GOOD, [("Host", "a"), ("Host", "b")]),
        b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n: 1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        request(CHAT, headers=[("Transfer-Encoding", "chunked")]) + b"zz\r\nhello\r\n0\r\n\r\n",
        request(CHAT, headers=[("Transfer-Encoding", "chunked")]) + b"-5\r\nhello\r\n0\r\n\r\n",
        request(CHAT, headers=[("Transfer-Encoding", "chunked")]) + b"5\r\nhelloXX0\r\n\r\n",
        request(CHAT, headers=[("Transfer-Encoding", "chunked")]) + b"f" * 40 + b"\r\n",
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_malformed_http_is_a_400(house: Gateway, sent: bytes) -> None:
    """Nothing is a 500, nothing hangs, and nothing after it on the connection is read as a
    request."""
    with Raw(house.address) as raw:
        raw.send(sent + request("/healthz", method="GET"))
        answer = raw.answer()
        assert 400 <= answer.status < 500 or answer.status in (501, 505), answer
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert raw.ended(), "the connection's next bytes were trusted"


def test_headers_of_32_kib_pass(raw: Raw, up: Scripted) -> None:
    """I7: large cookies and certificates in headers are common behind load balancers."""
    model = up.play(reply(completion()))
    headers = [("Cookie", "c" * 32_000), ("User-Agent", "u" * 32_000)]
    assert raw.ask(CHAT, chat(model), headers=headers).status == 200
    assert up.wait(model, "ended").header("user-agent") == "u" * 32_000


# Bombs of JSON ------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b'{"model":"echo","messages":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        nested(10_000),
        nested(1_000_000),
        b'{"model":"echo","a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b"[" * 5_000_000,
        b'{"model":"echo",' + b",".join(b'"k%d":%d' % (n, n) for n in range(300_000)) + b"}",
        b'{"model":"echo","n":' + b"9" * 1_000_000 + b"}",
        b'{"model":"echo","t":1e999999999}',
        b'{"model":"echo","t":' + b"0." + b"1" * 1_000_000 + b"}",
        b'{"model":"echo","t":[NaN,Infinity,-Infinity]}',
        b'{"model":"echo","s":"\\ud800","messages":[]}',
        b'{"model":"\\ud800"}',
        b'{"model":"' + b"\\u0000" * 100_000 + b'"}',
        b'{"model":"echo","messages":[{"role":"user","content":"' + b"\\" * 999_999 + b'"}]}',
        b'\xef\xbb\xbf{"model":"echo","messages":[]}',
        b'{"model":"echo","messages":[null,7,{"content":[{"text":null}]}]}',
        b'{"model":"echo","messages":{"role":"user"}}',
        b'{"model":"echo","stream":true,"messages":null,"max_tokens":-5}',
    ],
    ids=lambda body: repr(body[:40]) + str(len(body)),
)
def test_json_bombs(house: Gateway, body: bytes) -> None:
    """Answered, not with a 500, and the gateway goes on."""
    with Raw(house.address) as raw:
        answer = raw.ask(CHAT, body)
        assert answer.status in (200, 400, 404), answer.body[:300]
        house.line(id=answer.id)
        assert raw.ask("/healthz", method="GET").status == 200


@pytest.mark.parametrize("name", ["NaN", "1e400", "123456789012345678901234567890", '"\\ud800"'])
def test_what_only_python_reads_is_relayed(raw: Raw, up: Scripted, name: str) -> None:
    """design.md: relayed as it is; refusing is for what no reader understands."""
    model = up.play(reply(completion()))
    body = b'{"model":"%s","messages":[],"odd":%s}' % (model.encode(), name.encode())
    assert raw.ask(CHAT, body).status == 200
    assert up.wait(model, "ended").body == body


def test_large_body_does_not_hold_up_others(house: Gateway, up: Scripted) -> None:
    """H7: parsing megabytes leaves the loop, so a stream under way goes on; its answer is whole."""
    model = up.play(reply(completion()))
    body = json.dumps(chat(model, pad=["x" * 10] * 1_500_000)).encode()
    with Raw(house.address) as large, Raw(house.address) as small:
        large.send(request(CHAT, body))
        assert small.ask(CHAT, GOOD).status == 200
        assert large.answer().status == 200
    seen = up.wait(model, "ended")
    assert seen.length == len(body)
