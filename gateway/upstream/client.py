"""One configured upstream over HTTP: the call, its one safe retry, its deadlines, its answer.

What goes out and what comes back is decided in rules.py, connections are made in pool.py. Every
foreign exception ends here. Requirements I1 to I7, B5, B10, B14.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from gateway.config import Disconnect, UpstreamSection
from gateway.errors import GatewayError, UpstreamTimeout
from gateway.exchange import Caller, CallerKind, HeaderList
from gateway.ports import Call, Clock
from gateway.upstream import faults, rules
from gateway.upstream.pool import (
    ATTEMPT,
    Attempt,
    Pool,
    check_parser,
    find_proxy,
    open_session,
    tls_context,
)
from gateway.upstream.reply import HTTPReply
from gateway.upstream.stats import Stats
from gateway.upstream.upload import Upload

# A pooled connection that was dead already says so at once; one that dies later may have worked.
RETRY_WITHIN = 5.0  # seconds
UNLISTED = (GatewayError, TimeoutError, msgspec.MsgspecError, UnicodeError)
MODELS_WITHIN = 10.0  # seconds
MODELS_LIMIT = 4 * 1024 * 1024  # bytes


class HTTPUpstream:
    """The `Upstream` port for an http(s) `base_url`, within one running event loop. Close it."""

    builtin = False

    def __init__(self, section: UpstreamSection, *, instance_id: str, clock: Clock) -> None:
        """Reads the CA file and the environment's proxies; ValueError where they cannot be used."""
        check_parser()
        self.name = section.name
        self.stats = Stats()
        self.finish_on_disconnect = section.on_disconnect is Disconnect.FINISH
        # What is asked of another version of an API is not the same request.
        self.base_url = f"{section.base_url}?{sorted(section.query.items())}"
        self.cache = section.cache
        self.cache_ttl = section.cache_ttl
        self._section = section
        self._clock = clock
        self._models = rules.Models(section.models, section.rename)
        self._access = rules.access(section)
        self._target = rules.target(section)
        self._paths = section.paths if section.api_key else None
        self._headers = [(name.lower(), str(value)) for name, value in section.headers.items()]
        self._via = rules.via_entry(instance_id)
        self._usage_refused = False
        self._secure = self._target.prefix.startswith("https:")
        self._proxy = find_proxy(section.proxy, self._target.prefix)
        hops = [self._target.prefix, self._proxy.url if self._proxy else ""]
        needs_tls = any(hop.startswith("https:") for hop in hops)
        self._tls = tls_context(section.ca_file) if needs_tls else None
        self._turns = asyncio.Semaphore(section.max_connections)
        self._pool: Pool | None = None
        self._session: aiohttp.ClientSession | None = None

    # -- what it is --------------------------------------------------------------------------------

    def serves(self, model: str) -> bool:
        return self._models.match(model)

    def accepts(self, kind: CallerKind) -> bool:
        return self._access.accepts(kind)

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
        request = self._prepare(call)
        call.times.sent = self._clock.monotonic()
        await self._take_turn(request)
        try:
            found = await self._once(request, fresh=False)
            if isinstance(found, _Failure) and found.stale:
                self.stats.retries += 1
                call.times.attempts += 1
                found = await self._once(request, fresh=True)
        except BaseException:
            self._done("abandoned")
            raise
        if isinstance(found, HTTPReply):
            return found
        self._done(found.outcome)
        raise found.error

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
        if self._pool is not None:
            self._pool.abort()
        if self._session is not None:
            await self._session.close()

    # -- one call ----------------------------------------------------------------------------------

    def _prepare(self, call: Call) -> _Request:
        rules.check_method(call.method)
        url = URL(self._target.url(call.path, call.query), encoded=True)
        headers = rules.request_headers(
            call.headers, call.caller, self._access, self._headers, self._via
        )
        if self._proxy and self._proxy.authorization and not self._secure:
            headers.append(("proxy-authorization", self._proxy.authorization))
        total = self._section.timeouts.total
        ends = None if total is None else asyncio.get_running_loop().time() + total
        return _Request(call, url, headers, ends)

    async def _take_turn(self, request: _Request) -> None:
        """At most `max_connections` calls at once; the others wait in line, and are seen to."""
        expired = False
        if self._turns.locked():
            self.stats.waits += 1
            self.stats.waiting += 1
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout_at(self._patience(request)):
                    await self._turns.acquire()
            except TimeoutError:
                expired = True
            finally:
                self.stats.waiting -= 1
                request.call.times.queued = self._clock.monotonic() - began
                self.stats.wait_seconds += request.call.times.queued
        else:
            await self._turns.acquire()
        if expired:
            self.stats.outcomes[faults.TIMEOUT] += 1
            raise UpstreamTimeout(f"No connection to upstream '{self.name}' became free in time.")
        self.stats.in_flight += 1

    def _done(self, outcome: str) -> None:
        self._turns.release()
        self.stats.in_flight -= 1
        self.stats.outcomes[outcome] += 1

    def _patience(self, request: _Request) -> float:
        """When, in the loop's time, the wait for the next sign of life is over."""
        until = asyncio.get_running_loop().time() + self._section.timeouts.first_byte
        return until if request.ends is None else min(until, request.ends)

    async def _once(self, request: _Request, *, fresh: bool) -> HTTPReply | _Failure:
        """One attempt. A failure is returned, so that none is the context of another (I8)."""
        deadline = asyncio.timeout_at(request.ends)
        times = request.call.times
        over = False

        def progress() -> None:
            if not over:
                deadline.reschedule(self._patience(request))

        def on_connected() -> None:
            times.connected = self._clock.monotonic()
            progress()

        self.stats.attempts += 1
        attempt = Attempt(fresh=fresh, on_connected=on_connected)
        upload = Upload(request.call, progress)
        mark = ATTEMPT.set(attempt)
        try:
            async with deadline:
                response = await self._request(request, upload)
            return self._reply(request, attempt, upload, response)
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError) as exc:
            failure = self._explain(request, attempt, upload, exc)
        except BaseException:
            attempt.drop()
            raise
        finally:
            over = True
            ATTEMPT.reset(mark)
        attempt.drop()
        return failure

    async def _request(self, request: _Request, upload: Upload) -> aiohttp.ClientResponse:
        session = self._session or self._open()
        headers = CIMultiDict(request.headers)
        if upload.length is not None:
            headers["content-length"] = str(upload.length)
        proxy: dict[str, Any] = {}
        if self._proxy:
            proxy["proxy"] = self._proxy.url
            if self._proxy.authorization and self._secure:
                proxy["proxy_headers"] = {"Proxy-Authorization": self._proxy.authorization}
        return await session.request(
            request.call.method,
            request.url,
            headers=headers,
            data=upload.data,
            allow_redirects=False,  # K3: a credential follows nobody
            **proxy,
        )

    def _open(self) -> aiohttp.ClientSession:
        self._pool = Pool(self._clock, self._section.keepalive, self._tls)
        self._session = open_session(self._pool, self._section.timeouts.connect)
        return self._session

    def _reply(
        self,
        request: _Request,
        attempt: Attempt,
        upload: Upload,
        response: aiohttp.ClientResponse,
    ) -> HTTPReply:
        if not rules.usable(response.status, response.headers.get("transfer-encoding")):
            response.close()
            raise aiohttp.ClientResponseError(response.request_info, ())
        self.stats.told(response.headers)
        request.call.times.first_byte = attempt.first_byte
        reply = HTTPReply(
            self.name,
            response,
            attempt,
            times=request.call.times,
            idle=self._section.timeouts.idle,
            ends=request.ends,
            done=self._done,
        )
        upload.on_error = reply.fail
        return reply

    def _explain(
        self, request: _Request, attempt: Attempt, upload: Upload, exc: Exception
    ) -> _Failure:
        if upload.error is not None:
            return _Failure(upload.error, "abandoned")
        if isinstance(exc, TimeoutError) and not isinstance(exc, aiohttp.ClientError):
            now = asyncio.get_running_loop().time()
            whole = request.ends is not None and now >= request.ends
            what = "was not done" if whole else "did not begin to answer"
            late = UpstreamTimeout(f"Upstream '{self.name}' {what} in time.")
            return _Failure(late, faults.TIMEOUT)
        error, outcome = faults.before_head(self.name, exc)
        return _Failure(error, outcome, self._is_stale(request, attempt, exc))

    def _is_stale(self, request: _Request, attempt: Attempt, exc: Exception) -> bool:
        """A pooled connection that was dead when it was taken (I4): nobody has seen the request."""
        return (
            attempt.reused
            and attempt.received == 0
            and not isinstance(request.call.body, AsyncIterator)
            and not isinstance(exc, TimeoutError | aiohttp.ClientResponseError)
            and self._clock.monotonic() - (request.call.times.connected or 0) < RETRY_WITHIN
        )

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


@dataclass(slots=True)
class _Request:
    """A call in the form in which it leaves. `ends`: the loop's time at which `total` is over."""

    call: Call
    url: URL = field(repr=False)
    headers: HeaderList = field(repr=False)
    ends: float | None


@dataclass(slots=True)
class _Failure:
    error: Exception
    outcome: str
    stale: bool = False
