"""Answers in the manner of the servers people put behind the gateway, in both forms. Made up, with
the members and the order of events that each of them has.

A case's `json` and `events` are two calls' answers, so they need not say the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.scripted.replies import DONE

PROMPT: Any = [{"role": "user", "content": "Wie ist das Wetter in Köln? 🌦"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "天气",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"rain": {"type": "boolean"}, "mm": {"type": "number"}},
            "required": ["rain", "mm"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Case:
    """What to ask for beside model and messages, and how it is answered."""

    name: str
    json: dict[str, Any]
    chunks: list[dict[str, Any]]
    asks: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return json.dumps(self.json, ensure_ascii=False).encode()

    @property
    def events(self) -> list[bytes]:
        said = [json.dumps(chunk, ensure_ascii=False).encode() for chunk in self.chunks]
        return [b"data: " + data + b"\n\n" for data in said] + [DONE]


# OpenAI -------------------------------------------------------------------------------------------

OPENAI = {
    "id": "chatcmpl-B1x9Q",
    "created": 1_763_000_001,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_44added55e",
}
OPENAI_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 12,
    "total_tokens": 31,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def openai_json(*messages: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None, "annotations": []}
            | message,
            "logprobs": None,
            "finish_reason": finish,
        }
        | more
        for index, message in enumerate(messages)
    ]
    return {"object": "chat.completion", **OPENAI, "choices": choices, "usage": OPENAI_USAGE}


def openai_chunks(
    *deltas: dict[str, Any] | tuple[int, dict[str, Any]], finish: str = "stop", choices: int = 1
) -> list[dict[str, Any]]:
    """A delta may come with its choice's number, and with `logprobs` beside it."""
    said = []
    for found in deltas:
        index, delta = found if isinstance(found, tuple) else (0, found)
        delta = dict(delta)
        logprobs = delta.pop("logprobs", None)
        said.append([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}])
    said += [
        [{"index": index, "delta": {}, "logprobs": None, "finish_reason": finish}]
        for index in range(choices)
    ]
    head = {"object": "chat.completion.chunk", **OPENAI}
    chunks = [
        head | {"choices": found, "usage": None, "obfuscation": f"o{number}"}
        for number, found in enumerate(said)
    ]
    return [*chunks, head | {"choices": [], "usage": OPENAI_USAGE, "obfuscation": ""}]


def _call(index: int, name: str, call_id: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _arguments(index: int, text: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _token(text: str, logprob: float) -> dict[str, Any]:
    one = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
    return one | {"top_logprobs": [one, {"token": "no", "logprob": -4.5, "bytes": [110, 111]}]}


ROLE = {"role": "assistant", "content": "", "refusal": None}

TEXT = Case(
    "openai-text",
    openai_json({"content": "Regen, 12 °C. 🌧"}),
    openai_chunks(ROLE, {"content": "Regen,"}, {"content": " 12 °C."}, {"content": " 🌧"}),
    {"temperature": 0.7, "max_completion_tokens": 200, "seed": 7},
)
TWO_CALLS = Case(
    "openai-tools",
    openai_json(
        {
            "tool_calls": [
                {
                    "id": f"call_{n}",
                    "type": "function",
                    "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
                }
                for n, city in enumerate(["Köln", "上海"])
            ]
        },
        finish="tool_calls",
    ),
    openai_chunks(
        {"role": "assistant", "content": None},
        {"tool_calls": [_call(0, "weather", "call_0")]},
        _arguments(0, '{"ci'),
        _arguments(0, 'ty":"Köln"}'),
        {"tool_calls": [_call(1, "weather", "call_1")]},
        _arguments(1, '{"city":'),
        _arguments(1, '"上海"}'),
        finish="tool_calls",
    ),
    {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": True},
)
TWO_CHOICES = Case(
    "openai-n2",
    openai_json({"content": "Regen."}, {"content": "Sonne."}),
    openai_chunks(
        (0, ROLE),
        (1, ROLE),
        (0, {"content": "Reg"}),
        (1, {"content": "Son"}),
        (1, {"content": "ne."}),
        (0, {"content": "en."}),
        choices=2,
    ),
    {"n": 2},
)
LOGPROBS = Case(
    "openai-logprobs",
    openai_json(
        {"content": "Ja."},
        logprobs={"content": [_token("Ja", -0.25), _token(".", -0.5)], "refusal": None},
    ),
    openai_chunks(
        ROLE,
        {"content": "Ja", "logprobs": {"content": [_token("Ja", -0.25)], "refusal": None}},
        {"content": ".", "logprobs": {"content": [_token(".", -0.5)], "refusal": None}},
    ),
    {"logprobs": True, "top_logprobs": 2},
)
REFUSAL = Case(
    "openai-refusal",
    openai_json({"refusal": "Dabei kann ich nicht helfen."}),
    openai_chunks(
        {"role": "assistant", "content": None, "refusal": ""},
        {"refusal": "Dabei kann ich"},
        {"refusal": " nicht helfen."},
    ),
)
STRUCTURED = Case(
    "openai-json-schema",
    openai_json({"content": '{"rain":true,"mm":3.5}'}),
    openai_chunks(ROLE, {"content": '{"rain":'}, {"content": 'true,"mm":3.5}'}),
    {"response_format": SCHEMA},
)

# DeepSeek: its usage stands in the chunk with the finish reason -----------------------------------

DEEPSEEK = {
    "id": "3f0e3d6c-1e1d-4c9f-9c55-0b1f7e1a2b3c",
    "created": 1_763_000_002,
    "model": "deepseek-reasoner",
    "system_fingerprint": "fp_393bca965e_prod0623_fp8_kvcache",
}
DEEPSEEK_USAGE = {
    "prompt_tokens": 14,
    "completion_tokens": 40,
    "total_tokens": 54,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 31},
    "prompt_cache_hit_tokens": 0,
    "prompt_cache_miss_tokens": 14,
}


def _deepseek(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    usage = {"usage": DEEPSEEK_USAGE} if finish else {}
    return {"object": "chat.completion.chunk", **DEEPSEEK, "choices": [choice], **usage}


REASONING = Case(
    "deepseek-reasoning",
    {
        "object": "chat.completion",
        **DEEPSEEK,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Regen.",
                    "reasoning_content": "In Köln regnet es im November oft.",
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": DEEPSEEK_USAGE,
    },
    [
        _deepseek({"role": "assistant", "content": None, "reasoning_content": ""}),
        _deepseek({"content": None, "reasoning_content": "In Köln regnet es"}),
        _deepseek({"content": None, "reasoning_content": " im November oft."}),
        _deepseek({"content": "Reg", "reasoning_content": None}),
        _deepseek({"content": "en.", "reasoning_content": None}),
        _deepseek({"content": "", "reasoning_content": None}, "stop"),
    ],
)

# llama.cpp: `timings` beside the choices ----------------------------------------------------------

LLAMA = {
    "id": "chatcmpl-pQ7GkRn6S3mXh0Yp8nA2Vw",
    "created": 1_763_000_003,
    "model": "SmolLM2-135M-Instruct.gguf",
    "system_fingerprint": "b6913-3eb2be1ca",
}
LLAMA_END = {
    "usage": {"prompt_tokens": 31, "completion_tokens": 9, "total_tokens": 40},
    "timings": {
        "cache_n": 0,
        "prompt_n": 31,
        "prompt_ms": 52.137,
        "prompt_per_token_ms": 1.6818387096774193,
        "prompt_per_second": 594.5873372077411,
        "predicted_n": 9,
        "predicted_ms": 71.02,
        "predicted_per_token_ms": 7.891111111111111,
        "predicted_per_second": 126.72486623486342,
    },
}


def _llama(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": list(choices), **LLAMA, "object": "chat.completion.chunk", **more}


TIMINGS = Case(
    "llama.cpp",
    {
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"role": "assistant", "content": "It rains."},
            }
        ],
        **LLAMA,
        "object": "chat.completion",
        **LLAMA_END,
    },
    [
        _llama(
            {"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}
        ),
        _llama({"finish_reason": None, "index": 0, "delta": {"content": "It"}}),
        _llama({"finish_reason": None, "index": 0, "delta": {"content": " rains."}}),
        _llama({"finish_reason": "stop", "index": 0, "delta": {}}),
        _llama(**LLAMA_END),
    ],
    {"temperature": 0},
)

# vLLM: nulls of its own ---------------------------------------------------------------------------

VLLM = {"id": "chatcmpl-6d0c9a1f", "created": 1_763_000_004, "model": "Qwen/Qwen3-8B"}
VLLM_USAGE = {
    "prompt_tokens": 15,
    "total_tokens": 24,
    "completion_tokens": 9,
    "prompt_tokens_details": None,
}


def _vllm(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": None,
        "token_ids": None,
    }
    return {"object": "chat.completion.chunk", **VLLM, "choices": [choice | more], "usage": None}


NULLS = Case(
    "vllm",
    {
        "object": "chat.completion",
        **VLLM,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Rain.",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning_content": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": VLLM_USAGE,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    },
    [
        _vllm({"role": "assistant", "content": ""}),
        _vllm({"content": "Ra"}),
        _vllm({"content": "in."}),
        _vllm({"content": ""}, finish_reason="stop", stop_reason=None),
        {"object": "chat.completion.chunk", **VLLM, "choices": [], "usage": VLLM_USAGE},
    ],
)

CASES = [TEXT, TWO_CALLS, TWO_CHOICES, LOGPROBS, REFUSAL, STRUCTURED, REASONING, TIMINGS, NULLS]
