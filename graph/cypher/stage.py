"""What the steps of a walk through a pattern share; see `walk`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from graph.cypher.expressions import condition
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.tree import Expr
from graph.cypher.values import Evaluate, Row, kind
from graph.errors import BadQuery
from graph.model import Edge, Node

Used = dict[Any, None]
"""Arcs, and edges, that the match under way contains."""
Flow = Iterator[None]
Stage = Callable[[Flow, Row, Used], Flow]
Test = Callable[[Row], bool]


def passing(checks: Iterable[Expr], scope: Scope, run: Runtime) -> Test:
    """Compile conditions that all have to be true."""
    tests = [condition(check, scope, run) for check in checks]
    if not tests:
        return lambda _row: True
    if len(tests) == 1:
        return _true(tests[0])
    return lambda row: all(test(row) is True for test in tests)


def _true(test: Evaluate) -> Test:
    return lambda row: test(row) is True


def has_labels(node: Node, labels: tuple[str, ...]) -> bool:
    """Return whether a node has all these labels."""
    if len(labels) == 1:
        return labels[0] in node.labels
    return all(label in node.labels for label in labels)


def node_in(value: Any) -> Node:
    """Return what a node's variable was bound to before, which has to be a node."""
    if not isinstance(value, Node):
        raise BadQuery(f"{kind(value)} stands where a pattern has a node")
    return value


def counting(types: tuple[str, ...], run: Runtime) -> Callable[[Edge], bool]:
    """Return the test whether an edge exists for the query and has one of the types."""
    as_of, known_at = run.context.as_of, run.context.known_at
    if as_of is None and known_at is None:
        return lambda edge: edge.expired is None and (not types or edge.label in types)
    return lambda edge: (not types or edge.label in types) and edge.holds(as_of, known_at)
