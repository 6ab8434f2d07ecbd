"""Where a shard's rows are: sequence number -> slot, dense enough for numpy, sparse enough for many
collections.

A shard numbers the rows of all its collections from one sequence, so one collection sees runs and
gaps. Two levels serve both: a directory with one entry for each `PAGE` numbers, and pages that
exist where the collection has rows. A lookup of n numbers is two array reads, and an absent page
is page 0, which is never written and says "nowhere" for all its entries.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

NOWHERE: Final = -1
SEQ_MAX: Final = 2**36
"""Beyond any table that could be filled; it bounds the directory."""
_PAGE_BITS: Final = 8
_PAGE: Final = 1 << _PAGE_BITS


class SeqSlots:
    """A map from sequence numbers to slots, in whole arrays."""

    def __init__(self) -> None:
        self._directory = np.zeros(1, dtype=np.int32)
        """Page of each run of numbers; the last entry stays 0 and stands for all beyond."""
        self._pages = np.full((4, _PAGE), NOWHERE, dtype=np.int32)
        self._pages_used = 1
        self.live = 0
        """How many numbers have a slot."""

    def lookup(self, seqs: Numbers) -> Numbers:
        """Return the slot of each of seqs[n], `NOWHERE` for those that have none."""
        # Of a few numbers np.clip takes three times as long.
        runs = np.minimum(np.maximum(seqs >> _PAGE_BITS, -1), len(self._directory) - 1)
        slots: Numbers = self._pages[self._directory[runs], seqs & (_PAGE - 1)].astype(np.int64)
        return slots

    def assign(self, seqs: Numbers, slots: Numbers) -> None:
        """Give each of distinct seqs[n], in 0..SEQ_MAX-1, its slot, or `NOWHERE`."""
        if not len(seqs):
            return
        assert seqs.min() >= 0, "sequence numbers are not negative"
        assert seqs.max() < SEQ_MAX, "the directory must fit in memory"
        runs = seqs >> _PAGE_BITS
        self._allocate(runs)
        pages, entries = self._directory[runs], seqs & (_PAGE - 1)
        self.live -= int(np.count_nonzero(self._pages[pages, entries] != NOWHERE))
        self._pages[pages, entries] = slots
        written = self._pages[pages, entries] == slots
        self.live += int(np.count_nonzero(written & (slots != NOWHERE)))

    def slots(self) -> Numbers:
        """Return all slots, in the order of their sequence numbers within each page."""
        used = self._pages[1 : self._pages_used].ravel()
        slots: Numbers = used[used != NOWHERE].astype(np.int64)
        return slots

    def _allocate(self, runs: Numbers) -> None:
        last = int(runs.max())
        if last >= len(self._directory) - 1:
            grown = np.zeros(max(last + 2, 2 * len(self._directory)), dtype=np.int32)
            grown[: len(self._directory)] = self._directory
            self._directory = grown
        absent = self._directory[runs] == 0
        if not absent.any():
            return
        missing = np.unique(runs[absent])
        end = self._pages_used + len(missing)
        if end > len(self._pages):
            pages = np.full((max(end, 2 * len(self._pages)), _PAGE), NOWHERE, dtype=np.int32)
            pages[: self._pages_used] = self._pages[: self._pages_used]
            self._pages = pages
        self._directory[missing] = np.arange(self._pages_used, end)
        self._pages_used = end
        assert not self._directory[-1], "the last run is the one that does not exist"
