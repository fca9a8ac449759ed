"""Capturing one request while it is answered: a client in front of the client.

Rule: what is handed on is handed on as it came, and first. Nothing is copied or parsed here: the
captured bytes are those that are under way anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.config import Journal
from gateway.entry import is_like
from gateway.exchange import Caller, Exchange, HeaderList
from gateway.journal.shape import SLACK, Captured, Side
from gateway.ports import Ask, Client
from gateway.wire.fields import fields_of

QUEUE_FULL = "queue_full"  # why a body was left out
STREAM = 16  # times as much of a stream is captured: its framing is most of it


class NotKept:
    """Of this request nothing is kept."""

    def wrap(self, client: Client) -> Client:
        """The client itself."""
        return client

    def end(self, exchange: Exchange) -> None:
        """Nothing."""


NOT_KEPT = NotKept()


class NoJournal:
    """Keeps nothing of any request."""

    def keeps(self, caller: Caller, model: str | None) -> bool:
        """Never."""
        return False

    def capture(self, ask: Ask, caller: Caller, model: str | None, body: bytes | None) -> NotKept:
        """Nothing."""
        return NOT_KEPT


def is_kept(section: Journal, caller: Caller, model: str | None, header: str | None) -> bool:
    """Are bodies of such a request kept. An explicit off, wherever it stands, wins; then an
    explicit on, of the key or of the model; then `journal.bodies` (requirement G6). Where no model
    is known, it might be one that is off."""
    of_key = caller.grant.log_bodies if caller.grant is not None else None
    of_model = _of_model(section, model) if section.models else None
    if of_key is False or of_model is False or not (of_key or of_model or section.bodies):
        return False
    return header is None or header.strip().lower() != "none"


def _of_model(section: Journal, model: str | None) -> bool | None:
    if model is None:
        return False if any(not rule.bodies for rule in section.models) else None
    for rule in section.models:
        if any(is_like(model, pattern) for pattern in rule.models):
            return rule.bodies
    return None


class Room(Protocol):
    """The journal's memory, and where what was captured goes."""

    def take(self, size: int) -> bool:
        """Have room for so many bytes more; False: there is none."""

    def put(self, captured: Captured) -> None:
        """It has ended. Never blocks, never raises."""


class Recorder:
    """Captures one request; it is its client in the meantime."""

    __slots__ = (
        *(
            "_ask",
            "_body",
            "_caller",
            "_client",
            "_held",
            "_left",
            "_limit",
            "_pieces",
            "_response",
        ),
        *("_room", "_size", "_took"),
    )

    def __init__(
        self, room: Room, ask: Ask, caller: Caller, body: bytes | None, limit: int
    ) -> None:
        """`limit` in bytes, of each body. To be wrapped around the client next."""
        self._room, self._ask, self._caller = room, ask, caller
        self._limit = limit + SLACK
        self._held = self._took = self._size = 0
        self._response: HeaderList = []
        self._pieces: list[bytes] = []
        self._left: str | None = None
        self._body = Side(size=len(body or b""))
        if body is None:
            self._body.left = "streamed" if ask.body.length != 0 else None
        elif room.take(size := min(len(body), self._limit)):
            self._held += size
            self._body.body = body[: self._limit]
        else:
            self._body.left = QUEUE_FULL

    def wrap(self, client: Client) -> Client:
        """This one stands in front of `client` from now on."""
        self._client = client
        return self

    def end(self, exchange: Exchange) -> None:
        """The request has ended."""
        self._body.headers = self._ask.headers
        if self._body.left is not None:
            self._body.size = exchange.bytes_in  # streamed: not known before
        response = Side(self._response, b"", self._size, self._left)
        if self._left is None:
            response.body = b"".join(self._pieces)
        own = (self._caller.token,) if self._caller.token else ()
        self._room.put(
            Captured(
                exchange.id,
                self._body,
                response,
                exchange.status,
                exchange.timings,
                own,
                self._held,
            )
        )

    def _take(self, data: bytes) -> None:
        if self._client.gone:
            return
        self._size += len(data)
        if self._left is not None or self._took >= self._limit:
            return
        if not self._room.take(len(data)):
            self._left = QUEUE_FULL
            self._pieces.clear()
            return
        self._held += len(data)
        self._took += len(data)
        self._pieces.append(data)

    # The client's side --------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        return self._client.gone

    @property
    def started(self) -> bool:
        return self._client.started

    @property
    def bytes_out(self) -> int:
        return self._client.bytes_out

    def watch(self, on_ready: Callable[[], None], on_gone: Callable[[], None]) -> None:
        self._client.watch(on_ready, on_gone)

    def start(self, status: int, headers: HeaderList, length: int | None, lines: str = "") -> None:
        self._client.start(status, headers, length, lines)
        self._see(fields_of(lines) + headers if lines else headers)

    def whole(
        self,
        status: int,
        headers: HeaderList,
        pieces: Sequence[bytes | memoryview],
        length: int | None,
        lines: str = "",
    ) -> None:
        was_gone = self._client.gone
        self._client.whole(status, headers, pieces, length, lines)
        self._see(fields_of(lines) + headers)
        for piece in () if was_gone else pieces:
            self._take(bytes(piece))

    def _see(self, headers: HeaderList) -> None:
        self._response = headers
        if any(name == "content-type" and "event-stream" in value for name, value in headers):
            self._limit *= STREAM

    def write(self, data: bytes) -> bool:
        self._take(data)
        return self._client.write(data)

    def finish(self) -> None:
        self._client.finish()

    def abort(self) -> None:
        self._client.abort()
