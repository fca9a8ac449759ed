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
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")


class Head:
    """A head that was read, for all requests that begin with it. Never changed.

    `headers`: lower-case names, latin-1 values, in the order they came. `target` is what the
    request line said; `path` (without the query) and `query` are raw, of an absolute target too.
    `length_at`: the place of Content-Length among them, whose value may be another request's.
    """

    __slots__ = (
        *("headers", "keep_alive", "length_at", "method", "path", "query", "shared"),
        *("target", "version"),
    )

    def __init__(self, method: str, target: str, version: str, headers: HeaderList) -> None:
        self.method, self.target, self.version, self.headers = method, target, version, headers
        self.path = self.query = ""
        self.keep_alive = False  # the client would send another request
        self.length_at = -1
        self.shared = Shared()


# By their bytes without the digits of Content-Length, and whether there were any: without them, a
# head whose Content-Length is empty would look the same. The oldest goes first.
_heads: dict[tuple[bool, bytes], Head] = {}


def recall(data: bytes) -> tuple[Head, bytes, int] | None:
    """The head that `data` begins with, the digits of its own Content-Length (none: it has no
    body), and where it ends; None: it was not read before, or is not all there."""
    end = data.find(_BLANK_LINE) + 4
    if not 4 <= end <= LARGEST:
        return None
    template, digits = _template(data, end)
    head = _heads.get((bool(digits), template))
    return None if head is None else (head, digits, end)


def remember(data: bytes, head: Head, declared: str) -> None:
    """`data` was read as that head, whose Content-Length is `declared` ("" where it has none)."""
    template, digits = _template(data, len(data))
    if data.find(_BLANK_LINE) + 4 != len(data) or len(data) > LARGEST:
        return
    if digits.decode() != declared:  # written in another way than is looked for
        return
    if digits:
        head.length_at = [name for name, _ in head.headers].index("content-length")
    if len(_heads) >= REMEMBERED:
        del _heads[next(iter(_heads))]
    _heads[bool(digits), template] = head


def _template(data: bytes, end: int) -> tuple[bytes, bytes]:
    """The head of `data`, which ends at `end`, without the digits of its Content-Length; and
    these."""
    found = _LENGTH.search(data, 0, end)
    if found is None:
        return data[:end], b""
    at, to = found.span(1)
    return data[:at] + data[to:end], found[1]
