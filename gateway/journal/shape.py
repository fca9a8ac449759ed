"""What the journal keeps of one request, made from what was captured. Pure: data in, bytes out.

Rule: a body is kept as text, byte for byte where nothing was cut or taken out of it. A stream is
kept as what its client has accumulated. What is no text is not kept, only its size.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zstandard

from gateway.exchange import HeaderList, Timings
from gateway.journal.redact import Pass, Redactor, kept_headers, read, searchable, write
from gateway.wire.gather import gather

SLACK = 4096  # bytes captured beyond what is kept of a body: see `_body`
LEVEL = 3  # of zstd: more costs time that the event loop misses
MOST = 512 * 1024 * 1024  # bytes that a record may have unpacked


@dataclass(slots=True)
class Side:
    """One direction as it was captured: the first bytes of its body. `size`: of all of it. `left`:
    why the body is not there."""

    headers: HeaderList = field(default_factory=list, repr=False)
    body: bytes = field(default=b"", repr=False)
    size: int = 0
    left: str | None = None


@dataclass(slots=True)
class Captured:
    """One request as it was captured. `own`: its caller's secrets; `held`: bytes in memory."""

    id: str
    request: Side
    response: Side
    status: int
    timings: Timings
    own: tuple[str, ...] = field(default=(), repr=False)
    held: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """What is written: `content` packed, `words` for the index."""

    id: str
    content: bytes = field(repr=False)
    words: str = field(repr=False)


def record_of(captured: Captured, redactor: Redactor, limit: int) -> Record:
    """Make the record; bodies are cut to `limit` bytes."""
    words: list[str] = []
    sides = {
        name: _side(side, redactor, limit, captured.own, words)
        for name, side in (("request", captured.request), ("response", captured.response))
    }
    ms: dict[str, float | None] = msgspec.structs.asdict(captured.timings)
    content = {
        "request": sides["request"],
        "response": {"status": captured.status, **sides["response"]},
        "ms": {name: None if value is None else round(value, 3) for name, value in ms.items()},
    }
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(msgspec.json.encode(content))
    return Record(captured.id, packed, searchable("\n".join(words)))


def unpacked(content: bytes) -> dict[str, Any]:
    """A record's content again. ValueError: it is not one."""
    try:
        data = zstandard.ZstdDecompressor().decompress(content, max_output_size=MOST)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    return found


def _side(
    side: Side, redactor: Redactor, limit: int, own: Sequence[str], words: list[str]
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "headers": kept_headers(side.headers, lambda value: redactor.scrub(value, own)),
        "bytes": side.size,
        "form": None,
        "cut": False,
        "body": None,
        "left_out": side.left,
    }
    if side.left is None and side.body:
        form, text, cut = _body(side, redactor, limit, own, words)
        shown |= {"form": form, "body": text, "cut": cut}
        if text is None:
            shown["left_out"] = "binary"
    return shown


def _body(
    side: Side, redactor: Redactor, limit: int, own: Sequence[str], words: list[str]
) -> tuple[str, str | None, bool]:
    """Its form, its text (None: it is no text), whether its end is missing.

    What is cut is cut last: a secret that the cut would go through is taken out before.
    """
    cut = side.size > len(side.body)
    walk = Pass(redactor, own)
    if _is_stream(side.headers) and (gathered := gather(side.body)) is not None:
        text = write(walk.value(gathered))
        words += walk.words
        return "stream", *_start(text, limit, True, cut)
    try:
        text = _decoder().decode(side.body, final=not cut)
    except UnicodeDecodeError:
        return "binary", None, cut
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = walk.value(read(text.encode(), cut=cut))
        except (ValueError, RecursionError):
            pass
        else:
            words += walk.words
            text = write(value) if walk.changed or cut else text
            return "json", *_start(text, _room(text, limit, cut), True, cut)
    text = redactor.plain(text, own)
    text, cut = _start(text, _room(text, limit, cut), False, cut)
    words.append(text)
    return "text", text, cut


_decoder = codecs.getincrementaldecoder("utf-8")


def _room(text: str, limit: int, cut: bool) -> int:
    return min(limit, _size(text) - SLACK) if cut else limit


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _start(text: str, limit: int, is_json: bool, cut: bool) -> tuple[str, bool]:
    """The text in about `limit` bytes, of JSON a beginning that is JSON; and whether it is cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text, cut
    start = data[: max(1, limit)].decode("utf-8", "ignore")
    if is_json:
        with contextlib.suppress(ValueError):  # white space alone
            return write(read(start.encode(), cut=True)), True
    return start, True


def _is_stream(headers: HeaderList) -> bool:
    return any(
        name == "content-type" and value.lower().startswith("text/event-stream")
        for name, value in headers
    )
