"""The built-in model `echo`: an upstream without a network, for a first answer without any key.

Deterministic: the same request gets the same bytes, `id` included (a hash of the body without
`stream` and `stream_options`; `created` is a constant). It says the last user message again, so
every client feature can be tried: `response_format` gives the JSON object {"echo": text},
`tool_choice` required or named gives a call with the arguments {"text": text}.

Usage is honest by a simple rule: a token is a run of ASCII letters, digits and `_`, or any other
character that is not white space. A stream has one chunk per token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gateway.config import Disconnect, UpstreamSection
from gateway.errors import (
    GatewayError,
    InvalidJSON,
    InvalidRequest,
    ModelNotFound,
    UnknownURL,
    UpstreamCut,
)
from gateway.exchange import Caller, CallerKind, HeaderList
from gateway.leash import own_task
from gateway.ports import Call, CallTimes, Clock
from gateway.upstream import rules
from gateway.upstream.stats import Stats, status_class

CREATED = 1_700_000_000  # seconds since the epoch; a clock would make equal requests differ
BODY_LIMIT = 64 * 1024 * 1024
MAX_CHOICES = 128
STREAM = "text/event-stream; charset=utf-8"

_PIECE = re.compile(r"\s*(?:[A-Za-z0-9_]+|\S)")


def pieces(text: str) -> list[str]:
    """`text` as tokens, each with the white space before it, the last also with what follows."""
    found = _PIECE.findall(text)
    rest = text[sum(map(len, found)) :]
    if found:
        found[-1] += rest
    return found or ([text] if text else [])


def count(text: str) -> int:
    """Tokens of `text`."""
    return sum(1 for _ in _PIECE.finditer(text))


class EchoUpstream:
    """The `Upstream` port for `base_url: "echo:"`."""

    builtin = True

    def __init__(self, section: UpstreamSection, *, clock: Clock) -> None:
        self.name = section.name
        self.stats = Stats()
        self.finish_on_disconnect = section.on_disconnect is Disconnect.FINISH
        self.base_url = section.base_url
        self.max_tokens_field = section.max_tokens_field
        self.cache = section.cache
        self.cache_ttl = section.cache_ttl
        self.injects_usage = section.inject_usage
        self._models = rules.Models(section.models, section.rename)
        self._delay = section.delay
        self._clock = clock

    @property
    def connections(self) -> tuple[int, int]:
        return self.stats.in_flight, 0

    def serves(self, model: str) -> bool:
        return self._models.match(model)

    def accepts(self, kind: CallerKind) -> bool:
        return True

    def shared_by(self, kind: CallerKind) -> bool:
        return kind is not CallerKind.ISSUED

    def relays(self, path: str, method: str) -> bool:
        return rules.safe_path(path)

    def real_name(self, model: str) -> str:
        return self._models.real(model)

    def refused_usage(self) -> None:
        """It never does."""

    async def models(self, caller: Caller) -> list[dict[str, object]]:
        return [_model(name) for name in self._models.named]

    async def close(self) -> None:
        """Nothing is open."""

    async def send(self, call: Call) -> EchoReply:
        """The answer; bad requests get OpenAI's own errors, as from any upstream."""
        call.times.sent = call.times.connected = self._clock.monotonic()
        body = await _whole(call)
        status = 200
        chunks: bytes | Stream
        try:
            chunks = self._answer(call, body)
        except GatewayError as refusal:
            status, chunks = refusal.status, _dump(refusal.body())
        kind = STREAM if isinstance(chunks, Stream) else "application/json"
        call.times.first_byte = self._clock.monotonic()
        self.stats.attempts += 1
        self.stats.in_flight += 1
        headers = [("content-type", kind), ("x-request-id", f"echo_{_digest(body)[:24]}")]
        return EchoReply(self, status, headers, chunks, call.times, self._delay)

    def _answer(self, call: Call, body: bytes) -> bytes | Stream:
        path, _, name = call.path.partition("/")
        if (call.method, call.path) == ("POST", "chat/completions"):
            return complete(body)
        if call.method in {"GET", "HEAD"} and path == "models":
            if not name:
                return _dump({"object": "list", "data": [_model(m) for m in self._models.named]})
            if not self._models.match(name):
                raise ModelNotFound("The model does not exist.", param="model")
            return _dump(_model(name))
        raise UnknownURL(f"Unknown request URL: {call.method} /v1/{call.path[:200]}.")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "gateway"}


async def _whole(call: Call) -> bytes:
    if call.body is None or isinstance(call.body, bytes):
        return call.body or b""
    taken = bytearray()
    async for chunk in call.body:
        taken += chunk
        if len(taken) > BODY_LIMIT:
            break
    return bytes(taken)


# The answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be said: `text` as content, or as the arguments of a call to `tool`."""

    id: str
    model: str
    text: str
    finish: str
    tool: str | None
    choices: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def envelope(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "system_fingerprint": "fp_echo",
        }

    def call(self, arguments: str) -> dict[str, object]:
        function = {"name": self.tool, "arguments": arguments}
        return {"id": f"call_{self.id[9:]}", "type": "function", "function": function}


class Stream(Iterator[bytes]):
    """The events of one streamed answer, made as they are asked for."""

    def __init__(self, said: Said, usage: bool) -> None:
        self._events = _events(said, usage)

    def __next__(self) -> bytes:
        return next(self._events)


def complete(body: bytes) -> bytes | Stream:
    """The completion for a request body. InvalidJSON, InvalidRequest."""
    try:
        asked = json.loads(body)
        identity = {k: v for k, v in asked.items() if k not in {"stream", "stream_options"}}
        digest = _digest(json.dumps(identity, sort_keys=True).encode())
    except (ValueError, RecursionError, AttributeError):
        raise InvalidJSON("The request body is not a JSON object.") from None
    said = _say(asked, f"chatcmpl-{digest[:29]}")
    if not asked.get("stream"):
        return _dump(_completion(said))
    options = asked.get("stream_options")
    return Stream(said, isinstance(options, dict) and options.get("include_usage") is True)


def _say(asked: dict[str, Any], id: str) -> Said:
    model, messages = asked.get("model"), asked.get("messages")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("You must provide a model parameter.", param="model")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise InvalidRequest("'messages' is missing or not a list of objects.", param="messages")
    choices = _whole_number(asked, "n", MAX_CHOICES) or 1
    limit = _whole_number(asked, "max_completion_tokens") or _whole_number(asked, "max_tokens")
    texts = [_text(m.get("content")) for m in messages]
    of_users = [t for m, t in zip(messages, texts, strict=True) if m.get("role") == "user"]
    text = of_users[-1] if of_users else ""
    tool = _tool(asked)
    shape = asked.get("response_format")
    if tool is not None:
        text = json.dumps({"text": text}, ensure_ascii=False)
    elif isinstance(shape, dict) and shape.get("type") in {"json_object", "json_schema"}:
        text = json.dumps({"echo": text}, ensure_ascii=False)
    cut = limit is not None and count(text) > limit
    if cut:
        text = "".join(pieces(text)[:limit])
    finish = "length" if cut else "stop" if tool is None else "tool_calls"
    prompt = sum(map(count, texts))
    return Said(id, model, text, finish, tool, choices, prompt, count(text) * choices)


def _whole_number(asked: dict[str, Any], name: str, most: int | None = None) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1 or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise InvalidRequest(f"'{name}' must be a whole number of at least 1{upper}.", param=name)
    return value


def _text(content: object) -> str:
    """A message's text: a string, or its parts joined; what is no text is named by its type."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (
        p["text"] if isinstance(p.get("text"), str) else f"[{p.get('type', 'part')}]"
        for p in parts
        if isinstance(p, dict)
    )
    return "".join(texts)


def _tool(asked: dict[str, Any]) -> str | None:
    """The tool that must be called: the one named, or the first where one is required."""
    choice = asked.get("tool_choice")
    if choice != "required" and not isinstance(choice, dict):
        return None
    with contextlib.suppress(KeyError, IndexError, TypeError):
        source = choice if isinstance(choice, dict) else asked["tools"][0]
        if isinstance(name := source["function"]["name"], str) and asked["tools"]:
            return name
    raise InvalidRequest("'tool_choice' and 'tools' name no function.", param="tool_choice")


def _completion(said: Said) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.tool is not None:
        message |= {"content": None, "tool_calls": [said.call(said.text)]}
    choice = {"message": message, "logprobs": None, "finish_reason": said.finish}
    choices = [{"index": index, **choice} for index in range(said.choices)]
    return {**said.envelope("chat.completion"), "choices": choices, "usage": said.usage}


def _events(said: Said, usage: bool) -> Iterator[bytes]:
    """Role, tokens and finish for each choice in turn; usage where asked for; the terminator."""
    head = said.envelope("chat.completion.chunk")

    def event(choices: list[dict[str, object]], total: object = None) -> bytes:
        shown = {"usage": total} if usage else {}
        return b"data: " + _dump({**head, "choices": choices, **shown}) + b"\n\n"

    def each(delta: dict[str, object], finish: str | None = None) -> Iterator[bytes]:
        for index in range(said.choices):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield event([choice])

    first: dict[str, object] = {"role": "assistant", "content": "", "refusal": None}
    more: Callable[[str], dict[str, object]] = lambda piece: {"content": piece}  # noqa: E731
    if said.tool is not None:
        first |= {"content": None, "tool_calls": [{"index": 0, **said.call("")}]}
        more = lambda piece: {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}  # noqa: E731
    yield from each(first)
    for piece in pieces(said.text):
        yield from each(more(piece))
    yield from each({}, said.finish)
    if usage:
        yield event([], said.usage)
    yield b"data: [DONE]\n\n"


def _dump(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can say it, UTF-8 cannot
        return json.dumps(value, separators=(",", ":")).encode()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class EchoReply:
    """The `Reply` port: one body, or one event at a time with `delay` seconds before each."""

    encoded = False

    def __init__(
        self,
        owner: EchoUpstream,
        status: int,
        headers: HeaderList,
        chunks: bytes | Stream,
        times: CallTimes,
        delay: float,
    ) -> None:
        self.status = status
        self.headers = headers
        self.length = len(chunks) if isinstance(chunks, bytes) else None
        self.times = times
        self._owner: EchoUpstream | None = owner
        self._chunks = iter([chunks]) if isinstance(chunks, bytes) else chunks
        self._delay = delay
        self._ended = False
        self._closed = asyncio.Event()

    def whole(self) -> bytes | None:
        """It comes in chunks, as a model says it."""
        return None

    async def read(self) -> bytes:
        """The next chunk. UpstreamCut once closed."""
        if self._ended:
            return b""
        await own_task()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._delay):
                await self._closed.wait()
        if self._closed.is_set():
            raise UpstreamCut("The answer of the built-in upstream was let go.")
        data = next(self._chunks, b"")
        if not data:
            self._ended = True
            self._let_go(status_class(self.status))
        return data

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Chunk by chunk."""
        while data := await self.read():
            if not take(data):
                return True
        return False

    def close(self) -> None:
        """Let go; a `read` that waits ends at once. Idempotent."""
        if not self._ended:
            self._closed.set()
            self._let_go("abandoned")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _let_go(self, outcome: str) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.stats.in_flight -= 1
            owner.stats.outcomes[outcome] += 1
