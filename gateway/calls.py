"""A call upstream with the documented edits (docs/relay.md), and what is asked of its answer.

Rule: an edit replaces one top-level member of the body; nothing here changes an answer's bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from gateway.errors import UpstreamCut, UpstreamError
from gateway.exchange import Summary
from gateway.ports import Ask, Call, CallTimes, Clock, Reply, Upstream
from gateway.said import said
from gateway.trip import Trip
from gateway.wire.chat import ChatRequest, read_model, with_model, with_usage
from gateway.wire.observe import BlindObserver, Form, Observer, observer_for
from gateway.wire.trace import onward

OFF_LOOP = 256 * 1024  # bodies above this are parsed and edited in a thread (requirement H7)
REFUSAL = 64 * 1024  # bytes of a 400 that are read to see whether it names `stream_options`

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes calls for requests."""

    clock: Clock
    workers: Executor

    async def off_loop(self, work: Callable[[bytes], T], body: bytes) -> T:
        """Small bodies are worked on here, large ones in a thread."""
        if len(body) <= OFF_LOOP:
            return work(body)
        return await asyncio.get_running_loop().run_in_executor(self.workers, work, body)

    async def body_of(
        self, ask: Ask, limit: int, upload_limit: int
    ) -> tuple[bytes | AsyncIterator[bytes] | None, str | None]:
        """The body to send on and the model it names. A JSON body is read whole, since its model
        decides where it goes; any other is streamed as it comes."""
        length = ask.body.length
        if length == 0:
            head, _, model = ask.path.partition("/")
            return None, model if head == "models" and model else None
        kind = (ask.header("content-type") or "").partition(";")[0].strip().lower()
        small = length is None or length <= limit
        if kind == "application/json" and said(ask).plain and small:
            body = await ask.body.read(limit)
            return body, await self.off_loop(read_model, body)
        return ask.body.chunks(upload_limit), None

    def make(
        self, trip: Trip, upstream: Upstream, call: Call, request: ChatRequest | None
    ) -> Coroutine[Any, Any, Reply]:
        """Make the call, with the documented edits."""
        context = trip.ask.context
        if context is None:
            call.shared = trip.ask.shared
        else:
            call.headers = onward(call.headers, context)
        as_asked = request is None or not request.stream or request.asked_usage
        if as_asked and (trip.served is None or trip.served == call.model):
            return self._send(trip, upstream, call)
        return self._send_edited(trip, upstream, call, request)

    async def _send_edited(
        self, trip: Trip, upstream: Upstream, call: Call, request: ChatRequest | None
    ) -> Reply:
        """Once more without asking for usage where an upstream refuses that (A2)."""
        if trip.served is not None and trip.served != call.model and isinstance(call.body, bytes):
            call.body = await self.off_loop(partial(with_model, name=trip.served), call.body)
        plain = call.body
        if request is None or not request.stream or request.asked_usage:
            return await self._send(trip, upstream, call)
        if not isinstance(plain, bytes) or not upstream.injects_usage:
            return await self._send(trip, upstream, call)
        call.body = await self.off_loop(partial(with_usage, request=request), plain)
        reply = await self._send(trip, upstream, call)
        if reply.status != 400:
            return reply
        try:
            refusal = await _read_start(reply, REFUSAL)
        except BaseException:
            reply.close()
            raise
        if b"stream_options" not in refusal:
            return Peeked(reply, refusal)
        reply.close()
        upstream.refused_usage()
        call.body = plain
        return await self._send(trip, upstream, call)

    async def _send(self, trip: Trip, upstream: Upstream, call: Call) -> Reply:
        sent = self.clock.monotonic()
        times = call.times = CallTimes(sent=sent)
        try:
            return await upstream.send(call)
        finally:
            trip.note_call(times)
            trip.waited += self.clock.monotonic() - sent - times.queued


@dataclass(slots=True)
class Peeked:
    """A reply whose first bytes were read already; `read` gives them once more."""

    reply: Reply
    start: bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reply, name)

    def whole(self) -> bytes | None:
        """The same, where the rest is here too."""
        rest = self.reply.whole()
        if rest is None:
            return None
        start, self.start = self.start, b""
        return start + rest

    async def read(self) -> bytes:
        """The bytes that were looked at, then the rest."""
        start, self.start = self.start, b""
        return start or await self.reply.read()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """The same."""
        start, self.start = self.start, b""
        return bool(start and not take(start)) or await self.reply.pour(take)


async def _read_start(reply: Reply, limit: int) -> bytes:
    start = b""
    while len(start) < limit and (data := await reply.read()):
        start += data
    return start


def observer(reply: Reply, kind: str, path: str, request: ChatRequest | None) -> Observer:
    """Who watches this reply: by its content type, not by what was asked (J5)."""
    if reply.encoded:
        return BlindObserver()
    return observer_for(kind, path, request.n if request is not None else 1)


def is_whole(summary: Summary | None) -> bool:
    """The client has had all that matters: finish reason and usage."""
    return summary is not None and summary.usage is not None and bool(summary.finish_reasons)


def refuse_html(kind: str, upstream: Upstream) -> None:
    """A 200 with a web page is somebody's login or error page, not an answer."""
    if kind.lower().startswith("text/html"):
        raise UpstreamError(
            f"Upstream '{upstream.name}' answered with a web page instead of a completion. "
            "Is its base_url right?"
        )


def refuse_cut(summary: Summary, upstream: Upstream, form: Form) -> None:
    """A stream that ended without its terminator looks like success to a client; say that it is
    not (B11)."""
    if form is Form.STREAM and not summary.complete and not summary.error:
        raise UpstreamCut(
            f"Upstream '{upstream.name}' ended its stream before the answer was complete."
        )
