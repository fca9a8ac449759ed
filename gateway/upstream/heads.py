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
# Headers whose values differ from answer to answer, where every reader reads them alike; the length
# is the only one that decides how an answer is read.
_VARYING: Final = re.compile(
    rb"(\r\n(?:content-length: (?=[0-9]{1,15}\r)"
    rb"|(?:date|set-cookie): (?=[\x20-\x7e]{0,1024}\r)"
    rb"|(?:[a-z]+-)*"
    rb"(?:age|request-?id|trace-?id|ray|processing-ms|service-time|(?:remaining|reset)(?:-[a-z]+)*)"
    rb": (?=[\x21-\x7e]{0,256}\r)))([^\r]*)(?=\r\n)",
    re.IGNORECASE,
)


class Head(msgspec.Struct, frozen=True):
    """What answers with the same head have in common. `outcome`: the class of its status.
    `headers`: what is passed on; `varying`: which of the values found to vary belong where among
    them, with their names. `length_at`: which of them is the body's length; None: `length` is it.
    """

    status: int
    outcome: str
    length: int | None
    length_at: int | None
    headers: HeaderList
    varying: list[tuple[int, int, str]]
    encoded: bool
    chunked: bool
    keep_alive: bool


class Answer(msgspec.Struct):
    """One answer's head. `size`: its bytes, with its blank line; `length`: of the body, declared;
    `headers`: what is passed on; `varies`: some of them differ from answer to answer."""

    head: Head
    size: int
    length: int | None
    headers: HeaderList
    varies: bool


# By their bytes without the values that vary. The oldest goes first.
_heads: dict[tuple[bytes, ...], Head] = {}


def read(data: bytes) -> Answer | None:
    """The head that `data` begins with; None: it is not all there. ValueError: it is no HTTP, or
    past a limit."""
    size = data.find(_BLANK_LINE) + 4
    if size < 4:
        return None
    raw = data if size == len(data) else data[:size]
    parts = _VARYING.split(raw)  # what is between, and of each that was found its name, its value
    values = parts[2::3]
    del parts[2::3]
    key = tuple(parts)
    head = _heads.get(key)
    if head is None:
        head = _learn(key, values, raw)
    length, headers = head.length, head.headers
    if head.length_at is not None:
        length = int(values[head.length_at])
    if head.varying:
        headers = headers.copy()
        for at, place, name in head.varying:
            headers[place] = name, values[at].decode()
    return Answer(head, size, length, headers, bool(head.varying))


def _learn(key: tuple[bytes, ...], values: list[bytes], raw: bytes) -> Head:
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
    names = [name[2:-2] for name in key[1::2]]
    lengths = [at for at, name in enumerate(names) if name.lower() == b"content-length"]
    head = Head(
        reader.status,
        status_class(reader.status),
        said.length,
        lengths[0] if lengths else None,
        said.headers,
        _places(said, names, values),
        said.encoded,
        chunked,
        reader.keep_alive,
    )
    if len(raw) <= LARGEST:
        if len(_heads) >= REMEMBERED:
            del _heads[next(iter(_heads))]
        _heads[key] = head
    return head


def _places(
    said: ResponseHead, names: list[bytes], values: list[bytes]
) -> list[tuple[int, int, str]]:
    """Which of the headers found to vary are passed on, and where among the others."""
    found, place = [], -1
    for at, (raw, value) in enumerate(zip(names, values, strict=True)):
        name = passes(raw)
        if name is not None and name not in said.hops:
            place = said.headers.index((name, value.decode()), place + 1)
            found.append((at, place, name))
    return found


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
