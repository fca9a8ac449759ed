"""The admin plane over real sockets: who may see what (contract, "admin plane"; M7, N4, G7)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import subprocess
from contextlib import asynccontextmanager

import attrs
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.admin import Rooms
from gateway.cache.store import NoCache
from gateway.config import TLS, Admin, Config, Secret, UpstreamSection, masked
from gateway.config import Metrics as MetricsSection
from gateway.metrics import Metrics, standard_registry
from gateway.web.admin import AdminPlane
from gateway.web.openapi import ROUTES, Access
from gateway.web.ops import Ops
from tests.exchanges import FixedClock, exchange

TOKEN = "admin-token-canary-0123456789"
CONFIG = Config(
    admin=Admin(port=0, token=Secret(TOKEN), hosts=["gateway.example", "Ops.Example:8081"]),
    upstreams=[
        UpstreamSection(
            name="openai",
            base_url="https://api.openai.com/v1",
            api_key=Secret("sk-upstream-canary"),
            headers={"X-Key": Secret("header-canary")},
            query={"key": Secret("query-canary")},
        )
    ],
)
ROOMS = Rooms(NoCache(), FixedClock())
NO_AUTH = ["/healthz", "/readyz"]
NEEDS_TOKEN = ["/admin/config", "/openapi.json", "/admin/cache", "/admin/cache/ID"]
NEEDS_TOKEN += ["/admin/keys", "/admin/keys/NAME", "/admin/teams", "/admin/teams/NAME"]


@asynccontextmanager
async def plane(config: Config = CONFIG, ops: Ops | None = None, view=None, cache=None):
    metrics = Metrics(standard_registry(), FixedClock())
    metrics.book(exchange())
    made = AdminPlane(
        config,
        token=TOKEN,
        metrics=metrics,
        config_view=view or (lambda: masked(config)),
        ops=ops or Ops(),
        rooms=Rooms(cache or NoCache(), FixedClock()),
    )
    host, port = await made.start()
    try:
        yield Client(host, port)
    finally:
        await made.close()


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}

    @property
    def code(self) -> str:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["code"]


class Client:
    """Sends exactly what it is told: headers that no library would send, too."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.tls = host, port, tls

    async def raw(self, data: bytes) -> Answer:
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        try:
            writer.write(data)
            return Answer(await asyncio.wait_for(reader.read(), 30))
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(
        self, path: str, *headers: str, method: str = "GET", host: str | None = "localhost"
    ):
        lines = [f"{method} {path} HTTP/1.1", "Connection: close", *headers]
        if host is not None:
            lines.insert(1, f"Host: {host}")
        return await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def admin(self, path: str, *headers: str, **more):
        return await self.ask(path, f"Authorization: Bearer {TOKEN}", *headers, **more)


# What there is ----------------------------------------------------------------------------------


async def test_probes_need_nothing():
    """L2."""
    ops = Ops()
    async with plane(ops=ops) as client:
        for path in NO_AUTH:
            answer = await client.ask(path)
            assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
        ops.draining = True
        assert (await client.ask("/healthz")).status == 200
        answer = await client.ask("/readyz")
        assert (answer.status, json.loads(answer.body)) == (503, {"status": "draining"})
        head = await client.ask("/healthz", method="HEAD")
        assert (head.status, head.body) == (200, b"")


async def test_metrics_are_open_to_loopback_peers():
    async with plane() as client:
        answer = await client.ask("/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# TYPE gateway_requests_total counter" in answer.body
        answer = await client.ask("/metrics", "Accept: application/openmetrics-text;version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert list(text_string_to_metric_families(answer.body.decode()))


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_proxy_on_this_machine_makes_nobody_local(header):
    async with plane() as client:
        answer = await client.ask("/metrics", f"{header}: 203.0.113.9")
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert (await client.admin("/metrics", f"{header}: 203.0.113.9")).status == 200


async def test_open_metrics_need_no_token_from_anywhere():
    async with plane(attrs.evolve(CONFIG, metrics=MetricsSection(open=True))) as client:
        assert (await client.ask("/metrics", "X-Forwarded-For: 203.0.113.9")).status == 200
        assert (await client.ask("/admin/config")).status == 401


async def test_the_configuration_is_shown_masked():
    """G7."""
    async with plane() as client:
        answer = await client.admin("/admin/config")
        shown = json.loads(answer.body)
        assert shown["upstreams"][0]["base_url"] == "https://api.openai.com/v1"
        assert b"canary" not in answer.body


async def test_the_description_has_every_route_and_every_route_exists():
    async with plane() as client:
        answer = await client.admin("/openapi.json")
        described = json.loads(answer.body)
        assert described["openapi"] == "3.1.0"
        found = {(path, one) for path, methods in described["paths"].items() for one in methods}
        here = [route for route in ROUTES if route.access is not Access.SOCKET]
        assert found == {(route.path, route.method.lower()) for route in here}
        for path, method in sorted(found):
            operation = described["paths"][path][method]
            json_body = [] if method == "get" else ["Content-Type: application/json"]
            answer = await client.admin(path, *json_body, method=method.upper())
            assert answer.status != 404 or "{" in path  # nobody has that name
            assert answer.status != 405
            known = operation["responses"]
            [media] = known.get(str(answer.status), known["4XX"])["content"]
            assert answer.headers["content-type"].startswith(media)
            assert (operation["security"] == []) == (path in NO_AUTH)
        names = [
            operation["operationId"]
            for methods in described["paths"].values()
            for operation in methods.values()
        ]
        assert len(set(names)) == len(names)


# The token --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*NEEDS_TOKEN, "/", "/unknown", "/admin", "/admin/config/x"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization: Bearer wrong"],
        [f"Authorization: Bearer {TOKEN}x"],
        [f"Authorization: Bearer {TOKEN[:-1]}"],
        [f"Authorization: Bearer {TOKEN.upper()}"],
        [f"Authorization: {TOKEN}"],
        [f"Authorization: Basic {TOKEN}"],
        [f"Authorization: Bearer {TOKEN}", "Authorization: Bearer other"],
        ["Authorization: Bearer \xe9\xff"],
        [f"api-key: {TOKEN}"],
        [f"Cookie: token={TOKEN}"],
    ],
)
async def test_all_else_needs_the_token_and_strangers_learn_nothing(path, headers):
    """One body for all, also for what does not exist."""
    async with plane() as client:
        answer = await client.ask(path, *headers)
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.body == (await client.ask("/admin/config")).body
        assert b"canary" not in answer.body


async def test_what_is_not_there_is_said_to_who_has_the_token():
    async with plane() as client:
        for path in ("/", "/unknown", "/v1/models", "/admin/config/", "//metrics"):
            answer = await client.admin(path)
            assert (answer.status, answer.code) == (404, "unknown_url")
            assert answer.headers["x-should-retry"] == "false"
        answer = await client.admin("/admin/config", method="DELETE")
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/admin%2Fconfig", "/%61dmin/config", "/admin/./config", "/x/../metrics"]
)
async def test_no_spelling_of_a_path_gets_around_the_guard(path):
    async with plane() as client:
        assert (await client.ask(path)).status == 401


# Browsers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8081", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:8081", "[::1]",
     "gateway.example", "gateway.example:8081", "GATEWAY.example.", "ops.example"],
)  # fmt: skip
async def test_a_loopback_name_or_a_listed_one_is_answered_without_the_token(host):
    async with plane() as client:
        for path in ("/healthz", "/metrics"):
            assert (await client.ask(path, host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]",
     "evil.example:8081", "", None, "a:b:c", "[::1", "localhost@evil.example"],
)  # fmt: skip
async def test_dns_rebinding_reaches_nothing(host):
    """A page at evil.example, resolved to 127.0.0.1, cannot choose its Host."""
    async with plane() as client:
        for path in (*NO_AUTH, "/metrics", *NEEDS_TOKEN, "/unknown"):
            answer = await client.ask(path, host=host)
            assert answer.status in {400, 403}
            assert answer.code in {"forbidden", "invalid_request"}
        if host and not set(host) & set("@[") and host.count(":") < 2:
            assert (await client.admin("/healthz", host=host)).status == 200


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://localhost:8081", ""])
async def test_an_origin_is_always_refused(origin):
    """With the token, and for what is open, too."""
    async with plane() as client:
        for path in (*NO_AUTH, "/metrics", *NEEDS_TOKEN, "/unknown"):
            answer = await client.admin(path, f"Origin: {origin}")
            assert (answer.status, answer.code) == (403, "forbidden")
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
async def test_a_post_that_is_not_json_is_always_refused(kind):
    """What a form in a page can send without a preflight."""
    async with plane() as client:
        headers = [f"Content-Type: {kind}"] if kind else []
        for path in ("/healthz", "/admin/config", "/unknown"):
            answer = await client.admin(path, "Content-Length: 0", *headers, method="POST")
            assert (answer.status, answer.code) == (415, "unsupported_encoding")
        answer = await client.admin(
            "/admin/config", "Content-Length: 0", "Content-Type: application/json", method="POST"
        )
        assert (answer.status, answer.code) == (405, "method_not_allowed")


# Every answer -----------------------------------------------------------------------------------


async def test_no_answer_is_kept_by_a_cache_or_names_what_serves_it():
    """K2: no version header; the secrets of an answer stay out of caches."""
    async with plane() as client:
        for path in (*NO_AUTH, "/metrics", *NEEDS_TOKEN, "/unknown"):
            for answer in (await client.ask(path), await client.admin(path)):
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "server" not in answer.headers


@pytest.mark.parametrize(
    "garbage",
    [
        b"canary\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header canary\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"canary" * 3000 + b"\r\n\r\n",
        b"GET /" + b"canary" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: canary\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_the_same_shape_and_none_of_its_own_words(garbage, caplog):
    """G7: the parser's message repeats what was sent; it goes neither back nor into the log."""
    with caplog.at_level(logging.DEBUG):
        async with plane() as client:
            answer = await client.raw(garbage)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert b"canary" not in answer.body
    assert "canary" not in caplog.text
    assert b"aiohttp" not in answer.body
    assert answer.headers["server"] == "gateway"


async def test_a_fault_of_ours_is_a_500_without_its_story(caplog):
    def broken():
        raise RuntimeError("what went wrong")

    async with plane(view=broken) as client:
        answer = await client.admin("/admin/config")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"what went wrong" not in answer.body
    assert "what went wrong" in caplog.text
    assert "canary" not in caplog.text


async def test_a_reload_changes_who_may_ask():
    metrics = Metrics(standard_registry(), FixedClock())
    made = AdminPlane(
        CONFIG, token=TOKEN, metrics=metrics, config_view=dict, ops=Ops(), rooms=ROOMS
    )
    client = Client(*await made.start())
    assert (await client.ask("/healthz", host="new.example")).status == 403
    made.reconfigure(attrs.evolve(CONFIG, admin=Admin(hosts=["new.example"])))
    assert (await client.ask("/healthz", host="new.example")).status == 200
    assert (await client.ask("/healthz", host="gateway.example")).status == 403
    await made.close()
    await made.close()
    with pytest.raises(ConnectionRefusedError):
        await client.ask("/healthz")


async def test_a_port_that_is_taken_says_so():
    async with plane() as client:
        taken = attrs.evolve(CONFIG, admin=Admin(port=client.port))
        metrics = Metrics(standard_registry(), FixedClock())
        other = AdminPlane(
            taken, token=TOKEN, metrics=metrics, config_view=dict, ops=Ops(), rooms=ROOMS
        )
        with pytest.raises(OSError, match="address already in use"):
            await other.start()
        await other.close()


# TLS --------------------------------------------------------------------------------------------


def certificate(folder, *, locked: bool = False) -> TLS:
    cert, key = folder / "cert.pem", folder / "key.pem"
    lock = ["-passout", "pass:canary"] if locked else ["-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *lock,
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True, env={**os.environ, "RANDFILE": str(folder / "rnd")},
    )  # fmt: skip
    return TLS(str(cert), str(key))


async def test_tls_as_configured(tmp_path):
    tls = certificate(tmp_path)
    config = attrs.evolve(CONFIG, admin=Admin(port=0, tls=tls))
    async with plane(config) as client:
        client.tls = ssl.create_default_context(cafile=tls.cert)
        assert (await client.admin("/admin/config")).status == 200
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(tls.cert)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        client.tls = old
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await client.ask("/healthz")


@pytest.mark.parametrize("what", ["locked", "missing", "garbage"])
async def test_a_key_that_cannot_be_used_fails_the_start(tmp_path, what):
    tls = certificate(tmp_path, locked=what == "locked")
    if what == "missing":
        os.remove(tls.key)
    elif what == "garbage":
        with open(tls.key, "w") as file:
            file.write("canary")
    config = attrs.evolve(CONFIG, admin=Admin(port=0, tls=tls))
    metrics = Metrics(standard_registry(), FixedClock())
    made = AdminPlane(
        config, token=TOKEN, metrics=metrics, config_view=dict, ops=Ops(), rooms=ROOMS
    )
    with pytest.raises((OSError, ValueError)) as refusal:
        await made.start()
    assert "canary" not in str(refusal.value)
    await made.close()


def test_every_access_is_one_of_three():
    assert {route.access for route in ROUTES} == set(Access)
