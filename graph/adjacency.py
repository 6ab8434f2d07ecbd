"""Who is near, answered fast: what is kept beside a graph in memory.

For each direction and choice of labels that is asked about, the rows of neighbours are kept, and
for batches the matrix of them. Both follow the state that a question brings, so an answer is
always that of walking the state itself; see `graph.khop`.

Making a matrix reads the whole graph, though of a changed one only the chunks that changed are
read vertex by vertex, and the rest is copied. So it is made again only when that costs no more
than the walks that were done without it and those that are now asked for: however often the graph
changes, at most twice the work is done that was needed.

A question about a moment walks with rows of its own, which nobody else would ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from graph.budget import Budget, Cut
from graph.edge_filter import EVERY, EdgeFilter
from graph.errors import BadQuery
from graph.khop import Direction, Reached, Rows, walk_shared
from graph.khop_matrix import HOPS_MAX, SLOTS_MAX, STARTS_MAX, Near, Pack, Steps, packed
from graph.state import CHUNK, CHUNK_BITS, GraphState

VIEWS_MAX: Final = 8
_FEW: Final = 32
"""Fewer starts are not worth arrays."""
_SLOTS_PER_START: Final = 2048
"""How many slots of a matrix cost as much as one start that is walked."""

_NEAR_LEAST: Final = 16
"""How many neighbours the walk from one start is taken to look at, before it is done."""
_COPIED: Final = 8
"""How many slots are copied in the time that it takes to look at one neighbour."""

_Key = tuple[tuple[str, ...] | None, Direction]
_Walk = Callable[[int], tuple[list[int], Cut | None]]


class ReachedMany(NamedTuple):
    """The nodes near start i are `slots[bounds[i] : bounds[i + 1]]`; `cut` is as in `Reached`."""

    bounds: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int32]
    cut: Cut | None


class Adjacency:
    """See the module. Any number of threads may ask, also about states of different age.

    `pause` is called now and then while a matrix is made, to let other threads in. A graph that was
    compacted or read anew has other slots, and deserves an adjacency of its own.
    """

    def __init__(self, *, pause: Callable[[], None] = lambda: None) -> None:
        self._pause = pause
        self._lock = Lock()
        self._views: dict[_Key, _View] = {}
        """Those that were last made or moved come last."""

    def khop(
        self,
        state: GraphState,
        starts: Sequence[int],
        hops: int,
        *,
        which: EdgeFilter = EVERY,
        direction: Direction = "both",
        budget: Budget,
    ) -> Reached:
        """Return the nodes within so many hops of each start; starts are slots of nodes."""
        if len(starts) >= _FEW:
            many = self.khop_many(
                state, starts, hops, which=which, direction=direction, budget=budget
            )
            nodes = many.slots.tolist()
            return Reached([nodes[a:b] for a, b in pairwise(many.bounds.tolist())], many.cut)
        _check(hops)
        if direction == "shared":
            return _each(starts, lambda start: walk_shared(state, start, hops, which, budget))
        rows = self._view(state, which, direction).rows
        return _each(starts, lambda start: rows.walk(start, hops, budget))

    def khop_many(
        self,
        state: GraphState,
        starts: Sequence[int],
        hops: int,
        *,
        which: EdgeFilter = EVERY,
        direction: Direction = "both",
        budget: Budget,
    ) -> ReachedMany:
        """Return the same as `khop` in arrays: the fast way for many starts."""
        _check(hops)
        view = None if direction == "shared" else self._view(state, which, direction)
        parts: list[Near] = []
        cut: Cut | None = None
        for at in range(0, len(starts), STARTS_MAX):
            block = starts[at : at + STARTS_MAX]
            if cut is not None:
                near = _in_arrays(Reached([[]] * len(block), cut))
            elif view is None:
                near = _in_arrays(
                    _each(block, lambda start: walk_shared(state, start, hops, which, budget))
                )
            else:
                near = view.near(block, hops, budget)
            parts.append(near)
            cut = near.cut
        return _joined(parts, cut)

    def _view(self, state: GraphState, which: EdgeFilter, direction: Direction) -> _View:
        if not which.timeless:
            return _View(Rows(state, which, direction), self._pause)
        labels = which.labels
        key = None if labels is None else tuple(sorted(labels)), direction
        view = self._views.get(key)
        if view is not None and view.rows.state is state:
            return view
        with self._lock:
            return self._moved_view(key, state, which, direction)

    def _moved_view(
        self, key: _Key, state: GraphState, which: EdgeFilter, direction: Direction
    ) -> _View:
        view = self._views.get(key)
        if view is None:
            view = _View(Rows(state, which, direction), self._pause)
        elif view.rows.state is not state:
            newer = state.version >= view.rows.state.version
            view = view.moved_to(state)
            if not newer:
                return view
        self._views.pop(key, None)
        self._views[key] = view
        if len(self._views) > VIEWS_MAX:
            del self._views[next(iter(self._views))]
        return view


class _View:
    """Rows, and the matrix of them if there is one."""

    __slots__ = ("_packs", "_pause", "_steps", "_walked", "rows")

    def __init__(self, rows: Rows, pause: Callable[[], None]) -> None:
        self.rows = rows
        self._pause = pause
        self._packs: list[Pack] = []
        """What is known of the chunks as arrays, maybe of older blocks."""
        self._steps: Steps | None = None
        self._walked = 0
        """Neighbours looked at since there was no matrix, in questions that are worth one."""

    def moved_to(self, state: GraphState) -> _View:
        """Return the view of another state."""
        moved = _View(self.rows.moved_to(state), self._pause)
        moved._packs = self._packs
        if self._steps is not None and moved._covers(self._steps):
            moved._steps = self._steps
        return moved

    def near(self, starts: Sequence[int], hops: int, budget: Budget) -> Near:
        """Return who is near each start, by the matrix if that pays."""
        slots = len(self.rows.blocks) * CHUNK
        slots_max = min(SLOTS_MAX, len(starts) * _SLOTS_PER_START)
        worth = hops <= HOPS_MAX and len(starts) >= _FEW and slots <= slots_max
        if worth and self._steps is None and self._pays(len(starts)):
            self._steps = self._made()
        if worth and self._steps is not None:
            return self._steps.near(np.asarray(starts, np.int32), hops, budget)
        before = budget.spent
        reached = _each(starts, lambda start: self.rows.walk(start, hops, budget))
        if worth:
            self._walked += budget.spent - before
        return _in_arrays(reached)

    def _pays(self, starts: int) -> bool:
        blocks = self.rows.blocks
        known = sum(pack.block is block for pack, block in zip(self._packs, blocks, strict=False))
        cost = (len(blocks) - known) * CHUNK + len(blocks) * CHUNK // _COPIED
        return self._walked + starts * _NEAR_LEAST >= cost

    def _made(self) -> Steps:
        known, packs = self._packs, []
        for at in range(len(self.rows.blocks)):
            if at < len(known) and known[at].block is self.rows.blocks[at]:
                packs.append(known[at])
            else:
                packs.append(packed(self.rows.block(at), at << CHUNK_BITS))
                self._pause()
        self._packs = packs
        return Steps(packs)

    def _covers(self, steps: Steps) -> bool:
        blocks = self.rows.blocks
        return len(blocks) == len(steps.packs) and all(
            pack.block is block for pack, block in zip(steps.packs, blocks, strict=True)
        )


def _check(hops: int) -> None:
    if hops < 1:
        raise BadQuery("hops must be at least 1", field="hops")


def _each(starts: Sequence[int], walk: _Walk) -> Reached:
    found: list[list[int]] = []
    cut: Cut | None = None
    for start in starts:
        nodes: list[int] = []
        if cut is None:
            nodes, cut = walk(start)
        found.append(nodes)
    return Reached(found, cut)


def _in_arrays(reached: Reached) -> Near:
    counts = np.fromiter(map(len, reached.neighbours), np.int64, len(reached.neighbours))
    nodes = (node for nodes in reached.neighbours for node in nodes)
    return Near(counts, np.fromiter(nodes, np.int32, int(counts.sum())), reached.cut)


def _joined(parts: list[Near], cut: Cut | None) -> ReachedMany:
    counts = [np.zeros(1, np.int64), *(near.counts for near in parts)]
    slots = [np.zeros(0, np.int32), *(near.slots for near in parts)]
    return ReachedMany(np.cumsum(np.concatenate(counts)), np.concatenate(slots), cut)
