"""Identity of points: an id, in some collections together with the key it was written under.

An id is an unsigned 64-bit integer or a UUID; a key is such an integer or text. What is hashed,
stored and compared is their canonical, tagged byte form alone:

    0x01  8 big-endian bytes           an integer, as an id or as a key
    0x02  16 bytes                     a UUID
    0x03  UTF-8                        a key that is text
    0x07  id in its form, key in its   the identity of a point in a collection with keys

Byte order is therefore scroll order: integers by value, then UUIDs, and under one id by key. Every
id's form tells its own length, so all identities that have one id are a range: those that begin
with 0x07 and that id. An id, like a key, comes back as the type it was given.
"""

from __future__ import annotations

import uuid
from typing import Final

INTEGER_TAG: Final = 0x01
UUID_TAG: Final = 0x02
TEXT_TAG: Final = 0x03
KEYED_TAG: Final = 0x07
NODE_TAG: Final = 0x08
EDGE_TAG: Final = 0x09
"""Tags of what is no point: the nodes and hyperedges of graphs."""
ID_MAX: Final = 2**64 - 1
INTEGER_BYTES: Final = 9
ID_BYTES_MAX: Final = 17
"""Of an id without a key."""
KEY_LENGTH_MAX: Final = 255
"""Characters of a key that is text."""

PointId = int | str
"""An id as a user sees it: an int in 0..2^64-1, or a UUID as lower-case hyphenated text."""

ShardKey = int | str
"""A key as a user sees it: an int in 0..2^64-1, or text of 1 to 255 characters."""

_INTEGER: Final = bytes((INTEGER_TAG,))
_KEYED: Final = bytes((KEYED_TAG,))


def encode_id(point_id: PointId) -> bytes:
    """Return the canonical bytes of an id.

    Raises:
        ValueError: an integer out of range, or text that is not a UUID.
    """
    if type(point_id) is int and 0 <= point_id <= ID_MAX:
        return _integer(point_id)
    if isinstance(point_id, bool):
        raise ValueError("an id is an unsigned 64-bit integer or a UUID")  # noqa: TRY004
    if isinstance(point_id, int):
        if not 0 <= point_id <= ID_MAX:
            raise ValueError(f"integer id {point_id} is outside 0..2^64-1")
        return _integer(point_id)
    try:
        return bytes((UUID_TAG,)) + uuid.UUID(point_id).bytes
    except (ValueError, AttributeError, TypeError):
        raise ValueError("an id is an unsigned 64-bit integer or a UUID") from None


def decode_id(raw: bytes) -> PointId:
    """Return the id of its canonical bytes, or of those of an identity that has a key.

    They come from our own store, so they are valid.
    """
    assert raw, "an id has a tag"
    if raw[0] == KEYED_TAG:
        raw = id_part(raw)
    if raw[0] == INTEGER_TAG:
        assert len(raw) == INTEGER_BYTES, "an integer id is tag and 8 bytes"
        return int.from_bytes(raw[1:], "big")
    assert raw[0] == UUID_TAG, "unknown id tag"
    assert len(raw) == ID_BYTES_MAX, "a UUID id is tag and 16 bytes"
    return str(uuid.UUID(bytes=raw[1:]))


def key_bytes(shard_key: ShardKey) -> bytes:
    """Return the canonical bytes of a key.

    Raises:
        ValueError: an integer out of range, or text that is empty, too long, or holds a NUL or
            half of a surrogate pair.
    """
    if isinstance(shard_key, int) and not isinstance(shard_key, bool):
        if not 0 <= shard_key <= ID_MAX:
            raise ValueError(f"integer key {shard_key} is outside 0..2^64-1")
        return _integer(shard_key)
    if not isinstance(shard_key, str) or not 1 <= len(shard_key) <= KEY_LENGTH_MAX:
        raise ValueError(
            f"a key is an unsigned 64-bit integer or text of 1 to {KEY_LENGTH_MAX} characters"
        )
    if "\0" in shard_key:
        raise ValueError("a key must not contain NUL")
    try:
        return bytes((TEXT_TAG,)) + shard_key.encode()
    except UnicodeEncodeError:
        raise ValueError("a key must not contain lone surrogates") from None


def decode_key(raw: bytes) -> ShardKey:
    """Return the key of its canonical bytes, which come from our own store."""
    assert raw, "a key has a tag"
    if raw[0] == INTEGER_TAG:
        assert len(raw) == INTEGER_BYTES, "an integer key is tag and 8 bytes"
        return int.from_bytes(raw[1:], "big")
    assert raw[0] == TEXT_TAG, "unknown key tag"
    return raw[1:].decode()


def keyed_id(canonical_id: bytes, canonical_key: bytes) -> bytes:
    """Return the identity of a point of this id under this key."""
    return _KEYED + canonical_id + canonical_key


def keyed_range(canonical_id: bytes) -> tuple[bytes, bytes]:
    """Return the lower bound of all identities of an id, which it includes, and the upper one."""
    first = _KEYED + canonical_id
    return first, (int.from_bytes(first, "big") + 1).to_bytes(len(first), "big")


def id_part(canonical: bytes) -> bytes:
    """Return the id of an identity, which may have a key, in canonical bytes."""
    return canonical[1 : _key_start(canonical)] if canonical[0] == KEYED_TAG else canonical


def key_part(canonical: bytes) -> bytes | None:
    """Return the key of an identity in canonical bytes; None when it has none."""
    return canonical[_key_start(canonical) :] if canonical[0] == KEYED_TAG else None


def shard_key_of(canonical: bytes) -> ShardKey | None:
    """Return the key of an identity, as a user sees it; None when it has none."""
    return decode_key(canonical[_key_start(canonical) :]) if canonical[0] == KEYED_TAG else None


def routing_bytes(canonical: bytes) -> bytes:
    """Return what decides on an identity's shard: its key, or its id when it has none."""
    return canonical[_key_start(canonical) :] if canonical[0] == KEYED_TAG else canonical


def is_canonical(raw: bytes) -> bool:
    """Return whether bytes from elsewhere are the canonical form of some identity."""
    return (
        (len(raw) == INTEGER_BYTES and raw[0] == INTEGER_TAG)
        or (len(raw) == ID_BYTES_MAX and raw[0] == UUID_TAG)
        or (len(raw) > INTEGER_BYTES and raw[0] == KEYED_TAG and _is_keyed(raw))
    )


def _integer(number: int) -> bytes:
    return _INTEGER + number.to_bytes(8, "big")


def _key_start(keyed: bytes) -> int:
    return 1 + (INTEGER_BYTES if keyed[1] == INTEGER_TAG else ID_BYTES_MAX)


def _is_keyed(raw: bytes) -> bool:
    record_id, key = id_part(raw), raw[_key_start(raw) :]
    if not key or raw[1] not in (INTEGER_TAG, UUID_TAG) or not is_canonical(record_id):
        return False
    if key[0] == INTEGER_TAG:
        return len(key) == INTEGER_BYTES
    try:
        return key[0] == TEXT_TAG and key_bytes(key[1:].decode()) == key
    except ValueError:
        return False
