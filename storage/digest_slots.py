"""A map from 63-bit digests to slots that costs 12 bytes an entry.

Entries come one by one into a dictionary, and from there in large lots into a sorted array, which
is searched in halves. Two vectors with one digest share an entry, the later one's: whoever asks
compares the vectors.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

DIGEST_ENTRY: Final = np.dtype([("digest", "<i8"), ("slot", "<i4")])
Entries = npt.NDArray[np.void]

_RECENT_MAX: Final = 65_536


class DigestSlots:
    """Slots by digest."""

    def __init__(self) -> None:
        self._digests = np.empty(0, dtype=np.int64)
        self._slots = np.empty(0, dtype=np.int32)
        self._recent: dict[int, int] = {}

    def add(self, digest: int, slot: int) -> None:
        """Map a digest to a slot from now on."""
        self._recent[digest] = slot
        if len(self._recent) > _RECENT_MAX:
            self._merge()

    def find(self, digest: int) -> int | None:
        """Return the slot of a digest."""
        slot = self._recent.get(digest)
        if slot is not None:
            return slot
        place = int(np.searchsorted(self._digests, digest))
        if place < len(self._digests) and self._digests[place] == digest:
            return int(self._slots[place])
        return None

    def entries(self) -> Entries:
        """Return all entries, by digest."""
        self._merge()
        entries = np.empty(len(self._digests), dtype=DIGEST_ENTRY)
        entries["digest"], entries["slot"] = self._digests, self._slots
        return entries

    def restore(self, entries: Entries) -> None:
        """Take the entries of another map in place of one's own.

        Raises:
            ValueError: they are not in order.
        """
        digests = entries["digest"].astype(np.int64)
        if (digests[1:] <= digests[:-1]).any():
            raise ValueError("digests are not in order")
        self._digests, self._slots = digests, entries["slot"].astype(np.int32)
        self._recent = {}

    def _merge(self) -> None:
        digests = np.fromiter(self._recent.keys(), dtype=np.int64, count=len(self._recent))
        slots = np.fromiter(self._recent.values(), dtype=np.int32, count=len(self._recent))
        kept = ~np.isin(self._digests, digests)
        digests = np.concatenate([self._digests[kept], digests])
        order = np.argsort(digests)
        self._digests = digests[order]
        self._slots = np.concatenate([self._slots[kept], slots])[order]
        self._recent = {}
