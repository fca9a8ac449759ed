"""What tests of the cache ask a running gateway besides its answers: its figures."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.e2e.raw import CHAT, Answer, Raw
from tests.scripted.client import PATIENCE

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def ask(gateway: Gateway, body: Any, *headers: tuple[str, str], target: str = CHAT) -> Answer:
    """One request on a connection of its own."""
    with Raw(gateway.address) as raw:
        return raw.ask(target, body, headers=headers)


def state(answer: Answer) -> str | None:
    return answer.header("x-gateway-cache")


def states(answers: Iterable[Answer]) -> dict[str | None, int]:
    return dict(Counter(state(answer) for answer in answers))


def admin(gateway: Gateway, path: str, body: Any = None) -> Any:
    """An admin operation's answer, as JSON."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    asking = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}{path}", data=data, headers=headers
    )
    with _open(asking, timeout=PATIENCE) as got:
        return json.load(got)


def figures(gateway: Gateway) -> Any:
    """`gateway cache stats`."""
    return admin(gateway, "/admin/cache")


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a family's samples with these labels."""
    with _open(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=PATIENCE) as got:
        text = got.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def until(true: Callable[[], bool], what: str) -> None:
    """Ask until it is true: a page cannot be waited for."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError(f"never: {what}")


@contextmanager
def killed(folder: Path, config: Mapping[str, Any]) -> Iterator[Gateway]:
    """A gateway that ends with SIGKILL."""
    gateway = Gateway(folder, config)
    try:
        yield gateway.__enter__()
    finally:
        gateway.kill()
    gateway.check()


def on_disk(gateway: Gateway, entries: int) -> None:
    """Wait until so many entries are on disk, and none is on its way there."""

    def settled() -> bool:
        disk = figures(gateway)["disk"]
        return disk["entries"] == entries and disk["queued"] == 0

    until(settled, f"{entries} entries on disk")


class Lookups:
    """Counts the look-ups that have found nothing since; who has found nothing has boarded a flight
    in the same breath."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.before = self._missed()

    def wait(self, number: int) -> None:
        until(lambda: self._missed() - self.before >= number, f"{number} look-ups")

    def _missed(self) -> int:
        missed: int = figures(self.gateway)["disk"]["misses"]
        return missed
