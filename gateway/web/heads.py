"""Heads of requests that came before. No socket, no clock.

Clients send the same head again and again, but for the digits of its Content-Length. What a head
means depends on its bytes alone, so the same bytes are read once, for all connections.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.exchange import HeaderList
from gateway.ports import Shared

REMEMBERED: Final = 1024  # heads
LARGEST: Final = 4 * 1024  # bytes of one

_BLANK_LINE: Final = b"\r\n\r\n"
_DIGITS: Final = 15  # of a Content-Length
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([1-9][0-9]{,14})\r\n")


class Head:
    """A head that was read, for all requests that begin with it. Never changed.

    `headers`: lower-case names, latin-1 values, in the order they came. `target` is what the
    request line said; `path` (without the query) and `query` are raw, of an absolute target too.
    `length_at`: the place of Content-Length among them, whose value may be another request's.
    """

    __slots__ = (
        *("_before", "_behind", "_from", "_to", "headers", "keep_alive", "length_at", "method"),
        *("path", "query", "shared", "target", "version"),
    )

    def __init__(self, method: str, target: str, version: str, headers: HeaderList) -> None:
        self.method, self.target, self.version, self.headers = method, target, version, headers
        self.path = self.query = ""
        self.keep_alive = False  # the client would send another request
        self.length_at = -1
        self.shared = Shared()
        self._before = self._behind = b""  # its bytes around the digits of Content-Length
        self._from = self._to = 0  # where these begin, and the last place where its end may be

    def learn(self, before: bytes, behind: bytes) -> None:
        """These are its bytes: before the digits of Content-Length, and behind them."""
        if behind:
            self.length_at = [name for name, _ in self.headers].index("content-length")
        if self.keep_alive and self.method != "HEAD":
            self._before, self._behind, self._from = before, behind, len(before)
            self._to = len(before) + _DIGITS + len(behind)

    def begins(self, data: bytes) -> int:
        """Where the body begins, if `data` is this head and a whole body, no more and no less;
        else 0. Only of heads whose answers have a body, and may be followed by another."""
        if not data.startswith(self._before):
            return 0
        at, behind = self._from, self._behind
        if not behind:
            return at if len(data) == at else 0
        to = data.find(behind, at, self._to)
        body = to + len(behind)
        return body if to > 0 and data[at:to] == b"%d" % (len(data) - body) else 0


NO_HEAD: Final = Head("", "", "", [])  # begins nothing

# By their bytes without the digits of Content-Length, and whether there were any: without them, a
# head whose Content-Length is empty would look the same. The oldest goes first.
_heads: dict[tuple[bool, bytes], Head] = {}


def recall(data: bytes) -> tuple[Head, int, int] | None:
    """The head that `data` begins with, its own Content-Length (0: it has no body), and where it
    ends; None: it was not read before, or is not all there."""
    end = data.find(_BLANK_LINE) + 4
    if not 4 <= end <= LARGEST:
        return None
    at, to = _digits(data, end)
    head = _heads.get((to > at, data[:at] + data[to:end]))
    return None if head is None else (head, int(data[at:to] or b"0"), end)


def remember(data: bytes, head: Head, declared: str) -> None:
    """`data` was read as that head, whose Content-Length is `declared` ("" where it has none)."""
    end = len(data)
    if data.find(_BLANK_LINE) + 4 != end or end > LARGEST:
        return
    at, to = _digits(data, end)
    if data[at:to].decode() != declared:  # written in another way than is looked for
        return
    head.learn(data[:at], data[to:end])
    if len(_heads) >= REMEMBERED:
        del _heads[next(iter(_heads))]
    _heads[to > at, data[:at] + data[to:end]] = head


def _digits(data: bytes, end: int) -> tuple[int, int]:
    """Where the digits of Content-Length are, in the head of `data` that ends at `end`; without
    any, both are the end."""
    found = _LENGTH.search(data, 0, end)
    return (end, end) if found is None else found.span(1)
