"""The metadata group's state machine: forming the cluster, collections, documents, views."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.command import Result
from cluster.metadata import (
    ClusterView,
    CreateCollection,
    CreateGraph,
    DropCollection,
    DropFieldIndex,
    DropGraph,
    Init,
    MetadataBody,
    MetadataMachine,
    PurgeCollection,
    PurgeGraph,
    PutDocument,
    PutFieldIndex,
    ShardsRestored,
    decode_metadata,
    decode_view,
    encode_metadata,
    encode_view,
)
from cluster.model import Collection, Graph
from cluster.origin import Origin, Restored, ShardOrigin
from cluster.state_machine import Entry, StateMachine
from storage import requests
from storage.payload_index.fields import FieldIndex
from storage.requests import YOUNG_ENTRIES

TTL_MS = 50
FORM = Init(
    cluster_id="c1",
    shards=2,
    replication=2,
    shard_map=[["a", "b"], ["b", "a"]],
    nodes=["a", "b"],
    collections=[CreateCollection("patterns", 256, "Cosine", embedding_space="space")],
)
BOOKS = CreateCollection("books", 4, "Dot")


def apply(machine: MetadataMachine, *bodies: MetadataBody | bytes) -> list[Result]:
    """Apply bodies as one batch of entries."""
    index, term = machine.position()
    raws = [each if isinstance(each, bytes) else encode_metadata(each) for each in bodies]
    entries = [Entry(index + 1 + each, max(term, 1), raw) for each, raw in enumerate(raws)]
    return machine.apply(entries)


def seen(machine: MetadataMachine) -> ClusterView:
    assert machine.view is not None
    return machine.view


@pytest.fixture(params=["file", "memory"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataMachine]:
    path = tmp_path / "state.db" if request.param == "file" else None
    with closing(MetadataMachine(path, request_id_ttl_ms=TTL_MS)) as opened:
        yield opened


def test_before_init_there_is_nothing(machine: MetadataMachine) -> None:
    """Without a cluster there is no view, and commands are not ready to be served."""
    protocol: StateMachine = machine
    assert protocol.position() == (1, 0)
    assert machine.view is None

    assert apply(machine, BOOKS)[0].error == "not_ready"
    assert machine.view is None


def test_init_forms_the_cluster(machine: MetadataMachine) -> None:
    """The view shows what the first init said, with its collections numbered from one."""
    assert apply(machine, b"", FORM) == [Result(2), Result(3, 1)]

    assert seen(machine) == ClusterView(
        cluster_id="c1",
        epoch=1,
        shards=2,
        replication=2,
        shard_map=[["a", "b"], ["b", "a"]],
        nodes=["a", "b"],
        collections={
            "patterns": Collection(
                uid=1, name="patterns", dimension=256, distance="Cosine", embedding_space="space"
            )
        },
        dropping=[],
        applied_index=3,
    )


def test_the_first_init_wins(machine: MetadataMachine) -> None:
    """A second init changes nothing and is no error."""
    second = msgspec.structs.replace(FORM, cluster_id="c2", collections=[BOOKS])
    assert apply(machine, FORM, second) == [Result(2, 1), Result(3, 0)]

    assert seen(machine).cluster_id == "c1"
    assert seen(machine).collections.keys() == {"patterns"}


def test_the_cluster_decides_how_long_requests_are_remembered(machine: MetadataMachine) -> None:
    """From its init on, whatever a node is set to, and however entries are cut into batches."""
    form = msgspec.structs.replace(FORM, request_id_ttl_ms=3 * TTL_MS, command_bytes_max=5)

    def named(body: MetadataBody, now_ms: int) -> bytes:
        return encode_metadata(body, request_id="once", now_ms=now_ms)

    apply(machine, form, named(BOOKS, 1000))
    late = DropCollection("books")
    apply(machine, *[b""] * YOUNG_ENTRIES)
    kept, forgotten = (1000 + 3 * TTL_MS - 1, 1000 + 3 * TTL_MS)
    assert apply(machine, named(late, kept)) == [Result(3, 1)]
    assert (seen(machine).request_id_ttl_ms, seen(machine).command_bytes_max) == (3 * TTL_MS, 5)

    assert apply(machine, named(late, forgotten)) == [Result(5 + YOUNG_ENTRIES, 1)]
    assert "books" not in seen(machine).collections


def test_creating_is_idempotent(machine: MetadataMachine) -> None:
    """Equal parameters give the same collection, other ones a conflict."""
    other = msgspec.structs.replace(BOOKS, dimension=5)
    keyed = msgspec.structs.replace(BOOKS, custom_sharding=True)
    results = apply(machine, FORM, BOOKS, BOOKS, other, keyed)

    assert results[1:3] == [Result(3, 1), Result(4, 0)]
    assert [each.error for each in results[3:]] == ["collection_exists"] * 2
    assert seen(machine).collections["books"] == Collection(
        uid=2, name="books", dimension=4, distance="Dot"
    )


def test_a_uid_is_never_reused(machine: MetadataMachine) -> None:
    """A dropped name is free at once; its next collection has another uid, also after purging."""
    assert [r.affected for r in apply(machine, FORM, BOOKS, DropCollection("books"))] == [1, 1, 1]
    assert "books" not in seen(machine).collections
    assert [(each.uid, each.state) for each in seen(machine).dropping] == [(2, "dropping")]

    results = apply(machine, BOOKS, PurgeCollection(2), PurgeCollection(2), PurgeCollection(3))
    assert [result.affected for result in results] == [1, 1, 0, 0]
    assert seen(machine).dropping == []
    assert seen(machine).collections["books"].uid == 3
    assert apply(machine, DropCollection("books"), BOOKS)[1].affected == 1
    assert seen(machine).collections["books"].uid == 4


def test_dropping_what_is_not_there(machine: MetadataMachine) -> None:
    """It affects nothing and is no error."""
    assert apply(machine, FORM, DropCollection("books"))[1] == Result(3, 0)


def test_documents(machine: MetadataMachine) -> None:
    """Other kinds of document are kept by name, read back, listed and deleted."""
    results = apply(
        machine,
        FORM,
        PutDocument("api_key", "b", b"2"),
        PutDocument("api_key", "a", b"0"),
        PutDocument("api_key", "a", b"1"),
        PutDocument("manifest", "a", b"3"),
    )
    assert [result.affected for result in results] == [1, 1, 1, 1, 1]
    assert machine.documents("api_key") == {"a": b"1", "b": b"2"}
    assert machine.document("manifest", "a") == b"3"
    gone = PutDocument("api_key", "a", None)
    assert [result.affected for result in apply(machine, gone, gone)] == [1, 0]
    assert machine.document("api_key", "a") is None


def test_a_repeated_request_gets_its_first_result(machine: MetadataMachine) -> None:
    """A retried command does not undo what came after its first application."""
    put = encode_metadata(PutDocument("alias", "x", b"old"), request_id="r", now_ms=10)
    apply(machine, FORM, put, PutDocument("alias", "x", b"new"))
    before = machine.state_hash(), machine.request_hash()

    assert apply(machine, put) == [Result(3, 1)]
    assert machine.document("alias", "x") == b"new"
    assert (machine.state_hash(), machine.request_hash()) == before
    late = encode_metadata(PutDocument("alias", "x", b"later"), request_id="r", now_ms=60)
    apply(machine, *[b""] * YOUNG_ENTRIES)
    assert apply(machine, late) == [Result(6 + YOUNG_ENTRIES, 1)]


BAD = {
    "no msgpack": b"\xc1",
    "unknown": msgspec.msgpack.encode(["", 0, ["explode"]]),
    "negative time": encode_metadata(BOOKS, now_ms=-1),
    "nul in request id": encode_metadata(BOOKS, request_id="\0"),
    "empty name": encode_metadata(msgspec.structs.replace(BOOKS, name="")),
    "dotted name": encode_metadata(msgspec.structs.replace(BOOKS, name=".x")),
    "path as name": encode_metadata(msgspec.structs.replace(BOOKS, name="a/b")),
    "long name": encode_metadata(msgspec.structs.replace(BOOKS, name="a" * 256)),
    "trailing newline": encode_metadata(msgspec.structs.replace(BOOKS, name="a\n")),
    "no dimension": encode_metadata(msgspec.structs.replace(BOOKS, dimension=0)),
    "no links": encode_metadata(msgspec.structs.replace(BOOKS, hnsw_m=0)),
    "own kind": encode_metadata(PutDocument("collection", "x", b"")),
    "bad kind": encode_metadata(PutDocument("", "x", b"")),
    "nul in name": encode_metadata(PutDocument("alias", "\0", b"")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_is_a_result(machine: MetadataMachine, name: str) -> None:
    """It changes nothing but the position."""
    apply(machine, FORM)
    before = machine.state_hash()

    assert apply(machine, BAD[name]) == [Result(3, error="bad_command")]
    assert machine.state_hash() == before == machine.recompute_hash()
    assert seen(machine).applied_index == 3


@pytest.mark.parametrize(
    "change",
    [
        {"cluster_id": ""},
        {"shards": 3},
        {"shards": 0, "shard_map": []},
        {"replication": 3},
        {"replication": 0},
        {"nodes": ["a", "b", "b"]},
        {"shard_map": [["a"], []]},
        {"shard_map": [["a", "a"], ["b"]]},
        {"shard_map": [["a", "c"], ["b"]]},
        {"collections": [BOOKS, BOOKS]},
        {"collections": [msgspec.structs.replace(BOOKS, name=".")]},
    ],
)
def test_a_bad_init_forms_nothing(machine: MetadataMachine, change: dict[str, object]) -> None:
    """An init that contradicts itself is a bad command."""
    assert apply(machine, msgspec.structs.replace(FORM, **change))[0].error == "bad_command"
    assert machine.view is None


def test_views_travel(machine: MetadataMachine) -> None:
    """A view is decoded as it was encoded; foreign bytes are refused."""
    apply(machine, FORM, BOOKS, DropCollection("books"))
    view = seen(machine)

    assert decode_view(encode_view(view)) == view
    with pytest.raises(ValueError, match="malformed"):
        decode_view(b"\xc1")


def test_a_published_view_does_not_change(machine: MetadataMachine) -> None:
    """A view that was taken stays what it was; the machine swaps in another."""
    apply(machine, FORM)
    view = seen(machine)
    raw = encode_view(view)
    apply(machine, BOOKS)

    assert encode_view(view) == raw
    assert seen(machine) != view


def test_a_restart_publishes_the_view_again(tmp_path: Path) -> None:
    """Reopened, the machine has its view, hash and documents."""
    with closing(MetadataMachine(tmp_path / "state.db", request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, FORM, BOOKS, PutDocument("alias", "x", b"y"))
        expected = machine.position(), machine.view, machine.state_hash()
    with closing(MetadataMachine(tmp_path / "state.db", request_id_ttl_ms=TTL_MS)) as machine:
        assert (machine.position(), machine.view, machine.state_hash()) == expected
        assert machine.document("alias", "x") == b"y"


def test_a_snapshot_takes_over(machine: MetadataMachine, tmp_path: Path) -> None:
    """After installing, the view and the hash are the snapshot's."""
    with closing(MetadataMachine(tmp_path / "origin" / "s", request_id_ttl_ms=TTL_MS)) as origin:
        apply(origin, FORM, BOOKS)
        expected = origin.view, origin.hashed_index()
        origin.export(tmp_path / "snapshot")
    machine.install(tmp_path / "snapshot")

    assert (machine.view, machine.hashed_index()) == expected


NAMES = st.sampled_from(["books", "films"])
BODIES = st.one_of(
    st.just(FORM),
    st.builds(CreateCollection, NAMES, st.integers(1, 2), st.just("Dot")),
    st.builds(DropCollection, NAMES),
    st.builds(PurgeCollection, st.integers(1, 4)),
    st.builds(
        PutFieldIndex,
        st.integers(1, 4),
        st.builds(FieldIndex, NAMES, st.sampled_from(["bool", "text"])),
    ),
    st.builds(DropFieldIndex, st.integers(1, 4), NAMES),
    st.builds(PutDocument, st.just("alias"), NAMES, st.none() | st.sampled_from([b"", b"1"])),
)
RAWS = st.one_of(
    st.just(b""),
    st.builds(
        lambda body, request_id, now_ms: encode_metadata(
            body, request_id=request_id, now_ms=now_ms
        ),
        BODIES,
        st.sampled_from(["", "", "q", "r"]),
        st.integers(0, 200),
    ),
)


@settings(deadline=None)
@given(st.lists(RAWS, max_size=15), st.integers(0, 15))
def test_batching_and_copying_change_nothing(raws: list[bytes], cut: int) -> None:
    """One batch, single entries, and an image half way lead to one state and one view."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "YOUNG_ENTRIES", 3)
        copies_agree(raws, cut)


def copies_agree(raws: list[bytes], cut: int) -> None:
    entries = [Entry(index, 1, raw) for index, raw in enumerate(raws, start=2)]
    machines = [MetadataMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(3)]
    whole, single, loaded = machines
    try:
        results = whole.apply(entries)
        stepped = []
        for entry in entries:
            if entry.index == 2 + cut:
                loaded.load(single.dump())
            stepped += single.apply([entry])
            assert single.state_hash() == single.recompute_hash()
        assert stepped == results
        loaded.apply([entry for entry in entries if entry.index > loaded.position()[0]])
        for machine in (single, loaded):
            assert machine.view == whole.view
            assert machine.state_hash() == whole.state_hash()
            assert machine.request_hash() == whole.request_hash()
            assert machine.documents("alias") == whole.documents("alias")
    finally:
        for machine in machines:
            machine.close()


def test_collections_of_before_there_were_keys() -> None:
    """What an earlier version wrote to the log or the state has no keys and no indexes."""
    command = msgspec.msgpack.encode(["", 1, ["create", "books", 4, "Dot", 16, 200, None]])
    stored = msgspec.msgpack.encode({"uid": 2, "name": "b", "dimension": 4, "distance": "Dot"})
    body = decode_metadata(command).body

    assert isinstance(body, CreateCollection)
    assert body.custom_sharding is False
    collection = msgspec.msgpack.decode(stored, type=Collection)
    assert collection.custom_sharding is False
    assert collection.payload_indexes == ()


def test_indexes_on_fields_are_part_of_a_collection(machine: MetadataMachine) -> None:
    """An index is defined once by its name, and goes with its collection or by itself."""
    year, text = FieldIndex("year", "integer"), FieldIndex("year", "text")
    results = apply(
        machine,
        FORM,
        BOOKS,
        PutFieldIndex(2, year),
        PutFieldIndex(2, year),
        PutFieldIndex(2, FieldIndex("by[].name", "keyword")),
        PutFieldIndex(2, text),
        BOOKS,
        DropFieldIndex(2, "by[].name"),
        DropFieldIndex(2, "by[].name"),
        PutFieldIndex(9, year),
    )

    assert [result.affected for result in results[2:9]] == [1, 0, 1, 1, 0, 1, 0]
    assert results[9].error == "collection_dropped"
    assert seen(machine).collections["books"].payload_indexes == (text,)
    apply(machine, DropCollection("books"))
    assert apply(machine, PutFieldIndex(2, year))[0].error == "collection_dropped"


def test_a_field_that_is_no_path_is_no_command() -> None:
    """What no correct leader proposes is not applied."""
    with pytest.raises(ValueError, match="key"):
        decode_metadata(encode_metadata(PutFieldIndex(2, FieldIndex("a..b", "bool"))))


def test_commands_come_back() -> None:
    """Every body survives the log."""
    field = FieldIndex("a[].b", "uuid")
    bodies = (
        FORM,
        BOOKS,
        DropCollection("x"),
        PurgeCollection(3),
        PutDocument("k", "n", None),
        PutFieldIndex(2, field),
        DropFieldIndex(2, "a[].b"),
    )
    for body in bodies:
        assert encode_metadata(decode_metadata(encode_metadata(body)).body) == encode_metadata(body)


GRAPH = CreateGraph("memory", 2, "Cosine", None, ("Event.type",))


def test_a_graph_takes_three_numbers(machine: MetadataMachine) -> None:
    """A graph's elements and the vectors of both kinds have numbers that are never used again."""
    apply(machine, FORM)
    first, again, other, dropped = apply(
        machine,
        GRAPH,
        GRAPH,
        msgspec.structs.replace(GRAPH, dimension=3),
        DropGraph("memory"),
    )
    apply(machine, GRAPH)
    view = seen(machine)
    (dropping,) = view.dropping_graphs

    assert [first.affected, again.affected, dropped.affected] == [1, 0, 1]
    assert other.error == "collection_exists"
    assert view.graphs["memory"].uid == dropping.uid + 3


def test_a_dropped_graph_is_purged_once(machine: MetadataMachine) -> None:
    """What is purged is in no view any more; a graph that lives cannot be."""
    apply(machine, FORM, GRAPH)
    uid = seen(machine).graphs["memory"].uid
    early, _, purged, late = apply(
        machine,
        PurgeGraph(uid),
        DropGraph("memory"),
        PurgeGraph(uid),
        PurgeGraph(uid),
    )

    assert [early.affected, purged.affected, late.affected] == [0, 1, 0]
    assert (seen(machine).graphs, seen(machine).dropping_graphs) == ({}, [])


SEA = Collection(uid=3, name="sea", dimension=4, distance="Dot", state="dropping")
RIVER = Collection(uid=4, name="river", dimension=4, distance="Dot")
WHY = Graph(uid=5, name="why")
ORIGIN = Origin(
    checkpoint=7,
    ancestors=("c0",),
    shards=(ShardOrigin(20, 3, bytes(16), 9, 1000), ShardOrigin(1, 0, bytes(16), 1, 0)),
)
RESTORED = Restored(origin=ORIGIN, epoch=5, next_uid=8, collections=[SEA, RIVER], graphs=[WHY])
FORM_RESTORED = msgspec.structs.replace(FORM, collections=(), restored=RESTORED)


def test_a_cluster_is_formed_from_a_checkpoint(machine: MetadataMachine) -> None:
    """It has what the old one had, under the old numbers, and gives none of them again."""
    assert apply(machine, FORM_RESTORED, FORM) == [Result(2, 1), Result(3, 0)]
    view = seen(machine)
    assert (view.cluster_id, view.epoch, view.shards) == ("c1", 5, 2)
    assert (view.collections, view.dropping, view.graphs) == ({"river": RIVER}, [SEA], {"why": WHY})
    assert view.origin == ORIGIN
    assert decode_view(encode_view(view)) == view
    assert machine.state_hash() == machine.recompute_hash()

    apply(machine, BOOKS)
    assert seen(machine).collections["books"].uid == 8


def test_nodes_settle_once(machine: MetadataMachine) -> None:
    """The view says who has its shards, and whether anybody lacks them; strangers do not count."""
    apply(machine, FORM_RESTORED)
    assert seen(machine).restoring
    bodies = [ShardsRestored(name) for name in ("b", "b", "stranger")]
    assert [each.affected for each in apply(machine, *bodies)] == [1, 0, 0]
    assert [seen(machine).awaits(name) for name in "ab"] == [True, False]
    apply(machine, ShardsRestored("a"))
    assert not seen(machine).restoring


def test_in_a_cluster_that_began_empty_nobody_settles(machine: MetadataMachine) -> None:
    """There is nothing to be restored."""
    apply(machine, FORM)
    assert apply(machine, ShardsRestored("a")) == [Result(3, 0)]
    assert (seen(machine).origin, seen(machine).restoring) == (None, False)


@pytest.mark.parametrize(
    "change",
    [
        {"origin": msgspec.structs.replace(ORIGIN, shards=ORIGIN.shards[:1])},
        {"origin": msgspec.structs.replace(ORIGIN, ancestors=())},
        {"origin": msgspec.structs.replace(ORIGIN, settled=("a",))},
        {"next_uid": 4},
        {"collections": [RIVER, RIVER]},
        {"graphs": [msgspec.structs.replace(WHY, uid=4)]},
    ],
)
def test_a_bad_restoration_forms_nothing(
    machine: MetadataMachine, change: dict[str, object]
) -> None:
    """What no correct leader proposes is a result, and there is no cluster."""
    restored = msgspec.structs.replace(RESTORED, **change)
    form = msgspec.structs.replace(FORM_RESTORED, restored=restored)
    assert apply(machine, form)[0].error == "bad_command"
    assert machine.view is None


def test_commands_and_views_of_before_there_were_restorations() -> None:
    """A log and a view that say nothing of an origin mean a cluster that began empty."""
    *_, body = msgspec.msgpack.decode(encode_metadata(FORM))
    old = msgspec.msgpack.encode(["", 0, body[:-1]])
    assert body[-1] is None
    assert decode_metadata(old).body == decode_metadata(encode_metadata(FORM)).body

    with closing(MetadataMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, old)
        view = msgspec.to_builtins(seen(machine))
    del view["origin"]
    assert decode_view(msgspec.msgpack.encode(view)).origin is None
