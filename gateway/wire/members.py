"""A JSON object's members by their place in its bytes: found, replaced, added; the rest untouched.

Rule: for a body that is known to be a JSON object. Linear in its length, however deep it nests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPEN = re.compile(rb"(?:\xef\xbb\xbf)?" + _SPACE + rb"\{", re.DOTALL)
_NAME = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_SCALAR = re.compile(_STRING + rb'|[^\s"{}\[\],:]++', re.DOTALL)
_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,}])", re.DOTALL)


def members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Each member of the object: its name, and where its value begins and ends.

    Names come unescaped; one that is there twice comes twice. ValueError where `body` is no object.
    """
    at = _step(_OPEN, body, 0).end()
    if _NEXT.match(body, at):  # empty
        return
    while True:
        found = _step(_NAME, body, at)
        end = _value_end(body, found.end())
        yield _unescape(found[1]), found.end(), end
        after = _step(_NEXT, body, end)
        if after[1] == b"}":
            return
        at = after.end()


def edit_members(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """`body` with the values of `changes` (raw JSON by name) in place; those not there are added
    at its end. Every other byte stays as it was (K1)."""
    missing = dict(changes)
    pieces: list[bytes] = []
    at = 0
    for name, start, end in members(body):
        if name in changes:
            missing.pop(name, None)
            pieces += (body[at:start], changes[name])
            at = end
    edited = b"".join((*pieces, body[at:]))
    return add_members(edited, missing) if missing else edited


def add_members(body: bytes, added: Mapping[str, bytes]) -> bytes:
    """`body` with members at its end that are known not to be there."""
    last = len(body[: body.rindex(b"}")].rstrip(b" \t\n\r"))  # where the last value ends
    empty = last == _step(_OPEN, body, 0).end()
    texts = (json.dumps(name).encode() + b":" + value for name, value in added.items())
    return body[:last] + (b"" if empty else b",") + b",".join(texts) + body[last:]


def _unescape(quoted: bytes) -> str:
    if b"\\" in quoted:
        return str(json.loads(quoted))
    return quoted[1:-1].decode("utf-8", "surrogatepass")


def _value_end(body: bytes, start: int) -> int:
    if body[start : start + 1] not in (b"{", b"["):
        return _step(_SCALAR, body, start).end()
    at, depth = start + 1, 1
    while depth:
        found = _step(_BRACKET, body, at)
        depth += 1 if found[1] in b"{[" else -1
        at = found.end()
    return at


def _step(pattern: re.Pattern[bytes], body: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(body, at)
    if found is None:
        raise ValueError(f"not a JSON object, at byte {at}")
    return found
