"""Windows: what is used, and held by open reservations, of the last minute and of calendar spans.

Rule: pure. A request keeps the buckets that it was counted in and settles there, so what it takes
belongs to the windows of its admission, however long it lasts (F6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

LOOK_BACK = 60  # whole seconds before the current one: no 60 s of any offset hold more (design.md)
ENDLESS = 2**62  # of anything, where no limit says anything about it

Bounds = Mapping[str, tuple[float, float]]
"""By span (`day`, `week`, `month`, `total`) its first and its last moment, in wall seconds. The
same object for as long as none of them has changed."""

REQUESTS, TOKENS, MONEY = "requests", "tokens", "money"
# What is counted of every account, whatever its limits are: one that is set later counts the past.
PERIODS = (
    ("day", REQUESTS),
    ("day", TOKENS),
    ("month", TOKENS),
    *((span, MONEY) for span in ("day", "week", "month", "total")),
)
SHELF = 3 * len(PERIODS)  # windows kept behind, for clocks that are set back


class Meter:
    """What is used, and held, of one unit in one window."""

    __slots__ = ("held", "used")

    def __init__(self) -> None:
        self.used = self.held = 0


class Bucket:
    """One second of one account: where its requests of that second are counted, and its calls hold.

    `fresh` requests were counted last and are not in any window yet; above `full` of them there is
    something to look at; `top` less `fresh` is what is left of the tightest limit on requests.
    """

    __slots__ = (
        *("day", "fresh", "full", "held", "minute", "minute_requests", "money", "requests"),
        *("second", "tokens", "top", "used"),
    )

    def __init__(self, second: int, windows: Windows) -> None:
        self.second = second
        self.requests = self.used = self.held = self.fresh = 0  # `used` and `held` are tokens
        self.full = self.top = ENDLESS
        self.minute_requests: Meter = windows.minute[REQUESTS]
        self.minute: Meter = windows.minute[TOKENS]
        periods = windows.periods
        self.day, self.tokens = periods["day", REQUESTS], periods["day", TOKENS]
        self.money = periods["day", MONEY]

    def count(self, number: int) -> None:
        """So many requests more, in its windows."""
        self.requests += number
        self.minute_requests.used += number
        self.day.used += number

    def taken(self, unit: str) -> int:
        """All of its second, used and held."""
        return self.requests + self.fresh if unit == REQUESTS else self.used + self.held


class Minute(Meter):
    """The current second and the 60 whole ones before it, on the monotonic clock."""

    __slots__ = ("_buckets", "_unit")

    def __init__(self, unit: str, buckets: deque[Bucket]) -> None:
        super().__init__()
        self._unit, self._buckets = unit, buckets

    def room_in(self, need: int, limit: int, now: float) -> float:
        """Seconds until `need` more fit into `limit`, if nothing else comes and nothing held is
        given back."""
        over, until = self.used + self.held + need - limit, now
        for bucket in self._buckets:
            if over <= 0:
                break
            if taken := bucket.taken(self._unit):
                over -= taken
                until = bucket.second + LOOK_BACK + 1
        return max(0.0, until - now)

    def resets_in(self, now: float) -> float:
        """Seconds until nothing of it is left."""
        for bucket in reversed(self._buckets):
            if bucket.taken(self._unit):
                return bucket.second + LOOK_BACK + 1 - now
        return 0.0


class Period(Meter):
    """One calendar window, in wall seconds from `start` to `end`. `warned`: limits whose warning
    was given in it.

    Of a wider one than a day, it has all but what the open day has. `above`: of a day that is no
    longer open, the wider ones that have its figures.
    """

    __slots__ = ("above", "end", "start", "warned")

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.above: tuple[Period, ...] = ()
        self.warned: set[tuple[str, int]] = set()

    def close(self, above: Iterable[Period]) -> None:
        """This day is over: the wider ones take its figures."""
        self.above = tuple(above)
        for wider in self.above:
            wider.used += self.used
            wider.held += self.held

    def open(self) -> None:
        """It is the open day: its figures stand here alone."""
        for wider in self.above:
            wider.used -= self.used
            wider.held -= self.held
        self.above = ()


class Windows:
    """All windows of one account (a key, a team)."""

    __slots__ = ("_bounds", "_buckets", "_shelf", "minute", "periods")

    def __init__(self, bounds: Bounds) -> None:
        self._buckets: deque[Bucket] = deque()
        self.minute = {unit: Minute(unit, self._buckets) for unit in (REQUESTS, TOKENS)}
        self.periods = {name: Period(*bounds[name[0]]) for name in PERIODS}
        self._shelf: dict[tuple[str, str, float], Period] = {}
        self._bounds = bounds

    def roll(self, bounds: Bounds, second: int) -> bool:
        """Bring all of it to this second (monotonic) and to the calendar's `bounds`; True: other
        `periods` are open now. A clock that was set forward and back finds the one that it left."""
        buckets, oldest = self._buckets, second - LOOK_BACK
        while buckets and buckets[0].second < oldest:
            gone = buckets.popleft()
            self.minute[REQUESTS].used -= gone.requests
            self.minute[TOKENS].used -= gone.used
            self.minute[TOKENS].held -= gone.held
            gone.minute = gone.minute_requests = Meter()  # nobody reads it
        if bounds is self._bounds:
            return False
        self._bounds = bounds
        self._turn_pages(bounds)
        return True

    def _turn_pages(self, bounds: Bounds) -> None:
        periods = self.periods
        for unit in (TOKENS, MONEY):
            periods["day", unit].close(
                one for (span, of), one in periods.items() if of == unit and span != "day"
            )
        for (span, unit), period in periods.items():
            start, end = bounds[span]
            if period.start == start:
                continue
            self._shelf[span, unit, period.start] = period
            found = self._shelf.pop((span, unit, start), None)
            periods[span, unit] = found or Period(start, end)
        for unit in (TOKENS, MONEY):
            periods["day", unit].open()
        while len(self._shelf) > SHELF:
            del self._shelf[next(iter(self._shelf))]

    def bucket(self, second: int) -> Bucket:
        """That of this second, in the open day. Seconds never run backwards."""
        buckets = self._buckets
        if buckets:
            last = buckets[-1]
            if last.second >= second and last.day is self.periods["day", REQUESTS]:
                return last
        bucket = Bucket(second, self)
        buckets.append(bucket)
        return bucket

    def restore(self, name: tuple[str, str], used: int) -> None:
        """What was used of a period before the start; a day's first."""
        span, unit = name
        day = 0 if span == "day" else self.periods["day", unit].used
        self.periods[name].used = used - day

    def refill(self, second: int, requests: int, tokens: int) -> None:
        """What was used of the last minute before the start; to be called in rising order."""
        bucket = self.bucket(second)
        bucket.requests += requests
        bucket.used += tokens
        bucket.minute_requests.used += requests
        bucket.minute.used += tokens

    @property
    def held(self) -> int:
        """All that is held of any window."""
        meters = (*self.minute.values(), *self.periods.values())
        return sum(meter.held for meter in meters)


# On the way of each call ----------------------------------------------------------------------


def hold(buckets: Iterable[Bucket], tokens: int, nano_usd: int) -> None:
    """So much more is held in the windows of all of them, which are of this moment."""
    for bucket in buckets:
        bucket.held += tokens
        bucket.minute.held += tokens
        bucket.tokens.held += tokens
        if nano_usd:
            bucket.money.held += nano_usd


def settle(
    buckets: Iterable[Bucket], held: int, used: int, held_nano_usd: int, nano_usd: int
) -> None:
    """So much less is held, so much more is used. The day may be over that they belong to."""
    for bucket in buckets:
        bucket.held -= held
        bucket.used += used
        meter = bucket.minute
        meter.held -= held
        meter.used += used
        day = bucket.tokens
        day.held -= held
        day.used += used
        for wider in day.above:
            wider.held -= held
            wider.used += used
        if held_nano_usd or nano_usd:
            day = bucket.money
            day.held -= held_nano_usd
            day.used += nano_usd
            for wider in day.above:
                wider.held -= held_nano_usd
                wider.used += nano_usd
