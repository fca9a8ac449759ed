"""One configured upstream over HTTP: the call, its one safe retry, its deadlines, its answer.

What goes out and what comes back is decided in rules.py, connections are made in pool.py. Every
foreign exception ends here. Requirements I1 to I7, B5, B10, B14.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from gateway.config import Disconnect, UpstreamSection
from gateway.errors import GatewayError, UpstreamTimeout
from gateway.exchange import Caller, CallerKind
from gateway.leash import own_task
from gateway.ports import Call, Clock
from gateway.upstream import faults, rules
from gateway.upstream.connection import Connection
from gateway.upstream.dial import Dialer, find_proxy
from gateway.upstream.headers import configured_headers, request_head, request_headers, via_entry
from gateway.upstream.pool import Pool, Turns
from gateway.upstream.reply import HTTPReply, Terms
from gateway.upstream.stats import Stats
from gateway.upstream.upload import SLICE, Upload

# A pooled connection that was dead already says so at once; one that dies later may have worked.
RETRY_WITHIN = 5.0  # seconds
UNLISTED = (GatewayError, TimeoutError, msgspec.MsgspecError, UnicodeError)
KEPT = 8  # upstreams that a request's head is kept for, as it leaves
MODELS_WITHIN = 10.0  # seconds
MODELS_LIMIT = 4 * 1024 * 1024  # bytes


class HTTPUpstream:
    """The `Upstream` port for an http(s) `base_url`, within one running event loop. Close it."""

    builtin = False

    def __init__(self, section: UpstreamSection, *, instance_id: str, clock: Clock) -> None:
        """Reads the CA file and the environment's proxies; ValueError where they cannot be used."""
        self.name = section.name
        self.stats = Stats()
        self.finish_on_disconnect = section.on_disconnect is Disconnect.FINISH
        # What is asked of another version of an API is not the same request.
        self.base_url = f"{section.base_url}?{sorted(section.query.items())}"
        self.max_tokens_field = section.max_tokens_field
        self.cache = section.cache
        self.cache_ttl = section.cache_ttl
        self._section = section
        self._clock = clock
        self._models = rules.Models(section.models, section.rename)
        self._access = rules.access(section)
        self._target = rules.target(section)
        self._paths = section.paths if section.api_key else None
        self._via = via_entry(instance_id)
        self._terms = Terms(section.name, clock, section.timeouts)
        self._mark = object()  # of what is kept beside the heads of requests
        self._usage_refused = False
        self._proxy = find_proxy(section.proxy, self._target.prefix)
        self._dialer = Dialer(self._target.prefix, self._proxy, section.ca_file)
        secure = self._dialer.target.secure
        self._headers = configured_headers(section.headers)
        if self._proxy and self._proxy.authorization and not secure:
            self._headers.append(("proxy-authorization", self._proxy.authorization))
        # A proxy of plain HTTP is asked for whole URLs (RFC 9112 section 3.2.2).
        self._origin = "" if self._proxy and not secure else self._target.origin
        self._host = f" HTTP/1.1\r\nhost: {self._dialer.target.host_header}\r\n"
        self._turns = Turns(section.max_connections)
        self._pool: Pool | None = None

    # -- what it is --------------------------------------------------------------------------------

    def serves(self, model: str) -> bool:
        return self._models.match(model)

    def accepts(self, kind: CallerKind) -> bool:
        return self._access.accepts(kind)

    def shared_by(self, kind: CallerKind) -> bool:
        return self._access.shared_by(kind)

    def relays(self, path: str, method: str) -> bool:
        if not rules.safe_path(path):
            return False
        if self._paths is None:
            return True
        return method in rules.HARMLESS and rules.allowed_path(path, self._paths)

    def real_name(self, model: str) -> str:
        return self._models.real(model)

    @property
    def injects_usage(self) -> bool:
        return self._section.inject_usage and not self._usage_refused

    def refused_usage(self) -> None:
        self._usage_refused = True

    @property
    def connections(self) -> tuple[int, int]:
        """Gauges: connections in use (or being made), and idle ones."""
        return self.stats.in_flight, self._pool.idle if self._pool else 0

    # -- calls -------------------------------------------------------------------------------------

    async def send(self, call: Call) -> HTTPReply:
        """Make the call; return when the head is here. UpstreamError, UpstreamTimeout, whatever
        reading the body raised, and the rules' 4xx for what is never relayed."""
        request, stats = self._prepare(call), self.stats
        if not self._turns.take():
            await self._take_turn(request)
        stats.in_flight += 1
        pool = self._pool or self._open()
        connection, times, clock = pool.take(), call.times, self._clock
        try:
            while True:
                stats.attempts += 1
                if connection is None:
                    made = await self._connect(pool, request)
                    if isinstance(made, _Failure):
                        break
                    connection = made
                times.connected = now = clock.monotonic()
                reply = HTTPReply(self._terms, times, request.ends)
                reply.begin(
                    connection, request.wire, request.upload, now, bare=call.method == "HEAD"
                )
                await reply.answered()
                if reply.headed:
                    if reply.varies:
                        stats.told(dict(reply.headers))
                    reply.deliver(self._done)
                    return reply
                made = self._failed(request, reply)
                if not made.stale:
                    break
                connection = None
                stats.retries += 1
                times.attempts += 1
        except BaseException:
            self._done("abandoned")
            raise
        self._done(made.outcome)
        raise made.error  # outside of any handler: none is the context of another (I8)

    async def models(self, caller: Caller) -> list[dict[str, object]]:
        """What it lists, under public names, and what the configuration names. Never fails."""
        listed: list[dict[str, object]] = []
        if self.accepts(caller.kind) and self.relays("models", "GET"):
            with contextlib.suppress(*UNLISTED):
                async with asyncio.timeout(MODELS_WITHIN):
                    listed = await self._listed(caller)
        return self._models.public(listed, self.name)

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._open().abort()
        await asyncio.sleep(0)  # the loop tells each of them

    # -- one call ----------------------------------------------------------------------------------

    def _prepare(self, call: Call) -> _Request:
        now = call.times.sent = self._clock.monotonic()
        total = self._section.timeouts.total
        ends = None if total is None else now + total
        lines, body = self._lines(call), call.body
        if type(body) is bytes and 0 < len(body) <= SLICE:
            return _Request(
                call, b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body), ends
            )
        upload = Upload(call)
        head = b"%b%b\r\n" % (lines, upload.framing.encode())
        return _Request(call, head, ends, None if upload.whole == b"" else upload)

    def _lines(self, call: Call) -> bytes:
        """The head, but for its framing: made once for all calls of a caller with one head."""
        shared = call.shared
        if shared is not None:
            known: tuple[Caller, bytes] | None = shared.sent.get(self._mark)
            if known is not None and known[0] is call.caller:
                return known[1]
        rules.check_method(call.method)
        url = self._target.url(call.path, call.query).removeprefix(self._origin)
        headers = request_headers(call.headers, call.caller, self._access, self._headers, self._via)
        lines = request_head(f"{call.method} {url}{self._host}", headers)
        if shared is not None:
            if len(shared.sent) >= KEPT:
                shared.sent.clear()
            shared.sent[self._mark] = call.caller, lines
        return lines

    async def _take_turn(self, request: _Request) -> None:
        """At most `max_connections` calls at once; the others wait in line, and are seen to."""
        expired = False
        await own_task()
        self.stats.waits += 1
        self.stats.waiting += 1
        began = self._clock.monotonic()
        patience: float = self._section.timeouts.first_byte
        if request.ends is not None:
            patience = min(patience, request.ends - began)
        try:
            async with asyncio.timeout(patience):
                await self._turns.wait()
        except TimeoutError:
            expired = True
        finally:
            self.stats.waiting -= 1
            request.call.times.queued = self._clock.monotonic() - began
            self.stats.wait_seconds += request.call.times.queued
        if expired:
            self.stats.outcomes[faults.TIMEOUT] += 1
            raise UpstreamTimeout(f"No connection to upstream '{self.name}' became free in time.")

    def _done(self, outcome: str) -> None:
        self._turns.give()
        self.stats.in_flight -= 1
        self.stats.outcomes[outcome] += 1

    def _failed(self, request: _Request, reply: HTTPReply) -> _Failure:
        """An attempt without an answer; `stale`: to be made once more, on a new connection."""
        assert reply.error is not None
        call = request.call
        # A pooled connection that was dead when it was taken (I4): nobody has seen the request.
        again = (
            reply.stale
            and not isinstance(call.body, AsyncIterator)
            and self._clock.monotonic() - (call.times.connected or 0.0) < RETRY_WITHIN
        )
        if again and request.upload is not None:
            request.upload = Upload(call)
        return _Failure(reply.error, reply.outcome or faults.ERROR, again)

    async def _connect(self, pool: Pool, request: _Request) -> Connection | _Failure:
        await own_task()
        limit: float = self._section.timeouts.connect
        left = math.inf if request.ends is None else request.ends - self._clock.monotonic()
        reason = ""
        try:
            async with asyncio.timeout(min(limit, left)):
                return await pool.connect()
        except faults.NoConnection as exc:
            reason = str(exc)
        except TimeoutError:
            pass
        if reason:
            return _Failure(faults.no_answer(self.name, reason), faults.CONNECT)
        message = (
            f"No connection to upstream '{self.name}' came about in time."
            if limit <= left
            else f"Upstream '{self.name}' was not done in time."
        )
        return _Failure(UpstreamTimeout(message), faults.TIMEOUT)

    def _open(self) -> Pool:
        if self._pool is None:
            loop = asyncio.get_running_loop()
            self._pool = Pool(loop, self._clock, self._dialer, self._section.keepalive)
        return self._pool

    async def _listed(self, caller: Caller) -> list[dict[str, object]]:
        call = Call("GET", "models", "", [("user-agent", "gateway")], None, 0, caller)
        reply = await self.send(call)
        body = bytearray()
        with contextlib.closing(reply):
            if reply.status != 200 or reply.encoded:
                return []
            while data := await reply.read():
                body += data
                if len(body) > MODELS_LIMIT:
                    return []
        return msgspec.json.decode(body, type=_Listing).data


class _Listing(msgspec.Struct):
    """OpenAI's list object, as far as it matters."""

    data: list[dict[str, object]]


class _Request(msgspec.Struct):
    """A call in the form in which it leaves: `wire`, and what of its body `upload` sends after it.
    `ends`: the second, by the clock, at which `total` is over."""

    call: Call
    wire: bytes
    ends: float | None
    upload: Upload | None = None

    def __repr__(self) -> str:
        return "<_Request>"  # it has a credential in it


@dataclass(slots=True)
class _Failure:
    error: Exception
    outcome: str
    stale: bool = False
