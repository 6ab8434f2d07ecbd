"""Chains of causes, the surest first, without making them all.

A chain follows arcs from cause to effect, and none twice: so cycles end, while a node may come
again. Its confidence is the product of its arcs', taken from the cause on, as a query's `reduce`
would take it. As no arc adds to it, a queue that always gives the best unfinished chain next also
gives finished ones in their final order, and to know the first ten costs little more than these
ten.

Of two chains equally sure the shorter comes first; then node ids decide, then ids of hyperedges
and positions, so that no two chains tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from graph.budget import Budget, Cut
from graph.edge_filter import EdgeFilter
from graph.errors import BadQuery
from graph.model import Arc
from graph.state import Arcs, GraphState

CAUSAL_LABELS: Final = ("CAUSED_BY", "LEADS_TO", "CAUSES")
"""Labels whose arcs lead from cause to effect, whatever the name says."""
CAUSAL: Final = EdgeFilter(CAUSAL_LABELS)


class Chain(NamedTuple):
    """Nodes by slot, the first cause first, and the arcs between them."""

    nodes: tuple[int, ...]
    arcs: Arcs
    confidence: float


class Chains(NamedTuple):
    """The best chains, the surest first; `cut`: there may be more, a limit of work ended this."""

    chains: list[Chain]
    cut: Cut | None = None


class Ask(NamedTuple):
    """Which chains are wanted: of 1 to `hops_max` arcs, at most `limit`.

    `far_type`: only those whose far end, the one that was not named, has this property `type`;
    `far`: only those whose far end is in this slot; `confidence_min`: only those at least as sure.
    """

    which: EdgeFilter = CAUSAL
    hops_max: int = 5
    limit: int = 10
    far_type: str | None = None
    far: int | None = None
    confidence_min: float = 0.0

    def check(self) -> None:
        """Raise BadQuery unless this can be asked."""
        for field, number in (("hops_max", self.hops_max), ("limit", self.limit)):
            if number < 1:
                raise BadQuery(f"{field} must be at least 1", field=field)


class Way(NamedTuple):
    """Where a search goes: against the arcs or along them, and without which edge, by slot."""

    backward: bool
    without: int | None = None

    def steps(self, state: GraphState, slot: int) -> Arcs:
        """Return the arcs that lead on from a node."""
        vertex = state.vertex(slot)
        return vertex.into if self.backward else vertex.out

    def end(self, arc: Arc) -> int:
        """Return the node that an arc leads to."""
        return arc.source if self.backward else arc.target

    def far(self, chain: Chain) -> int:
        """Return the far end of a chain."""
        return chain.nodes[0 if self.backward else -1]

    def extended(self, chain: Chain, arc: Arc) -> Chain:
        """Return a chain with one more arc at its far end."""
        if self.backward:
            nodes, arcs = (arc.source, *chain.nodes), (arc, *chain.arcs)
        else:
            nodes, arcs = (*chain.nodes, arc.target), (*chain.arcs, arc)
        return Chain(nodes, arcs, math.prod(each.confidence for each in arcs))


Admits = Callable[[Chain, int], bool]
"""Whether a chain, seen from its far end in this slot, can still become one that is wanted."""

_Rank = tuple[float, int, tuple[str, ...], tuple[tuple[str, int], ...]]


class Search:
    """One search for chains; see the module."""

    def __init__(
        self, state: GraphState, ask: Ask, way: Way, budget: Budget, admits: Admits | None = None
    ) -> None:
        self._state, self._ask, self._way, self._budget = state, ask, way, budget
        self._admits = admits

    def chains(self, starts: Iterable[int]) -> Iterator[Chain]:
        """Yield all chains from these nodes, best first; raises Exhausted."""
        for chain in self._queue(starts, lambda _: True):
            if chain.arcs:
                yield chain

    def strongest(self, starts: Iterable[int]) -> Iterator[Chain]:
        """Yield for each far end the best chain that leads there, best first; raises Exhausted.

        Another chain to the same node is only followed when it is shorter and so may lead further:
        whatever begins with it is else no better. So this is quick where chains are many.
        """
        shortest: dict[int, int] = {}
        yielded: dict[int, None] = {}

        def leads_on(chain: Chain) -> bool:
            far, length = self._way.far(chain), len(chain.arcs)
            if shortest.get(far, length + 1) <= length:
                return False
            shortest[far] = length
            return True

        for chain in self._queue(starts, leads_on):
            far = self._way.far(chain)
            if chain.arcs and far not in yielded:
                yielded[far] = None
                yield chain

    def _queue(self, starts: Iterable[int], leads_on: Callable[[Chain], bool]) -> Iterator[Chain]:
        begun = [Chain((slot,), (), 1.0) for slot in starts]
        queue = [(self._rank(chain), chain) for chain in begun if self._wanted(chain)]
        heapify(queue)
        last: _Rank | None = None
        while queue:
            rank, chain = heappop(queue)
            assert last is None or last < rank, "chains come in their order"
            last = rank
            yield chain
            if len(chain.arcs) < self._ask.hops_max and leads_on(chain):
                for longer in self._longer(chain):
                    heappush(queue, (self._rank(longer), longer))

    def _longer(self, chain: Chain) -> Iterator[Chain]:
        way, which, spend = self._way, self._ask.which, self._budget.spend
        taken = [(arc.edge.slot, arc.position) for arc in chain.arcs]
        for arc in way.steps(self._state, way.far(chain)):
            spend()
            edge = arc.edge
            if edge.slot == way.without or not which.counts(edge):
                continue
            if (edge.slot, arc.position) not in taken:
                longer = way.extended(chain, arc)
                if self._wanted(longer):
                    yield longer

    def _wanted(self, chain: Chain) -> bool:
        if chain.confidence < self._ask.confidence_min:
            return False
        return self._admits is None or self._admits(chain, self._way.far(chain))

    def _rank(self, chain: Chain) -> _Rank:
        ids = tuple(self._state.node(slot).id for slot in chain.nodes)
        steps = tuple((arc.edge.id, arc.position) for arc in chain.arcs)
        return -chain.confidence, len(steps), ids, steps


def distances(
    state: GraphState, starts: Iterable[int], ask: Ask, way: Way, budget: Budget
) -> dict[int, int]:
    """Return how many arcs away the nodes within `hops_max` are; raises Exhausted."""
    away = dict.fromkeys(starts, 0)
    front = list(away)
    for distance in range(1, ask.hops_max + 1):
        level: dict[int, None] = {}
        for slot in front:
            for arc in way.steps(state, slot):
                budget.spend()
                end = way.end(arc)
                if end not in away and ask.which.counts(arc.edge):
                    level[end] = None
        away.update(dict.fromkeys(level, distance))
        front = list(level)
    return away
