"""Small request headers with a meaning of their own. Pure; whatever cannot be read is ignored,
never an error."""

from __future__ import annotations

import ipaddress
import re

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TAG_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
_MAX_TAGS = 8
_MAX_TAG_BYTES = 64


def read_tags(value: str | None) -> dict[str, str]:
    """`X-Gateway-Tags: a=b,c=d` as a mapping: at most 8 tags of 64 bytes each, name and value
    together.

    A tag that is not `name=value`, too long or not printable is left out, the others stay.
    """
    tags: dict[str, str] = {}
    for part in (value or "").split(","):
        name, separator, content = part.strip().partition("=")
        fits = separator and len(part.strip().encode()) <= _MAX_TAG_BYTES
        if fits and _TAG_NAME.match(name) and content.isprintable() and len(tags) < _MAX_TAGS:
            tags[name] = content
    return tags


def client_address(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """The client's address: the peer's, or the rightmost one in `X-Forwarded-For` that no trusted
    proxy has.

    `trusted` are `ipaddress` networks; a peer outside them is believed nothing (reliability C3.3).
    """

    def known(address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in trusted)

    if not trusted or forwarded is None or not known(peer):
        return peer
    for hop in reversed([part.strip() for part in forwarded.split(",")]):
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            return peer
        if not known(hop):
            return hop
        peer = hop
    return peer
