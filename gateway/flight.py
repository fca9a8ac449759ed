"""Single-flight: one upstream answer, recorded once, read by many. asyncio, no I/O.

A flight pumps an upstream's reply through an observer into pieces and pushes them to its readers.
Nothing here creates a task or a future for a piece: the pump is the request that launched the
flight, and a reader whose client is slow goes on from that client's own `on_ready`.

Rules of this file. Only whole pieces reach a client, so an error can follow at any point. The end
(`[DONE]`, the last bytes of a JSON answer) is out only after `land`, which the pipeline calls when
the answer is kept and the books are written; who is aboard then `finish`es. While a flight records,
its whole answer is here and a late reader gets it all; otherwise a slow reader slows the upstream,
and memory stays in a window.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from gateway.errors import GatewayError, InternalError
from gateway.exchange import HeaderList
from gateway.leash import Leash, Pause
from gateway.ports import AT_ONCE, Client, ClientGone, Clock, Reply
from gateway.wire.observe import EndEvent, Form, Observer, Piece, UsageEvent

WINDOW = 1024 * 1024  # bytes between the upstream and the slowest reader of what is not recorded
END_CAP = 64 * 1024  # bytes of the end, and of what an upstream sends after it
HOLD = 256 * 1024  # a JSON answer below this is sent whole, with its length


class Head(Struct):
    """An answer's head. `length` is None where it is not known yet."""

    status: int
    headers: HeaderList
    length: int | None


def _ignore(_: Flight) -> None:
    """For callbacks of a flight that nobody has set."""


class Flight:
    """One answer in the air. What most do not come to stands on the class."""

    head: Head | None = None
    form = Form.OTHER
    aboard = 0  # who waits for this answer, reading or not
    landed = False
    failure: GatewayError | None = None
    held = 0  # bytes that are here
    visible = 0  # pieces (counted from the start) that readers may take
    first = 0  # how many pieces have been forgotten
    waited = 0.0  # seconds spent waiting for the upstream's bytes
    observer: Observer | None = None
    # They are given the flight: one that they were made for would lead back to itself, and
    # stay until the collector of cycles comes by.
    on_empty: Callable[[Flight], None] = staticmethod(_ignore)
    on_growth: Callable[[Flight], None] | None = None
    on_unkept: Callable[[Flight], None] = staticmethod(_ignore)
    _after_end = 0  # bytes of the end and what follows it
    _holding = False
    _room: Pause | None = None
    _landing: list[Pause] | None = None
    _busy = 0.0  # seconds spent on the bytes of one wait
    _on_content: Callable[[], None] | None = None  # until there was any

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
        self.readers: list[Reader] = []
        self.pieces: list[Piece] = []  # but for those forgotten
        self.ends: list[bytes] = []

    # -- the pump ----------------------------------------------------------------------------------

    async def fly(
        self, reply: Reply, observer: Observer, clock: Clock, on_content: Callable[[], None]
    ) -> None:
        """Pump the reply until it has ended. What came before an UpstreamError or UpstreamTimeout
        has been pushed, an unfinished event dropped. `on_content` is called once, after the first
        content has been pushed."""
        self.observer, self.form, self._on_content = observer, observer.form, on_content
        # Of a stream, events may be left out for a reader: its length is not known.
        length = None if self.form is Form.STREAM else reply.length
        self.head = Head(reply.status, reply.headers, length)
        # JSON is held until it is whole (or large): one write with its length, and an answer that
        # breaks off can still become a readable 502.
        self._holding = self.form is Form.JSON
        data = reply.whole()
        if data is not None:
            self._take(observer.feed(data))
            if not self._holding:
                self._show(data)
        elif await self._pump(reply, observer, clock):
            return
        if rest := observer.close():
            self._take(rest)
        self._look_for_content(observer)

    async def _pump(self, reply: Reply, observer: Observer, clock: Clock) -> bool:
        """True: it has not ended, but what comes is of no use."""
        leash, busy, more = self.leash, 0.0, True
        self.push()

        def take(data: bytes) -> bool:  # called from the socket's own callback, mostly
            nonlocal busy
            began = clock.monotonic()
            leash.check()
            pieces = observer.feed(data)
            if len(pieces) != 1 or not self._pass_straight(pieces[0]):
                self._take(pieces)
                self._show(data)
            self._look_for_content(observer)
            busy += clock.monotonic() - began
            return self._after_end <= END_CAP and (self.cap > 0 or self.held <= WINDOW)

        while more and self._after_end <= END_CAP:
            leash.check()
            if not self.cap and self.held > WINDOW:  # all are behind, nothing may be forgotten yet
                self._room = Pause()
                await self._room
                self._room = None
            before, busy = clock.monotonic(), 0.0
            try:
                more = await reply.pour(take)
            except BaseException:
                observer.cut()
                self._show()
                raise
            finally:
                self.waited += clock.monotonic() - before - busy
        return more

    def _look_for_content(self, observer: Observer) -> None:
        if self._on_content is not None and observer.saw_content:
            self._on_content()
            self._on_content = None

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if type(piece) is EndEvent:
                self.ends.append(piece)
                self._after_end += len(piece)
            else:
                self.pieces.append(piece)
                self.held += len(piece)
        if self.cap and self.held > self.cap:
            self.stop_recording()
        elif self.on_growth is not None:
            self.on_growth(self)

    def _pass_straight(self, piece: Piece) -> bool:
        """To the one reader, who has all that went before, where nothing is recorded: most of what
        comes live. False: it is not so."""
        readers = self.readers
        if self.cap or self.pieces or len(readers) != 1 or type(piece) is not bytes:
            return False
        reader = readers[0]
        if self.form is Form.JSON or not (reader.ready and reader.client.started):
            return False
        self.first += 1
        self.visible = reader.position = self.first
        reader.ready = reader.client.write(piece)
        return True

    def _show(self, data: bytes = b"") -> None:
        """Let readers have what is there, but for the last piece of JSON: the answer's end is held
        back until it has landed. White space keeps a connection alive and must not wait."""
        total = self.first + len(self.pieces)
        if self.form is Form.JSON:
            blank = data.isspace()
            if not blank:
                total -= 1
            if blank or self.held > HOLD:
                self._holding = False
        self.visible = max(self.visible, total)
        self.push()

    def land(self) -> None:
        """The answer is whole, kept and booked: readers may have its end."""
        if self._holding and self.head is not None and self.head.length is None:
            self.head.length = self.held
        self._holding = False
        self.landed = True
        self.visible = self.first + len(self.pieces)
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
        return self.pieces, self.ends

    # -- readers -----------------------------------------------------------------------------------

    @property
    def stream(self) -> bool:
        """Asked for as a stream."""
        return self.place is not None and self.place[1]

    @property
    def holding(self) -> bool:
        """The head is not given out yet."""
        return self._holding or self.head is None

    def push(self) -> None:
        """Let every ready reader advance."""
        if self._holding:
            return
        for reader in self.readers.copy():
            if reader.ready:
                reader.advance()
        self.trim()

    def trim(self) -> None:
        """Forget what every reader has, unless it is recorded; let the pump go on if there is
        room."""
        if not self.cap and self.pieces:
            self._forget()
        if self._room is not None and self.held <= WINDOW:
            self._room.end_soon()

    def _forget(self) -> None:
        pieces, slowest = self.pieces, self.visible
        for reader in self.readers:
            slowest = min(slowest, reader.position)
        count = slowest - self.first
        if count == len(pieces):
            pieces.clear()
            self.held = 0
        elif count:
            self.held -= sum(map(len, pieces[:count]))
            del pieces[:count]
        self.first = slowest

    # -- who waits ---------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until it has landed; its failure is raised."""
        if not self.landed and self.failure is None:
            waiter = Pause()
            if self._landing is None:
                self._landing = []
            self._landing.append(waiter)
            await waiter
        if self.failure is not None:
            raise self.failure

    def _wake_waiters(self) -> None:
        if self._landing is not None:
            for waiter in self._landing:
                waiter.end_soon()
            self._landing = None

    def leave(self) -> None:
        """One less is aboard."""
        self.aboard -= 1
        if not self.aboard and not self.landed and self.failure is None:
            self.on_empty(self)


class Reader:
    """One client aboard a flight, reading at its own pace. `live` False: it only waits for the
    landing, since it takes the answer in another form."""

    left = False
    position = 0
    _caught_up: Pause | None = None

    def __init__(
        self,
        flight: Flight,
        client: Client,
        *,
        hides_usage: bool,
        make_head: Callable[[Head], tuple[HeaderList, str]],
        live: bool = True,
        leash: Leash | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        """`make_head` gives the headers, some of them as lines. `leash` is pulled when the client
        leaves: for who only waits here. `on_gone` hears of it."""
        self.flight = flight
        self.client = client
        self.ready = live
        self._hides_usage = hides_usage
        self._make_head = make_head
        self._leash, self._on_gone = leash, on_gone
        flight.aboard += 1
        if live:
            flight.readers.append(self)
        client.watch(self._client_ready, self._client_gone)
        if self.ready and not flight.holding:
            self.advance()

    def advance(self) -> None:
        """Write what there is, until the client's buffer is full."""
        flight, client, head = self.flight, self.client, self.flight.head
        if head is not None and not client.started:
            headers, lines = self._make_head(head)
            client.start(head.status, headers, head.length, lines)
        position, visible = self.position, flight.visible
        if position < visible:
            ready, first, pieces = self.ready, flight.first, flight.pieces
            while ready and position < visible:
                piece = pieces[position - first]
                position += 1
                if not (self._hides_usage and type(piece) is UsageEvent):
                    ready = client.write(piece)
            self.ready, self.position = ready, position
        if position == visible and self._caught_up is not None:
            self._caught_up.end_soon()

    @property
    def behind(self) -> bool:
        """Pieces wait for this reader."""
        return self.position < self.flight.visible

    async def finish(self) -> None:
        """After the landing: hand over all that is left, then the end. ClientGone."""
        flight, client, head = self.flight, self.client, self.flight.head
        if self.left and self.behind:
            raise ClientGone
        if head is not None and not client.started and head.length == flight.held <= AT_ONCE:
            headers, lines = self._make_head(head)
            client.whole(head.status, headers, flight.pieces, head.length, lines)
            self.position = flight.visible
        else:
            if self.behind or not client.started:
                await self._catch_up()
            for piece in flight.ends:
                client.write(piece)
            client.finish()
        self.leave()

    async def _catch_up(self) -> None:
        if self.ready:
            self.advance()
            self.flight.trim()
        if self.behind and not self.left:
            self._caught_up = Pause()
            try:
                await self._caught_up
            finally:
                self._caught_up = None
        if self.behind:
            raise ClientGone

    def leave(self) -> None:
        """Stop reading."""
        if self.left:
            return
        self.left, self.ready, flight = True, False, self.flight
        if self in flight.readers:
            flight.readers.remove(self)
        flight.leave()
        if flight.readers or not flight.landed:
            flight.trim()

    def _client_ready(self) -> None:
        if self.left or self not in self.flight.readers:
            return
        self.ready = True
        if not self.flight.holding:
            self.advance()
            self.flight.trim()

    def _client_gone(self) -> None:
        if self._on_gone is not None:
            self._on_gone()
        self.leave()
        if self._caught_up is not None:
            self._caught_up.end_soon()
        if self._leash is not None:
            self._leash.pull(ClientGone())
