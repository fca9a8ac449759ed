"""What of a text is not kept, and which words of it can be searched. Pure.

Rule: keys that the gateway knows of are always taken out; what the configuration names comes on
top. Nothing here logs or raises with a text in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import jiter

from gateway.config import Redact
from gateway.exchange import HeaderList

REDACTED = "[redacted]"
DEPTH = 4  # of JSON in strings of JSON: a tool's arguments, its result
SECRET = 16  # characters from which a text is a secret, and not a word

# Of a header's name. What a client calls its credentials is not known: rather too many.
_CREDENTIAL = re.compile(r"auth|key|token|secret|cookie|passw|credential|session|signature")
_HARMLESS = frozenset({"idempotency-key"})
_HARMLESS_PREFIXES = ("x-gateway-", "x-ratelimit-", "x-upstream-ratelimit-")  # tokens to count
_ESCAPES = r"\\{0,16}"  # before a quote, in JSON in strings of JSON; bounded, so that it is linear
_LONG = re.compile(r"[A-Za-z0-9+/=_-]{200,}")  # base64: nobody looks for it
_UNSPACED = re.compile(  # scripts without spaces between words: each character is one
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)

Blot = Callable[[str], str]


def kept_headers(headers: HeaderList, scrub: Blot) -> list[list[str]]:
    """All of them, in their order; those that may be a credential without their value (G7)."""
    return [[name, REDACTED if _is_credential(name) else scrub(value)] for name, value in headers]


def _is_credential(name: str) -> bool:
    name = name.lower()
    if name in _HARMLESS or name.startswith(_HARMLESS_PREFIXES):
        return False
    return _CREDENTIAL.search(name) is not None


class Redactor:
    """A configuration's `redact`, compiled. `secrets` are texts that are never kept, `blot` takes
    out issued keys."""

    def __init__(self, section: Redact, secrets: Sequence[str], blot: Blot) -> None:
        self.names = frozenset(name.casefold() for name in section.members)
        self._patterns = [re.compile(pattern) for pattern in section.patterns]
        self._secrets = tuple(one for one in secrets if len(one) >= SECRET)
        self._blot = blot
        self._member = _member_pattern(section.members)

    def scrub(self, text: str, own: Sequence[str] = ()) -> str:
        """A text without secrets and what patterns match; `own` are the caller's."""
        for secret in (*self._secrets, *own):
            if len(secret) >= SECRET and secret in text:
                text = text.replace(secret, REDACTED)
        text = self._blot(text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def plain(self, text: str, own: Sequence[str] = ()) -> str:
        """A text that is no JSON, or broken: members as they look in it, then as `scrub`."""
        return self.scrub(self.without_members(text), own)

    def without_members(self, text: str) -> str:
        """A text in which there may be JSON, without what looks like a member that is not kept."""
        if self._member is None or '"' not in text:
            return text
        return self._member.sub(rf'\1"{REDACTED}"', text)


class Pass:
    """One body's way through a redactor: `changed` says whether anything was taken out, `words`
    are its texts."""

    def __init__(self, redactor: Redactor, own: Sequence[str]) -> None:
        self.changed = False
        self.words: list[str] = []
        self._redactor, self._own = redactor, own

    def value(self, found: Any, depth: int = 0) -> Any:
        """A value of JSON without what is not kept."""
        if isinstance(found, str):
            return self._text(found, depth)
        if isinstance(found, list):
            return [self.value(item, depth) for item in found]
        if isinstance(found, dict):
            return {
                self._name(name): self._member(name, item, depth) for name, item in found.items()
            }
        return found

    def _name(self, name: str) -> str:
        kept = self._redactor.scrub(name, self._own)
        self.changed |= kept != name
        return kept

    def _member(self, name: str, value: Any, depth: int) -> Any:
        if value is None or name.casefold() not in self._redactor.names:
            return self.value(value, depth)
        self.changed = True
        return REDACTED

    def _text(self, text: str, depth: int) -> str:
        if depth < DEPTH and text[:1] in ("{", "[") and self._redactor.names:
            kept = self._inner(text, depth)
        else:
            kept = self._redactor.without_members(text)
        kept = self._redactor.scrub(kept, self._own)
        self.changed |= kept != text
        self.words.append(kept)
        return kept

    def _inner(self, text: str, depth: int) -> str:
        """JSON in a string; what was cut in the middle of it is read as far as it goes."""
        before, self.changed = self.changed, False
        words = len(self.words)
        try:
            inner = self.value(read(text.encode("utf-8", "replace"), cut=True), depth + 1)
        except ValueError:
            self.changed = before
            return self._redactor.plain(text, self._own)
        kept = write(inner) if self.changed else text
        self.changed |= before
        del self.words[words:]
        return kept


def read(data: bytes, *, cut: bool) -> Any:
    """JSON as Python's values; what was cut short as far as it goes. ValueError: it is none."""
    return jiter.from_json(data, partial_mode="trailing-strings" if cut else False)


def write(value: Any) -> str:
    """Compact JSON, in the letters that it has."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def searchable(text: str) -> str:
    """What the index of words gets of a text."""
    return _UNSPACED.sub(r" \g<0> ", _LONG.sub(" ", text))


def _member_pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """`"name": value` also with backslashes before its quotes, as in a string of JSON."""
    if not names:
        return None
    either = "|".join(map(re.escape, names))
    value = rf'{_ESCAPES}"(?:[^"\\]|\\.)*"?|[^\s,}}\]"\\]+'
    return re.compile(rf'({_ESCAPES}"(?:{either}){_ESCAPES}"\s*:\s*)(?:{value})', re.IGNORECASE)
