"""Single-flight: one upstream answer, recorded once, read by many. asyncio, no I/O.

A flight pumps an upstream's reply through an observer into pieces and pushes them to its readers.
Nothing here creates a task or a future for a piece: the pump runs in the task of the request that
launched the flight, and a reader whose client is slow goes on from that client's own `on_ready`.

Rules of this file. Only whole pieces reach a client, so an error can follow at any point. The end
(`[DONE]`, the last bytes of a JSON answer) is out only after `land`, which the pipeline calls when
the answer is kept and the books are written. While a flight records, its whole answer is here and a
late reader gets it all; otherwise a slow reader slows the upstream, and memory stays in a window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import GatewayError, InternalError
from gateway.exchange import HeaderList
from gateway.leash import Leash
from gateway.ports import Client, ClientGone, Clock, Reply
from gateway.wire.observe import EndEvent, Form, Observer, Piece, UsageEvent

WINDOW = 1024 * 1024  # bytes between the upstream and the slowest reader of what is not recorded
END_CAP = 64 * 1024  # bytes of the end, and of what an upstream sends after it
HOLD = 256 * 1024  # a JSON answer below this is sent whole, with its length


@dataclass(slots=True)
class Head:
    """An answer's head. `length` is None where it is not known yet."""

    status: int
    headers: HeaderList
    length: int | None


class Flight:
    """One answer in the air."""

    __slots__ = (
        "_after_end", "_first", "_holding", "_landing", "_pieces", "_room", "aboard", "cap",
        "ends", "failure", "finishes", "form", "head", "held", "landed", "leash", "observer",
        "on_empty", "on_growth", "on_unkept", "place", "readers", "visible", "waited",
    )  # fmt: skip

    def __init__(
        self,
        leash: Leash,
        cap: int = 0,
        *,
        place: tuple[bytes, bool] | None = None,
        finishes: bool = False,
    ) -> None:
        """`leash` breaks it off. `cap`: record up to so many bytes; 0 records nothing. `place`:
        what it is listed under, a request's key and form, where others may board. `finishes`: it
        may go on when all have left."""
        self.leash = leash
        self.cap = cap
        self.place = place
        self.finishes = finishes
        self.head: Head | None = None
        self.form = Form.OTHER
        self.readers: list[Reader] = []
        self.aboard = 0  # who waits for this answer, reading or not
        self.landed = False
        self.failure: GatewayError | None = None
        self.ends: list[bytes] = []
        self.held = 0  # bytes that are here
        self.visible = 0  # pieces (counted from the start) that readers may take
        self.waited = 0.0  # seconds spent waiting for the upstream's bytes
        self.observer: Observer | None = None
        # They are given the flight: one that they were made for would lead back to itself, and
        # stay until the collector of cycles comes by.
        self.on_empty: Callable[[Flight], None] = _ignore
        self.on_growth: Callable[[Flight], None] | None = None
        self.on_unkept: Callable[[Flight], None] = _ignore
        self._pieces: list[Piece] = []
        self._after_end = 0  # bytes of the end and what follows it
        self._first = 0  # how many pieces have been forgotten
        self._holding = False
        self._room: asyncio.Future[None] | None = None
        self._landing: list[asyncio.Future[None]] = []

    # -- the pump ----------------------------------------------------------------------------------

    async def fly(
        self,
        reply: Reply,
        observer: Observer,
        leash: Leash,
        clock: Clock,
        on_content: Callable[[], None],
    ) -> None:
        """Pump the reply until it has ended. What came before an UpstreamError or UpstreamTimeout
        has been pushed, an unfinished event dropped. `on_content` is called once, after the first
        content has been pushed."""
        self.observer = observer
        self.begin(reply, observer.form)
        quiet, busy = True, 0.0

        def take(data: bytes) -> bool:  # called from the socket's own callback, mostly
            nonlocal quiet, busy
            began = clock.monotonic()
            leash.check()
            self._take(observer.feed(data))
            self._show(data)
            if quiet and observer.saw_content:
                quiet = False
                on_content()
            busy += clock.monotonic() - began
            return not (self._overrun or self._full)

        more = True
        while more and not self._overrun:
            leash.check()
            if self._full:
                await self._wait_for_room(leash)
            before, busy = clock.monotonic(), 0.0
            try:
                more = await reply.pour(take)
            except BaseException:
                observer.cut()
                self._show()
                raise
            finally:
                self.waited += clock.monotonic() - before - busy
        if not more:
            self._take(observer.close())
            if quiet and observer.saw_content:
                on_content()

    def begin(self, reply: Reply, form: Form) -> None:
        """The head is here. JSON is held until it is whole (or large): one write with its length,
        and an answer that breaks off can still become a readable 502."""
        self.form = form
        # Of a stream, events may be left out for a reader: its length is not known.
        length = None if form is Form.STREAM else reply.length
        self.head = Head(reply.status, reply.headers, length)
        self._holding = form is Form.JSON
        self.push()

    def land(self) -> None:
        """The answer is whole, kept and booked: readers may have its end."""
        if self._holding and self.head is not None and self.head.length is None:
            self.head.length = self.held
        self._holding = False
        self.landed = True
        self.visible = self._first + len(self._pieces)
        self.push()
        self._wake_waiters()

    def fail(self, error: BaseException) -> None:
        """Nothing more will come; whoever waits gets the error, or hears of a fault."""
        if not isinstance(error, GatewayError):
            error = InternalError("The request that this one had joined failed.")
        self.failure = error
        self._wake_waiters()

    def stop_recording(self) -> None:
        """From now on the window holds, and nobody new may board."""
        if self.cap:
            self.cap = 0
            self.on_unkept(self)
            self.trim()

    def recorded(self) -> tuple[list[Piece], list[bytes]]:
        """The pieces of a recording, and its end."""
        return self._pieces, self.ends

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, EndEvent):
                self.ends.append(piece)
                self._after_end += len(piece)
            else:
                self._pieces.append(piece)
                self.held += len(piece)
        if self.cap and self.held > self.cap:
            self.stop_recording()
        elif self.on_growth is not None:
            self.on_growth(self)

    @property
    def _full(self) -> bool:
        """Every reader is behind, and nothing may be forgotten yet."""
        return not self.cap and self.held > WINDOW

    @property
    def _overrun(self) -> bool:
        """More than enough has come after the end: it is of no use to anybody."""
        return self._after_end > END_CAP

    def _show(self, data: bytes = b"") -> None:
        """Let readers have what is there, but for the last piece of JSON: the answer's end is held
        back until it has landed. White space keeps a connection alive and must not wait."""
        total = self._first + len(self._pieces)
        if self.form is Form.JSON and not data.isspace():
            total -= 1
        self.visible = max(self.visible, total)
        if self._holding and (self.held > HOLD or data.isspace()):
            self._holding = False
        self.push()

    # -- readers -----------------------------------------------------------------------------------

    @property
    def stream(self) -> bool:
        """Asked for as a stream."""
        return self.place is not None and self.place[1]

    @property
    def holding(self) -> bool:
        """The head is not given out yet."""
        return self._holding or self.head is None

    def piece(self, index: int) -> Piece:
        """The piece with this number, counted from the start."""
        return self._pieces[index - self._first]

    def push(self) -> None:
        """Let every ready reader advance."""
        if self.holding:
            return
        for reader in list(self.readers):
            if reader.ready:
                reader.advance()
        self.trim()

    def trim(self) -> None:
        """Forget what every reader has, unless it is recorded; wake the pump if there is room."""
        if not self.cap:
            self._forget()
        if self._room is not None and self.held <= WINDOW and not self._room.done():
            self._room.set_result(None)

    def _forget(self) -> None:
        pieces = self._pieces
        readers = self.readers
        if len(readers) == 1:
            slowest = readers[0].position
        else:
            slowest = min((one.position for one in readers), default=self.visible)
        count = slowest - self._first
        if count == len(pieces):
            pieces.clear()
            self.held = 0
        elif count:
            self.held -= sum(map(len, pieces[:count]))
            del pieces[:count]
        self._first = slowest

    async def _wait_for_room(self, leash: Leash) -> None:
        leash.check()
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    # -- who waits ---------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until it has landed; its failure is raised."""
        if not self.landed and self.failure is None:
            waiter = asyncio.get_running_loop().create_future()
            self._landing.append(waiter)
            await waiter
        if self.failure is not None:
            raise self.failure

    def _wake_waiters(self) -> None:
        for waiter in self._landing:
            if not waiter.done():
                waiter.set_result(None)
        self._landing.clear()

    def board(self) -> None:
        """One more waits for this answer."""
        self.aboard += 1

    def leave(self) -> None:
        """One less."""
        self.aboard -= 1
        if not self.aboard and not self.landed and self.failure is None:
            self.on_empty(self)


class Reader:
    """One client aboard a flight, reading at its own pace. `live` False: it only waits for the
    landing, since it takes the answer in another form."""

    __slots__ = (
        "_caught_up", "_hides_usage", "_leash", "_make_head", "_on_gone", "client", "flight",
        "left", "position", "ready",
    )  # fmt: skip

    def __init__(
        self,
        flight: Flight,
        client: Client,
        *,
        hides_usage: bool,
        make_head: Callable[[Head], HeaderList],
        live: bool = True,
        leash: Leash | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        """`leash` is pulled when the client leaves: for who only waits here. `on_gone` hears of
        it."""
        self.flight = flight
        self.client = client
        self.position = 0
        self.ready = live
        self.left = False
        self._hides_usage = hides_usage
        self._make_head = make_head
        self._leash, self._on_gone = leash, on_gone or _nothing
        self._caught_up: asyncio.Future[None] | None = None
        flight.board()
        if live:
            flight.readers.append(self)
        client.watch(self._client_ready, self._client_gone)
        if self.ready and not flight.holding:
            self.advance()

    def advance(self) -> None:
        """Write what there is, until the client's buffer is full."""
        flight, client = self.flight, self.client
        if not client.started and flight.head is not None:
            client.start(flight.head.status, self._make_head(flight.head), flight.head.length)
        while self.ready and self.position < flight.visible:
            piece = flight.piece(self.position)
            self.position += 1
            if not (self._hides_usage and type(piece) is UsageEvent):
                self.ready = client.write(piece)
        if self.position == flight.visible:
            self._wake()

    @property
    def behind(self) -> bool:
        """Pieces wait for this reader."""
        return self.position < self.flight.visible

    async def finish(self) -> None:
        """After the landing: hand over all that is left, then the end. ClientGone."""
        if self.behind and not self.left:
            self._caught_up = asyncio.get_running_loop().create_future()
            try:
                await self._caught_up
            finally:
                self._caught_up = None
        if self.behind:
            raise ClientGone
        for piece in self.flight.ends:
            self.client.write(piece)
        self.client.finish()
        self.leave()

    def leave(self) -> None:
        """Stop reading."""
        if self.left:
            return
        self.left = True
        self.ready = False
        if self in self.flight.readers:
            self.flight.readers.remove(self)
        self.flight.leave()
        self.flight.trim()

    def _client_ready(self) -> None:
        if self.left or self not in self.flight.readers:
            return
        self.ready = True
        if not self.flight.holding:
            self.advance()
            self.flight.trim()

    def _client_gone(self) -> None:
        self._on_gone()
        self.leave()
        self._wake()
        if self._leash is not None:
            self._leash.pull(ClientGone())

    def _wake(self) -> None:
        if self._caught_up is not None and not self._caught_up.done():
            self._caught_up.set_result(None)


def _ignore(_: Flight) -> None:
    """For callbacks of a flight that nobody has set."""


def _nothing() -> None:
    """For callbacks that nobody has set."""
