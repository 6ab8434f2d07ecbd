"""From a request to log commands: grouped by shard, split below the limit, same ids every time."""

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batch import Splitting
from cluster.command import Command, Delete, SetPayload, Upsert, decode_command, seal_command
from cluster.errors import BadRequest, PayloadTooLarge
from cluster.model import Collection, Point
from cluster.ring import shard_of
from cluster.write_commands import (
    PayloadChange,
    canonical_ids,
    delete_shares,
    payload_shares,
    unit_vectors,
    upsert_shares,
)
from storage.ids import encode_id, key_bytes, keyed_id

DOT = Collection(uid=7, name="things", dimension=3, distance="Dot")
COSINE = Collection(uid=8, name="angles", dimension=3, distance="Cosine")
SPLITTING = Splitting(shards=3, command_bytes_max=4096, request_id="r/key")


def point(point_id, *vector, **payload):
    return Point(point_id, np.array(vector or (1, 2, 3), np.float32), payload)


def commands(shares):
    """Return (shard, command) of every part, as the log will hold it."""
    return [
        (share.shard, decode_command(seal_command(request_id, 123, body)))
        for share in shares
        for request_id, body in share.parts
    ]


@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 900), min_size=1, max_size=40))
def test_every_point_is_in_one_command_of_its_shard(sizes):
    """Grouping and splitting lose nothing, repeat nothing, and keep the order within a shard."""
    points = [point(each, text="x" * size) for each, size in sizes.items()]
    found = commands(upsert_shares(DOT, points, SPLITTING))
    written = [(shard, write.id) for shard, each in found for write in each.body.points]
    expected = [(shard_of(encode_id(each), 3), encode_id(each)) for each in sizes]

    assert sorted(written) == sorted(expected)
    for shard in range(3):
        assert [i for s, i in written if s == shard] == [i for s, i in expected if s == shard]


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.booleans())
def test_no_command_exceeds_the_limit(sizes, by_content):
    """Request id, clock and all, a sealed command fits into a log entry."""
    points = [point(at, text="x" * size) for at, size in enumerate(sizes)]
    splitting = SPLITTING._replace(by_content=by_content)
    shares = upsert_shares(DOT, points, splitting)
    sealed = [
        seal_command(request_id, 2**53, body)
        for share in shares
        for request_id, body in share.parts
    ]

    assert max(map(len, sealed)) <= splitting.command_bytes_max


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.booleans())
def test_identities_with_long_keys_fit_their_commands(ids, by_content):
    """All points of a key go to its shard, in as many commands as their bytes need."""
    key = key_bytes("\U0001f511" * 255)
    splitting = SPLITTING._replace(by_content=by_content)
    identities = [keyed_id(encode_id(each), key) for each in ids]
    change = PayloadChange("merge", {"a": "x" * 500}, [])
    upserts = upsert_shares(DOT, [point(each) for each in ids], splitting, key)
    deletes = delete_shares(7, identities, splitting)
    changes = payload_shares(7, identities, change, splitting)
    sealed = [
        (share.shard, seal_command(request_id, 2**53, body))
        for share in (*upserts, *deletes, *changes)
        for request_id, body in share.parts
    ]
    written = [write.id for _, each in commands(upserts) for write in each.body.points]
    deleted = [each for _, part in commands(deletes) for each in part.body.ids]

    assert {shard for shard, _ in sealed} == {shard_of(key, 3)}
    assert max(len(raw) for _, raw in sealed) <= splitting.command_bytes_max
    assert written == deleted == identities


def test_a_small_share_is_one_command():
    """A shard's share is all or nothing as long as it fits into one command."""
    shares = upsert_shares(DOT, [point(each) for each in range(60)], SPLITTING)

    assert [len(share.parts) for share in shares] == [1, 1, 1]


def test_request_ids_are_the_same_every_time():
    """A retry repeats the same commands under the same ids, so nothing is applied twice."""
    points = [point(each, text="x" * 500) for each in range(40)]
    first = upsert_shares(DOT, points, SPLITTING)
    ids = [request_id for share in first for request_id, _ in share.parts]

    assert upsert_shares(DOT, points, SPLITTING) == first
    assert len(set(ids)) == len(ids)
    assert ids[:2] == ["r/key:0:0", "r/key:0:1"]


def test_commands_found_by_a_filter_are_named_by_content():
    """A retry finds other ids; what differs must not pass for what was applied before."""
    by_filter = SPLITTING._replace(by_content=True)
    ids = [encode_id(each) for each in range(300)]
    first = delete_shares(7, ids, by_filter)
    later = delete_shares(7, ids[100:], by_filter)
    names = {request_id for share in first for request_id, _ in share.parts}

    assert delete_shares(7, ids, by_filter) == first
    assert not names & {request_id for share in later for request_id, _ in share.parts}


def test_of_a_repeated_id_the_last_counts():
    """A batch with an id twice does what two writes would."""
    (share,) = upsert_shares(DOT, [point(1, 1, 1, 1), point(1, 2, 2, 2)], SPLITTING)
    ((_, command),) = commands([share])

    assert [np.frombuffer(w.vector, "<f4").tolist() for w in command.body.points] == [[2, 2, 2]]


def test_commands_carry_what_apply_needs():
    """Uid, dimension, little-endian floats, JSON, and the clock of the node that proposes."""
    (found,) = commands(upsert_shares(DOT, [point(5, 1, 0.5, -2, colour="red")], SPLITTING))
    shard, command = found
    write = command.body.points[0]

    assert shard == shard_of(encode_id(5), 3)
    assert (command.request_id, command.now_ms) == (f"r/key:{shard}:0", 123)
    assert isinstance(command.body, Upsert)
    assert (command.body.collection, command.body.dimension) == (7, 3)
    assert np.frombuffer(write.vector, "<f4").tolist() == [1, 0.5, -2]
    assert orjson.loads(write.payload) == {"colour": "red"}


def test_cosine_vectors_have_length_one():
    """Scaled once before the log, so that every replica stores the same bytes."""
    found = commands(upsert_shares(COSINE, [point(1, 3, 0, 4), point(2, 1e-30, 0, 0)], SPLITTING))
    vectors = {
        write.id: np.frombuffer(write.vector, "<f4").tolist()
        for _, command in found
        for write in command.body.points
    }

    assert vectors[encode_id(1)] == pytest.approx([0.6, 0, 0.8])
    assert vectors[encode_id(2)] == [1, 0, 0]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_unit_vectors_have_length_one_whatever_their_scale(elements):
    """Neither the largest nor the smallest float32 overflows or vanishes on the way."""
    row = np.array([elements], np.float32)
    length = float(np.linalg.norm(unit_vectors(row).astype(np.float64)))

    assert np.isnan(length) if not row.any() else length == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("collection", "bad"),
    [
        (DOT, point(1, 1, 2)),
        (DOT, point(1, 1, 2, 3, 4)),
        (DOT, point(1, 1, float("nan"), 3)),
        (DOT, point(1, 1, float("inf"), 3)),
        (COSINE, point(1, 0, 0, 0)),
        (COSINE, point(1, 1, float("inf"), 3)),
    ],
)
def test_a_bad_vector_refuses_the_batch(collection, bad):
    """The first bad vector is named by its place."""
    with pytest.raises(BadRequest) as failure:
        upsert_shares(collection, [point(0), point(5), bad, bad], SPLITTING)

    assert failure.value.field == "points[2].vector"


@pytest.mark.parametrize("bad", [-1, 2**64, "no uuid", True])
def test_a_bad_id_refuses_the_batch(bad):
    """The first bad id is named by its place."""
    with pytest.raises(BadRequest) as failure:
        upsert_shares(DOT, [point(0), point(bad)], SPLITTING)

    assert failure.value.field == "points[1].id"
    with pytest.raises(BadRequest) as failure:
        canonical_ids([0, bad], "ids")

    assert failure.value.field == "ids[1]"


def test_a_point_larger_than_a_command_refuses_the_batch():
    """It could never be stored; the batch is refused before anything is proposed."""
    with pytest.raises(PayloadTooLarge) as failure:
        upsert_shares(DOT, [point(0), point(1, text="x" * 5000)], SPLITTING)

    assert failure.value.field == "points[1]"


@pytest.mark.parametrize("payload", [{"n": 2**70}, {"x": object()}, {"t": "\ud800"}])
def test_a_payload_that_is_not_json_refuses_the_batch(payload):
    """What cannot be written as JSON is the caller's mistake, named by its place."""
    with pytest.raises(BadRequest) as failure:
        upsert_shares(DOT, [point(0), point(1, **payload)], SPLITTING)

    assert failure.value.field == "points[1].payload"


def test_deletes_are_grouped_and_split():
    """Each id once, in its own shard, in commands below the limit."""
    ids = [encode_id(each) for each in [*range(500), *range(10)]]
    found = commands(delete_shares(7, ids, SPLITTING))
    deleted = [(shard, each) for shard, command in found for each in command.body.ids]

    assert all(isinstance(command.body, Delete) for _, command in found)
    assert sorted(deleted) == sorted((shard_of(each, 3), each) for each in ids[:500])
    assert len(found) > 3


def test_payload_changes_are_grouped_and_split():
    """Every command repeats the payload, and still fits into a log entry."""
    ids = [encode_id(each) for each in range(300)]
    change = PayloadChange("merge", {"text": "x" * 2000}, ["a", "b"])
    shares = payload_shares(7, ids, change, SPLITTING)
    found = commands(shares)
    sealed = [seal_command(name, 2**53, body) for share in shares for name, body in share.parts]

    assert sorted(each for _, command in found for each in command.body.ids) == sorted(ids)
    assert max(map(len, sealed)) <= SPLITTING.command_bytes_max
    assert all(isinstance(command.body, SetPayload) for _, command in found)
    assert {(c.body.mode, tuple(c.body.keys)) for _, c in found} == {("merge", ("a", "b"))}


def test_a_payload_larger_than_a_command_is_refused():
    """It could never be stored; it is refused before anything is proposed."""
    with pytest.raises(PayloadTooLarge) as failure:
        payload_shares(7, [encode_id(1)], PayloadChange("merge", {"t": "x" * 5000}, []), SPLITTING)

    assert failure.value.field == "payload"


def test_nothing_to_write_is_no_command():
    """An empty selection proposes nothing."""
    assert upsert_shares(DOT, [], SPLITTING) == []
    assert delete_shares(7, [], SPLITTING) == []


def test_a_sealed_command_is_an_encoded_command():
    """Sealing an encoded body gives the same bytes as encoding the whole command."""
    ((_, body),) = delete_shares(7, [encode_id(1)], SPLITTING)[0].parts
    whole = Command("name", 5, Delete(7, [encode_id(1)]))

    assert seal_command("name", 5, body) == msgspec.msgpack.encode(whole)
