"""What a request may take at most, read from its body; and a lower cap put into it.

Rule: a byte-level tokenizer makes no more tokens than there are bytes, so a bound is UTF-8 bytes of
all text, 64, and 16 for each message: what stands around it in the model's template. What is no
text, or is read by a template not known here, has no such bound; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.wire.members import edit_members, members

AROUND = 64  # tokens around a prompt
AROUND_MESSAGE = 16
LONGEST_NUMBER = 18  # digits of a number that stands as text

_CAPS = dict.fromkeys(("max_completion_tokens", "max_tokens")).keys()  # in order
_CAPS_OF = {
    "chat/completions": _CAPS,
    "completions": _CAPS,
    "responses": dict.fromkeys(("max_output_tokens",)).keys(),
}
# The one cap that this path knows; None: what the upstream is configured to know.
_FIELD_OF = {"completions": "max_tokens", "responses": "max_output_tokens"}

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_TOOLS = frozenset({"function", "custom"})  # others search, run, call again: at the model's leisure
# Members that no model reads. Any other one is counted as the text of its JSON.
_UNREAD = frozenset(
    {
        *("model", "stream", "stream_options", "n", "best_of", *_CAPS, "temperature", "top_p"),
        *("top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "seed"),
        *("stop", "logprobs", "top_logprobs", "logit_bias", "user", "metadata", "store", "echo"),
        *("service_tier", "parallel_tool_calls", "modalities", "audio", "reasoning_effort"),
        *("verbosity", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("dimensions", "encoding_format", "prediction"),
    }
)
# Members that bring more to a prompt than they say.
_UNBOUNDED = frozenset({"web_search_options", "plugins", "chat_template", "prompt_embeds"})


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request may take, in tokens.

    `prompt`: at most; None: its text does not bound it. `text_bytes`: UTF-8 bytes of its text.
    `output`: the largest cap that it sets, for each of its `n` answers; None: it sets none.
    `extra_output`: a prediction's, whose rejected tokens are billed as output. `metered`: what it
    took can be read of its answer. `capped`: the caps that are there and not null, in the names of
    their members; `field`: the one to add where there is none; None: the upstream's.
    """

    prompt: int | None
    text_bytes: int
    output: int | None
    n: int
    extra_output: int
    metered: bool
    capped: tuple[str, ...]
    field: str | None = None


def demand_of(body: bytes, path: str, *, alone: bool = False) -> Demand:
    """What the request in `body` to `path` (after `/v1/`) may take. Never raises: what cannot be
    read is not metered. Some microseconds for a kilobyte; large bodies are read off the loop.
    `alone`: it is known that no name stands twice."""
    reader = _READERS.get(path)
    if reader is not None:
        try:
            found = _decode(body)
            if isinstance(found, dict):
                return _demand(found, path, reader, twice=not alone and _has_twins(body, found))
        except (ValueError, RecursionError):
            pass
    return Demand(None, len(body), None, 1, 0, metered=False, capped=())


def with_cap(body: bytes, cap: int, demand: Demand, field: str) -> bytes:
    """`body` (of `demand`) with no answer longer than `cap` tokens: the caps that are there and
    higher are lowered, else `field` is added. Every other byte stays (K1)."""
    changes = {}
    if demand.capped:
        for name, start, end in members(body):
            if name in demand.capped and not _is_within(json.loads(body[start:end]), cap):
                changes[name] = b"%d" % cap
    else:
        changes[demand.field or field] = b"%d" % cap
    return edit_members(body, changes)


def _is_within(found: object, cap: int) -> bool:
    asked = _whole(found)
    return asked is not None and 0 <= asked <= cap


# Reading ------------------------------------------------------------------------------------------


def _decode(body: bytes) -> object:
    """JSON as Python reads it too: NaN, lone surrogates. ValueError where it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(body.decode("utf-8-sig"))


def _has_twins(body: bytes, found: object) -> bool:
    """A name stands twice in one object: readers differ in which they take.

    Of what was read, the other's colon is missing; only where one is, all is read once more.
    """
    colons = body.count(b":") + body.count(b"\\u003a") + body.count(b"\\u003A")
    if colons == _json(found).count(b":"):
        return False
    twins = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twins
        kept = dict(pairs)
        twins = twins or len(kept) != len(pairs)
        return kept

    json.loads(body.decode("utf-8-sig"), object_pairs_hook=look)
    return twins


def _json(found: object) -> bytes:
    """Compact JSON in UTF-8."""
    try:
        return msgspec.json.encode(found)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return json.dumps(found, separators=(",", ":")).encode()


class _Text:
    """Text as it is counted. `known` False: some of it has no bound."""

    __slots__ = ("known", "pieces", "size")

    def __init__(self) -> None:
        self.size = self.pieces = 0
        self.known = True

    def say(self, text: str) -> None:
        self.size += len(text) if text.isascii() else _bytes(text)

    def show(self, found: object) -> None:
        """As text where it is one, else as compact JSON."""
        if isinstance(found, str):
            self.say(found)
        elif found is not None:
            self.size += len(_json(found))


def _bytes(text: str) -> int:
    """In UTF-8, lone surrogates too."""
    return len(text.encode("utf-8", "surrogatepass"))


_Reader = Callable[[_Text, Mapping[str, Any]], None]


def _demand(found: dict[str, Any], path: str, reader: _Reader, *, twice: bool) -> Demand:
    text, extra, n = _Text(), 0, 1
    reader(text, found)
    if (prediction := found.get("prediction")) is not None:
        predicted = _Text()
        _content(predicted, prediction.get("content") if isinstance(prediction, dict) else 0)
        text.known, extra = text.known and predicted.known, predicted.size
    if "n" in found or "best_of" in found:
        n = max(1, _whole(found.get("n")) or 1, _whole(found.get("best_of")) or 1)
    capped, output = _caps(found, path)
    return Demand(
        text.size + AROUND + AROUND_MESSAGE * text.pieces if text.known and not twice else None,
        text.size,
        output,
        n * max(1, text.pieces) if path == "completions" else n,
        extra,
        _is_metered(found, path, twice=twice),
        capped,
        _FIELD_OF.get(path),
    )


def _is_metered(found: dict[str, Any], path: str, *, twice: bool) -> bool:
    """A chat body in which an outermost name stands twice is refused before (`wire/chat.py`)."""
    if path == "responses":
        return not twice and found.get("background") in (None, False) and _are_plain(found)
    return not twice or path == "chat/completions"


def _caps(found: dict[str, Any], path: str) -> tuple[tuple[str, ...], int | None]:
    names = _CAPS_OF.get(path)
    if names is None:
        return (), 0
    if names.isdisjoint(found):
        return (), None
    capped: tuple[str, ...] = ()
    largest: int | None = 0
    for name in names:
        value = found.get(name)
        if value is None:
            continue
        capped += (name,)
        # Some servers take -1 for "no cap"; a word that is no number may mean anything.
        asked = value if type(value) is int else _whole(value)
        if asked is None or asked < 0:
            largest = None
        elif largest is not None and asked > largest:
            largest = asked
    return capped, largest if capped else None


def _whole(found: object) -> int | None:
    """The whole number that lenient servers read: 5, 5.0, "5"."""
    if type(found) is int:
        return found
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and found.isdecimal() and len(found) <= LONGEST_NUMBER:
        return int(found)
    return None


# One path at a time -------------------------------------------------------------------------------


def _chat(text: _Text, found: Mapping[str, Any]) -> None:
    messages = found.get("messages")
    if isinstance(messages, list):
        text.pieces = len(messages)
        for message in messages:
            if type(message) is dict and len(message) == 2:  # as most are
                role, content = message.get("role"), message.get("content")
                if type(role) is str and type(content) is str and role in _ROLES:
                    text.size += len(content) if content.isascii() else _bytes(content)
                    continue
            _message(text, message)
    else:
        text.known = False
    _others(text, found, "messages")


def _message(text: _Text, message: object) -> None:
    if not isinstance(message, dict):
        text.known = False
        return
    for name, value in message.items():
        if name == "content":
            _content(text, value)
        elif name == "role" and isinstance(value, str) and value in _ROLES:
            continue
        elif name == "audio" and value is not None:
            text.known = False
        else:
            text.show(value)


def _content(text: _Text, content: object) -> None:
    """A message's: text, or parts, between which a template may put something."""
    if isinstance(content, str):
        text.say(content)
    elif isinstance(content, list):
        text.size += max(0, len(content) - 1)
        for part in content:
            _part(text, part)
    elif content is not None:
        text.known = False


def _part(text: _Text, part: object) -> None:
    if isinstance(part, str):
        text.say(part)
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "refusal"):
        text.known = False
        return
    for name, value in part.items():
        if name != "type":
            text.show(value)


def _completion(text: _Text, found: Mapping[str, Any]) -> None:
    prompt = found.get("prompt")
    _prompts(text, "" if prompt is None else prompt)  # without one, the model begins a document
    _others(text, found, "prompt")


def _embedding(text: _Text, found: Mapping[str, Any]) -> None:
    _prompts(text, found.get("input"))
    text.known = text.known and "messages" not in found
    _others(text, found, "input")


def _prompts(text: _Text, found: object) -> None:
    """Text, tokens, or a list of such."""
    if isinstance(found, list) and not _are_tokens(found):
        for one in found:
            _prompt(text, one)
    else:
        _prompt(text, found)


def _prompt(text: _Text, found: object) -> None:
    text.pieces += 1
    if isinstance(found, str):
        text.say(found)
    elif isinstance(found, list) and _are_tokens(found):
        text.size += len(found)
    else:
        text.known = False


def _are_tokens(found: list[Any]) -> bool:
    return bool(found) and all(type(token) is int for token in found)


def _moderation(text: _Text, found: Mapping[str, Any]) -> None:
    """It costs nothing, pictures included."""
    _content(text, found.get("input"))
    text.known = True


def _response(text: _Text, found: Mapping[str, Any]) -> None:
    """What an earlier response or a stored prompt adds is not in the body."""
    for name in ("input", "instructions"):
        text.show(found.get(name))
    text.known = False


def _others(text: _Text, found: Mapping[str, Any], *read: str) -> None:
    """All other members: tools, formats, and what a server may know beyond OpenAI's."""
    for name in found.keys() - _UNREAD:
        value = found[name]
        if value is None or name in read:
            continue
        text.known = text.known and name not in _UNBOUNDED
        text.show(value)
    if "tools" in found:
        text.known = text.known and _are_plain(found)


def _are_plain(found: Mapping[str, Any]) -> bool:
    """Its tools are only described: their caller runs them."""
    tools = found.get("tools")
    return tools is None or (
        isinstance(tools, list)
        and all(isinstance(tool, dict) and tool.get("type") in _TOOLS for tool in tools)
    )


_READERS: dict[str, _Reader] = {
    "chat/completions": _chat,
    "completions": _completion,
    "embeddings": _embedding,
    "moderations": _moderation,
    "responses": _response,
}
