"""What tokens cost, and what is booked where an answer did not say. Pure: numbers in, numbers out.

Rule: money is whole numbers from end to end: 10^-12 dollars per token, 10^-9 dollars per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.config import AfterCrash, OnMissingUsage, Price
from gateway.exchange import NO_USAGE, CacheState, Exchange, Reservation, Usage, UsageSource

BYTES_PER_TOKEN = 4  # of text, roughly; who wants it exact configures a tokenizer
PICO_PER_NANO = 1000

# Money --------------------------------------------------------------------------------------------

Steps = tuple[tuple[int, Price], ...]
"""A price by the size of the prompt: (tokens, price) in rising order, the first from 0 on. A step
holds for all tokens of a call whose prompt has more tokens than it says."""


def flat(price: Price) -> Steps:
    """One price for every size."""
    return ((0, price),)


@dataclass(frozen=True, slots=True)
class Rates:
    """What one model's tokens cost; None: as what they are a part of (input or output)."""

    input: Steps
    output: Steps
    cached_input: Steps | None = None
    cache_write: Steps | None = None
    input_audio: Steps | None = None
    output_audio: Steps | None = None

    def pico(self, tokens: Tokens) -> int:
        """The cost in 10^-12 dollars: it adds up, within one step, over any cut of `tokens`."""
        parts = (
            (tokens.plain_input, self.input),
            (tokens.cached, self.cached_input or self.input),
            (tokens.written, self.cache_write or self.input),
            (tokens.audio_input, self.input_audio or self.input),
            (tokens.plain_output, self.output),
            (tokens.audio_output, self.output_audio or self.output),
        )
        return sum(count * _at(steps, tokens.prompt) for count, steps in parts)


_INPUT = ("input", "cached_input", "cache_write", "input_audio")
_OUTPUT = ("output", "output_audio")


def dearest(prices: Iterable[Mapping[str, Steps]]) -> tuple[int, int]:
    """The highest price of an input and of an output token, by `Rates`' names, in any of them and
    for a prompt of any size: no call costs more, whatever its tokens are."""
    given = list(prices)

    def highest(names: tuple[str, ...]) -> int:
        steps = [step for one in given for name in names for step in one.get(name, ())]
        return max((price for _, price in steps), default=0)

    return highest(_INPUT), highest(_OUTPUT)


def _at(steps: Steps, prompt: int) -> int:
    price = steps[0][1]
    for start, higher in steps[1:]:
        if prompt > start:
            price = higher
    return price


@dataclass(frozen=True, slots=True)
class Tokens:
    """A call's tokens by what they cost: parts that do not overlap. Reasoning is plain output."""

    plain_input: int
    cached: int
    written: int
    audio_input: int
    plain_output: int
    audio_output: int

    @property
    def prompt(self) -> int:
        """All that went in."""
        return self.plain_input + self.cached + self.written + self.audio_input


def tokens_of(usage: Usage) -> Tokens:
    """The parts of `usage`. A part is never larger than what is left of its whole."""
    left, details = usage.prompt_tokens, usage.details
    left -= (cached := min(left, usage.cached_tokens))
    left -= (written := min(left, _detail(details, "prompt_tokens_details", "cache_write_tokens")))
    left -= (audio := min(left, _detail(details, "prompt_tokens_details", "audio_tokens")))
    spoken = _detail(details, "completion_tokens_details", "audio_tokens")
    spoken = min(usage.completion_tokens, spoken)
    return Tokens(left, cached, written, audio, usage.completion_tokens - spoken, spoken)


def _detail(details: Mapping[str, Any] | None, group: str, name: str) -> int:
    found = None if details is None else details.get(group)
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if type(value) is int and value > 0 else 0


def nano(pico: int) -> int:
    """10^-9 dollars, rounded half up."""
    return (pico + PICO_PER_NANO // 2) // PICO_PER_NANO


def booked_cost(exchange: Exchange) -> int | None:
    """What a row says it cost, in 10^-9 dollars; None: not known. Without a call, 0 (D3)."""
    if exchange.attempts == 0 or exchange.cache in {CacheState.HIT, CacheState.JOINED}:
        return 0
    return exchange.cost.nano_usd


# Estimates ----------------------------------------------------------------------------------------


def missing_usage(
    policy: OnMissingUsage, *, status: int, prompt_bytes: int, content_bytes: int
) -> Usage:
    """What is booked for an answer that came without usage (requirement B3).

    `prompt_bytes` is what `text_bytes` counts of the request; `content_bytes` the UTF-8 bytes of
    what the model said, as far as it came (contents, refusals, reasoning, tool calls' arguments):
    never those of an error. Only an answer with 200 has a price.
    """
    if policy is OnMissingUsage.NONE or status != 200:
        return NO_USAGE
    output = content_bytes if policy is OnMissingUsage.ESTIMATE else 0
    return Usage(rough_tokens(prompt_bytes), rough_tokens(output), source=UsageSource.ESTIMATED)


def rough_tokens(size: int) -> int:
    """Tokens of so many bytes of text, where nothing depends on it being a bound."""
    return -(-size // BYTES_PER_TOKEN)


_DATA = frozenset({"url", "data", "file_data", "image_url", "file_id"})


def text_bytes(members: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a model reads as text in a request's members: messages, prompt, tools.
    Images, sounds and files are none, however long they are written."""
    return sum(_texts(members.get(name)) for name in ("messages", "prompt", "input", "tools"))


def prompt_bytes(body: bytes) -> int:
    """`text_bytes` of a request's body; all its bytes where no fast reader takes it."""
    try:
        return text_bytes(msgspec.json.decode(body, type=dict[str, Any]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return len(body)


def _texts(value: object) -> int:
    total, left = 0, [value]
    while left:  # no recursion: a body may be nested deeply
        item = left.pop()
        if isinstance(item, str):
            total += len(item.encode("utf-8", "replace"))
        elif isinstance(item, Mapping):
            left += [v for k, v in item.items() if k not in _DATA or isinstance(v, Mapping)]
        elif isinstance(item, list | tuple):
            left += item
    return total


def after_crash(policy: AfterCrash, held: Reservation) -> tuple[Usage, int | None]:
    """What is booked of a call that was open when the gateway died: tokens, and 10^-9 dollars."""
    if policy is AfterCrash.FULL:
        usage = Usage(held.prompt_tokens, held.completion_tokens, source=UsageSource.ESTIMATED)
        return usage, held.nano_usd
    return Usage(held.prompt_tokens, source=UsageSource.ESTIMATED), held.prompt_nano_usd


# Patterns -----------------------------------------------------------------------------------------


def glob(pattern: str) -> str:
    """A pattern, in which only `*` is special, in the words of SQLite's GLOB."""
    return pattern.replace("[", "[[]").replace("?", "[?]")
