"""What a client has accumulated of a stream, as one object: for people who read it, not for replay.

Rule: unlike `assemble`, it never gives up half-way: a stream that broke off, has no usage or says
odd things gives what there was. Where `assemble` is exact, both are the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.wire import sse

# Strings that are said once, or again in the same words; all others come in parts.
_ONCE = frozenset({"id", "type", "role", "name", "object", "finish_reason"})
_KINDS = {"chat.completion.chunk": "chat.completion"}

Object = dict[str, Any]


class _Text(list[str]):
    """A string in the making."""


class _Places(dict[Any, Object]):
    """A list in the making, of objects with an `index`."""


def gather(stream: bytes) -> Object | None:
    """The completion that these events make up so far; the `response` of a stream that repeats it
    whole. None: it is another kind of stream, or none."""
    built: Object = {}
    choices = _Places()
    whole: Object | None = None
    splitter = sse.Splitter(hold=len(stream))
    for event in [*splitter.feed(stream), splitter.close()]:
        data = sse.payload(event)
        if data is None:
            continue
        try:
            chunk = msgspec.json.decode(data, type=Object)
        except (ValueError, RecursionError):  # [DONE], or where it broke off
            continue
        if isinstance(chunk.get("choices"), list):
            _add(built, choices, chunk)
        elif "error" in chunk:
            built["error"] = chunk["error"]
        elif isinstance(chunk.get("response"), dict):
            whole = chunk["response"]
    if choices:
        built["choices"] = choices
    return _finish(built) if built else whole


def _add(built: Object, choices: _Places, chunk: Object) -> None:
    for name, value in chunk.items():
        if name == "choices":
            built.setdefault(name, [])
            for part in value:
                if isinstance(part, dict):
                    _add_choice(choices.setdefault(_place(part), {}), part)
        elif name == "object":
            built[name] = _KINDS.get(value, value) if isinstance(value, str) else value
        elif name == "obfuscation":
            continue
        elif name == "usage":
            built[name] = value or built.get(name)  # the last one counts
        elif built.get(name) is None:
            built[name] = value


def _add_choice(choice: Object, part: Object) -> None:
    for name, value in part.items():
        if name == "delta" and isinstance(value, dict):
            _merge(choice.setdefault("message", {}), value)
        elif name == "index":
            choice[name] = value
        else:
            _merge(choice, {name: value})


def _merge(owner: Object, parts: Object) -> None:
    for name, value in parts.items():
        old = owner.get(name)
        if value is None:
            owner.setdefault(name, None)
        elif isinstance(value, str):
            if name in _ONCE:
                owner[name] = old or value
            elif isinstance(old, _Text):
                old.append(value)
            else:
                owner[name] = _Text([value])
        elif isinstance(value, dict):
            if not isinstance(old, dict):
                old = owner[name] = {}
            _merge(old, value)
        elif isinstance(value, list):
            _merge_list(owner, name, value)
        else:
            owner[name] = value


def _merge_list(owner: Object, name: str, parts: list[Any]) -> None:
    old = owner.get(name)
    if parts and all(isinstance(part, dict) and "index" in part for part in parts):
        if not isinstance(old, _Places):
            old = owner[name] = _Places()
        for part in parts:
            rest = {n: v for n, v in part.items() if n != "index"}
            _merge(old.setdefault(_place(part), {}), rest)
    elif isinstance(old, list):
        old.extend(parts)
    else:
        owner[name] = list(parts)


def _place(part: Object) -> object:
    place = part.get("index")
    return place if isinstance(place, int | str) else None


def _finish(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Places):
        return [_finish(item) for item in value.values()]
    if isinstance(value, dict):
        return {name: _finish(item) for name, item in value.items()}
    return [_finish(item) for item in value] if isinstance(value, list) else value
