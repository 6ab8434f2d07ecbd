"""A filter over columns, as a tree that can be asked in three ways.

`flags` says which of some slots pass, `slots` lists those that do (dead ones included), and `bound`
and `expected` say how many that may be, before anything is looked at. A node is `exact`, or its
answer is an upper bound: what it excludes does not pass, the rest has to be read to know.

Everything here holds for one instant, under the mutex of the columns' owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from storage.payload_index.column import Column, places
from storage.seq_slots import Numbers
from storage.slots import Flags, Records

_LISTED_MAX: Final = 4096
"""So many slots are kept for who asks again within the same instant."""


class Node(Protocol):
    """See the module."""

    exact: bool
    bound: int
    """No more living slots pass."""
    expected: float
    """So many slots pass, dead ones included, if conditions have nothing to do with each other."""
    listing: int | None
    """So many slots are looked at to list those that pass; None: all, since `slots` lists none."""

    def flags(self, slots: Numbers) -> Flags:
        """Return which of slots[n] pass."""
        ...

    def slots(self) -> Numbers | None:
        """Return each slot that passes, once; None where that takes a look at all slots."""
        ...


class Anything:
    """What the columns cannot tell: every slot may pass."""

    exact = False
    listing: int | None = None

    def __init__(self, used: int) -> None:
        self.bound, self.expected = used, float(used)

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        return np.ones(len(slots), dtype=np.bool_)

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return None


class Between:
    """A key from `low` to `high`; or, where a mark is given, that mark instead."""

    listed: Numbers | None = None

    def __init__(self, column: Column, low: int, high: int, mark: int = 0) -> None:
        self._column, self._low, self._high, self._mark = column, low, high, mark
        self.exact = not mark
        first, last = column.run.place(low, high) if low <= high else (0, 0)
        waiting = column.used - column.run.end
        strays = column.strays if mark else 0
        self.bound = last - first + waiting + strays
        self.expected = float(self.bound)
        self.listing: int | None = column.used if mark else self.bound

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        low, high = np.int64(self._low), np.int64(self._high)
        if low == high:
            found = self._column.holds(slots, lambda keys: keys == low)
        else:
            found = self._column.holds(slots, lambda keys: (keys >= low) & (keys <= high))
        if self._mark:
            found |= (self._column.marks[slots] & self._mark) != 0
        return found

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return _listed(self)

    def found(self) -> Numbers:
        """Make the list that `slots` returns."""
        column = self._column
        if self._low > self._high and not self._mark:
            return np.empty(0, dtype=np.int64)
        first, last = column.run.place(self._low, self._high)
        behind = column.behind()
        ordered = column.run.slots[first:last].astype(np.int64)
        found = np.concatenate([ordered, behind[self.flags(behind)]])
        if self._mark:
            marked = np.flatnonzero(column.marks[: column.run.end] & self._mark)
            return np.unique(np.concatenate([found, marked]))
        several = column.crowded and self._low < self._high
        return np.unique(found) if several else found


class OneOf:
    """A key that is one of some."""

    exact = True
    listed: Numbers | None = None

    def __init__(self, column: Column, keys: Sequence[int]) -> None:
        self._column = column
        self._keys = np.unique(np.array(keys, dtype=np.int64))
        run = column.run
        self._first = run.keys.searchsorted(self._keys, "left")
        self._lengths = (run.keys.searchsorted(self._keys, "right") - self._first).astype(np.int32)
        self._run = run
        self.bound = int(self._lengths.sum()) + column.used - run.end
        self.expected = float(self.bound)
        self.listing: int | None = self.bound

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        return self._column.holds(slots, self._is_listed)

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return _listed(self)

    def found(self) -> Numbers:
        """Make the list that `slots` returns."""
        behind = np.arange(self._run.end, self._column.used)
        listed = self._run.slots[places(self._first, self._lengths)]
        found = np.concatenate([listed, behind[self.flags(behind)]]).astype(np.int64)
        return np.unique(found) if self._column.crowded else found

    def _is_listed(self, keys: Numbers) -> Flags:
        return _among(self._keys, keys)


class NoneOf:
    """A key that is none of some, or an element that is not of the column's type."""

    exact = True
    listing: int | None = None

    def __init__(self, column: Column, keys: Sequence[int], mark: int) -> None:
        self._column, self._mark = column, mark
        self._keys = np.unique(np.array(keys, dtype=np.int64))
        self.bound = column.used
        self.expected = max(0.0, column.used - OneOf(column, keys).expected)

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        found = self._column.holds(slots, lambda keys: ~_among(self._keys, keys))
        found |= (self._column.marks[slots] & self._mark) != 0
        return found

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return None


class Marked:
    """A mark that is there, or one that is not."""

    exact = True

    def __init__(self, column: Column, mark: int, *, present: bool) -> None:
        self._column, self._mark, self._present = column, mark, present
        count = int(np.count_nonzero(column.marks[: column.used] & mark))
        self.bound = count if present else column.used - count
        self.expected = float(self.bound)
        self.listing: int | None = column.used

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        found: Flags = (self._column.marks[slots] & self._mark) != 0
        return found if self._present else ~found

    def slots(self) -> Numbers | None:
        """See `Node`."""
        marked = (self._column.marks[: self._column.used] & self._mark) != 0
        return np.flatnonzero(marked if self._present else ~marked)


class WithId:
    """An id that is one of some; ids that have keys are not among them."""

    exact = True
    listing: int | None = None

    def __init__(self, records: Records, ids: Sequence[bytes]) -> None:
        self._records = records
        self._ids = frozenset(each.ljust(records.dtype["id"].itemsize, b"\0") for each in ids)
        self.bound = len(ids)
        self.expected = float(len(ids))

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        ids = self._records["id"][slots].tolist()
        return np.fromiter((each in self._ids for each in ids), np.bool_, len(ids))

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return None


class All:
    """Every one of some."""

    def __init__(self, parts: Sequence[Node], used: int) -> None:
        self._parts = sorted(parts, key=lambda part: part.bound)
        self.exact = all(part.exact for part in parts)
        self.bound = min((part.bound for part in parts), default=used)
        self.expected = float(used)
        for part in parts:
            self.expected *= part.expected / max(used, 1)
        listings = (part.listing for part in self._parts)
        self.listing = next((each for each in listings if each is not None), None)

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        found = np.ones(len(slots), dtype=np.bool_)
        for part in self._parts:
            found &= part.flags(slots)
        return found

    def slots(self) -> Numbers | None:
        """List those of the part that has the fewest, and ask the others about them."""
        for at, part in enumerate(self._parts):
            found = part.slots()
            if found is not None:
                for other in self._parts[:at] + self._parts[at + 1 :]:
                    found = found[other.flags(found)]
                return found
        return None


class Some:
    """At least `least` of some."""

    def __init__(self, parts: Sequence[Node], used: int, least: int = 1) -> None:
        self._parts, self._least = parts, least
        self.exact = all(part.exact for part in parts)
        self.bound = used if least <= 0 else min(used, sum(part.bound for part in parts))
        share = sum(part.expected for part in parts) / max(least, 1)
        self.expected = float(used) if least <= 0 else min(float(used), share)
        listings = [part.listing for part in parts if part.listing is not None]
        listed = least == 1 and parts and len(listings) == len(parts)
        self.listing = sum(listings) if listed else None

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        count = np.zeros(len(slots), dtype=np.int32)
        for part in self._parts:
            count += part.flags(slots)
        return count >= self._least

    def slots(self) -> Numbers | None:
        """See `Node`."""
        if self._least != 1:
            return None
        lists = [part.slots() for part in self._parts]
        found = [slots for slots in lists if slots is not None]
        return np.unique(np.concatenate(found)) if found and len(found) == len(lists) else None


class Not:
    """Those that another node, which is exact, excludes."""

    exact = True
    listing: int | None = None

    def __init__(self, part: Node, used: int) -> None:
        assert part.exact, "an upper bound excludes nothing when it is turned round"
        self._part = part
        self.bound, self.expected = used, max(0.0, used - part.expected)

    def flags(self, slots: Numbers) -> Flags:
        """See `Node`."""
        return ~self._part.flags(slots)

    def slots(self) -> Numbers | None:
        """See `Node`."""
        return None


def _listed(node: Between | OneOf) -> Numbers:
    """Return what a node lists; a short list is kept for who asks again."""
    if node.listed is not None:
        return node.listed
    found = node.found()
    if len(found) <= _LISTED_MAX:
        node.listed = found
    return found


def _among(wanted: Numbers, keys: Numbers) -> Flags:
    """Return which of keys[n] are among ascending `wanted`."""
    if not len(wanted):
        return np.zeros(len(keys), dtype=np.bool_)
    at = wanted.searchsorted(keys)
    at[at == len(wanted)] = 0
    found: Flags = wanted[at] == keys
    return found
