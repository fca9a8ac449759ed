"""With a key of one's own no path of the data plane reads, purges or infers what is another's, and
no caller's credential opens the admin plane (issue 4, proof 6; N4, C4)."""

from __future__ import annotations

import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.e2e.cached import admin, ask, state
from tests.e2e.conftest import OWN_TOKEN, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Raw, chat
from tests.e2e.test_keys import create
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import completion, reply

NAME, TAG, SAID = "bob-canary", "canary-tag", "canary-answer"
NUMBERS = itertools.count()
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "canary-prompt"}]}


@dataclass(frozen=True)
class Two:
    """Alice, who asks, and Bob, whose requests are none of her business."""

    gateway: Gateway
    up: Scripted
    alice: str
    bob: str
    model: str  # that Bob has asked; a kept answer of his
    id: str  # of his request
    cache_key: str

    def ask(self, key: str, target: str, body: Any = b"", **more: Any) -> Answer:
        headers = [("Authorization", f"Bearer {key}"), *more.pop("headers", ())]
        with Raw(self.gateway.address) as raw:
            return raw.ask(target, body, headers=headers, **more)

    @property
    def marks(self) -> tuple[str, ...]:
        return NAME, TAG, SAID, self.id, self.cache_key, self.bob


@pytest.fixture(scope="module")
def two(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    config = config_for(up) | {"cache": {"disk_deadline": "60s"}, "keys": {"anonymous": "never"}}
    with Gateway(tmp_path_factory.mktemp("two"), config) as gateway:
        alice, bob = create(gateway, "alice"), create(gateway, NAME)
        model = up.play(reply(completion(SAID)), reply(completion("another")), prefix="keyed")
        headers = ("Authorization", f"Bearer {bob}"), ("X-Gateway-Tags", f"project={TAG}")
        assert state(ask(gateway, {"model": model, **BODY}, *headers)) == "miss"
        hit = ask(gateway, {"model": model, **BODY}, *headers)
        key = str(hit.header("x-gateway-cache-key"))
        yield Two(gateway, up, alice, bob, model, hit.id, key)


def is_kept(two: Two) -> bool:
    """Bob's answer is there, as it was."""
    answer = ask(two.gateway, {"model": two.model, **BODY}, ("Authorization", f"Bearer {two.bob}"))
    return state(answer) == "hit" and SAID.encode() in answer.body


ADMIN = (
    "usage",
    "logs",
    "logs/{id}",
    "keys",
    "keys/{name}",
    "teams",
    "cache",
    "cache/{id}",
    "config",
)
PLACES = (
    *("/v1/{}", "/{}", "/v1/admin/{}", "/admin/{}", "//admin/{}", "/v1//admin/{}"),
    *("/v1/../admin/{}", "/v1/%2e%2e/admin/{}", "/v1/models/../../admin/{}", "/v1/..%2fadmin/{}"),
    *("/admin/{}?key={name}", "http://127.0.0.1:{port}/admin/{}", "/v1/chat/completions/../{}"),
)


def targets(two: Two) -> Iterator[str]:
    """The admin plane's paths by every way in that the data plane might have."""
    for place in PLACES:
        for what in ADMIN:
            path = place.replace("{}", what)
            yield path.format(id=two.id, name=NAME, port=two.gateway.admin_port)
    for ids in ("/v1/chat/completions/{}", "/v1/responses/{}", "/v1/models/{}", "/v1/requests/{}"):
        yield ids.format(two.id)
    for path in ("/metrics", "/openapi.json", "/v1/metrics", "/admin/backup", "/v1/admin/backup"):
        yield path


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
def test_no_path_of_the_data_plane_is_the_admin_plane(two: Two, method: str) -> None:
    """Nothing is answered; and what is relayed, since all of /v1 is, stays below the upstream's."""
    body = b"" if method == "GET" else json.dumps({"all": True, "key": NAME}).encode()
    before = len(two.up.unscripted())
    for target in targets(two):
        answer = two.ask(two.alice, target, body, method=method)
        assert 400 <= answer.status < 500, (target, answer)
        said = answer.body.decode() + str(answer.headers)
        shown = [mark for mark in two.marks if mark in said and mark not in target]
        assert not shown, (target, said)
    relayed = {unquote(call.target) for call in two.up.unscripted()[before:]}
    assert all(target.startswith("/v1/") and ".." not in target for target in relayed), relayed
    assert is_kept(two)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Gateway-Request-Id", "{id}"), ("X-Request-Id", "{id}")],
        [("X-Gateway-Cache-Key", "{cache_key}"), ("X-Gateway-Scope", "global")],
        [("X-Gateway-Key", NAME), ("X-Gateway-Team", "t"), ("X-Forwarded-User", NAME)],
        [("X-Gateway-Tags", f"key={NAME},project={TAG}")],
        [("Cache-Control", "only-if-cached")],
        [("Cache-Control", "no-cache")],
        [("Cache-Control", "no-store")],
        [("Cache-Control", "max-age=0")],
        [("X-Gateway-Cache-TTL", "0")],
    ],
    ids=lambda headers: headers[0][0] if headers else "plain",
)
def test_the_same_request_tells_nothing_of_another_s(
    two: Two, headers: list[tuple[str, str]]
) -> None:
    """C4: Bob's answer is kept; Alice's equal request neither gets it, nor learns of it, nor harms
    it."""
    given = [(k, v.format(id=two.id, cache_key=two.cache_key)) for k, v in headers]
    key = create(two.gateway, f"like-alice-{next(NUMBERS)}")
    answer = two.ask(key, CHAT, {"model": two.model, **BODY}, headers=given)
    only = ("Cache-Control", "only-if-cached") in headers
    bypasses = ("Cache-Control", "no-store") in headers
    assert answer.status == (504 if only else 200)
    assert state(answer) == ("bypass" if bypasses else "miss")
    assert not {"age", "x-gateway-cache-key", "x-gateway-saved-tokens"} & answer.names
    assert not [m for m in two.marks if m in answer.body.decode() + str(answer.headers)]
    assert is_kept(two)


def test_whose_row_it_is_is_the_key_s_to_say(two: Two) -> None:
    """Nothing else that a client sends: Alice's requests are booked on Alice, Bob's sums stay."""
    [before] = admin(two.gateway, f"/admin/usage?by=key&key={NAME}")
    headers = [("X-Gateway-Key", NAME), ("X-Gateway-Tags", f"key={NAME}"), ("api-key", two.bob)]
    for body in (chat("echo", user=NAME), chat("echo", metadata={"key": NAME})):
        for given in (headers[:2], headers):
            answer = two.ask(two.alice, CHAT, body, headers=given)
            if answer.status == 200:
                assert admin(two.gateway, f"/admin/logs/{answer.id}")["key"] == "alice"
            else:
                answer.error(401, "invalid_api_key")  # two credentials, and not the same
    assert admin(two.gateway, f"/admin/usage?by=key&key={NAME}") == [before]


def test_models_are_what_the_key_may_use(two: Two) -> None:
    """Not even a list tells of others."""
    key = create(two.gateway, "narrow", "--models", "echo")
    listed = two.ask(key, "/v1/models", method="GET").json()["data"]
    assert [model["id"] for model in listed] == ["echo"]
    two.ask(key, CHAT, {"model": two.model, **BODY}).error(403, "model_not_allowed")


def plane(gateway: Gateway, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """What the admin plane says to these headers."""
    data = b"{}" if method in ("POST", "PATCH") else None
    asking = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}{path}",
        data=data,
        headers=headers | {"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asking, timeout=PATIENCE) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def operations(two: Two) -> Iterator[tuple[str, str]]:
    """Every operation of the admin plane, as its own description lists them."""
    paths = admin(two.gateway, "/openapi.json")["paths"]
    for path, methods in paths.items():
        if path not in ("/healthz", "/readyz", "/metrics"):
            there = path.format(id=two.id, name=quote(NAME))
            yield from ((method.upper(), there) for method in methods)


def test_no_caller_s_credential_opens_the_admin_plane(two: Two) -> None:
    """Issued, the caller's own, none, in either header: 401, for every operation there is."""
    asked = list(operations(two))
    assert ("GET", "/admin/usage") in asked and ("POST", "/admin/cache/purge") in asked
    assert len(asked) >= 15
    for method, path in asked:
        for key in (two.alice, two.bob, OWN_TOKEN, ""):
            for headers in ({"Authorization": f"Bearer {key}"}, {"api-key": key}, {}):
                status, said = plane(two.gateway, method, path, headers)
                assert status == 401, (method, path, said)
                assert json.loads(said)["error"]["code"] == "invalid_api_key"
                assert not [mark for mark in two.marks if mark in said]
    assert is_kept(two)


def test_without_the_token_the_metrics_page_is_the_machine_s_own(two: Two) -> None:
    """It names keys: a proxy's peer, or another host's name, does not get it."""
    for headers in ({"X-Forwarded-For": "10.0.0.1"}, {"Host": "evil.example"}):
        status, said = plane(two.gateway, "GET", "/metrics", headers)
        assert status in (401, 403)
        assert NAME not in said
