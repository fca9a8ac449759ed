"""One limit beside the windows that measure it, and its headers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from gateway.quota.rules import MINUTE, NEVER, WARN_AT, Level, Limit, reset_words
from gateway.quota.windows import TOKENS, Meter, Minute, Period, Windows

NOTHING = Meter()  # that a window has besides the open day


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks in seconds; `steady` is the one that never jumps."""

    wall: float
    steady: float


class Gauge:
    """A limit beside the windows that measure it, and its headers, as far as they stay the same.

    `meter` is the minute, or the open day; `past` what a wider window has besides that day. `text`
    are header lines in OpenAI's form: the limit, what is left of it (`%d`), when it is whole again;
    they hold in the tick `told`.
    """

    __slots__ = (
        *("_whole", "amount", "in_tokens", "limit", "meter", "past", "period", "text", "told"),
        "warn_at",
    )

    def __init__(self, limit: Limit, windows: Windows) -> None:
        self.limit, self.amount, self.in_tokens = limit, limit.amount, limit.unit == TOKENS
        self.period: Period | None = None
        self.meter: Meter
        self.past: Meter
        self.warn_at: float
        if limit.span == MINUTE:
            # A minute is over before a warning is read.
            self.meter, self.past, self.warn_at = windows.minute[limit.unit], NOTHING, NEVER
        else:
            self.period = windows.periods[limit.span, limit.unit]
            self.meter = windows.periods["day", limit.unit]
            self.past = NOTHING if limit.span == "day" else self.period
            self.warn_at = WARN_AT * limit.amount
        self.text, self.told, self._whole = "", -1, -1

    @property
    def may_warn(self) -> bool:
        """A warning is due when most of it is used, and was not given."""
        return self.warn_at < NEVER and not self.has_warned

    @property
    def has_warned(self) -> bool:
        """It was given in this window."""
        return self.period is not None and (self.limit.kind, self.amount) in self.period.warned

    @property
    def used(self) -> int:
        """In its window."""
        return self.meter.used + self.past.used

    @property
    def left(self) -> int:
        """Below 0 where it was lowered, or passed."""
        meter, past = self.meter, self.past
        return self.amount - meter.used - meter.held - past.used - past.held

    def note_warning(self) -> bool:
        """It is given now; False: it was before, or never is."""
        if self.period is None or self.has_warned:
            return False
        self.period.warned.add((self.limit.kind, self.amount))
        return True

    def level(self) -> Level:
        """How it stands."""
        return Level(self.limit, self.used, self.meter.held + self.past.held)

    def resets_in(self, now: Moment) -> float:
        """Seconds until it is as if nothing had been used; NEVER: it never is."""
        if self.period is not None:
            resets = self.period.end - now.wall
        else:
            assert isinstance(self.meter, Minute)
            resets = self.meter.resets_in(now.steady)
        return resets if resets > 0 else 0.0

    def tell(self, now: Moment, tick: int) -> bool:
        """Make `text`. False: it may be another one within the second."""
        resets = self.resets_in(now)
        whole = ceil(resets)
        if whole != self._whole or whole < 2:
            unit, self._whole = self.limit.unit, whole
            self.text = (
                f"x-ratelimit-limit-{unit}: {self.amount}\r\nx-ratelimit-remaining-{unit}: %d\r\n"
                f"x-ratelimit-reset-{unit}: {reset_words(resets)}\r\n"
            )
        if whole > 1 and self.period is not None:
            self.told = tick  # what is taken changes nothing of it
        return whole > 1
