"""Observers: they watch an answer's bytes for our books, and pass them on.

Rules. What goes in comes out, byte for byte and at once; only an unfinished event waits for its
end. Nothing an upstream sends can make an observer raise or change a byte (A11): what it cannot
read it counts and lets pass. An event that can matter to nobody is not parsed (H2).
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from gateway.exchange import Summary
from gateway.wire import sse
from gateway.wire.findings import (
    NO_USAGE,
    NOT_JSON,
    TOO_LARGE,
    TRUNCATED,
    UNOBSERVED,
    Findings,
    read_object,
)
from gateway.wire.scan import (
    are_plain,
    content_bytes,
    end_of_objects,
    first_that_matters,
    matters,
)

UNCOUNTED = 8 * 1024  # bytes of events in which what was said is not counted yet
JSON_CAP = 16 * 1024 * 1024  # bytes of a JSON answer kept to be read at its end

Piece = bytes


class UsageEvent(bytes):
    """The event with usage and no choices: hidden from a client that did not ask for it (A3)."""

    __slots__ = ()


class EndEvent(bytes):
    """The `[DONE]` event and whatever follows it: held back until the books are written."""

    __slots__ = ()


class Form(StrEnum):
    """What an answer is made of, by its content type."""

    STREAM = "stream"
    JSON = "json"
    OTHER = "other"


class Observer(Protocol):
    """Watches one answer: `feed` each chunk, `close` at its end or `cut` where it broke off."""

    @property
    def form(self) -> Form: ...

    @property
    def saw_content(self) -> bool:
        """The first content has passed: of a stream its first token, else the first byte."""

    @property
    def torn(self) -> bool:
        """A part of an event has been passed on and its end has not: what is written next
        must begin with an empty line."""

    def feed(self, data: bytes) -> list[Piece]:
        """What may be passed on now."""

    def close(self) -> list[Piece]:
        """The answer has ended cleanly: the rest of it."""

    def cut(self) -> None:
        """The answer broke off: what is pending is dropped (B12)."""

    def summary(self) -> Summary:
        """What is known so far."""


@lru_cache(256)
def form_of(content_type: str) -> Form:
    """What an answer of this type is made of."""
    media = content_type.partition(";")[0].strip().lower()
    if media == "text/event-stream":
        return Form.STREAM
    return Form.JSON if media == "application/json" or media.endswith("+json") else Form.OTHER


def observer_for(content_type: str, path: str, choices: int = 1) -> Observer:
    """The observer of an answer by the type it came with, not by what was asked (J5).

    `path` is what follows `/v1/`; `choices` is the request's `n`. An answer that is still encoded
    (`Content-Encoding`) is nobody's to read: take a BlindObserver.
    """
    form = form_of(content_type[:200])
    if form is Form.STREAM:
        return StreamObserver(choices if path in _WITH_CHOICES else None)
    return JSONObserver() if form is Form.JSON else BlindObserver()


_WITH_CHOICES = frozenset({"chat/completions", "completions"})
_DONE = b"data: [DONE]\n\n"  # as nearly all write it


class StreamObserver:
    """Watches a stream of events. `choices`: how many are asked for; None where the path has none,
    and then any clean end is a whole answer."""

    form = Form.STREAM
    _done = _closed = False
    _parts = False  # of events too large to be read
    _events = _errors = _said = 0
    _waiting = 0  # bytes of `_uncounted`

    def __init__(self, choices: int | None = 1, hold: int = sse.HOLD) -> None:
        self._choices = choices
        self._splitter = sse.Splitter(hold)
        self._findings = Findings()
        self._uncounted: list[bytes] = []  # what the model said in them is not counted yet

    @property
    def saw_content(self) -> bool:
        return self._findings.content

    @property
    def torn(self) -> bool:
        return self._splitter.torn

    def feed(self, data: bytes) -> list[Piece]:
        """What may go out together is one piece, and one write."""
        pieces: list[Piece] = []
        splitter = self._splitter
        usual = self._findings.content and splitter.idle and are_plain(data) and not self._done
        if usual and first_that_matters(data, 0) == len(data):  # most of what comes live
            self._pass_by(data)
            if self._waiting > UNCOUNTED:
                self._count_said()
            return [data]
        if not (self._done or splitter.idle):
            end = data.find(b"\n\n") + 2
            first, data = (data, b"") if end < 2 else (data[:end], data[end:])
            self._look(splitter.feed(first), pieces)
        if data and splitter.idle and not self._done:
            size = len(data)
            if data.endswith(_DONE) or not are_plain(data):
                size = end_of_objects(data)
                if not are_plain(data[:size]):
                    size = 0
            if size:
                self._read_block(data[:size], pieces)
                data = data[size:]
        if data:
            if self._done or (splitter.idle and data.startswith(_DONE)):
                self._done = True
                pieces.append(EndEvent(data))
            else:
                self._look(splitter.feed(data), pieces)
        if self._waiting > UNCOUNTED:
            self._count_said()
        return pieces

    def _pass_by(self, block: bytes) -> None:
        """Whole events, each an object on one line."""
        self._events += block.count(b"\n") // 2
        self._count_later(block)

    def _read_block(self, block: bytes, pieces: list[Piece]) -> None:
        """Whole events, each an object on one line. Those are read that may matter."""
        findings, size, at, start = self._findings, len(block), 0, 0
        self._pass_by(block)
        while at < size:
            if findings.content:
                at = first_that_matters(block, at)
                if at == size:
                    break
            end = block.find(b"\n\n", at) + 2
            if self._read_object(block[at + 5 : end - 2]):
                if start < at:
                    _pass_on(pieces, block[start:at])
                pieces.append(UsageEvent(block[at:end]))
                start = end
            at = end
        if start < size:
            _pass_on(pieces, block[start:])

    def _count_said(self) -> None:
        """Only an answer without usage needs it: it is put off until that is known, or until too
        much waits."""
        if self._findings.usage is None:
            self._said += sum(map(content_bytes, self._uncounted))
        self._uncounted.clear()
        self._waiting = 0

    def close(self) -> list[Piece]:
        """The last event counts without its blank line too (A6)."""
        pieces: list[Piece] = []
        rest = self._splitter.close()
        if rest:
            self._look([rest], pieces)
        self._closed = True
        return pieces

    def cut(self) -> None:
        self._splitter.close()

    def summary(self) -> Summary:
        findings = self._findings
        if self._uncounted:
            self._count_said()
        complete = self._done or (
            self._closed and (self._choices is None or findings.finished() >= max(1, self._choices))
        )
        missing = TOO_LARGE if self._parts else NO_USAGE if complete else TRUNCATED
        said = 0 if findings.usage is not None else self._said
        return findings.summary(complete, missing, self._events, self._errors, said)

    def _look(self, events: list[bytes], pieces: list[Piece]) -> None:
        """Events of any kind."""
        start = 0  # of a row that is for everybody
        for place, event in enumerate(events):
            kind = self._kind(event)
            if kind is bytes:
                continue
            _pass_on(pieces, b"".join(events[start:place]))
            start = place + 1
            if kind is EndEvent:
                pieces.append(EndEvent(b"".join([*events[place:], self._splitter.close()])))
                return
            pieces.append(kind(event))
        _pass_on(pieces, b"".join(events[start:]))

    def _kind(self, event: bytes) -> type[bytes]:
        """What an event is to the client: plain bytes, a UsageEvent, an EndEvent. Never raises."""
        if isinstance(event, sse.Part):
            self._parts = True
            return bytes
        data = sse.payload(event)
        if data is None:
            return bytes
        if data.lstrip().startswith(b"[DONE]"):  # by prefix, as openai-python's _streaming.py
            self._done = True
            return EndEvent
        self._events += 1
        self._count_later(data)
        findings = self._findings
        if b"error" in event and sse.name(event) == b"error":
            findings.error = True
        if findings.content and not matters(data):
            return bytes
        return UsageEvent if self._read_object(data) else bytes

    def _count_later(self, data: bytes) -> None:
        self._uncounted.append(data)
        self._waiting += len(data)

    def _read_object(self, data: bytes) -> bool:
        """True: it has usage and nothing for the client. Never raises."""
        try:
            said = read_object(data)
            self._findings.read(said)
        except Exception:
            self._errors += 1
            return False
        return said.choices == [] and isinstance(said.usage, dict)


def _pass_on(pieces: list[Piece], data: bytes) -> None:
    """With what goes before it, where that is for everybody too."""
    if not data:
        return
    if pieces and type(pieces[-1]) is bytes:
        pieces[-1] += data
    else:
        pieces.append(data)


class JSONObserver:
    """Watches a JSON answer: its bytes pass as they come, a copy (to `cap`) is read at the end."""

    form = Form.JSON
    torn = False
    _closed = False
    _json = True
    _size = _errors = _said = 0

    def __init__(self, cap: int = JSON_CAP) -> None:
        self._cap = cap
        self._copy: list[bytes] = []
        self._findings = Findings()

    @property
    def saw_content(self) -> bool:
        return self._size > 0

    def feed(self, data: bytes) -> list[Piece]:
        self._size += len(data)
        if self._size <= self._cap:
            self._copy.append(data)
        else:
            self._copy.clear()
        return [data] if data else []

    def close(self) -> list[Piece]:
        self._closed = True
        if self._size <= self._cap:
            copy, self._copy = self._copy, []
            body = copy[0] if len(copy) == 1 else b"".join(copy)
            try:
                said = read_object(body)
                said.response = None  # of an event alone
                self._findings.read(said)
            except ValueError:
                self._json = False
            except Exception:
                self._json = False
                self._errors += 1
            if self._findings.usage is None:
                self._said = content_bytes(body)
        return []

    def cut(self) -> None:
        self._copy.clear()

    def summary(self) -> Summary:
        """Complete: it parses, and each choice has its finish reason. An answer that was too large
        to be read is taken for whole at its clean end."""
        findings = self._findings
        complete = self._closed and self._json and None not in findings.reasons.values()
        missing = NO_USAGE if complete else TRUNCATED
        if self._size > self._cap:
            missing = TOO_LARGE
        elif not self._json:
            missing = NOT_JSON
        return findings.summary(complete, missing, 0, self._errors, self._said)


class BlindObserver:
    """Watches nothing: bytes pass, and their clean end is all that is known."""

    __slots__ = ("_closed", "saw_content")

    form = Form.OTHER
    torn = False

    def __init__(self) -> None:
        self.saw_content = self._closed = False

    def feed(self, data: bytes) -> list[Piece]:
        self.saw_content = self.saw_content or bool(data)
        return [data] if data else []

    def close(self) -> list[Piece]:
        self._closed = True
        return []

    def cut(self) -> None:
        """Nothing is pending, ever."""

    def summary(self) -> Summary:
        return Summary(complete=self._closed, missing=UNOBSERVED)
