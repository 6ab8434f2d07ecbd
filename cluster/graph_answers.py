"""Answers to questions about a graph, from one state of it. Blocks: called on a thread.

Each kind of question has one function here, which says the question to `graph` and puts what comes
back into JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import orjson

from cluster.errors import NotFound
from cluster.graph_circumstances import Asked, Circumstances, retold
from cluster.graph_cypher import answer_cypher
from cluster.graph_memory import GraphInMemory
from cluster.graph_questions import (
    Algorithm,
    Chains,
    Counterfactual,
    Cypher,
    Describe,
    ElementsById,
    Export,
    GraphAnswer,
    GraphRead,
    KHop,
    Recall,
    Similar,
)
from graph import causality, export
from graph.algorithms import run_algorithm
from graph.budget import Budget, Exhausted
from graph.causality_trails import CAUSAL_LABELS, Ask
from graph.drawing import draw_svg
from graph.edge_filter import EdgeFilter
from graph.errors import GraphError
from graph.recall import Match, Reach, recall_shape
from graph.shapes import edge_shape, node_shape
from graph.state import GraphState

NEIGHBOURS_MAX: Final = 250_000
"""Ids in one answer."""
FOUND_MAX: Final = 10_000
"""So many elements are taken from an index to find those that count."""
_DRAWN_NODES_MAX: Final = 300
_ELEMENTS_MAX: Final = {
    "json": export.JSON_ELEMENTS_MAX,
    "graphml": export.GRAPHML_ELEMENTS_MAX,
    "svg": export.JSON_ELEMENTS_MAX,
}


def answer_question(
    graph: GraphInMemory, read: GraphRead, around: Circumstances, budget: Budget
) -> GraphAnswer:
    """Return the answer. Raises BadRequest, NotFound or UnsupportedFeature."""
    asked = Asked(graph, graph.state, read, around, budget)
    with retold():
        result = _ANSWERS[type(read.question)](asked, read.question)
    return GraphAnswer(result, asked.state.version)


def _khop(asked: Asked, question: KHop) -> bytes:
    state = asked.state
    starts = [_slot(state, each, f"ids[{at}]") for at, each in enumerate(question.ids)]
    which = EdgeFilter(question.labels, question.as_of, question.known_at)
    found = asked.graph.adjacency.khop(
        state,
        starts,
        question.hops,
        which=which,
        direction=question.direction,
        budget=asked.budget,
    )
    names, room = state.node_ids, NEIGHBOURS_MAX
    neighbours: list[list[str]] = []
    for slots in found.neighbours:
        neighbours.append(names(slots[:room]))
        room -= min(room, len(slots))
    truncated = found.cut is not None or sum(map(len, found.neighbours)) > NEIGHBOURS_MAX
    return orjson.dumps({"neighbours": neighbours, "truncated": truncated})


def _describe(asked: Asked, _question: Describe) -> bytes:
    state = asked.state
    sizes = {"nodes": state.node_count, "edges": state.edge_count, "version": state.version}
    return orjson.dumps(sizes)


def _elements(asked: Asked, question: ElementsById) -> bytes:
    state = asked.state
    found: dict[str, dict[str, Any]] = {}
    for each in question.ids:
        if question.kind == "nodes":
            node = state.find_node(each)
            if node is not None:
                found[each] = node_shape(node)
        else:
            entry = state.find_edge(each)
            if entry is not None:
                found[each] = edge_shape(state, entry)
    if question.with_vector:
        vectors = asked.around.vectors(question.kind, list(found))
        for each, shape in found.items():
            raw = vectors.get(each)
            shape["vector"] = None if raw is None else memoryview(raw).cast("f").tolist()
    return orjson.dumps(list(found.values()))


def _chains(asked: Asked, question: Chains) -> bytes:
    state = asked.state
    far = None if question.far_id is None else _slot(state, question.far_id, "to")
    ask = Ask(_causal(question), question.hops_max, question.limit, question.far_type, far)
    slot = _slot(state, question.id, "id")
    search = causality.causes if question.direction == "causes" else causality.effects
    found = search(state, slot, ask, asked.budget)
    return orjson.dumps(causality.chains_shape(state, found))


def _similar(asked: Asked, question: Similar) -> bytes:
    state = asked.state
    types: list[Any] = list(question.types)
    if question.ids:
        slots = [_slot(state, each, f"ids[{at}]") for at, each in enumerate(question.ids)]
        types = causality.types_of(state, slots, key=question.property)
    ask = Ask(_causal(question), 1, question.limit)
    found = causality.similar(state, types, ask, asked.budget, key=question.property)
    return orjson.dumps(causality.chains_shape(state, found))


def _counterfactual(asked: Asked, question: Counterfactual) -> bytes:
    ask = Ask(_causal(question), question.hops_max, question.limit)
    slot = _slot(asked.state, question.id, "id")
    if asked.state.find_edge(question.edge) is None:
        raise NotFound(f"there is no hyperedge '{question.edge}'", field="without")
    found = causality.counterfactual(asked.state, question.edge, slot, ask, asked.budget)
    return orjson.dumps(causality.counterfactual_shape(asked.state, found))


def _algorithm(asked: Asked, question: Algorithm) -> bytes:
    with _among_parameters():
        found = run_algorithm(
            asked.state,
            question.name,
            orjson.loads(question.arguments),
            limit=question.limit,
            as_of=question.as_of,
            known_at=question.known_at,
            budget=asked.budget,
        )
    return orjson.dumps(found)


@contextmanager
def _among_parameters() -> Iterator[None]:
    """Name the argument of an algorithm that is refused as the request has it."""
    try:
        yield
    except GraphError as error:
        if error.field not in (None, "algorithm"):
            error.field = f"parameters.{error.field}"
        raise


def _recall(asked: Asked, question: Recall) -> bytes:
    state = asked.state
    matches: list[Match] = []
    whole = True
    for kind in question.kinds:
        found, ended = _matches(asked, question, "node" if kind == "nodes" else "edge")
        matches += found
        whole = whole and ended
    matches.sort(key=lambda match: (-match.similarity, match.kind, match.id))
    ask = Ask(
        _causal(question),
        max(1, question.hops_max),
        question.chains_max,
        confidence_min=question.confidence_min,
    )
    direction = question.direction
    reach = Reach(ask, direction != "effects", direction != "causes", question.hops_max)
    chosen = matches[: question.k]
    shape = recall_shape(state, chosen, reach, question.limit, asked.budget)
    return orjson.dumps({**shape, "truncated": shape["truncated"] or not whole})


def _matches(
    asked: Asked, question: Recall, kind: Literal["node", "edge"]
) -> tuple[list[Match], bool]:
    """Return the elements of a kind nearest to the vector, of those that are in the state, and
    whether all of the index was asked that could have more.

    The index knows expired edges, too, and may be a moment older or newer than the state: when too
    few of what it gives count, it is asked for more.
    """
    which = EdgeFilter(None, question.as_of, question.known_at)
    wanted, kept = question.k, list[Match]()
    try:
        while True:
            asked.budget.spend(wanted)
            found = asked.around.nearest(_PLURAL[kind], question.vector, wanted)
            kept = [
                Match(kind, name, score, score if question.descending else 1 / (1 + score))
                for name, score in found
                if _counts(asked.state, kind, name, which) and _near(question, score)
            ]
            over = len(found) < wanted or not _near(question, found[-1][1])
            if len(kept) >= question.k or over or wanted >= FOUND_MAX:
                return kept[: question.k], len(kept) >= question.k or over
            wanted = min(4 * wanted, FOUND_MAX)
    except Exhausted:
        return kept, False


_PLURAL: Final = {"node": "nodes", "edge": "edges"}


def _near(question: Recall, score: float) -> bool:
    least = question.score_min
    return least is None or (score >= least if question.descending else score <= least)


def _counts(state: GraphState, kind: str, name: str, which: EdgeFilter) -> bool:
    if kind == "node":
        return state.slot_of(name) is not None
    entry = state.find_edge(name)
    return entry is not None and which.counts(entry.edge)


def _export(asked: Asked, question: Export) -> bytes:
    """Return as much of what is wanted as an answer holds."""
    bytes_max = asked.around.answer_bytes_max
    part = _part(asked, question).within(_ELEMENTS_MAX[question.format])
    while True:
        answer = _written(asked.state, part, question)
        if len(answer) <= bytes_max or len(part.nodes) <= 1:
            return answer
        part = part.first(max(1, len(part.nodes) * bytes_max // len(answer)))


def _part(asked: Asked, question: Export) -> export.Part:
    state = asked.state
    drawn, elements_max = question.format == "svg", _ELEMENTS_MAX[question.format]
    nodes_max = min(question.nodes_max, _DRAWN_NODES_MAX if drawn else elements_max)
    which: dict[str, Any] = {
        "labels": question.labels,
        "as_of": question.as_of,
        "known_at": question.known_at,
        "nodes_max": nodes_max,
        "budget": asked.budget,
    }
    if question.ids:
        for at, each in enumerate(question.ids):
            _slot(state, each, f"around[{at}]")
        return export.neighbourhood(
            state, question.ids, question.hops, direction=question.direction, **which
        )
    return export.whole(state, **which)


def _written(state: GraphState, part: export.Part, question: Export) -> bytes:
    content: Any
    if question.format == "svg":
        center = question.ids[0] if question.ids else None
        content = draw_svg(state, part, title=", ".join(question.ids), center=center)
    elif question.format == "graphml":
        make = export.projected if question.projected else export.bipartite
        content = export.graphml(make(state, part))
    else:
        content = export.json_shape(state, part)
    truncated = part.cut is not None
    return orjson.dumps({"format": question.format, "content": content, "truncated": truncated})


def _causal(question: Chains | Similar | Counterfactual | Recall) -> EdgeFilter:
    labels = CAUSAL_LABELS if question.labels is None else question.labels
    return EdgeFilter(labels, question.as_of, question.known_at)


def _slot(state: GraphState, node_id: str, field: str) -> int:
    slot = state.slot_of(node_id)
    if slot is None:
        raise NotFound(f"there is no node '{node_id}'", field=field)
    return slot


_ANSWERS: Final[dict[type, Callable[[Asked, Any], bytes]]] = {
    Algorithm: _algorithm,
    Chains: _chains,
    Counterfactual: _counterfactual,
    Cypher: answer_cypher,
    Describe: _describe,
    ElementsById: _elements,
    Export: _export,
    KHop: _khop,
    Recall: _recall,
    Similar: _similar,
}
