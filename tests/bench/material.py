"""What is asked and what is answered in every measurement: bodies by number, answers by kind."""

from __future__ import annotations

import json

MARK = "@" * 12  # where a body's number goes: all bodies of a template are equally long
DISTINCT = 1000  # bodies that a case asks in turn, where it does not say otherwise
SYSTEM = (
    "You are a careful assistant. Answer in one short paragraph, name your sources, and say so "
    "where you do not know. Never invent a figure."
)
QUESTION = (
    f"Question {MARK}: which of the rivers that rise in the Alps reach the North Sea, and how long "
    "is each of them from its source to its mouth?"
)

FIXED, BULK, PACED, SLOW = "fixed", "bulk", "paced", "slow"  # models, each with its upstream
EVENTS = 103  # of a bulk stream: 100 pieces, finish, usage, [DONE]


def template(model: str = FIXED, *, stream: bool = False, padding: int = 0) -> str:
    """A request body with MARK in it; `padding` bytes more of context."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    if padding:
        text = "The Rhine rises in Graubuenden. "
        filler = (text * (padding // len(text) + 1))[:padding]
        messages.insert(1, {"role": "user", "content": filler})
    body = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 256}
    return json.dumps(body | ({"stream": True} if stream else {}))


def numbered(text: str, number: int) -> str:
    """The body with this number."""
    return text.replace(MARK, f"{number:012d}")


USAGE = {
    "prompt_tokens": 74,
    "completion_tokens": 101,
    "total_tokens": 175,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
TEXT = "The Rhine rises in the Alps and reaches the North Sea after some 1,230 kilometres."
WORDS = TEXT.split()


def answer() -> bytes:
    """A chat completion of about a kilobyte."""
    return json.dumps(
        {
            "id": "chatcmpl-bench0123456789abcdefghij",
            "object": "chat.completion",
            "created": 1700000000,
            "model": FIXED,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": " ".join(WORDS * 5),
                        "refusal": None,
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
        }
    ).encode()


def event(content: str | None, *, finish: str | None = None, stamp: str = "fp_bench") -> bytes:
    """One event of a stream."""
    delta = {} if content is None else {"content": content}
    data = {
        "id": "chatcmpl-bench0123456789abcdefghij",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": BULK,
        "service_tier": "default",
        "system_fingerprint": stamp,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def usage_event() -> bytes:
    """The event that an upstream adds where usage is asked for."""
    data = {
        "id": "chatcmpl-bench0123456789abcdefghij",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": BULK,
        "choices": [],
        "usage": USAGE,
    }
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def bulk_events() -> list[bytes]:
    """The EVENTS of a bulk stream, of about 270 bytes each."""
    words = [event(f" {WORDS[n % len(WORDS)]}") for n in range(EVENTS - 3)]
    return [*words, event(None, finish="stop"), usage_event(), DONE]
