"""Rules for what is written down: prices, limits, the time zone, what books and journal keep."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from gateway.config.finding import Finding, Findings, positive
from gateway.config.kinds import (
    MiB,
)
from gateway.config.sections import (
    Config,
    DefaultLimits,
    Journal,
    ModelSection,
    Quota,
    TierPrice,
    Usage,
)


def books(config: Config) -> Findings:
    """Every rule of `models`, `quota`, `usage` and `journal` that is broken."""
    for finding in _models(config.models):
        yield finding.below("models")
    for finding in _quota(config.quota):
        yield finding.below("quota")
    for finding in _usage(config.usage):
        yield finding.below("usage")
    for finding in _journal(config.journal):
        yield finding.below("journal")


def _models(models: list[ModelSection]) -> Findings:
    for index, model in enumerate(models):
        if not model.name.strip():
            yield Finding((index, "name"), "a model's name or a pattern is wanted")
        if (model.input is None) != (model.output is None):
            given, missing = ("output", "input") if model.input is None else ("input", "output")
            yield Finding((index, given), f"needs {missing} too", ((index, missing),))
        if model.input is None and (model.cached_input is not None or model.tiers):
            given = "tiers" if model.cached_input is None else "cached_input"
            yield Finding((index, given), "needs input and output too", ((index, "input"),))
        for finding in positive(model, "context_tokens"):
            yield finding.below(index)
        for tier, price in model.tiers.items():
            if price == TierPrice():
                yield Finding((index, "tiers", tier), "says no price: input, output, cached_input")


def _quota(quota: Quota) -> Findings:
    try:
        ZoneInfo(quota.timezone)
    except (ValueError, OSError, LookupError):
        yield Finding(("timezone",), "a time zone's name is wanted: UTC, Europe/Berlin")
    yield from positive(quota, "default_output", "clamp_min")
    for finding in _limits(quota.default):
        yield finding.below("default")


def _limits(limits: DefaultLimits) -> Findings:
    yield from positive(limits, *(name for name in limits.by_name if name != "per"))
    if (limits.budget is None) != (limits.per is None):
        given, missing = ("per", "budget") if limits.budget is None else ("budget", "per")
        yield Finding((given,), f"needs {missing} too", ((missing,),))


def _usage(usage: Usage) -> Findings:
    yield from positive(usage, "commit_wait", "keep")


_BODIES_AT_LEAST = 64  # of the largest size: the files then stay near their limit
_SHORTEST_LIMIT = 16 * MiB


def _journal(journal: Journal) -> Findings:
    yield from positive(journal, "max_body", "keep")
    if journal.size_limit < max(_SHORTEST_LIMIT, _BODIES_AT_LEAST * journal.max_body):
        why = f"too small: at least 16MiB, and {_BODIES_AT_LEAST} times max_body"
        yield Finding(("size_limit",), why, (("max_body",),))
    for finding in positive(journal.queue, "records", "bytes"):
        yield finding.below("queue")
    for index, rule in enumerate(journal.models):
        for place, pattern in enumerate(rule.models):
            if not pattern.strip():
                what = "a model's name or pattern is wanted (gpt-*)"
                yield Finding(("models", index, "models", place), what)
    for index, name in enumerate(journal.redact.members):
        if not name.strip():
            yield Finding(("redact", "members", index), "a member's name is wanted: password")
    for index, pattern in enumerate(journal.redact.patterns):
        if (fault := _pattern_fault(pattern)) is not None:
            yield Finding(("redact", "patterns", index), fault)


def _pattern_fault(pattern: str) -> str | None:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return "not a regular expression of Python's re"
    return "matches the empty text: it would match everywhere" if compiled.search("") else None
