"""Who is near, for many starts at once: products of sparse matrices.

A matrix row per start says who is reached and how near; times the matrix of steps it is one hop
further. To see in the product which nodes are new, each step may also stay where it is, with a
weight `_STAY` above all sums of others. A node at distance d of at most h has the code h + 1 - d:
after a product, what it had is the quotient by `_STAY`, and a node without one is new. The larger
of both is right, because codes fall with the distance.

The product runs outside the interpreter's lock. Rows that would make too large a product are
split, so that memory is bounded and the budget is looked at in time.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from graph.budget import Budget, Cut, Exhausted
from graph.khop import Block, Row
from graph.state import CHUNK

HOPS_MAX: Final = 8
"""More hops are walked: each product costs as much as the graph has nodes."""
STARTS_MAX: Final = 4096
"""Starts that are taken at once; more have no room in the caches of a processor."""
_STAY_BITS: Final = 26
_STAY: Final = 1 << _STAY_BITS
SLOTS_MAX: Final = _STAY // (HOPS_MAX + 1)
_PRODUCT_MAX: Final = 1 << 21
"""Terms of one product: about ten milliseconds, and 25 MB."""

Slots = npt.NDArray[np.int32]


class Pack(NamedTuple):
    """The rows of one chunk as arrays, each row led by its own vertex."""

    block: Block
    counts: Slots
    slots: Slots


class Near(NamedTuple):
    """How many nodes are near each start, and these nodes, one start after the other."""

    counts: npt.NDArray[np.int64]
    slots: Slots
    cut: Cut | None


def packed(block: Block, first: int) -> Pack:
    """Return the arrays of a chunk all of whose rows are known; `first` is its first slot."""
    rows = cast("list[Row]", block)
    counts = np.fromiter((len(row) + 1 for row in rows), np.int32, CHUNK)
    led = chain.from_iterable((slot, *row) for slot, row in enumerate(rows, first))
    return Pack(block, counts, np.fromiter(led, np.int32, int(counts.sum())))


class Steps:
    """The matrix of one hop; see the module."""

    __slots__ = ("_degrees", "_matrix", "packs", "slots")

    def __init__(self, packs: list[Pack]) -> None:
        self.packs = packs
        self.slots = len(packs) * CHUNK
        assert self.slots <= SLOTS_MAX, "no sum of codes reaches the weight of staying"
        counts = np.concatenate([pack.counts for pack in packs])
        bounds = np.zeros(self.slots + 1, np.int32)
        np.cumsum(counts, out=bounds[1:])
        weights = np.ones(bounds[-1], np.int32)
        weights[bounds[:-1]] = _STAY
        slots = np.concatenate([pack.slots for pack in packs])
        self._matrix = sparse.csr_array((weights, slots, bounds), shape=(self.slots, self.slots))
        self._degrees = counts - 1

    def near(self, starts: Slots, hops: int, budget: Budget) -> Near:
        """Return the nodes within so many hops of each start, the nearest first."""
        assert 0 < hops <= HOPS_MAX, "a code fits below the weight of staying"
        assert len(starts) <= STARTS_MAX, "starts come in blocks"
        alone = np.arange(len(starts) + 1, dtype=np.int32)
        codes = np.full(len(starts), hops + 1, np.int32)
        begun = sparse.csr_array((codes, starts, alone), shape=(len(starts), self.slots))
        growth = _Growth(self._matrix, self._degrees, hops, budget)
        parts = growth.grown(begun, 0, 0)
        ordered = [_in_order(part, hops) for part in parts]
        return Near(
            np.concatenate([counts for counts, _ in ordered]),
            np.concatenate([slots for _, slots in ordered]),
            growth.cut,
        )


class _Growth:
    """One question on its way: what is reached grows hop by hop."""

    def __init__(self, matrix: Any, degrees: Slots, hops: int, budget: Budget) -> None:
        self._matrix, self._degrees, self._hops = matrix, degrees, hops
        self._budget = budget
        self.cut: Cut | None = None

    def grown(self, reached: Any, distance: int, passed: int) -> list[Any]:
        """Return what is reached in the end, in parts whose rows follow each other.

        `passed` counts the neighbours of all nodes that were not only just reached: a product looks
        at those again.
        """
        while distance < self._hops and self.cut is None:
            code = self._hops + 1 - distance
            rows = reached.shape[0]
            work = self._neighbours(reached, reached.data == code)
            if rows > 1 and work + passed + reached.nnz > _PRODUCT_MAX:
                return self._halves(reached, distance)
            if not self._paid(work):
                break
            reached = reached @ self._matrix
            distance, passed = distance + 1, passed + work
            np.right_shift(reached.data, _STAY_BITS, out=reached.data)
            np.maximum(reached.data, code - 1, out=reached.data)
        return [reached]

    def _halves(self, reached: Any, distance: int) -> list[Any]:
        middle = reached.shape[0] // 2
        parts = []
        for half in (reached[:middle], reached[middle:]):
            passed = self._neighbours(half, half.data > self._hops + 1 - distance)
            parts += self.grown(half, distance, passed)
        return parts

    def _neighbours(self, reached: Any, which: npt.NDArray[np.bool_]) -> int:
        return int(self._degrees.take(reached.indices[which]).sum(dtype=np.int64))

    def _paid(self, units: int) -> bool:
        try:
            self._budget.spend(units)
        except Exhausted as exhausted:
            self.cut = exhausted.by
        return self.cut is None


def _in_order(reached: Any, hops: int) -> tuple[npt.NDArray[np.int64], Slots]:
    """Return counts and slots, those of a row by distance and slot, without the start itself.

    Row, distance and slot make one number to sort by, of 32 bits when they fit. The starts, one in
    each row, are sent to the end and cut off.
    """
    rows, columns = reached.shape
    levels, bits = hops + 1, int(columns).bit_length()
    small = (rows * levels) << bits < 1 << 31
    counts = np.diff(reached.indptr).astype(np.int64)
    first = np.arange(levels, (rows + 1) * levels, levels, dtype=np.int32 if small else np.int64)
    keys = np.repeat(first, counts)
    keys -= reached.data
    keys <<= bits
    keys |= reached.indices
    np.putmask(keys, reached.data > hops, np.iinfo(keys.dtype).max)
    keys.sort()
    keys = keys[: len(keys) - rows]
    keys &= (1 << bits) - 1
    return counts - 1, keys.astype(np.int32, copy=False)
