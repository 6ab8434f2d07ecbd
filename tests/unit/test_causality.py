"""Causes and effects against all chains there are, found by trying."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.budget import Budget
from graph.causality import (
    CAUSAL,
    Ask,
    Changed,
    causes,
    chains_shape,
    counterfactual,
    counterfactual_shape,
    effects,
    similar,
    types_of,
)
from graph.edge_filter import EdgeFilter
from graph.errors import BadQuery, EdgeMissing
from tests.small_graphs import (
    NODES,
    a_graph,
    a_node,
    an_edge,
    drawn_graphs,
    plain_arcs,
    plainly_holds,
)

filters = st.one_of(
    st.just(CAUSAL),
    st.builds(
        EdgeFilter,
        labels=st.sampled_from((None, ("LEADS_TO",))),
        as_of=st.sampled_from((None, 3, 7, 10)),
        known_at=st.sampled_from((None, 20, 60)),
    ),
)
TYPES = dict(zip(NODES, ("x", "y", "x", "z", None, "y", "x"), strict=True))
TYPED = [a_node(name, **({"type": kind} if kind else {})) for name, kind in TYPES.items()]


def plenty():
    return Budget(10**7)


def all_chains(edges, which, hops_max):
    """Return all chains in their final order, as (confidence, nodes, steps)."""
    arcs = [
        (source, target, share, (edge.id, at))
        for edge in edges
        if plainly_holds(edge, which)
        for source, target, at, share in plain_arcs(edge)
    ]
    chains = [[arc] for arc in arcs]
    found = []
    for _ in range(hops_max):
        found += chains
        chains = [
            [*chain, arc]
            for chain in chains
            for arc in arcs
            if arc[0] == chain[-1][1] and arc not in chain
        ]
    plain = [
        (
            math.prod(arc[2] for arc in chain),
            (chain[0][0], *(arc[1] for arc in chain)),
            tuple(arc[3] for arc in chain),
        )
        for chain in found
    ]
    return sorted(plain, key=lambda each: (-each[0], len(each[2]), each[1], each[2]))


def plain(state, chains):
    """Return chains in the form of `all_chains`."""
    return [
        (
            chain.confidence,
            tuple(state.node(slot).id for slot in chain.nodes),
            tuple((arc.edge.id, arc.position) for arc in chain.arcs),
        )
        for chain in chains
    ]


def typed(edges):
    return a_graph(edges, TYPED)


@given(drawn_graphs(), filters, st.integers(1, 4), st.integers(1, 12), st.sampled_from(NODES))
@settings(max_examples=150, deadline=None)
def test_the_best_chains_come_first(edges, which, hops_max, limit, name):
    """Causes and effects are the first of all chains that end or start there, in order."""
    state = typed(edges)
    ask = Ask(which, hops_max, limit)
    known = all_chains(edges, which, hops_max)
    ending = [each for each in known if each[1][-1] == name]
    starting = [each for each in known if each[1][0] == name]
    slot = state.slot_of(name)

    assert ending[:limit] == plain(state, causes(state, slot, ask, plenty()).chains)
    assert starting[:limit] == plain(state, effects(state, slot, ask, plenty()).chains)


@given(drawn_graphs(), st.sampled_from(NODES), st.sampled_from(NODES), st.sampled_from("xyz"))
@settings(max_examples=100, deadline=None)
def test_the_far_end_can_be_chosen(edges, near, far, kind):
    """By node, by type and by the least confidence, as if chosen from all chains."""
    state = typed(edges)
    between = [
        each for each in all_chains(edges, CAUSAL, 4) if (each[1][0], each[1][-1]) == (far, near)
    ]
    slot, far_slot = state.slot_of(near), state.slot_of(far)
    backward = causes(state, slot, Ask(hops_max=4, far=far_slot), plenty())
    forward = effects(state, far_slot, Ask(hops_max=4, far=slot), plenty())
    of_type = causes(state, slot, Ask(hops_max=4, far_type=kind), plenty())
    sure = causes(state, slot, Ask(hops_max=4, confidence_min=0.4, limit=99), plenty())
    ending = [each for each in all_chains(edges, CAUSAL, 4) if each[1][-1] == near]

    assert between[:10] == plain(state, backward.chains) == plain(state, forward.chains)
    assert [each for each in ending if TYPES[each[1][0]] == kind][:10] == plain(
        state, of_type.chains
    )
    assert [each for each in ending if each[0] >= 0.4][:99] == plain(state, sure.chains)


@given(drawn_graphs(), st.lists(st.sampled_from(("x", "y", "z", "*")), min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_similar_chains_have_the_types(edges, types):
    """They are those of all chains whose nodes have these types, one by one."""
    state = typed(edges)
    wanted = [
        each
        for each in all_chains(edges, CAUSAL, len(types) - 1)
        if len(each[1]) == len(types)
        and all(kind in ("*", TYPES[name]) for kind, name in zip(types, each[1], strict=True))
    ]
    first = [state.slot_of(name) for name in NODES if types[0] in ("*", TYPES[name])]

    assert wanted[:10] == plain(state, similar(state, types, Ask(), plenty()).chains)
    assert wanted[:10] == plain(state, similar(state, types, Ask(), plenty(), among=first).chains)


@given(drawn_graphs(), st.integers(0, 5), st.sampled_from(NODES), st.sampled_from((None, "x")))
@settings(max_examples=100, deadline=None)
def test_a_counterfactual_compares_two_worlds(edges, at, name, kind):
    """With and without the edge: best chains, lost chains and what becomes of each cause."""
    edges = [*edges, an_edge("e9", "abc", confidence=0.6)]
    edge = edges[at % len(edges)]
    state = typed(edges)
    ask = Ask(hops_max=4, far_type=kind)

    def ending(world):
        return [
            each
            for each in all_chains(world, CAUSAL, 4)
            if each[1][-1] == name and kind in (None, TYPES[each[1][0]])
        ]

    before, after = ending(edges), ending([each for each in edges if each is not edge])
    best_before = {chain[1][0]: chain[0] for chain in reversed(before)}
    best_after = {chain[1][0]: chain[0] for chain in reversed(after)}
    changed = {
        cause: pytest.approx((best, best_after.get(cause, -1.0)))
        for cause, best in best_before.items()
        if best_after.get(cause) != pytest.approx(best)
    }
    found = counterfactual(state, edge.id, state.slot_of(name), ask, plenty())
    lost = [each for each in before if any(step[0] == edge.id for step in each[2])]

    assert lost[:10] == plain(state, found.lost)
    assert after[:10] == plain(state, found.remaining)
    assert found.before == pytest.approx(max(best_before.values(), default=0))
    assert found.after == pytest.approx(max(best_after.values(), default=0))
    assert {
        state.node(each.node).id: (each.before, -1.0 if each.after is None else each.after)
        for each in found.changed
    } == changed


def test_the_best_of_very_many_is_found_quickly():
    """Of 50 to the 5th chains the ten best cost a few hundred steps for each."""
    layers = [[f"{layer}-{at}" for at in range(50)] for layer in "abcdef"]
    edges = [
        an_edge(f"{left}>{right}", (left, right), confidence=0.9 if left[2:] == right[2:] else 0.5)
        for above, below in pairwise(layers)
        for left in above
        for right in below
    ]
    state = a_graph(edges)
    budget = plenty()
    found = causes(state, state.slot_of("f-7"), Ask(far_type=None, limit=10), budget)

    assert found.cut is None
    assert found.chains[0].confidence == 0.9
    assert budget.spent < 10_000


def test_the_way_between_two_nodes_is_not_searched_elsewhere():
    """What cannot reach the other end in time is not followed, however many chains there are."""
    star = [an_edge(f"s{at}", (f"n{at}", "hub")) for at in range(500)]
    loops = [an_edge(f"l{at}", (f"n{at}", f"n{at + 1}")) for at in range(499)]
    state = a_graph([*star, *loops, an_edge("way", ("root", "mid", "hub"), confidence=0.1)])
    budget = plenty()
    ask = Ask(far=state.slot_of("root"))
    found = causes(state, state.slot_of("hub"), ask, budget)

    assert [chain.confidence for chain in found.chains] == [pytest.approx(0.1)]
    assert budget.spent < 1000


def clique(size):
    names = [f"n{at}" for at in range(size)]
    return a_graph([an_edge(f"{a}>{b}", (a, b)) for a in names for b in names if a != b])


def test_a_search_that_ends_early_says_so():
    """In a clique nobody is of the type that is asked for, and trying all would take for ever."""
    state = clique(30)
    found = causes(state, 0, Ask(far_type="nobody"), Budget(5000))

    assert (found.chains, found.cut) == ([], "expansions")
    assert chains_shape(state, found) == {"paths": [], "truncated": True}


@pytest.mark.parametrize("work", [10, 400, 1500, 3000])
def test_a_cut_counterfactual_claims_no_loss(work):
    """As long as the world without the edge is not known, nothing counts as lost."""
    state = clique(12)
    found = counterfactual(state, "n1>n0", 0, Ask(far_type="nobody"), Budget(work))

    assert found.cut == "expansions"
    assert found.changed == []


def test_cycles_end():
    """Each arc is taken once, so a circle of three gives three chains, whatever may be walked."""
    state = a_graph([an_edge("e", "abca", confidence=0.125)])
    found = causes(state, state.slot_of("a"), Ask(hops_max=9), plenty())

    assert [chain.nodes for chain in found.chains] == [(2, 0), (1, 2, 0), (0, 1, 2, 0)]
    assert [chain.confidence for chain in found.chains] == pytest.approx([0.5, 0.25, 0.125])


def test_causes_come_first_whatever_the_label_says():
    """The first member of a CAUSED_BY chain is the root, and its product is the edge's."""
    edge = an_edge("why", "abc", "CAUSED_BY", arc_confidences=(0.9, 0.5), confidence=0.45)
    state = a_graph([edge, an_edge("other", "zc", "MENTIONS")])
    found = causes(state, state.slot_of("c"), Ask(), plenty())
    shape = chains_shape(state, found)["paths"][1]

    assert [node["id"] for node in shape["nodes"]] == ["a", "b", "c"]
    assert [(arc["source"], arc["target"]) for arc in shape["edges"]] == [("a", "b"), ("b", "c")]
    assert shape["chain_confidence"] == 0.9 * 0.5
    assert len(found.chains) == 2


def test_a_counterfactual_as_it_is_answered():
    """The lost and the weakened are told apart, and delta is what leaving out does."""
    edges = [an_edge("e", "ab", confidence=0.8), an_edge("f", "bc", confidence=0.5)]
    state = a_graph([*edges, an_edge("g", "bdc", confidence=0.25)])
    found = counterfactual(state, "f", state.slot_of("c"), Ask(), plenty())
    shape = counterfactual_shape(state, found)

    assert shape["causes_weakened"] == [
        {"id": "b", "with": 0.5, "without": 0.25},
        {"id": "a", "with": 0.4, "without": 0.2},
    ]
    assert (shape["causes_lost"], shape["delta"]) == ([], 0.0)
    assert len(shape["paths_lost"]) == 2

    found = counterfactual(state, "e", state.slot_of("c"), Ask(), plenty())
    assert found.changed == [Changed(state.slot_of("a"), 0.4, None)]
    assert counterfactual_shape(state, found)["causes_lost"] == ["a"]


def test_types_of_a_chain_are_its_pattern():
    """A node without a type is like any other."""
    state = typed([])

    assert types_of(state, [0, 4, 5]) == ["x", "*", "y"]
    assert types_of(state, [0], key="name") == ["*"]


def test_what_cannot_be_asked_is_refused():
    """A limit or a length below one, a pattern of one node, an edge that does not exist."""
    state = typed([])
    with pytest.raises(BadQuery, match="hops_max"):
        causes(state, 0, Ask(hops_max=0), plenty())
    with pytest.raises(BadQuery, match="limit"):
        effects(state, 0, Ask(limit=0), plenty())
    with pytest.raises(BadQuery, match="two nodes"):
        similar(state, ["x"], Ask(), plenty())
    with pytest.raises(EdgeMissing):
        counterfactual(state, "e", 0, Ask(), plenty())
