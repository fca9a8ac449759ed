"""README.md, "Keys and books", as a new user does it: every command as it is printed, with the key
and the id that were shown put in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.cached import admin
from tests.e2e.process import Gateway, environment
from tests.e2e.test_keys import use
from tests.scripted.client import PATIENCE

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text("utf-8").partition("\n## Keys and books\n")[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION.partition("\n## ")[0], re.M | re.S)


class User:
    """A shell in a fresh folder, with the command where `make` puts it, and an own Python with the
    openai client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "bin").mkdir()
        own = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        (folder / "bin" / "python3").write_text(own)
        (folder / "bin" / "python3").chmod(0o755)
        self.exports: list[str] = []  # that hold for what is typed after
        self.seen: dict[str, str] = {}  # what stands in the page: what was shown

    def types(self, line: str) -> str:
        for printed, shown in self.seen.items():
            line = line.replace(printed, shown)
        done = subprocess.run(
            ["bash", "-ec", "\n".join([*self.exports, line])],
            cwd=self.folder,
            env=environment({"PATH": f"{self.folder}/bin:/usr/bin:/bin"}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        assert "..." not in line
        if line.startswith("export "):
            self.exports.append(line)
        return done.stdout


def lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def test_the_page_s_commands_work_as_printed(tmp_path: Path) -> None:
    """Create, call, usage, logs, rotate, backup, revoke, restore; limits."""
    assert [kind for kind, _ in BLOCKS] == ["sh", "python", "sh", "sh", "sh"]
    create, app, daily, restore, limits = (text for _, text in BLOCKS)
    user = User(tmp_path)
    config = {"data": "./data"}
    with Gateway(tmp_path, config) as gateway:
        (tmp_path / "app.py").write_text(app.replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}"))
        shown = "".join(map(user.types, lines(create)))
        key = str(re.search(r"gw_\w+", shown)[0])  # type: ignore[index]
        user.seen["gw_..."] = key
        told: dict[str, str] = {}
        for line in lines(daily):
            command = line.partition("#")[0].strip()
            told[command] = user.types(line)
            if command == "gateway logs --key alice":
                user.seen["01K..."] = str(re.search(r"\b[0-9A-Z]{26}\b", told[command])[0])  # type: ignore[index]
        said, usage, logs, one, kept, found, rotated, copied, revoked = told.values()
        assert said == "hello"
        assert [line.split()[:3] for line in usage.splitlines()[1:]] == [["alice", "echo", "1"]]
        assert re.search(r" alice +echo +200 +ok +miss ", logs)
        assert re.search(rf"^id +{user.seen['01K...']}$", one, re.M)
        assert re.search(r"^log_bodies +on$", kept, re.M)
        assert "echo" not in found  # it came before anything was kept
        new = str(re.search(r"gw_\w{43}", rotated)[0])  # type: ignore[index]
        assert "keys.db" in copied and "ledger.db" in copied
        assert re.search(r"^state +revoked$", revoked, re.M)
        for text in (key, new):
            use(gateway, text).error(401, "invalid_api_key")
    for line in lines(restore):
        user.types(line)
    with Gateway(tmp_path, config) as gateway:  # as on Monday: she is not revoked, and has her row
        assert admin(gateway, "/admin/usage?by=key")[0]["requests"] == 1
        assert {use(gateway, text).status for text in (key, new)} == {200}
        _, left = (user.types(line) for line in lines(limits))
        assert re.search(r"^tokens_per_day +20,000 +[1-9]", left, re.M)  # what she used counts
