"""Small graphs, and queries on them, for the tests of Cypher."""

import itertools

import orjson

from graph.budget import Budget
from graph.cypher import Outcome, RunContext, parse, run
from graph.model import GraphChanges, GraphDelta, StoredEdge, StoredNode, edge_confidence
from graph.state import GraphState

NOW_MS = 1_700_000_000_000


def node(node_id, /, *labels, has_vector=False, **properties):
    raw = orjson.dumps(properties, option=orjson.OPT_SORT_KEYS)
    return StoredNode(node_id, labels, raw, 1, 10, 10, has_vector)


def edge(
    name,
    label,
    *members,
    roles=(),
    confidence=1.0,
    arcs=(),
    valid=(None, None),
    created=10,
    expired=None,
    has_vector=False,
    **properties,
):
    raw = orjson.dumps(properties, option=orjson.OPT_SORT_KEYS)
    return StoredEdge(
        name,
        label,
        members,
        roles,
        raw,
        confidence,
        arcs,
        valid[0],
        valid[1],
        1,
        created,
        created,
        expired,
        has_vector,
    )


def graph(*elements):
    nodes = [each for each in elements if isinstance(each, StoredNode)]
    edges = [each for each in elements if isinstance(each, StoredEdge)]
    return GraphState().apply(GraphDelta(1, nodes, edges))


def context(parameters=None, *, budget=None, rows_max=10_000, **rest):
    names = (f"new{number}" for number in itertools.count())
    return RunContext(
        parameters or {},
        budget or Budget(1_000_000),
        rows_max,
        NOW_MS,
        lambda: next(names),
        **rest,
    )


def outcome(text, state=None, *, budget=None, rows_max=10_000, rest=None, **parameters) -> Outcome:
    made = context(parameters, budget=budget, rows_max=rows_max, **(rest or {}))
    return run(parse(text), state or GraphState(), made)


def rows(text, state=None, **parameters):
    return outcome(text, state, **parameters).rows


def value(text, state=None, **parameters):
    ((found,),) = rows(text, state, **parameters)
    return found


def column(text, state=None, **parameters):
    return [found for (found,) in rows(text, state, **parameters)]


def applied(state: GraphState, changes: GraphChanges, vectors_kept=((), ())) -> GraphState:
    """Return the state after changes, carried out as a store would."""
    edges = [
        StoredEdge(
            each.id,
            each.label,
            each.members,
            each.roles,
            each.properties,
            edge_confidence(each),
            each.arc_confidences,
            each.valid_at,
            each.invalid_at,
            2,
            NOW_MS,
            NOW_MS,
            None,
            each.id in vectors_kept[1],
        )
        for each in changes.edges
    ]
    nodes = [
        StoredNode(
            each.id, each.labels, each.properties, 2, NOW_MS, NOW_MS, each.id in vectors_kept[0]
        )
        for each in changes.nodes
    ]
    gone = GraphDelta(2, gone_edges=changes.delete_edges, gone_nodes=changes.delete_nodes)
    after = state.fork().apply(gone).apply(GraphDelta(2, nodes, edges))
    after.validate()
    return after


def picture(state: GraphState):
    """Return all that a state holds, but for versions, times and slots."""
    nodes = {
        each.id: (sorted(each.labels), each.properties, each.has_vector) for each in state.nodes()
    }
    edges = {}
    for entry in state.edges():
        stored = state.stored_edge(entry)
        edges[stored.id] = (
            stored.label,
            stored.members,
            stored.roles,
            entry.edge.properties,
            [arc.confidence for arc in entry.arcs],
            stored.valid_at,
            stored.invalid_at,
            stored.has_vector,
        )
    return nodes, edges
