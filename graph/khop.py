"""Who is near: the nodes within so many hops of a start.

A hop goes along an arc, against it, either way, or, *shared*, to all who are joined by a same
hyperedge. A node is met at its least distance, and the start not at all. The nearest come first,
and nodes of one distance by ascending slot.

`Rows` is what walks: the neighbours of each vertex of one state, found when first asked for and
kept. States share the vertices that did not change, and so do their rows: `Rows.moved_to` compares
two states by identity and drops what differs. So rows are always those of their state, no writer
has to tell of a change, and following a change costs what the writer paid: a look at the list of
chunks, and the chunks that differ.

One unit of the budget is spent for each neighbour looked at. A walk that is cut short answers the
levels that it finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from graph.budget import Budget, Cut, Exhausted
from graph.edge_filter import EdgeFilter
from graph.model import Edge
from graph.state import CHUNK, CHUNK_BITS, MASK, GraphState, Vertex

Direction = Literal["out", "in", "both", "shared"]
Row = tuple[int, ...]
Block = list[Row | None]
"""The rows of one chunk; None: not known yet."""

_UNKNOWN: Final[Block] = [None] * CHUNK
"""Stands for each block of which nothing is known; it is replaced, never filled."""


class Reached(NamedTuple):
    """The nodes near each start; `cut`: some are missing, because a limit ended the walk."""

    neighbours: list[list[int]]
    cut: Cut | None


class Rows:
    """See the module. Threads may share it: what two of them find at once is the same."""

    __slots__ = ("blocks", "direction", "state", "which")

    def __init__(self, state: GraphState, which: EdgeFilter, direction: Direction) -> None:
        assert direction != "shared", "hyperedges are walked as they are"
        self.state, self.which, self.direction = state, which, direction
        self.blocks: list[Block] = [_UNKNOWN] * len(state.chunks)

    def moved_to(self, state: GraphState) -> Rows:
        """Return the rows of another state, as far as they are known from this one."""
        moved = Rows(state, self.which, self.direction)
        pairs = zip(self.blocks, self.state.chunks, state.chunks, strict=False)
        known = [
            block if before is after else _carried(block, before, after)
            for block, before, after in pairs
        ]
        moved.blocks[: len(known)] = known
        return moved

    def row(self, slot: int) -> Row:
        """Return the neighbours of a vertex, each once, itself not among them."""
        block = self.blocks[slot >> CHUNK_BITS]
        row = block[slot & MASK]
        if row is not None:
            return row
        if block is _UNKNOWN:
            block = self.blocks[slot >> CHUNK_BITS] = [None] * CHUNK
        row = block[slot & MASK] = tuple(
            dict.fromkeys(n for n in self._neighbours(self.state.vertex(slot)) if n != slot)
        )
        return row

    def block(self, at: int) -> Block:
        """Return the rows of a chunk, all of them known."""
        block = self.blocks[at]
        if None in block:
            first = at << CHUNK_BITS
            block = self.blocks[at] = [self.row(slot) for slot in range(first, first + CHUNK)]
        return block

    def walk(self, start: int, hops: int, budget: Budget) -> tuple[list[int], Cut | None]:
        """Return the nodes within so many hops of a start."""
        blocks = self.blocks
        found: list[int] = []
        seen, front = {start}, [start]
        try:
            for _ in range(hops):
                level = []
                looked_at = 0
                for slot in front:
                    row = blocks[slot >> CHUNK_BITS][slot & MASK]
                    if row is None:
                        row = self.row(slot)
                    looked_at += len(row)
                    if looked_at > CHUNK:
                        budget.spend(looked_at)
                        looked_at = 0
                    for near in row:
                        if near not in seen:
                            seen.add(near)
                            level.append(near)
                budget.spend(looked_at)
                if not level:
                    break
                level.sort()
                found += level
                front = level
        except Exhausted as exhausted:
            return found, exhausted.by
        return found, None

    def _neighbours(self, vertex: Vertex) -> Iterator[int]:
        counts = self.which.counts
        if self.direction != "in":
            yield from (arc.target for arc in vertex.out if counts(arc.edge))
        if self.direction != "out":
            yield from (arc.source for arc in vertex.into if counts(arc.edge))


def walk_shared(
    state: GraphState, start: int, hops: int, which: EdgeFilter, budget: Budget
) -> tuple[list[int], Cut | None]:
    """Return the nodes within so many shared hyperedges of a start.

    Each edge is opened once: the pairs of its members would be many times as much.
    """
    found: list[int] = []
    seen, opened, front = {start}, dict[int, None](), [start]
    try:
        for _ in range(hops):
            level: dict[int, None] = {}
            for slot in front:
                for edge in _edges(state.vertex(slot), budget):
                    if edge.slot not in opened and which.counts(edge):
                        opened[edge.slot] = None
                        budget.spend(len(edge.members))
                        level.update(dict.fromkeys(edge.members))
            front = sorted(level.keys() - seen)
            found += front
            seen.update(front)
    except Exhausted as exhausted:
        return found, exhausted.by
    return found, None


def _edges(vertex: Vertex, budget: Budget) -> Iterator[Edge]:
    for arcs in (vertex.out, vertex.into):
        for arc in arcs:
            budget.spend()
            yield arc.edge


def _carried(block: Block, before: list[Vertex], after: list[Vertex]) -> Block:
    """Return the rows of a chunk that still hold after a change.

    The block itself, which readers of the older state may go on filling, is only handed on when no
    vertex has other arcs: a change of a node's properties leaves its arcs as they were.
    """
    if block is _UNKNOWN:
        return block
    same = [
        a is b or (a.out is b.out and a.into is b.into) for a, b in zip(before, after, strict=True)
    ]
    if all(same):
        return block
    return [row if kept else None for row, kept in zip(block, same, strict=True)]
