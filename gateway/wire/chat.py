"""Reading a chat request's body, and the two edits it may need on its way upstream.

Rule: read only what decides something here; `messages` and all else is the upstream's to judge. Two
readers never disagree about a body: where they could (a name twice, NaN), it is refused or marked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from gateway.errors import InvalidJSON, InvalidRequest
from gateway.wire.canonical import digest
from gateway.wire.members import add_members, edit_members, members

# Members that decide something here; a name that is nearly theirs is theirs to some readers.
_READ = (
    "model", "stream", "stream_options", "n",
    "max_tokens", "max_completion_tokens", "service_tier",
)  # fmt: skip

Pairs = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat request as it came. `body` is what is sent on.

    `asked_usage`: `stream_options.include_usage` is true. `has_stream_options`: the member is
    there, perhaps null. `max_tokens`, `max_completion_tokens`: None where absent or no integer.
    `canonical`: every reader reads the same from this body; `reason` says in a word why not.
    `digest`: of its canonical form, where it has one and it was asked for.
    """

    body: bytes = field(repr=False)
    model: str
    stream: bool
    asked_usage: bool
    has_stream_options: bool
    n: int
    max_tokens: int | None
    max_completion_tokens: int | None
    canonical: bool
    reason: str | None = None
    digest: bytes | None = None


def read_chat(body: bytes, ignore: Collection[str] | None = None) -> ChatRequest:
    """The request in `body`. InvalidJSON, InvalidRequest (contract, "Errors").

    With `ignore`, the names left out of it, its digest is made too. Takes milliseconds for a
    megabyte: large bodies are read off the loop. Keeps nothing.
    """
    text, reason = _text(body)
    found, odd = _document(text)
    reason = reason or odd
    made = None
    if reason is None and ignore is not None:
        try:
            made = digest(found, ignore)
        except RecursionError:
            reason = "depth"
    return _request(body, found, reason, made)


def _request(
    body: bytes, found: dict[str, Any], reason: str | None, made: bytes | None
) -> ChatRequest:
    options = found.get("stream_options")
    if options is None:
        options = {}
    elif not isinstance(options, dict):
        _refuse("stream_options", "an object or null", options)
    stream = found.get("stream")
    if not isinstance(stream, bool | None):
        _refuse("stream", "true, false or null", stream)
    return ChatRequest(
        body=body,
        model=_model(found.get("model")),
        stream=bool(stream),
        asked_usage=options.get("include_usage") is True,
        has_stream_options="stream_options" in found,
        n=_n(found.get("n")),
        max_tokens=_whole(found.get("max_tokens")),
        max_completion_tokens=_whole(found.get("max_completion_tokens")),
        canonical=reason is None,
        reason=reason,
        digest=made,
    )


# Two readings of one text ------------------------------------------------------------------------


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


def _document(text: str) -> tuple[dict[str, Any], str | None]:
    """The object in `text`, and why it is odd, if it is: read strictly, then as Python reads it."""
    reason = None
    try:
        try:
            found = _STRICT.decode(text)
        except _Odd as odd:
            reason = str(odd)
            found = _read_leniently(text)
    except RecursionError:
        raise InvalidJSON("The body nests too deeply to be read.") from None
    except ValueError as error:
        raise InvalidJSON(_not_json(text, error)) from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {_kind(found)}.")
    _refuse_twins(found)
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


def _read_leniently(text: str) -> object:
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
                    param=name if name in _READ else None,
                )
            seen.add(name)
    return found


def _refuse_twins(found: dict[str, Any]) -> None:
    """A name that equals one read here but for case: some readers (Go's) take it for the same."""
    for name in found:
        folded = name.casefold()
        if folded != name and folded in _READ:
            raise InvalidRequest(
                f"The name {_shown(name)} differs from '{folded}' only by case. Write '{folded}'.",
                param=folded,
            )


# One member at a time ----------------------------------------------------------------------------


def _model(found: object) -> str:
    if found is None or found == "":
        raise InvalidRequest("you must provide a model parameter", param="model")
    if not isinstance(found, str):
        _refuse("model", "a string", found)
    try:
        found.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("'model' must be valid Unicode text.", param="model") from None
    return found


def _n(found: object) -> int:
    if found is None:
        return 1
    if type(found) is not int or found < 1:
        _refuse("n", "a whole number of at least 1", found)
    return found


def _whole(found: object) -> int | None:
    return found if type(found) is int else None


def _refuse(name: str, right: str, found: object) -> NoReturn:
    raise InvalidRequest(f"'{name}' must be {right}, not {_kind(found)}.", param=name)


def _kind(found: object) -> str:
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


# Edits (design.md, "Edits to what passes through") -----------------------------------------------


def with_usage(body: bytes, request: ChatRequest) -> bytes:
    """`body` (of `request`, perhaps edited before) asking for usage on its stream (A1).

    Other members of `stream_options` stay as they are.
    """
    asked = b'{"include_usage":true}'
    if not request.has_stream_options:
        return add_members(body, {"stream_options": asked})
    for name, start, end in members(body):
        if name == "stream_options" and body[start:end] != b"null":
            asked = edit_members(body[start:end], {"include_usage": b"true"})
    return edit_members(body, {"stream_options": asked})


def with_model(body: bytes, name: str) -> bytes:
    """`body` with another model in it."""
    return edit_members(body, {"model": msgspec.json.encode(name)})


def read_model(body: bytes) -> str | None:
    """The top-level model of another endpoint's JSON body, if it is one string; never raises.

    None also where two readers could read two models: a name twice, or another one but for case.
    """
    try:
        found = [
            (name, body[start:end])
            for name, start, end in members(body)
            if name.casefold() == "model"
        ]
        if len(found) != 1 or found[0][0] != "model":
            return None
        model = msgspec.json.decode(found[0][1])
    except ValueError:  # msgspec's errors are
        return None
    return model if isinstance(model, str) and model else None
