"""What limits say about a request: let it go, let it wait, lower its cap, refuse it. Pure.

Rule: numbers in, decisions out. Money is counted in 10^-9 dollars, prices in 10^-12 per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from gateway.config import AtLimit
from gateway.exchange import Bound
from gateway.quota.windows import ENDLESS, MONEY, REQUESTS, TOKENS

PARALLEL = "parallel"
MINUTE, TOTAL, NOW = "minute", "total", "now"
NEVER = float("inf")
PICO = 1000  # in a nano-dollar
WARN_AT = 0.8

Given = Mapping[str, int | str]
"""Limits by option name, as keys, teams and `quota.default` have them."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`kind` is the option's name; `amount` in requests, tokens, 10^-9 dollars or calls at once;
    `span` the window it holds for."""

    kind: str
    amount: int
    unit: str
    span: str


_KINDS = {
    "rpm": (REQUESTS, MINUTE),
    "requests_per_day": (REQUESTS, "day"),
    "max_parallel": (PARALLEL, NOW),
    "tpm": (TOKENS, MINUTE),
    "tokens_per_day": (TOKENS, "day"),
    "tokens_per_month": (TOKENS, "month"),
}


def limits_of(own: Given, default: Given) -> tuple[Limit, ...]:
    """A key's own limits, and of the default those that it has not itself."""
    given = {**default, **own}
    if "budget" in own:
        given["per"] = own.get("per", TOTAL)
    found = [
        Limit(kind, int(given[kind]), unit, span)
        for kind, (unit, span) in _KINDS.items()
        if kind in given
    ]
    if "budget" in given:
        found.append(Limit("budget", int(given["budget"]), MONEY, str(given.get("per", TOTAL))))
    return tuple(found)


# Room ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Level:
    """How a limit on tokens or money stands at this moment."""

    limit: Limit
    used: int
    held: int


def need(bound: Bound, output: int) -> tuple[int, int]:
    """Tokens and 10^-9 dollars that a call takes at most with so many output tokens for each
    answer."""
    prompt, said = bound.prompt, output * bound.n + bound.extra
    pico = prompt * bound.input_pico + said * bound.output_pico
    return prompt + said, -(-pico // PICO)


def all_output(bound: Bound, output: int) -> int:
    """Tokens of all answers, with so many for each, and of what is billed beside them."""
    return output * bound.n + bound.extra


def nano(bound: Bound, prompt: int, said: int) -> int:
    """What so many tokens cost at the bound's prices, in 10^-9 dollars, rounded up."""
    return -(-(prompt * bound.input_pico + said * bound.output_pico) // PICO)


def largest_output(bound: Bound, unit: str, left: int) -> int:
    """The most output tokens for each answer that fit into `left`; -1: not even the prompt does."""
    if unit == TOKENS:
        rest, price = left - bound.prompt - bound.extra, bound.n
    else:
        taken = bound.prompt * bound.input_pico + bound.extra * bound.output_pico
        rest, price = left * PICO - taken, bound.n * bound.output_pico
    if rest < 0:
        return -1
    return rest // price if price else ENDLESS


class Step(Enum):
    """What is to be done with a call."""

    GO = "go"
    CLAMP = "clamp"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """`output`: tokens for each answer, of GO and CLAMP."""

    step: Step
    output: int = 0


def decide(
    bound: Bound, levels: Sequence[Level], at_limit: AtLimit, clamp_min: int, *, patient: bool
) -> Decision:
    """What becomes of a call. `patient`: it may still wait for open reservations to settle."""
    if at_limit is AtLimit.LAST_REQUEST:
        return _cross(bound, levels, patient=patient)
    now = min((_fits(bound, one, one.used + one.held) for one in levels), default=ENDLESS)
    if now >= bound.output:
        return Decision(Step.GO, bound.output)
    settled = min(_fits(bound, one, one.used) for one in levels)
    if settled >= bound.output and patient:
        return Decision(Step.WAIT)
    if at_limit is AtLimit.CLAMP and clamp_min <= bound.output:
        if now >= clamp_min:
            return Decision(Step.CLAMP, now)
        if settled >= clamp_min and patient:
            return Decision(Step.WAIT)
    return Decision(Step.REFUSE)


def _fits(bound: Bound, level: Level, taken: int) -> int:
    return largest_output(bound, level.limit.unit, level.limit.amount - taken)


def _cross(bound: Bound, levels: Sequence[Level], *, patient: bool) -> Decision:
    """One request may cross a limit that is not used up; those behind it wait for what it took."""
    if all(one.used + one.held < one.limit.amount for one in levels):
        return Decision(Step.GO, bound.output)
    spent = any(one.used >= one.limit.amount for one in levels)
    return Decision(Step.REFUSE if spent or not patient else Step.WAIT)


class Why(Enum):
    """Why a limit refuses, the hardest last."""

    HELD = 0  # it would fit once open reservations have settled
    USED = 1  # used up
    WHOLE = 2  # no window is large enough


@dataclass(frozen=True, slots=True)
class Blame:
    """The limit that refuses. `fits`: the largest output cap that it would take in an unused window
    (WHOLE) or takes now; -1: not even the prompt."""

    level: Level
    why: Why
    fits: int


def blame(bound: Bound, level: Level, at_limit: AtLimit, clamp_min: int) -> Blame | None:
    """What this limit has against a call that was refused; None: nothing."""
    limit, least = level.limit, bound.output
    if at_limit is AtLimit.LAST_REQUEST:
        if level.used + level.held < limit.amount:
            return None
        return Blame(level, Why.USED if level.used >= limit.amount else Why.HELD, -1)
    if at_limit is AtLimit.CLAMP:
        least = min(least, clamp_min)
    whole = largest_output(bound, limit.unit, limit.amount)
    if whole < least:
        return Blame(level, Why.WHOLE, whole)
    settled = _fits(bound, level, level.used)
    if settled < least:
        return Blame(level, Why.USED, settled)
    if _fits(bound, level, level.used + level.held) < least:
        return Blame(level, Why.HELD, settled)
    return None


# Words --------------------------------------------------------------------------------------------


def amount(limit: Limit, value: int) -> str:
    """A figure of that limit for people."""
    if limit.unit == MONEY:
        return f"${value / 10**9:,.6f}".rstrip("0").removesuffix(".")
    return f"{value:,}"


def span_words(limit: Limit) -> str:
    """What the limit is, in words."""
    unit = {MONEY: "budget", TOKENS: "tokens", REQUESTS: "requests", PARALLEL: "requests"}
    if limit.span == NOW:
        return "requests at a time (max_parallel)"
    per = "in total" if limit.span == TOTAL else f"a {limit.span}"
    return f"{unit[limit.unit]} {per} ({limit.kind})"


def at(moment: float) -> str:
    """Wall seconds for people, in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_words(seconds: float) -> str:
    """A duration for people: days and hours, else as `reset_words`."""
    if seconds < 2 * 86_400:
        return reset_words(seconds)
    days, hours = divmod(-int(-seconds // 3600), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def reset_words(seconds: float) -> str:
    """A duration as OpenAI's headers write it: `1s`, `6m0s`, `23h59m59s`; below a second `12ms`
    (platform.openai.com/docs/guides/rate-limits, "Rate limits in headers")."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    whole = -int(-seconds // 1)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
