"""Issued keys beside a running gateway, as its own process (contract, "Callers", "Command line",
"HTTP, admin plane"; N2, N4, C5, F6)."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.cached import ask, state
from tests.e2e.conftest import PROVIDER_KEY, Start, config_for
from tests.e2e.process import ADMIN_TOKEN, Gateway, environment
from tests.e2e.raw import CHAT, Answer, chat
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import completion, hello, reply, stream

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def command(gateway: Gateway, *words: str, code: int = 0) -> str:
    """Stdout of `gateway WORDS` on the gateway's own configuration and data."""
    where = ["--config", str(gateway.config_file), "--data", str(gateway.folder / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words, *where],
        cwd=gateway.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def create(gateway: Gateway, name: str, *options: str) -> str:
    """The text of a new key."""
    made = json.loads(command(gateway, "keys", "create", name, *options, "--format", "json"))
    return str(made["key"])


def admin(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Status and body of an admin operation."""
    known = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"}
    asking = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers=known | headers,
        method=method,
    )
    try:
        with _open(asking, timeout=PATIENCE) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def use(gateway: Gateway, key: str, model: str = "echo", **more: Any) -> Answer:
    return ask(gateway, chat(model, **more), ("Authorization", f"Bearer {key}"))


def until(what: Callable[[], bool]) -> None:
    """Return once it is so: wall time is what ends a key, and cannot be waited for otherwise."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if what():
            return
        waiting.wait(0.02)
    raise AssertionError("it never came to be so")


def with_cache(up: Scripted) -> dict[str, Any]:
    return config_for(up) | {"cache": {"enabled": True}}


def test_a_key_serves_the_openai_client_and_the_upstream_sees_its_own(
    start: Start, up: Scripted
) -> None:
    """It works from the moment it is shown, and never leaves the gateway (CVE-2024-6587)."""
    gateway = start()
    key = create(gateway, "alice")
    whole, live = (
        up.play(reply(completion()), prefix="keyed"),
        up.play(stream(hello()), prefix="keyed"),
    )
    hi: Any = [{"role": "user", "content": "hi"}]
    with openai.OpenAI(base_url=gateway.v1, api_key=key, max_retries=0) as client:
        said = client.chat.completions.create(model=whole, messages=hi)
        assert said.choices[0].message.content == "Hello"
        with client.chat.completions.create(model=live, messages=hi, stream=True) as chunks:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    for model in (whole, live):
        seen = up.wait(model, "ended")
        assert seen.header("authorization") == f"Bearer {PROVIDER_KEY}"
        assert key.encode() not in seen.head + seen.body
        line = gateway.line(model=model)
        assert (line["key"], line["key_kind"]) == ("alice", "issued")


@pytest.mark.parametrize("header", ["Authorization", "api-key"])
def test_a_key_of_ours_goes_to_no_upstream_that_wants_the_caller_s_own(
    start: Start, up: Scripted, header: str
) -> None:
    gateway = start()
    key = create(gateway, "alice")
    model = up.play(reply(completion()), prefix="own")
    value = key if header == "api-key" else f"Bearer {key}"
    ask(gateway, chat(model), (header, value)).error(403, "upstream_not_allowed")
    assert not up.calls(model)
    keyless = up.play(reply(completion()), prefix="open")
    assert ask(gateway, chat(keyless), (header, value)).status == 200
    seen = up.wait(keyless, "ended")
    assert not {"authorization", "api-key"} & seen.names
    assert key.encode() not in seen.head + seen.body


def test_a_revoked_key_is_refused_at_once_and_its_answers_are_gone(
    start: Start, up: Scripted
) -> None:
    """C5: a hit is there, and is not given; afterwards it is there for nobody."""
    gateway = start(with_cache(up))
    alice, bob = create(gateway, "alice"), create(gateway, "bob")
    first = {key: use(gateway, key) for key in (alice, bob)}
    assert {state(answer) for answer in first.values()} == {"miss"}
    assert {state(use(gateway, key)) for key in (alice, bob)} == {"hit"}
    revoked = json.loads(command(gateway, "keys", "revoke", "alice", "--format", "json"))
    assert (revoked["state"], revoked["purged"]) == ("revoked", 1)
    use(gateway, alice).error(401, "invalid_api_key")
    assert state(use(gateway, bob)) == "hit"
    command(gateway, "cache", "show", first[alice].id, code=1)
    command(gateway, "cache", "show", first[bob].id)
    with closing(sqlite3.connect(gateway.folder / "data" / "cache" / "cache.db")) as base:
        [(count,)] = base.execute(
            "SELECT count(*) FROM Cache WHERE instr(tag, ?) > 0", (first[alice].id.encode(),)
        )
    assert count == 0
    again = create(gateway, "alice")
    assert state(use(gateway, again)) == "miss"
    use(gateway, alice).error(401, "invalid_api_key")


def test_all_refusals_are_one(start: Start) -> None:
    """No oracle, neither in the body nor in the headers; and the admin token is no key."""
    gateway = start()
    revoked, rotated, expired = (
        create(gateway, name) for name in ("revoked", "rotated", "expired")
    )
    command(gateway, "keys", "revoke", "revoked")
    command(gateway, "keys", "rotate", "rotated")
    assert use(gateway, expired).status == 200
    command(gateway, "keys", "set", "expired", "--expires", "100ms")
    until(lambda: use(gateway, expired).status == 401)
    answers = [
        use(gateway, key)
        for key in (revoked, rotated, expired, "gw_", "gw_unknown", revoked[:-1], ADMIN_TOKEN)
    ]
    answers.append(ask(gateway, chat("echo"), ("Authorization", "Bearer ' OR '1'='1")))
    for answer in answers:
        answer.error(401, "invalid_api_key")
    own = {"x-gateway-request-id", "x-request-id", "date"}
    shapes = {
        (x.body, tuple((k, v) for k, v in x.headers if k.lower() not in own)) for x in answers
    }
    assert len(shapes) == 1


def test_who_guesses_does_not_keep_others_out(start: Start) -> None:
    """N2: refusals of an address are held back, a valid key from it is not."""
    gateway = start()
    key = create(gateway, "alice")
    for number in range(14):
        use(gateway, f"gw_{number}").error(401, "invalid_api_key")
    assert use(gateway, key).status == 200
    use(gateway, "gw_one-more").error(401, "invalid_api_key")


def test_a_rotation_with_grace(start: Start) -> None:
    gateway = start()
    old = create(gateway, "alice")
    new = json.loads(
        command(gateway, "keys", "rotate", "alice", "--grace", "24h", "--format", "json")
    )
    assert new["name"] == "alice" and new["key"] != old
    assert use(gateway, old).status == use(gateway, new["key"]).status == 200
    newer = json.loads(
        command(gateway, "keys", "rotate", "alice", "--grace", "100ms", "--format", "json")
    )
    use(gateway, old).error(401, "invalid_api_key")
    until(lambda: use(gateway, new["key"]).status == 401)
    assert use(gateway, newer["key"]).status == 200


def test_a_change_holds_from_the_next_request_on(start: Start) -> None:
    """F6; and a model that the key may not use is refused before any look-up."""
    gateway = start()
    key = create(gateway, "alice", "--models", "open-*,ech*")
    assert use(gateway, key).status == 200
    command(gateway, "keys", "set", "alice", "--models", "open-*")
    use(gateway, key).error(403, "model_not_allowed")
    status, shown = admin(gateway, "PATCH", "/admin/keys/alice", {"models": None})
    assert (status, shown["models"]) == (200, None)
    assert use(gateway, key).status == 200


def test_a_key_outlives_a_kill_right_after_it_was_shown(tmp_path: Path, up: Scripted) -> None:
    """And so does a revocation."""
    killed = Gateway(tmp_path, config_for(up)).__enter__()
    gone = create(killed, "gone")
    command(killed, "keys", "revoke", "gone")
    key = create(killed, "alice")
    killed.kill()
    with Gateway(tmp_path, config_for(up)) as gateway:
        assert use(gateway, key).status == 200
        use(gateway, gone).error(401, "invalid_api_key")


def test_keys_made_without_a_server_work_with_one(tmp_path: Path, up: Scripted) -> None:
    with Gateway(tmp_path, config_for(up)) as gateway:
        pass
    key = create(gateway, "alice")
    with Gateway(tmp_path, config_for(up)) as gateway:
        assert use(gateway, key).status == 200
        command(gateway, "keys", "revoke", "alice")
        use(gateway, key).error(401, "invalid_api_key")


def test_another_pepper(tmp_path: Path, up: Scripted) -> None:
    """C3, as docs/keys.md says it: the new line above the old one, until no key is `old`."""
    with Gateway(tmp_path, config_for(up)) as gateway:
        used, unused = create(gateway, "used"), create(gateway, "unused")
    secret = tmp_path / "data" / "secret"
    secret.write_text("n" * 64 + "\n" + secret.read_text())

    def peppers(gateway: Gateway) -> dict[str, str]:
        listed = json.loads(command(gateway, "keys", "list", "--format", "json"))
        return {key["name"]: key["pepper"] for key in listed}

    with Gateway(tmp_path, config_for(up)) as gateway:
        assert peppers(gateway) == {"used": "old", "unused": "old"}
        assert use(gateway, used).status == 200
        until(lambda: peppers(gateway)["used"] == "current")
    secret.write_text("n" * 64 + "\n")
    with Gateway(tmp_path, config_for(up)) as gateway:
        assert peppers(gateway) == {"used": "current", "unused": "lost"}
        assert use(gateway, used).status == 200
        use(gateway, unused).error(401, "invalid_api_key")


def test_the_admin_plane(start: Start) -> None:
    """N4, API3, API5: its own token, and no member that is not meant for it."""
    gateway = start()
    status, made = admin(gateway, "POST", "/admin/keys", {"name": "alice", "rpm": 60})
    assert status == 200
    key = made["key"]
    assert use(gateway, key).status == 200
    assert admin(gateway, "GET", "/admin/keys/alice")[1]["rpm"] == 60
    for member in ("id", "digest", "key", "limits", "admin", "revoked"):
        for method, path in (("POST", "/admin/keys"), ("PATCH", "/admin/keys/alice")):
            name = {"name": "mallory"} if method == "POST" else {}
            status, refused = admin(gateway, method, path, {**name, member: "x"})
            assert (status, refused["error"]["code"]) == (400, "invalid_request")
    assert admin(gateway, "POST", "/admin/keys", {"name": "alice"})[0] == 409
    assert admin(gateway, "GET", "/admin/keys/mallory")[0] == 404
    assert admin(gateway, "PATCH", "/admin/keys/alice", {"name": "bob"})[0] == 400
    for token in (key, "x"):  # a caller's key opens nothing here
        for method, path in (("GET", "/admin/keys"), ("DELETE", "/admin/keys/alice")):
            assert admin(gateway, method, path, Authorization=f"Bearer {token}")[0] == 401
    assert admin(gateway, "DELETE", "/admin/keys/alice", Origin="https://evil.example")[0] == 403
    assert admin(gateway, "POST", "/admin/teams", {"name": "red", "tpm": 9000})[1]["tpm"] == 9000
    assert admin(gateway, "PATCH", "/admin/keys/alice", {"team": "red"})[1]["team"] == "red"
    assert admin(gateway, "DELETE", "/admin/teams/red")[0] == 409
    status, rotated = admin(gateway, "POST", "/admin/keys/alice/rotate", {})
    assert use(gateway, key).status == 401
    assert use(gateway, rotated["key"]).status == 200
    assert admin(gateway, "DELETE", "/admin/keys/alice")[1]["state"] == "revoked"
    assert admin(gateway, "DELETE", "/admin/keys/alice")[0] == 404
    assert use(gateway, rotated["key"]).status == 401
    assert admin(gateway, "DELETE", "/admin/teams/red")[0] == 200
    listed = json.loads(command(gateway, "keys", "list", "--format", "json"))
    assert [x["name"] for x in admin(gateway, "GET", "/admin/keys")[1]] == ["alice"]
    assert listed == admin(gateway, "GET", "/admin/keys")[1]


def test_no_key_is_written_anywhere(start: Start, up: Scripted) -> None:
    """G7, N2: made, used well and badly, rotated and revoked; then all that was written is
    searched."""
    gateway = start(with_cache(up))
    keys = [create(gateway, name) for name in ("alice", "bob", "carol")]
    _, bob, carol = keys
    said: list[str] = []
    models = [
        up.play(reply(completion()), prefix="keyed"),
        up.play(stream(hello()), prefix="keyed"),
    ]
    for key in keys:
        token = ("Authorization", f"Bearer {key}")
        for model in (*models, "echo", "down-1", f"open-{key}", key):
            answer = ask(gateway, chat(model), token, ("X-Gateway-Tags", f"team={key}"))
            said.append("" if key in model else f"{answer.headers}{answer.body!r}")
        tagged = ("x-stainless-retry-count", key), ("traceparent", key)
        ask(gateway, chat("echo"), token, *tagged, target=f"{CHAT}?key={key}")
        ask(gateway, b"", token, target=f"/v1/models/{key}")
        ask(gateway, b"{", token)
    rotated = admin(gateway, "POST", "/admin/keys/bob/rotate", {"grace": "1h"})[1]["key"]
    assert use(gateway, rotated).status == use(gateway, bob).status == 200
    said.append(command(gateway, "keys", "revoke", "carol"))
    use(gateway, carol).error(401, "invalid_api_key")
    keys.append(rotated)
    for form in ("table", "json", "csv"):
        for words in (
            ["keys", "list"],
            ["keys", "show", "bob"],
            ["keys", "set", "bob", "--rpm", "1"],
        ):
            said.append(command(gateway, *words, "--format", form))
    said += [str(admin(gateway, "GET", path)) for path in ("/admin/keys", "/admin/config")]
    with _open(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=PATIENCE) as page:
        said.append(page.read().decode())
    gateway.log.wait(1, model="down-1", key="carol")
    process = Path(f"/proc/{gateway.process.pid}")
    written = {
        "answers and commands": "\n".join(said).encode(),
        "access log": gateway.log.path.read_bytes(),
        "stderr": gateway.stderr.text.encode(),
        "stdout": gateway.stdout.text.encode(),
        **{name: (process / name).read_bytes() for name in ("cmdline", "environ")},
        **{
            str(path.relative_to(gateway.folder)): path.read_bytes()
            for path in (gateway.folder / "data").rglob("*")
            if path.is_file()
        },
    }
    assert {"data/keys.db", "data/keys.db-wal", "data/secret"} <= written.keys()
    pepper = (gateway.folder / "data" / "secret").read_bytes().strip()
    secrets = [*(key.encode() for key in keys), *(key[7:].encode() for key in keys)]
    leaks = [where for where, text in written.items() for secret in secrets if secret in text]
    leaks += [where for where, text in written.items() if pepper in text and where != "data/secret"]
    assert not leaks
    assert os.stat(gateway.folder / "data" / "keys.db").st_mode & 0o777 == 0o600
