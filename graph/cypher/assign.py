"""SET, REMOVE and DELETE.

What is set on a relationship is set on its hyperedge, but for the confidence: that of one step of
a chain is its own. A variable that is null is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graph.cypher import tree
from graph.cypher.elements import properties_of
from graph.cypher.expressions import compiled
from graph.cypher.match import Operator, Rows
from graph.cypher.runtime import Runtime, held
from graph.cypher.scope import Scope
from graph.cypher.stored_values import FIELDS, as_map, packed, parted
from graph.cypher.values import Path, Row, kind
from graph.cypher.writer import Writer
from graph.errors import BadQuery
from graph.model import Arc, Node
from graph.state import EdgeEntry

Carry = Callable[[Row], None]


class Assignments:
    """The items of a SET or REMOVE, carried out one after the other on a row."""

    def __init__(
        self, items: Sequence[tree.Assignment], scope: Scope, run: Runtime, writer: Writer
    ) -> None:
        self._scope, self._run, self._writer = scope, run, writer
        self._steps = [self._step(item) for item in items]

    def carry_out(self, row: Row) -> None:
        """Carry them out."""
        for step in self._steps:
            step(row)

    def _step(self, item: tree.Assignment) -> Carry:
        if isinstance(item, tree.SetLabels):
            return self._labels(item)
        if isinstance(item, tree.SetProperty):
            source = tree.MapOf(((item.key, item.value),))
            return self._properties(item.name, source, add=True)
        return self._properties(item.name, item.value, add=item.add)

    def _labels(self, item: tree.SetLabels) -> Carry:
        position = self._scope.position(item.name)

        def step(row: Row) -> None:
            node = self._run.current(row[position])
            if node is None:
                return
            if not isinstance(node, Node):
                raise BadQuery(f"{kind(node)} has no labels that could change")
            given = dict.fromkeys(item.labels)
            if item.remove:
                labels = tuple(label for label in node.labels if label not in given)
                self._writer.counts["labels_removed"] += len(node.labels) - len(labels)
            else:
                labels = tuple(dict.fromkeys((*node.labels, *given)))
                self._writer.counts["labels_added"] += len(labels) - len(node.labels)
            if labels != node.labels:
                self._writer.rewrite_node(node, labels, node.raw)

        return step

    def _properties(self, name: str, source: tree.Expr, *, add: bool) -> Carry:
        position, value = self._scope.position(name), compiled(source, self._scope, self._run)

        def step(row: Row) -> None:
            target = self._run.current(row[position])
            if target is None:
                return
            given = value(row)
            if isinstance(given, Node | Arc | EdgeEntry):
                given = properties_of(self._run, given)
            given = as_map(given)
            self._writer.counts["properties_set"] += len(given)
            if isinstance(target, Node):
                self._set_on_node(target, given, add=add)
            elif isinstance(target, Arc | EdgeEntry):
                self._set_on_edge(target, given, add=add)
            else:
                raise BadQuery(f"{kind(target)} has no properties that could be set")

        return step

    def _set_on_node(self, node: Node, given: Mapping[str, Any], *, add: bool) -> None:
        if "id" in given and given["id"] != node.id:
            raise BadQuery("a node's id cannot change")
        old = node.properties if add else {}
        new = {key: value for key, value in given.items() if key != "id"}
        self._writer.rewrite_node(node, node.labels, packed({**old, **new}))

    def _set_on_edge(self, target: Arc | EdgeEntry, given: Mapping[str, Any], *, add: bool) -> None:
        fields, new = parted(given)
        entry = self._run.state.find_edge(target.edge.id)
        assert entry is not None, "current refuses what is gone"
        old = target.edge.properties if add else {}
        changed: dict[str, Any] = {key: fields[key] for key in FIELDS if key in fields}
        if "confidence" in fields and not target.edge.roles:
            assert isinstance(target, Arc), "an ordered edge is seen as arcs"
            changed |= _arc_confidences(entry, target.position, changed.pop("confidence"))
        self._writer.rewrite_edge(entry, properties=packed({**old, **new}), **changed)


def _arc_confidences(entry: EdgeEntry, position: int, confidence: float) -> dict[str, Any]:
    """Return what changes of a chain when one of its steps gets a confidence."""
    arcs = [arc.confidence for arc in entry.arcs]
    if arcs[position] == confidence:
        return {}
    arcs[position] = confidence
    return {"arc_confidences": tuple(arcs), "confidence": math.prod(arcs)}


def assign_clause(
    clause: tree.Assign, scope: Scope, run: Runtime, writer: Writer
) -> tuple[Operator, Scope]:
    """Compile SET or REMOVE."""
    assignments = Assignments(clause.assignments, scope, run, writer)

    def operator(rows: Rows) -> Rows:
        waiting = held(rows, run)
        for row in waiting:
            assignments.carry_out(row)
        yield from waiting

    return operator, scope


def delete_clause(
    clause: tree.Delete, scope: Scope, run: Runtime, writer: Writer
) -> tuple[Operator, Scope]:
    """Compile DELETE or DETACH DELETE."""
    targets = [compiled(target, scope, run) for target in clause.targets]

    def operator(rows: Rows) -> Rows:
        waiting = held(rows, run)
        for row in waiting:
            for target in targets:
                _delete(target(row), run, writer, detach=clause.detach)
        writer.settle()
        yield from waiting

    return operator, scope


def _delete(value: Any, run: Runtime, writer: Writer, *, detach: bool) -> None:
    if isinstance(value, Node):
        node = run.state.vertex(value.slot).node
        if node is not None:
            writer.delete_node(node, detach=detach)
    elif isinstance(value, Arc | EdgeEntry):
        writer.delete_edge(value.edge.id)
    elif isinstance(value, Path):
        for arc in value.arcs:
            writer.delete_edge(arc.edge.id)
        for node in value.nodes:
            _delete(node, run, writer, detach=detach)
    elif value is not None:
        raise BadQuery(f"{kind(value)} cannot be deleted")
