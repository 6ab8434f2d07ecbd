"""Graphs in a shard's state machine, against a twin of dicts: rows, memory, replay and restart."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.command import (
    Command,
    Delete,
    DropGraph,
    Result,
    Transaction,
    Upsert,
    VersionFound,
    encode_command,
)
from cluster.graph_memory import GraphInMemory
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from graph.model import EdgeWrite, GraphChanges, NodeWrite
from storage.graph_rows import Kind, element_id
from storage.ids import encode_id
from tests.shard_commands import TTL_MS, apply, content, point, upsert, vector

GRAPH = 10
NODES = ["a", "b", "c", "d"]
EDGES = ["e1", "e2", "e3"]


def encoded(body: Any, request_id: str = "", now_ms: int = 1000) -> bytes:
    return encode_command(Command(request_id, now_ms, body))


def changed(graph: int = GRAPH, dimension: int = 2, **changes: Any) -> bytes:
    return encoded(Transaction([], graph, GraphChanges(**changes), dimension))


def node(name: str, **rest: Any) -> NodeWrite:
    return NodeWrite(name, **rest)


def edge(name: str, *members: str, **rest: Any) -> EdgeWrite:
    return EdgeWrite(name, "LEADS_TO", members, **rest)


def shown(graph: GraphInMemory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return nodes and edges as they are in memory, by id."""
    state = graph.state
    state.validate()
    nodes = {
        each.id: (each.labels, each.raw, each.version, each.has_vector) for each in state.nodes()
    }
    edges = {}
    for entry in state.edges():
        stored = state.stored_edge(entry)
        members, expired = stored.members, stored.expired is not None
        edges[stored.id] = (members, stored.properties, stored.version, expired)
    return nodes, edges


@pytest.fixture
def machine() -> ShardMachine:
    return ShardMachine(None, request_id_ttl_ms=TTL_MS)


def test_an_edge_joins_nodes_of_its_own_transaction(machine: ShardMachine) -> None:
    """Nodes and the edges that join them may come in one entry."""
    (result,) = apply(machine, changed(nodes=[node("a"), node("b")], edges=[edge("e", "a", "b")]))
    nodes, edges = shown(machine.graphs.get(GRAPH))

    assert result == Result(version=2, affected=3)
    assert list(nodes) == ["a", "b"]
    assert edges["e"] == (("a", "b"), b"{}", 2, False)


def test_an_edge_to_a_missing_node_is_refused_whole(machine: ShardMachine) -> None:
    """The node that lacks is named, and nothing of the transaction is kept."""
    changes: dict[str, Any] = {"nodes": [node("a")], "edges": [edge("e", "a", "b")]}
    (result,) = apply(machine, changed(**changes))

    assert result == Result(2, 0, "node_missing", VersionFound(element_id(Kind.NODE, "b"), 0))
    assert machine.graphs.get(GRAPH).state.node_count == 0
    assert machine.state_hash() == bytes(16)


def test_a_refusal_takes_the_points_of_its_transaction_along(machine: ShardMachine) -> None:
    """Points and a graph change together or not at all."""
    points: list[Upsert | Delete] = [upsert(point(1), collection=1)]
    refused = Transaction(points, GRAPH, GraphChanges(edges=[edge("e", "a", "b")]), 2)
    carried = Transaction(points, GRAPH, GraphChanges(nodes=[node("a")]), 2)
    first, second = apply(machine, encoded(refused), encoded(carried))

    assert (first.error, first.affected) == ("node_missing", 0)
    assert (second.error, second.affected) == (None, 2)
    assert list(content(machine)) == [(1, encode_id(1))]


def test_a_condition_of_a_point_holds_back_the_graph(machine: ShardMachine) -> None:
    """A version conflict of a point leaves the graph as it was."""
    points: list[Upsert | Delete] = [upsert(point(1, if_version=7))]
    (result,) = apply(
        machine, encoded(Transaction(points, GRAPH, GraphChanges(nodes=[node("a")]), 2))
    )

    assert result.error == "version_conflict"
    assert machine.graphs.get(GRAPH).state.node_count == 0


def test_a_node_with_edges_is_deleted_only_by_cascade(machine: ShardMachine) -> None:
    """Without cascade the node stays, and the answer counts its edges."""
    apply(machine, changed(nodes=[node("a"), node("b")], edges=[edge("e", "a", "b")]))
    refused, cascaded = apply(
        machine, changed(delete_nodes=["a"]), changed(delete_nodes=["a"], cascade=True)
    )
    nodes, edges = shown(machine.graphs.get(GRAPH))

    assert refused.error == "node_in_use"
    assert refused.found == VersionFound(element_id(Kind.NODE, "a"), 1)
    assert cascaded.affected == 2
    assert (list(nodes), edges) == (["b"], {})


def test_an_expired_edge_stays_and_still_binds_its_nodes(machine: ShardMachine) -> None:
    """Expiry is history, not deletion: the edge can be read, and its nodes are in use."""
    apply(machine, changed(nodes=[node("a"), node("b")], edges=[edge("e", "a", "b")]))
    expired, again, refused = apply(
        machine,
        changed(expire_edges=["e"]),
        changed(expire_edges=["e", "unknown"]),
        changed(delete_nodes=["b"]),
    )
    entry = machine.graphs.get(GRAPH).state.find_edge("e")

    assert (expired.affected, again.affected, refused.error) == (1, 0, "node_in_use")
    assert entry is not None
    assert not entry.edge.holds(None)
    assert entry.edge.holds(None, known_at=999) is False
    assert entry.edge.expired == 1000


def test_a_change_of_a_graph_that_is_another_is_refused(machine: ShardMachine) -> None:
    """`if_version` compares the entry that last changed the graph."""
    body = Transaction([], GRAPH, GraphChanges(nodes=[node("a")]), 2, if_version=0)
    first, second = apply(machine, encoded(body), encoded(body))

    assert first.error is None
    assert (second.error, second.found) == ("version_conflict", VersionFound(b"", 2))


def test_vectors_of_elements_are_rows_for_the_index(machine: ShardMachine) -> None:
    """The vectors of nodes and of edges go to collections of their own, and go with their owner."""
    nodes = [node("a", vector=vector(1.0, 2.0)), node("b")]
    edges = [edge("e", "a", "b", vector=vector(3.0, 4.0))]
    apply(machine, changed(nodes=nodes, edges=edges))
    taken = [(each.collection, each.id, each.vector) for each in machine.take_changes()]
    apply(machine, changed(nodes=[node("a")], delete_edges=["e"]))
    gone = [(each.collection, each.vector) for each in machine.take_changes()]

    assert taken == [
        (GRAPH + 1, element_id(Kind.NODE, "a"), vector(1.0, 2.0)),
        (GRAPH + 2, element_id(Kind.EDGE, "e"), vector(3.0, 4.0)),
    ]
    assert gone == [(GRAPH + 1, None), (GRAPH + 2, None)]
    assert not machine.graphs.get(GRAPH).state.find_node("a").has_vector  # type: ignore[union-attr]


def test_a_dropped_graph_is_gone_for_good(machine: ShardMachine) -> None:
    """Its elements and vectors go, late writes are refused, and other graphs stay."""
    nodes = [node("a", vector=vector(1.0, 2.0))]
    apply(machine, changed(nodes=nodes), changed(graph=20, nodes=nodes))
    kept = machine.state_hash()
    apply(machine, changed(graph=30, nodes=nodes))
    dropped, late = apply(machine, encoded(DropGraph(30)), changed(graph=30, nodes=nodes))

    assert (dropped.affected, late.error) == (1, "collection_dropped")
    assert machine.state_hash() == kept == machine.recompute_hash()
    assert machine.graph_uids() == [GRAPH, 20]
    assert all(machine.is_dropped(uid) for uid in (30, 31, 32))


MALFORMED = {
    "no members": {"edges": [edge("e")]},
    "one member": {"edges": [edge("e", "a")]},
    "empty id": {"nodes": [node("")]},
    "long id": {"nodes": [node("x" * 513)]},
    "nul": {"nodes": [node("a\0")]},
    "label twice": {"nodes": [node("a", labels=("x", "x"))]},
    "no object": {"nodes": [node("a", properties=b"[]")]},
    "roles of others": {"edges": [edge("e", "a", "b", roles=(("x", 1), ("y", 2)))]},
    "one role": {"edges": [edge("e", "a", "b", roles=(("x", 2),))]},
    "sure beyond 1": {"edges": [edge("e", "a", "b", confidence=1.5)]},
    "nan": {"edges": [edge("e", "a", "b", confidence=float("nan"))]},
    "arcs of others": {"edges": [edge("e", "a", "b", arc_confidences=(0.5, 0.5))]},
    "backwards": {"edges": [edge("e", "a", "b", valid_at=2, invalid_at=1)]},
    "year 10000": {"edges": [edge("e", "a", "b", valid_at=253_402_300_800_000)]},
    "before year 1": {"edges": [edge("e", "a", "b", invalid_at=-62_135_596_800_001)]},
    "short vector": {"nodes": [node("a", vector=vector(1.0))]},
    "vector of nan": {"nodes": [node("a", vector=vector(1.0, float("nan")))]},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_no_leader_proposes_changes_nothing(
    machine: ShardMachine, changes: dict[str, Any]
) -> None:
    """A malformed transaction is answered `bad_command`."""
    apply(machine, changed(nodes=[node("a"), node("b")]))
    before = machine.state_hash()
    (result,) = apply(machine, changed(**changes))

    assert result.error == "bad_command"
    assert machine.state_hash() == before


@pytest.mark.parametrize(
    "body", [Transaction([], 2**63 - 1), DropGraph(2**63 - 1), DropGraph(0), DropGraph(-1)]
)
def test_numbers_that_no_graph_has_change_nothing(
    machine: ShardMachine, body: Transaction | DropGraph
) -> None:
    """A graph's number leaves room for those of its vectors; 0 is no graph's."""
    (result,) = apply(machine, encoded(body))

    assert result.error == "bad_command"


def test_a_refusal_is_remembered(machine: ShardMachine) -> None:
    """A request that was told that a node lacks is not carried out when it comes again."""
    late = Transaction([], GRAPH, GraphChanges(edges=[edge("e", "a", "b")]), 2)
    first, _, again = apply(
        machine, encoded(late, "r"), changed(nodes=[node("a"), node("b")]), encoded(late, "r")
    )

    assert first.error == "node_missing"
    assert again == first


def test_a_state_from_before_graphs_is_given_their_tables(tmp_path: Path) -> None:
    """A shard's file that an earlier version wrote opens with what it holds."""
    path = tmp_path / "state.db"
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, encoded(upsert(point(1))))
        held = content(machine)
        with machine._state.transaction() as connection:
            for table in ("graph_elements", "graph_members", "graphs", "drops"):
                connection.execute(f"DROP TABLE {table}")
            for index in ("records_by_key", "tombstones_by_version"):
                connection.execute(f"DROP INDEX {index}")
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, changed(nodes=[node("a")]))

        assert content(machine) == held
        assert machine.graphs.get(GRAPH).state.node_count == 1
        assert machine.state_hash() == machine.recompute_hash()


@dataclass
class Twin:
    """What a graph must be, in dicts."""

    nodes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    edges: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    points: dict[int, int] = field(default_factory=dict)

    def apply(self, version: int, body: Transaction) -> str | None:
        tried = Twin(dict(self.nodes), dict(self.edges), dict(self.points))
        refusal = tried.remove(version, body.changes) or tried.write(version, body.changes)
        if refusal is None:
            tried.change_points(version, body)
            self.nodes, self.edges, self.points = tried.nodes, tried.edges, tried.points
        return refusal

    def remove(self, version: int, changes: GraphChanges) -> str | None:
        for name in changes.delete_edges:
            self.edges.pop(name, None)
        for name in changes.expire_edges:
            if name in self.edges and not self.edges[name][3]:
                members, properties, *_ = self.edges[name]
                self.edges[name] = (members, properties, version, True)
        for name in dict.fromkeys(changes.delete_nodes):
            joined = [each for each, row in self.edges.items() if name in row[0]]
            if name in self.nodes and joined and not changes.cascade:
                return "node_in_use"
            if self.nodes.pop(name, None):
                self.edges = {each: row for each, row in self.edges.items() if each not in joined}
        return None

    def write(self, version: int, changes: GraphChanges) -> str | None:
        for each in changes.nodes:
            self.nodes[each.id] = (each.labels, each.properties, version, each.vector is not None)
        for new in {each.id: each for each in changes.edges}.values():
            if any(member not in self.nodes for member in new.members):
                return "node_missing"
            self.edges[new.id] = (new.members, new.properties, version, False)
        return None

    def change_points(self, version: int, body: Transaction) -> None:
        for points in body.points:
            if isinstance(points, Upsert):
                self.points |= {number_of(each.id): version for each in points.points}
            else:
                for key in points.ids:
                    self.points.pop(number_of(key), None)


def number_of(key: bytes) -> int:
    return int.from_bytes(key[1:], "big")


_names = st.sampled_from(NODES)
_node_writes = st.builds(
    NodeWrite,
    _names,
    st.sampled_from([(), ("Event",), ("Event", "Root")]),
    st.sampled_from([b"{}", b'{"type":"x"}']),
    st.sampled_from([None, vector(1.0, 2.0)]),
)
_edge_writes = st.builds(
    EdgeWrite,
    st.sampled_from(EDGES),
    st.sampled_from(["LEADS_TO", "SEEN_WITH"]),
    st.lists(_names, min_size=2, max_size=4).map(tuple),
)
_changes = st.builds(
    GraphChanges,
    st.lists(_node_writes, max_size=3),
    st.lists(_edge_writes, max_size=2),
    st.lists(_names, max_size=1),
    st.lists(st.sampled_from(EDGES), max_size=1),
    st.lists(st.sampled_from(EDGES), max_size=1),
    st.booleans(),
)
_points = st.lists(
    st.one_of(
        st.integers(1, 3).map(lambda number: upsert(point(number))),
        st.integers(1, 3).map(lambda number: Delete(1, [encode_id(number)])),
    ),
    max_size=1,
)
_transactions = st.builds(
    lambda points, changes: Transaction(points, GRAPH, changes, 2), _points, _changes
)


def cut_in_batches(entries: Sequence[Entry], cuts: Sequence[int]) -> list[Sequence[Entry]]:
    places = sorted({each % (len(entries) + 1) for each in cuts} | {0, len(entries)})
    return [entries[a:b] for a, b in pairwise(places)]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(_transactions, min_size=1, max_size=12),
    st.lists(st.integers(0, 100), max_size=4),
    st.integers(0, 12),
)
def test_a_shard_holds_what_its_twin_holds(
    bodies: list[Transaction], cuts: list[int], asked_at: int
) -> None:
    """Results, memory, rows and hashes agree with the twin's, in any batches, and after a copy.

    The graph is first asked for after some entries, so that it is both made from the rows and kept
    up by deltas.
    """
    twin = Twin()
    entries = [Entry(2 + at, 1, encoded(body)) for at, body in enumerate(bodies)]
    expected = [twin.apply(2 + at, body) for at, body in enumerate(bodies)]
    machine, whole = (ShardMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(2))
    results: list[Result] = []
    for batch in cut_in_batches(entries, cuts):
        if len(results) >= asked_at:
            machine.graphs.get(GRAPH)
        results += machine.apply(batch)
    whole.apply(entries)
    copy = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    copy.load(machine.dump())

    assert [result.error for result in results] == expected
    for each in (machine, whole, copy):
        assert shown(each.graphs.get(GRAPH)) == (twin.nodes, twin.edges)
        points = {row.id: row.version for row in each.scroll(1, limit=9)}
        assert points == {encode_id(number): version for number, version in twin.points.items()}
        assert each.state_hash() == whole.state_hash() == each.recompute_hash()
        with_vector = [name for name, row in twin.nodes.items() if row[3]]
        assert each.count(GRAPH + 1) == len(with_vector)
