"""Point identity: an unsigned 64-bit integer or a UUID, in one canonical, tagged byte form.

What is hashed, stored and compared is the canonical form alone: tag 0x01 and 8 big-endian bytes
for an integer, tag 0x02 and 16 bytes for a UUID. Byte order is therefore scroll order: integers
by value, then UUIDs. An id comes back as the type it was given.
"""

from __future__ import annotations

import uuid
from typing import Final

INTEGER_TAG: Final = 0x01
UUID_TAG: Final = 0x02
ID_MAX: Final = 2**64 - 1
ID_BYTES_MAX: Final = 17

PointId = int | str
"""An id as a user sees it: an int in 0..2^64-1, or a UUID as lower-case hyphenated text."""


def encode_id(point_id: PointId) -> bytes:
    """Return the canonical bytes of an id.

    Raises:
        ValueError: an integer out of range, or text that is not a UUID.
    """
    if isinstance(point_id, bool):
        raise ValueError("an id is an unsigned 64-bit integer or a UUID")  # noqa: TRY004
    if isinstance(point_id, int):
        if not 0 <= point_id <= ID_MAX:
            raise ValueError(f"integer id {point_id} is outside 0..2^64-1")
        return bytes((INTEGER_TAG,)) + point_id.to_bytes(8, "big")
    try:
        return bytes((UUID_TAG,)) + uuid.UUID(point_id).bytes
    except (ValueError, AttributeError, TypeError):
        raise ValueError("an id is an unsigned 64-bit integer or a UUID") from None


def decode_id(raw: bytes) -> PointId:
    """Return the id of its canonical bytes; they come from our own store, so they are valid."""
    assert raw, "an id has a tag"
    if raw[0] == INTEGER_TAG:
        assert len(raw) == 9, "an integer id is tag and 8 bytes"
        return int.from_bytes(raw[1:], "big")
    assert raw[0] == UUID_TAG, "unknown id tag"
    assert len(raw) == ID_BYTES_MAX, "a UUID id is tag and 16 bytes"
    return str(uuid.UUID(bytes=raw[1:]))


def is_canonical(raw: bytes) -> bool:
    """Return whether bytes from elsewhere are the canonical form of some id."""
    return (len(raw) == 9 and raw[0] == INTEGER_TAG) or (
        len(raw) == ID_BYTES_MAX and raw[0] == UUID_TAG
    )
