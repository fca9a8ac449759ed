"""Commands as processes of their own, beside a gateway or without one."""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import Gateway, environment
from tests.scripted.client import PATIENCE

PROVIDER_KEY = "canary-provider-key-31d0"
CONFIG = {
    "upstreams": [
        {"name": "echo", "base_url": "echo:", "models": ["*"]},
        {"name": "keyed", "base_url": "http://127.0.0.1:9/v1", "api_key": PROVIDER_KEY},
    ],
    "keys": {"passthrough": True},
}


class House:
    """One folder with its configuration and data, a gateway on it while `serve` lasts, and the
    commands that look after it."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder = folder
        self.data = data or folder / "data"
        self.gateway: Gateway | None = None
        self.said: list[str] = []  # all that commands wrote

    def serve(self, stack: ExitStack, config: Mapping[str, Any] = CONFIG) -> Gateway:
        args = ("--data", str(self.data))  # the last one holds
        self.gateway = stack.enter_context(Gateway(self.folder, config, *args))
        return self.gateway

    def command(self, *words: str, config: Path | None = None) -> list[str]:
        where = config or self.folder / "config.yaml"
        return [
            *(sys.executable, "-m", "gateway", *words),
            *("--config", str(where), "--data", str(self.data)),
        ]

    def run(self, *words: str, code: int = 0) -> str:
        """Stdout of a command, which must end with `code`."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert done.stdout == ""
            assert done.stderr
        return done.stdout

    def read(self, *words: str) -> Any:
        """What a command gives as JSON."""
        return json.loads(self.run(*words, "--format", "json"))

    def chat(
        self,
        prompt: str,
        *,
        key: str,
        model: str = "echo",
        most: int = 99,
        control: str = "",
        tags: str = "",
    ) -> tuple[str, str]:
        """The id of a request, and what the cache was to it; "gone" where nothing is kept."""
        assert self.gateway is not None
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": most}
        with closing(http.client.HTTPConnection(*self.gateway.address, timeout=PATIENCE)) as wire:
            given = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            given |= {"Cache-Control": control, "X-Gateway-Tags": tags}
            wire.request("POST", "/v1/chat/completions", json.dumps(body), given)
            answer = wire.getresponse()
            answer.read()
        state = "gone" if answer.status == 504 else answer.headers["X-Gateway-Cache"]
        return answer.headers["X-Gateway-Request-Id"], state

    def kept(self, prompt: str, *, key: str, model: str = "echo") -> bool:
        """Would it be answered from the cache? Without calling anybody."""
        _, state = self.chat(prompt, key=key, model=model, control="only-if-cached")
        assert state in {"gone", "hit"}
        return state == "hit"

    def on_disk(self, request_id: str) -> bool:
        """Does a row name it? Looked up beside the gateway, without its code."""
        with closing(sqlite3.connect(self.data / "cache" / "cache.db", timeout=PATIENCE)) as base:
            [(count,)] = base.execute(
                "SELECT COUNT(*) FROM Cache WHERE instr(tag, ?) > 0", (request_id.encode(),)
            )
        return bool(count)

    def written(self, *request_ids: str) -> None:
        """Return once they are on disk, where they belong within 500 ms."""
        waiting = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if all(map(self.on_disk, request_ids)):
                return
            waiting.wait(0.01)  # another process's file cannot be waited for
        raise AssertionError(f"not on disk: {request_ids}")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A folder of its own; nothing runs yet."""
    made = House(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG), encoding="utf-8")
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What was started ends with the test."""
    with ExitStack() as found:
        yield found
