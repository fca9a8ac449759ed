"""What can be told of an answer's bytes by searching them, without reading JSON. Pure.

A stream is mostly events that matter to nobody but the client: they are found here, many at once.
"""

from __future__ import annotations

import re

import msgspec

# An event that matters once content has begun: usage or a finish reason that is not null (nor "").
# `"usage":null` and `"finish_reason":null` stand in nearly every event. Each pattern begins with
# letters of its own: those the search can skip to.
_MATTERS = tuple(
    re.compile(rb'"%b"\s*:\s*(?:[^\sn"]|"[^"])' % name).search
    for name in (b"usage", b"finish_reason")
)


# What the model said, in every place it may stand.
_SAID = re.compile(
    rb'"(?:content|refusal|reasoning_content|reasoning|arguments|text)"\s*+:\s*+'
    rb'"((?:[^"\\]++|\\.)*+)"'  # possessive: linear whatever comes
).findall


def content_bytes(data: bytes) -> int:
    """The UTF-8 bytes of all that the model said in `data`, JSON objects in any frame."""
    if b"\\" not in data:
        return sum(map(len, _SAID(data)))
    return sum(_utf8_bytes(said) if b"\\" in said else len(said) for said in _SAID(data))


def _utf8_bytes(said: bytes) -> int:
    """The length of what a JSON string's inside stands for."""
    try:
        return len(msgspec.json.decode(b'"' + said + b'"', type=str).encode())
    except (msgspec.MsgspecError, UnicodeError):
        return len(said)


def matters(data: bytes) -> bool:
    """One event must be read although content has begun."""
    return b"error" in data or b"[DONE]" in data or any(search(data) for search in _MATTERS)


_OPENINGS = frozenset({b"data: {", b'data:{"'})


def end_of_objects(data: bytes) -> int:
    """Where the last whole event of `data` ends, `[DONE]` left out; 0 where there is none."""
    end = data.rfind(b"\n\n") + 2
    if end < 2:
        return 0
    last = data.rfind(b"\n\n", 0, end - 2) + 2
    if last < 2:
        return end
    return last if data.startswith(b"data: [", last) else end


def are_plain(block: bytes) -> bool:
    """`block` is nothing but whole events of one line each, every one an object: so neither of them
    is `[DONE]`, nor has a name."""
    opening = block[:7]
    if opening not in _OPENINGS or not block.endswith(b"\n\n") or b"\r" in block:
        return False
    if block.find(b"\n") == len(block) - 2:
        return True  # one event: most pieces of a live stream are
    # Each newline is one of the two that end an event.
    return block.count(b"\n") == 2 * (block.count(b"\n\n" + opening) + 1)


def first_that_matters(block: bytes, start: int) -> int:
    """Where the first event that may matter begins, its end if there is none, from `start` on."""
    found = len(block)
    for search in _MATTERS:
        match = search(block, start, found)
        if match is not None:
            found = match.start()
    at = block.find(b'"error"', start, found)
    if at >= 0:
        found = at
    if found == len(block):
        return found
    before = block.rfind(b"\n\n", start, found)
    return start if before < 0 else before + 2
