"""Questions about causes: what led to a node, what it led to, the like of it, and what if not.

The label CAUSED_BY reads from effect to cause, but arcs of all causal labels are walked from cause
to effect: of an ordered hyperedge the first member is the first cause. LEADS_TO is the clear name
for the same. How chains are found and ordered says `graph.causality_trails`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from graph.budget import Budget, Cut, Exhausted
from graph.causality_trails import (
    CAUSAL,
    CAUSAL_LABELS,
    Admits,
    Ask,
    Chain,
    Chains,
    Search,
    Way,
    distances,
)
from graph.errors import BadQuery, EdgeMissing
from graph.model import Edge
from graph.shapes import arc_shape, node_shape
from graph.state import GraphState

__all__ = [
    "ANY",
    "CAUSAL",
    "CAUSAL_LABELS",
    "Ask",
    "Chain",
    "Chains",
    "Changed",
    "Counterfactual",
    "causes",
    "chain_shape",
    "chains_shape",
    "counterfactual",
    "counterfactual_shape",
    "effects",
    "similar",
    "types_of",
]

ANY: Final = "*"
"""A type that every node has."""
_AGAINST: Final = Way(backward=True)
_ALONG: Final = Way(backward=False)


class Changed(NamedTuple):
    """A cause whose best chain is less sure without an edge; `after` None: it has no chain left."""

    node: int
    before: float
    after: float | None


class Counterfactual(NamedTuple):
    """What becomes of a node's causes without an edge.

    `before` and `after` are the best chain's confidence with the edge and without, 0 when there is
    none. `lost` are the best chains that use the edge, `remaining` the best without it. `changed`
    lists the causes that lose, those that lose most first. When `cut`, all this is incomplete.
    """

    before: float
    after: float
    lost: list[Chain]
    remaining: list[Chain]
    changed: list[Changed]
    cut: Cut | None


def causes(state: GraphState, slot: int, ask: Ask, budget: Budget) -> Chains:
    """Return the best chains that end in a node; their far end is the first cause."""
    return _best(state, slot, ask, _AGAINST, budget)


def effects(state: GraphState, slot: int, ask: Ask, budget: Budget) -> Chains:
    """Return the best chains that start at a node; their far end is the last effect."""
    return _best(state, slot, ask, _ALONG, budget)


def similar(
    state: GraphState,
    types: Sequence[Any],
    ask: Ask,
    budget: Budget,
    *,
    key: str = "type",
    among: Iterable[int] | None = None,
) -> Chains:
    """Return the best chains whose nodes have these values of the property `key`, one by one.

    `among`: slots of all nodes that have the first type, if they are known, else all nodes are
    looked at. The number of types is that of the nodes: `hops_max` is not regarded.
    """
    if len(types) < 2:
        raise BadQuery("a chain has two nodes or more", field="types")
    value_of = _values(state, key)
    ask = ask._replace(hops_max=len(types) - 1)
    ask.check()

    def admits(chain: Chain, far: int) -> bool:
        wanted = types[len(chain.arcs)]
        return bool(wanted == ANY or value_of(far) == wanted)

    def starts() -> Iterator[int]:
        for slot in (node.slot for node in state.nodes()) if among is None else among:
            budget.spend()
            yield slot

    search = Search(state, ask, _ALONG, budget, admits)
    whole = (chain for chain in search.chains(starts()) if len(chain.arcs) == ask.hops_max)
    return _first(whole, ask.limit)


def types_of(state: GraphState, slots: Sequence[int], *, key: str = "type") -> list[Any]:
    """Return the types of nodes, to find chains like theirs; what has none is like anything."""
    value_of = _values(state, key)
    values = [value_of(slot) for slot in slots]
    return [ANY if value is None else value for value in values]


def counterfactual(
    state: GraphState, edge_id: str, target: int, ask: Ask, budget: Budget
) -> Counterfactual:
    """Return what becomes of the causes of a node when an edge is left out."""
    ask.check()
    entry = state.find_edge(edge_id)
    if entry is None:
        raise EdgeMissing(f"there is no hyperedge {edge_id!r}", field="edge")
    edge = entry.edge
    without = _AGAINST._replace(without=edge.slot)
    before = _strongest(state, target, ask, _AGAINST, budget)
    after = _strongest(state, target, ask, without, budget)
    lost = _using(state, edge, target, ask, budget)
    remaining = _best(state, target, ask, without, budget)
    return Counterfactual(
        max((chain.confidence for chain in before.chains), default=0.0),
        max((chain.confidence for chain in after.chains), default=0.0),
        lost.chains,
        remaining.chains,
        [] if after.cut else _changes(state, before.chains, after.chains),
        before.cut or after.cut or lost.cut or remaining.cut,
    )


def chain_shape(state: GraphState, chain: Chain) -> dict[str, Any]:
    """Return a chain as it is answered."""
    return {
        "nodes": [node_shape(state.node(slot)) for slot in chain.nodes],
        "edges": [arc_shape(state, arc) for arc in chain.arcs],
        "chain_confidence": chain.confidence,
    }


def chains_shape(state: GraphState, found: Chains) -> dict[str, Any]:
    """Return chains as they are answered."""
    paths = [chain_shape(state, chain) for chain in found.chains]
    return {"paths": paths, "truncated": found.cut is not None}


def counterfactual_shape(state: GraphState, found: Counterfactual) -> dict[str, Any]:
    """Return a counterfactual as it is answered."""
    weakened = [
        {"id": state.node(each.node).id, "with": each.before, "without": each.after}
        for each in found.changed
        if each.after is not None
    ]
    return {
        "confidence_with": found.before,
        "confidence_without": found.after,
        "delta": found.after - found.before,
        "paths_lost": [chain_shape(state, chain) for chain in found.lost],
        "remaining": [chain_shape(state, chain) for chain in found.remaining],
        "causes_lost": [state.node(each.node).id for each in found.changed if each.after is None],
        "causes_weakened": weakened,
        "truncated": found.cut is not None,
    }


def _best(state: GraphState, slot: int, ask: Ask, way: Way, budget: Budget) -> Chains:
    ask.check()
    try:
        admits = _toward(state, ask, way, budget)
    except Exhausted as exhausted:
        return Chains([], exhausted.by)
    accepts = _accepts(state, ask, way)
    chains = Search(state, ask, way, budget, admits).chains([slot])
    return _first((chain for chain in chains if accepts(chain)), ask.limit)


def _toward(state: GraphState, ask: Ask, way: Way, budget: Budget) -> Admits | None:
    """Return who may still reach the far end that was asked for, looking from there."""
    if ask.far is None:
        return None
    back = way._replace(backward=not way.backward)
    away = distances(state, [ask.far], ask, back, budget)
    beyond = ask.hops_max + 1
    return lambda chain, far: len(chain.arcs) + away.get(far, beyond) <= ask.hops_max


def _accepts(state: GraphState, ask: Ask, way: Way) -> Callable[[Chain], bool]:
    type_of = _values(state, "type")

    def accepts(chain: Chain) -> bool:
        far = way.far(chain)
        if ask.far is not None and far != ask.far:
            return False
        return ask.far_type is None or bool(type_of(far) == ask.far_type)

    return accepts


def _strongest(state: GraphState, slot: int, ask: Ask, way: Way, budget: Budget) -> Chains:
    accepts = _accepts(state, ask, way)
    chains = Search(state, ask, way, budget).strongest([slot])
    return _first((chain for chain in chains if accepts(chain)), None)


def _using(state: GraphState, edge: Edge, target: int, ask: Ask, budget: Budget) -> Chains:
    """Return the best chains to a node that use an edge, following none that cannot come to it."""
    entry = state.find_edge(edge.id)
    if entry is None or not ask.which.counts(edge):
        return Chains([])
    try:
        away = distances(state, (arc.target for arc in entry.arcs), ask, _ALONG, budget)
    except Exhausted as exhausted:
        return Chains([], exhausted.by)
    beyond = ask.hops_max + 1

    def uses(chain: Chain) -> bool:
        return any(arc.edge.slot == edge.slot for arc in chain.arcs)

    def admits(chain: Chain, far: int) -> bool:
        return uses(chain) or len(chain.arcs) + away.get(far, beyond) < ask.hops_max

    accepts = _accepts(state, ask, _AGAINST)
    chains = Search(state, ask, _AGAINST, budget, admits).chains([target])
    return _first((chain for chain in chains if uses(chain) and accepts(chain)), ask.limit)


def _changes(state: GraphState, before: list[Chain], after: list[Chain]) -> list[Changed]:
    left = {chain.nodes[0]: chain.confidence for chain in after}
    changed = []
    for chain in before:
        node = chain.nodes[0]
        rest = left.get(node)
        if rest is None or not math.isclose(rest, chain.confidence):
            changed.append(Changed(node, chain.confidence, rest))
    return sorted(
        changed, key=lambda each: ((each.after or 0.0) - each.before, state.node(each.node).id)
    )


def _first(chains: Iterator[Chain], limit: int | None) -> Chains:
    found: list[Chain] = []
    try:
        for chain in chains:
            found.append(chain)
            if len(found) == limit:
                break
    except Exhausted as exhausted:
        return Chains(found, exhausted.by)
    return Chains(found)


def _values(state: GraphState, key: str) -> Callable[[int], Any]:
    """Return what reads a property of a node, each node once."""
    known: dict[int, Any] = {}

    def value_of(slot: int) -> Any:
        if slot not in known:
            known[slot] = state.node(slot).properties.get(key)
        return known[slot]

    return value_of
