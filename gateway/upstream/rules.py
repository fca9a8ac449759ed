"""What an upstream serves, whom it accepts, and where calls to it go.

Pure: values in, decisions out; nothing here awaits. See the contract's "Upstreams" and "Callers"
(reliability C3); headers have a file of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote_plus, unquote_to_bytes, urlsplit

from gateway.config import UpstreamSection, upstream_base
from gateway.config.addresses import is_echo
from gateway.entry import is_like
from gateway.errors import (
    InvalidAPIKey,
    MethodNotAllowed,
    ModelNotFound,
    UnknownURL,
    UpstreamNotAllowed,
)
from gateway.exchange import Caller, CallerKind
from gateway.ports import Upstream

# Models -------------------------------------------------------------------------------------------


class Models:
    """The models one upstream serves: `models` patterns and the public names of `rename`.

    `*` stands for any characters, `/` and none included; everything else is itself, case included.
    """

    __slots__ = ("_globs", "_literals", "_rename")

    def __init__(self, patterns: Sequence[str], rename: Mapping[str, str]) -> None:
        self._rename = dict(rename)
        self._literals = dict.fromkeys([*(p for p in patterns if "*" not in p), *rename])
        self._globs = [p for p in patterns if "*" in p]

    def match(self, model: str) -> bool:
        return model in self._literals or any(is_like(model, p) for p in self._globs)

    def real(self, model: str) -> str:
        return self._rename.get(model, model)

    @property
    def named(self) -> list[str]:
        """Public names that need no wildcard."""
        return list(self._literals)

    def public(self, listed: Iterable[Mapping[str, object]], owner: str) -> list[dict[str, object]]:
        """The upstream's model objects under public names, and beside them every name of ours."""
        found: dict[str, dict[str, object]] = {}
        for item in listed:
            real = item.get("id")
            if not isinstance(real, str):
                continue
            for name in [p for p, r in self._rename.items() if r == real] + [real]:
                if self.real(name) == real and self.match(name):
                    found.setdefault(name, {**item, "id": name})
        for name in self._literals:
            found.setdefault(name, {"id": name, "object": "model", "created": 0, "owned_by": owner})
        return list(found.values())


# Callers ------------------------------------------------------------------------------------------


_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def sendable(value: str) -> str | None:
    """A value that is sent as the same latin-1 bytes; None where it cannot be, or where a control
    byte is inside (RFC 9110 section 5.5)."""
    plain = value.isascii() and value.isprintable()
    return value if plain or not _UNSENDABLE.search(value) else None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use one upstream and with whose credential (contract, "Callers")."""

    keyless: bool
    api_key: str = field(repr=False)
    passthrough: bool
    share: bool
    header: str  # lower case; where the credential stands
    scheme: str  # "Bearer " or ""

    def accepts(self, kind: CallerKind) -> bool:
        if self.keyless:
            return True
        own_key = bool(self.api_key)
        if kind is CallerKind.ISSUED:
            return own_key
        if kind is CallerKind.PASSTHROUGH and self.passthrough:
            return True
        return own_key and self.share

    def forwards(self, kind: CallerKind) -> bool:
        """The caller's own token is what goes upstream."""
        return not self.keyless and kind is CallerKind.PASSTHROUGH and self.passthrough

    def shared_by(self, kind: CallerKind) -> bool:
        """Callers of that kind bring no credential of their own."""
        return kind is not CallerKind.ISSUED and not self.forwards(kind)

    def credential(self, caller: Caller) -> tuple[str, str] | None:
        """The one header that authenticates `caller` upstream; None for a keyless upstream."""
        if not self.accepts(caller.kind):
            raise UpstreamNotAllowed("This upstream does not serve this kind of caller.")
        if self.keyless:
            return None
        token = (caller.token or "") if self.forwards(caller.kind) else self.api_key
        value = sendable(self.scheme + token)
        if value is None or not token:
            raise InvalidAPIKey
        return self.header, value


def access(section: UpstreamSection) -> Access:
    """Compile `auth`, `api_key`, `passthrough` and `share_api_key`."""
    kind, _, name = section.auth.partition(":")
    return Access(
        keyless=kind == "none" or is_echo(section.base_url),
        api_key=section.api_key,
        passthrough=not section.api_key if section.passthrough is None else section.passthrough,
        share=section.share_api_key,
        header=name.lower() or "authorization",
        scheme="" if name else "Bearer ",
    )


def choose(upstreams: Sequence[Upstream], model: str | None, kind: CallerKind) -> Upstream:
    """The first upstream that serves `model` (None: that is not `echo:`) and accepts `kind`.

    ModelNotFound, UnknownURL: nobody serves it. UpstreamNotAllowed: somebody does, not this caller.
    """
    if model is None:
        serving = [u for u in upstreams if not u.builtin]
        if not serving:
            raise UnknownURL("No upstream is configured that could serve this path.")
    else:
        serving = [u for u in upstreams if u.serves(model)]
        if not serving:
            shown = model if len(model) <= 100 else f"{model[:100]}..."
            raise ModelNotFound(f"The model '{shown}' is served by no upstream.", param="model")
    for upstream in serving:
        if upstream.accepts(kind):
            return upstream
    settings = "api_key" if kind is CallerKind.ISSUED else "passthrough, share_api_key"
    raise UpstreamNotAllowed(
        f"The upstream '{serving[0].name}' does not serve {kind.value} callers: "
        f"use another key, or ask the operator ({settings})."
    )


# Paths and URLs -----------------------------------------------------------------------------------

# With the operator's own key nobody may delete what is the operator's.
HARMLESS = frozenset({"GET", "HEAD", "POST"})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PATH = re.compile(r"(?:[!\"$&->@-\[\]-~]|%[0-9A-Fa-f]{2})*")  # printable ASCII but # % ? and \
_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}")
_ODD = re.compile(rb"[\x00-\x1f\x7f\\]")
_QUERY_SAFE = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def check_method(method: str) -> None:
    """TRACE would show our own credential to the client (RFC 9110 section 9.3.8)."""
    if method not in METHODS:
        raise MethodNotAllowed("This method is not relayed.", allow=", ".join(METHODS))


def safe_path(path: str) -> bool:
    """`is_safe`, remembered for the paths that are asked for all day."""
    return _remembered(path) if len(path) <= 64 else is_safe(path)


def is_safe(path: str) -> bool:
    """No way out of the upstream's base path: no dot segments, encoded slashes, backslashes or
    controls, also not behind more layers of percent-encoding."""
    if _PATH.fullmatch(path) is None:
        return False
    raw = path.encode("ascii")
    slashes = raw.count(b"/")
    for _ in range(3):
        if _ODD.search(raw) or raw.count(b"/") != slashes:
            return False
        if any(part.split(b";")[0] in {b".", b".."} for part in raw.split(b"/")):
            return False
        if _ENCODED.search(raw) is None:
            return True
        raw = unquote_to_bytes(raw)
    return False


_remembered = lru_cache(256)(is_safe)


def allowed_path(path: str, prefixes: Sequence[str]) -> bool:
    """`path` is one of `prefixes` or below it, by whole segments."""
    return any(path == p or path.startswith(f"{p}/") for p in prefixes)


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go: `prefix` ends with a slash; `query` is the configured one, encoded."""

    prefix: str
    query: str = field(repr=False)
    names: frozenset[str]

    @property
    def origin(self) -> str:
        """Scheme, host and port as they stand in `prefix`."""
        parts = urlsplit(self.prefix)
        return self.prefix[: len(parts.scheme) + len("://") + len(parts.netloc)]

    def url(self, path: str, query: str) -> str:
        """The absolute URL: the client's path and query as they came, configured parameters win."""
        if not safe_path(path):
            raise UnknownURL("This path is not relayed.")
        kept = quote(query.encode("latin-1", "replace"), safe=_QUERY_SAFE)
        if self.names:
            pairs = [p for p in kept.split("&") if p and _name(p) not in self.names]
            kept = "&".join([*pairs, self.query])
        return f"{self.prefix}{path}?{kept}" if kept else f"{self.prefix}{path}"


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


def target(section: UpstreamSection) -> Target:
    """Compile `base_url` and `query`."""
    pairs = [f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in section.query.items()]
    return Target(f"{upstream_base(section.base_url)}/", "&".join(pairs), frozenset(section.query))
