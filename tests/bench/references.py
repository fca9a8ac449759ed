"""What the gateway is held against: as little as aiohttp can do of the same job, and no feature.

`handler`: reads, parses, hashes, looks up a dict, answers; a miss is fetched once. `finished`: the
same, but the answer is one byte string, written straight to the transport. `relay`: passes request
and answer on, streams included, with aiohttp's client. None of them asks who calls, counts, logs
or keeps anything on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gateway.app import loop_factory

HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive", "date"})
FORWARDED = frozenset({"host", "content-length", "connection", "transfer-encoding"})
HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    "X-Gateway-Cache: hit\r\nContent-Length: %d\r\n\r\n"
)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Finished(web.StreamResponse):
    """An answer that is already in wire form."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data
        self._keep_alive = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        cast("asyncio.Transport", request.transport).write(self._data)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """It is written."""


class Reference:
    """One of the three, in front of `upstream`, a base URL."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._kept: dict[bytes, bytes] = {}
        self._session: aiohttp.ClientSession

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def _look_up(self, request: web.BaseRequest) -> bytes:
        body = await request.read()
        asked = msgspec.json.decode(body)
        if not isinstance(asked, dict) or "model" not in asked:
            raise web.HTTPBadRequest
        digest = hashlib.sha256(body).digest()
        found = self._kept.get(digest)
        if found is None:
            async with self._session.post(self._upstream + request.path, data=body) as answer:
                found = self._kept[digest] = await answer.read()
        return found

    async def handler(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._look_up(request)
        headers = {"Content-Type": "application/json", "X-Gateway-Cache": "hit"}
        return web.Response(body=body, headers=headers)

    async def finished(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._look_up(request)
        return Finished((HEAD % len(body)).encode() + body)

    async def relay(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in FORWARDED]
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body, headers=headers
        ) as answer:
            back = [(k, v) for k, v in answer.headers.items() if k.lower() not in HOP]
            if answer.content_type != "text/event-stream":
                return web.Response(status=answer.status, headers=back, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=back)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


async def main(kind: str, port: int, upstream: str) -> None:
    reference = Reference(upstream)
    await reference.start()
    handler: Handler = getattr(reference, kind)
    server = web.Server(handler, access_log=None)
    await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, port, upstream, loop = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(main(kind, int(port), upstream))
