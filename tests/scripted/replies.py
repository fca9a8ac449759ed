"""Answers for the scripted upstream, as steps of exact bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.scripted.client import Step

HeaderPairs = Iterable[tuple[str, str]]

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
DONE = b"data: [DONE]\n\n"

GATE: Step = ("gate",)
CUT: Step = ("cut",)
RESET: Step = ("reset",)
STALL: Step = ("stall",)
BODY: Step = ("body",)
ECHO: Step = ("echo",)
POISON: Step = ("poison",)


def send(data: bytes) -> Step:
    return ("send", data)


def head(status: str = "200 OK", headers: HeaderPairs = ()) -> bytes:
    fields = "".join(f"{k}: {v}\r\n" for k, v in headers)
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding (RFC 9112 section 7.1); b"" is the last."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion(content: str = "Hello", **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    } | more


def reply(
    body: bytes | dict[str, Any],
    status: str = "200 OK",
    headers: HeaderPairs = (),
    kind: str = "application/json",
) -> list[Step]:
    """A whole answer with a length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [("Content-Type", kind), ("Content-Length", str(len(data))), *headers]
    return [send(head(status, fields) + data)]


def error(status: str, code: str, message: str = "said by the upstream") -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def event(**members: Any) -> bytes:
    """One SSE event with a chunk object."""
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
    } | members
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, **members: Any) -> bytes:
    return event(
        choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], **members
    )


def finish(reason: str = "stop", **members: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {}, "finish_reason": reason}], **members)


def usage_event(usage: object = USAGE) -> bytes:
    return event(choices=[], usage=usage)


def hello(*, usage: bool = True) -> list[bytes]:
    """The events of an ordinary stream that says Hello, the terminator included."""
    return [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}]),
        delta("Hel"),
        delta("lo"),
        finish(),
        *([usage_event()] if usage else []),
        DONE,
    ]


SSE_HEAD = head(
    headers=[("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
)


def stream(
    events: Sequence[bytes], *, paced: bool = False, close: bool = True, headers: HeaderPairs = ()
) -> list[Step]:
    """An SSE answer, a chunk for each event; `paced`: a gate before each; `close`: ended in
    order."""
    first = SSE_HEAD[:-2] + head(headers=headers).partition(b"\r\n")[2]
    steps = [send(first)]
    for data in events:
        steps += [GATE] if paced else []
        steps.append(send(chunk(data)))
    if close:
        steps += [*([GATE] if paced else []), send(chunk(b""))]
    return steps
