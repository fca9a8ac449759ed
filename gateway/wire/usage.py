"""Token figures from an upstream's `usage` object, in OpenAI's form and in those of its relatives.

Rule: figures are taken or refused whole, never repaired; what is odd gives None, nothing raises.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.exchange import Usage, UsageSource

_MOST = 2**53  # a figure above this is no count of tokens, and would not fit every reader's numbers
_MOST_DETAILS = 16 * 1024  # bytes of the whole object as JSON


def read_usage(found: object) -> Usage | None:
    """The usage object `found` as `Usage`; None where it is none: not an object, no token figures,
    or one that is a string, a fraction, negative or absurd. Zeros are figures (A8)."""
    if not isinstance(found, dict):
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    # `input_tokens` and `output_tokens` are the Responses API's words for the same two.
    if prompt is None:
        prompt = found.get("input_tokens")
    if completion is None:
        completion = found.get("output_tokens")
    if prompt is None:
        if completion is None:
            return None
        prompt = 0
    elif completion is None:
        completion = 0
    if not (type(prompt) is int is type(completion)):
        return None
    if not (0 <= prompt <= _MOST and 0 <= completion <= _MOST):
        return None
    return Usage(
        prompt,
        completion,
        min(prompt, _cached(found)),
        _reasoning(found),
        UsageSource.UPSTREAM,
        found if _is_writable(found) else None,
    )


def _reasoning(found: dict[str, Any]) -> int:
    """Completion tokens that were not shown, in the words of either API: the larger figure."""
    most = 0
    for details in (found.get("completion_tokens_details"), found.get("output_tokens_details")):
        if type(details) is dict:
            figure = details.get("reasoning_tokens")
            if type(figure) is int and most < figure <= _MOST:
                most = figure
    return most


def _cached(found: dict[str, Any]) -> int:
    """Prompt tokens the provider had cached: OpenAI's place first, then those of others.

    DeepSeek: `prompt_cache_hit_tokens` (api-docs.deepseek.com/guides/kv_cache); Moonshot:
    `cached_tokens` beside the totals (platform.kimi.ai/docs).
    """
    for details in (found.get("prompt_tokens_details"), found.get("input_tokens_details")):
        if type(details) is dict:
            figure = details.get("cached_tokens")
            if type(figure) is int and 0 <= figure <= _MOST:
                return figure
    for figure in (found.get("prompt_cache_hit_tokens"), found.get("cached_tokens")):
        if type(figure) is int and 0 <= figure <= _MOST:
            return figure
    return 0


def _is_writable(found: object) -> bool:
    """What is kept goes into rows: not where it is a book, or holds what JSON's writers refuse."""
    try:
        return len(msgspec.json.encode(found)) <= _MOST_DETAILS
    except (ValueError, RecursionError):
        return False
