"""Windows: what is used, and held by open reservations, of the last minute and of calendar spans.

Rule: pure. A request keeps the slots that it was counted in and settles there, so what it takes
belongs to the windows of its admission, however long it lasts (F6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

LOOK_BACK = 60  # whole seconds before the current one: no 60 s of any offset hold more (design.md)

Bounds = Mapping[str, tuple[float, float]]
"""By span (`day`, `week`, `month`, `total`) its first and its last moment, in wall seconds. The
same object for as long as none of them has changed."""


class Bucket:
    """One second of a sliding window. `of` None: it has left the window."""

    __slots__ = ("held", "of", "second", "used")

    def __init__(self, second: int, of: Sliding) -> None:
        self.second, self.used, self.held = second, 0, 0
        self.of: Sliding | None = of

    def settle(self, held: int, used: int) -> None:
        """`held` less is held, `used` more is used."""
        self.held -= held
        self.used += used
        if self.of is not None:
            self.of.held -= held
            self.of.used += used


class Sliding:
    """The current second and the 60 whole ones before it, on the monotonic clock."""

    __slots__ = ("_buckets", "held", "used")

    def __init__(self) -> None:
        self.used = self.held = 0
        self._buckets: deque[Bucket] = deque()

    def roll(self, second: int) -> None:
        """Let go of what is too old."""
        buckets, oldest = self._buckets, second - LOOK_BACK
        while buckets and buckets[0].second < oldest:
            gone = buckets.popleft()
            gone.of = None
            self.used -= gone.used
            self.held -= gone.held

    def slot(self, second: int) -> Bucket:
        """Its bucket. Seconds never run backwards."""
        buckets = self._buckets
        if not buckets or buckets[-1].second < second:
            self.roll(second)
            buckets.append(Bucket(second, self))
        return buckets[-1]

    def refill(self, second: int, used: int) -> None:
        """What was used before the start; to be called in rising order."""
        if not self._buckets or self._buckets[-1].second < second:
            self._buckets.append(Bucket(second, self))
        self._buckets[-1].settle(0, used)

    def room_in(self, need: int, limit: int, now: float) -> float:
        """Seconds until `need` more fit into `limit`, if nothing else comes and nothing held is
        given back."""
        over, until = self.used + self.held + need - limit, now
        for bucket in self._buckets:
            if over <= 0:
                break
            over -= bucket.used + bucket.held
            until = bucket.second + LOOK_BACK + 1
        return max(0.0, until - now)

    def resets_in(self, now: float) -> float:
        """Seconds until nothing of it is left."""
        return self._buckets[-1].second + LOOK_BACK + 1 - now if self._buckets else 0.0


class Period:
    """One calendar window, in wall seconds from `start` to `end`. `warned`: limits whose warning
    was given in it."""

    __slots__ = ("end", "held", "start", "used", "warned")

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self.used = self.held = 0
        self.warned: set[tuple[str, int]] = set()


REQUESTS, TOKENS, MONEY = "requests", "tokens", "money"
# What is counted of every account, whatever its limits are: one that is set later counts the past.
PERIODS = (
    ("day", REQUESTS),
    ("day", TOKENS),
    ("month", TOKENS),
    *((span, MONEY) for span in ("day", "week", "month", "total")),
)
SHELF = 3 * len(PERIODS)  # windows kept behind, for clocks that are set back


class Windows:
    """All windows of one account (a key, a team)."""

    __slots__ = ("_bounds", "_shelf", "minute", "parallel", "periods")

    def __init__(self, bounds: Bounds) -> None:
        self.parallel = 0
        self.minute = {REQUESTS: Sliding(), TOKENS: Sliding()}
        self.periods = {name: Period(*bounds[name[0]]) for name in PERIODS}
        self._shelf: dict[tuple[str, str, float], Period] = {}
        self._bounds = bounds

    def roll(self, bounds: Bounds, second: int) -> bool:
        """Bring all of it to this second (monotonic) and to the calendar's `bounds`; True: other
        `periods` are open now. A clock that was set forward and back finds the one that it left."""
        self.minute[REQUESTS].roll(second)
        self.minute[TOKENS].roll(second)
        if bounds is self._bounds:
            return False
        self._bounds = bounds
        for (span, unit), period in self.periods.items():
            start, end = bounds[span]
            if period.start == start:
                continue
            self._shelf[span, unit, period.start] = period
            found = self._shelf.pop((span, unit, start), None)
            self.periods[span, unit] = found or Period(start, end)
        while len(self._shelf) > SHELF:
            del self._shelf[next(iter(self._shelf))]
        return True

    @property
    def meters(self) -> tuple[Sliding | Period, ...]:
        """All but `parallel`."""
        return (*self.minute.values(), *self.periods.values())
