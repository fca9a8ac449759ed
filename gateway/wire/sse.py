"""Server-sent events: cut a byte stream into whole events, and read one event's data.

Rule: bytes are cut, never changed; what comes out, joined, is what went in. Lines end with LF, CRLF
or CR, an event with a blank line (html.spec.whatwg.org, "Event stream interpretation").
"""

from __future__ import annotations

import re

HOLD = 256 * 1024  # bytes; an event larger than this is not worth waiting for

_BOM = b"\xef\xbb\xbf"
# The end of a line. A CR at the very end of what is there may be half a CRLF: it waits.
_LINE_END = re.compile(rb"\r?\n|\r(?=[^\n])")
# The end of an event: a line end and an empty line. CR CR needs no waiting: should a LF follow, it
# stands alone as one more empty line, which means nothing.
_EVENT_END = re.compile(rb"\n(?:\n|\r\n|\r(?=[^\n]))|\r\r")
_OVERLAP = 2  # bytes of an end that may have come with the previous chunk


class Part(bytes):
    """A part of an event too large to be held until it is whole."""

    __slots__ = ()


class Splitter:
    """Cuts a stream, fed in chunks of any size, into whole events.

    A comment line or an empty line between events is released alone, as soon as it is whole: a
    heartbeat must not wait for the event after it. Past `hold` bytes an unfinished event is
    released as `Part`s. Each byte is searched once, however it is fed.
    """

    __slots__ = ("_end", "_hold", "_pending", "_searched", "_tail")

    def __init__(self, hold: int = HOLD) -> None:
        self._hold = hold
        self._pending = bytearray()
        self._searched = 0  # where in `_pending` to go on searching
        self._end: re.Pattern[bytes] | None = None  # what ends the event being released in parts
        self._tail = b""  # last bytes of those parts

    @property
    def idle(self) -> bool:
        """Between two events: nothing is pending."""
        return not self._pending and self._end is None

    @property
    def torn(self) -> bool:
        """Parts of an event have been released and its end has not."""
        return self._end is not None

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, raw, each with its blank line."""
        found: list[bytes] = []
        if self._end is not None:
            data = self._pass_on(self._end, data, found)
        if not data:
            return found
        pending = self._pending
        if pending:
            pending += data
            rest = self._cut(pending, found)
            del pending[:rest]
        else:
            rest = self._cut(data, found)
            if rest < len(data):
                pending += data[rest:]
        self._searched = max(0, len(pending) - _OVERLAP)
        if len(pending) > self._hold:
            self._end = _ends(pending[0])
            self._tail = bytes(pending[-_OVERLAP:])
            found.append(Part(pending))
            self._forget()
        return found

    def close(self) -> bytes:
        """The stream has ended: what is pending, perhaps an event without its blank line."""
        rest = bytes(self._pending)
        self._forget()
        return rest

    def _cut(self, buffer: bytes | bytearray, found: list[bytes]) -> int:
        """Append each whole event of `buffer`; return where the unfinished one begins."""
        start, search, size = 0, self._searched, len(buffer)
        while start < size:
            end = _ends(buffer[start]).search(buffer, search)
            if end is None:
                break
            found.append(bytes(buffer[start : end.end()]))
            start = search = end.end()
        return start

    def _pass_on(self, end: re.Pattern[bytes], data: bytes, found: list[bytes]) -> bytes:
        """Release more of a large event; return what follows it."""
        window = self._tail + data
        match = end.search(window)
        if match is None:
            self._tail = window[-_OVERLAP:]
            found.append(Part(data))
            return b""
        size = match.end() - len(self._tail)
        self._end, self._tail = None, b""
        if size:
            found.append(Part(data[:size]))
        return data[size:]

    def _forget(self) -> None:
        self._pending.clear()
        self._searched = 0


def _ends(first: int) -> re.Pattern[bytes]:
    """What ends the event that begins with byte `first`: comments and empty lines are lines."""
    return _LINE_END if first in b":\r\n" else _EVENT_END


def payload(event: bytes) -> bytes | None:
    """The data of one event: its `data` lines joined by LF, without the one optional space.

    None where there is no `data` line: a comment, an empty line, other fields only.
    """
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2] if event[5:6] == b" " else event[5:-2]  # one line and LF LF: nearly all
    lines = [_value(line) for line in _lines(event) if line[:5] in (b"data:", b"data")]
    return b"\n".join(lines) if lines else None


def name(event: bytes) -> bytes:
    """The event's name (its last `event` line), empty where it has none."""
    found = b""
    for line in _lines(event):
        if line.startswith(b"event:"):
            found = _value(line)
    return found


def _lines(event: bytes) -> list[bytes]:
    return event.removeprefix(_BOM).splitlines()  # of bytes: at LF, CRLF and CR only


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].removeprefix(b" ")
