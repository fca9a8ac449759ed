"""Hosts and URLs: what is well formed, what is loopback, and where an upstream's paths begin."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

ECHO = "echo:"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
_ALL_NUMBERS = re.compile(r"[0-9.]+")
_NOT_IN_A_URL = re.compile(r"[^\x21-\x7e]|[\\<>\"{}|^`]")
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[a-z0-9_.-]+(:[1-9][0-9]{0,4})?|https?://\[[0-9a-f:.]+\]"
    r"(:[1-9][0-9]{0,4})?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def upstream_base(base_url: str) -> str:
    """The URL to which `/chat/completions` is appended: no trailing slash.

    Without a path it gets `/v1`; a trailing slash means the root of what is written (contract,
    "Upstreams"): `https://host` is `https://host/v1`, `https://host/` is `https://host`.
    """
    if is_echo(base_url):
        return ECHO
    return base_url.rstrip("/") if urlsplit(base_url).path else f"{base_url}/v1"


def is_echo(base_url: str) -> bool:
    """The upstream built into this process."""
    return base_url == ECHO


def as_ip(host: str) -> IPv4Address | IPv6Address | None:
    """The address, IPv4 where it is IPv4 in IPv6's clothes; None for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_host(host: str) -> bool:
    """An address without brackets, or a name (RFC 1123 section 2.1, with underscores)."""
    if as_ip(host):
        return "%" not in host
    return bool(_NAME.fullmatch(host)) and not _ALL_NUMBERS.fullmatch(host)


def is_loopback(host: str) -> bool:
    """Reached from this machine only."""
    address = as_ip(host)
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761 section 6.3
    return address.is_loopback


def is_wildcard(host: str) -> bool:
    """Every address of this machine."""
    address = as_ip(host)
    return address is not None and address.is_unspecified


def binds_collide(one: str, other: str) -> bool:
    """Would two binds of the same port be in each other's way? All of loopback counts as one."""
    if is_wildcard(one) or is_wildcard(other):
        return True
    return _same(one, other) or (is_loopback(one) and is_loopback(other))


def leads_to(host: str, bind: str) -> bool:
    """Does a connection to `host` surely arrive at this machine's `bind`? (0.0.0.0 does.)"""
    local = [is_loopback(name) or is_wildcard(name) for name in (host, bind)]
    return all(local) or _same(host, bind)


def _same(one: str, other: str) -> bool:
    return (as_ip(one) or one.lower()) == (as_ip(other) or other.lower())


def port_of(url: SplitResult) -> int:
    """The port, written or meant."""
    return url.port or _DEFAULT_PORTS[url.scheme]


def http_url(text: str) -> SplitResult | None:
    """The parts of an http(s) URL with a host; None if it is none. It may have userinfo."""
    if _NOT_IN_A_URL.search(text):
        return None  # urlsplit drops tabs and line ends silently
    try:
        url = urlsplit(text)
        usable = url.scheme in _DEFAULT_PORTS and url.port != 0 and is_host(url.hostname or "")
    except ValueError:  # a port that is no number, a bracket that is never closed
        return None
    return url if usable else None


def host_and_port(text: str) -> tuple[str, int] | None:
    """Where an http(s) URL leads; None if it is none."""
    url = http_url(text)
    return None if url is None else (url.hostname or "", port_of(url))


def is_origin(text: str) -> bool:
    """As a browser sends it (RFC 6454 section 6.2): no path, no slash at the end, lower case."""
    return bool(_ORIGIN.fullmatch(text))
