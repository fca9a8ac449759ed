"""An answer's head: what of it is passed on, and where its body ends. No socket, no clock.

llhttp does the grammar, without any of its leniencies. An upstream sends the same head again and
again, but for a few headers of which none decides how the answer is read (its date, its id) and the
digits of its length: what was read once without them is not read again.
"""

from __future__ import annotations

import re
from typing import Final

import httptools
import msgspec

from gateway.exchange import HeaderList
from gateway.upstream.headers import ResponseHead, passes, response_head, usable
from gateway.upstream.stats import status_class

KiB = 1024
HEAD_LIMIT: Final = 256 * KiB  # bytes of an answer's head, and of those before it (1xx)
FIELD_LIMIT: Final = 128 * KiB  # bytes of one header (requirement I7)
HEADERS_LIMIT: Final = 256
REMEMBERED: Final = 512  # heads
LARGEST: Final = 4 * KiB  # bytes of one

BODILESS = frozenset({204, 304})
_BLANK_LINE: Final = b"\r\n\r\n"
# What ends here; the length; what is passed on. Of a value only what every reader reads alike.
_VARYING: Final = re.compile(
    rb"\r\n(?:(?:date|set-cookie): [\x20-\x7e]{0,1024}"
    rb"|content-length: ([0-9]{1,15})"
    rb"|((?:[a-z]+-)*"
    rb"(?:age|request-?id|trace-?id|ray|processing-ms|service-time|(?:remaining|reset)(?:-[a-z]+)*))"
    rb": ([\x21-\x7e]{0,256}))(?=\r\n)",
    re.IGNORECASE,
)


class Head(msgspec.Struct, frozen=True):
    """What answers with the same head have in common. `headers`: what is passed on, at `places`
    with one answer's own values; `length`: where it was not found to vary. `outcome`: the class of
    its status. `hops`: names of what ends here, as it says itself."""

    status: int
    outcome: str
    length: int | None
    headers: HeaderList
    places: list[int]
    hops: frozenset[str]
    encoded: bool
    chunked: bool
    keep_alive: bool


class Answer(msgspec.Struct):
    """One answer's head. `size`: its bytes, with its blank line; `length`: of the body, declared;
    `headers`: what is passed on; `varying`: of it, what differs from answer to answer."""

    head: Head
    size: int
    length: int | None
    headers: HeaderList
    varying: HeaderList


# By their bytes without what varies, its names, and whether a length was among it. The oldest goes
# first.
Key = tuple[bytes | bool | None, ...]
_heads: dict[Key, Head] = {}


def read(data: bytes) -> Answer | None:
    """The head that `data` begins with; None: it is not all there. ValueError: it is no HTTP, or
    past a limit."""
    size = data.find(_BLANK_LINE) + 4
    if size < 4:
        return None
    raw = data if size == len(data) else data[:size]
    parts = _VARYING.split(raw)  # the text between, and three groups of each that was found
    names, length, varying = parts[2::4], None, []
    for digits, name, value in zip(parts[1::4], names, parts[3::4], strict=True):
        if name is not None:
            passed = passes(name)
            if passed is not None:
                varying.append((passed, value.decode()))
        elif digits is not None:
            if length is not None:
                raise ValueError
            length = int(digits)
    key = (*parts[::4], *names, length is not None)
    head = _heads.get(key)
    if head is None:
        head = _learn(key, raw, varying)
    if head.hops:
        varying = [pair for pair in varying if pair[0] not in head.hops]
    headers = head.headers
    if varying:
        headers = headers.copy()
        for at, pair in zip(head.places, varying, strict=True):
            headers[at] = pair
    return Answer(head, size, head.length if length is None else length, headers, varying)


def _learn(key: Key, raw: bytes, varying: HeaderList) -> Head:
    """Read a head, and remember it."""
    if len(raw) > HEAD_LIMIT:
        raise ValueError
    reader = _Reader(raw)
    said = response_head(reader.headers)
    if reader.status >= 200 and not usable(reader.status, said.transfer_encoding):
        raise ValueError
    chunked = said.transfer_encoding is not None
    if chunked and reader.version == "1.0" and reader.status not in BODILESS:
        raise ValueError  # RFC 9112 section 6.1
    head = Head(
        reader.status,
        status_class(reader.status),
        None if key[-1] else said.length,
        said.headers,
        _places(said, varying),
        said.hops,
        said.encoded,
        chunked,
        reader.keep_alive,
    )
    if len(raw) <= LARGEST:
        if len(_heads) >= REMEMBERED:
            del _heads[next(iter(_heads))]
        _heads[key] = head
    return head


def _places(said: ResponseHead, varying: HeaderList) -> list[int]:
    """Where among the headers those are that vary."""
    places = []
    left = [pair for pair in reversed(varying) if pair[0] not in said.hops]
    for at, pair in enumerate(said.headers):
        if left and left[-1] == pair:
            places.append(at)
            left.pop()
    return places


class _Reader:
    """llhttp over one whole head. ValueError."""

    def __init__(self, raw: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.version = ""
        self.keep_alive = False
        self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise ValueError from None
        finally:
            del self._parser  # it holds this object
        if self.version not in {"1.1", "1.0"} or self.status == 101:
            raise ValueError

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS_LIMIT or len(name) + len(value) > FIELD_LIMIT:
            raise ValueError  # httptools makes it its own error
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self.status, self.version = parser.get_status_code(), parser.get_http_version()
        self.keep_alive = parser.should_keep_alive()


class Start:
    """A head that comes in pieces. What cannot become one is told before it is whole."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """All that has come, once a head is in it; else nothing. ValueError."""
        searched = max(0, len(self._data) - 3)
        self._data += data
        if self._data.find(_BLANK_LINE, searched) >= 0:
            return bytes(self._data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise ValueError from None
        return b""
