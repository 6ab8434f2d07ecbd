"""Payloads that were read lately, as JSON bytes.

A version of a point is never written again: its payload is known by the collection, the id and the
version for good, and a write makes another key. So nothing is ever wrong in here, only old.

Two generations instead of a chain of links: what is asked for moves into the younger one; when
that is full it becomes the older one, whose rest is forgotten. Each step is one operation on a
dict, so threads need no lock; what two of them do at once costs a payload that is read again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BYTES_MAX: Final = 16 * 1024 * 1024
ENTRY_BYTES: Final = 400
"""What an entry takes beside its payload: a key, its parts, and places in a dict."""


class PayloadKey(NamedTuple):
    """A version of a point: collection uid, canonical id, version."""

    collection: int
    id: bytes
    version: int


class PayloadCache:
    """See the module. `bytes_max` bounds both generations together."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._half = bytes_max // 2
        self._young: dict[PayloadKey, bytes] = {}
        self._old: dict[PayloadKey, bytes] = {}
        self._young_bytes = 0

    def get(self, key: PayloadKey) -> bytes | None:
        """Return the payload of a version, if it was read lately."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: PayloadKey, payload: bytes) -> None:
        """Keep a payload for a while."""
        size = len(payload) + ENTRY_BYTES
        if self._young_bytes + size > self._half:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[key] = payload
        self._young_bytes += size
