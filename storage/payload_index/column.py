"""One field's keys by slot, and their order.

A slot never changes its payload: a new version of a row gets a new slot. So a column is written at
its end, once, and what a search finds in it needs no lock but the owner's mutex. A slot with one
key has it in its place; one with several has their place in a list behind. Slots whose payload is
not read yet are `unknown`, and while there are such the column answers nothing.

The order is a *run*: all keys of the slots below `run.end`, ascending, with the slot of each, so a
value or a range is a slice that two bisections find. Slots behind the run are looked at one by one,
until `merged` has made them part of it; they are few against the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from storage.payload_index.dictionary import Dictionary
from storage.payload_index.fields import KNOWN, STRAY, TEXTUAL, Extract, FieldIndex, RawKey
from storage.seq_slots import Numbers
from storage.slots import Flags

_CAPACITY_MIN: Final = 256
_MERGE_MIN: Final = 512
_MERGE_PART: Final = 16
"""The run is renewed when so many slots, or this part of it, stand behind it."""
_WINDOW: Final = 1 << 16

Scalar = TypeVar("Scalar", bound=np.generic)

NOTHING_KNOWN: Final = Extract(0, ())
GONE: Final = Extract(KNOWN, ())
"""What a column keeps of a slot that died before its payload was read."""


class Run(NamedTuple):
    """The keys of the slots below `end`, ascending, and the slot of each."""

    keys: Numbers
    slots: npt.NDArray[np.int32]
    end: int

    def place(self, low: int, high: int) -> tuple[int, int]:
        """Return where the keys `low` to `high` begin and end."""
        first = self.keys.searchsorted(np.int64(low), "left")
        last = self.keys.searchsorted(np.int64(high), "right")
        return int(first), int(last)


_NO_RUN: Final = Run(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), 0)


class Column:
    """See the module. Guarded by its owner's mutex, but for `merged` and `renumbered`."""

    def __init__(self, field: FieldIndex) -> None:
        self.field = field
        self.path = field.path()
        self.kind = field.type
        self.dictionary = Dictionary() if field.type in TEXTUAL else None
        self.used = 0
        self.unknown = 0
        """Slots whose payload was not read yet."""
        self.strays = 0
        """Slots with numbers that are not of the type."""
        self.crowded = 0
        """Slots with several keys."""
        self.run = _NO_RUN
        self.marks = np.zeros(_CAPACITY_MIN, dtype=np.uint8)
        self._counts = np.zeros(_CAPACITY_MIN, dtype=np.int32)
        self._keys = np.zeros(_CAPACITY_MIN, dtype=np.int64)
        """A slot's only key; of several, where they begin in `_lists`."""
        self._lists = np.zeros(_CAPACITY_MIN, dtype=np.int64)
        self._listed = 0
        self._known_below = 0
        """Slots below are known; a guess that only costs time."""

    def skip(self, count: int) -> None:
        """Add slots whose payload is not known yet."""
        self._reserve(self.used + count)
        self.used += count
        self.unknown += count

    def append(self, extracts: Sequence[Extract]) -> None:
        """Add a slot for each extract."""
        first = self.used
        self.skip(len(extracts))
        self.write(np.arange(first, self.used), extracts)

    def write(self, slots: Numbers, extracts: Sequence[Extract]) -> None:
        """Fill in slots[n] that were unknown."""
        assert not self.marks[slots].any(), "a slot is written once"
        rows = [[self._code(key) for key in extract.keys] for extract in extracts]
        marks = np.array([extract.marks for extract in extracts], dtype=np.uint8)
        counts = np.array(list(map(len, rows)), dtype=np.int32)
        self._keys[slots] = [row[0] if len(row) == 1 else self._list(row) for row in rows]
        self._counts[slots] = counts
        self.marks[slots] = marks
        self.unknown -= int(np.count_nonzero(marks & KNOWN))
        self.strays += int(np.count_nonzero(marks & STRAY))
        self.crowded += int(np.count_nonzero(counts > 1))

    def unknown_slots(self, limit: int) -> Numbers:
        """Return up to `limit` of the first slots that are unknown."""
        while self._known_below < self.used:
            end = min(self._known_below + _WINDOW, self.used)
            found = np.flatnonzero(self.marks[self._known_below : end] == 0)
            if len(found):
                return found[:limit] + self._known_below
            self._known_below = end
        return np.empty(0, dtype=np.int64)

    def is_known(self, slots: Numbers) -> Flags:
        """Return which of slots[n] were written."""
        known: Flags = self.marks[slots] != 0
        return known

    def has_keys(self, slots: Numbers) -> Flags:
        """Return which of slots[n] have a key at all."""
        has: Flags = self._counts[slots] > 0
        return has

    def holds(self, slots: Numbers, test: Callable[[Numbers], Flags]) -> Flags:
        """Return which of slots[n] have a key that passes a test of keys."""
        counts, keys = self._counts.take(slots), self._keys.take(slots)
        found = test(keys)
        found &= counts == 1
        if self.crowded:
            several = np.flatnonzero(counts > 1)
            if len(several):
                lengths = counts[several]
                passed = test(self._lists[places(keys[several], lengths)])
                found[several] = np.logical_or.reduceat(passed, starts(lengths))
        return found

    def behind(self) -> Numbers:
        """Return the slots behind the run."""
        return np.arange(self.run.end, self.used)

    @property
    def wants_merging(self) -> bool:
        """Whether `merged` is worth its price."""
        waiting = self.used - self.run.end
        return not self.unknown and waiting > max(_MERGE_MIN, self.run.end // _MERGE_PART)

    def merged(self, end: int) -> Run:
        """Return the run with all slots below `end`, which are known. Needs no mutex."""
        slots = np.arange(self.run.end, end)
        keys, owners = self._pairs(slots)
        order = np.lexsort((owners, keys))
        keys, owners = keys[order], owners[order].astype(np.int32)
        at = self.run.keys.searchsorted(keys, "right")
        return Run(np.insert(self.run.keys, at, keys), np.insert(self.run.slots, at, owners), end)

    def renumbered(self, slots: Numbers) -> Column:
        """Return the column of ascending slots[n] alone, which become 0..n-1. Needs no mutex.

        The dictionary is shared, unless most of its texts are not needed any more.
        """
        column = Column(self.field)
        column.dictionary = self.dictionary
        column.extend(self, slots)
        moved = np.full(max(self.run.end, 1), -1, dtype=np.int32)
        kept = slots[: np.searchsorted(slots, self.run.end)]
        moved[kept] = np.arange(len(kept), dtype=np.int32)
        owners = moved[self.run.slots]
        living = owners >= 0
        column.run = Run(self.run.keys[living], owners[living], len(kept))
        column._shrink_dictionary()
        return column

    def extend(self, other: Column, slots: Numbers) -> None:
        """Add slots of another column of the same field."""
        count = len(slots)
        self._reserve(self.used + count)
        place = slice(self.used, self.used + count)
        counts, keys = other._counts[slots], other._keys[slots].copy()
        several = np.flatnonzero(counts > 1)
        lengths = counts[several]
        lists = other._lists[places(keys[several], lengths)]
        if self.dictionary is not other.dictionary:
            single = counts == 1
            keys[single] = self._translated(other, keys[single])
            lists = self._translated(other, lists)
        keys[several] = self._listed + starts(lengths)
        self._add_lists(lists)
        self.marks[place], self._counts[place], self._keys[place] = other.marks[slots], counts, keys
        self.used += count
        self.unknown += int(np.count_nonzero(self.marks[place] == 0))
        self.strays += int(np.count_nonzero(self.marks[place] & STRAY))
        self.crowded += len(several)

    def validate(self) -> None:
        """Assert the invariants of this module; slow, for tests."""
        marks, counts = self.marks[: self.used], self._counts[: self.used]
        assert self.unknown == np.count_nonzero(marks == 0), "the unknown are counted"
        assert self.strays == np.count_nonzero(marks & STRAY), "so are strays"
        assert self.crowded == np.count_nonzero(counts > 1), "so are those with several keys"
        keys, owners = self._pairs(np.arange(self.run.end))
        order = np.lexsort((owners, keys))
        assert np.array_equal(self.run.keys, keys[order]), "the run has the keys below its end"
        assert np.array_equal(self.run.slots, owners[order]), "and the slot of each"

    def _pairs(self, slots: Numbers) -> tuple[Numbers, Numbers]:
        """Return the keys of slots[n], and the slot of each key."""
        counts = self._counts[slots]
        single, several = np.flatnonzero(counts == 1), np.flatnonzero(counts > 1)
        lengths = counts[several]
        lists = self._lists[places(self._keys[slots[several]], lengths)]
        keys = np.concatenate([self._keys[slots[single]], lists])
        return keys, np.concatenate([slots[single], np.repeat(slots[several], lengths)])

    def _code(self, key: RawKey) -> int:
        if isinstance(key, str):
            assert self.dictionary is not None, "text has codes"
            return self.dictionary.code(key)
        return key

    def _list(self, row: Sequence[int]) -> int:
        if not row:
            return 0
        at = self._listed
        self._add_lists(np.array(row, dtype=np.int64))
        return at

    def _add_lists(self, keys: Numbers) -> None:
        end = self._listed + len(keys)
        if end > len(self._lists):
            self._lists = _grown(self._lists, max(end, len(self._lists) * 3 // 2))
        self._lists[self._listed : end] = keys
        self._listed = end

    def _translated(self, other: Column, codes: Numbers) -> Numbers:
        assert self.dictionary is not None, "text has codes"
        assert other.dictionary is not None, "text has codes"
        distinct, where = np.unique(codes, return_inverse=True)
        own = [self.dictionary.code(other.dictionary.text(code)) for code in distinct.tolist()]
        return np.array(own, dtype=np.int64)[where]

    def _shrink_dictionary(self) -> None:
        """Forget texts that no slot has, when they are the most; needs a run of all slots."""
        if self.dictionary is None or self.unknown or self.run.end < self.used:
            return
        codes = np.unique(self.run.keys)
        if len(codes) * 2 > len(self.dictionary):
            return
        self.dictionary = self.dictionary.only(codes)
        self._keys[: self.used] = np.where(
            self._counts[: self.used] == 1,
            np.searchsorted(codes, self._keys[: self.used]),
            self._keys[: self.used],
        )
        self._lists[: self._listed] = np.searchsorted(codes, self._lists[: self._listed])
        self.run = self.run._replace(keys=np.searchsorted(codes, self.run.keys))

    def _reserve(self, count: int) -> None:
        if count <= len(self.marks):
            return
        capacity = max(count, len(self.marks) * 3 // 2)
        self.marks = _grown(self.marks, capacity)
        self._counts = _grown(self._counts, capacity)
        self._keys = _grown(self._keys, capacity)


def places(firsts: Numbers, lengths: npt.NDArray[np.int32]) -> Numbers:
    """Return first, first + 1, ... for each of firsts[n], as many as its length says."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    found: Numbers = np.arange(total) + np.repeat(firsts - (ends - lengths), lengths)
    return found


def starts(lengths: npt.NDArray[np.int32]) -> Numbers:
    """Return where each of consecutive pieces of these lengths begins."""
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _grown(array: npt.NDArray[Scalar], capacity: int) -> npt.NDArray[Scalar]:
    grown: npt.NDArray[Scalar] = np.zeros(capacity, dtype=array.dtype)
    grown[: len(array)] = array
    return grown
