"""No secret is ever written: not to the log, stderr, metrics, an error or an admin page (G7),
however a call fails."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import (
    HEADER_SECRET,
    OWN_TOKEN,
    PROVIDER_KEY,
    QUERY_SECRET,
    SOON,
    Start,
    config_for,
)
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.e2e.raw import CHAT, Cut, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    CUT,
    RESET,
    STALL,
    completion,
    delta,
    error,
    hello,
    reply,
    send,
    stream,
)

COOKIE = "canary-cookie-4c1d"
CLIENT_QUERY = "canary-client-query-90ab"
PROMPT = "canary-prompt-text-6f6f"
PROXY = "canary-proxy-password-11"
URL_PASSWORD = "canary-url-password-22"
SECRETS = (
    PROVIDER_KEY, OWN_TOKEN, HEADER_SECRET, QUERY_SECRET, ADMIN_TOKEN, COOKIE, CLIENT_QUERY,
    PROMPT, PROXY,
)  # fmt: skip


def fetch(gateway: Gateway, path: str, token: str = "") -> str:
    asked = urllib.request.Request(f"http://127.0.0.1:{gateway.admin_port}{path}")
    if token:
        asked.add_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        asked, timeout=20
    ) as got:
        return str(got.read().decode())


@pytest.fixture
def house_of_failures(start: Start, up: Scripted, closed_port: int) -> Iterator[Gateway]:
    """Every upstream has a key, a secret header and a secret query, and each fails in its own
    way."""
    config = config_for(up, closed_port)
    secret = {
        "api_key": PROVIDER_KEY,
        "share_api_key": True,
        "headers": {"X-Extra": HEADER_SECRET},
        "query": {"key": QUERY_SECRET},
        "timeouts": {"connect": SOON, "first_byte": SOON, "idle": SOON},
    }
    for name, base in {
        "refused": f"http://127.0.0.1:{closed_port}/v1",
        "nodns": "http://no-such-host.invalid/v1",
        "notls": f"https://127.0.0.1:{up.port}/v1",
        "viaproxy": "http://upstream.example/v1",
    }.items():
        proxy = (
            {"proxy": f"http://user:{PROXY}@127.0.0.1:{closed_port}"} if name == "viaproxy" else {}
        )
        config["upstreams"].append(
            {"name": name, "models": [f"{name}-*"], "base_url": base, **secret, **proxy}
        )
    config["upstreams"][4] |= secret
    yield start(config)


def test_secrets_stay_secret(house_of_failures: Gateway, up: Scripted) -> None:
    """Each failure mode with canaries in all places; then everything that was written is
    searched."""
    gateway = house_of_failures
    scripts = [
        reply(completion()),
        stream(hello()),
        [CUT],
        [RESET],
        [STALL],
        [send(b"garbage\r\n\r\n"), CUT],
        [*stream([delta("x")], close=False), CUT],
        [*stream([delta("x")], close=False), STALL],
        reply(error("401", "invalid_api_key"), "401 Unauthorized"),
        reply(b"<html>", kind="text/html"),
        reply(b"", "302 Found", [("Location", f"/v1/x?key={QUERY_SECRET}")]),
    ]
    models = [up.play(steps, prefix="shared") for steps in scripts]
    models += ["refused-1", "nodns-1", "notls-1", "viaproxy-1", "own-1", "keyed-1", "nobody"]
    headers = [("Authorization", f"Bearer {OWN_TOKEN}"), ("Cookie", f"session={COOKIE}"),
               ("X-Gateway-Tags", f"team={OWN_TOKEN}")]  # fmt: skip
    bodies = []
    for model in models:
        for streaming in (False, True):
            body = chat(model, stream=streaming) | {
                "messages": [{"role": "user", "content": PROMPT}]
            }
            with Raw(gateway.address) as raw:
                raw.send(request(f"{CHAT}?key={CLIENT_QUERY}", body, headers))
                try:
                    answer = raw.answer()
                except Cut as cut:
                    bodies.append(str(cut.args[0]))
                else:
                    shown = [h for h in answer.headers if h[0].lower() != "location"]
                    bodies.append(answer.body.decode("utf-8", "replace") + str(shown))
    for token in (f"Bearer {ADMIN_TOKEN}", f"Bearer gw_{PROVIDER_KEY}"):
        with Raw(gateway.address) as raw:
            bodies.append(str(raw.ask(CHAT, chat("echo"), headers=[("Authorization", token)]).body))
    written = {
        "answers": "\n".join(bodies),
        "metrics": fetch(gateway, "/metrics"),
        "admin config": fetch(gateway, "/admin/config", ADMIN_TOKEN),
    }
    gateway.log.wait(2, model=models[-1])
    written |= {
        "access log": gateway.log.path.read_text(),
        "stderr": gateway.stderr.text,
        "stdout": gateway.stdout.text,
    }
    leaks = [
        (where, secret) for where, text in written.items() for secret in SECRETS if secret in text
    ]
    assert not leaks
    assert len(bodies) == 2 * len(models) + 2


def test_secrets_of_the_configuration_stay_out_of_its_faults(start: Start, up: Scripted) -> None:
    """A file with a fault is described without its values."""
    gateway = start()
    config = config_for(up)
    config["upstreams"][4]["base_url"] = f"htp://u:{URL_PASSWORD}@x"
    config["upstreams"][4]["timeouts"] = {"connect": "soon"}
    gateway.write(config)
    said = gateway.stderr.until(
        lambda lines: (
            "\n".join(lines) if any("timeouts" in x or "soon" in x for x in lines) else None
        )
    )
    assert not [s for s in (PROVIDER_KEY, HEADER_SECRET, QUERY_SECRET, URL_PASSWORD) if s in said]
