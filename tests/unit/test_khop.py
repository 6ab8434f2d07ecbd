"""Who is near: rows, matrices and what is kept of them, against distances found by definition."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.adjacency import VIEWS_MAX, Adjacency
from graph.budget import Budget
from graph.edge_filter import EVERY, EdgeFilter
from graph.errors import BadQuery
from graph.khop import Rows
from graph.khop_matrix import Steps, packed
from graph.model import GraphDelta, StoredEdge
from graph.state import CHUNK, CHUNK_BITS, GraphState
from tests.small_graphs import (
    LABELS,
    NODES,
    a_graph,
    a_node,
    an_edge,
    drawn_edges,
    drawn_graphs,
    plain_arcs,
    plainly_holds,
)

DIRECTIONS = ("out", "in", "both", "shared")
filters = st.builds(
    EdgeFilter,
    labels=st.sampled_from((None, LABELS[:1], LABELS[:2])),
    as_of=st.sampled_from((None, None, 3, 7, 10)),
    known_at=st.sampled_from((None, None, 20, 60, 70)),
)


def plenty():
    return Budget(10**9)


def one_hop(edges, which, direction):
    """Return the pairs of neighbours."""
    pairs = set()
    for edge in edges:
        if plainly_holds(edge, which):
            arcs = [(source, target) for source, target, _, _ in plain_arcs(edge)]
            if direction == "shared":
                arcs = [(left, right) for left in edge.members for right in edge.members]
            pairs |= set(arcs) if direction != "in" else set()
            pairs |= {(b, a) for a, b in arcs} if direction != "out" else set()
    return pairs


def nearest(state, edges, start, hops, which, direction):
    """Return slots by distance and slot."""
    pairs = one_hop(edges, which, direction)
    levels = [{start}]
    for _ in range(hops):
        before = set().union(*levels)
        levels.append({b for a, b in pairs if a in levels[-1]} - before)
    return [slot for level in levels[1:] for slot in sorted(map(state.slot_of, level))]


def unpacked(many):
    slots = many.slots.tolist()
    bounds = many.bounds.tolist()
    return [slots[a:b] for a, b in pairwise(bounds)]


def steps_of(rows):
    return Steps([packed(rows.block(at), at << CHUNK_BITS) for at in range(len(rows.blocks))])


@given(drawn_graphs(), filters, st.sampled_from(DIRECTIONS), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_near_are_those_by_definition(edges, which, direction, hops):
    """One start or many, each node comes once, by distance and slot, and no start itself."""
    state = a_graph(edges, [a_node(name) for name in NODES])
    starts = [state.slot_of(name) for name in NODES]
    expected = [nearest(state, edges, name, hops, which, direction) for name in NODES]
    asked = {"which": which, "direction": direction}
    found = Adjacency().khop(state, starts, hops, budget=plenty(), **asked)
    many = Adjacency().khop_many(state, starts, hops, budget=plenty(), **asked)

    assert (expected, None) == found
    assert expected == unpacked(many)


@given(drawn_graphs(8), st.sampled_from(("out", "in", "both")), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_the_matrix_answers_as_walking_does(edges, direction, hops):
    """Answers and the work that is counted are the same, in any order of starts, also twice."""
    state = a_graph(edges, [a_node(name) for name in NODES])
    rows = Rows(state, EVERY, direction)
    starts = [*range(len(NODES))[::-1], 2]
    walked, counted = plenty(), plenty()
    expected = [rows.walk(start, hops, walked)[0] for start in starts]
    near = steps_of(rows).near(np.array(starts, np.int32), hops, counted)

    assert [len(nodes) for nodes in expected] == near.counts.tolist()
    assert [node for nodes in expected for node in nodes] == near.slots.tolist()
    assert walked.spent == counted.spent


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_answers_follow_the_state_that_is_asked_about(data):
    """One adjacency answers rightly about a growing graph, and about any of its older states."""
    nodes = [a_node(name) for name in NODES]
    spread = [a_node(f"far{at}") for at in range(CHUNK)]
    begun = a_graph([], [*nodes[:4], *spread, *nodes[4:]])
    histories: list[tuple[GraphState, dict[str, StoredEdge]]] = [(begun, {})]
    adjacency = Adjacency()
    for version in range(2, 9):
        state, edges = histories[-1]
        edge_id = f"e{data.draw(st.integers(0, 3))}"
        if data.draw(st.booleans()):
            edge = data.draw(drawn_edges(edge_id))
            changed = {**edges, edge_id: edge}
            delta = GraphDelta(version, [a_node("a", version=version)], [edge])
        else:
            changed = {name: edge for name, edge in edges.items() if name != edge_id}
            delta = GraphDelta(version, gone_edges=[edge_id])
        histories.append((state.apply(delta), changed))
        asked_state, known = data.draw(st.sampled_from(histories[-3:]))
        direction = data.draw(st.sampled_from(DIRECTIONS))
        starts = [asked_state.slot_of(name) for name in NODES] * data.draw(st.integers(1, 20))
        expected = [
            nearest(asked_state, known.values(), name, 3, EVERY, direction) for name in NODES
        ]
        found = adjacency.khop(asked_state, starts, 3, direction=direction, budget=plenty())

        assert expected * (len(starts) // len(NODES)) == found.neighbours


def chain_of(length):
    return a_graph([an_edge(f"e{at}", (f"n{at}", f"n{at + 1}")) for at in range(length)])


def test_batches_are_answered_by_a_matrix_when_that_pays():
    """It is made after some walking, kept while arcs stay, and made anew when they change."""
    state = chain_of(1000)
    adjacency = Adjacency()
    starts = list(range(1000))
    view = adjacency._view(state, EVERY, "both")
    adjacency.khop_many(state, starts[:40], 2, budget=plenty())
    few = view._steps
    for _ in range(4):
        adjacency.khop_many(state, starts[:300], 2, budget=plenty())
    steps = view._steps
    renamed = state.apply(GraphDelta(2, [a_node("n7", version=2, name="seven")]))
    kept = adjacency._view(renamed, EVERY, "both")._steps
    joined = renamed.apply(GraphDelta(3, [], [an_edge("new", ("n0", "n1000"))]))
    many = adjacency.khop_many(joined, starts, 2, budget=plenty())
    remade = adjacency._view(joined, EVERY, "both")._steps

    assert few is None
    assert steps is not None
    assert steps is kept
    assert remade not in (None, steps)
    assert remade.packs[1] is steps.packs[1]
    assert unpacked(many)[0] == [1, 1000, 2, 999]


def test_a_large_product_is_split():
    """Two thousand neighbours of one hub reach each other, in parts that fit into memory."""
    hub = a_graph([an_edge(f"e{at}", ("hub", f"n{at}")) for at in range(2200)])
    starts = np.arange(1, 2049, dtype=np.int32)
    near = steps_of(Rows(hub, EVERY, "both")).near(starts, 2, plenty())
    rows = near.slots.reshape(len(starts), -1)

    assert (near.counts == 2200).all()
    assert (rows[:, 0] == 0).all()
    assert all(
        rows[at, 1:].tolist() == [slot for slot in range(1, 2201) if slot != at + 1]
        for at in (0, 1, 1000, 2047)
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("count", [1, 40])
def test_a_used_up_budget_leaves_what_was_finished(direction, count):
    """A walk that is cut short says so, and what it answers is right."""
    state, starts = chain_of(100), range(30, 30 + count)
    whole = Adjacency().khop(state, starts, 8, direction=direction, budget=plenty())
    found = Adjacency().khop(state, starts, 8, direction=direction, budget=Budget(6))
    pairs = list(zip(found.neighbours, whole.neighbours, strict=True))

    assert whole.cut is None
    assert found.cut == "expansions"
    assert all(part == full[: len(part)] for part, full in pairs)
    assert found.neighbours != whole.neighbours
    assert len(found.neighbours) == count


def test_a_matrix_stops_within_the_budget():
    """Before each product its work is counted, and the levels before it are answered."""
    rows = Rows(chain_of(100), EVERY, "out")
    near = steps_of(rows).near(np.array([0, 1], np.int32), 8, Budget(5))

    assert near.cut == "expansions"
    assert near.counts.tolist() == [2, 2]
    assert near.slots.tolist() == [1, 2, 2, 3]


def test_time_ends_a_walk():
    """The clock is looked at on the way, and threads are let in."""
    rows = Rows(chain_of(1000), EVERY, "out")
    moments = iter(range(1000))
    pauses = []
    budget = Budget(
        10**6, deadline_s=3, clock=lambda: next(moments), pause=lambda: pauses.append(1)
    )
    nodes, cut = rows.walk(0, 1000, budget)

    assert cut == "time"
    assert nodes == list(range(1, len(nodes) + 1))
    assert len(pauses) == 3


def test_few_views_are_kept():
    """Only the directions and labels that were last asked about are remembered."""
    state = chain_of(3)
    adjacency = Adjacency()
    for at in range(3 * VIEWS_MAX):
        which = EdgeFilter(labels=[f"L{at}", "LEADS_TO"])
        assert adjacency.khop(state, [0], 1, which=which, budget=plenty()).neighbours == [[1]]

    assert len(adjacency._views) == VIEWS_MAX


def test_no_hops_are_no_question():
    """Nobody is near without a hop."""
    with pytest.raises(BadQuery, match="hops"):
        Adjacency().khop(chain_of(2), [0], 0, budget=plenty())


def test_threads_may_ask_while_the_graph_changes():
    """Each reader gets the answer of the state that it brought, whatever others ask meanwhile."""
    adjacency = Adjacency()
    states = [chain_of(600)]
    for version in range(2, 40):
        edge = an_edge(f"x{version}", ("n0", f"n{version * 10}"))
        states.append(states[-1].apply(GraphDelta(version, [], [edge])))
    wrong = []

    def read(shift):
        for at in range(len(states)):
            state = states[(at + shift) % len(states)]
            edges = {arc.target for arc in state.vertex(0).out}
            for starts in ([0], [0] * 40):
                found = adjacency.khop(state, starts, 1, direction="out", budget=plenty())
                if found.neighbours != [sorted(edges)] * len(starts):
                    wrong.append(state.version)

    threads = [threading.Thread(target=read, args=(shift,)) for shift in (0, 1, 7, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
