"""What a question brings to mind: what resembles it, and what is connected with that by cause.

An index has found some nodes and hyperedges that resemble the question; an edge stands for its
members. From each of these nodes the surest causal chains are followed, towards causes, effects or
both, and what lies at their far ends is brought to mind, too. Every node comes once, with the best
of its reasons.

    utility = 0.7 similarity x chain confidence + 0.2 uplift - 0.1 min(latency_ms / 1000, 1)

`uplift` and `latency_ms` are numbers among a node's properties, 0 when it has none: how much it
helped whenever it was shown, and what it takes to use it. Each result says why it is there: what
resembled the question and how much, and by which chain it was reached, so that the sum can be done
again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from graph.budget import Budget, Cut, Exhausted
from graph.causality import causes, effects
from graph.causality_trails import Ask, Chain
from graph.model import Node
from graph.shapes import edge_shape, node_shape
from graph.state import GraphState

SIMILARITY_WEIGHT: Final = 0.7
UPLIFT_WEIGHT: Final = 0.2
LATENCY_WEIGHT: Final = 0.1
LATENCY_MAX_MS: Final = 1000.0

Kind = Literal["node", "edge"]
Direction = Literal["match", "cause", "effect"]


class Match(NamedTuple):
    """What an index found: `score` as the index gives it, `similarity` larger when nearer."""

    kind: Kind
    id: str
    score: float
    similarity: float


class Reach(NamedTuple):
    """How far to follow causes: `ask` says which chains, 0 hops: none."""

    ask: Ask
    causes: bool
    effects: bool
    hops: int


class _Reason(NamedTuple):
    match: Match
    direction: Direction
    confidence: float
    path: tuple[int, ...]
    edges: tuple[str, ...]


def recall_shape(
    state: GraphState, matches: Sequence[Match], reach: Reach, limit: int, budget: Budget
) -> dict[str, Any]:
    """Return what some matches bring to mind as it is answered, the most useful first."""
    best: dict[int, tuple[float, _Reason]] = {}
    cut: Cut | None = None
    try:
        for match in matches:
            for slot, reason, ended in _reasons(state, match, reach, budget):
                cut = cut or ended
                value = utility(state.node(slot), reason.match.similarity * reason.confidence)
                if slot not in best or value > best[slot][0]:
                    best[slot] = (value, reason)
    except Exhausted as end:
        cut = end.by
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], state.node(item[0]).id))
    return {
        "results": [_result(state, slot, *found) for slot, found in ranked[:limit]],
        "matches": [_match_shape(state, match) for match in matches],
        "truncated": cut is not None,
    }


def utility(node: Node, likeness: float) -> float:
    """Return how useful a node is that resembles a question so much; see the module."""
    uplift, latency = merits(node)
    cost = min(max(latency, 0.0) / LATENCY_MAX_MS, 1.0)
    return SIMILARITY_WEIGHT * likeness + UPLIFT_WEIGHT * uplift - LATENCY_WEIGHT * cost


def merits(node: Node) -> tuple[float, float]:
    """Return a node's uplift and latency in milliseconds, 0 for what it does not say."""
    properties = node.properties
    return _number(properties.get("uplift")), _number(properties.get("latency_ms"))


def _number(value: Any) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else 0.0


def _reasons(
    state: GraphState, match: Match, reach: Reach, budget: Budget
) -> Iterator[tuple[int, _Reason, Cut | None]]:
    """Yield each node that a match brings to mind, why, and whether something cut the search."""
    for slot, direct in _seeds(state, match):
        budget.spend()
        yield slot, direct, None
        if not reach.hops:
            continue
        ways: tuple[tuple[bool, Direction], ...] = (
            (reach.causes, "cause"),
            (reach.effects, "effect"),
        )
        for wanted, direction in ways:
            if wanted:
                found = (causes if direction == "cause" else effects)(
                    state, slot, reach.ask, budget
                )
                for chain in found.chains:
                    far = chain.nodes[0 if direction == "cause" else -1]
                    yield far, _along(chain, direct, direction), found.cut


def _seeds(state: GraphState, match: Match) -> Iterator[tuple[int, _Reason]]:
    if match.kind == "node":
        slot = state.slot_of(match.id)
        assert slot is not None, "matches were looked up in this state"
        yield slot, _Reason(match, "match", 1.0, (slot,), ())
        return
    entry = state.find_edge(match.id)
    assert entry is not None, "matches were looked up in this state"
    for member in dict.fromkeys(entry.edge.members):
        yield member, _Reason(match, "match", 1.0, (member,), (match.id,))


def _along(chain: Chain, start: _Reason, direction: Direction) -> _Reason:
    edges = tuple(arc.edge.id for arc in chain.arcs)
    return _Reason(start.match, direction, chain.confidence, chain.nodes, edges)


def _result(state: GraphState, slot: int, value: float, reason: _Reason) -> dict[str, Any]:
    node = state.node(slot)
    uplift, latency = merits(node)
    why = {
        "matched": reason.match.id,
        "kind": reason.match.kind,
        "direction": reason.direction,
        "similarity": reason.match.similarity,
        "chain_confidence": reason.confidence,
        "uplift": uplift,
        "latency_ms": latency,
        "path": [state.node(each).id for each in reason.path],
        "edges": list(reason.edges),
    }
    return {"node": node_shape(node), "utility": value, "why": why}


def _match_shape(state: GraphState, match: Match) -> dict[str, Any]:
    shape: dict[str, Any] = {"id": match.id, "kind": match.kind, "score": match.score}
    if match.kind == "node":
        node = state.find_node(match.id)
        assert node is not None, "matches were looked up in this state"
        return {**shape, "node": node_shape(node)}
    entry = state.find_edge(match.id)
    assert entry is not None, "matches were looked up in this state"
    return {**shape, "edge": edge_shape(state, entry)}
