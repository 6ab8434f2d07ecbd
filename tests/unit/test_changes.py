"""What changed in a shard since a place, against a dict: any writes, looks and interruptions."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.change_position import Position
from cluster.command import (
    Command,
    Delete,
    DropCollection,
    SetPayload,
    Transaction,
    encode_command,
)
from cluster.shard import ShardMachine
from graph.model import GraphChanges, NodeWrite
from storage.changes import Changes, Demand, Place, StoredChange
from storage.ids import encode_id, key_bytes, keyed_id
from tests.shard_commands import DIMENSION, TTL_MS, Body, apply, command, point, upsert, vector

COLLECTIONS = (1, 2, 3)
numbers = st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True)
writes = st.one_of(
    st.builds(
        lambda uid, ids: upsert(*(point(each) for each in ids), collection=uid),
        st.sampled_from(COLLECTIONS),
        numbers,
    ),
    st.builds(
        lambda uid, ids: Delete(uid, [encode_id(each) for each in ids]),
        st.sampled_from(COLLECTIONS),
        numbers,
    ),
    st.builds(
        lambda uid, ids: SetPayload(uid, [encode_id(each) for each in ids], "merge", b'{"a":1}'),
        st.sampled_from(COLLECTIONS),
        numbers,
    ),
    st.builds(lambda: DropCollection(3, "third")),
)
looks = st.integers(1, 4)
steps = st.lists(st.one_of(writes, looks), max_size=25)


@dataclasses.dataclass
class Consumer:
    """One who knows only what a look told, and how far it came."""

    place: Place = dataclasses.field(default_factory=lambda: Place(0))
    state: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict)
    seen: list[tuple[int, int, bytes]] = dataclasses.field(default_factory=list)

    def take(self, changes: Changes) -> None:
        for change in changes.found:
            self.seen.append((change.version, change.collection, change.id))
            if not change.id:
                gone = [key for key in self.state if key[0] == change.collection]
                for key in gone:
                    del self.state[key]
            elif change.gone:
                self.state.pop((change.collection, change.id), None)
            else:
                self.state[change.collection, change.id] = change.version
        self.place = changes.place

    def look(self, machine: ShardMachine, rows_max: int) -> bool:
        before = self.place
        self.take(machine.changes(before, Demand(rows_max=rows_max)))
        return self.place != before


def versions(machine: ShardMachine) -> dict[tuple[int, bytes], int]:
    return {
        (uid, row.id): row.version
        for uid in machine.collections()
        for row in machine.scroll(uid, limit=1000)
    }


def new_machine() -> ShardMachine:
    return ShardMachine(None, request_id_ttl_ms=TTL_MS)


@settings(max_examples=150)
@given(steps)
def test_any_looks_give_each_change_once_in_order(steps: list[Body | int]):
    """However writes and looks alternate, a consumer ends with the state, and met nothing twice."""
    with closing(new_machine()) as machine:
        consumer = Consumer()
        for step in steps:
            if isinstance(step, int):
                consumer.look(machine, step)
            else:
                apply(machine, command(step))
        while consumer.look(machine, 2):
            pass

        assert consumer.state == versions(machine)
        assert consumer.seen == sorted(set(consumer.seen))
        assert consumer.place == Place(machine.position()[0])


@settings(max_examples=75)
@given(st.lists(writes, max_size=12), st.data())
def test_a_consumer_can_stop_behind_any_change(bodies: list[Body], data: st.DataObject):
    """Going on behind any change of a look gives just the rest of it, whatever the look's size."""
    with closing(new_machine()) as machine:
        apply(machine, *map(command, bodies))
        whole = machine.changes(Place(0), Demand()).found
        if not whole:
            return
        number = data.draw(st.integers(1, len(whole)))
        part = machine.changes(Place(0), Demand(rows_max=number))
        last = part.found[-1]
        inside = Place(last.version, last.collection, last.id) if last.id else part.place
        rest = [machine.changes(place, Demand()).found for place in (part.place, inside)]

        assert part.found == whole[:number]
        assert rest == [whole[number:], whole[number:]]


def test_a_row_that_is_written_again_is_met_again():
    """Within an entry that was half read, other rows stay to be read when one is overwritten."""
    with closing(new_machine()) as machine:
        apply(machine, command(upsert(point(1), point(2), point(3))))
        first = machine.changes(Place(0), Demand(rows_max=2))
        apply(machine, command(upsert(point(1))))
        second = machine.changes(first.place, Demand())

        assert [(each.version, each.id) for each in first.found] == [
            (2, encode_id(1)),
            (2, encode_id(2)),
        ]
        assert first.place == Place(2, 1, encode_id(2))
        assert [(each.version, each.id) for each in second.found] == [
            (2, encode_id(3)),
            (3, encode_id(1)),
        ]


def test_content_comes_as_it_is_asked_for():
    """Payload and vector are told when they are wanted, and a deleted row has neither."""
    with closing(new_machine()) as machine:
        apply(machine, command(upsert(point(1, b'{"a":1}', 2.0), point(2))))
        apply(machine, command(Delete(1, [encode_id(2)])))
        both = machine.changes(Place(0), Demand(with_vector=True)).found
        keys = machine.changes(Place(0), Demand(with_payload=False)).found

        expected = StoredChange(2, 1, encode_id(1), False, b'{"a":1}', vector(2.0, 0.5))
        assert both == [expected, StoredChange(3, 1, encode_id(2), True)]
        assert [(each.payload, each.vector) for each in keys] == [(None, None)] * 2


def test_collections_are_skipped_and_their_end_is_told():
    """What is not wanted is left out; the end of a collection is told with its name."""
    with closing(new_machine()) as machine:
        apply(
            machine,
            command(upsert(point(1), collection=1)),
            command(upsert(point(2), collection=2)),
        )
        apply(machine, command(DropCollection(2, "second")), command(DropCollection(2, "second")))
        found = machine.changes(Place(0), Demand(skip=[1])).found

        assert found == [StoredChange(4, 2, b"", True, name="second")]


def test_an_answer_has_a_size():
    """A look ends before it grows too large, but not before its first change."""
    with closing(new_machine()) as machine:
        large = b'{"a":"' + b"x" * 1000 + b'"}'
        apply(machine, *(command(upsert(point(each, large))) for each in range(5)))
        sizes = []
        place = Place(0)
        for bytes_max in (1, 2500, 10_000):
            found, place = _parts(machine.changes(place, Demand(bytes_max=bytes_max)))
            sizes.append(len(found))

        assert sizes == [1, 2, 2]
        assert place == Place(6)


def _parts(changes: Changes) -> tuple[list[StoredChange], Place]:
    return changes.found, changes.place


def test_a_state_from_before_changes_is_given_what_they_take(tmp_path: Path):
    """A shard's file that an earlier version wrote tells its changes when it is opened."""
    path = tmp_path / "state.db"
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, command(upsert(point(1), point(2))), command(Delete(1, [encode_id(1)])))
        with machine._state.transaction() as connection:
            connection.execute("DROP TABLE drops")
            connection.execute("DROP INDEX tombstones_by_version")
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, command(DropCollection(9, "ninth")))
        found = machine.changes(Place(0), Demand()).found

        assert [(each.version, each.id, each.gone) for each in found] == [
            (2, encode_id(2), False),
            (3, encode_id(1), True),
            (4, b"", True),
        ]


def test_vectors_of_graphs_are_no_points():
    """What a transaction writes to a graph is no change of a collection; its points are."""
    with closing(new_machine()) as machine:
        changes = GraphChanges([NodeWrite("a", vector=vector(1.0, 2.0))])
        body = Transaction([upsert(point(1))], 10, changes, DIMENSION)
        results = apply(machine, encode_command(Command("", 1000, body)))
        found = machine.changes(Place(0), Demand()).found

        assert [each.error for each in results] == [None]
        assert machine.count(11) == 1
        assert [(each.collection, each.id) for each in found] == [(1, encode_id(1))]


def test_what_left_a_graph_is_no_point():
    """A node that was deleted leaves a tombstone, which no consumer of collections sees."""
    with closing(new_machine()) as machine:
        made = GraphChanges([NodeWrite("a", vector=vector(1.0, 2.0))])
        gone = GraphChanges(delete_nodes=["a"])
        for changes in (made, gone):
            body = Transaction([], 10, changes, DIMENSION)
            (result,) = apply(machine, encode_command(Command("", 1000, body)))
            assert result.error is None

        assert machine.changes(Place(0), Demand()).found == []


def test_a_replica_behind_a_place_tells_nothing():
    """A replica that has not applied what a place has seen leaves the place as it is."""
    with closing(new_machine()) as machine:
        apply(machine, command(upsert(point(1))))

        assert machine.changes(Place(9), Demand()) == Changes([], Place(9))


places = st.one_of(
    st.builds(Place, st.integers(0, 2**63 - 1)),
    st.builds(
        Place,
        st.integers(0, 2**63 - 1),
        st.integers(1, 2**63 - 1),
        st.one_of(
            st.integers(0, 2**64 - 1).map(encode_id),
            st.uuids().map(lambda each: encode_id(str(each))),
            st.text("aé~. ", min_size=1, max_size=255).map(
                lambda key: keyed_id(encode_id(7), key_bytes(key))
            ),
        ),
    ),
)


@settings(max_examples=100)
@given(st.lists(places, min_size=1, max_size=5))
def test_positions_come_back(found: list[Place]):
    """A position is the same after it was text, and is nothing that an event's line cannot hold."""
    text = Position(found).text

    assert Position.parse(text, len(found)).places == found
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.",
        "1.2",
        "a.1",
        "a.1.2.3",
        "a.1.-2",
        "a.1.2_0",
        "a.1.ffffffffffffffff",
        "b.1.2",
        "a.1.2~1~AQ",
        "a.1.2~1~!!",
        "a.1.2~1",
        "a.1.2~~",
        "a.1.\N{FULLWIDTH DIGIT TWO}",
    ],
)
def test_other_texts_are_no_positions(text: str):
    """What no event told is refused."""
    with pytest.raises(ValueError, match="a position"):
        Position.parse(text, 2)
