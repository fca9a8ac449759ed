"""An entry as bytes for a disk, and back. Pure.

Rule: what `decode` gives is what `encode` got, under the same key, to the bit; anything else is
Corrupt. The digest guards against rot and mixed-up rows, not against whoever can write the folder.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from gateway.entry import Entry, Label

MAGIC = b"GWE1"  # another layout gets another one, and what is older is a miss
_DIGEST = 32
_MAGIC, _HEAD = len(MAGIC), len(MAGIC) + _DIGEST

_read = msgspec.msgpack.Decoder(Entry).decode
_write = msgspec.msgpack.Encoder().encode
_read_labels = msgspec.msgpack.Decoder(tuple[Label, ...]).decode


class Corrupt(Exception):
    """Not what was written under this key."""


def encode(entry: Entry, key: bytes) -> bytes:
    """The entry as bytes that only `key` opens. ValueError, TypeError, OverflowError where a
    member of the upstream's usage object cannot be written."""
    payload = _write(entry)
    return MAGIC + _seal(payload, key) + payload


def decode(data: bytes, key: bytes) -> Entry:
    """The entry; Corrupt."""
    if len(data) <= _HEAD or not data.startswith(MAGIC):
        raise Corrupt("not an entry")
    payload = memoryview(data)[_HEAD:]
    if _seal(payload, key) != data[_MAGIC:_HEAD]:
        raise Corrupt("the digest is another")
    try:
        return _read(payload)
    except msgspec.MsgspecError as error:
        raise Corrupt("not this version's entry") from error


def _seal(payload: bytes | memoryview, key: bytes) -> bytes:
    digest = sha256(MAGIC + len(key).to_bytes(4) + key)
    digest.update(payload)
    return digest.digest()


def encode_labels(entry: Entry) -> bytes:
    """What a purge goes by, to stand beside the entry where it is found without reading it."""
    model = entry.model
    return _write([(one.key_id, one.key_name, model, one.request_id) for one in entry.recordings])


def decode_labels(data: object) -> tuple[Label, ...]:
    """The labels; Corrupt."""
    if not isinstance(data, bytes):
        raise Corrupt("not labels")
    try:
        return _read_labels(data)
    except msgspec.MsgspecError as error:
        raise Corrupt("not labels") from error
