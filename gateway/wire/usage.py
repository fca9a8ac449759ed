"""Token figures from an upstream's `usage` object, in OpenAI's form and in those of its relatives.

Rule: figures are taken or refused whole, never repaired; what is odd gives None, nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.exchange import Usage, UsageSource

_MOST = 2**53  # a figure above this is no count of tokens, and would not fit every reader's numbers
_MOST_DETAILS = 16 * 1024  # bytes of the whole object as JSON


def read_usage(found: object) -> Usage | None:
    """The usage object `found` as `Usage`; None where it is none: not an object, no token figures,
    or one that is a string, a fraction, negative or absurd. Zeros are figures (A8)."""
    if not isinstance(found, Mapping):
        return None
    # `input_tokens` and `output_tokens` are the Responses API's words for the same two.
    prompt = _figure(found, "prompt_tokens", "input_tokens")
    completion = _figure(found, "completion_tokens", "output_tokens")
    if prompt == completion == -1 or _MALFORMED in (prompt, completion):
        return None
    prompt, completion = max(0, prompt), max(0, completion)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(prompt, _cached(found)),
        reasoning_tokens=max(
            0,
            _detail(found, "completion_tokens_details", "reasoning_tokens"),
            _detail(found, "output_tokens_details", "reasoning_tokens"),
        ),
        source=UsageSource.UPSTREAM,
        details=found if _is_writable(found) else None,
    )


_ABSENT, _MALFORMED = -1, -2


def _figure(found: Mapping[str, Any], *names: str) -> int:
    """The first of `names` that is there and not null, or _ABSENT, or _MALFORMED."""
    for name in names:
        value = found.get(name)
        if value is not None:
            return value if type(value) is int and 0 <= value <= _MOST else _MALFORMED
    return _ABSENT


def _is_writable(found: object) -> bool:
    """What is kept goes into rows: not where it is a book, or holds what JSON's writers refuse."""
    try:
        return len(msgspec.json.encode(found)) <= _MOST_DETAILS
    except (ValueError, RecursionError):
        return False


def _detail(found: Mapping[str, Any], group: str, name: str) -> int:
    details = found.get(group)
    return _figure(details, name) if isinstance(details, Mapping) else _ABSENT


def _cached(found: Mapping[str, Any]) -> int:
    """Prompt tokens the provider had cached: OpenAI's place first, then those of others.

    DeepSeek: `prompt_cache_hit_tokens` (api-docs.deepseek.com/guides/kv_cache); Moonshot:
    `cached_tokens` beside the totals (platform.kimi.ai/docs).
    """
    for figure in (
        _detail(found, "prompt_tokens_details", "cached_tokens"),
        _detail(found, "input_tokens_details", "cached_tokens"),
        _figure(found, "prompt_cache_hit_tokens"),
        _figure(found, "cached_tokens"),
    ):
        if figure >= 0:
            return figure
    return 0
