"""Figures with their floors and goals, medians and spread of rounds in turn, and their file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.load import Sample

Go = Callable[[float], Sample]


@dataclass
class Figure:
    """One row of the table. `values`: one for each round; `floor`, `goal` None: only told.

    `most`: a value above the floor misses it, else one below.
    """

    case: str
    what: str
    values: list[float]
    unit: str
    floor: float | None = None
    goal: float | None = None
    most: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def reaches(self, bound: float | None) -> bool:
        if bound is None:
            return True
        return self.median <= bound if self.most else self.median >= bound

    @property
    def verdict(self) -> str:
        if self.floor is None:
            return "told"
        if not self.reaches(self.floor):
            return "below the floor"
        return "goal" if self.reaches(self.goal) else "floor"

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        spread = f"  ({number(low)} to {number(high)})" if len(self.values) > 1 else ""
        bounds = ""
        if self.floor is not None:
            bounds = f"   floor {number(self.floor)}, goal {number(self.goal or 0)}"
        head = f"{self.case:9} {self.what:52} {number(self.median):>8} {self.unit}"
        note = f"   [{self.note}]" if self.note else ""
        return f"{head:78}{spread}{bounds}   {self.verdict.upper()}{note}"


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass
class Rounds:
    """What each side did, round by round, in turn."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def of(self, side: str, what: str) -> list[float]:
        return [float(getattr(sample, what)) for sample in self.samples[side]]

    def median(self, side: str, what: str) -> float:
        return statistics.median(self.of(side, what))

    def ratios(self, one: str, other: str, what: str = "capacity") -> list[float]:
        """`one` divided by `other`, round by round: what slows a round slows both."""
        pairs = zip(self.of(one, what), self.of(other, what), strict=True)
        return [mine / theirs for mine, theirs in pairs]

    def versus(self, case: str, what: str, sides: tuple[str, str], *bounds: float) -> Figure:
        """A row: one side's capacity against the other's; `bounds`: floor and goal, or neither."""
        floor, goal = bounds or (None, None)
        seen = statistics.median(self.ratios(*sides, "rate"))
        return Figure(
            case, what, self.ratios(*sides), "x", floor, goal, note=f"rates {number(seen)} x"
        )

    def lines(self) -> list[str]:
        return [
            f"  {name:20} {self.median(name, 'rate'):7,.0f} /s "
            f"({min(self.of(name, 'rate')):,.0f} to {max(self.of(name, 'rate')):,.0f}), "
            f"{self.median(name, 'capacity'):,.0f} a core   "
            f"p50 {self.median(name, 'p50') / 1000:8.3f} ms   "
            f"p99 {self.median(name, 'p99') / 1000:8.3f} ms   "
            f"CPU {self.median(name, 'cpu'):7.1f} us   "
            f"core {self.median(name, 'busy'):4.0%}"
            for name in self.samples
        ]


def in_turn(
    sides: Mapping[str, Go], rounds: int, seconds: float, say: Callable[[str], None]
) -> Rounds:
    """A B A B: every side warms up, then all have a go in each round, every other round backwards,
    so that none always comes first."""
    found = Rounds({name: [] for name in sides})
    for name, go in sides.items():
        say(f"{name} warms up")
        go(min(1.0, seconds))
    order: Sequence[str] = list(sides)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else reversed(order):
            say(f"round {turn + 1} of {rounds}: {name}")
            found.samples[name].append(sides[name](seconds))
    return found
