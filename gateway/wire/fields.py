"""Header fields as the lines of an answer's head, and back. Pure.

Rule: a name or a value that could split the head is left out (RFC 9110 section 5.5), and so is what
decides the framing, which is the server's affair alone.
"""

from __future__ import annotations

from typing import Final

from gateway.exchange import HeaderList

_TOKEN: Final = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
_FRAMING: Final = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer"}
)
# Names that were judged good before. Bounded, for upstreams choose the names.
_good: set[str] = set()


def lines_of(headers: HeaderList) -> str:
    """The lines, each with its end."""
    if _good.issuperset(dict(headers)):  # all at once, where nothing is odd
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        shown = text.replace("\r\n", "")
        if len(text) - len(shown) == 2 * len(headers) and shown.isascii() and shown.isprintable():
            return text
    lines = []
    for name, value in headers:
        if name in _good or _judge(name):
            if not (value.isascii() and value.isprintable()) and not _harmless(value):
                continue
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


def fields_of(lines: str) -> HeaderList:
    """The headers that such lines were made of."""
    pairs = (line.partition(": ") for line in lines.split("\r\n") if line)
    return [(name, value) for name, _, value in pairs]


def _judge(name: str) -> bool:
    good = bool(name) and name.lower() not in _FRAMING and _TOKEN.issuperset(name)
    if good and len(_good) < 1024 and len(name) <= 64:
        _good.add(name)
    return good


def _harmless(value: str) -> bool:
    """No control byte but the tab, nothing beyond latin-1: CR, LF or NUL would split the answer."""
    return all(char == "\t" or (" " <= char <= "\xff" and char != "\x7f") for char in value)
