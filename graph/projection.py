"""A graph's arcs as arrays, and as the graphs that networkx computes on.

Nodes are numbered in the order of their ids, parallel arcs become one, and what is left is sorted.
So what is computed depends on what the graph holds, not on how it came to be: networkx walks
through dictionaries in the order of insertion, breaks ties by it, and would walk through a set of
strings in another order in each process.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse

from graph.budget import Budget, Exhausted
from graph.edge_filter import EdgeFilter
from graph.errors import TooLarge
from graph.model import Arc, Node
from graph.state import GraphState

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Limits(NamedTuple):
    """The largest graph that somebody takes."""

    nodes_max: int
    arcs_max: int


class Projection(NamedTuple):
    """See the module. Per pair of nodes that arcs join: the `best` confidence of one of these
    arcs, and their `total`, by which several weigh more than one."""

    state: GraphState
    wanted: EdgeFilter
    nodes: list[Node]
    sources: Integers
    targets: Integers
    best: Floats
    total: Floats

    def number_of(self, node_id: str) -> int | None:
        """Return a node's number, or None when there is no such node."""
        node = self.state.find_node(node_id)
        if node is None:
            return None
        return bisect_left(self.nodes, node_id, key=lambda each: each.id)

    def arcs(self, source: int, target: int) -> list[Arc]:
        """Return the arcs from one number to another, the most confident first."""
        end = self.nodes[target].slot
        found = [
            arc
            for arc in self.state.vertex(self.nodes[source].slot).out
            if arc.target == end and self.wanted.counts(arc.edge)
        ]
        return sorted(found, key=lambda arc: (-arc.confidence, arc.edge.id, arc.position))

    def directed(self, weights: Floats | None = None) -> nx.DiGraph:
        """Return the arcs as a graph, with an attribute `weight` if there are weights."""
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.nodes)))
        pairs = self.sources.tolist(), self.targets.tolist()
        if weights is None:
            graph.add_edges_from(zip(*pairs, strict=True))
        else:
            graph.add_weighted_edges_from(zip(*pairs, weights.tolist(), strict=True))
        return graph

    def undirected(self, weights: Floats) -> nx.Graph:
        """Return the graph without directions; opposite arcs add up."""
        matrix = sparse.triu(self.symmetric(weights)).tocoo()
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.nodes)))
        graph.add_weighted_edges_from(
            zip(matrix.row.tolist(), matrix.col.tolist(), matrix.data.tolist(), strict=True)
        )
        return graph

    def symmetric(self, weights: Floats) -> sparse.csr_array:
        """Return the matrix of the graph without directions."""
        size = len(self.nodes)
        matrix = sparse.coo_array((weights, (self.sources, self.targets)), (size, size)).tocsr()
        matrix = matrix + matrix.T
        matrix.sum_duplicates()
        return matrix


def read_projection(
    state: GraphState, wanted: EdgeFilter, limits: Limits, budget: Budget
) -> Projection:
    """Read the arcs that count; raises TooLarge above a limit, or when the budget is used up."""
    if state.node_count > limits.nodes_max:
        raise TooLarge(f"{state.node_count:,} nodes; at most {limits.nodes_max:,} are taken.")
    nodes = sorted(state.nodes(), key=lambda node: node.id)
    numbers = {node.slot: number for number, node in enumerate(nodes)}
    sources: list[int] = []
    targets: list[int] = []
    confidences: list[float] = []
    try:
        for number, node in enumerate(nodes):
            out = state.vertex(node.slot).out
            budget.spend(len(out))
            for arc in out:
                if wanted.counts(arc.edge):
                    sources.append(number)
                    targets.append(numbers[arc.target])
                    confidences.append(arc.confidence)
            if len(sources) > limits.arcs_max:
                raise TooLarge(f"More than {limits.arcs_max:,} arcs; no more are taken.")
    except Exhausted as exhausted:
        raise TooLarge(f"The graph cannot be read within the limit of {exhausted.by}.") from None
    arrays = _merged(np.array(sources, int), np.array(targets, int), np.array(confidences, float))
    return Projection(state, wanted, nodes, *arrays)


def _merged(
    sources: Integers, targets: Integers, confidences: Floats
) -> tuple[Integers, Integers, Floats, Floats]:
    """Return pairs once each, in order, with the best confidence and the total."""
    order = np.lexsort((confidences, targets, sources))
    sources, targets, confidences = sources[order], targets[order], confidences[order]
    if not len(sources):
        return sources, targets, confidences, confidences
    other = (np.diff(sources) != 0) | (np.diff(targets) != 0)
    starts = np.flatnonzero(np.concatenate(([True], other)))
    best = np.maximum.reduceat(confidences, starts)
    total = np.add.reduceat(confidences, starts)
    return sources[starts], targets[starts], best, total
