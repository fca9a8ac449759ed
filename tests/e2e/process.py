"""The gateway as its own process, with production settings, and what it leaves behind: log and
stderr.

aiohttp's TestServer cancels handlers and production does not (requirement B7), so nothing here
imports the gateway: it is started by its command, spoken to by sockets, and ended by signals.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from tests.scripted.client import PATIENCE

PLANE = re.compile(r"gateway: (data|admin) plane on (https?)://([^\s/]+):(\d+)")
T = TypeVar("T")
ADMIN_TOKEN = "canary-admin-token-9f2b"
CLEAN = ("OPENAI_", "GATEWAY_", "OTEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change the gateway's or a client's ways."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(CLEAN)}
    return kept | {
        "NO_PROXY": "127.0.0.1,localhost",
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        **(extra or {}),
    }


class Plain(yaml.SafeDumper):
    """YAML without anchors, as people write it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


class Lines:
    """What a pipe says, line by line, and a wait for a line to come."""

    def __init__(self, pipe: Any) -> None:
        self.all: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._news:
                self.all.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, look: Callable[[list[str]], T | None]) -> T:
        """What `look` finds in the lines, as soon as it does."""
        with self._news:
            self._news.wait_for(lambda: look(self.all) or self._ended, PATIENCE)
            found = look(self.all)
        assert found, "never said; it said:\n" + self.text
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.all)

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._pipe.close()


class AccessLog:
    """The access log as a file: one JSON object a line, one line for each request (B1)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._rest = b""
        self.lines: list[dict[str, Any]] = []
        self._told: set[str] = set()

    def look(self) -> list[dict[str, Any]]:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
            self._read += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            self.lines += [json.loads(line) for line in whole]
        return self.lines

    def find(self, **members: Any) -> list[dict[str, Any]]:
        return [x for x in self.look() if all(x.get(k) == v for k, v in members.items())]

    def wait(self, number: int = 1, **members: Any) -> list[dict[str, Any]]:
        """The lines with these members, once there are `number` of them; more are a failure."""
        waiting = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if len(found := self.find(**members)) >= number:
                break
            waiting.wait(0.01)  # a file cannot be waited for
        else:
            raise AssertionError(
                f"{len(found)} access lines with {members}; last: {self.lines[-3:]}"
            )
        assert len(found) == number, f"more lines than requests: {found}"
        return found

    def twice(self) -> list[str]:
        """Requests with more than one line, told once: there must be none."""
        found = {id for id, n in Counter(x["id"] for x in self.look()).items() if n > 1}
        new, self._told = sorted(found - self._told), found
        return new


class Gateway:
    """`gateway serve` on free ports. Use as a context manager: it ends with SIGTERM, and must exit
    0."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *args: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.write(config)
        self.log = AccessLog(folder / "access.log")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway", "serve"),
                *("--config", str(self.config_file), "--data", str(folder / "data")),
                *("--port", "0", "--admin-port", "0", *args),
            ],
            cwd=folder,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._checked = 0  # lines of stderr
        self.stdout = Lines(self.process.stdout)
        self.stderr = Lines(self.process.stderr)
        self.scheme, self.host, self.port = "", "", 0
        self.admin_port = 0

    def write(self, config: Mapping[str, Any]) -> None:
        """Put the configuration in place, whole (a watcher never sees half of it)."""
        config = {
            **config,
            "server": {"access_log": str(self.folder / "access.log")}
            | dict(config.get("server", {})),
        }
        draft = self.config_file.with_suffix(".new")
        draft.write_text(yaml.dump(config, Dumper=Plain), encoding="utf-8")
        draft.replace(self.config_file)

    def __enter__(self) -> Self:
        def planes(lines: list[str]) -> dict[str, tuple[str, str, int]] | None:
            found = {m[1]: (m[2], m[3], int(m[4])) for x in lines if (m := PLANE.search(x))}
            return found if len(found) == 2 else None

        try:
            found = self.stderr.until(planes)
        except AssertionError:
            self.kill()
            raise
        self.scheme, self.host, self.port = found["data"]
        self.admin_port = found["admin"][2]
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not end it:\n{self.stderr.text}") from None
        self.close()
        if not error:
            self.check()
            assert code == 0, f"exit code {code}:\n{self.stderr.text}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        self.stdout.close()
        self.stderr.close()

    def check(self) -> None:
        """What must hold after any test: no traceback (B9), no request with two lines (B1).
        Each fault is held against one test: what was said before is not looked at again."""
        said = self.stderr.all[self._checked :]
        self._checked += len(said)
        assert not any("Traceback" in line for line in said), "\n".join(said)
        assert not self.log.twice()

    def line(self, **members: Any) -> dict[str, Any]:
        """The one access line with these members; waits for it."""
        return self.log.wait(**members)[0]

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def v1(self) -> str:
        return self.url + "/v1"

    def memory(self) -> dict[str, int]:
        """VmRSS (now) and VmHWM (the most so far) in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return {k: int(v) * 1024 for k, v in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text)}
