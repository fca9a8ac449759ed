"""Single-flight: one upstream answer, recorded once, read by many. asyncio, no I/O.

A flight pumps an upstream's reply through an observer into pieces, and pushes them to its readers.
Nothing here creates a task or a future for a piece: the pump runs in the task of the request that
launched the flight, and a reader whose client is slow goes on from that client's own `on_ready`
callback.

Rules of this file: only whole pieces reach a client (so an error can follow at any point); the
answer's end (`[DONE]`, the closing chunk) is held back until `release`, which the pipeline calls
when the books are written; a slow reader slows the upstream, memory stays within `window`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from gateway.exchange import HeaderList
from gateway.ports import Client, Clock, Reply
from gateway.wire.observe import EndEvent, Form, Observer, Piece, UsageEvent

WINDOW = 1024 * 1024  # bytes in flight between the upstream and the slowest reader
HOLD = 256 * 1024  # a JSON answer below this is sent whole, with its length


class Leash:
    """Lets a callback break off one awaited section of a task, as `asyncio.timeout` does for a
    deadline.

    `reason` is what the section ends with when it was pulled.
    """

    __slots__ = ("_cancelled", "_cancelling", "_task", "reason")

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled = False

    def __enter__(self) -> Leash:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def pull(self, reason: Exception) -> None:
        """Break off. Called from the section's own task it takes effect at the next `check`."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None and asyncio.current_task() is not self._task:
            self._cancelled = self._task.cancel()

    def check(self) -> None:
        """Raise the reason if it was pulled; call before each await."""
        if self.reason is not None:
            raise self.reason

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if not self._cancelled or task is None:
            return
        if (
            task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
            and self.reason is not None
        ):
            raise self.reason from None


@dataclass(slots=True)
class Head:
    """An answer's head. `length` is None where it is not known yet."""

    status: int
    headers: HeaderList
    length: int | None


class Flight:
    """One answer in the air."""

    __slots__ = (
        "_first",
        "_held",
        "_holding",
        "_pieces",
        "_room",
        "_window",
        "ends",
        "head",
        "landed",
        "readers",
        "waited",
    )

    def __init__(self, window: int = WINDOW) -> None:
        self.head: Head | None = None
        self.readers: list[Reader] = []
        self.landed = False
        self.ends: list[bytes] = []
        self.waited = 0.0  # seconds spent waiting for the upstream's bytes
        self._pieces: list[Piece] = []
        self._first = 0  # absolute index of _pieces[0]
        self._held = 0  # bytes in _pieces
        self._window = window
        self._holding = False
        self._room: asyncio.Future[None] | None = None

    @property
    def total(self) -> int:
        """Pieces so far."""
        return self._first + len(self._pieces)

    def piece(self, index: int) -> Piece:
        """The piece with this absolute index."""
        return self._pieces[index - self._first]

    async def fly(
        self,
        reply: Reply,
        observer: Observer,
        leash: Leash,
        clock: Clock,
        on_content: Callable[[], None] | None = None,
    ) -> None:
        """Pump the reply to its end. UpstreamError and UpstreamTimeout pass through; what came
        before them has been pushed, an incomplete event dropped.

        `on_content` is called once, after the first content has been pushed.
        """
        self.begin(reply, observer)
        waiting = on_content
        while True:
            leash.check()
            before = clock.monotonic()
            try:
                data = await reply.read()
            except Exception:
                observer.cut()
                self.push()
                raise
            finally:
                self.waited += clock.monotonic() - before
            self._append(observer.feed(data) if data else observer.close())
            if not data:
                break
            self._holding = self._holding and self._may_hold(data)
            self.push()
            if waiting is not None and observer.saw_content:
                waiting()
                waiting = None
            if self._held > self._window:
                await self._wait_for_room(leash)
        self._land()
        if waiting is not None and observer.saw_content:
            waiting()

    def begin(self, reply: Reply, observer: Observer) -> None:
        """The head is here. A JSON answer is held until it is whole (or large): one write, and a
        cut answer can still become a readable 502."""
        streamed = observer.form is Form.STREAM  # events may be left out: its length is not known
        self.head = Head(reply.status, reply.headers, None if streamed else reply.length)
        self._holding = observer.form is Form.JSON
        self.push()

    def _may_hold(self, data: bytes) -> bool:
        """White space keeps a connection alive while the upstream works: it must not be kept
        back."""
        return self._held <= HOLD and not (self._held == len(data) and data.isspace())

    def _append(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, EndEvent):
                self.ends.append(piece)
            else:
                self._pieces.append(piece)
                self._held += len(piece)

    def _land(self) -> None:
        if self._holding and self.head is not None and self.head.length is None:
            self.head.length = self._held
        self.landed = True
        self._holding = False
        self.push()

    def push(self) -> None:
        """Let every ready reader advance."""
        if self._holding or self.head is None:
            return
        for reader in self.readers:
            if reader.ready:
                reader.advance()
        self.trim()

    def trim(self) -> None:
        """Forget what every reader has; wake the pump if there is room again."""
        pieces = self._pieces
        slowest = min((reader.position for reader in self.readers), default=self.total)
        count = slowest - self._first
        if count:
            if count == len(pieces):
                pieces.clear()
                self._held = 0
            else:
                self._held -= sum(map(len, pieces[:count]))
                del pieces[:count]
            self._first = slowest
        if self._room is not None and self._held <= self._window and not self._room.done():
            self._room.set_result(None)

    async def _wait_for_room(self, leash: Leash) -> None:
        leash.check()
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None


class Reader:
    """One client reading a flight, at its own pace."""

    __slots__ = (
        "_caught_up",
        "_hides_usage",
        "_make_head",
        "_on_gone",
        "client",
        "flight",
        "position",
        "ready",
    )

    def __init__(
        self,
        flight: Flight,
        client: Client,
        *,
        hides_usage: bool,
        make_head: Callable[[Head], HeaderList],
        on_gone: Callable[[], None],
    ) -> None:
        self.flight = flight
        self.client = client
        self.position = 0
        self.ready = True
        self._hides_usage = hides_usage
        self._make_head = make_head
        self._on_gone = on_gone
        self._caught_up: asyncio.Future[None] | None = None
        flight.readers.append(self)
        client.watch(self._client_ready, self._client_gone)

    def advance(self) -> None:
        """Write what there is, until the client's buffer is full."""
        flight, client = self.flight, self.client
        if not client.started and flight.head is not None:
            client.start(flight.head.status, self._make_head(flight.head), flight.head.length)
        while self.ready and self.position < flight.total:
            piece = flight.piece(self.position)
            self.position += 1
            if not (self._hides_usage and type(piece) is UsageEvent):
                self.ready = client.write(piece)
        if self.position == flight.total:
            self._wake()

    @property
    def behind(self) -> bool:
        """Pieces wait for this reader."""
        return self.position < self.flight.total

    async def caught_up(self) -> None:
        """Until the client has been handed everything but the end, or is gone."""
        if self.behind and not self.client.gone:
            self._caught_up = asyncio.get_running_loop().create_future()
            try:
                await self._caught_up
            finally:
                self._caught_up = None

    def release(self) -> None:
        """The books are written: hand over the end."""
        for piece in self.flight.ends:
            self.client.write(piece)
        self.client.finish()

    def leave(self) -> None:
        """Stop reading."""
        if self in self.flight.readers:
            self.flight.readers.remove(self)
        self.ready = False

    def _client_ready(self) -> None:
        self.ready = True
        if not self.flight._holding:
            self.advance()
            self.flight.trim()

    def _client_gone(self) -> None:
        self.leave()
        self._wake()
        self._on_gone()
        self.flight.trim()

    def _wake(self) -> None:
        if self._caught_up is not None and not self._caught_up.done():
            self._caught_up.set_result(None)
