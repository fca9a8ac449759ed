"""From a stream's chunks to the completion they make up, and from a completion to chunks.

Rule: exact or not at all (design.md, "Across forms"). What openai-python accumulates from a stream
(lib/streaming/_deltas.py) is what `assemble` builds; `assemble(disassemble(x))` is x. Whatever is
not surely so gives None, and the caller asks the upstream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.wire import sse

_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
_DONE = b"data: [DONE]\n\n"

Object = dict[str, Any]


class _Inexact(Exception):
    """It cannot be shown that the other form would be the same."""


class _Text(list[str]):
    """A string in the making."""


class _Calls(dict[int, Object]):
    """Tool calls in the making, by index."""


def assemble(stream: bytes) -> bytes | None:
    """The completion (JSON) that a whole recorded stream makes up; None where that is not exact."""
    try:
        return msgspec.json.encode(_assemble(_chunks(stream)))
    except (_Inexact, ValueError, RecursionError):  # ValueError: not JSON
        return None


def disassemble(completion: bytes, include_usage: bool) -> list[bytes] | None:
    """The events of a stream that makes up `completion`, its end last; None where not exact."""
    try:
        found = msgspec.json.decode(completion)
        chunks = _disassemble(found)
        if not _same(_assemble(iter(chunks)), found):
            return None
    except (_Inexact, ValueError, RecursionError):
        return None
    if not include_usage:
        chunks = [{n: v for n, v in chunk.items() if n != "usage"} for chunk in chunks[:-1]]
    return [*(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks), _DONE]


# Chunks to a completion ---------------------------------------------------------------------------


def _chunks(stream: bytes) -> Iterator[Object]:
    splitter = sse.Splitter(hold=len(stream))
    for event in [*splitter.feed(stream), splitter.close()]:
        data = sse.payload(event)
        if data is not None:
            if data.startswith(b"[DONE]"):
                return
            yield msgspec.json.decode(data, type=Object)
    raise _Inexact


def _assemble(chunks: Iterator[Object]) -> Object:
    built: Object = {}
    choices: list[Object] = []
    chunk: Object = {}
    for chunk in chunks:
        if chunk.get("object") != "chat.completion.chunk" or chunk.get("error"):
            raise _Inexact
        for name, value in chunk.items():
            if name == "object":
                built[name] = "chat.completion"
            elif name == "choices":
                built[name] = choices
                _add_choices(choices, value)
            elif name == "usage":
                built[name] = value or built.get(name)  # the last one counts
            elif name == "created":
                built.setdefault(name, value)  # the first one's, as id
            elif name != "obfuscation":
                _agree(built, name, value)
    usage = built.get("usage")
    fingerprint = built.get("system_fingerprint")
    # Of these two openai-python has what the last chunk says, whatever was said before.
    if not isinstance(usage, dict) or not _same(chunk.get("usage"), usage):
        raise _Inexact
    if chunk.get("system_fingerprint") != fingerprint:
        raise _Inexact
    if not choices or not all(isinstance(c.get("finish_reason"), str) for c in choices):
        raise _Inexact
    finished: Object = _finish(built)
    return finished


def _add_choices(choices: list[Object], found: object) -> None:
    for part in _list(found):
        place = _object(part).get("index")
        if type(place) is not int or not 0 <= place <= len(choices):
            raise _Inexact
        if place == len(choices):
            choices.append({})
        choice = choices[place]
        for name, value in part.items():
            if name == "delta":
                _add_delta(choice.setdefault("message", {}), _object(value))
            elif name == "logprobs":
                _add_logprobs(choice, value)
            else:
                _agree(choice, name, value)


def _add_delta(message: Object, delta: Object) -> None:
    for name, value in delta.items():
        if name in _TEXTS:
            _append(message, name, value)
        elif value is None:
            message.setdefault(name, None)
        elif name == "tool_calls":
            _add_calls(message, _list(value))
        elif name == "function_call":
            _add_function(message, name, value)
        else:
            _once(message, name, value)


def _add_calls(message: Object, parts: list[Any]) -> None:
    if message.get("tool_calls") is None:
        message["tool_calls"] = _Calls()
    calls = message["tool_calls"]
    for part in parts:
        place = _object(part).get("index")
        if type(place) is not int or not 0 <= place <= len(calls):
            raise _Inexact
        call = calls.setdefault(place, {})
        for name, value in part.items():
            if name == "function" and value is not None:
                _add_function(call, name, value)
            elif name == "type":
                _agree(call, name, value)
            elif name != "index":
                _once(call, name, value)


def _add_function(owner: Object, place: str, part: object) -> None:
    if owner.get(place) is None:
        owner[place] = {}
    for name, value in _object(part).items():
        if name == "arguments":
            _append(owner[place], name, value)
        else:
            _once(owner[place], name, value)


def _add_logprobs(choice: Object, found: object) -> None:
    """Lists of tokens, joined."""
    if found is None:
        choice.setdefault("logprobs", None)
        return
    if choice.get("logprobs") is None:
        choice["logprobs"] = {}
    for name, tokens in _object(found).items():
        if name not in ("content", "refusal"):
            raise _Inexact
        joined = choice["logprobs"]
        if joined.get(name) is None:
            joined[name] = None if tokens is None else []
        if tokens is not None:
            joined[name].extend(_list(tokens))


# What several chunks say of one member; null says nothing, and stays where nothing else is said.


def _append(owner: Object, name: str, value: object) -> None:
    """A string in parts."""
    if value is None:
        owner.setdefault(name, None)
        return
    if not isinstance(value, str):
        raise _Inexact
    if owner.get(name) is None:
        owner[name] = _Text()
    owner[name].append(value)


def _once(owner: Object, name: str, value: object) -> None:
    """A string or an empty list, said once: openai-python would join what is said again."""
    if value is None:
        owner.setdefault(name, None)
    elif not owner.get(name) and (isinstance(value, str) or value == []):
        owner[name] = value
    elif value != "":
        raise _Inexact


def _agree(owner: Object, name: str, value: object) -> None:
    """Anything, the same wherever it is said."""
    if value is None or owner.get(name) is None:
        owner[name] = owner.get(name) if value is None else value
    elif not _same(owner[name], value):
        raise _Inexact


def _same(one: object, other: object) -> bool:
    """Equal as JSON: 1, 1.0 and true differ."""
    return _sorted(one) == _sorted(other)


_sorted = msgspec.json.Encoder(order="deterministic").encode


def _finish(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Calls):
        return [_finish(call) for call in value.values()]
    if isinstance(value, dict):
        return {name: _finish(item) for name, item in value.items()}
    return [_finish(item) for item in value] if isinstance(value, list) else value


def _object(found: object) -> Object:
    if not isinstance(found, dict):
        raise _Inexact
    return found


def _list(found: object) -> list[Any]:
    if not isinstance(found, list):
        raise _Inexact
    return found


# A completion to chunks ---------------------------------------------------------------------------


def _disassemble(found: object) -> list[Object]:
    """Two chunks for each choice, its message and its end, and one with the usage."""
    completion = _object(found)
    if completion.get("object") != "chat.completion":
        raise _Inexact
    common = completion | {"object": "chat.completion.chunk", "usage": None}
    bodies: list[Object] = []
    for choice in _list(completion.get("choices")):
        first = {n: v for n, v in _object(choice).items() if n not in ("message", "finish_reason")}
        first |= {"delta": _delta(_object(choice.get("message"))), "finish_reason": None}
        last = {
            "index": first.get("index"),
            "delta": {},
            "finish_reason": choice.get("finish_reason"),
        }
        if bodies and "logprobs" in first:
            # With the first delta of a later choice openai-python would take them twice.
            last["logprobs"] = first.pop("logprobs")
        bodies += (first, last)
    chunks = [common | {"choices": [body]} for body in bodies]
    return [*chunks, common | {"choices": [], "usage": completion.get("usage")}]


def _delta(message: Object) -> Object:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [{"index": i} | _object(c) for i, c in enumerate(calls)]}
