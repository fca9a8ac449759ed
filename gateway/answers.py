"""What the pipeline asks of an upstream's answer: its start, its observer, whether it is one.

Rule: nothing here changes an answer's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.errors import UpstreamCut, UpstreamError
from gateway.exchange import HeaderList, Summary
from gateway.ports import Call, Reply, Upstream
from gateway.wire.chat import ChatRequest
from gateway.wire.observe import BlindObserver, Observer, observer_for


@dataclass(slots=True)
class Peeked:
    """A reply whose first bytes were read already; `read` gives them once more."""

    reply: Reply
    start: bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reply, name)

    async def read(self) -> bytes:
        """The bytes that were looked at, then the rest."""
        start, self.start = self.start, b""
        return start or await self.reply.read()


async def read_start(reply: Reply, limit: int) -> bytes:
    """The first bytes of a reply, `limit` or a little more."""
    start = b""
    while len(start) < limit and (data := await reply.read()):
        start += data
    return start


def header(headers: HeaderList, name: str) -> str:
    """The first header of that (lower-case) name, or ""."""
    return next((value for key, value in headers if key == name), "")


def observer(reply: Reply, call: Call, request: ChatRequest | None) -> Observer:
    """Who watches this reply: by its content type, not by what was asked (J5)."""
    if reply.encoded:
        return BlindObserver()
    content_type = header(reply.headers, "content-type")
    return observer_for(content_type, call.path, request.n if request is not None else 1)


def is_whole(summary: Summary | None) -> bool:
    """The client has had all that matters: finish reason and usage."""
    return summary is not None and summary.usage is not None and bool(summary.finish_reasons)


def refuse_html(reply: Reply, upstream: Upstream) -> None:
    """A 200 with a web page is somebody's login or error page, not an answer."""
    if header(reply.headers, "content-type").lower().startswith("text/html"):
        raise UpstreamError(
            f"Upstream '{upstream.name}' answered with a web page instead of a completion. "
            "Is its base_url right?"
        )


def refuse_cut(summary: Summary, upstream: Upstream, *, streamed: bool) -> None:
    """A stream that ended without its terminator looks like success to a client; say that it is
    not (B11)."""
    if streamed and not summary.complete and not summary.error:
        raise UpstreamCut(
            f"Upstream '{upstream.name}' ended its stream before the answer was complete."
        )
