"""Session tokens end to end in the router: what answers reflect, the catalogue, staleness."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from cluster.config import Config
from cluster.errors import CollectionNotFound, ShardsUnavailable, Unavailable
from cluster.formation import disagreements
from cluster.model import SEEN_METADATA, Point, SearchRequest, Session
from cluster.origin import Origin, ShardOrigin
from cluster.ring import shard_of
from storage.filters import parse_filter
from storage.ids import encode_id
from tests.unit.router_cluster import RouterCluster, cluster

THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]
VECTOR = np.array([1, 2, 3, 4], np.float32)


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes with all three shards each, all in the metadata group."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def outside() -> Iterator[RouterCluster]:
    """Four nodes, two of which are in the metadata group."""
    with cluster(RING, metadata_members=["node1", "node2"]) as opened:
        yield opened


def points(count: int) -> list[Point]:
    return [Point(n, VECTOR, {"n": n}) for n in range(count)]


async def recreated(opened: RouterCluster, asleep: str):
    """Fill a collection, drop it and create it again behind a node's back; return the token."""
    collection = await opened.collection()
    ack = await opened["node1"].upsert(collection, points(8), opened.options())
    if asleep in opened.metadata.replicas:
        opened.metadata.replicas[asleep].held_back = True
    before = opened["node1"].session(ack.session)
    assert await opened["node1"].drop_collection("things", opened.options())
    again = await opened.collection()
    newer = await opened["node1"].upsert(again, points(3), opened.options())
    return before, opened["node1"].session(newer.session)


async def count(opened: RouterCluster, node: str, session: Session, **choices) -> int:
    options = opened.options(session=session.indexes, **choices)
    collection = await opened[node].collection("things", options)
    return await opened[node].count(collection, None, options)


async def test_a_token_covers_the_catalogue(three) -> None:
    """A node that slept through a drop and a creation does not answer from what is gone."""
    _, token = await recreated(three, "node3")
    three.wire.dead |= {"node1", "node2"}
    with pytest.raises(Unavailable):
        await count(three, "node3", token)
    three.wire.dead.clear()
    three.metadata.replicas["node3"].held_back = False
    three.metadata.replicas["node3"].catch_up()

    assert await count(three, "node3", token) == 3


async def test_a_drop_is_seen_by_who_has_its_token(three) -> None:
    """The name that was dropped is not found, also where the old view still has it."""
    await three.collection()
    three.metadata.replicas["node2"].held_back = True
    assert await three["node1"].drop_collection("things", three.options())
    token = three["node1"].session(Session())
    assert await three["node2"].collection("things", three.options())

    with pytest.raises(CollectionNotFound):
        await count(three, "node2", token)


async def test_a_node_outside_the_group_fetches_what_the_token_has_seen(outside) -> None:
    """It asks for a view of the group instead of waiting for its next round."""
    outside.nodes["node4"].told = outside.nodes["node1"].view()
    _, token = await recreated(outside, "node4")

    assert await count(outside, "node4", token) == 3


async def test_a_token_of_the_future_is_an_error(outside) -> None:
    """Of a catalogue that nobody has, neither inside the group nor outside."""
    await outside.collection()
    for node in ("node2", "node4"):
        with pytest.raises(Unavailable):
            await outside[node].collection("things", outside.options(session={SEEN_METADATA: 999}))


async def test_an_old_token_is_still_one(three) -> None:
    """Without a place in the catalogue it demands nothing of it."""
    _, token = await recreated(three, "node3")
    shards = {shard: index for shard, index in token.indexes.items() if shard != SEEN_METADATA}
    old = await three["node3"].collection("things", three.options(session=shards))

    assert old.uid == 1


async def test_every_read_says_what_it_reflects(three) -> None:
    """Shard by shard, at least what it saw; so the next read elsewhere never goes back in time."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(40), three.options())
    router, request = three["node1"], SearchRequest(VECTOR, limit=5)
    applied = {shard: three.replica("node1", shard).applied_index for shard in range(3)}
    where = parse_filter({"must": [{"key": "n", "range": {"gte": 0}}]})
    kinds = {"with_payload": True, "with_vector": False}

    async def reflected(read, **choices) -> dict[int, int]:
        options = three.options(**choices)
        await read(options)
        return dict(options.reflected)

    assert await reflected(lambda o: router.count(collection, None, o)) == applied
    assert await reflected(lambda o: router.search(collection, request, o)) == applied
    exact = SearchRequest(VECTOR, limit=5, filter=where, exact=True)
    assert await reflected(lambda o: router.search(collection, exact, o)) == applied
    scrolled = await reflected(
        lambda o: router.scroll(collection, None, 5, None, **kinds, options=o), strong=True
    )
    assert scrolled == applied
    shard = shard_of(encode_id(7), 3)
    one = await reflected(lambda o: router.retrieve(collection, [7], **kinds, options=o))
    assert one == {shard: applied[shard]}


async def test_reads_do_not_go_back_in_time(three) -> None:
    """A token from a read keeps the next one from a replica that lags behind it."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(4), three.options())
    for shard in range(3):
        three.replica("node2", shard).held_back = True
    await three["node3"].upsert(collection, points(9), three.options())
    options = three.options()
    seen = await three["node1"].count(collection, None, options)
    without = await three["node2"].count(collection, None, three.options())
    later = await three["node2"].count(
        collection, None, three.options(session=dict(options.reflected))
    )

    assert (seen, without, later) == (9, 4, 9)


async def test_a_read_may_ask_for_fresher_replicas(three) -> None:
    """One that is staler than the request accepts sends the read to another, or refuses."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(20), three.options())
    for shard in range(3):
        three.replica("node1", shard).stale_ms = 500
    three.wire.calls.clear()

    assert await three["node1"].count(collection, None, three.options()) == 20
    assert three.wire.calls == []
    assert await three["node1"].count(collection, None, three.options(max_staleness_ms=499)) == 20
    assert {target for _, target, _ in three.wire.calls} <= {"node2", "node3"}
    assert three.wire.calls
    for node in ("node2", "node3"):
        for shard in range(3):
            three.replica(node, shard).stale_ms = 2000
    with pytest.raises(ShardsUnavailable):
        await three["node1"].count(collection, None, three.options(max_staleness_ms=499))


async def test_a_read_may_accept_staler_replicas(three) -> None:
    """Beyond the configured bound, on other nodes too, searches included."""
    collection = await three.collection()
    await three["node1"].upsert(collection, points(20), three.options())
    for node in three.names:
        for shard in range(3):
            three.replica(node, shard).stale_ms = 5000
    request = SearchRequest(VECTOR, limit=3)
    with pytest.raises(ShardsUnavailable):
        await three["node2"].search(collection, request, three.options())
    options = three.options(max_staleness_ms=5000)

    assert len((await three["node2"].search(collection, request, options)).hits) == 3
    assert await three["node2"].count(collection, None, options) == 20


def test_settings_that_the_cluster_has_decided_are_told(three) -> None:
    """The cluster's value counts; a setting that differs is worth a sentence each."""
    view = three.nodes["node1"].view()
    assert view is not None
    assert disagreements(view, Config(shards=3)) == []
    agreed = msgspec.structs.replace(view, request_id_ttl_ms=7, command_bytes_max=1 << 20)
    notes = disagreements(agreed, Config(shards=4, request_id_ttl_ms=5))

    assert notes == [
        "shards is 3 in this cluster since it was formed; 4 is ignored",
        "request_id_ttl_ms is 7 in this cluster since it was formed; 5 is ignored",
    ]


def test_a_checkpoint_counts_when_a_cluster_is_formed(three: RouterCluster) -> None:
    """Later it is ignored, with a note; but for a node that has yet to make its shards of it."""
    view = three.nodes["node1"].view()
    assert view is not None
    config = Config(shards=3, restore="latest")
    note = ["restore is ignored: the cluster was formed before"]
    origin = Origin(checkpoint=7, ancestors=("old",), shards=(ShardOrigin(9, 2, b"", 1, 0),))
    settled = msgspec.structs.replace(origin, settled=("node1",))
    made = [msgspec.structs.replace(view, origin=each) for each in (None, origin, settled)]

    assert [disagreements(each, config) for each in made] == [note, [], note]


@pytest.mark.parametrize("text", ["newest", "0", "-1", "7.5", "1" * 19])
def test_a_checkpoint_is_named_by_its_id(text: str) -> None:
    """What can be no checkpoint's id is refused when a node starts."""
    with pytest.raises(ValueError, match="restore must be a checkpoint's id, or latest"):
        Config(restore=text)
