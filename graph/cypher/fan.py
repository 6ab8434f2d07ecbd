"""`(a)-[r:T]->(b, c)`: hyperedges with roles that lead from one node to several at once.

The nodes on the right are different ones among the edge's targets, in any order; the edge may have
more. `r` is the hyperedge. Two such relationships of one MATCH are two hyperedges, and the arcs
to the nodes on the right count as used.
"""

from __future__ import annotations

from collections.abc import Iterator

from graph.cypher.plan import Fan
from graph.cypher.plan import Node as NodePattern
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.stage import Flow, Stage, Test, Used, counting, has_labels, node_in
from graph.cypher.values import Row
from graph.model import Arc, Node
from graph.state import EdgeEntry


def fan_stage(step: Fan, passes: Test, scope: Scope, run: Runtime) -> Stage:
    """Compile the step; see `walk`."""
    return _Fan(step, passes, scope, run).stage


class _Fan:
    def __init__(self, step: Fan, passes: Test, scope: Scope, run: Runtime) -> None:
        self._step, self._passes, self._run = step, passes, run
        self._source = scope.position(step.source.name)
        self._targets = [scope.position(node.name) for node in step.targets]
        self._place = scope.position(step.relationship.name)
        self._entry = scope.position(step.entry)
        self._counts = counting(step.relationship.pattern.types, run)

    def stage(self, before: Flow, row: Row, used: Used) -> Flow:
        for _ in before:
            if row[self._entry] is None:
                continue
            given = [row[at] for at in (self._source, self._place, *self._targets)]
            for entry, source in self._edges(row):
                if entry.edge in used or not self._takes(
                    row, self._source, source, self._step.source
                ):
                    continue
                if self._step.relationship.name in self._step.bound:
                    bound = row[self._place]
                    if not isinstance(bound, EdgeEntry) or bound.edge.slot != entry.edge.slot:
                        continue
                yield from self._arranged(entry, source, row, used)
                for at, value in zip(
                    (self._source, self._place, *self._targets), given, strict=True
                ):
                    row[at] = value

    def _edges(self, row: Row) -> Iterator[tuple[EdgeEntry, Node]]:
        """Yield each hyperedge with a source of it, found from the entry."""
        state, spend = self._run.state, self._run.context.budget.spend
        outward = self._step.entry == self._step.source.name
        vertex = state.vertex(node_in(row[self._entry]).slot)
        seen: dict[tuple[int, int], None] = {}
        for arc in vertex.out if outward else vertex.into:
            spend()
            key = (arc.edge.slot, arc.source)
            if not arc.edge.roles or key in seen or not self._counts(arc.edge):
                continue
            seen[key] = None
            entry = state.find_edge(arc.edge.id)
            assert entry is not None, "an arc belongs to an edge"
            yield entry, state.node(arc.source)

    def _takes(self, row: Row, at: int, node: Node, pattern: NodePattern) -> bool:
        """Put a node into the row if it fits there."""
        if pattern.name in self._step.bound:
            value = row[at]
            if value is None or node_in(value).slot != node.slot:
                return False
        row[at] = node
        return has_labels(node, pattern.labels)

    def _arranged(self, entry: EdgeEntry, source: Node, row: Row, used: Used) -> Flow:
        """Yield for each way to give the edge's targets to the pattern's."""
        state, spend = self._run.state, self._run.context.budget.spend
        arcs: dict[int, Arc] = {}
        for arc in entry.arcs:
            if arc.source == source.slot and arc not in used:
                arcs.setdefault(arc.target, arc)
        row[self._place] = entry
        chosen: dict[int, Arc] = {}
        waiting = [iter(arcs)]
        while waiting:
            slot = next(waiting[-1], None)
            if slot is None:
                waiting.pop()
                if chosen:
                    chosen.popitem()
                continue
            spend()
            at = len(chosen)
            pattern = self._step.targets[at]
            if slot in chosen or not self._takes(row, self._targets[at], state.node(slot), pattern):
                continue
            chosen[slot] = arcs[slot]
            if len(chosen) < len(self._targets):
                waiting.append(iter(arcs))
                continue
            if self._passes(row):
                taken: Used = {**dict.fromkeys(chosen.values()), entry.edge: None}
                used.update(taken)
                yield
                for each in taken:
                    del used[each]
            chosen.popitem()
