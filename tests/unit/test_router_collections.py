"""Collections come and go, and the cluster says how it stands."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from cluster.catalog import FENCE_S
from cluster.errors import CollectionExists, CollectionNotFound, NotReady, Unavailable
from cluster.model import Point
from tests.unit.router_cluster import RouterCluster, cluster

PROPOSE, READ_INDEX, VIEW = "router/propose", "router/read_index", "router/view"
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]
SHAPE = {
    "dimension": 4,
    "distance": "Dot",
    "hnsw_m": 16,
    "hnsw_ef_construct": 100,
    "embedding_space": None,
}


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes, all in the metadata group."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def outside() -> Iterator[RouterCluster]:
    """Four nodes, two of which are in the metadata group."""
    with cluster(RING, metadata_members=["node1", "node2"]) as opened:
        yield opened


def points(count):
    return [Point(n, np.array([1, 2, 3, n], np.float32)) for n in range(count)]


def hold_back(opened: RouterCluster, node: str) -> None:
    opened.metadata.replicas[node].held_back = True


@pytest.mark.parametrize("node", ["node1", "node2"])
async def test_a_collection_can_be_used_where_it_was_created(three, node):
    """When create returns, the node knows the collection."""
    made = await three[node].create_collection("things", **SHAPE, options=three.options())

    assert (made.name, made.dimension, made.distance) == ("things", 4, "Dot")
    assert three[node].collections() == [made]
    assert await three[node].collection("things", three.options()) == made


async def test_creating_what_is_there_is_no_error(three):
    """Equal parameters find the collection, different ones are a conflict."""
    made = await three["node1"].create_collection("things", **SHAPE, options=three.options())
    again = await three["node3"].create_collection("things", **SHAPE, options=three.options())
    with pytest.raises(CollectionExists, match="things"):
        await three["node2"].create_collection(
            "things", **{**SHAPE, "dimension": 5}, options=three.options()
        )

    assert again == made


async def test_a_lagging_node_catches_up_before_it_says_not_found(three):
    """A collection made through one node can be used through any other at once."""
    hold_back(three, "node2")
    made = await three["node1"].create_collection("things", **SHAPE, options=three.options())
    three.metadata.replicas["node2"].held_back = False
    known = three["node2"].collections()
    three.wire.on_call = lambda *_: three.metadata.replicas["node2"].catch_up()

    assert known == []
    assert await three["node2"].collection("things", three.options()) == made
    assert three.wire.of(READ_INDEX) == [("node2", "node1")]


async def test_what_is_not_there_is_not_found(three):
    """The metadata group's leader was asked; there is none of that name."""
    with pytest.raises(CollectionNotFound, match="'nothing'"):
        await three["node2"].collection("nothing", three.options())


async def test_without_a_metadata_leader_nobody_can_tell(three):
    """Unknown is not the same as absent: the client may try again."""
    three.metadata.elect(None)
    options = three.options()
    with pytest.raises(Unavailable, match="metadata group"):
        await three["node2"].collection("nothing", options)

    assert three.clock() <= options.deadline_s


async def test_a_node_outside_the_group_fetches_the_view(outside):
    """It asks the leader, and from then on knows by itself."""
    made = await outside["node1"].create_collection("things", **SHAPE, options=outside.options())
    before = outside["node3"].collections()
    outside.metadata.elect("node2")
    found = await outside["node3"].collection("things", outside.options())

    assert before == []
    assert found == made
    assert outside.wire.of(VIEW) == [("node3", "node1"), ("node3", "node2")]
    assert outside["node3"].collections() == [made]


async def test_a_node_outside_the_group_creates(outside):
    """The proposal is forwarded once, and the new view fetched."""
    made = await outside["node4"].create_collection("things", **SHAPE, options=outside.options())
    ack = await outside["node4"].upsert(made, points(20), outside.options())

    assert outside.wire.of(PROPOSE)[0] == ("node4", "node1")
    assert set(ack.session.indexes) == {0, 1, 2, 3}
    assert await outside["node3"].count(made, None, outside.options()) == 20


async def test_views_do_not_go_back(outside):
    """A view that arrives late does not replace a newer one."""
    await outside["node1"].create_collection("a", **SHAPE, options=outside.options())
    old = outside.nodes["node1"].view()
    await outside["node3"].create_collection("b", **SHAPE, options=outside.options())
    outside.wire.on_answer = lambda method, answer: (
        msgspec.msgpack.encode(old) if method == VIEW else answer
    )
    await outside["node3"].refresh_view(outside.options().deadline_s)

    assert [each.name for each in outside["node3"].collections()] == ["a", "b"]


async def test_dropping_takes_the_name_at_once(three):
    """Another collection may have the name; the old one's points do not come with it."""
    old = await three.collection()
    await three["node1"].upsert(old, points(20), three.options())
    dropped = await three["node2"].drop_collection("things", three.options())
    again = await three["node2"].drop_collection("things", three.options())
    new = await three["node2"].create_collection("things", **SHAPE, options=three.options())

    assert (dropped, again) == (True, False)
    assert new.uid != old.uid
    assert await three["node2"].count(new, None, three.options()) == 0


async def test_dropping_removes_rows(three):
    """When the drop is answered every shard has it, and the metadata has forgotten the uid."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(30), three.options())
    await three["node2"].drop_collection("things", three.options())
    left = [
        three.replica(node, shard).machine.collections()
        for node in three.names
        for shard in range(3)
    ]

    assert left == [[]] * 9
    assert list(three.nodes["node3"].view().dropping) == []
    assert await three["node1"].purge_dropped() == 0


async def test_a_node_with_an_old_view_cannot_write_to_what_was_dropped(three):
    """Once the drop is answered, no write to the old uid is acknowledged, through any node."""
    collection = await three.collection()
    hold_back(three, "node2")
    await three["node1"].drop_collection("things", three.options())
    known = [each.uid for each in three["node2"].collections()]
    with pytest.raises(CollectionNotFound):
        await three["node2"].upsert(collection, points(1), three.options())

    assert known == [collection.uid]


async def test_the_janitor_finishes_what_a_drop_could_not(three):
    """A shard without a leader keeps the drop waiting for a while, then the janitor has it."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(30), three.options())
    three.groups[1].elect(None)
    start_s = three.clock()
    dropped = await three["node1"].drop_collection("things", three.options())
    waited_s = three.clock() - start_s
    dropping = [each.uid for each in three.nodes["node1"].view().dropping]
    in_vain = await three["node1"].purge_dropped()
    three.groups[1].elect("node3")
    idle = await three["node2"].purge_dropped()
    purged = await three["node1"].purge_dropped()

    assert (dropped, dropping) == (True, [collection.uid])
    assert waited_s <= FENCE_S
    assert (in_vain, idle, purged) == (0, 0, 1)
    assert three.replica("node2", 1).machine.collections() == []
    assert list(three.nodes["node2"].view().dropping) == []


async def test_a_new_collection_waits_for_the_end_of_its_namesake(three):
    """What an old view still writes must not be acknowledged beside the new collection."""
    old = await three.collection()
    three.groups[1].elect(None)
    await three["node1"].drop_collection("things", three.options())
    three.groups[1].elect("node3")
    new = await three["node2"].create_collection("things", **SHAPE, options=three.options())

    assert new.uid != old.uid
    assert list(three.nodes["node1"].view().dropping) == []
    assert three.replica("node1", 1).machine.is_dropped(old.uid)


async def test_a_strong_read_looks_its_collection_up_as_strongly(three):
    """A namesake that an old view still shows would hide what was acknowledged."""
    old = await three.collection()
    hold_back(three, "node2")
    await three["node1"].drop_collection("things", three.options())
    new = await three["node1"].create_collection("things", **SHAPE, options=three.options())
    stale = await three["node2"].collection("things", three.options())
    three.metadata.replicas["node2"].held_back = False
    three.wire.on_call = lambda *_: three.metadata.replicas["node2"].catch_up()

    assert stale == old
    assert await three["node2"].collection("things", three.options(strong=True)) == new


async def test_the_janitor_has_nothing_to_do_before_there_is_a_cluster(three):
    """A leader that has not formed the cluster yet has nothing to purge."""
    assert await three.new_router("node1", view=lambda: None).purge_dropped() == 0


async def test_a_node_without_a_view_is_not_ready(three):
    """Before the cluster is formed there are no collections and no reads."""
    router = three.new_router("node1", view=lambda: None)

    assert router.collections() == []
    with pytest.raises(NotReady):
        await router.cluster_status()


async def test_info_is_green_when_everything_is_indexed(three):
    """Yellow as long as any replica has rows outside of its search graph."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(25), three.options())
    before = await three["node2"].collection_info("things", three.options())
    for node in three.nodes.values():
        node.indexes.get(collection.uid).build(1000)
    after = await three["node2"].collection_info("things", three.options())

    assert (before.points_count, before.indexed_count, before.status) == (25, 0, "yellow")
    assert (after.points_count, after.indexed_count, after.status) == (25, 25, "green")
    assert (after.shards, after.replication) == (3, 3)


async def test_info_is_yellow_when_a_node_does_not_answer(three):
    """Nobody knows what a dead node has indexed."""
    await three.collection()
    green = await three["node1"].collection_info("things", three.options())
    three.kill("node3")
    yellow = await three["node1"].collection_info("things", three.options())

    assert (green.status, yellow.status) == ("green", "yellow")


async def test_info_is_yellow_while_a_replica_is_behind(three):
    """A replica out of touch with its leader may lack points that are not even in its tail."""
    await three.collection()
    three.replica("node3", 1).is_stale = True
    info = await three["node1"].collection_info("things", three.options())

    assert info.status == "yellow"


async def test_info_of_nothing_is_not_found(three):
    """A collection that does not exist has no state."""
    with pytest.raises(CollectionNotFound):
        await three["node1"].collection_info("nothing", three.options())


async def test_status_shows_every_node_and_replica(three):
    """Leaders, terms, applied indexes, and state hashes that agree."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(30), three.options())
    three.groups[2].elect("node1")
    status = await three["node2"].cluster_status()

    assert [node["name"] for node in status["nodes"]] == three.names
    assert [node["leads"] for node in status["nodes"]] == [2, 1, 0]
    assert [node["replicas"] for node in status["nodes"]] == [3, 3, 3]
    assert status["nodes"][1]["peer"] == "127.0.0.1:6002"
    assert [(s["shard"], s["leader"], s["term"]) for s in status["shards"]] == [
        (0, "node1", 1),
        (1, "node2", 1),
        (2, "node1", 2),
    ]
    for shard in status["shards"]:
        hashes = {(r["applied_index"], r["state_hash"]) for r in shard["replicas"]}

        assert len(shard["replicas"]) == 3
        assert len(hashes) == 1
    assert status["metadata"]["leader"] == "node1"


async def test_status_names_what_is_missing(three):
    """A node that does not answer is not alive, and its replicas have no index."""
    three.kill("node1")
    status = await three["node2"].cluster_status()
    missing = [r for s in status["shards"] for r in s["replicas"] if r["applied_index"] is None]

    assert [node["alive"] for node in status["nodes"]] == [False, True, True]
    assert [s["leader"] for s in status["shards"]] == [None, "node2", "node3"]
    assert [replica["node"] for replica in missing] == ["node1"] * 3


async def test_status_does_not_wait_long(three):
    """A node that hangs costs a second, whatever the request's deadline."""
    three.wire.hanging.add("node3")
    start_s = three.clock()
    status = await three["node1"].cluster_status()

    assert [node["alive"] for node in status["nodes"]] == [True, True, False]
    assert three.clock() - start_s <= 1


async def test_an_index_and_its_hash_are_read_together(three):
    """While the state moves between the two readings, they are read again."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(30), three.options())
    replica = three.replica("node1", 0)
    replica.applied_override = replica.applied_index - 1
    three.clock.on_sleep = lambda: setattr(replica, "applied_override", None)
    status = await three["node1"].cluster_status()
    first = status["shards"][0]["replicas"][0]

    assert first["applied_index"] == replica.applied_index
    assert first["state_hash"] == replica.machine.state_hash().hex()


async def test_a_node_whose_own_replica_is_stuck_takes_another_members_view(three):
    """On a full disk it cannot apply what the group has committed; strong reads go on."""
    old = await three.collection()
    hold_back(three, "node2")
    await three["node1"].drop_collection("things", three.options())
    new = await three["node1"].create_collection("things", **SHAPE, options=three.options())
    options = three.options(strong=True)
    found = await three["node2"].collection("things", options)

    assert new != old
    assert found == new
    assert three.clock() < options.deadline_s
    assert three.wire.of(VIEW) == [("node2", "node1")]


async def test_another_members_view_comes_from_whoever_has_it(three):
    """A member that does not answer, or is behind itself, costs time, not the answer."""
    await three.collection()
    hold_back(three, "node2")
    hold_back(three, "node1")
    three.metadata.elect("node3")
    await three["node3"].drop_collection("things", three.options())
    new = await three["node3"].create_collection("things", **SHAPE, options=three.options())

    assert await three["node2"].collection("things", three.options(strong=True)) == new
    assert three.wire.of(VIEW)[-2:] == [("node2", "node1"), ("node2", "node3")]
