"""Graphs in memory beside their rows: loads that race with transactions, and making anew."""

from typing import Any

import pytest

from cluster.command import Command, DropGraph, Transaction, encode_command
from cluster.errors import GraphNotFound
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from graph.model import GraphChanges, GraphDelta, NodeWrite, StoredNode
from graph.state import GraphState
from tests.shard_commands import TTL_MS

GRAPH = 5


def entry(index: int, **changes: Any) -> Entry:
    body = Transaction([], GRAPH, GraphChanges(**changes))
    return Entry(index, 1, encode_command(Command("", 1, body)))


def put(index: int, *names: str) -> Entry:
    return entry(index, nodes=[NodeWrite(name) for name in names])


def ids(machine: ShardMachine) -> list[str]:
    return [node.id for node in machine.graphs.get(GRAPH).state.nodes()]


@pytest.fixture
def machine() -> ShardMachine:
    return ShardMachine(None, request_id_ttl_ms=TTL_MS)


def test_a_load_may_see_a_commit_before_memory_is_told_of_it(
    machine: ShardMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rows had when a graph was read from them is not applied to it again."""
    machine.apply([put(2, "a")])
    machine.graphs.forget()
    take = machine.graphs.take

    def read_first(*told: Any) -> None:
        machine.graphs.get(GRAPH)
        take(*told)

    monkeypatch.setattr(machine.graphs, "take", read_first)
    machine.apply([put(3, "b"), entry(4, delete_nodes=["a"]), put(5, "c")])

    assert ids(machine) == ["b", "c"]
    assert machine.graphs.get(GRAPH).state.version == 5


def test_what_happens_while_a_graph_is_read_is_not_lost(machine: ShardMachine) -> None:
    """Transactions that are committed during the load are in the graph that is shown."""
    machine.apply([put(2, "a")])
    machine.graphs.forget()
    read = machine._read_graph
    loads = []

    def slow(uid: int, pause: Any) -> GraphState:
        state = read(uid, pause)
        loads.append(uid)
        machine.apply([put(2 + len(loads), f"late{len(loads)}")])
        return state

    machine.graphs._load = slow

    assert ids(machine) == ["a", "late1"]
    assert loads == [GRAPH]


def test_a_dropped_graph_is_not_read_again(machine: ShardMachine) -> None:
    """A question that comes after a drop is told so, and leaves nothing in memory."""
    machine.apply([put(2, "a")])
    machine.apply([Entry(3, 1, encode_command(Command("", 1, DropGraph(GRAPH))))])

    with pytest.raises(GraphNotFound):
        machine.graphs.get(GRAPH)
    assert machine.graphs.loaded(GRAPH) is None


def test_a_graph_that_shrank_is_made_anew(
    machine: ShardMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When most slots are empty the graph is read from the rows, and serves meanwhile."""
    monkeypatch.setattr("graph.state._SPARE_SLOTS", 3)
    waiting: list[Any] = []
    machine.graphs.later = waiting.append
    machine.apply([put(2, *"abcdefgh")])
    machine.apply([entry(3, delete_nodes=list("abcdefg"))])
    old = machine.graphs.get(GRAPH)

    assert len(waiting) == 1
    assert ids(machine) == ["h"]
    waiting.pop()()
    assert machine.graphs.get(GRAPH) is not old
    assert machine.graphs.get(GRAPH).state.slot_of("h") == 0
    machine.apply([put(4, "i")])
    assert ids(machine) == ["h", "i"]


def test_indexes_know_what_happened_before_they_were_asked_for(machine: ShardMachine) -> None:
    """A reader with an older state does not give the indexes a past that they miss a part of."""
    machine.apply([put(2, "a")])
    graph = machine.graphs.get(GRAPH)
    old = graph.state
    row = StoredNode("b", ("E",), b'{"type":"x"}', 3, 1, 1)
    graph.take(GraphDelta(3, [row]))
    indexes = graph.indexes(["E.type"])
    indexes.candidates("E", "type", old, equal="x")

    assert indexes.candidates("E", "type", graph.state, equal="x") == [graph.state.slot_of("b")]
