"""What can be read of nodes and relationships: built-in keys first, then properties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from graph.cypher.runtime import Runtime
from graph.cypher.values import Path, kind
from graph.errors import BadQuery
from graph.model import Arc, Edge, Node
from graph.state import EdgeEntry

_EDGE_KEYS: Final[dict[str, Callable[[Edge], Any]]] = {
    "id": lambda edge: edge.id,
    "hyperedge_id": lambda edge: edge.id,
    "valid_at": lambda edge: edge.valid_at,
    "invalid_at": lambda edge: edge.invalid_at,
    "created_at": lambda edge: edge.created,
    "expired_at": lambda edge: edge.expired,
}
EDGE_KEYS: Final = (*_EDGE_KEYS, "confidence", "position")
"""What is read of a relationship by these keys is not a property."""


def read_property(run: Runtime, value: Any, key: str) -> Any:
    """Return `value.key`, null when there is none."""
    if type(value) is dict:
        return value.get(key)
    value = run.current(value)
    if isinstance(value, Node):
        return value.id if key == "id" else run.properties(value).get(key)
    if isinstance(value, Arc | EdgeEntry):
        return _of_relationship(run, value, key)
    if value is None:
        return None
    raise BadQuery(f"{kind(value)} has no property {key}")


def _of_relationship(run: Runtime, value: Arc | EdgeEntry, key: str) -> Any:
    if key in _EDGE_KEYS:
        return _EDGE_KEYS[key](value.edge)
    if key == "confidence":
        return value.confidence if isinstance(value, Arc) else value.edge.confidence
    if key == "position":
        return value.position if isinstance(value, Arc) else None
    return run.properties(value.edge).get(key)


def properties_of(run: Runtime, value: Any) -> dict[str, Any]:
    """Return the properties of a node or relationship, or the map itself."""
    value = run.current(value)
    if isinstance(value, Node):
        return run.properties(value)
    if isinstance(value, Arc | EdgeEntry):
        return run.properties(value.edge)
    if type(value) is dict:
        return value
    raise BadQuery(f"{kind(value)} has no properties")


def labels_of(run: Runtime, value: Any) -> Sequence[str]:
    """Return a node's labels, or a relationship's type alone."""
    if isinstance(value, Arc | EdgeEntry):
        return (value.edge.label,)
    value = run.current(value)
    if isinstance(value, Node):
        return value.labels
    raise BadQuery(f"{kind(value)} has no labels")


def path_along(run: Runtime, start: Node, arcs: Sequence[Arc]) -> Path:
    """Return the path that begins at a node and goes along arcs, either way."""
    nodes = [start]
    for arc in arcs:
        here = nodes[-1].slot
        nodes.append(run.state.node(arc.target if arc.source == here else arc.source))
    assert len(nodes) == len(arcs) + 1, "a path begins and ends with a node"
    return Path(tuple(nodes), tuple(arcs))
