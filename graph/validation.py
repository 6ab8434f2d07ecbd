"""What changes of a graph must be like before they may go into a log.

The same rules hold at the edge, where they become answers that name a field, and when a log entry
is applied, where breaking one means that no correct leader proposed it. Whether the nodes that an
edge joins exist is not asked here: only the store knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graph.errors import BadQuery
from graph.model import (
    ID_BYTES_MAX,
    LABELS_MAX,
    MEMBERS_MAX,
    NAME_BYTES_MAX,
    PROPERTIES_BYTES_MAX,
    TIME_MS_MAX,
    TIME_MS_MIN,
    EdgeWrite,
    GraphChanges,
    NodeWrite,
    arc_count,
)

ARCS_MAX: Final = 4096
"""Arcs of one hyperedge: sources times targets can be many."""

_LONG_ID: Final = f"an id has 1 to {ID_BYTES_MAX} bytes"
_LONG_NAME: Final = f"a name has 1 to {NAME_BYTES_MAX} bytes"
_LONG_PROPERTIES: Final = f"properties have at most {PROPERTIES_BYTES_MAX} bytes as JSON"
_MANY_MEMBERS: Final = f"at most {MEMBERS_MAX} members"
_MANY_ARCS: Final = f"at most {ARCS_MAX} pairs of source and target"
_FAR_TIME: Final = "a time is within the years 1 to 9999"


def check_changes(changes: GraphChanges) -> None:
    """Raise BadQuery, its field naming the culprit, unless everything is well formed."""
    for at, node in enumerate(changes.nodes):
        try:
            _check_node(node)
        except BadQuery as error:
            raise _below(f"nodes[{at}]", error) from None
    for at, edge in enumerate(changes.edges):
        try:
            _check_edge(edge)
        except BadQuery as error:
            raise _below(f"edges[{at}]", error) from None
    check_ids(changes.delete_nodes, "delete_nodes")
    check_ids(changes.delete_edges, "delete_edges")
    check_ids(changes.expire_edges, "expire_edges")


def check_node(node: NodeWrite, field: str) -> None:
    """Raise BadQuery, its field below `field`, unless a node is well formed."""
    try:
        _check_node(node)
    except BadQuery as error:
        raise _below(field, error) from None


def check_edge(edge: EdgeWrite, field: str) -> None:
    """Raise BadQuery, its field below `field`, unless a hyperedge is well formed."""
    try:
        _check_edge(edge)
    except BadQuery as error:
        raise _below(field, error) from None


def _check_node(node: NodeWrite) -> None:
    check_id(node.id, "id")
    labels = node.labels
    _require(len(labels) <= LABELS_MAX, f"at most {LABELS_MAX} labels", "labels")
    for label in labels:
        check_name(label, "labels")
    _require(len(set(labels)) == len(labels), "a label twice", "labels")
    _check_properties(node.properties)


def _check_edge(edge: EdgeWrite) -> None:
    check_id(edge.id, "id")
    check_name(edge.label, "label")
    members, roles = edge.members, edge.roles
    if roles:
        _check_roles(edge)
    else:
        _require(len(members) >= 2, "an edge has two members or more", "members")
    _require(len(members) <= MEMBERS_MAX, _MANY_MEMBERS, "members")
    check_ids(members, "members")
    arcs = arc_count(len(members), roles)
    _require(arcs <= ARCS_MAX, _MANY_ARCS, "roles")
    _check_properties(edge.properties)
    _check_confidences(edge, arcs)
    _check_times(edge)


def check_id(name: str, field: str) -> None:
    """Raise BadQuery unless text can be the id of a node or an edge."""
    _require(0 < _size(name, field) <= ID_BYTES_MAX, _LONG_ID, field)
    _require("\0" not in name, "an id holds no U+0000", field)


def check_ids(names: Sequence[str], field: str) -> None:
    """Raise BadQuery for the first text that cannot be an id."""
    for at, name in enumerate(names):
        try:
            check_id(name, "")
        except BadQuery as error:
            raise BadQuery(error.message, field=f"{field}[{at}]") from None


def check_name(name: str, field: str) -> None:
    """Raise BadQuery unless text can be a label or a role."""
    _require(0 < _size(name, field) <= NAME_BYTES_MAX, _LONG_NAME, field)
    _require("\0" not in name, "a name holds no U+0000", field)


def _check_roles(edge: EdgeWrite) -> None:
    names = [name for name, _ in edge.roles]
    counts = [count for _, count in edge.roles]
    _require(len(names) >= 2, "an edge has two roles or more, its sources' first", "roles")
    _require(len(set(names)) == len(names), "a role twice", "roles")
    for name in names:
        check_name(name, "roles")
    _require(min(counts) >= 1, "a role has a member or more", "roles")
    _require(sum(counts) == len(edge.members), "the roles are those of the members", "roles")
    _require(not edge.arc_confidences, "arc_confidences are for ordered edges", "arc_confidences")


def _check_properties(properties: bytes) -> None:
    _require(len(properties) <= PROPERTIES_BYTES_MAX, _LONG_PROPERTIES, "properties")


def _check_confidences(edge: EdgeWrite, arcs: int) -> None:
    _check_share(edge.confidence, "confidence")
    if edge.arc_confidences:
        enough = len(edge.arc_confidences) == arcs
        _require(enough, f"this edge has {arcs} arcs", "arc_confidences")
        for each in edge.arc_confidences:
            _check_share(each, "arc_confidences")


def _check_share(confidence: float, field: str) -> None:
    # NaN compares false, and so do infinities with one of the bounds.
    _require(0.0 <= confidence <= 1.0, "a confidence is within 0..1", field)


def _check_times(edge: EdgeWrite) -> None:
    begins, ends = edge.valid_at, edge.invalid_at
    _require(begins is None or TIME_MS_MIN <= begins <= TIME_MS_MAX, _FAR_TIME, "valid_at")
    _require(ends is None or TIME_MS_MIN <= ends <= TIME_MS_MAX, _FAR_TIME, "invalid_at")
    if begins is not None and ends is not None:
        _require(begins <= ends, "invalid_at is before valid_at", "invalid_at")


def _below(field: str, error: BadQuery) -> BadQuery:
    return BadQuery(error.message, field=f"{field}.{error.field}")


def _size(text: str, field: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise BadQuery("text holds no lone surrogates", field=field) from None


def _require(holds: bool, text: str, field: str) -> None:  # noqa: FBT001
    if not holds:
        raise BadQuery(text, field=field)
