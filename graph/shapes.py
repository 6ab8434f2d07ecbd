"""Nodes, hyperedges and arcs as plain JSON values, alike in every answer.

An arc is what Cypher calls a relationship. Moments are RFC 3339 in UTC with milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from graph.model import TIME_MS_MAX, TIME_MS_MIN, Arc, Edge, Node
from graph.state import EdgeEntry, GraphState

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time_ms: int | None) -> str | None:
    """Return milliseconds since 1970, within the years 1 to 9999, as RFC 3339."""
    if time_ms is None:
        return None
    time_ms = min(max(time_ms, TIME_MS_MIN), TIME_MS_MAX)
    when = _EPOCH + timedelta(milliseconds=time_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def node_shape(node: Node) -> dict[str, Any]:
    """Return a node as it is answered."""
    return {"id": node.id, "labels": list(node.labels), "properties": node.properties}


def edge_shape(state: GraphState, entry: EdgeEntry) -> dict[str, Any]:
    """Return a hyperedge as it is answered: `members` in order, or `roles` by name."""
    edge = entry.edge
    ids = [state.node(slot).id for slot in edge.members]
    shape: dict[str, Any] = {"id": edge.id, "label": edge.label}
    if edge.roles:
        roles: dict[str, list[str]] = {}
        start = 0
        for name, count in edge.roles:
            roles[name] = ids[start : start + count]
            start += count
        shape["roles"] = roles
    else:
        shape["members"] = ids
        shape["arc_confidences"] = [arc.confidence for arc in entry.arcs]
    return {**shape, "confidence": edge.confidence, "properties": edge.properties, **_times(edge)}


def arc_shape(state: GraphState, arc: Arc) -> dict[str, Any]:
    """Return an arc: one step through its hyperedge."""
    edge = arc.edge
    return {
        "hyperedge_id": edge.id,
        "type": edge.label,
        "position": arc.position,
        "source": state.node(arc.source).id,
        "target": state.node(arc.target).id,
        "confidence": arc.confidence,
        "properties": edge.properties,
        **_times(edge),
    }


def _times(edge: Edge) -> dict[str, Any]:
    return {
        "valid_at": moment(edge.valid_at),
        "invalid_at": moment(edge.invalid_at),
        "created_at": moment(edge.created),
        "expired_at": moment(edge.expired),
    }
