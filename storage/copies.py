"""Rows with equal vectors: one row stands in the graph for all of them.

A graph links each row with its nearest, so a crowd of equal vectors links only within itself and
cuts the way to everything else: 5,000 equal rows before 15,000 others take the recall of all
searches from 0.98 to 0.22, silently. Here the first row of a vector is put into the graph, and
those that follow are noted beside it: it is their stand-in. A search that meets a stand-in has met
all its rows. An update that leaves the vector as it is costs no building either; the row's new slot
then takes the old one's place, which costs a search no more than any other row.

A stand-in may be dead and still stand for living rows; one that stands for none is garbage, until a
row with its vector comes again. Equality is decided by the vectors; digests only say where to look.

Everything is guarded by the index's mutex, and changes only while no search reads the graph.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.digest_slots import DigestSlots
from storage.metric import Keys, Matrix
from storage.seq_slots import NOWHERE, Numbers
from storage.slots import Flags

StandIns = npt.NDArray[np.int32]

_CAPACITY_MIN: Final = 256
_DEAD_COPIES_MAX: Final = 16


class Placed(NamedTuple):
    """Living rows on their way into the graph: slot, its stand-in, and the vector's digest."""

    slots: Numbers
    stand_ins: Numbers
    digests: list[int]

    @property
    def new(self) -> Flags:
        """Which rows stand for themselves."""
        new: Flags = self.slots == self.stand_ins
        return new


class Copies:
    """Which row of the graph stands for which slots."""

    def __init__(self) -> None:
        self.known = DigestSlots()
        """Slot of the stand-in of a vector's digest."""
        self.dead = 0
        """Stand-ins that stand for no living row."""
        self.living = 0
        """Living rows that were placed."""
        self._stand_ins: StandIns = np.full(_CAPACITY_MIN, NOWHERE, dtype=np.int32)
        self._counts = np.zeros(_CAPACITY_MIN, dtype=np.int32)
        """By stand-in: the living rows it stands for."""
        self._crowded = np.zeros(_CAPACITY_MIN, dtype=np.bool_)
        """By stand-in: whether it stands for others than itself."""
        self._soles: StandIns = np.arange(_CAPACITY_MIN, dtype=np.int32)
        """By stand-in: itself, or, while it stands for one other row alone, that one."""
        self._others: dict[int, array[int]] = {}
        """Of a stand-in for several rows: those besides itself."""
        self._plain = True
        """Whether every stand-in has stood for itself alone so far."""

    def stand_ins(self, slots: Numbers) -> Numbers:
        """Return the stand-in of each of slots[n] that were placed, `NOWHERE` of the others."""
        return self._stand_ins[slots].astype(np.int64)

    def all_stand_ins(self, built: int) -> StandIns:
        """Return a copy of the stand-ins of the slots below `built`."""
        self._reserve(built)
        return self._stand_ins[:built].copy()

    def are_crowded(self, slots: Numbers) -> bool:
        """Return whether one of some stand-ins stands for others than itself."""
        # Of a handful of flags a list tells sooner than numpy does.
        return not self._plain and True in self._crowded[slots].tolist()

    def soles(self, slots: Numbers) -> Numbers | None:
        """Return the row that each of some stand-ins stands for; None: one stands for several."""
        if not self.are_crowded(slots):
            return slots
        if self._others and not self._others.keys().isdisjoint(slots.tolist()):
            return None
        return self._soles[slots].astype(np.int64)

    def expand(self, slots: Numbers, keys: Keys) -> tuple[Numbers, Keys]:
        """Put the rows that stand-ins stand for into the place of each, with its key."""
        if not self.are_crowded(slots):
            return slots, keys
        soles = self._soles[slots].astype(np.int64)
        found = [self._others.get(slot) for slot in slots.tolist()] if self._others else []
        if not any(found):
            return soles, keys
        counts = np.ones(len(slots), dtype=np.int64)
        parts, start = [], 0
        for place, others in enumerate(found):
            if others:
                parts += [soles[start : place + 1], np.array(others, dtype=np.int64)]
                counts[place] += len(others)
                start = place + 1
        return np.concatenate([*parts, soles[start:]]), np.repeat(keys, counts)

    def place(self, placed: Placed, alive: Flags) -> None:
        """Note rows that are in the graph now, themselves or by a stand-in.

        `alive` is the table's liveness by slot, in which some of them may have died meanwhile.
        """
        if not len(placed.slots):
            return
        self._reserve(int(placed.slots[-1]) + 1)
        touched = np.unique(placed.stand_ins)
        older = touched[touched < placed.slots[0]]
        self.dead -= int(np.count_nonzero(self._counts[older] == 0))
        self._stand_ins[placed.slots] = placed.stand_ins
        np.add.at(self._counts, placed.stand_ins, alive[placed.slots])
        self.living += int(np.count_nonzero(alive[placed.slots]))
        self.dead += int(np.count_nonzero(self._counts[touched] == 0))
        for slot, stand_in, digest in zip(
            placed.slots.tolist(), placed.stand_ins.tolist(), placed.digests, strict=True
        ):
            if slot == stand_in:
                self.known.add(digest, slot)
            else:
                self._add_other(stand_in, slot, alive)

    def bury(self, slots: Numbers, alive: Flags) -> None:
        """Account for slots that died; those that were not placed are passed over.

        `alive` is the table's liveness by slot, in which they are dead already.
        """
        stand_ins = self._stand_ins[slots[slots < len(self._stand_ins)]]
        stand_ins = stand_ins[stand_ins != NOWHERE]
        np.subtract.at(self._counts, stand_ins, 1)
        self.living -= len(stand_ins)
        touched = np.unique(stand_ins)
        assert (self._counts[touched] >= 0).all(), "a row dies once"
        self.dead += int(np.count_nonzero(self._counts[touched] == 0))
        if self._others:
            for stand_in in touched[self._counts[touched] <= 1].tolist():
                self._disperse(stand_in, alive)

    def restore(self, stand_ins: StandIns, alive: Flags, graph_slots: Numbers) -> None:
        """Fill this empty object from what `all_stand_ins` gave.

        Raises:
            ValueError: it contradicts liveness, or the rows that the graph has.
        """
        placed = np.flatnonzero(stand_ins != NOWHERE)
        targets = stand_ins[placed].astype(np.int64)
        if len(placed) and not (0 <= targets.min() <= targets.max() < len(stand_ins)):
            raise ValueError("a stand-in that is no slot")
        if (stand_ins[targets] != targets).any() or (stand_ins[alive] == NOWHERE).any():
            raise ValueError("a living row without a stand-in, or one that has another")
        if not np.array_equal(np.unique(targets), np.sort(graph_slots)):
            raise ValueError("stand-ins are not the graph's rows")
        self._reserve(len(stand_ins))
        self._stand_ins[: len(stand_ins)] = stand_ins
        np.add.at(self._counts, targets, alive[placed])
        self.living = int(np.count_nonzero(alive[placed]))
        for slot, stand_in in zip(placed.tolist(), targets.tolist(), strict=True):
            if slot != stand_in and alive[slot]:
                self._add_other(stand_in, slot, alive)
        self.dead = int(np.count_nonzero(self._counts[np.unique(targets)] == 0))

    def validate(self, alive: Flags, built: int) -> None:
        """Assert the invariants of this module; slow, for tests."""
        stand_ins = self.all_stand_ins(built)
        living = np.flatnonzero(alive[:built])
        assert (stand_ins[living] != NOWHERE).all(), "each living row has a stand-in"
        placed = stand_ins[stand_ins != NOWHERE]
        assert (stand_ins[placed] == placed).all(), "a stand-in stands for itself"
        counts = np.bincount(stand_ins[living], minlength=len(self._counts))
        assert np.array_equal(counts, self._counts), "the living are counted"
        assert self.living == len(living), "all of them"
        own = np.unique(placed)
        assert self.dead == np.count_nonzero(self._counts[own] == 0), "so are the dead"
        found, _ = self.expand(own, np.zeros(len(own), dtype=np.float32))
        assert len(np.unique(found)) == len(found), "no row is found twice"
        assert np.isin(living, found).all(), "every living row is found"

    def _add_other(self, stand_in: int, slot: int, alive: Flags) -> None:
        if not alive[slot]:
            return  # it died on its way, and nobody needs to find it
        self._plain = False
        self._crowded[stand_in] = True
        if self._counts[stand_in] == 1:
            self._soles[stand_in] = slot
            self._others.pop(stand_in, None)
            return
        others = self._others.setdefault(stand_in, array("q"))
        if self._soles[stand_in] != stand_in:
            others.append(int(self._soles[stand_in]))
            self._soles[stand_in] = stand_in
        others.append(slot)
        if len(others) > 2 * int(self._counts[stand_in]) + _DEAD_COPIES_MAX:
            slots = np.array(others, dtype=np.int64)
            self._others[stand_in] = array("q", slots[alive[slots]].tolist())

    def _disperse(self, stand_in: int, alive: Flags) -> None:
        """One row is left of several, or none: what is left stands alone again."""
        others = self._others.pop(stand_in, None)
        if others is None:
            return
        left = [slot for slot in others if alive[slot]]
        self._soles[stand_in] = left[0] if left else stand_in
        self._crowded[stand_in] = bool(left)

    def _reserve(self, count: int) -> None:
        size = len(self._stand_ins)
        if count <= size:
            return
        more = max(count, size * 3 // 2) - size
        self._stand_ins = np.concatenate([self._stand_ins, np.full(more, NOWHERE, dtype=np.int32)])
        self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.int32)])
        self._crowded = np.concatenate([self._crowded, np.zeros(more, dtype=np.bool_)])
        self._soles = np.concatenate([self._soles, np.arange(size, size + more, dtype=np.int32)])


def digests_of(rows: Matrix) -> list[int]:
    """Return a 63-bit digest of each row's bytes."""
    return [
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") >> 1
        for row in rows
    ]
