"""An issued key and a team, as they are kept, and the words they are made of. Pure and frozen:
nothing here awaits, reads a clock or opens a file.

Rule: the key itself is in no record; what is kept is its digest under a pepper.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.exchange import Caller, CallerKind, Grant

Limits = Mapping[str, int | str]  # by option name; `budget` in nano-dollars, `per` a word

NEVER = math.inf  # wall seconds at which something ends that has no end
ENDED = -math.inf

_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._@-]{1,64}")
# Names that mean something else: callers without a key, the word that clears, an id.
_RESERVED = re.compile(r"anonymous|none|pass-[0-9a-f]{8}|[0-9A-HJKMNP-TV-Z]{26}")


class State(StrEnum):
    """May a key still be used."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Team:
    """Keys that share limits. `created` in wall seconds."""

    id: str
    name: str
    created: float
    limits: Limits = field(default_factory=dict)


NO_TEAM = Team("", "", 0.0)


@dataclass(frozen=True, slots=True)
class Key:
    """One issued key. Times in wall seconds.

    `shown` is its first characters. `digest` is its HMAC under the pepper that `pepper` names.
    `previous` is the digest of the key that a rotation replaced, good until `previous_until`.
    `grant` is without the team's limits.
    """

    id: str
    name: str
    shown: str
    digest: bytes = field(repr=False)
    pepper: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    previous: bytes | None = field(default=None, repr=False)
    previous_until: float | None = None
    team_id: str | None = None
    grant: Grant = field(default_factory=Grant)

    def state(self, now: float) -> State:
        """As of `now`."""
        if self.revoked is not None:
            return State.REVOKED
        return State.ACTIVE if now < self._end else State.EXPIRED

    @property
    def _end(self) -> float:
        return NEVER if self.expires is None else self.expires

    def good_until(self, digest: bytes) -> float:
        """The wall second from which the credential with this digest is refused; it was never good
        where that is `ENDED`. How long this takes tells nothing about the digest (N2)."""
        current = hmac.compare_digest(digest, self.digest)
        before = hmac.compare_digest(digest, self.previous or b"")
        if self.revoked is not None or not current | before:
            return ENDED
        return self._end if current else min(self._end, self.previous_until or ENDED)


def caller_for(key: Key, team: Team | None) -> Caller:
    """Who asks with it."""
    mine, limits = key.grant, {} if team is None else team.limits
    grant = Grant(
        mine.models, mine.cache, mine.scope, mine.controls, mine.log_bodies, mine.limits, limits
    )
    name, team_id = (None, None) if team is None else (team.name, team.id)
    return Caller(CallerKind.ISSUED, key.id, key.name, team=name, team_id=team_id, grant=grant)


def check_name(name: str) -> None:
    """ValueError: not the name of a key or a team."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 of A-Z a-z 0-9 . _ @ - and a letter or digit in it")
    if _RESERVED.fullmatch(name):
        raise ValueError("this name has a meaning of its own; take another")
