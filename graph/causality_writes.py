"""A chain of events as a change of a graph: the nodes, and one hyperedge that joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from graph.errors import BadQuery
from graph.model import MEMBERS_MAX, EdgeWrite, GraphChanges, NodeWrite
from graph.validation import check_edge, check_node

LABEL: Final = "CAUSED_BY"
EVENT: Final = "Event"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened; None is not kept. `properties` must not name the others again."""

    id: str
    type: str | None = None
    timestamp: int | float | str | None = None
    agent_id: str | None = None
    data: Any = None
    properties: dict[str, Any] = {}
    labels: tuple[str, ...] = (EVENT,)
    vector: bytes | None = None


def chain_changes(
    events: Sequence[Event],
    confidences: Sequence[float],
    edge_id: str,
    *,
    label: str = LABEL,
    valid_at: int | None = None,
    invalid_at: int | None = None,
) -> GraphChanges:
    """Return the change that adds a chain, the first cause first.

    `confidences`, one for each pair of neighbours: how sure it is that one led to the other. With
    none the chain is taken as asserted. Raises BadQuery, its field naming the culprit.
    """
    if not 2 <= len(events) <= MEMBERS_MAX:
        raise BadQuery(f"a chain has 2 to {MEMBERS_MAX} events", field="events")
    if confidences and len(confidences) != len(events) - 1:
        raise BadQuery(f"this chain has {len(events) - 1} pairs", field="confidences")
    properties: dict[str, Any] = {"chain_length": len(events)}
    if not confidences:
        properties["method"] = "asserted"
    edge = EdgeWrite(
        edge_id,
        label,
        tuple(event.id for event in events),
        properties=_canonical(properties, "properties"),
        confidence=math.prod(confidences, start=1.0),
        arc_confidences=tuple(confidences),
        valid_at=valid_at,
        invalid_at=invalid_at,
    )
    nodes = _nodes(events)
    _check_edge(edge)
    return GraphChanges(nodes=nodes, edges=[edge])


def _nodes(events: Sequence[Event]) -> list[NodeWrite]:
    """Return one node per event; an event may come twice in a chain, as it is."""
    nodes: dict[str, NodeWrite] = {}
    for at, event in enumerate(events):
        field = f"events[{at}]"
        node = NodeWrite(event.id, event.labels, _properties(event, field), event.vector)
        check_node(node, field)
        if nodes.setdefault(event.id, node) != node:
            raise BadQuery("the same event differs from before", field=f"{field}.id")
    return list(nodes.values())


def _properties(event: Event, field: str) -> bytes:
    named = {
        "type": event.type,
        "timestamp": event.timestamp,
        "agentId": event.agent_id,
        "data": event.data,
    }
    given = {name: value for name, value in named.items() if value is not None}
    for name in given:
        if name in event.properties:
            raise BadQuery(f"{name} is given twice", field=f"{field}.properties.{name}")
    return _canonical({**event.properties, **given}, f"{field}.properties")


def _canonical(properties: dict[str, Any], field: str) -> bytes:
    try:
        return orjson.dumps(properties, option=orjson.OPT_SORT_KEYS)
    except TypeError as refused:
        raise BadQuery(f"not JSON: {refused}", field=field) from None


def _check_edge(edge: EdgeWrite) -> None:
    """Raise BadQuery as for any edge, its field named as in the request for a chain."""
    try:
        check_edge(edge, "edge")
    except BadQuery as refused:
        name = (refused.field or "").removeprefix("edge.")
        about = "confidences" if "confidence" in name else name
        raise BadQuery(refused.message, field=about) from None
