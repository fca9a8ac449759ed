"""What an upstream serves, whom it accepts, and what goes to it and comes back from it.

Pure: values in, decisions out; nothing here awaits. The lists are design.md's "Edits to what passes
through" and the contract's "Upstreams" and "Callers" (requirements K2, K3; reliability C3).
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
from gateway.exchange import Caller, CallerKind, HeaderList
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

    def forwards(self, caller: Caller) -> bool:
        """The caller's own token is what goes upstream."""
        return not self.keyless and caller.kind is CallerKind.PASSTHROUGH and self.passthrough

    def credential(self, caller: Caller) -> tuple[str, str] | None:
        """The one header that authenticates `caller` upstream; None for a keyless upstream."""
        if not self.accepts(caller.kind):
            raise UpstreamNotAllowed("This upstream does not serve this kind of caller.")
        if self.keyless:
            return None
        token = (caller.token or "") if self.forwards(caller) else self.api_key
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

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
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


# Headers ------------------------------------------------------------------------------------------

# RFC 9110 section 7.6.1, and the proxy fields of sections 11.7.1 to 11.7.3
HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info",
    "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip

# What a client may say to an upstream; all else stays here. Left out on purpose: credentials,
# cookies, X-Forwarded-* (K3), x-request-id (ours answers for it), accept-language (says who asks).
# `x-title` and `http-referer` name an app to OpenRouter; `range` resumes the download of a file.
FORWARDED = frozenset({
    "accept", "content-type", "user-agent", "idempotency-key", "x-client-request-id", "traceparent",
    "tracestate", "x-title", "http-referer", "range", "if-range",
})  # fmt: skip
FORWARDED_PREFIXES = ("openai-", "x-stainless-", "anthropic-")

# Forwarded headers that may change an answer: they belong to what identifies an equal request.
# With the operator's own key nobody may delete what is the operator's.
HARMLESS = frozenset({"GET", "HEAD", "POST"})
SEMANTIC_PREFIXES = ("openai-", "anthropic-")

# Judged against the credential they come with: meaningless or wrong beside the upstream's own key.
OWN_TOKEN_ONLY = frozenset({"openai-organization", "openai-project"})

# What of an upstream's answer ends here: facts about its connection (K2), a framing we make anew,
# permissions that are the gateway's to give (CORS), and words that steer a proxy in front of us.
DROPPED = HOP_BY_HOP | {
    "content-length", "date", "server", "set-cookie", "set-cookie2", "alt-svc", "x-powered-by",
    "strict-transport-security", "x-sendfile",
}  # fmt: skip
DROPPED_PREFIXES = ("x-gateway-", "access-control-", "x-accel-")

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def sendable(value: str) -> str | None:
    """A value that is sent as the same latin-1 bytes; None where it cannot be, or where a control
    byte is inside (RFC 9110 section 5.5)."""
    return None if _UNSENDABLE.search(value) else value


def configured_headers(headers: Mapping[str, str]) -> HeaderList:
    """The configuration's headers: names in lower case; values leave as UTF-8."""
    return [(name.lower(), str(v).encode().decode("latin-1")) for name, v in headers.items()]


def request_head(start: str, headers: HeaderList, framing: str) -> bytes:
    """The bytes of a request's head. `start`: its first lines; `framing`: the line that says how
    long its body is, or "". ValueError rather than a line more than was meant."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    head = f"{start}{lines}{framing}\r\n".encode("latin-1")
    if head.count(b"\n") != len(headers) + 3 + bool(framing) or head.count(b"\r\n\r\n") != 1:
        raise ValueError("a request's head would not be what it says")
    return head


def request_headers(
    headers: HeaderList, caller: Caller, access: Access, configured: HeaderList, via: str
) -> HeaderList:
    """What goes upstream: what the client may say, the credential, ours; configured ones win."""
    dropped = _named_in_connection(headers)
    dropped.update(name for name, _ in configured)
    if not access.forwards(caller):
        dropped |= OWN_TOKEN_ONLY
    found: HeaderList = []
    hops: list[str] = []
    for name, value in headers:
        text = sendable(value)
        if text is None or name in dropped or "_" in name:
            continue
        if name == "via":
            hops.append(text)
        elif name in FORWARDED or name.startswith(FORWARDED_PREFIXES):
            found.append((name, text))
    found.append(("via", ", ".join([*hops, via])))
    found.append(("accept-encoding", "identity"))  # I3: who reads the answer can read it
    credential = access.credential(caller)
    if credential is not None:
        found.append(credential)
    names = {name for name, _ in configured}
    return [pair for pair in found if pair[0] not in names] + configured


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What an upstream's head says. `headers`: what is passed on; `length`: of the body, declared;
    `encoded`: with a Content-Encoding that was not asked for."""

    headers: HeaderList
    length: int | None
    encoded: bool
    transfer_encoding: str | None


def response_head(raw: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """Read a head: names in lower case, values latin-1."""
    headers = [(n.decode("latin-1").lower(), v.decode("latin-1").strip(" \t")) for n, v in raw]
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _OF_THE_BODY:
            found[name] = f"{found[name]}, {value}" if name in found else value
    length = found.get("content-length", "")
    return ResponseHead(
        headers=_passed_on(headers),
        length=int(length) if length.isdecimal() else None,
        encoded=found.get("content-encoding", "").lower() not in {"", "identity"},
        transfer_encoding=found.get("transfer-encoding"),
    )


_OF_THE_BODY = frozenset({"content-length", "content-encoding", "transfer-encoding"})


def response_headers(raw: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """What of an upstream's head is passed on: names in lower case, values latin-1."""
    return response_head(raw).headers


def _passed_on(headers: HeaderList) -> HeaderList:
    dropped = _named_in_connection(headers) | DROPPED
    return [
        (name, value)
        for name, value in headers
        if name not in dropped
        and not name.startswith(DROPPED_PREFIXES)
        and _TOKEN.fullmatch(name)
        and not _CONTROL.search(value)  # CVE-2026-34520: what is re-emitted is checked again
    ]


def usable(status: int, transfer_encoding: str | None) -> bool:
    """A final answer whose framing can be taken off: another coding would be lost with it."""
    coding = (transfer_encoding or "chunked").strip().lower()
    return 200 <= status <= 599 and coding == "chunked"


def _named_in_connection(headers: HeaderList) -> set[str]:
    lists = [value for name, value in headers if name == "connection"]
    return {part.strip().lower() for value in lists for part in value.split(",")}


def via_entry(instance_id: str) -> str:
    """This instance's entry in `Via` (RFC 9110 section 7.6.3)."""
    return f"1.1 gateway-{instance_id}"


def is_loop(via: str | None, instance_id: str) -> bool:
    """A request that this very instance has sent came back."""
    own = f"gateway-{instance_id}"
    return via is not None and own in re.split(r"[\s,]+", via)
