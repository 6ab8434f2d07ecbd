"""Graphs through the router: where questions go, queries that write, points beside a graph."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from cluster.command import Command, DropGraph, Transaction, Upsert, encode_command
from cluster.disk_guard import DiskGuard, DiskReading
from cluster.errors import (
    BadRequest,
    DeadlineExceeded,
    GraphConflict,
    GraphNotFound,
    NotFound,
    PayloadTooLarge,
    RecollectError,
    ShardsUnavailable,
    StorageFull,
    Unavailable,
    VersionConflict,
)
from cluster.graph_questions import (
    Algorithm,
    Chains,
    Cypher,
    Describe,
    ElementsById,
    Export,
    KHop,
    Question,
)
from cluster.graph_router import Effort, GraphRouter
from cluster.graph_threads import GraphThreads
from cluster.metadata import CreateGraph
from cluster.model import Graph, Point, WriteAck
from cluster.ring import shard_of
from cluster.write_commands import point_writes
from graph.model import EdgeWrite, GraphChanges, NodeWrite
from storage.ids import encode_id, key_bytes, keyed_id, routing_bytes
from tests.unit.router_cluster import TIMEOUT_S, InlineExecutor, RouterCluster, cluster

GRAPH, CYPHER_WRITE, PROPOSE = "router/graph", "router/cypher_write", "router/propose"
ONE = [["node1", "node2", "node3"]]
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]
USUAL = Effort()
COUNT = "MATCH (c {id: 'c'}) SET c.count = c.count + 1 RETURN c.count"


@pytest.fixture
def one() -> Iterator[RouterCluster]:
    """Three nodes, one shard, which node1 leads."""
    with cluster(ONE) as opened:
        yield opened


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes with all three shards each, each leads one."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def ring() -> Iterator[RouterCluster]:
    """Four nodes with two of four shards each."""
    with cluster(RING) as opened:
        yield opened


def node(name: str, **properties: Any) -> NodeWrite:
    return NodeWrite(name, (), orjson.dumps(properties))


def edge(name: str, *members: str) -> EdgeWrite:
    return EdgeWrite(name, "LEADS_TO", members)


async def created(opened: RouterCluster, name: str = "mind", via: str = "node1") -> Graph:
    graphs = opened[via].graphs
    await graphs.create(CreateGraph(name, 0, "Cosine", None, ()), opened.options())
    return await graphs.graph(name, opened.options())


async def counting(opened: RouterCluster, name: str = "mind") -> Graph:
    """Create a graph with a counter."""
    graph = await created(opened, name)
    await write(opened, graph, nodes=[node("c", count=0)])
    opened.wire.calls.clear()
    return graph


async def write(
    opened: RouterCluster, graph: Graph, *points: Any, via: str = "node1", **changes: Any
) -> WriteAck:
    graphs = opened[via].graphs
    body = GraphChanges(**changes)
    return await graphs.write(graph.name, graph, body, opened.options(), points)


async def run(
    opened: RouterCluster, graph: Graph, query: str = COUNT, via: str = "node1", **choices: Any
) -> tuple[dict[str, Any], WriteAck]:
    question = Cypher(query=query, parameters=b"{}", rows_max=100)
    options = opened.options(**choices)
    written, ack = await opened[via].graphs.run(graph, question, options, USUAL)
    return orjson.loads(written.result), ack


async def ask(
    opened: RouterCluster, graph: Graph, question: Any, via: str = "node1", **choices: Any
) -> Any:
    answer = await opened[via].graphs.ask(graph, question, opened.options(**choices), USUAL)
    return orjson.loads(answer.result)


async def counted(opened: RouterCluster, graph: Graph, via: str = "node1", **choices: Any) -> int:
    question = ElementsById(kind="nodes", ids=["c"])
    (found,) = await ask(opened, graph, question, via, **choices)
    return int(found["properties"]["count"])


def attempts(opened: RouterCluster, shard: int = 0) -> list[str]:
    """Return the request ids of the log's transactions, without what the router made up."""
    names = [each.request_id for each in opened.commands(shard)]
    return [name.rpartition(":")[2] for name in names if name.startswith("r/key")]


def between(opened: RouterCluster, graph: Graph, times: int, leader: str = "node1") -> None:
    """Let another writer set the counter to 10 just before something is proposed."""
    left = [times]

    def write_first() -> None:
        if left[0]:
            left[0] -= 1
            changes = GraphChanges([node("c", count=10)])
            body = Transaction([], graph.uid, changes)
            opened.groups[opened["node1"].graphs.shard(graph.name)].append(
                encode_command(Command("", 1, body))
            )

    opened.replica(leader, opened["node1"].graphs.shard(graph.name)).on_propose = write_first


# -- questions ------------------------------------------------------------------------------------


async def test_a_question_is_answered_by_this_node_when_it_can(three):
    """A fresh replica here costs no message."""
    graph = await counting(three)
    for via in three.names:
        assert await counted(three, graph, via) == 0

    assert three.wire.of(GRAPH) == []


async def test_a_node_without_the_shard_asks_one_that_has_it(ring):
    """The whole question goes to a member of the graph's shard, and its answer comes back."""
    graph = await counting(ring)
    members = RING[ring["node1"].graphs.shard("mind")]
    others = [name for name in ring.names if name not in members]
    found = [await counted(ring, graph, via) for via in others]

    assert found == [0, 0]
    assert [source for source, _ in ring.wire.of(GRAPH)] == others
    assert {target for _, target in ring.wire.of(GRAPH)} <= set(members)


async def test_a_stale_replica_leaves_the_answer_to_others(one):
    """Who has lost touch with its leader does not answer itself."""
    graph = await counting(one)
    one.replica("node2", 0).is_stale = True
    one.replica("node2", 0).held_back = True
    await run(one, graph)

    assert await counted(one, graph, "node2") == 1


async def test_a_token_keeps_an_answer_from_being_old(one):
    """A replica that lags answers without a token only."""
    graph = await counting(one)
    one.replica("node2", 0).held_back = True
    _, ack = await run(one, graph)

    assert await counted(one, graph, "node2") == 0
    assert await counted(one, graph, "node2", session=ack.session.indexes) == 1


async def test_a_strong_question_sees_what_was_acknowledged(one):
    """On whichever node it is asked."""
    graph = await counting(one)
    one.replica("node3", 0).held_back = True
    await run(one, graph)

    assert await counted(one, graph, "node3", strong=True) == 1


async def test_an_answer_says_what_it_reflects(one):
    """So the next question, to a node that lags behind, can be held to it."""
    graph = await counting(one)
    one.replica("node2", 0).held_back = True
    _, ack = await run(one, graph)
    options = one.options()
    await one["node1"].graphs.ask(graph, Describe(), options, USUAL)

    assert options.reflected == {0: ack.version}


async def test_no_replica_is_no_answer(ring):
    """When all nodes of the graph's shard are gone, the shard is named."""
    graph = await counting(ring)
    shard = ring["node1"].graphs.shard("mind")
    ring.kill(*RING[shard])
    asker = next(name for name in ring.names if name not in RING[shard])

    with pytest.raises(ShardsUnavailable) as caught:
        await counted(ring, graph, asker)
    assert caught.value.shards == (shard,)


async def test_a_mistake_in_a_question_is_told_at_once(ring):
    """Every replica would say the same, so one is asked."""
    graph = await counting(ring)
    shard = ring["node1"].graphs.shard("mind")
    asker = next(name for name in ring.names if name not in RING[shard])

    with pytest.raises(NotFound, match="nobody"):
        await ask(ring, graph, KHop(ids=["nobody"], hops=1, direction="both"), asker)
    with pytest.raises(BadRequest):
        await ask(ring, graph, Cypher(query="MATCH (", parameters=b"{}", rows_max=1), asker)
    assert len(ring.wire.of(GRAPH)) == 2


async def test_several_graphs_are_asked_at_once(ring):
    """The answers come in the order of the names, wherever the graphs lie."""
    names = [f"mind{number}" for number in range(9)]
    graphs = [await counting(ring, name) for name in names]
    for at, graph in enumerate(graphs):
        await write(ring, graph, nodes=[node(f"n{number}") for number in range(at)])
    answers = await ring["node3"].graphs.ask_all(graphs, Describe(), ring.options(), USUAL)

    assert [orjson.loads(each.result)["nodes"] for each in answers] == list(range(1, 10))
    assert len({ring["node1"].graphs.shard(name) for name in names}) > 2


async def test_one_graph_that_fails_fails_the_question(ring):
    """What several graphs say together lacks none of them."""
    graphs = [await counting(ring, f"mind{number}") for number in range(3)]
    await ring["node1"].graphs.drop("mind1", ring.options())

    with pytest.raises(GraphNotFound):
        await ring["node1"].graphs.ask_all(graphs, Describe(), ring.options(), USUAL)


# -- queries that write ---------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["node1", "node2", "node3"])
async def test_a_query_that_writes_is_carried_out_by_the_leader(one, via):
    """Elsewhere it costs one call."""
    graph = await counting(one)
    answer, ack = await run(one, graph, via=via)

    assert answer["rows"] == [[1]]
    assert one.wire.of(CYPHER_WRITE) == ([] if via == "node1" else [(via, "node1")])
    assert await counted(one, graph, via, session=ack.session.indexes) == 1


async def test_a_node_without_a_replica_forwards_a_query_that_writes(ring):
    """And its token is good for a question on any other node."""
    graph = await counting(ring)
    leader, second = RING[ring["node1"].graphs.shard("mind")]
    outsider = next(name for name in ring.names if name not in (leader, second))
    _, ack = await run(ring, graph, via=outsider)

    assert ring.wire.of(CYPHER_WRITE) == [(outsider, leader)]
    assert await counted(ring, graph, second, session=ack.session.indexes) == 1


async def test_another_writer_in_between_is_not_overwritten(one):
    """The query is run again on what the other one left, under the next attempt's id."""
    graph = await counting(one)
    between(one, graph, 1)
    answer, _ = await run(one, graph, request_id="key")

    assert answer["rows"] == [[11]]
    assert await counted(one, graph) == 11
    assert attempts(one) == ["0", "1"]


async def test_a_conflict_is_remembered(one):
    """A request that comes again finds its first attempt refused, and its second one done."""
    graph = await counting(one)
    between(one, graph, 1)
    _, first = await run(one, graph, request_id="key")
    _, again = await run(one, graph, request_id="key", via="node2")

    assert again.version == first.version
    assert await counted(one, graph) == 11


async def test_a_leader_that_changes_in_between_counts_once(one):
    """The query is run again at the next leader."""
    graph = await counting(one)
    replica = one.replica("node1", 0)

    def deposed() -> None:
        one.groups[0].elect("node2")

    replica.on_propose = deposed
    answer, ack = await run(one, graph, request_id="key", via="node3")

    assert one.wire.of(CYPHER_WRITE) == [("node3", "node1"), ("node3", "node2")]
    assert answer["rows"] == [[1]]
    assert await counted(one, graph, session=ack.session.indexes) == 1


@pytest.mark.parametrize("conflicts", [0, 1, 2])
async def test_a_lost_answer_counts_once(one, conflicts):
    """What took effect unheard is found by its attempt's id, also after conflicts."""
    graph = await counting(one)
    between(one, graph, conflicts)
    one.groups[0].answers_lost = conflicts + 1
    _, ack = await run(one, graph, request_id="key")

    assert await counted(one, graph) == (11 if conflicts else 1)
    assert ack.version == one.groups[0].log[-1].index
    assert attempts(one)[-1] == str(conflicts)


async def test_a_lost_answer_of_a_creation_is_no_refusal(one):
    """What the request made itself does not stand in its way when it comes again."""
    graph = await counting(one)
    one.groups[0].answers_lost = 1
    _, ack = await run(one, graph, "CREATE (n {id: 'new'})", request_id="key")
    _, again = await run(one, graph, "CREATE (n {id: 'new'})", request_id="key", via="node2")

    assert ack.version == again.version
    with pytest.raises(BadRequest):
        await run(one, graph, "CREATE (n {id: 'new'})", request_id="key2")


async def test_a_lost_answer_is_covered_by_the_token(one):
    """A query that finds nothing left to do, for it did it itself, still tells its version."""
    graph = await counting(one)
    one.groups[0].answers_lost = 1
    _, ack = await run(one, graph, "MATCH (c {count: 0}) SET c.count = 5", request_id="key")

    assert ack.session.indexes[0] == one.groups[0].log[-1].index
    assert await counted(one, graph) == 5


async def test_a_query_that_changes_nothing_writes_nothing(one):
    """The log stays as it is; the token covers what the query saw."""
    graph = await counting(one)
    before = one.groups[0].next_index
    answer, ack = await run(one, graph, "MATCH (c {id: 'c'}) WHERE c.count > 5 SET c.count = 0")

    assert answer["rows"] == []
    assert one.groups[0].next_index == before
    assert ack.session.indexes == {0: before - 1}


async def test_a_graph_that_never_rests_ends_the_query(one):
    """Attempts are limited; nothing of the query has taken effect."""
    graph = await counting(one)
    between(one, graph, 1_000_000)

    with pytest.raises(Unavailable):
        await run(one, graph)
    assert await counted(one, graph) == 10


async def test_no_leader_is_no_write(one):
    """The deadline ends the search for one, and nothing was proposed."""
    graph = await counting(one)
    one.groups[0].elect(None)

    with pytest.raises(Unavailable) as caught:
        await run(one, graph)
    assert not isinstance(caught.value, DeadlineExceeded)
    assert len(one.commands(0)) == 1


async def test_a_change_of_nothing_leaves_the_version(one):
    """Else what is in memory would seem newer than the rows, and no query could write any more."""
    graph = await counting(one)
    version = (await ask(one, graph, Describe()))["version"]
    await write(one, graph, delete_nodes=["nobody"], expire_edges=["none"])
    assert (await ask(one, graph, Describe()))["version"] == version

    await run(one, graph, request_id="key")
    assert attempts(one) == ["0"]
    assert await counted(one, graph) == 1


# -- graphs that come and go ----------------------------------------------------------------------


async def recreated(opened: RouterCluster) -> tuple[Graph, Graph]:
    """Return a graph that was dropped, and the one that has its name now."""
    old = await counting(opened)
    assert await opened["node2"].graphs.drop("mind", opened.options())
    new = await created(opened, via="node3")
    return old, new


async def test_a_dropped_graph_takes_no_late_write(one):
    """Not of changes, nor of queries; the new one of its name does not get them."""
    old, new = await recreated(one)

    with pytest.raises(GraphNotFound):
        await write(one, old, nodes=[node("late")])
    with pytest.raises(GraphNotFound):
        await run(one, old)
    with pytest.raises(GraphNotFound):
        await counted(one, old)
    assert (await ask(one, new, Describe()))["nodes"] == 0


async def test_the_new_graph_of_a_name_takes_what_the_old_one_refused(one):
    """Who looks the name up again, as every request does, finds it."""
    _, new = await recreated(one)
    found = await one["node1"].graphs.graph("mind", one.options())
    await write(one, found, nodes=[node("again")])

    assert found == new
    assert (await ask(one, new, Describe()))["nodes"] == 1


async def test_a_graph_that_is_dropped_during_a_query(one):
    """What the query would have changed is refused as the graph's, not as a collection's."""
    graph = await counting(one)
    drop = encode_command(Command("", 1, DropGraph(graph.uid)))
    one.replica("node1", 0).on_propose = lambda: one.groups[0].append(drop)

    with pytest.raises(GraphNotFound):
        await run(one, graph)


async def test_a_graph_that_came_and_went_in_one_batch_is_gone(one):
    """A replica that slept meanwhile does not show an empty one."""
    graph = await created(one)
    sleeper = one.replica("node2", 0)
    sleeper.held_back = True
    await write(one, graph, nodes=[node("a")])
    await one["node1"].graphs.drop("mind", one.options())
    sleeper.catch_up()

    assert sleeper.machine.graphs.loaded(graph.uid) is None
    with pytest.raises(GraphNotFound):
        await ask(one, graph, Describe(), "node2")


async def test_a_graph_is_created_once(three):
    """The equal one is found, another of its name is refused."""
    graphs = three["node2"].graphs
    wanted = CreateGraph("mind", 0, "Cosine", None, ())
    assert await graphs.create(wanted, three.options())
    assert not await graphs.create(wanted, three.options())

    with pytest.raises(RecollectError, match="other parameters"):
        await graphs.create(CreateGraph("mind", 4, "Dot", None, ()), three.options())


# -- points beside a graph ------------------------------------------------------------------------


async def beside(opened: RouterCluster, graph: Graph, *ids: int, if_version: int | None = None):
    """Return the collection, and the command that writes these points under the graph's name."""
    collection = await opened.collection(custom_sharding=True, distance="Dot")
    vector = np.array([1, 2, 3, 4], np.float32)
    points = [Point(each, vector, {"n": each}, if_version) for each in ids]
    writes = point_writes(collection, points, key_bytes(graph.name), bytes_max=10_000)
    return collection, Upsert(collection.uid, collection.dimension, writes)


async def points_of(opened: RouterCluster, collection: Any, graph: Graph, *ids: int) -> list[Any]:
    options = opened.options(shard_keys=(graph.name,))
    records = await opened["node2"].retrieve(
        collection, ids, with_payload=False, with_vector=False, options=options
    )
    return [each.id for each in records]


def test_points_under_a_graphs_name_lie_in_its_shard() -> None:
    """Whatever the name, the ids and the number of shards."""
    rng = random.Random(3)
    for name in ("mind", "é" * 80, "7", *(f"agent/{rng.random()}" for _ in range(50))):
        key = key_bytes(name)
        for shards in (1, 4, 7, 64):
            points = [keyed_id(encode_id(rng.getrandbits(64)), key) for _ in range(5)]

            assert {shard_of(routing_bytes(each), shards) for each in points} == {
                shard_of(key, shards)
            }


async def test_points_and_a_graph_change_in_one_entry(ring):
    """One command holds them all, in the log of the graph's shard."""
    graph = await counting(ring, "mind7")
    collection, points = await beside(ring, graph, 1, 2)
    shard = ring["node1"].graphs.shard(graph.name)
    before = len(ring.commands(shard))
    changes = {"nodes": [node("a"), node("b")], "edges": [edge("e", "a", "b")]}
    ack = await write(ring, graph, points, via="node4", **changes)

    assert len(ring.commands(shard)) == before + 1
    assert ack.session.indexes == {shard: ack.version}
    assert await points_of(ring, collection, graph, 1, 2) == [1, 2]
    assert (await ask(ring, graph, Describe()))["edges"] == 1


async def test_what_is_refused_changes_neither(one):
    """An edge to a missing node takes the points back, a point's condition the graph."""
    graph = await counting(one)
    collection, points = await beside(one, graph, 1)
    with pytest.raises(GraphConflict, match="nobody"):
        await write(one, graph, points, nodes=[node("a")], edges=[edge("e", "a", "nobody")])
    _, conditional = await beside(one, graph, 1, if_version=7)
    with pytest.raises(VersionConflict):
        await write(one, graph, conditional, nodes=[node("a")])

    assert await points_of(one, collection, graph, 1) == []
    assert (await ask(one, graph, Describe()))["nodes"] == 1


async def test_a_node_in_use_stays_with_its_points(one):
    """Without cascade nothing of the transaction happens."""
    graph = await counting(one)
    collection, points = await beside(one, graph, 1)
    await write(one, graph, nodes=[node("a"), node("b")], edges=[edge("e", "a", "b")])
    with pytest.raises(GraphConflict, match="cascade"):
        await write(one, graph, points, delete_nodes=["a"])
    assert await points_of(one, collection, graph, 1) == []
    await write(one, graph, points, delete_nodes=["a"], cascade=True)

    assert await points_of(one, collection, graph, 1) == [1]
    assert (await ask(one, graph, Describe()))["edges"] == 0


async def test_what_a_command_cannot_hold_is_refused_whole():
    """A transaction is never split, and nothing of it is proposed."""
    with cluster(ONE, command_bytes_max=64 * 1024) as opened:
        graph = await counting(opened)
        before = len(opened.commands(0))
        many = [node(f"n{number}", text="x" * 1000) for number in range(80)]
        with pytest.raises(PayloadTooLarge):
            await write(opened, graph, nodes=many)
        query = "UNWIND range(1, 3000) AS n CREATE (m {text: 'some text to fill the log'})"
        with pytest.raises(RecollectError) as caught:
            await run(opened, graph, query)

        assert caught.value.status in (400, 413)
        assert len(opened.commands(0)) == before


async def test_changes_are_checked_before_they_are_proposed(one):
    """The field of what is malformed is named."""
    graph = await counting(one)
    with pytest.raises(BadRequest) as caught:
        await write(one, graph, edges=[edge("e", "c")])

    assert caught.value.field is not None
    assert len(one.commands(0)) == 1


# -- how much of it -------------------------------------------------------------------------------

RUN_AWAY = Cypher(query="MATCH (a)-[*]->(b) RETURN count(*)", parameters=b"{}", rows_max=1)
BIG = Cypher(query="RETURN $t", parameters=orjson.dumps({"t": "x" * 17_000}), rows_max=1)


async def mesh(opened: RouterCluster, size: int = 25) -> Graph:
    """Create a graph in which each node leads to each other one."""
    graph = await created(opened)
    names = [f"n{at}" for at in range(size)]
    joins = [edge(f"{a} {b}", a, b) for a in names for b in names if a != b]
    await write(opened, graph, nodes=[node(name) for name in names], edges=joins)
    return graph


async def test_a_question_ends_before_another_replica_is_asked(ring):
    """A query that runs away is answered, cut short, by the first node, while it is waited for."""
    graph = await mesh(ring)
    ring.wire.calls.clear()
    members = RING[ring["node1"].graphs.shard(graph.name)]
    asker = next(name for name in ring.names if name not in members)

    def pass_time() -> None:
        ring.clock.now_s += 0.01

    ring.on_pause = pass_time
    began = ring.clock()
    effort = Effort(expansions_max=10_000_000)
    answer = await ring[asker].graphs.ask(graph, RUN_AWAY, ring.options(), effort)

    assert orjson.loads(answer.result)["truncated_by"] == "time"
    assert len(ring.wire.of(GRAPH)) == 1
    assert ring.clock() - began < TIMEOUT_S / 2


class Counting:
    """Counts what it is given to do, and does it at once."""

    def __init__(self) -> None:
        self.done, self._inline = 0, InlineExecutor()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.done += 1
        return self._inline.submit(fn, *args, **kwargs)


def watched(opened: RouterCluster) -> tuple[GraphRouter, list[Counting]]:
    """Return what serves graphs on node1, and its threads: for all reads, long questions, what
    cannot be stopped, and queries that write."""
    pools: list[Any] = [Counting() for _ in range(4)]
    threads = GraphThreads(*pools[1:])
    return opened.new_router("node1", executor=pools[0], graph_threads=threads).graphs, pools


async def test_what_takes_long_takes_no_thread_of_other_reads(one):
    """A question that is not answered in a moment is asked again elsewhere, and all of it."""
    graph = await mesh(one)
    graphs, pools = watched(one)
    few = KHop(ids=["n1"], hops=2, direction="out")
    many = Chains(direction="effects", id="n1", hops_max=6, limit=10_000, labels=("LEADS_TO",))
    answers = []
    for question in (few, many, many):
        effort = Effort(expansions_max=30_000)
        answers.append(await graphs.ask(graph, question, one.options(), effort))

    assert [pool.done for pool in pools] == [3, 2, 0, 0]
    assert answers[1] == answers[2]
    assert len(orjson.loads(answers[0].result)["neighbours"][0]) == 24
    assert orjson.loads(answers[1].result)["truncated"] is True


async def test_each_kind_of_long_work_has_threads_of_its_own(one):
    """Cypher's, what cannot be stopped half-way, and writes; a long text is parsed there, too."""
    graph = await mesh(one, 3)
    graphs, pools = watched(one)
    long = "RETURN " + " + ".join("1" for _ in range(300))
    asked: list[Question] = [
        Cypher(query="RETURN 1", parameters=b"{}", rows_max=1),
        Algorithm(name="pagerank", arguments=b"{}", limit=1),
        Export(format="json", ids=[], hops=1, direction="out", nodes_max=9),
    ]
    for question in asked:
        await graphs.ask(graph, question, one.options(), USUAL)
    await graphs.parsed("RETURN 1")
    assert [pool.done for pool in pools] == [0, 1, 2, 0]
    await graphs.parsed(long)
    made = Cypher(query="CREATE ()", parameters=b"{}", rows_max=1)
    await graphs.run(graph, made, one.options(), USUAL)

    assert [pool.done for pool in pools] == [0, 1, 2, 2]


@pytest.mark.parametrize("via", ["node1", "node2"])
async def test_a_large_answer_is_refused_by_each_node(via):
    """Whether it has to travel or not, and with nothing proposed when the query writes."""
    small = {"command_bytes_max": 16_384, "append_bytes_max": 16_384, "frame_bytes_max": 65_536}
    with cluster([["node1"], ["node1"], ["node2"], ["node2"]], **small) as opened:
        graph = await created(opened)
        before = opened.groups[opened["node1"].graphs.shard(graph.name)].next_index
        with pytest.raises(BadRequest, match="larger than 16384 bytes: ask for less"):
            await ask(opened, graph, BIG, via)
        writes = Cypher(query="CREATE () RETURN $t", parameters=BIG.parameters, rows_max=1)
        with pytest.raises(BadRequest, match="larger than 16384 bytes: ask for less"):
            await opened[via].graphs.run(graph, writes, opened.options(), USUAL)

        assert opened.groups[opened["node1"].graphs.shard(graph.name)].next_index == before


async def test_a_full_node_takes_deletes_by_query(one):
    """What makes the graph smaller goes on; growth is refused, with nothing proposed."""
    graph = await counting(one)
    disk = DiskGuard("node1", 100)
    graphs = one.new_router("node1", disk=disk).graphs
    disk.observe(DiskReading(1, 1_000_000), met_full=True)

    async def wanted(text: str) -> None:
        question = Cypher(query=text, parameters=b"{}", rows_max=1)
        await graphs.run(graph, question, one.options(), USUAL)

    before = one.groups[0].next_index
    for text in ("CREATE ()", COUNT, "MATCH (c {id: 'c'}) CREATE (c)-[:X]->()"):
        with pytest.raises(StorageFull):
            await wanted(text)
    assert one.groups[0].next_index == before
    await wanted("MATCH (c {id: 'nobody'}) SET c.count = 1")
    await wanted("MATCH (c {id: 'c'}) DETACH DELETE c")

    assert (await ask(one, graph, Describe()))["nodes"] == 0


async def test_a_repeated_query_counts_nothing(one):
    """The answer has the shape of the first one."""
    graph = await counting(one)
    first, _ = await run(one, graph, request_id="key")
    again, _ = await run(one, graph, request_id="key")

    assert (first["stats"]["properties_set"], again["stats"]) == (1, {})
    assert first.keys() == again.keys()


async def test_the_largest_command_is_the_clusters(one):
    """What the cluster was formed with counts, and a node's own setting where it says nothing."""
    view = one.nodes["node1"].view()
    assert view is not None
    formed = msgspec.structs.replace(view, command_bytes_max=12_345)
    told = one.new_router("node1", view=lambda: formed)

    assert told.graphs.command_bytes_max == 12_345
    assert one["node1"].graphs.command_bytes_max == one.config.command_bytes_max
