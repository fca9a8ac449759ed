"""Reading a body as one JSON object that every reader reads alike.

Rule: two readers never disagree about a body: where they could (a name twice, NaN), it is refused
or marked. A fast reader goes first; what it cannot vouch for, a careful one reads from the start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any, NoReturn

import msgspec

from gateway.errors import InvalidJSON, InvalidRequest

Pairs = list[tuple[str, Any]]


class Document(msgspec.Struct, frozen=True, gc=False):
    """What was read from `body`; `reason` says in a word why not every reader reads the same.
    `ordered`: it written anew with the names of each object in code point order, where that has
    been done."""

    body: bytes
    found: dict[str, Any]
    reason: str | None
    ordered: bytes | None = None

    def __repr__(self) -> str:
        """A prompt is nobody's to see."""
        return f"Document(reason={self.reason!r})"


def read_document(body: bytes, decisive: Collection[str] = ()) -> Document:
    """The object in `body`. InvalidJSON; InvalidRequest where it is none, a top-level name is there
    twice, or differs from one of the `decisive` names only by case."""
    read = _at_once(body)
    if read is not None:
        found, ordered = read
        names = "".join(found)
        if not (names.isascii() and names.islower()):
            _refuse_twins(found, decisive)
        return Document(body, found, None, ordered)
    text, mark = _text(body)
    found, odd = _carefully(text, decisive)
    _refuse_twins(found, decisive)
    return Document(body, found, mark or odd)


# At once -----------------------------------------------------------------------------------------

_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder(order="deterministic").encode
_write_whole_numbers = msgspec.msgpack.Encoder().encode


def _at_once(body: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The object, where every reader reads the same, and it written anew; None where this one
    cannot tell.

    It is as strict as they come, but for two things. Of a name that is there twice it keeps the
    last: then fewer colons are written than were read, unless a colon was read as an escape. And
    it reads integers of any size, where msgpack ends at 64 bits.
    """
    try:
        found = _read(body)
        if type(found) is not dict:
            return None
        _write_whole_numbers(found)
        written = _write(found)
    except (ValueError, OverflowError, RecursionError):  # msgspec's own are ValueErrors
        return None
    if (b"\\" in body and b"\\u003" in body) or written.count(b":") != body.count(b":"):
        return None
    return found, written


# With care ---------------------------------------------------------------------------------------


def _text(body: bytes) -> tuple[str, str | None]:
    """The body's text, and why it is not every reader's (RFC 8259 section 8.1 forbids sending a
    byte order mark and allows ignoring it)."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJSON(
            f"The body is not UTF-8 (byte {error.start}). Send one JSON object in UTF-8."
        ) from None
    if text.startswith("\ufeff"):
        return text[1:], "byte_order_mark"
    return text, "lone_surrogate" if _has_lone_surrogate(body) else None


def _has_lone_surrogate(body: bytes) -> bool:
    """An escape of half a character. Whole pairs are common (emoji): a strict reader tells."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return True  # or no JSON at all, which the next reader tells
    return False


class _Odd(Exception):
    """Readers may read this differently; `args[0]` is the reason in a word."""


def _carefully(text: str, decisive: Collection[str]) -> tuple[dict[str, Any], str | None]:
    """The object in `text`, and why it is odd, if it is: read strictly, then as Python reads it."""
    reason = None
    try:
        try:
            found = _STRICT.decode(text)
        except _Odd as odd:
            reason = str(odd)
            found = _read_leniently(text, decisive)
    except RecursionError:
        raise InvalidJSON("The body nests too deeply to be read.") from None
    except ValueError as error:
        raise InvalidJSON(_not_json(text, error)) from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {kind_of(found)}.")
    return found, reason


def _not_json(text: str, error: ValueError) -> str:
    if not text.strip():
        return "The body is empty. Send one JSON object."
    where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
    return f"The body is not valid JSON{where}. Send one JSON object."


def _strict_object(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Odd("duplicate_name")
    return found


def _strict_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        raise _Odd("large_integer")
    return number


def _strict_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Odd("not_finite")
    return number


def _strict_constant(_: str) -> NoReturn:
    raise _Odd("not_finite")


_STRICT = json.JSONDecoder(
    object_pairs_hook=_strict_object,
    parse_int=_strict_int,
    parse_float=_strict_float,
    parse_constant=_strict_constant,
)


def _lenient_int(digits: str) -> int:
    """Beyond any use its size is what matters; Python reads no more than 4,300 digits."""
    return int(digits) if len(digits) <= 20 else -(2**64) if digits[0] == "-" else 2**64


def _read_leniently(text: str, decisive: Collection[str]) -> object:
    """What Python reads; a top-level name twice is refused."""
    outermost: Pairs = []

    def keep(pairs: Pairs) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # the outermost object is read last
        return dict(pairs)

    found = json.JSONDecoder(object_pairs_hook=keep, parse_int=_lenient_int).decode(text)
    if isinstance(found, dict):
        seen: set[str] = set()
        for name, _ in outermost:
            if name in seen:
                raise InvalidRequest(
                    f"The name {_shown(name)} is there twice. Send each name once.",
                    param=name if name in decisive else None,
                )
            seen.add(name)
    return found


def _refuse_twins(found: dict[str, Any], decisive: Collection[str]) -> None:
    """A name that equals one read here but for case: some readers (Go's) take it for the same."""
    for name in found:
        folded = name.casefold()
        if folded != name and folded in decisive:
            raise InvalidRequest(
                f"The name {_shown(name)} differs from '{folded}' only by case. Write '{folded}'.",
                param=folded,
            )


# In words ----------------------------------------------------------------------------------------


def kind_of(found: object) -> str:
    """What a value is, never what it says: it may be anybody's secret."""
    if isinstance(found, bool):
        return "a boolean"
    if isinstance(found, int | float):
        return "this number"
    if isinstance(found, str):
        return "a string"
    if isinstance(found, list):
        return "an array"
    return "an object" if isinstance(found, dict) else "null"


def _shown(name: str) -> str:
    """A name for a message: printable, and short."""
    return ascii(name if len(name) <= 40 else name[:40] + "...")
