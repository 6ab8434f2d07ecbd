"""Whoever has copies of the indexes hears of each change when the index has it, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from cluster.command import Delete
from cluster.indexing import Changed, Indexing
from cluster.metadata import ClusterView
from cluster.model import Collection
from cluster.shard import ShardMachine
from cluster.workers.change_ring import ChangeRing
from cluster.workers.copied import SAMPLE_BYTES_MAX, CopiedIndexes
from cluster.workers.shared_state import SharedState
from storage.filter_parse import parse_filter
from storage.ids import encode_id
from storage.index_set import IndexSet
from storage.payload_index.fields import FieldIndex
from storage.vector_index import VectorIndex
from tests.shard_commands import TTL_MS, apply, command, point, upsert

SEA = Collection(uid=1, name="sea", dimension=2, distance="Cosine")
WHERE = parse_filter({"must": [{"key": "n", "match": {"value": 1}}]})


@dataclass
class Replica:
    """What Indexing needs of a replica."""

    machine: ShardMachine
    shard: int = 0
    shown_index: int = 0


class Listener:
    """Notes what the indexes have when it is told of a change."""

    def __init__(self, indexes: IndexSet) -> None:
        self._indexes = indexes
        self.told: list[Changed] = []
        self.sizes: list[int] = []
        self.reshapes: list[list[int]] = []

    def rows_changed(self, changed: Changed) -> None:
        index = self._indexes.get(changed.uid)
        assert index is not None
        self.told.append(changed)
        self.sizes.append(index.size)

    def reshaped(self) -> None:
        self.reshapes.append(self._indexes.uids())


def view(*collections: Collection) -> ClusterView:
    return ClusterView(
        cluster_id="c",
        epoch=1,
        shards=1,
        replication=1,
        shard_map=[["node1"]],
        nodes=["node1"],
        collections={each.name: each for each in collections},
        dropping=[],
        applied_index=1,
    )


class Kept:
    """Indexes of one shard, and who listens."""

    def __init__(self, machine: ShardMachine) -> None:
        self.machine, self.replica = machine, Replica(machine)
        self.indexes = IndexSet(None)
        self.indexing = Indexing(self.indexes, {0: machine})
        self.listener = Listener(self.indexes)
        self.indexing.audience = self.listener

    def write(self, *bodies: Any) -> None:
        apply(self.machine, *map(command, bodies))
        self.replica.shown_index = self.machine.position()[0]
        self.indexing.applied(cast("Any", self.replica))

    @property
    def index(self) -> VectorIndex:
        index = self.indexes.get(SEA.uid)
        assert index is not None
        return index


@pytest.fixture
def kept() -> Iterator[Kept]:
    with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
        yield Kept(machine)


def test_rows_are_told_of_when_the_index_has_them(kept):
    """With all that a copy needs to be the same, and up to which log index it then is."""
    kept.indexing.follow(view(SEA))
    kept.write(upsert(point(1), point(2, element=2.0)))
    kept.write(Delete(SEA.uid, [encode_id(1)]))

    first, second = kept.listener.told
    assert kept.listener.sizes == [2, 1]
    assert (first.uid, first.shard, first.shown) == (SEA.uid, 0, 2)
    assert [row[2] for row in first.rows] == [encode_id(1), encode_id(2)]
    assert (second.rows, second.gone, second.shown) == ([], [first.rows[0][0]], 3)
    assert first.payloads == [], "no field is indexed"


def test_what_is_no_row_is_told_of_when_it_is_done(kept):
    """Collections that come and go, fields, and states that come as snapshots."""
    kept.indexing.follow(view(SEA))
    assert kept.listener.reshapes[-1] == [SEA.uid]
    before = len(kept.listener.reshapes)
    kept.indexing.follow(view(SEA))
    assert len(kept.listener.reshapes) == before, "nothing has changed"

    indexed = msgspec.structs.replace(SEA, payload_indexes=(FieldIndex("n", "integer"),))
    kept.indexing.follow(view(indexed))
    assert len(kept.listener.reshapes) == before + 1
    assert kept.index.payloads.has_fields
    kept.indexing.shard_opened(0)
    kept.indexing.installed(cast("Any", kept.replica))
    assert len(kept.listener.reshapes) == before + 3
    kept.indexing.follow(view())
    assert kept.listener.reshapes[-1] == []


def copy_of(kept: Kept) -> tuple[CopiedIndexes, VectorIndex, ChangeRing, list[tuple[int, int]]]:
    """Return an index that is told the same, as a copy, with its ring and what it was shown."""
    other, ring = IndexSet(None), ChangeRing(SharedState())
    index = other.open(SEA.uid, SEA.dimension, SEA.distance, 16, 200)
    index.payloads.set_fields((FieldIndex("n", "integer"),), lambda *_: ())
    ring.admit(0)
    shown: list[tuple[int, int]] = []
    index.become_copy()
    copied = CopiedIndexes({SEA.uid: index}, ring, 0, lambda *each: shown.append(each))
    return copied, index, ring, shown


def test_a_copy_that_is_told_the_same_answers_the_same(kept):
    """Rows that came, changed and went, and what filters ask of their payloads."""
    indexed = msgspec.structs.replace(SEA, payload_indexes=(FieldIndex("n", "integer"),))
    kept.indexing.follow(view(indexed))
    copied, index, ring, shown = copy_of(kept)
    query = np.array([1.0, 0.5], "<f4")
    for number in range(30):
        kept.write(upsert(point(number, b'{"n":%d}' % (number % 3), float(number))))
        if number % 4 == 1:
            kept.write(Delete(SEA.uid, [encode_id(number - 1)]))
        if number % 5 == 1:
            kept.write(upsert(point(number - 1, b'{"n":1}', -1.0)))
        for changed in kept.listener.told:
            assert ring.append(msgspec.msgpack.encode(changed))
        kept.listener.told.clear()
        copied.catch_up()
        rows = [each.payloads.restriction(WHERE, None) for each in (kept.index, index)]

        assert index.search(query, 50) == kept.index.search(query, 50)
        assert index.search_within(query, 50, rows[1]) == kept.index.search_within(
            query, 50, rows[0]
        )
        assert shown[-1] == (0, kept.replica.shown_index)


def test_what_a_copy_has_learned_fits_into_a_report(kept):
    """Whatever came together since the last one; what is more is not missed."""
    copied, index, _, _ = copy_of(kept)
    index._state.beam._samples = [np.zeros(4096, np.float32)] * 256
    index.flood.searched = True
    notes = copied.notes()

    assert 0 < sum(len(vector) for _, vector in notes["samples"]) <= SAMPLE_BYTES_MAX
    assert notes["searched"] == [SEA.uid]
    assert not any(copied.notes().values())
