"""The incremental hash of a set: the sum modulo 2^128 of a blake2b digest per element.

A sum does not know order, so replicas, restores and batches of any size agree when their
contents do, and one changed element costs one subtraction and one addition (AdHash: Bellare and
Micciancio, "A New Paradigm for Collision-Free Hashing", 1997). It tells apart replicas that went
astray, not ones that lie: whoever may choose elements freely can find collisions of a sum.

Every element is hashed in one canonical form: a tag, fixed-width little-endian integers, and
lengths before all variable parts but the last, so no two elements share a form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

DIGEST_BYTES: Final = 16
_MODULUS: Final = 1 << (8 * DIGEST_BYTES)
_ROW: Final = struct.Struct("<cQQQQII")
_TOMBSTONE: Final = struct.Struct("<cQQ")
_REQUEST: Final = struct.Struct("<cQI")
_DOCUMENT: Final = struct.Struct("<cII")
_ELEMENT: Final = struct.Struct("<cQBQQQQI")
_CURRENT: Final = 2**64 - 1
"""Stands for the time of expiry of what has not expired."""


class SetHash:
    """The hash of a set of elements that are given by their 16-byte digests."""

    def __init__(self, digest: bytes = bytes(DIGEST_BYTES)) -> None:
        assert len(digest) == DIGEST_BYTES, "a digest has 16 bytes"
        self._total = int.from_bytes(digest, "big")

    def add(self, digests: Iterable[bytes]) -> None:
        """Add elements that are not in the set."""
        self._total = (self._total + _sum(digests)) % _MODULUS

    def remove(self, digests: Iterable[bytes]) -> None:
        """Remove elements that are in the set."""
        self._total = (self._total - _sum(digests)) % _MODULUS

    def digest(self) -> bytes:
        """Return the 16 bytes of the whole set; zeros when it is empty."""
        return self._total.to_bytes(DIGEST_BYTES, "big")


def row_digest(
    key: tuple[int, bytes], version: int, times_ms: tuple[int, int], payload: bytes, vector: bytes
) -> bytes:
    """Digest a live row: (collection, id), version, (created, updated), payload, vector."""
    collection, record_id = key
    created_ms, updated_ms = times_ms
    head = _ROW.pack(
        b"R", collection, version, created_ms, updated_ms, len(record_id), len(payload)
    )
    return _digest(b"".join((head, record_id, payload, vector)))


def row_digests(
    collection: int, version: int, now_ms: int, rows: Iterable[tuple[int, bytes, int, bytes, bytes]]
) -> list[bytes]:
    """Digest rows (seq, id, created_ms, payload, vector) that are written now, as `row_digest`."""
    pack, join = _ROW.pack, b"".join
    return [
        _digest(
            join(
                (
                    pack(b"R", collection, version, created_ms, now_ms, len(each), len(payload)),
                    each,
                    payload,
                    vector,
                )
            )
        )
        for _, each, created_ms, payload, vector in rows
    ]


def tombstone_digest(collection: int, record_id: bytes, version: int) -> bytes:
    """Digest the mark that a deleted row leaves."""
    return _digest(_TOMBSTONE.pack(b"T", collection, version) + record_id)


def element_digest(  # noqa: PLR0913 - all that an element is
    graph: int,
    kind: int,
    name: str,
    version: int,
    created_ms: int,
    updated_ms: int,
    expired_ms: int | None,
    content: bytes,
) -> bytes:
    """Digest a node or a hyperedge."""
    raw = name.encode()
    expired = _CURRENT if expired_ms is None else expired_ms
    head = _ELEMENT.pack(b"G", graph, kind, version, created_ms, updated_ms, expired, len(raw))
    return _digest(b"".join((head, raw, content)))


def request_digest(request_id: str, result: bytes, expires_ms: int) -> bytes:
    """Digest a remembered request."""
    raw = request_id.encode()
    return _digest(_REQUEST.pack(b"Q", expires_ms, len(raw)) + raw + result)


def document_digest(kind: str, name: str, value: bytes) -> bytes:
    """Digest a metadata document."""
    raw_kind, raw_name = kind.encode(), name.encode()
    return _digest(_DOCUMENT.pack(b"D", len(raw_kind), len(raw_name)) + raw_kind + raw_name + value)


def _digest(form: bytes) -> bytes:
    return blake2b(form, digest_size=DIGEST_BYTES).digest()


def _sum(digests: Iterable[bytes]) -> int:
    return sum(int.from_bytes(digest, "big") for digest in digests)
