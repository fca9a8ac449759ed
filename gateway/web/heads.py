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
        *("_marks", "headers", "keep_alive", "length_at", "method", "path", "query", "shared"),
        *("target", "version"),
    )

    def __init__(self, method: str, target: str, version: str, headers: HeaderList) -> None:
        self.method, self.target, self.version, self.headers = method, target, version, headers
        self.path = self.query = ""
        self.keep_alive = False  # the client would send another request
        self.length_at = -1
        self.shared = Shared()
        # Its bytes before the digits of Content-Length, and behind; where these digits begin, where
        # a body could at the latest, and how many bytes there are behind them.
        self._marks: tuple[bytes, bytes, int, int, int] | None = None

    def learn(self, before: bytes, behind: bytes) -> None:
        """These are its bytes: before the digits of Content-Length, and behind them."""
        if behind:
            self.length_at = [name for name, _ in self.headers].index("content-length")
        if self.keep_alive and self.method != "HEAD":
            at, more = len(before), len(behind)
            self._marks = before, behind, at, at + _DIGITS + more, more

    def begins(self, data: bytes) -> int:
        """Where the body begins, if `data` is this head and a whole body, no more and no less;
        else 0. Only of heads whose answers have a body, and may be followed by another."""
        if self._marks is None:
            return 0
        before, behind, at, last, more = self._marks
        if not data.startswith(before):
            return 0
        if not more:
            return at if len(data) == at else 0
        to = data.find(behind, at, last)
        return to + more if data[at:to] == b"%d" % (len(data) - to - more) and to > 0 else 0

    def lacks(self, data: bytes) -> int:
        """How many bytes of the body are still to come, if `data` is this head and the body's
        begin; else 0."""
        if self._marks is None or not data.startswith(self._marks[0]):
            return 0
        _, behind, at, last, more = self._marks
        to = data.find(behind, at, last)
        digits = data[at:to]
        if to < 0 or not digits.isdigit() or digits.startswith(b"0"):
            return 0
        return max(0, int(digits) - (len(data) - to - more))


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
