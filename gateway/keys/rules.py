"""Who is asking, decided from two header values. Pure: nothing here awaits or keeps anything.

Rule: what begins with `gw_`, and the admin token, is never anything but ours: it is refused here or
accepted here, and never forwarded (contract, "Callers").
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gateway.config import Anonymous, Keys
from gateway.entry import is_like
from gateway.errors import InvalidAPIKey
from gateway.exchange import Caller, CallerKind, Grant

ISSUED_PREFIX = "gw_"
KEY_BYTES = 32  # of randomness: no slow hash is needed, and no guess will do (C3)
SHOWN = len(ISSUED_PREFIX) + 4  # characters by which people tell keys apart
TOKEN_LIMIT = 4096  # characters; a JWT with many claims has about 2,000

# Wider than RFC 6750's b64token: any visible ASCII, since providers invent their own forms.
_TOKEN = re.compile(r"[!-~]+")

ANONYMOUS = Caller(CallerKind.ANONYMOUS, "anonymous", "anonymous")


@dataclass(frozen=True, slots=True)
class Policy:
    """The `keys` section, as it holds on this bind. `aliases`: shown name to alias."""

    passthrough: bool
    anonymous: bool
    aliases: Mapping[str, str] = field(default_factory=dict)


def policy(section: Keys, *, bind_is_loopback: bool) -> Policy:
    """What the section means where the data plane listens on that kind of address."""
    anonymous = section.anonymous is Anonymous.ALWAYS or (
        section.anonymous is Anonymous.LOOPBACK and bind_is_loopback
    )
    return Policy(section.passthrough, anonymous, dict(section.aliases))


def read_token(authorization: str | None, api_key: str | None) -> str | None:
    """The token of `Authorization: Bearer TOKEN`, else of `api-key: TOKEN`; None: both are blank.

    `Authorization` wins. InvalidAPIKey: another scheme, or what cannot be a token. Two headers of
    one name arrive joined by ", " and are no token either.
    """
    token = _bearer(authorization or "") or (api_key or "").strip()
    if not token:
        return None
    if len(token) > TOKEN_LIMIT or not is_token(token):
        raise InvalidAPIKey
    return token


def is_token(text: str) -> bool:
    """A header can carry it as one word."""
    return _TOKEN.fullmatch(text) is not None


def _bearer(authorization: str) -> str:
    """The scheme's name is case-insensitive (RFC 9110 section 11.1)."""
    scheme, _, token = authorization.strip().partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise InvalidAPIKey
    return token.strip()


def digest(text: str) -> bytes:
    """What secrets are compared by: of one length, so that comparing tells nothing about it."""
    return sha256(text.encode()).digest()


def same(token: str, expected: bytes) -> bool:
    """`token` has the digest `expected`; how long it takes does not tell where they differ (N2)."""
    return hmac.compare_digest(digest(token), expected)


def caller_of(token: str | None, policy: Policy, *, pepper: bytes, admin: bytes) -> Caller:
    """The caller behind a token (None: no credential) that is no issued key. `admin` is the digest
    of the admin token.

    Raises InvalidAPIKey: one answer for all that is not let in, whatever the reason.
    """
    if token is None:
        if policy.anonymous:
            return ANONYMOUS
        raise InvalidAPIKey
    ours = token.startswith(ISSUED_PREFIX) | same(token, admin)
    if ours or not policy.passthrough:
        raise InvalidAPIKey
    full = keyed(token, pepper).hex()
    shown = f"pass-{full[:8]}"
    return Caller(CallerKind.PASSTHROUGH, full, policy.aliases.get(shown, shown), token)


# Issued keys --------------------------------------------------------------------------------------

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = 43  # of base 62 hold 256 bits


def issue(entropy: bytes) -> str:
    """The text of a new key, from 32 random bytes."""
    number, digits = int.from_bytes(entropy[:KEY_BYTES], "big"), ""
    for _ in range(_DIGITS):
        number, rest = divmod(number, 62)
        digits = _BASE62[rest] + digits
    return ISSUED_PREFIX + digits


_ISSUED = re.compile(rf"{ISSUED_PREFIX}[0-9A-Za-z]{{{_DIGITS}}}")


def blotted(text: str) -> str:
    """Without issued keys: clients do put theirs into a path, a tag, a model's name (G7)."""
    return _ISSUED.sub("[key]", text) if ISSUED_PREFIX in text else text


@dataclass(frozen=True, slots=True)
class Peppers:
    """What keys are digested with; `old` while its keys move to the new one (docs/keys.md)."""

    current: bytes = field(repr=False)
    old: bytes | None = field(default=None, repr=False)

    @property
    def all(self) -> tuple[bytes, ...]:
        """The current one first."""
        return (self.current,) if self.old is None else (self.current, self.old)

    def word(self, name: str) -> str:
        """Which of them has that name: `current`, `old`, or `lost`."""
        if name == pepper_name(self.current):
            return "current"
        return "old" if self.old is not None and name == pepper_name(self.old) else "lost"


def keyed(token: str, pepper: bytes) -> bytes:
    """The digest that is kept in place of a token."""
    return hmac.new(pepper, token.encode(), sha256).digest()


def pepper_name(pepper: bytes) -> str:
    """What says under which pepper a digest was made, and nothing else about it."""
    return keyed("the name of this pepper", pepper).hex()[:16]


def may_use(grant: Grant | None, model: str | None) -> bool:
    """May the caller with that grant ask for `model`; None: the request names none.

    Where a key has patterns, a request without a model is not within them.
    """
    if grant is None or not grant.models:
        return True
    return model is not None and any(is_like(model, pattern) for pattern in grant.models)
