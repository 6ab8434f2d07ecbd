"""Reads: which replica answers, from which index on, and what happens when it cannot."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import BadRequest, ShardsUnavailable, Unavailable
from cluster.model import Point
from cluster.ring import shard_of
from storage.filters import matches, parse_filter
from storage.ids import PointId, encode_id
from tests.unit.router_cluster import RouterCluster, cluster

FETCH, PAGE, COUNT, READ_INDEX = "router/fetch", "router/page", "router/count", "router/read_index"
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes with all three shards each."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def ring() -> Iterator[RouterCluster]:
    """Four nodes with two of four shards each."""
    with cluster(RING) as opened:
        yield opened


def point(point_id, **payload):
    return Point(point_id, np.array([1, 2, 3, 4], np.float32), payload)


def id_in(shard: int, shards: int) -> int:
    return next(n for n in range(1000) if shard_of(encode_id(n), shards) == shard)


async def filled(opened: RouterCluster, count: int = 40, **settings):
    collection = await opened.collection(**settings)
    points = [point(n, n=n, kind=n % 3) for n in range(count)]
    ack = await opened["node1"].upsert(collection, points, opened.options())
    opened.wire.calls.clear()
    return collection, ack


async def retrieve(opened, node, collection, ids, **choices):
    records = await opened[node].retrieve(
        collection, ids, with_payload=True, with_vector=False, options=opened.options(**choices)
    )
    return [record.id for record in records]


async def scrolled(opened, node, collection, where=None, limit=7, **choices):
    """Return all ids, page by page."""
    found: list[PointId] = []
    offset = None
    while True:
        records, offset = await opened[node].scroll(
            collection,
            where,
            limit,
            offset,
            with_payload=False,
            with_vector=False,
            options=opened.options(**choices),
        )
        assert len(records) <= limit
        found.extend(record.id for record in records)
        if offset is None:
            return found


async def test_a_node_with_all_shards_asks_nobody(three):
    """Default reads are local when the replicas here are fresh."""
    collection, _ = await filled(three)
    await retrieve(three, "node2", collection, range(40))
    await scrolled(three, "node2", collection)
    await three["node2"].count(collection, None, three.options())

    assert three.wire.calls == []


async def test_retrieve_keeps_the_order_asked(ring):
    """Absent ids are skipped, repeated ones repeated, wherever the points are."""
    collection, _ = await filled(ring)
    asked = [31, 2, 999, 17, 2, 0]

    assert await retrieve(ring, "node3", collection, asked) == [31, 2, 17, 2, 0]


async def test_records_have_what_was_asked_for(ring):
    """Vector and payload come when asked for, version and times always."""
    collection, ack = await filled(ring, distance="Dot")
    (full,) = await ring["node3"].retrieve(
        collection, [5], with_payload=True, with_vector=True, options=ring.options()
    )
    (bare,) = await ring["node3"].retrieve(
        collection, [5], with_payload=False, with_vector=False, options=ring.options()
    )

    assert full.payload == {"n": 5, "kind": 2}
    assert full.vector.tolist() == [1, 2, 3, 4]
    assert full.version == bare.version == ack.session.indexes[shard_of(encode_id(5), 4)]
    assert full.created_ms == full.updated_ms > 0
    assert (bare.vector, bare.payload) == (None, None)


async def test_uuids_come_back_as_uuids(three):
    """An id comes back as the type it was given."""
    name = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    collection = await three.collection()
    await three["node1"].upsert(collection, [point(name), point(3)], three.options())

    assert await retrieve(three, "node2", collection, [name, 3]) == [name, 3]
    assert await scrolled(three, "node2", collection) == [3, name]


async def test_a_bad_id_is_the_callers_mistake(three):
    """The bad id is named by its place."""
    collection, _ = await filled(three)
    with pytest.raises(BadRequest) as failure:
        await retrieve(three, "node1", collection, [1, -5])

    assert failure.value.field == "ids[1]"


@pytest.mark.parametrize("node", ["node1", "node3"])
@pytest.mark.parametrize("limit", [1, 7, 39, 40, 41, 100])
async def test_pages_are_all_points_in_order(ring, node, limit):
    """Walking the pages meets every point once, in id order, from any node."""
    collection, _ = await filled(ring)

    assert await scrolled(ring, node, collection, limit=limit) == list(range(40))


async def test_pages_and_counts_of_a_filter(ring):
    """A filter means the same over all shards as its predicate over a list."""
    collection, _ = await filled(ring)
    raw = {"must": [{"key": "kind", "match": {"value": 1}}, {"key": "n", "range": {"gte": 10}}]}
    where = parse_filter(raw)
    expected = [n for n in range(40) if matches(where, n, {"n": n, "kind": n % 3})]

    assert await scrolled(ring, "node2", collection, where, limit=4) == expected
    assert await ring["node2"].count(collection, where, ring.options()) == len(expected)
    assert await ring["node2"].count(collection, None, ring.options()) == 40


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete"]), st.sets(st.integers(0, 30), min_size=1)),
        min_size=1,
        max_size=6,
    )
)
async def test_a_cluster_is_a_dict(steps):
    """Whatever is written and deleted through whichever node, any node reads the same dict."""
    with cluster(RING) as opened:
        collection = await opened.collection()
        twin = {}
        for number, (kind, ids) in enumerate(steps):
            router = opened[f"node{number % 4 + 1}"]
            if kind == "put":
                points = [point(n, step=number) for n in sorted(ids)]
                await router.upsert(collection, points, opened.options())
                twin.update(dict.fromkeys(ids, number))
            else:
                await router.delete(collection, sorted(ids), opened.options())
                twin = {n: step for n, step in twin.items() if n not in ids}
        for node in opened.names:
            records, _ = await opened[node].scroll(
                collection,
                None,
                100,
                None,
                with_payload=True,
                with_vector=False,
                options=opened.options(),
            )

            assert {each.id: (each.payload or {})["step"] for each in records} == twin


async def test_a_stale_replica_is_passed_over(three):
    """A replica that lost touch with its leader is not read; another node is."""
    collection, _ = await filled(three)
    three.replica("node2", 1).is_stale = True
    member = id_in(1, 3)

    assert await retrieve(three, "node2", collection, [member]) == [member]
    assert three.wire.of(FETCH) == [("node2", "node3")]


async def test_a_node_refuses_what_it_holds_no_fresh_replica_of(three):
    """Asked by another node, a node refuses its stale shards, and these are asked elsewhere."""
    collection, _ = await filled(three)
    three.replica("node2", 1).is_stale = True
    three.replica("node3", 1).is_stale = True
    member = id_in(1, 3)

    assert await retrieve(three, "node2", collection, [member]) == [member]
    assert three.wire.of(FETCH) == [("node2", "node3"), ("node2", "node1")]


async def test_no_fresh_replica_is_an_error_that_names_the_shard(three):
    """No answer is better than an old one; the wait ends with the deadline."""
    collection, _ = await filled(three)
    for node in three.names:
        three.replica(node, 1).is_stale = True
    options = three.options()
    with pytest.raises(ShardsUnavailable, match=r"shard 1: node\d: not in touch") as failure:
        await three["node1"].count(collection, None, options)

    assert failure.value.shards == (1,)
    assert three.clock() <= options.deadline_s


async def test_a_shard_that_gets_a_leader_in_time_is_waited_for(three):
    """An election costs a read some time, not an error."""
    collection, _ = await filled(three)
    for node in three.names:
        three.replica(node, 1).is_stale = True

    def elected():
        three.replica("node3", 1).is_stale = False

    three.clock.on_sleep = elected

    assert await three["node1"].count(collection, None, three.options()) == 40


async def test_a_dead_node_is_replaced(ring):
    """Shards of a node that fails are read from their other replicas."""
    collection, _ = await filled(ring)
    ring.wire.channels["node1"].unseen_deaths.add("node3")
    ring.kill("node3")

    assert await scrolled(ring, "node1", collection, limit=100) == list(range(40))
    assert ("node1", "node3") in ring.wire.of(PAGE)


async def test_a_node_known_to_be_dead_is_not_asked(ring):
    """A closed connection is seen before a call is made."""
    collection, _ = await filled(ring)
    ring.kill("node3")

    assert await ring["node1"].count(collection, None, ring.options()) == 40
    assert "node3" not in [target for _, target in ring.wire.of(COUNT)]


async def test_a_shard_without_a_living_replica_is_named(ring):
    """Two dead neighbours take one shard with them; the error says which."""
    collection, _ = await filled(ring)
    ring.kill("node3", "node4")
    options = ring.options()
    with pytest.raises(ShardsUnavailable, match="shard 2") as failure:
        await ring["node1"].count(collection, None, options)

    assert failure.value.shards == (2,)
    assert ring.clock() <= options.deadline_s


async def test_a_session_waits_for_no_replica_that_lags(three):
    """Read your writes: a replica that has not reached the token's index is passed over."""
    collection = await three.collection()
    for shard in range(3):
        three.replica("node2", shard).held_back = True
    ack = await three["node1"].upsert(collection, [point(n) for n in range(40)], three.options())
    old = await retrieve(three, "node2", collection, range(40))
    session = dict(ack.session.indexes)

    assert len(old) < 20
    assert await retrieve(three, "node2", collection, range(40), session=session) == [*range(40)]


async def test_a_session_beyond_all_replicas_is_an_error(three):
    """A token from nowhere is not answered with less than it asks for."""
    collection, _ = await filled(three)
    options = three.options(session={0: 999})
    with pytest.raises(ShardsUnavailable, match="has not reached index 999"):
        await three["node1"].count(collection, None, options)

    assert three.clock() <= options.deadline_s


async def test_a_strong_read_sees_what_was_acknowledged(three):
    """The leaders' read indexes are demanded of whichever replica answers."""
    collection = await three.collection()
    for shard in range(3):
        three.replica("node2", shard).held_back = True
    await three["node1"].upsert(collection, [point(n) for n in range(40)], three.options())

    assert len(await retrieve(three, "node2", collection, range(40))) < 20
    assert await retrieve(three, "node2", collection, range(40), strong=True) == [*range(40)]
    assert await scrolled(three, "node2", collection, strong=True) == [*range(40)]
    assert await three["node2"].count(collection, None, three.options(strong=True)) == 40


async def test_a_strong_read_asks_only_the_leaders_concerned(three):
    """One id costs one ReadIndex, at the leader of its shard, and no other message."""
    collection, _ = await filled(three)
    member = id_in(2, 3)
    await retrieve(three, "node1", collection, [member], strong=True)
    remote = list(three.wire.calls)
    three.wire.calls.clear()
    await retrieve(three, "node3", collection, [member], strong=True)

    assert remote == [("node1", "node3", READ_INDEX)]
    assert three.wire.calls == []


async def test_a_strong_read_finds_a_new_leader(three):
    """A wrong idea of who leads costs a message more."""
    collection, _ = await filled(three)
    member = id_in(2, 3)
    three.groups[2].elect("node2")
    three.replica("node1", 2).believes = "node3"

    assert await retrieve(three, "node1", collection, [member], strong=True) == [member]
    assert three.wire.of(READ_INDEX) == [("node1", "node3"), ("node1", "node2")]


async def test_a_strong_read_without_a_leader_is_an_error(three):
    """Never stale, else an error, by the deadline."""
    collection, _ = await filled(three)
    three.groups[2].elect(None)
    options = three.options(strong=True)
    with pytest.raises(ShardsUnavailable, match="shard 2") as failure:
        await three["node1"].count(collection, None, options)

    assert failure.value.shards == (2,)
    assert three.clock() <= options.deadline_s


async def test_rows_that_exceed_a_frame_come_in_parts():
    """Ten thousand large payloads are many answers, none larger than a frame can carry."""
    limits = {
        "command_bytes_max": 4096,
        "append_bytes_max": 4096,
        "segment_bytes": 8192,
        "frame_bytes_max": 16384,
        "payload_bytes_max": 2048,
        "dimension_max": 16,
    }
    with cluster([["node1"], ["node2"]], **limits) as opened:
        collection = await opened.collection()
        texts = {n: str(n) * 500 for n in range(60)}
        points = [point(n, text=text) for n, text in texts.items()]
        await opened["node1"].upsert(collection, points, opened.options())
        records = await opened["node1"].retrieve(
            collection, range(60), with_payload=True, with_vector=True, options=opened.options()
        )

        assert {each.id: (each.payload or {})["text"] for each in records} == texts
        assert len(opened.wire.of(FETCH)) > 3
        assert opened.wire.largest_answer <= 16384


async def test_a_deadline_that_has_passed_is_told(three):
    """A request that comes too late is not begun."""
    collection, _ = await filled(three)
    options = three.options()
    three.clock.now_s += 10
    with pytest.raises(Unavailable):
        await three["node1"].count(collection, None, options)

    assert three.wire.calls == []
