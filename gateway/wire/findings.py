"""What the JSON objects of one answer say for our books: usage, finish reasons, model, errors.

Rule: no member need be there or be of any type (A4); the last word counts, nothing is summed (A9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


class Findings:
    """What the objects of one answer have said; the last word counts, nothing is summed (A9)."""

    __slots__ = ("content", "error", "malformed", "model", "reasons", "tier", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.reasons: dict[int, str | None] = {}
        self.model: str | None = None
        self.tier: str | None = None
        self.error = self.content = self.malformed = False

    def read(self, found: Mapping[str, Any]) -> None:
        """One event, or the whole answer. No member need be there, or be of any type (A4)."""
        choices = found.get("choices")
        if isinstance(choices, list):
            for place, choice in enumerate(choices[:_MOST_CHOICES]):
                if isinstance(choice, Mapping):
                    self._choice(place, choice)
        elif isinstance(found.get("delta"), str) and found["delta"]:  # response.output_text.delta
            self.content = True
        for inner in (found.get("response"), found.get("x_groq")):
            if isinstance(inner, Mapping):  # the Responses API; Groq (vercel/ai issue 1651)
                self._head(inner)
        self._head(found)

    def _head(self, found: Mapping[str, Any]) -> None:
        self.error = self.error or bool(found.get("error"))
        self.model = self.model or _text(found.get("model"))
        self.tier = _text(found.get("service_tier")) or self.tier
        self._take(found.get("usage"))

    def _choice(self, place: int, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        index = index if type(index) is int else place
        if index in self.reasons or len(self.reasons) < _MOST_CHOICES:
            self.reasons[index] = _text(choice.get("finish_reason")) or self.reasons.get(index)
        delta = choice.get("delta")
        if isinstance(delta, Mapping):
            self.content = self.content or any(delta[key] for key in delta if key != "role")
        self.content = self.content or bool(choice.get("text"))
        self._take(choice.get("usage"))  # Moonshot's place (earendil-works/pi issue 2017)

    def _take(self, found: object) -> None:
        if found is not None:
            usage = read_usage(found)
            self.usage = usage or self.usage
            self.malformed = self.malformed or usage is None

    def finished(self) -> int:
        """How many choices have their finish reason; 0 while one that was seen has none."""
        return len(self.reasons) if all(self.reasons.values()) else 0

    def summary(self, complete: bool, missing: str, events: int, errors: int, said: int) -> Summary:
        """`missing` is the reason where there is no usage and no better one is known."""
        better = MALFORMED if self.malformed else missing
        return Summary(
            usage=self.usage,
            finish_reasons=tuple(why for _, why in sorted(self.reasons.items()) if why),
            model=self.model,
            service_tier=self.tier,
            complete=complete,
            error=self.error,
            events=events,
            missing=None if self.usage else better,
            observer_errors=errors,
            content_bytes=said,
        )


def _text(found: object) -> str | None:
    """A word for a log and a label: short, and of characters that can be written."""
    if isinstance(found, str) and 0 < len(found) <= _LONGEST and found.isprintable():
        return found
    return None
