"""Graphs in memory against dictionaries; shapes, the model's arithmetic, and the budget."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graph.budget import STRIDE, Budget, Exhausted
from graph.edge_filter import EdgeFilter
from graph.model import (
    EdgeWrite,
    GraphChanges,
    GraphDelta,
    arc_count,
    arc_pairs,
    confidences_of,
    edge_confidence,
)
from graph.shapes import arc_shape, edge_shape, moment, node_shape
from graph.state import EMPTY, GraphState
from tests.small_graphs import (
    NODES,
    SHARES,
    a_graph,
    a_node,
    an_edge,
    drawn_edges,
    plain_arcs,
    plainly_holds,
)

EDGES = tuple(f"e{at}" for at in range(8))


class Twin:
    """What a graph holds: rows by id."""

    def __init__(self, nodes, edges):
        self.nodes, self.edges = dict(nodes), dict(edges)

    def copy(self):
        return Twin(self.nodes, self.edges)

    def arcs(self):
        return {
            (a, b, e.id, at, share)
            for e in self.edges.values()
            for a, b, at, share in plain_arcs(e)
        }


def arcs_seen(state, side):
    """Return all arcs that vertices know on one side, each as the twin says it."""
    seen = [
        (
            state.node(arc.source).id,
            state.node(arc.target).id,
            arc.edge.id,
            arc.position,
            arc.confidence,
        )
        for slot in range(state.slots)
        for arc in getattr(state.vertex(slot), side)
    ]
    assert len(set(seen)) == len(seen)
    return set(seen)


def rows_of(state):
    """Return the nodes as the store would hold them."""
    return {
        node.id: a_node(node.id, labels=node.labels, version=node.version, **node.properties)
        for node in state.nodes()
    }


def check_equal(twin, state):
    """Assert that a state holds what its twin does."""
    assert twin.nodes == rows_of(state)
    edges = {entry.edge.id: state.stored_edge(entry) for entry in state.edges()}
    assert twin.edges.keys() == edges.keys()
    for edge_id, edge in twin.edges.items():
        found = edges[edge_id]
        assert (edge.members, edge.roles, edge.label) == (found.members, found.roles, found.label)
        assert (edge.valid_at, edge.invalid_at) == (found.valid_at, found.invalid_at)
        assert (edge.created, edge.expired) == (found.created, found.expired)
    assert twin.arcs() == arcs_seen(state, "out") == arcs_seen(state, "into")
    for name in NODES:
        node = state.find_node(name)
        assert (name in twin.nodes) == (node is not None)
        assert state.slot_of(name) == (None if node is None else node.slot)
    for edge_id in EDGES:
        assert (edge_id in twin.edges) == (state.find_edge(edge_id) is not None)


class Graphs(RuleBasedStateMachine):
    """Random transactions on a state and its twin; what was published never changes."""

    def __init__(self):
        super().__init__()
        self.state, self.twin = GraphState(), Twin({}, {})
        self.version = 0
        self.published = []

    def apply(self, **changes):
        self.published.append((self.state, self.twin.copy()))
        self.version += 1
        before = self.state
        self.state = self.state.apply(GraphDelta(self.version, **changes))
        differing = [
            slot
            for slot in range(self.state.slots)
            if self.state.vertex(slot)
            is not (before.vertex(slot) if slot < before.slots else EMPTY)
        ]
        assert sorted(self.state.touched) == differing
        assert self.state.serial == before.serial + 1

    @rule(names=st.lists(st.sampled_from(NODES), min_size=1, unique=True), colour=st.integers(0, 9))
    def put_nodes(self, names, colour):
        rows = [
            a_node(name, labels=("Thing",), version=self.version + 1, colour=colour)
            for name in names
        ]
        self.apply(nodes=rows)
        self.twin.nodes.update({row.id: row for row in rows})

    @precondition(lambda self: self.twin.nodes)
    @rule(data=st.data(), count=st.integers(1, 3))
    def put_edges(self, data, count):
        nodes = sorted(self.twin.nodes)
        names = data.draw(
            st.lists(st.sampled_from(EDGES), min_size=count, max_size=count, unique=True)
        )
        edges = [data.draw(drawn_edges(name, nodes)) for name in names]
        self.apply(edges=edges)
        self.twin.edges.update({edge.id: edge for edge in edges})

    @rule(names=st.lists(st.sampled_from(EDGES), min_size=1, max_size=3))
    def remove_edges(self, names):
        self.apply(gone_edges=names)
        for name in names:
            self.twin.edges.pop(name, None)

    @rule(name=st.sampled_from(NODES))
    def remove_a_node_and_its_edges(self, name):
        gone = [edge.id for edge in self.twin.edges.values() if name in edge.members]
        self.apply(gone_nodes=[name], gone_edges=gone)
        self.twin.nodes.pop(name, None)
        for edge_id in gone:
            del self.twin.edges[edge_id]

    @rule(data=st.data())
    def replace_in_one_transaction(self, data):
        gone = data.draw(st.sampled_from(EDGES))
        new = data.draw(drawn_edges(data.draw(st.sampled_from(EDGES))))
        rows = [a_node(name, version=self.version + 1) for name in new.members]
        self.apply(gone_edges=[gone], nodes=rows, edges=[new])
        self.twin.nodes.update({row.id: row for row in rows})
        self.twin.edges.pop(gone, None)
        self.twin.edges[new.id] = new

    @rule(data=st.data())
    def change_a_fork(self, data):
        edge = data.draw(drawn_edges("e0"))
        delta = GraphDelta(self.version + 1, [a_node(n) for n in (*edge.members, "new")], [edge])
        changed = self.state.fork().apply(delta)
        changed.validate()

        assert changed.find_node("new") is not None
        assert self.state.find_node("new") is None

    @invariant()
    def holds_what_the_twin_does(self):
        self.state.validate()
        check_equal(self.twin, self.state)

    def teardown(self):  # type: ignore[explicit-override]  # typing has no override yet
        for state, twin in self.published:
            state.validate()
            check_equal(twin, state)


TestGraphs = Graphs.TestCase
TestGraphs.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_a_graph_that_shrank_is_sparse():
    """Slots of what is gone are counted against what is left, with some to spare."""
    nodes = [a_node(f"n{at}") for at in range(10_010)]
    full = a_graph([], nodes)
    empty = full.apply(GraphDelta(2, gone_nodes=[node.id for node in nodes]))

    assert (full.sparse(), empty.sparse()) == (False, True)
    assert empty.node_count == 0


def test_a_graph_never_goes_back():
    """A delta of an older version is a defect of the caller."""
    with pytest.raises(AssertionError, match="never goes back"):
        a_graph([]).apply(GraphDelta(0))


@given(drawn_edges("e"), st.sampled_from((None, 4, 5, 9, 10)), st.sampled_from((None, 0, 50, 70)))
def test_an_edge_holds_by_its_two_times(edge, as_of, known_at):
    """From valid_at up to invalid_at in the world, from creation up to expiry in the store."""
    entry = a_graph([edge]).find_edge("e")
    assert entry is not None

    which = EdgeFilter(None, as_of, known_at)
    assert (
        plainly_holds(edge, which) == entry.edge.holds(as_of, known_at) == which.counts(entry.edge)
    )


@given(drawn_edges("e"))
def test_arcs_are_those_of_the_definition(edge):
    """Neighbours in a chain; each source with each member of the other roles."""
    entry = a_graph([edge]).find_edge("e")
    assert entry is not None
    arcs = [(arc.source, arc.target) for arc in entry.arcs]

    assert len(plain_arcs(edge)) == len(arcs) == arc_count(len(edge.members), edge.roles)
    assert list(arc_pairs(entry.edge.members, edge.roles)) == arcs
    assert [arc.position for arc in entry.arcs] == list(range(len(arcs)))


@given(st.integers(1, 9), st.sampled_from(SHARES))
def test_confidence_multiplies_along_a_chain(arcs, share):
    """Of a chain and of its arcs, what was said of one gives the other."""
    members = tuple(f"n{at}" for at in range(arcs + 1))
    stated = EdgeWrite("e", "L", members, confidence=share)
    given_each = EdgeWrite("e", "L", members, arc_confidences=(share,) * arcs)

    assert math.prod(confidences_of(stated)) == pytest.approx(share)
    assert confidences_of(given_each) == (share,) * arcs
    assert edge_confidence(given_each) == pytest.approx(share**arcs)
    assert edge_confidence(stated) == share


def test_changes_of_nothing_are_false():
    """A transaction that does nothing is known by that."""
    assert not GraphChanges(cascade=True)
    assert GraphChanges(expire_edges=["e"])
    assert GraphChanges(delete_nodes=["a"])


def test_shapes_name_nodes_by_id():
    """An edge is answered by members or by roles, an arc by its ends, a moment in RFC 3339."""
    chain = an_edge("c", "abc", arc_confidences=(0.5, 0.8), confidence=0.4, valid_at=0)
    roles = an_edge("r", "abc", "MEETS", roles=(("host", 1), ("guest", 2)), expired=1001)
    state = a_graph([chain, roles], [a_node(name, labels=("P",), name=name) for name in "abc"])
    of_chain, of_roles = state.find_edge("c"), state.find_edge("r")
    assert of_chain is not None
    assert of_roles is not None
    times = {"valid_at": None, "invalid_at": None, "created_at": "1970-01-01T00:00:00.000Z"}
    begun = {**times, "valid_at": "1970-01-01T00:00:00.000Z", "expired_at": None}

    assert edge_shape(state, of_chain) == {
        "id": "c",
        "label": "LEADS_TO",
        "members": ["a", "b", "c"],
        "arc_confidences": [0.5, 0.8],
        "confidence": 0.4,
        "properties": {},
        **begun,
    }
    assert edge_shape(state, of_roles) == {
        "id": "r",
        "label": "MEETS",
        "roles": {"host": ["a"], "guest": ["b", "c"]},
        "confidence": 1.0,
        "properties": {},
        **times,
        "expired_at": "1970-01-01T00:00:01.001Z",
    }
    assert arc_shape(state, of_chain.arcs[1]) == {
        "hyperedge_id": "c",
        "type": "LEADS_TO",
        "position": 1,
        "source": "b",
        "target": "c",
        "confidence": 0.8,
        "properties": {},
        **begun,
    }
    assert node_shape(state.node(0)) == {"id": "a", "labels": ["P"], "properties": {"name": "a"}}
    assert moment(-1) == "1969-12-31T23:59:59.999Z"


def test_a_budget_ends_at_its_limit():
    """The last unit may be spent, the next one not, and later ones neither."""
    budget = Budget(3)
    for _ in range(3):
        budget.spend()
    with pytest.raises(Exhausted, match="expansions"):
        budget.spend()
    with pytest.raises(Exhausted, match="expansions"):
        budget.spend(0)


def test_a_budget_looks_at_the_clock_now_and_then():
    """Each stride it lets others in, until time is over."""
    pauses: list[int] = []
    budget = Budget(
        10 * STRIDE,
        deadline_s=2,
        clock=lambda: len(pauses),
        pause=lambda: pauses.append(budget.spent),
    )
    for _ in range(3 * STRIDE + 2):
        budget.spend()
    with pytest.raises(Exhausted, match="time"):
        budget.spend()

    assert pauses == [STRIDE + 1, 2 * STRIDE + 2]
