"""A fake for each port: they append what happens to one list, so that a test reads as a play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gateway.boarding import Boarding
from gateway.cache.store import NoCache
from gateway.calls import Calls
from gateway.config import Cache, Quota
from gateway.errors import GatewayError, LedgerUnavailable
from gateway.exchange import (
    Caller,
    CallerKind,
    Cost,
    Exchange,
    HeaderList,
    Reservation,
    Usage,
)
from gateway.house import House
from gateway.metering import Metering
from gateway.ports import Ask, Call, CallTimes, Client, ClientGone, Origin, Permit
from gateway.quota.permit import FREE
from gateway.web.errors import render
from gateway.wire.fields import fields_of

CALLER = Caller(CallerKind.PASSTHROUGH, "id", "pass-00000000", "token")
SSE: HeaderList = [("content-type", "text/event-stream")]
JSON: HeaderList = [("content-type", "application/json")]


class FakeClock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class FakeBody:
    """A body that is all there, or whose client has left in the middle of it."""

    def __init__(self, data: bytes = b"", *, gone: bool = False) -> None:
        self.data = data
        self.gone = gone
        self.received = 0

    @property
    def length(self) -> int | None:
        return len(self.data)

    async def read(self, limit: int) -> bytes:
        if self.gone:
            raise ClientGone
        self.received = len(self.data)
        return self.data

    def at_once(self, limit: int) -> bytes | None:
        if self.gone:
            return None
        self.received = len(self.data)
        return self.data

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        yield await self.read(limit)


class FakeClient:
    """Keeps what it was sent; `room` bytes fit before it asks the writer to wait."""

    def __init__(self, story: list[Any], *, room: int = 1 << 30) -> None:
        self.story = story
        self.gone = False
        self.started = False
        self.bytes_out = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self.body = b""
        self.ended = ""
        self.room = room
        self.written = asyncio.Event()
        self._ready: Callable[[], None] = lambda: None
        self._gone: Callable[[], None] = lambda: None

    def watch(self, on_ready: Callable[[], None], on_gone: Callable[[], None]) -> None:
        self._ready, self._gone = on_ready, on_gone
        if self.gone:
            on_gone()

    def start(self, status: int, headers: HeaderList, length: int | None, lines: str = "") -> None:
        assert not self.started
        self.started = True
        self.status, self.length = status, length
        self.headers = dict(fields_of(lines) + headers)
        self.story.append(("head", status))

    def whole(
        self,
        status: int,
        headers: HeaderList,
        pieces: Sequence[bytes | memoryview],
        length: int | None,
        lines: str = "",
    ) -> None:
        self.start(status, headers, length, lines)
        for piece in pieces:
            self.write(bytes(piece))
        self.finish()

    def write(self, data: bytes) -> bool:
        assert self.started
        assert not self.ended
        if not self.gone:
            self.body += data
            self.bytes_out += len(data)
            self.room -= len(data)
            self.written.set()
        return self.room > 0

    def finish(self) -> None:
        self.ended = self.ended or "finished"
        self.story.append("finished")

    def abort(self) -> None:
        self.ended = "aborted"
        self.story.append("aborted")

    def drain(self, room: int = 1 << 30) -> None:
        """The client reads again."""
        self.room = room
        self._ready()

    def leave(self) -> None:
        """The client closes its connection."""
        self.gone = True
        self._gone()


class FakeReply:
    """Gives its chunks one `read` at a time; an Event waits, an exception is raised. `at_once`: all
    of them have come with the head, where they are nothing but bytes."""

    encoded = False
    at_once = False

    def __init__(
        self,
        story: list[Any],
        chunks: Iterable[bytes | Exception | asyncio.Event],
        *,
        status: int = 200,
        headers: HeaderList = JSON,
        length: int | None = None,
    ) -> None:
        self.story = story
        self.status, self.headers, self.length = status, headers, length
        self.times = CallTimes()
        self._chunks = list(chunks)
        self.reads = 0

    def whole(self) -> bytes | None:
        if not (self.at_once and all(isinstance(chunk, bytes) for chunk in self._chunks)):
            return None
        chunks, self._chunks = self._chunks, []
        return b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))

    async def read(self) -> bytes:
        self.reads += 1
        while self._chunks:
            chunk = self._chunks.pop(0)
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, bytes):
                return chunk
            await chunk.wait()
        return b""

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not take(data):
                return True
        return False

    def close(self) -> None:
        self.story.append("closed")


class FakeUpstream:
    """Answers calls with the replies it was given, in order; an exception is raised."""

    builtin = False
    base_url = "http://up/v1"
    cache = True
    cache_ttl = None
    max_tokens_field = "max_completion_tokens"
    finish_on_disconnect = True

    def __init__(
        self, story: list[Any], *replies: FakeReply | Exception, name: str = "up", model: str = ""
    ) -> None:
        self.story = story
        self.name = name
        self.model = model
        self.replies = list(replies)
        self.calls: list[Call] = []
        self.injects_usage = True
        self.renames: dict[str, str] = {}

    def serves(self, model: str) -> bool:
        return self.model in {"", model}

    def shared_by(self, kind: CallerKind) -> bool:
        return False

    def accepts(self, kind: CallerKind) -> bool:
        return True

    def relays(self, path: str, method: str) -> bool:
        return ".." not in path

    def real_name(self, model: str) -> str:
        return self.renames.get(model, model)

    def refused_usage(self) -> None:
        self.injects_usage = False

    async def send(self, call: Call) -> FakeReply:
        self.story.append("call")
        self.calls.append(call)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def models(self, caller: Caller) -> list[dict[str, object]]:
        return [{"id": f"{self.name}-model", "object": "model"}]


class FakeKeys:
    """Lets everybody in, or nobody."""

    def __init__(self, refusal: GatewayError | None = None) -> None:
        self.refusal = refusal
        self.caller = CALLER

    def identify(self, authorization: str | None, api_key: str | None) -> Caller:
        if self.refusal is not None:
            raise self.refusal
        return self.caller


class FakeSink:
    """Keeps the exchanges."""

    def __init__(self, story: list[Any]) -> None:
        self.story = story
        self.exchanges: list[Exchange] = []

    def book(self, exchange: Exchange) -> None:
        self.story.append(("booked", exchange.outcome.value))
        self.exchanges.append(exchange)

    @property
    def only(self) -> Exchange:
        """The one exchange there is."""
        assert len(self.exchanges) == 1
        return self.exchanges[0]


class FakeLedger:
    """Keeps the rows; `down` refuses calls."""

    def __init__(self, story: list[Any]) -> None:
        self.story = story
        self.rows: list[Exchange] = []
        self.held: list[Reservation] = []
        self.down = False
        self.durable = asyncio.Event()
        self.durable.set()

    def admit(self) -> None:
        if self.down:
            raise LedgerUnavailable("The books cannot be written.", retry_after=5)

    def reserve(self, id: str, made: Callable[[], Reservation]) -> None:
        self.held.append(made())

    async def commit(self, exchange: Exchange) -> None:
        self.story.append("commit")
        self.rows.append(exchange)
        await self.durable.wait()

    def add(self, exchange: Exchange) -> None:
        self.rows.append(exchange)


class FakePrices:
    """A nano-dollar for each token."""

    def cost(
        self, upstream: str, base_url: str, model: str, usage: Usage, service_tier: str | None
    ) -> Cost:
        return Cost(usage.prompt_tokens + usage.completion_tokens, "fake")

    def dearest(self, base_url: str, model: str) -> tuple[int, int] | None:
        return 1000, 1000


class FakePenalty:
    """Costs nothing."""

    def __init__(self, story: list[Any]) -> None:
        self.story = story

    async def pay(self, client: str) -> None:
        self.story.append(("penalty", client))


def ask(
    data: bytes = b"", *, path: str = "chat/completions", method: str = "POST", **more: Any
) -> Ask:
    """A request; `headers` are lower case."""
    body = more.pop("body", None) or FakeBody(data)
    headers = more.pop("headers", [("content-type", "application/json")])
    return Ask("ID", 1000.0, 1000.0, Origin(method, path, "", headers, "127.0.0.1", **more), body)


class NoQuota:
    """Limits nobody."""

    def permit(self, caller: Caller, *, shared: bool) -> Permit:
        return FREE


def house(
    story: list[Any],
    *upstreams: FakeUpstream,
    keys: FakeKeys | None = None,
    section: Cache | None = None,
    cache: Any = None,
    quota: Any = None,
) -> House:
    """A house of fakes with one sink."""
    clock = FakeClock()
    calls = Calls(clock, ThreadPoolExecutor(1))
    section = section or Cache(enabled=False)
    cache = cache or NoCache()
    ledger, prices = FakeLedger(story), FakePrices()
    quota = quota or NoQuota()
    return House(
        keys=keys or FakeKeys(),
        upstreams=upstreams,
        sinks=(FakeSink(story),),
        clock=clock,
        render=render,
        calls=calls,
        boarding=Boarding(section, cache, clock, calls),
        ledger=ledger,
        prices=prices,
        metering=Metering(Quota(), [], quota, prices, ledger, calls),
        penalty=FakePenalty(story),
        instance="instance",
        body_limit=1 << 26,
        upload_limit=1 << 30,
    )


def client_port(client: FakeClient) -> Client:
    """Only for the type checker: the fake has the port's shape."""
    return client
