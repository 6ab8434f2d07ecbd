"""Causal chains as they are stored: events, and that each led to the next.

An event that exists already keeps what it has, but for what the chain says anew: who goes on from
a known event names it by its id, and must not wipe it by saying no more. What exists is read first,
and the chain is written under the condition that the graph is still that one, else it is read
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from cluster.api import graph_answer_shapes as shapes
from cluster.api.envelope import Answer
from cluster.api.graph_reading import (
    new_element_id,
    own_properties,
    read_moment,
    read_properties,
    read_vectors,
)
from cluster.api.graph_schema import AddChain
from cluster.api.graphs import USUAL, named_graph
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.errors import GraphConflict
from cluster.graph_circumstances import retold
from cluster.graph_questions import ElementsById
from cluster.model import Graph, WriteAck
from graph.causality_writes import EVENT, LABEL, Event, chain_changes
from graph.model import GraphChanges, edge_confidence

ATTEMPTS_MAX: Final = 8


async def add_chain(call: Call, body: AddChain) -> Answer:
    """Store events, and that each led to the next."""
    graph = await named_graph(call)
    options = call.write_options(str(graph.uid))
    vectors = await read_vectors(call, graph, body.events, "events")
    events = [_event(call, body, at, vector) for at, vector in enumerate(vectors)]
    chosen = given(body.id, None)
    edge_id = new_element_id(call, options.request_id, 0) if chosen is None else chosen
    changes, ack = await _written(call, graph, body, events, edge_id)
    (edge,) = changes.edges
    result = {
        "edge": edge.id,
        "events": [event.id for event in events],
        "chain_confidence": edge_confidence(edge),
        "version": ack.version,
    }
    return call.written(result, ack)


async def _written(
    call: Call, graph: Graph, body: AddChain, events: list[Event], edge_id: str
) -> tuple[GraphChanges, WriteAck]:
    """Write the chain over what exists of its events; raises GraphConflict if that never rests."""
    options = call.write_options(str(graph.uid))
    for attempt in range(ATTEMPTS_MAX):
        known, version = await _known(call, graph, events)
        with retold():
            changes = chain_changes(
                [_merged(event, known.get(event.id)) for event in events],
                given(body.confidences, ()),
                edge_id,
                label=given(body.label, LABEL),
                valid_at=read_moment(body.valid_at, "valid_at"),
            )
        # A conflict is remembered like any result, so that an attempt needs an id of its own.
        numbered = options.request_id and f"{options.request_id}/{attempt}"
        try:
            ack = await call.api.router.graphs.write(
                graph.name,
                graph,
                changes,
                replace(options, request_id=numbered),
                if_version=version if known else None,
            )
        except GraphConflict:
            if attempt + 1 == ATTEMPTS_MAX:
                raise
        else:
            return changes, ack
    raise AssertionError("the last attempt returns or raises")


async def _known(
    call: Call, graph: Graph, events: list[Event]
) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the events that exist, by id, and the version of the graph that has them."""
    ids = list(dict.fromkeys(event.id for event in events))
    question = ElementsById(kind="nodes", ids=ids, with_vector=bool(graph.dimension))
    options = replace(call.options, strong=True)
    answer = await call.api.router.graphs.ask(graph, question, options, USUAL)
    return {node["id"]: node for node in orjson.loads(answer.result)}, answer.version


def _merged(event: Event, known: Mapping[str, Any] | None) -> Event:
    """Return an event with what is known of it and not said anew."""
    if known is None:
        return event
    named = {
        "type": event.type,
        "timestamp": event.timestamp,
        "agentId": event.agent_id,
        "data": event.data,
    }
    kept = {key: each for key, each in known["properties"].items() if named.get(key) is None}
    vector = event.vector
    if vector is None and known.get("vector") is not None:
        vector = np.array(known["vector"], "<f4").tobytes()
    return msgspec.structs.replace(
        event,
        properties={**kept, **event.properties},
        labels=tuple(dict.fromkeys([*known["labels"], *event.labels])),
        vector=vector,
    )


def _event(call: Call, body: AddChain, at: int, vector: bytes | None) -> Event:
    item, field = body.events[at], f"events[{at}]"
    properties = own_properties(item.id, given(item.properties, {}), field)
    timestamp = item.timestamp if isinstance(item.timestamp, int | str) else None
    data = given(item.data, None)
    kept = {"type": given(item.type, None), "timestamp": timestamp, "data": data}
    read_properties(call, {**properties, **kept, "agentId": given(item.agentId, None)}, field)
    return Event(
        id=item.id,
        type=given(item.type, None),
        timestamp=timestamp,
        agent_id=given(item.agentId, None),
        data=data,
        properties=properties,
        labels=tuple(given(item.labels, (EVENT,))),
        vector=vector,
    )


ROUTES: Final = (
    Route(
        "POST",
        "/graph/{graph_name}/chain",
        add_chain,
        "Store a causal chain of events",
        body=AddChain,
        answer=shapes.ChainAdded,
        writes=True,
        errors=(404, 409, 413),
    ),
)
