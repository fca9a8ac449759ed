"""Rules for what the books are told: prices, limits, the time zone, what is kept."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from gateway.config.finding import Finding, Findings, positive
from gateway.config.sections import Config, DefaultLimits, ModelSection, Quota, TierPrice, Usage


def books(config: Config) -> Findings:
    """Every rule of `models`, `quota` and `usage` that is broken."""
    for finding in _models(config.models):
        yield finding.below("models")
    for finding in _quota(config.quota):
        yield finding.below("quota")
    for finding in _usage(config.usage):
        yield finding.below("usage")


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
