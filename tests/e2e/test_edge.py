"""The HTTP edge with a raw socket: continue, upgrade, HEAD, HTTP/1.0, pipelines, CORS, proxies,
TLS (issue 2, item 4)."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import ORIGIN, OWN_TOKEN, Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import BODY, completion, hello, reply, stream

BODY_OF_ECHO = json.dumps(chat("echo")).encode()
EXPECT = [("Content-Length", str(len(BODY_OF_ECHO))), ("Content-Type", "application/json"),
          ("Expect", "100-continue")]  # fmt: skip


# Expect: 100-continue -----------------------------------------------------------------------------


def test_continue_then_answer(raw: Raw) -> None:
    raw.send(request(CHAT, headers=EXPECT))
    assert raw.head().status == 100
    assert raw.send(BODY_OF_ECHO).answer().status == 200
    assert raw.ask(CHAT, chat("echo")).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([*EXPECT, ("Authorization", "Bearer gw_x")], 401),
        ([("Content-Length", str(65 << 20)), ("Expect", "100-continue")], 413),
        ([*EXPECT, ("Content-Encoding", "gzip")], 415),
        ([EXPECT[0], ("Expect", "200-maybe")], 417),
    ],
)
def test_no_continue_where_the_answer_is_no(
    house: Gateway, headers: list[tuple[str, str]], status: int
) -> None:
    """Credential, path and declared length are judged before a body byte is asked for."""
    with Raw(house.address) as raw:
        answer = raw.send(request(CHAT, headers=headers)).answer()
        assert answer.status == status or (status == 417 and answer.status in (100, 400))


def test_no_continue_for_an_unknown_path(house: Gateway) -> None:
    with Raw(house.address) as raw:
        raw.send(request("/v2/x", headers=EXPECT)).answer().error(404, "unknown_url")


def test_continue_for_uploads(raw: Raw, up: Scripted) -> None:
    """curl asks before each upload above 1 MB, and waits a second for the answer."""
    name = up.play([BODY, *reply(b"{}")])
    size = ("Content-Length", "5")
    raw.send(
        request(
            f"/v1/files/{name}", headers=[size, ("Content-Type", "a/b"), ("Expect", "100-continue")]
        )
    )
    assert raw.head().status == 100
    assert raw.send(b"bytes").answer().status == 200
    seen = up.wait(name, "ended")
    assert seen.body == b"bytes" and "expect" not in seen.names


# Connections --------------------------------------------------------------------------------------


def test_upgrade_is_501(house: Gateway) -> None:
    with Raw(house.address) as raw:
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
        ]
        raw.send(request("/v1/realtime", method="GET", headers=headers))
        raw.answer("GET").error(501, "not_implemented")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes(raw: Raw, house: Gateway, path: str) -> None:
    """L2: GET and HEAD, without a credential or with a bad one, no access line."""
    got = raw.ask(path, method="GET", headers=[("Authorization", "Bearer gw_bad")])
    assert got.status == 200
    without = raw.ask(path, method="HEAD")
    assert without.status == 200 and without.body == b""
    assert without.header("content-length") == got.header("content-length")
    house.line(id=raw.ask(CHAT, chat("echo")).id)  # lines keep their order: theirs would be there
    assert not [line for line in house.log.look() if path in line["path"]]


def test_http_10_stream_ends_with_the_connection(house: Gateway, up: Scripted) -> None:
    model = up.play(stream(hello(usage=False)))
    with Raw(house.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True), version="HTTP/1.0"))
        answer = raw.answer()
        assert "transfer-encoding" not in answer.names and "content-length" not in answer.names
        assert answer.body == b"".join(hello(usage=False))
        assert raw.ended()


def test_http_10_json(house: Gateway) -> None:
    with Raw(house.address) as raw:
        answer = raw.ask(CHAT, chat("echo"), version="HTTP/1.0")
        assert answer.status == 200 and answer.header("content-length") == str(len(answer.body))
        assert raw.ended()


def test_connection_close_is_honoured(house: Gateway) -> None:
    with Raw(house.address) as raw:
        answer = raw.ask(CHAT, chat("echo"), headers=[("Connection", "close")])
        assert answer.status == 200 and (answer.header("connection") or "").lower() == "close"
        assert raw.ended()


def test_pipelined_requests_are_answered_in_order(raw: Raw, up: Scripted) -> None:
    models = [up.play(reply(completion(f"number {n}"))) for n in range(5)]
    raw.send(b"".join(request(CHAT, chat(model)) for model in models))
    said = [raw.answer().json()["choices"][0]["message"]["content"] for _ in models]
    assert said == [f"number {n}" for n in range(5)]


@pytest.mark.parametrize("step", [1, 7])
def test_request_in_small_pieces(raw: Raw, house: Gateway, step: int) -> None:
    """TCP has no messages: cut anywhere, the request is the same."""
    sent = request(CHAT, chat("echo"))
    for at in range(0, len(sent), step):
        raw.send(sent[at : at + step])
    answer = raw.answer()
    assert answer.status == 200
    assert house.line(id=answer.id)["bytes_in"] == len(json.dumps(chat("echo")))


def test_chunked_request_body(raw: Raw, up: Scripted) -> None:
    """The upstream gets it whole, with a length or in chunks."""
    model = up.play(reply(completion()))
    body = json.dumps(chat(model)).encode()
    pieces = b"".join(b"%x;ext=1\r\n%c\r\n" % (1, c) for c in body)
    fields = [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")]
    raw.send(request(CHAT, headers=fields) + pieces + b"0\r\nTrailer: x\r\n\r\n")
    assert raw.answer().status == 200
    assert up.wait(model, "ended").body == body


def test_one_connection_many_requests(raw: Raw, house: Gateway) -> None:
    ids = {raw.ask(CHAT, chat("echo", stream=n % 2 == 0)).id for n in range(50)}
    assert len(ids) == 50


def test_idle_connection_is_closed(start: Start) -> None:
    """`server.keepalive_timeout`, apart from the header's deadline."""
    gateway = start(keepalive_timeout="300ms")
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200
        assert raw.ended()


def test_too_many_connections(start: Start) -> None:
    """`server.max_connections`: those who are in are served; who is not gets an answer or a
    close."""
    gateway = start(max_connections=2)
    with Raw(gateway.address) as one, Raw(gateway.address) as two:
        assert one.ask(CHAT, chat("echo")).status == two.ask(CHAT, chat("echo")).status == 200
        with Raw(gateway.address) as three:
            try:
                answer = three.send(request("/healthz", method="GET")).answer()
                assert answer.status == 503
            except (Exception, BrokenPipeError) as left:
                assert type(left).__name__ in ("Cut", "ConnectionResetError", "BrokenPipeError")
        assert one.ask(CHAT, chat("echo")).status == 200


# Browsers and proxies -----------------------------------------------------------------------------


def test_preflight(raw: Raw, house: Gateway) -> None:
    asked = [
        ("Origin", ORIGIN),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ]
    answer = raw.ask(CHAT, method="OPTIONS", headers=asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("access-control-allow-origin") == ORIGIN
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert "authorization" in (answer.header("access-control-allow-headers") or "").lower()
    real = raw.ask(CHAT, chat("echo"), headers=[("Origin", ORIGIN)])
    assert real.status == 200
    assert real.header("access-control-allow-origin") == ORIGIN
    assert "x-gateway-request-id" in (real.header("access-control-expose-headers") or "").lower()
    failed = raw.ask(CHAT, b"{", headers=[("Origin", ORIGIN)])
    assert failed.status == 400 and failed.header("access-control-allow-origin") == ORIGIN


def test_other_origins_get_nothing(raw: Raw) -> None:
    for origin in ("https://evil.example", "null", ORIGIN + ".evil.example"):
        answer = raw.ask(CHAT, chat("echo"), headers=[("Origin", origin)])
        assert "access-control-allow-origin" not in answer.names
        preflight = raw.ask(
            CHAT,
            method="OPTIONS",
            headers=[("Origin", origin), ("Access-Control-Request-Method", "POST")],
        )
        assert "access-control-allow-origin" not in preflight.names


def test_client_address_behind_a_trusted_proxy(raw: Raw, house: Gateway) -> None:
    """The nearest address that is not a trusted proxy's; what the client wrote further left is
    hearsay."""
    answer = raw.ask(CHAT, chat("echo"), headers=[("X-Forwarded-For", "1.1.1.1, 203.0.113.9")])
    assert house.line(id=answer.id)["client"] == "203.0.113.9"
    plain = raw.ask(CHAT, chat("echo"))
    assert house.line(id=plain.id)["client"] == "127.0.0.1"


def test_client_address_is_not_taken_from_strangers(house: Gateway) -> None:
    with Raw(house.address, source="127.0.0.2") as raw:
        answer = raw.ask(CHAT, chat("echo"), headers=[("X-Forwarded-For", "203.0.113.9")])
    assert house.line(id=answer.id)["client"] == "127.0.0.2"


@pytest.mark.parametrize("value", ["", "not an address", "1.1.1.1,,", "\x7f", "1" * 10_000])
def test_odd_forwarded_for(raw: Raw, house: Gateway, value: str) -> None:
    answer = raw.ask(CHAT, chat("echo"), headers=[("X-Forwarded-For", value)])
    if answer.status == 200:
        assert len(house.line(id=answer.id)["client"]) < 200
    else:
        assert answer.status == 400


# TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls(start: Start, up: Scripted, certificate: tuple[Path, Path]) -> None:
    """JSON, stream, a client that leaves, and one that speaks no TLS."""
    cert, key = certificate
    gateway = start(tls={"cert": str(cert), "key": str(key)})
    assert gateway.scheme == "https"
    context = ssl.create_default_context(cafile=str(cert))
    model, stalled = up.play(stream(hello(usage=False))), up.play([("stall",)])
    with Raw(gateway.address, tls=context) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200
        answer = raw.ask(CHAT, chat(model, stream=True))
        assert answer.body == b"".join(hello(usage=False))
        raw.send(request(CHAT, chat(stalled, stream=True)))
        up.wait(stalled, "body")
    assert up.wait(stalled, "ended").ended == "client_closed"
    assert gateway.line(model=stalled)["outcome"] == "client_disconnect"
    with Raw(gateway.address) as raw:
        raw.send(request("/healthz", method="GET"))
        assert not raw.fill() or b"400" in raw.buffer


def test_tls_upstream(
    start: Start, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`ca_file` is trusted, and nothing is without it: the upstream here is a gateway with TLS."""
    cert, key = certificate
    tls = {"cert": str(cert), "key": str(key)}
    echo = {"name": "echo", "base_url": "echo:", "models": ["echo"]}
    with Gateway(
        tmp_path_factory.mktemp("inner"), {"server": {"tls": tls}, "upstreams": [echo]}
    ) as inner:
        far = {"base_url": f"https://localhost:{inner.port}/v1", "auth": "none"}
        outer = start(
            {
                "upstreams": [
                    {"name": "trusting", "models": ["trusting"], "ca_file": str(cert)}
                    | far
                    | {"rename": {"trusting": "echo"}},
                    {"name": "wary", "models": ["wary"], "rename": {"wary": "echo"}} | far,
                ]
            }
        )
        with Raw(outer.address) as raw:
            assert raw.ask(CHAT, chat("trusting")).status == 200
            raw.ask(CHAT, chat("wary")).error(502, "upstream_error")
        assert outer.line(model="wary")["outcome"] == "upstream_error"


# Callers ------------------------------------------------------------------------------------------


def test_callers_in_the_log(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A passthrough caller is `pass-XXXXXXXX`, and an anonymous one is that."""
    one = raw.ask(CHAT, chat("echo"), headers=[("Authorization", f"Bearer {OWN_TOKEN}")])
    line = house.line(id=one.id)
    assert line["key"].startswith("pass-") and len(line["key"]) == 13
    assert line["key_kind"] == "passthrough"
    assert OWN_TOKEN not in json.dumps(line)
    assert house.line(id=raw.ask(CHAT, chat("echo")).id)["key_kind"] == "anonymous"


def test_openai_client_over_every_host_name(house: Gateway) -> None:
    with openai.OpenAI(
        base_url=f"http://localhost:{house.port}/v1", api_key="sk-x", max_retries=0
    ) as client:
        said = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "hi"}]
        )
    assert said.choices[0].message.content


def test_access_log_on_stdout(start: Start, up: Scripted) -> None:
    """The default, flushed line by line, and nothing else on stdout."""
    config = config_for(up, access_log="stdout")
    gateway = start(config)
    with Raw(gateway.address) as raw:
        answer = raw.ask(CHAT, chat("echo"))
    lines = gateway.stdout.until(lambda found: list(found) or None)
    assert [json.loads(x)["id"] for x in lines] == [answer.id]
