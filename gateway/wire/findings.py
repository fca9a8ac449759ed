"""What the JSON objects of one answer say for our books: usage, finish reasons, model, errors.

Rules: no member need be there or be of any type (A4); the last word counts, nothing is summed (A9).
One typed read takes the members that are looked at, and skips what the model said; what is of
another type than documented, or JSON to Python's reader alone, is read with care.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.exchange import Summary, Usage
from gateway.wire.usage import read_usage

# Why an answer has no usage (`Summary.missing`, a metric label): all there are.
NO_USAGE = "no_usage"  # whole, and without any
MALFORMED = "malformed"  # there was one, of no use
TOO_LARGE = "too_large"  # larger than we keep, not looked at
NOT_JSON = "not_json"  # said to be JSON and is not
TRUNCATED = "truncated"  # broke off, or ended without its end
UNOBSERVED = "unobserved"  # of a type nobody reads here
MISSING = frozenset({NO_USAGE, MALFORMED, TOO_LARGE, NOT_JSON, TRUNCATED, UNOBSERVED})

_MOST_CHOICES = 1024  # finish reasons remembered of one answer
_LONGEST = 256  # characters of a model's name or a finish reason


class Choice(msgspec.Struct):
    """One of an answer's `choices`, or of an event's. `index` None: its place says it."""

    index: int | None = None
    finish_reason: str | None = None
    delta: dict[str, Any] | None = None
    text: Any = None
    usage: Any = None


class Said(msgspec.Struct):
    """What is looked at of one event, or of a whole answer."""

    choices: list[Choice] | None = None
    usage: Any = None
    model: str | None = None
    service_tier: str | None = None
    error: Any = None
    delta: Any = None  # response.output_text.delta
    response: Any = None  # the Responses API
    x_groq: Any = None  # Groq (vercel/ai issue 1651)


_read = msgspec.json.Decoder(Said).decode


def read_object(data: bytes) -> Said:
    """What one object says; any other value says nothing. ValueError, RecursionError: not JSON."""
    try:
        return _read(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = json.loads(data)  # NaN and lone surrogates too
        return _carefully(found) if isinstance(found, dict) else Said()


def _carefully(found: dict[str, Any]) -> Said:
    """The members that are of the right type."""
    choices = found.get("choices")
    return Said(
        [_choice(place, one) for place, one in enumerate(choices[:_MOST_CHOICES])
         if isinstance(one, dict)] if isinstance(choices, list) else None,
        found.get("usage"),
        _str(found.get("model")),
        _str(found.get("service_tier")),
        found.get("error"),
        found.get("delta"),
        found.get("response"),
        found.get("x_groq"),
    )  # fmt: skip


def _choice(place: int, found: dict[str, Any]) -> Choice:
    index, delta = found.get("index"), found.get("delta")
    return Choice(
        index if type(index) is int else place,
        _str(found.get("finish_reason")),
        delta if isinstance(delta, dict) else None,
        found.get("text"),
        found.get("usage"),
    )


def _str(found: object) -> str | None:
    return found if isinstance(found, str) else None


class Findings:
    """What the objects of one answer have said; the last word counts, nothing is summed (A9)."""

    usage: Usage | None = None
    model: str | None = None
    tier: str | None = None
    error = content = malformed = False

    def __init__(self) -> None:
        self.reasons: dict[int, str | None] = {}

    def read(self, said: Said) -> None:
        """One event, or the whole answer."""
        if said.choices is not None:
            for place, choice in enumerate(said.choices):
                self._choice(place, choice)
        elif isinstance(said.delta, str) and said.delta:
            self.content = True
        if said.response is not None:
            self._inner(said.response)
        if said.x_groq is not None:
            self._inner(said.x_groq)
        self._head(said)

    def _inner(self, found: object) -> None:
        if isinstance(found, dict):
            self._head(_carefully(found | {"choices": None}))

    def _head(self, said: Said) -> None:
        if said.error:
            self.error = True
        model, tier = said.model, said.service_tier
        if model is not None and self.model is None:
            self.model = model if model in _words else _text(model)
        if tier is not None:
            self.tier = tier if tier in _words else _text(tier) or self.tier
        if said.usage is not None:
            self._take(said.usage)

    def _choice(self, place: int, choice: Choice) -> None:
        index, why, reasons = choice.index, choice.finish_reason, self.reasons
        if index is None:
            index = place
        if why is not None and why not in _words:
            why = _text(why)
        if index in reasons:
            reasons[index] = why or reasons[index]
        elif len(reasons) < _MOST_CHOICES:
            reasons[index] = why
        if not self.content:
            delta = choice.delta
            self.content = bool(choice.text) or (
                delta is not None and any(delta[key] for key in delta if key != "role")
            )
        if choice.usage is not None:
            self._take(choice.usage)  # Moonshot's place (earendil-works/pi issue 2017)

    def _take(self, found: object) -> None:
        usage = read_usage(found)
        if usage is None:
            self.malformed = True
        else:
            self.usage = usage

    def finished(self) -> int:
        """How many choices have their finish reason; 0 while one that was seen has none."""
        return 0 if None in self.reasons.values() else len(self.reasons)

    def summary(self, complete: bool, missing: str, events: int, errors: int, said: int) -> Summary:
        """`missing` is the reason where there is no usage and no better one is known."""
        reasons = self.reasons
        if len(reasons) > 1:
            reasons = dict(sorted(reasons.items()))
        better = MALFORMED if self.malformed else missing
        return Summary(
            self.usage,
            tuple(filter(None, reasons.values())),
            self.model,
            self.tier,
            complete,
            self.error,
            events,
            None if self.usage else better,
            errors,
            said,
        )


# Names of models, reasons, tiers that were judged good before. Bounded, for upstreams choose them.
_words: set[str] = set()


def _text(said: str) -> str | None:
    """A word for a log and a label: short, and of characters that can be written."""
    if not 0 < len(said) <= _LONGEST or not said.isprintable():
        return None
    if len(_words) < 1024:
        _words.add(said)
    return said
