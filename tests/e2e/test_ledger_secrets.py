"""Canary secrets appear nowhere but where they live: not in a file, a log, an answer, a command's
output, a process's arguments or a copy (issue 4, proof 5; G7)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.cached import killed, metric
from tests.e2e.conftest import PROVIDER_KEY, config_for
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.e2e.raw import CHAT, Cut, Raw, chat, request
from tests.e2e.test_keys import command, use
from tests.scripted.client import Scripted
from tests.scripted.replies import CUT, completion, delta, error, hello, reply, stream

PEPPER = "canary-pepper-" + "5a" * 20
SHOWS = (
    *("keys list", "keys show alice", "teams list", "cache stats", "logs --limit 1000"),
    "usage --by key,model,tag:project,tag:k",
)
HOME = {"secret": "pepper", "admin.token": "admin token"}  # below data, and in a copy


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files below, but for sockets and what is there to hold secrets."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            yield str(path.relative_to(folder)), path.read_bytes()


def arguments() -> str:
    """What `ps` shows of every process."""
    shown = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            shown.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return "\n".join(shown)


def leaks(written: Mapping[str, str | bytes], secrets: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where which secret stands; its last half is as good as all of it."""
    found = []
    for place, text in written.items():
        data = text.encode() if isinstance(text, str) else text
        for name, secret in secrets.items():
            if HOME.get(Path(place).name) != name and secret[-len(secret) // 2 :].encode() in data:
                found.append((place, name))
    return found


def spread(gateway: Gateway, up: Scripted, key: str) -> dict[str, str]:
    """Put the key wherever a client can, and let calls fail in every way: what was answered. Each
    comes from an address of its own: who guesses keys would have to wait."""
    scripts = [
        reply(completion()),
        stream(hello()),
        [CUT],
        [*stream([delta("x")], close=False), CUT],
        reply(error("401", "invalid_api_key"), "401 Unauthorized"),
        reply(b"<html>", kind="text/html"),
    ]
    models = [up.play(steps, prefix="keyed") for steps in scripts]
    models += ["down-1", "own-1", "nobody", key, f"keyed-{key}"]
    addresses = (("X-Forwarded-For", f"10.{key[3:4].encode()[0]}.0.{n}") for n in range(1, 99))
    headers = [
        ("Authorization", f"Bearer {key}"),
        ("X-Gateway-Tags", f"project={key[:40]},k={key}"),
        ("X-Stainless-Retry-Count", key),
        ("traceparent", key),
        ("User-Agent", key),
        ("Cookie", key),
    ]
    answers: dict[str, str] = {}
    for model in models:
        for streaming in (False, True):
            with Raw(gateway.address) as raw:
                body, own = chat(model, stream=streaming), [*headers, next(addresses)]
                raw.send(request(f"{CHAT}?key={key}", body, own))
                try:
                    answer = raw.answer()
                    said = answer.body.decode("utf-8", "replace") + str(answer.headers)
                except Cut as cut:
                    said = str(cut)
                answers[f"{len(answers)} to {key[:7]}"] = said
    for target in (f"/v1/{key}", f"/v1/models/{key}", f"/{key}"):
        with Raw(gateway.address) as raw:
            answer = raw.ask(target, method="GET", headers=[*headers, next(addresses)])
            answers[f"{len(answers)} to {key[:7]}"] = f"{answer.headers}{answer.body!r}"
    return answers


def page(gateway: Gateway, path: str, token: str) -> str:
    asked = urllib.request.Request(f"http://127.0.0.1:{gateway.admin_port}{path}")
    asked.add_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as got:
        return str(got.read().decode())


@pytest.mark.parametrize("made", [True, False], ids=["made by the gateway", "given"])
def test_canaries_are_nowhere(tmp_path: Path, up: Scripted, made: bool) -> None:
    """With what the first start makes, and with what the environment gives."""
    given = {"PROVIDER": PROVIDER_KEY}
    given |= {"GATEWAY_ADMIN_TOKEN": ""} if made else {"GATEWAY_PEPPER": PEPPER}
    config = config_for(up) | {"cache": {"disk_deadline": "60s"}}
    config["upstreams"] = [
        one | ({"api_key": "${PROVIDER}"} if one.get("api_key") else {})
        for one in config["upstreams"]
    ]
    data, written = tmp_path / "data", dict[str, str | bytes]()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)  # for the commands too
        with Gateway(tmp_path, config, env=given) as gateway:
            key, old = _keys(gateway)
            token = (data / "admin.token").read_text().strip() if made else ADMIN_TOKEN
            pepper = (data / "secret").read_text().strip() if made else PEPPER
            secrets = {
                "key": key,
                "old key": old,
                "provider key": PROVIDER_KEY,
                "admin token": token,
                "pepper": pepper,
            }
            assert all(len(secret) >= 20 for secret in secrets.values())
            for one in (key, old):
                assert use(gateway, one).status == (200 if one == key else 401)
                written |= spread(gateway, up, one)
            written |= {"refusal": use(gateway, token).body, "arguments": arguments()}
            for line in SHOWS:
                for form in ("table", "json"):
                    told = command(gateway, *line.split(), "--format", form)
                    written[f"{line} {form}"] = told
            written["backup"] = command(gateway, "backup", str(tmp_path / "copy"))
            for path in ("/metrics", "/admin/config", "/admin/keys", "/admin/logs?limit=1000",
                         "/admin/usage?by=key,model,tag:k", "/openapi.json"):  # fmt: skip
                written[path] = page(gateway, path, token)
            assert metric(gateway, "gateway_requests_total") > 40
            rows = json.loads(command(gateway, "logs", "--limit", "1000", "--format", "json"))
            assert len(rows) > 20
            written |= {"stderr": gateway.stderr.text, "stdout": gateway.stdout.text}
        with killed(tmp_path, config) as gateway:
            spread(gateway, up, key)
        written |= {"stderr of the killed": gateway.stderr.text, **dict(everything(tmp_path))}
        (tmp_path / "copy" / "ledger.db").write_bytes(b"not a database" * 100)
        written["a broken start"] = _broken_start(gateway, tmp_path / "copy")
    places = [place for place in written if place.startswith(("data/", "copy/"))]
    assert {"data/ledger.db", "data/keys.db", "copy/ledger.db", "copy/keys.db"} <= set(places)
    assert "access.log" in written
    assert not leaks(written, secrets)
    if made:  # the search finds what is there
        assert leaks({"copy/x": written["copy/secret"]}, secrets) == [("copy/x", "pepper")]
        assert oct((tmp_path / "copy" / "secret").stat().st_mode & 0o777) == "0o600"
        assert "copy/admin.token" not in written


def _keys(gateway: Gateway) -> tuple[str, str]:
    """A key, and the one it was before it was rotated; each shown once, by the command alone."""
    shown = [
        command(gateway, *words)
        for words in (("keys", "create", "alice"), ("keys", "rotate", "alice"))
    ]
    old, new = (str(re.search(r"gw_\S+", text)[0]) for text in shown)  # type: ignore[index]
    assert old != new
    return new, old


def _broken_start(gateway: Gateway, data: Path) -> str:
    """What a start says that fails on a file."""
    started = subprocess.run(
        [*gateway.process.args[:3], "serve", "--config", str(gateway.config_file),  # type: ignore[index]
         "--data", str(data), "--port", "0", "--admin-port", "0"],
        cwd=gateway.folder, env=os.environ | {"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert started.returncode == 1
    assert "ledger.db" in started.stderr
    return started.stdout + started.stderr
