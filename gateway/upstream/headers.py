"""The headers that go to an upstream and those of its answer that are passed on. Pure.

The lists are design.md's "Edits to what passes through" (requirements K2, K3; reliability C3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from gateway.exchange import Caller, HeaderList
from gateway.upstream.rules import TOKEN, Access, sendable

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
SEMANTIC_PREFIXES = ("openai-", "anthropic-")

# Judged against the credential they come with: meaningless or wrong beside the upstream's own key.
OWNTOKEN_ONLY = frozenset({"openai-organization", "openai-project"})

# What of an upstream's answer ends here: facts about its connection (K2), a framing we make anew,
# permissions that are the gateway's to give (CORS), and words that steer a proxy in front of us.
DROPPED = HOP_BY_HOP | {
    "content-length", "date", "server", "set-cookie", "set-cookie2", "alt-svc", "x-powered-by",
    "strict-transport-security", "x-sendfile",
}  # fmt: skip
DROPPED_PREFIXES = ("x-gateway-", "access-control-", "x-accel-")

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def configured_headers(headers: Mapping[str, str]) -> HeaderList:
    """The configuration's headers: names in lower case; values leave as UTF-8."""
    return [(name.lower(), str(v).encode().decode("latin-1")) for name, v in headers.items()]


def request_head(start: str, headers: HeaderList) -> bytes:
    """The lines of a request's head; its framing and the blank line are to follow. `start`: its
    first two lines. ValueError rather than a line more than was meant."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    head = f"{start}{lines}".encode("latin-1")
    if head.count(b"\n") != len(headers) + 2 or b"\r\n\r\n" in head:
        raise ValueError("a request's head would not be what it says")
    return head


def request_headers(
    headers: HeaderList, caller: Caller, access: Access, configured: HeaderList, via: str
) -> HeaderList:
    """What goes upstream: what the client may say, the credential, ours; configured ones win."""
    found: HeaderList = []
    hops: list[str] = []
    hop_by_hop: set[str] = set()
    for name, value in headers:
        fate = _sent.get(name) or _learn(_sent, name, _fate_of_request(name))
        if fate is _Fate.ENDS or sendable(value) is None:
            continue
        if fate is _Fate.PASSES:
            found.append((name, value))
        elif name == "via":
            hops.append(value)
        else:
            hop_by_hop |= _listed(value)
    if hop_by_hop:
        found = [pair for pair in found if pair[0] not in hop_by_hop]
    if not access.forwards(caller.kind):
        found = [pair for pair in found if pair[0] not in OWNTOKEN_ONLY]
    found.append(("via", ", ".join([*hops, via]) if "via" not in hop_by_hop else via))
    found.append(("accept-encoding", "identity"))  # I3: who reads the answer can read it
    credential = access.credential(caller)
    if credential is not None:
        found.append(credential)
    if configured:
        names = {name for name, _ in configured}
        found = [pair for pair in found if pair[0] not in names] + configured
    return found


class _Fate(Enum):
    """What becomes of a header by its name."""

    PASSES = auto()
    ENDS = auto()
    READ = auto()  # it is looked at, and does not pass as it is


# Names that were judged before, of requests and of answers. Bounded, for others choose them.
_sent: dict[str, _Fate] = {}
_received: dict[bytes, tuple[str, _Fate]] = {}
Name = TypeVar("Name", str, bytes)
Verdict = TypeVar("Verdict")


def _learn(known: dict[Name, Verdict], name: Name, verdict: Verdict) -> Verdict:
    if len(known) < 1024 and len(name) <= 64:
        known[name] = verdict
    return verdict


def _fate_of_request(name: str) -> _Fate:
    if name in {"via", "connection"}:
        return _Fate.READ
    passes = name in FORWARDED or (name.startswith(FORWARDED_PREFIXES) and "_" not in name)
    return _Fate.PASSES if passes and TOKEN.fullmatch(name) else _Fate.ENDS


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What an upstream's head says. `headers`: what is passed on; `length`: of the body, declared;
    `encoded`: with a Content-Encoding that was not asked for; `hops`: what ends here, as it says
    itself."""

    headers: HeaderList
    length: int | None
    encoded: bool
    transfer_encoding: str | None
    hops: frozenset[str]


def response_head(raw: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """Read a head: names in lower case, values latin-1."""
    headers: HeaderList = []
    said: dict[str, str] = {}
    for raw_name, raw_value in raw:
        known = _received.get(raw_name) or _learn(_received, raw_name, _fate_of_answer(raw_name))
        name, fate = known
        if fate is _Fate.ENDS:
            continue
        value = raw_value.decode("latin-1").strip(" \t")
        if fate is _Fate.READ:
            said[name] = f"{said[name]}, {value}" if name in said else value
            if name != "content-encoding":
                continue
        # CVE-2026-34520: what is emitted again is checked again
        if value.isprintable() or not _CONTROL.search(value):
            headers.append((name, value))
    hops = frozenset(_listed(said.get("connection", ""))) - {"", "close", "keep-alive"}
    if hops:
        headers = [pair for pair in headers if pair[0] not in hops]
    length = said.get("content-length", "")
    return ResponseHead(
        headers=headers,
        length=int(length) if length.isdecimal() else None,
        encoded=said.get("content-encoding", "").lower() not in {"", "identity"},
        transfer_encoding=said.get("transfer-encoding"),
        hops=hops,
    )


def passes(raw: bytes) -> str | None:
    """The name of an answer's header, where it is passed on as it is."""
    name, fate = _received.get(raw) or _learn(_received, raw, _fate_of_answer(raw))
    return name if fate is _Fate.PASSES else None


_SAID = frozenset({"connection", "content-encoding", "content-length", "transfer-encoding"})


def _fate_of_answer(raw: bytes) -> tuple[str, _Fate]:
    name = raw.decode("latin-1").lower()
    if name in _SAID:
        return name, _Fate.READ
    ends = name in DROPPED or name.startswith(DROPPED_PREFIXES) or not TOKEN.fullmatch(name)
    return name, _Fate.ENDS if ends else _Fate.PASSES


def response_headers(raw: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """What of an upstream's head is passed on: names in lower case, values latin-1."""
    return response_head(raw).headers


def usable(status: int, transfer_encoding: str | None) -> bool:
    """A final answer whose framing can be taken off: another coding would be lost with it."""
    coding = (transfer_encoding or "chunked").strip().lower()
    return 200 <= status <= 599 and coding == "chunked"


def _listed(connection: str) -> set[str]:
    """The names in a Connection header."""
    return {part.strip().lower() for part in connection.split(",")}


def via_entry(instance_id: str) -> str:
    """This instance's entry in `Via` (RFC 9110 section 7.6.3)."""
    return f"1.1 gateway-{instance_id}"


def is_loop(via: str | None, instance_id: str) -> bool:
    """A request that this very instance has sent came back."""
    own = f"gateway-{instance_id}"
    return via is not None and own in re.split(r"[\s,]+", via)
