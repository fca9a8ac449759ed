"""The kinds of values that settings have, beside text, numbers and lists."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType
from urllib.parse import urlsplit

Size = NewType("Size", int)  # bytes; written 64MiB
Duration = NewType("Duration", float)  # seconds; written 30s, 24h, 7d
Part = NewType("Part", float)  # of a whole: 0 to 1
Price = NewType("Price", int)  # 10^-12 dollars per token; written 0.15, dollars per million tokens
Money = NewType("Money", int)  # 10^-9 dollars; written 12.50
Limit = NewType("Limit", int)  # a number of something; where it may be none, that is written none


class Period(StrEnum):
    """What a budget is for."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


# Where one of these may be absent, that is written `none`. For a yes-or-no it would read as no, for
# a price as free, and mean "as is usual": there it is not taken.
NONE_IS_A_WORD = frozenset({Duration, Limit, Money, Period})

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


class Secret(str):
    """Text that no repr shows; "" means none. As text, also in an f-string, it is the secret."""

    __slots__ = ()

    def masked(self) -> str:
        """What people may see of it."""
        return "***" if self else ""

    def __repr__(self) -> str:
        return repr(self.masked())


class SecretURL(Secret):
    """A URL, or a word in place of one, that may carry `user:password@`: only that is hidden."""

    __slots__ = ()

    def masked(self) -> str:
        try:
            netloc = urlsplit(self).netloc
        except ValueError:
            return super().masked()
        hidden = netloc.rpartition("@")[2]
        return self.replace(netloc, f"***@{hidden}", 1) if hidden != netloc else str(self)


NO_SECRET = Secret("")
PROXY_OF_THE_ENVIRONMENT = SecretURL("env")
