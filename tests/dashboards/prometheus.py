"""Debian's Prometheus as a process of its own, scraping a gateway once a second."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

T = TypeVar("T")
SCRAPE = 1.0  # seconds
PATIENCE = 30.0  # seconds; no passing test comes near
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def until(look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """What `look` finds, as soon as it does: another process's state cannot be waited for."""
    waiting = threading.Event()
    for _ in range(int(patience / 0.05)):
        if found := look():
            return found
        waiting.wait(0.05)
    raise AssertionError(f"never: {what}")


class Prometheus:
    """`with Prometheus(folder, jobs) as prom:`; it has found its port and every target is up."""

    def __init__(self, folder: Path, jobs: list[dict[str, Any]]) -> None:
        self.jobs = [str(job["job_name"]) for job in jobs]
        config = folder / "prometheus.yml"
        interval = f"{int(SCRAPE * 1000)}ms"
        config.write_text(
            yaml.safe_dump({"global": {"scrape_interval": interval}, "scrape_configs": jobs})
        )
        self._said = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                "--web.listen-address=127.0.0.1:0",
                "--enable-feature=exemplar-storage",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
        )
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self.url = f"http://127.0.0.1:{until(self._port, 'Prometheus listens')}"
            until(self._all_up, "Prometheus has scraped every target")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _port(self) -> int | None:
        """The port it listens on: it logs the one it was given, which is 0."""
        process = Path(f"/proc/{self._process.pid}")
        assert self._process.poll() is None, Path(self._said.name).read_text()
        links = [link for fd in (process / "fd").iterdir() if (link := _read_link(fd))]
        mine = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
        for line in (process / "net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in mine:
                return int(local.partition(":")[2], 16)
        return None

    def _all_up(self) -> bool:
        try:
            found = self.instant("up")
        except OSError:
            return False
        return {s["metric"]["job"] for s in found if s["value"][1] == "1"} == set(self.jobs)

    def _ask(self, path: str, **form: str) -> Any:
        data = urllib.parse.urlencode(form).encode()
        try:
            with _open(f"{self.url}/api/v1/{path}", data=data, timeout=PATIENCE) as got:
                return json.load(got)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:
                    raise ConnectionError("not ready") from None
                raise AssertionError(f"{form}: {error.read().decode()}") from None

    def instant(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """The result's series, each with its one `value`."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        return list(self._ask("query", query=query, **when)["result"])

    def number(self, query: str, at: float | None = None) -> float:
        """The one value there is; 0 where there is none."""
        found = self.instant(query, at)
        assert len(found) <= 1, f"{query}: {len(found)} series"
        return float(found[0]["value"][1]) if found else 0.0

    def course(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """The result's series over time, each with its `values`."""
        form = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{SCRAPE}"}
        return list(self._ask("query_range", query=query, **form)["result"])

    def label_values(self, selector: str, label: str, start: float, end: float) -> list[str]:
        """What Grafana offers for `label_values(selector, label)`."""
        form = {"match[]": selector, "start": f"{start:.3f}", "end": f"{end:.3f}"}
        found = self._ask("series", **form)
        return sorted({one[label] for one in found if label in one})


def _read_link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # closed meanwhile
        return ""
