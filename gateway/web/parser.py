"""Bytes of one connection as requests. No socket, no clock, no task; llhttp does the grammar.

Rule: a feed of llhttp never crosses the end of a request. It cannot be paused, so the bytes are cut
where a request can end: after a blank line, or after the last byte that Content-Length declares.
What follows stays unparsed until the answer is out: who pipelines makes us hold bytes, not objects.

What llhttp lets through and RFC 9112 does not is refused here; framing in doubt is never guessed.
A head that was read before, byte for byte, is not read again (`heads.py`); its body is then
counted, as Content-Length says, without llhttp.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
from msgspec import Struct

from gateway.errors import ExpectationFailed, GatewayError, InvalidRequest, UpgradeNotSupported
from gateway.exchange import HeaderList
from gateway.ports import own_fields
from gateway.web.body import RequestBody
from gateway.web.heads import Head, recall, remember

HEAD_LIMIT: Final = 64 * 1024  # bytes of request line and headers together
FIELD_LIMIT: Final = 32 * 1024  # bytes of one header's name and value (requirement I7)
HEADERS_LIMIT: Final = 128  # header lines
OVERHEAD_LIMIT: Final = (
    64 * 1024
)  # bytes of chunk sizes, extensions and trailers without a body byte

_BLANK_LINE: Final = b"\r\n\r\n"
_FRAMING: Final = frozenset({"host", "content-length", "transfer-encoding", "expect"})
_NOT_IN_HOST: Final = frozenset(" \t/\\?#@,;<>\"'{}|^`")


# Names as they come, in lower case: clients repeat a few dozen. Bounded, for they choose the names.
_names: dict[bytes, str] = {}


class Peer:
    """Who is at the other end of a connection. `secure` means TLS; `known` is what the handler
    keeps of it between two requests."""

    __slots__ = ("address", "known", "secure")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        name = transport.get_extra_info("peername")
        self.address = str(name[0]) if isinstance(name, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        self.known: Any = None


class Request(Struct, eq=False):
    """One request: its head, and its body still to be read. `started` is when the first byte was
    seen, in monotonic seconds."""

    head: Head
    body: RequestBody
    peer: Peer
    started: float

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def target(self) -> str:
        return self.head.target

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def query(self) -> str:
        return self.head.query

    @property
    def version(self) -> str:
        return self.head.version

    @property
    def headers(self) -> HeaderList:
        """Its own."""
        return own_fields(self.head.headers, self.head.length_at, self.body.length)

    def header(self, name: str) -> str | None:
        """A header by lower-case name; several are joined by ', ' (RFC 9110 section 5.3)."""
        return self.head.shared.header(self.head.headers, name)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


class RequestParser:
    """Feed it bytes; it stops after a head (`ready`) and at a request's end (`complete`)."""

    head: Head  # from `ready` on

    def __init__(self) -> None:
        self._http = httptools.HttpRequestParser(self)
        self.next()

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def target(self) -> str:
        return self.head.target

    @property
    def version(self) -> str:
        return self.head.version

    @property
    def keep_alive(self) -> bool:
        """The client would send another request."""
        return self.head.keep_alive

    @property
    def headers(self) -> HeaderList:
        """Its own."""
        return own_fields(self.head.headers, self.head.length_at, self.length)

    def next(self) -> None:
        """Get ready for the next request of this connection."""
        self._headers: HeaderList = []
        self.body: RequestBody | None = None  # where body bytes go; set between head and body
        self.ready = False  # the head is whole
        self.complete = False  # the request is whole
        self.expect_continue = False
        self.length: int | None = 0  # declared; None when chunked
        self.head_bytes = 0  # taken so far
        self._url = b""
        self._fields: dict[str, str] | None = None  # those that decide the framing
        self._fault: GatewayError | None = None
        self._tail = b""  # the last three bytes, where a blank line may have begun
        self._wire_left = 0  # declared body bytes still to come
        self._recalled = False  # llhttp has not seen this request
        self._overhead = 0

    def feed(self, data: bytes) -> bytes:
        """Parse up to the next end, of a head or of a request; return what follows.

        Raises GatewayError where this is not HTTP/1; the parser is of no use after that.
        """
        if self._recalled:
            return self._count(data)
        if not self.head_bytes and self._recall(data):
            return data[self.head_bytes :]
        step = self._feed_body if self.ready else self._feed_head
        more = True
        while data and more:
            cut = self._cut(data)
            more = step(data if cut == len(data) else data[:cut])
            data = data[cut:]
        return data

    def _cut(self, data: bytes) -> int:
        """The number of bytes up to where a head or a request can end."""
        if self._wire_left:
            return min(self._wire_left, len(data))
        tail = self._tail
        if tail:
            at = (tail + data[:3]).find(_BLANK_LINE)
            if at >= 0:
                return at + 4 - len(tail)
        at = data.find(_BLANK_LINE)
        return at + 4 if at >= 0 else len(data)

    def _feed_head(self, piece: bytes) -> bool:
        """Take bytes of the head; True while more belong to it."""
        self.head_bytes += len(piece)
        if self.head_bytes > HEAD_LIMIT:
            raise InvalidRequest(
                f"The request line and headers together exceed {HEAD_LIMIT} bytes."
            )
        self._feed(piece)
        if not self.ready:
            return True
        self._tail = b""
        self._wire_left = self.length or 0
        if self.head_bytes == len(piece):
            self._remember(piece)
        return False

    def _feed_body(self, piece: bytes) -> bool:
        """Take bytes of the body, its chunk sizes and trailers; True while more belong to it."""
        if self._wire_left:
            self._wire_left -= len(piece)
        else:
            self._overhead += len(piece)
        self._feed(piece)
        if self._overhead > OVERHEAD_LIMIT:
            raise InvalidRequest(
                f"Chunk extensions or trailers exceed {OVERHEAD_LIMIT} bytes without a body byte."
            )
        return not self.complete

    def _feed(self, piece: bytes) -> None:
        try:
            self._http.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._fault is None:
                self._fault = _not_http(piece, str(error))
            raise self._fault from None
        if len(piece) >= 3:
            self._tail = piece[-3:]
        else:
            self._tail = (self._tail + piece)[-3:]

    # Heads that came before ----------------------------------------------------------------------

    def _recall(self, data: bytes) -> bool:
        """Is this a whole head that was read before; then it is ready."""
        found = recall(data)
        if found is None:
            return False
        self.head, self.length, self.head_bytes = found
        self._wire_left = self.length
        self.ready = self._recalled = True
        self.complete = not self._wire_left
        return True

    def _count(self, data: bytes) -> bytes:
        """Take body bytes behind a recalled head, as many as it declares; return what follows."""
        left = self._wire_left
        piece, rest = (data, b"") if len(data) <= left else (data[:left], data[left:])
        if self.body is not None:
            self.body.feed(piece)
        self._wire_left = left = left - len(piece)
        self.complete = not left
        return rest

    def _remember(self, piece: bytes) -> None:
        """Keep the head that has just been read, if a request that begins with the same bytes is
        bound to be the same: no line of it is folded or hidden, and its body is counted."""
        lines = piece.count(b"\n") == piece.count(_BLANK_LINE[:2]) == len(self._headers) + 2
        if self.length is not None and not self.expect_continue and lines:
            remember(piece, self.head, (self._fields or {}).get("content-length", ""))

    # Called by httptools -------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url  # in pieces, where the bytes came in pieces

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.ready:
            return  # a trailer: read and dropped
        if len(self._headers) >= HEADERS_LIMIT:
            self._refuse(InvalidRequest(f"There are more than {HEADERS_LIMIT} headers."))
        if len(name) + len(value) > FIELD_LIMIT:
            self._refuse(InvalidRequest(f"A header exceeds {FIELD_LIMIT} bytes."))
        key = _names.get(name) or _learn(name)
        text = value.decode("latin-1")
        if text[-1:] in {" ", "\t"}:  # llhttp strips the front only
            text = text.rstrip(" \t")
        self._headers.append((key, text))
        if key in _FRAMING:
            self._framing(key, text)

    def on_headers_complete(self) -> None:
        http = self._http
        version = http.get_http_version()
        target = self._url.decode("latin-1")
        head = Head(http.get_method().decode("ascii"), target, version, self._headers)
        if version not in {"1.0", "1.1"}:
            self._refuse(InvalidRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here."))
        if http.should_upgrade():
            self._refuse(
                UpgradeNotSupported(
                    "There is no tunnel and no protocol to upgrade to. Send a plain request."
                )
            )
        self._check_framing(self._fields or {}, modern=version == "1.1")
        head.path, head.query = self._split_target(target)
        head.keep_alive = version == "1.1" and http.should_keep_alive()
        self.head = head
        self.ready = True

    def on_body(self, data: bytes) -> None:
        self._overhead = 0
        if self.body is not None:
            self.body.feed(data)

    def on_message_complete(self) -> None:
        self.complete = True

    # What a head must be -------------------------------------------------------------------------

    def _refuse(self, error: GatewayError) -> None:
        self._fault = error
        raise error  # httptools turns it into its own error; _feed raises `_fault` in its place

    def _framing(self, key: str, value: str) -> None:
        fields = self._fields
        if fields is None:
            fields = self._fields = {}
        if key in fields and key != "expect":
            self._refuse(InvalidRequest(f"There is more than one {key.title()} header."))
        fields[key] = value

    def _check_framing(self, fields: dict[str, str], *, modern: bool) -> None:
        """Host, Transfer-Encoding, Content-Length and Expect (RFC 9112 sections 3.2, 6.1, 6.3)."""
        host = fields.get("host")
        if host is None:
            if modern:
                self._refuse(InvalidRequest("An HTTP/1.1 request needs a Host header."))
        elif not _NOT_IN_HOST.isdisjoint(host):
            self._refuse(InvalidRequest("The Host header is not a host."))
        coding = fields.get("transfer-encoding")
        if coding is not None:
            if not modern:
                self._refuse(InvalidRequest("HTTP/1.0 has no Transfer-Encoding."))
            if coding.lower() != "chunked" or "content-length" in fields:
                self._refuse(
                    InvalidRequest("Send either Transfer-Encoding 'chunked' or a Content-Length.")
                )
            self.length = None
        elif "content-length" in fields:
            self.length = int(fields["content-length"])  # llhttp let digits through only
        expected = fields.get("expect")
        if expected is not None and modern:  # RFC 9110 section 10.1.1: HTTP/1.0 has no expectations
            if expected.lower() != "100-continue":
                self._refuse(ExpectationFailed("The only expectation met here is '100-continue'."))
            self.expect_continue = True

    def _split_target(self, target: str) -> tuple[str, str]:
        """Path and query of an origin, absolute or asterisk target (RFC 9112 section 3.2)."""
        if "#" in target:
            self._refuse(InvalidRequest("A request target has no fragment ('#')."))
        if not target.startswith("/") and target != "*":
            _, separator, rest = target.partition("://")
            if not separator:
                self._refuse(InvalidRequest("The request target is not a path."))
            start = next((at for at, char in enumerate(rest) if char in "/?"), len(rest))
            target = rest[start:]
            if not target.startswith("/"):
                target = f"/{target}"
        path, _, query = target.partition("?")
        return path, query


def _learn(name: bytes) -> str:
    key = name.decode("latin-1").lower()
    if len(_names) < 1024 and len(name) <= 64:
        _names[name] = key
    return key


def _not_http(piece: bytes, reason: str) -> GatewayError:
    """llhttp's reasons are fixed texts of its own: none of the client's bytes is reflected."""
    if piece.startswith(b"\x16\x03"):
        return InvalidRequest("This port speaks plain HTTP, and a TLS handshake came. Use http://.")
    if "PRI" in reason:
        return InvalidRequest("HTTP/2 is not spoken here. Use HTTP/1.1.")
    return InvalidRequest(f"This is not a valid HTTP/1.1 request: {reason}.")
