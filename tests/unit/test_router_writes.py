"""Writes: found leaders, one forward, retries that apply once, outcomes by shard, deadlines."""

from collections.abc import Iterator

import numpy as np
import pytest

from cluster.command import Command, Upsert
from cluster.errors import (
    BadRequest,
    CollectionNotFound,
    OutcomeUnknown,
    Overloaded,
    ShardsUnavailable,
    StorageFull,
)
from cluster.model import Point, Record
from cluster.ring import shard_of
from storage.filters import parse_filter
from storage.ids import encode_id
from tests.unit.router_cluster import RouterCluster, cluster

PROPOSE = "router/propose"
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
ONE = [["node1", "node2", "node3"]]


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes, three shards, each node leads one."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def one() -> Iterator[RouterCluster]:
    """Three nodes, one shard, which node1 leads."""
    with cluster(ONE) as opened:
        yield opened


def point(point_id, **payload):
    return Point(point_id, np.array([1, 2, 3, 4], np.float32), payload)


def id_in(shard: int, shards: int = 3) -> int:
    """Return an id that belongs to a shard."""
    return next(n for n in range(1000) if shard_of(encode_id(n), shards) == shard)


def written_ids(command: Command) -> list[bytes]:
    assert isinstance(command.body, Upsert)
    return [write.id for write in command.body.points]


async def read(cluster: RouterCluster, node: str, *ids: int) -> list[Record]:
    (collection,) = cluster[node].collections()
    return await cluster[node].retrieve(
        collection, ids, with_payload=True, with_vector=False, options=cluster.options()
    )


async def test_a_leader_here_costs_no_message(one):
    """The node that leads the shard proposes by itself."""
    collection = await one.collection()
    one.wire.calls.clear()
    ack = await one["node1"].upsert(collection, [point(1)], one.options())

    assert one.wire.calls == []
    assert ack.session.indexes == {0: ack.version}


@pytest.mark.parametrize("node", ["node2", "node3"])
async def test_a_leader_elsewhere_costs_one_forward(one, node):
    """A node that does not lead sends the write to the leader, once."""
    collection = await one.collection()
    ack = await one[node].upsert(collection, [point(1)], one.options())

    assert one.wire.of(PROPOSE) == [(node, "node1")]
    assert len(one.commands(0)) == 1
    assert one.replica(node, 0).applied_index >= ack.version


async def test_a_forwarded_write_is_never_forwarded_again(one):
    """Who is asked by mistake answers who leads; the first node goes there itself."""
    collection = await one.collection()
    one.groups[0].elect("node3")
    one.replica("node1", 0).believes = "node2"
    await one["node1"].upsert(collection, [point(1)], one.options())

    assert one.wire.of(PROPOSE) == [("node1", "node2"), ("node1", "node3")]
    assert len(one.commands(0)) == 1


async def test_a_node_without_a_replica_finds_the_leader():
    """The shard map names the members; after one answer the leader is remembered."""
    with cluster([["node1", "node2"], ["node3", "node1"]]) as opened:
        collection = await opened.collection()
        opened.groups[0].elect("node2")
        member = id_in(0, 2)
        await opened["node3"].upsert(collection, [point(member)], opened.options())
        first = opened.wire.of(PROPOSE)
        await opened["node3"].upsert(collection, [point(member)], opened.options())

        assert first == [("node3", "node1"), ("node3", "node2")]
        assert opened.wire.of(PROPOSE)[2:] == [("node3", "node2")]


async def test_a_retry_after_an_unknown_outcome_applies_once(one):
    """The answer was lost, the command was not: the retry gets the first one's result."""
    collection = await one.collection()
    one.groups[0].answers_lost = 2
    ack = await one["node1"].upsert(collection, [point(1, n=1)], one.options())
    commands = one.commands(0)

    assert len(commands) == 3
    assert len({command.request_id for command in commands}) == 1
    assert ack.version == one.groups[0].log[0].index
    assert [record.version for record in await read(one, "node1", 1)] == [ack.version]


async def test_a_lost_connection_applies_once(one):
    """The leader did the work and its answer never came."""
    collection = await one.collection()
    one.wire.answers_lost.add("node1")
    one.clock.on_sleep = one.wire.answers_lost.clear
    ack = await one["node2"].upsert(collection, [point(1)], one.options())
    commands = one.commands(0)

    assert len(commands) == 2
    assert len({command.request_id for command in commands}) == 1
    assert ack.version == one.groups[0].log[0].index


async def test_a_new_leader_is_found(one):
    """While there is none the write waits; when there is one, it goes there."""
    collection = await one.collection()
    one.groups[0].elect(None)
    one.clock.on_sleep = lambda: one.groups[0].elect("node3")
    ack = await one["node1"].upsert(collection, [point(1)], one.options())

    assert ack.version > 1
    assert one.wire.of(PROPOSE)[-1] == ("node1", "node3")


async def test_a_leader_that_hangs_does_not_use_up_the_deadline(one):
    """A forwarded attempt is given up while there is time for the next leader."""
    collection = await one.collection()
    one.wire.hanging.add("node1")
    start_s = one.clock()
    one.clock.on_wait = lambda: one.groups[0].elect("node3")
    ack = await one["node2"].upsert(collection, [point(1)], one.options())

    assert ack.version > 1
    assert one.clock() - start_s < 2


@pytest.mark.parametrize("node", ["node1", "node2"])
async def test_without_a_leader_the_deadline_ends_the_wait(one, node):
    """No write hangs: by its deadline it fails, names the shard, and may be retried."""
    collection = await one.collection()
    one.groups[0].elect(None)
    options = one.options()
    with pytest.raises(ShardsUnavailable, match="shard 0") as failure:
        await one[node].upsert(collection, [point(1)], options)

    assert failure.value.shards == (0,)
    assert failure.value.retryable
    assert options.deadline_s - 0.5 <= one.clock() <= options.deadline_s


async def test_with_everybody_hanging_the_deadline_holds(one):
    """Nodes that never answer cost the deadline, not more."""
    collection = await one.collection()
    one.groups[0].elect("node2")
    one.wire.hanging.update({"node2", "node3"})
    options = one.options()
    with pytest.raises(ShardsUnavailable):
        await one["node1"].upsert(collection, [point(1)], options)

    assert one.clock() <= options.deadline_s


async def test_overload_is_not_retried(one):
    """A leader that says slow down is not asked again; its client is told."""
    collection = await one.collection()
    one.groups[0].failures = [lambda: Overloaded("slow down")] * 9
    with pytest.raises(Overloaded, match="slow down"):
        await one["node2"].upsert(collection, [point(1)], one.options())

    assert len(one.groups[0].failures) == 8


async def test_a_full_disk_is_told(one):
    """507 is the leader's to say, and passes through."""
    collection = await one.collection()
    one.groups[0].failures = [lambda: StorageFull("the disk is full")]
    with pytest.raises(StorageFull, match="the disk is full"):
        await one["node2"].upsert(collection, [point(1)], one.options())


async def test_a_batch_goes_to_every_shard_at_once(three):
    """Each shard gets its points in one command, proposed by its own leader."""
    collection = await three.collection()
    ack = await three["node1"].upsert(collection, [point(n) for n in range(60)], three.options())
    written = [written_ids(command) for shard in range(3) for command in three.commands(shard)]

    assert [len(three.commands(shard)) for shard in range(3)] == [1, 1, 1]
    assert sorted(each for ids in written for each in ids) == [encode_id(n) for n in range(60)]
    assert set(ack.session.indexes) == {0, 1, 2}
    assert sorted(three.wire.of(PROPOSE)) == [("node1", "node2"), ("node1", "node3")]


async def test_a_failure_lists_the_outcome_of_every_shard(three):
    """What was written stays written, what was not is named, and a retry completes it."""
    collection = await three.collection()
    points = [point(n) for n in range(60)]
    three.groups[1].elect(None)
    options = three.options(request_id="key")
    with pytest.raises(ShardsUnavailable) as failure:
        await three["node1"].upsert(collection, points, options)

    assert failure.value.shards == (1,)
    for text in ("shard 0: applied at 2", "shard 1: 0 of 1 parts", "shard 2: applied at 2"):
        assert text in failure.value.message
    three.groups[1].elect("node3")
    ack = await three["node2"].upsert(collection, points, three.options(request_id="key"))

    assert ack.session.indexes == {0: 2, 1: 2, 2: 2}
    assert len(await read(three, "node1", *range(60))) == 60


async def test_an_unknown_outcome_says_so(one):
    """A write that was proposed and never heard of again may or may not be there."""
    collection = await one.collection()
    one.groups[0].failures = [lambda: OutcomeUnknown("leadership changed")] * 1000
    with pytest.raises(ShardsUnavailable, match="leadership changed"):
        await one["node1"].upsert(collection, [point(1)], one.options())

    assert one.commands(0) == []


async def test_large_batches_are_split_in_order():
    """No command exceeds the limit; the parts of a shard follow each other."""
    limits = {"command_bytes_max": 4096, "append_bytes_max": 4096, "segment_bytes": 8192}
    with cluster(ONE, **limits) as opened:
        collection = await opened.collection()
        points = [point(n, text="x" * 300) for n in range(100)]
        options = opened.options(request_id="key")
        ack = await opened["node2"].upsert(collection, points, options)
        commands = opened.commands(0)
        ids = [each for command in commands for each in written_ids(command)]

        assert len(commands) > 5
        assert max(len(entry.command) for entry in opened.groups[0].log) <= 4096
        assert ids == [encode_id(n) for n in range(100)]
        assert [c.request_id for c in commands] == [f"r/key:0:{n}" for n in range(len(commands))]
        assert ack.version == opened.groups[0].log[-1].index


async def test_a_part_that_fails_stops_its_shard():
    """What was applied of a shard is a prefix, and the error says how long it is."""
    limits = {"command_bytes_max": 4096, "append_bytes_max": 4096, "segment_bytes": 8192}
    with cluster(ONE, **limits) as opened:
        collection = await opened.collection()
        points = [point(n, text="x" * 300) for n in range(100)]
        group = opened.groups[0]
        group.fail_from = 3
        with pytest.raises(ShardsUnavailable, match=r"shard 0: 2 of \d+ parts applied"):
            await opened["node1"].upsert(collection, points, opened.options(request_id="key"))
        group.fail_from = None
        await opened["node1"].upsert(collection, points, opened.options(request_id="key"))
        records = await read(opened, "node1", *range(100))
        versions = sorted({record.version for record in records})

        assert [record.id for record in records] == list(range(100))
        assert versions[:3] == [2, 3, 6], "the first two parts were repeated without effect"


async def test_a_bad_batch_proposes_nothing(three):
    """A batch is validated whole before any of it is proposed."""
    collection = await three.collection()
    bad = Point(7, np.array([1, 2, 3], np.float32))
    with pytest.raises(BadRequest) as failure:
        await three["node1"].upsert(
            collection, [*[point(n) for n in range(50)], bad], three.options()
        )

    assert failure.value.field == "points[50].vector"
    assert [three.commands(shard) for shard in range(3)] == [[], [], []]


@pytest.mark.parametrize("request_id", ["a\0b", "a\x1fb", "x" * 257])
async def test_a_bad_request_id_is_the_callers_mistake(one, request_id):
    """An idempotency key that the log cannot hold is refused before anything is proposed."""
    collection = await one.collection()
    with pytest.raises(BadRequest) as failure:
        await one["node1"].upsert(collection, [point(1)], one.options(request_id=request_id))

    assert failure.value.field == "request_id"
    assert one.commands(0) == []


async def test_equal_keys_are_applied_once(one):
    """A client that repeats a request under its key changes nothing the second time."""
    collection = await one.collection()
    first = await one["node1"].upsert(collection, [point(1)], one.options(request_id="key"))
    await one["node1"].upsert(collection, [point(1, n=2)], one.options())
    again = await one["node3"].upsert(collection, [point(1)], one.options(request_id="key"))
    (record,) = await read(one, "node1", 1)

    assert again.version == first.version
    assert record.payload == {"n": 2}


async def test_the_token_covers_what_the_client_had_seen(three):
    """A client may keep its newest token alone."""
    collection = await three.collection()
    options = three.options(session={0: 9, 2: 1})
    member = id_in(2)
    ack = await three["node1"].upsert(collection, [point(member)], options)

    assert ack.session.indexes == {0: 9, 2: ack.version}


async def test_an_own_replica_that_lags_is_waited_for_a_second(one):
    """The write is committed: after a second it is acknowledged, and the token says the rest."""
    collection = await one.collection()
    one.replica("node2", 0).held_back = True
    start_s = one.clock()
    ack = await one["node2"].upsert(collection, [point(1)], one.options())

    assert one.clock() - start_s == pytest.approx(1)
    assert ack.session.indexes == {0: 2}


async def test_the_proposing_node_stamps_the_time(one):
    """The command's clock is that of the leader, not of the node that forwarded."""
    collection = await one.collection()
    await one["node2"].upsert(collection, [point(1)], one.options())

    assert [command.now_ms for command in one.commands(0)] == [1_700_000_000_001]


async def test_writes_to_a_dropped_collection_are_refused(one):
    """A write that comes too late finds its collection gone."""
    collection = await one.collection()
    await one["node1"].drop_collection("things", one.options())
    await one["node1"].purge_dropped()
    with pytest.raises(CollectionNotFound):
        await one["node2"].upsert(collection, [point(1)], one.options())


async def test_delete_by_id(three):
    """Deleted points are gone everywhere, absent ones do not matter."""
    collection = await three.collection()
    await three["node1"].upsert(collection, [point(n) for n in range(20)], three.options())
    await three["node2"].delete(collection, [*range(15), 777], three.options())

    assert [r.id for r in await read(three, "node3", *range(20))] == [15, 16, 17, 18, 19]


async def test_delete_by_filter_sees_all_that_was_acknowledged(three):
    """The filter is resolved by a strong read, also through a node whose replicas lag."""
    collection = await three.collection()
    for shard in range(3):
        three.replica("node2", shard).held_back = True
    points = [point(n, kind=n % 2) for n in range(40)]
    await three["node1"].upsert(collection, points, three.options())
    odd = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    await three["node2"].delete(collection, odd, three.options())

    assert [r.id for r in await read(three, "node1", *range(40))] == list(range(0, 40, 2))


async def test_delete_by_filter_under_one_key_twice(three):
    """A repeated key does not protect points that the filter finds only the second time."""
    collection = await three.collection()
    odd = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    for start in (0, 10):
        points = [point(n, kind=1) for n in range(start, start + 10)]
        await three["node1"].upsert(collection, points, three.options())
        await three["node1"].delete(collection, odd, three.options(request_id="key"))

    assert await read(three, "node1", *range(20)) == []


async def test_a_filter_that_nothing_passes_writes_nothing(three):
    """The acknowledgement is empty and the logs stay as they were."""
    collection = await three.collection()
    nothing = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    ack = await three["node1"].delete(collection, nothing, three.options())

    assert (ack.version, ack.session.indexes) == (0, {})
    assert [three.commands(shard) for shard in range(3)] == [[], [], []]


async def test_payloads_are_changed_by_id_and_by_filter(three):
    """Merge, replace, remove and clear, on points chosen either way."""
    collection = await three.collection()
    points = [point(n, kind=n % 2, n=n) for n in range(4)]
    await three["node1"].upsert(collection, points, three.options())
    odd = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    change = three["node2"].set_payload
    await change(collection, odd, "merge", {"odd": True}, [], three.options())
    await change(collection, [0], "replace", {"new": 1}, [], three.options())
    await change(collection, [1], "remove", {}, ["n"], three.options())
    await change(collection, [2], "clear", {}, [], three.options())

    assert [r.payload for r in await read(three, "node3", 0, 1, 2, 3)] == [
        {"new": 1},
        {"kind": 1, "odd": True},
        {},
        {"kind": 1, "n": 3, "odd": True},
    ]


async def test_a_write_that_comes_too_late_proposes_nothing(one):
    """After its deadline nobody waits for the outcome any more."""
    collection = await one.collection()
    options = one.options()
    one.clock.now_s += 10
    with pytest.raises(ShardsUnavailable):
        await one["node1"].upsert(collection, [point(1)], options)

    assert one.replica("node1", 0).proposed == []
