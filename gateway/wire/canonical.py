"""A request body's canonical form and its digest: equal requests, and only those, have equal ones.

Rule: on doubt, different. Strings and the order of names are RFC 8785's (sections 3.2.2.2, 3.2.3).
Numbers are not: integers and floats keep their kind (1 and 1.0 differ; 1.0, 1.00 and 1e0 do not),
and -0.0 is not 0.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any

import msgspec

# A name with a character beyond U+FFFF (four bytes in UTF-8), or a text that looks like one: only
# there is code point order, the encoder's, not the order of UTF-16 code units, RFC 8785's.
_ASTRAL = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")  # their first bytes
_ASTRAL_NAME = re.compile(rb'[\xf0-\xf4][^"\xf0-\xf4]*+":').search

_encode = msgspec.json.Encoder(order="deterministic").encode


_IN_ANY = frozenset({"stream", "stream_options"})  # equal requests may differ in these


def digest(
    found: Mapping[str, Any], ignore: Collection[str] = (), ordered: bytes | None = None
) -> bytes:
    """SHA-256 of the canonical form. RecursionError where it nests too deeply to be written."""
    return sha256(canonical(found, ignore, ordered)).digest()


def canonical(
    found: Mapping[str, Any], ignore: Collection[str] = (), ordered: bytes | None = None
) -> bytes:
    """The canonical JSON of a request whose `ChatRequest` is canonical, without what may differ
    between equal ones: `stream`, `stream_options.include_usage`, and the top-level names `ignore`.

    `stream_options` of null, or with nothing else in it, counts as absent. `ordered`: `found` as a
    `Document` has it, so that most need not be written again.
    """
    kept, encoded = found, ordered
    if not (_IN_ANY.isdisjoint(found) and found.keys().isdisjoint(ignore)):
        kept, encoded = _kept(found, ignore), None
    if encoded is None:
        encoded = _encode(kept)
    if encoded.isascii() or not any(lead in encoded for lead in _ASTRAL):
        return encoded
    return msgspec.json.encode(_in_order(kept)) if _ASTRAL_NAME(encoded) else encoded


def _kept(found: Mapping[str, Any], ignore: Collection[str]) -> dict[str, Any]:
    kept = {name: found[name] for name in found if name != "stream" and name not in ignore}
    options = kept.pop("stream_options", None)
    if isinstance(options, dict):
        options = {name: options[name] for name in options if name != "include_usage"}
    if options:
        kept["stream_options"] = options
    return kept


def _in_order(value: object) -> object:
    """`value` with each object's members in the order of their names' UTF-16 code units."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value, key=_utf16)}
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    return value


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")
