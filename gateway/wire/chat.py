"""What a chat request's body asks, and the two edits it may need on its way upstream.

Rule: read only what decides something here; `messages` and all else is the upstream's to judge.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

import msgspec

from gateway.errors import InvalidRequest
from gateway.wire.canonical import digest
from gateway.wire.demand import Demand
from gateway.wire.document import Document, kind_of, read_document
from gateway.wire.members import add_members, edit_members, members

# Members that decide something here; a name that is nearly theirs is theirs to some readers.
DECISIVE = (
    "model", "stream", "stream_options", "n",
    "max_tokens", "max_completion_tokens", "service_tier",
)  # fmt: skip


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """One chat request as it came. `body` is what is sent on.

    `asked_usage`: `stream_options.include_usage` is true. `has_stream_options`: the member is
    there, perhaps null. `max_tokens`, `max_completion_tokens`: None where absent or no integer.
    `canonical`: every reader reads the same from this body; `reason` says in a word why not.
    `digest`: of its canonical form, where it has one and it was asked for. `demand`: what it may
    take, once that was read from its body.
    """

    body: bytes
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
    demand: Demand | None = None

    def __repr__(self) -> str:
        """A prompt is nobody's to see."""
        return f"ChatRequest(model={self.model!r}, stream={self.stream!r})"


def read_chat(body: bytes, ignore: Collection[str] | None = None) -> ChatRequest:
    """The request in `body`. InvalidJSON, InvalidRequest (contract, "Errors").

    With `ignore`, the names left out of it, its digest is made too. Takes milliseconds for a
    megabyte: large bodies are read off the loop. Keeps nothing.
    """
    return request_of(read_document(body, DECISIVE), ignore)


def request_of(document: Document, ignore: Collection[str] | None = None) -> ChatRequest:
    """The request that a body says, read already. InvalidRequest."""
    found, reason, made = document.found, document.reason, None
    if reason is None and ignore is not None:
        try:
            made = digest(found, ignore, document.ordered)
        except RecursionError:
            reason = "depth"
    said, asked_usage = found.get, False
    options, stream, model, n = said("stream_options"), said("stream"), said("model"), said("n")
    largest, larger = said("max_tokens"), said("max_completion_tokens")
    if options is not None:
        if not isinstance(options, dict):
            _refuse("stream_options", "an object or null", options)
        asked_usage = options.get("include_usage") is True
    if stream is not None and type(stream) is not bool:
        _refuse("stream", "true, false or null", stream)
    return ChatRequest(
        document.body,
        model if type(model) is str and model and model.isascii() else _model(model),
        stream is True,
        asked_usage,
        "stream_options" in found,
        1 if n is None else _n(n),
        largest if type(largest) is int else None,
        larger if type(larger) is int else None,
        reason is None,
        reason,
        made,
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
    if type(found) is not int or found < 1:
        _refuse("n", "a whole number of at least 1", found)
    return found


def _refuse(name: str, right: str, found: object) -> NoReturn:
    raise InvalidRequest(f"'{name}' must be {right}, not {kind_of(found)}.", param=name)


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
