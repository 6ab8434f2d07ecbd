"""Compare-and-set, and request ids that were used for something else: in a shard, and routed."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from cluster.command import Delete, Result, SetPayload, VersionFound
from cluster.errors import BadRequest, IdempotencyKeyReused, VersionConflict
from cluster.model import Point
from cluster.ring import shard_of
from cluster.shard import ShardMachine
from storage.ids import encode_id
from storage.requests import YOUNG_ENTRIES
from tests.shard_commands import TTL_MS, apply, command, content, point, upsert
from tests.unit.router_cluster import RouterCluster, cluster

THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]


@pytest.fixture
def machine() -> Iterator[ShardMachine]:
    with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as opened:
        yield opened


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes, three shards, each node leads one."""
    with cluster(THREE) as opened:
        yield opened


def conflict(index: int, number: int, version: int) -> Result:
    return Result(index, error="version_conflict", found=VersionFound(encode_id(number), version))


def test_a_version_is_the_index_that_wrote_it(machine: ShardMachine) -> None:
    """Replacing, and changing the payload, make a new version; so compare-and-set can follow."""
    one = [encode_id(1)]
    results = apply(
        machine,
        command(upsert(point(1))),
        command(upsert(point(1, if_version=2))),
        command(SetPayload(1, one, "merge", b'{"a":1}')),
        command(upsert(point(1, if_version=3))),
        command(upsert(point(1, if_version=4))),
        command(Delete(1, one, 5)),
        command(Delete(1, one, 6)),
        command(Delete(1, one, 6)),
    )

    assert results == [
        Result(2, 1),
        Result(3, 1),
        Result(4, 1),
        conflict(5, 1, 4),
        Result(6, 1),
        conflict(7, 1, 6),
        Result(8, 1),
        conflict(9, 1, 0),
    ]


def test_absent_means_never_written_or_deleted(machine: ShardMachine) -> None:
    """A tombstone is no record; what exists is told with its version."""
    results = apply(
        machine,
        command(upsert(point(1, if_version=0))),
        command(upsert(point(1, if_version=0))),
        command(Delete(1, [encode_id(1)])),
        command(upsert(point(1, if_version=0))),
        command(Delete(1, [encode_id(9)], 0)),
    )

    assert results == [Result(2, 1), conflict(3, 1, 2), Result(4, 1), Result(5, 1), Result(6, 0)]


def test_collections_have_versions_of_their_own(machine: ShardMachine) -> None:
    """Another collection's record of the same id says nothing."""
    apply(machine, command(upsert(point(1), collection=2)))

    assert apply(machine, command(upsert(point(1, if_version=0)))) == [Result(3, 1)]


def test_one_conflict_refuses_the_whole_command(machine: ShardMachine) -> None:
    """Nothing of it is applied, also not the points without a condition; the first one is told."""
    apply(machine, command(upsert(point(1), point(2))))
    before, state_hash = content(machine), machine.state_hash()
    mixed = upsert(
        point(3), point(1, b'{"n":1}', if_version=2), point(2, if_version=9), point(4, if_version=7)
    )

    assert apply(machine, command(mixed)) == [conflict(3, 2, 2)]
    assert (content(machine), machine.state_hash()) == (before, state_hash)
    assert machine.take_changes() == []


def test_a_conflict_is_remembered(machine: ShardMachine) -> None:
    """A repeated request gets the first answer, although its condition would hold by now."""
    attempt = command(upsert(point(1, if_version=0)), "once")
    apply(machine, command(upsert(point(1))))
    assert apply(machine, attempt) == [conflict(3, 1, 2)]
    apply(machine, command(Delete(1, [encode_id(1)])))

    assert apply(machine, attempt) == [conflict(3, 1, 2)]
    assert machine.count(1) == 0
    late = command(upsert(point(1, if_version=0)), "once", now_ms=1000 + TTL_MS)
    apply(machine, *[b""] * YOUNG_ENTRIES)
    assert apply(machine, late) == [Result(6 + YOUNG_ENTRIES, 1)]


BAD = {
    "id twice": command(upsert(point(1, if_version=0), point(1))),
    "id twice among others": command(upsert(point(1), point(2, if_version=0), point(1))),
    "negative": command(upsert(point(1, if_version=-1))),
    "huge": command(upsert(point(1, if_version=2**63))),
    "several to delete": command(Delete(1, [encode_id(1), encode_id(2)], 5)),
    "none to delete": command(Delete(1, [], 5)),
    "no id": command(Delete(1, [b"x"], 5)),
}


@pytest.mark.parametrize("name", BAD)
def test_unclear_conditions_are_bad_commands(machine: ShardMachine, name: str) -> None:
    """A condition is about one record that the command writes once."""
    assert apply(machine, BAD[name]) == [Result(2, error="bad_command")]


def test_a_name_belongs_to_its_digest(machine: ShardMachine) -> None:
    """Another digest under the name is refused, changes nothing, and does not take its place."""
    first, other = command(upsert(point(1)), "key\x1fone"), command(upsert(point(1)), "key\x1ftwo")
    apply(machine, first)
    before = machine.request_hash()

    assert apply(machine, other) == [Result(3, error="request_id_reused")]
    assert apply(machine, first) == [Result(2, 1)]
    assert apply(machine, command(upsert(point(1)), "key")) == [Result(2, 1)]
    assert machine.request_hash() == before
    late = command(upsert(point(1)), "key\x1ftwo", now_ms=1000 + TTL_MS)
    apply(machine, *[b""] * YOUNG_ENTRIES)
    assert apply(machine, late) == [Result(6 + YOUNG_ENTRIES, 1)]


# -- routed ---------------------------------------------------------------------------------------


def model_point(number: int, if_version: int | None = None) -> Point:
    return Point(number, np.array([1, 2, 3, 4], np.float32), {}, if_version)


def id_in(shard: int, after: int = 0) -> int:
    """Return an id above `after` that belongs to a shard."""
    return next(n for n in range(after + 1, 1000) if shard_of(encode_id(n), 3) == shard)


async def test_a_conflict_says_what_is_there(three) -> None:
    """Through whichever node: the point, and its version, which the next attempt can name."""
    collection = await three.collection()
    written = await three["node1"].upsert(collection, [model_point(1)], three.options())
    for node in three.names:
        with pytest.raises(VersionConflict, match=f"point 1 has version {written.version}") as told:
            await three[node].upsert(collection, [model_point(1, 0)], three.options())
        assert (told.value.point, told.value.current_version) == (1, written.version)
    again = [model_point(1, written.version)]
    newer = await three["node2"].upsert(collection, again, three.options())
    with pytest.raises(VersionConflict):
        await three["node3"].delete(collection, [1], three.options(), if_version=written.version)
    await three["node3"].delete(collection, [1], three.options(), if_version=newer.version)
    with pytest.raises(VersionConflict, match="does not exist"):
        await three["node1"].upsert(collection, again, three.options())


async def test_the_other_shards_of_a_batch_are_told(three) -> None:
    """Shards are independent: the conflict is one shard's, and the sentence lists all outcomes."""
    collection = await three.collection()
    taken, free = id_in(0), id_in(1)
    await three["node1"].upsert(collection, [model_point(taken)], three.options())
    batch = [model_point(taken, 0), model_point(free, 0), model_point(id_in(0, taken))]
    with pytest.raises(VersionConflict) as told:
        await three["node1"].upsert(collection, batch, three.options())
    found = await three["node1"].retrieve(
        collection,
        [id_in(0, taken), free],
        with_payload=False,
        with_vector=False,
        options=three.options(strong=True),
    )

    assert "shard 0: 0 of 1 parts applied, point" in told.value.message
    assert "shard 1: applied at" in told.value.message
    assert told.value.point == taken
    assert [record.id for record in found] == [free]


async def test_a_conflict_outlives_its_leader(three) -> None:
    """A retry under the same key, at another leader, gets the first answer."""
    collection = await three.collection()
    number = id_in(0)
    await three["node1"].upsert(collection, [model_point(number)], three.options())
    attempt = [model_point(number, 0)]
    with pytest.raises(VersionConflict) as first:
        await three["node1"].upsert(collection, attempt, three.options(request_id="key"))
    await three["node2"].delete(collection, [number], three.options())
    three.groups[0].elect("node3")
    with pytest.raises(VersionConflict) as again:
        await three["node2"].upsert(collection, attempt, three.options(request_id="key"))

    assert again.value.message == first.value.message


async def test_a_lost_answer_of_a_condition_is_no_conflict(three) -> None:
    """The router asks again by itself, and its own first attempt does not count against it."""
    collection = await three.collection()
    number = id_in(0)
    three.groups[0].answers_lost = 1
    ack = await three["node2"].upsert(collection, [model_point(number, 0)], three.options())

    assert ack.version == 2
    assert len(three.commands(0)) == 2


async def test_an_id_with_a_condition_comes_once(three) -> None:
    """Which of the two would it be about?"""
    collection = await three.collection()
    for batch in ([model_point(1, 0), model_point(1)], [model_point(1), model_point(1, 5)]):
        with pytest.raises(BadRequest) as refused:
            await three["node1"].upsert(collection, batch, three.options())
        assert refused.value.field == "points[1].id"


async def test_a_key_used_for_something_else_is_refused(three) -> None:
    """By the shard that remembers it, on any node, also at a new leader."""
    collection = await three.collection()
    number = id_in(0)
    options = [three.options(request_id="key", request_digest=digest) for digest in ("a", "b")]
    first = await three["node1"].upsert(collection, [model_point(number)], options[0])
    three.groups[0].elect("node2")
    with pytest.raises(IdempotencyKeyReused) as refused:
        await three["node3"].upsert(collection, [model_point(number)], options[1])
    again = await three["node3"].upsert(collection, [model_point(number)], options[0])

    assert refused.value.field == "Idempotency-Key"
    assert again.version == first.version


async def test_creating_and_dropping_under_a_key(three) -> None:
    """A repeated creation is the same one, and a repeated drop spares the next collection."""
    shape = {
        "dimension": 4,
        "distance": "Dot",
        "hnsw_m": 16,
        "hnsw_ef_construct": 100,
        "embedding_space": None,
        "must_be_new": True,
    }

    async def create(node: str, key: str, digest: str = "a") -> int:
        options = three.options(request_id=key, request_digest=digest)
        made = await three[node].create_collection("things", options=options, **shape)
        uid: int = made.uid
        return uid

    first = await create("node1", "make")
    assert await create("node2", "make") == first
    with pytest.raises(IdempotencyKeyReused):
        await create("node2", "make", "b")
    assert await three["node1"].drop_collection("things", three.options(request_id="drop"))
    second = await create("node3", "make again")
    assert await three["node2"].drop_collection("things", three.options(request_id="drop"))
    (left,) = three["node1"].collections()

    assert left.uid == second != first
