"""Is it alive, is it ready: what both planes answer to probes (requirement L2).

Rule: no call to an upstream, no I/O, no credential; a probe is answered from memory at once.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.json import encode

from gateway.exchange import HeaderList

Answer = tuple[int, HeaderList, bytes]

_HEADERS: HeaderList = [("content-type", "application/json"), ("cache-control", "no-store")]


class Ops:
    """`draining` is set once the gateway stops. A check says whether a room can do its work."""

    def __init__(self) -> None:
        self.draining = False
        self._checks: dict[str, Callable[[], bool]] = {}

    def check(self, name: str, works: Callable[[], bool]) -> None:
        """Ask `works` at each `/readyz`; one that raises does not work. No I/O in it."""
        self._checks[name] = works

    def healthz(self) -> Answer:
        """200: whoever can answer is alive."""
        return _answer(200, status="ok")

    def readyz(self) -> Answer:
        """200, or 503 where new requests should go elsewhere, with the names of what fails."""
        if self.draining:
            return _answer(503, status="draining")
        failed = [name for name, works in self._checks.items() if not _holds(works)]
        if failed:
            return _answer(503, status="not_ready", failed=failed)
        return _answer(200, status="ok")


def _holds(works: Callable[[], bool]) -> bool:
    try:
        return works()
    except Exception:  # whatever is wrong with it, it is not ready
        return False


def _answer(code: int, **body: object) -> Answer:
    return code, list(_HEADERS), encode(body)
