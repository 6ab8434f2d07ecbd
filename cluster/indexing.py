"""Keeps the node's indexes in step with its shards. Runs on the apply thread.

The indexes, of vectors and of payloads, are caches of what SQLite holds: a committed batch's
changes go in before the write is answered, so a write is searchable when it is acknowledged. What
this node could not know at that time (a collection that its metadata replica had not heard of, a
shard that came as a snapshot, a start after a crash) is made equal by reconciliation against the
store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

import msgspec

from cluster.metadata import ClusterView, MetadataMachine
from cluster.replica import Replica
from cluster.shard import ShardMachine
from cluster.state_machine import Change
from storage.graph_rows import VECTORS
from storage.index_set import IndexSet
from storage.payload_index.columns import FetchedPayload
from storage.payload_index.fields import FieldIndex

Row = tuple[int, int, bytes, bytes]
"""(seq, version, id, vector)."""


class Changed(msgspec.Struct, array_like=True, frozen=True):
    """What an index was told of one shard; `shown` is the log index that it may now reflect."""

    uid: int
    shard: int
    shown: int
    rows: list[Row]
    gone: list[int]
    payloads: list[bytes | None]


class IndexShape(NamedTuple):
    """What an index is made for, in the order in which `IndexSet.open` takes it."""

    uid: int
    dimension: int
    distance: str
    m: int = 16
    ef_construct: int = 200


class Wanted(NamedTuple):
    """An index that is to be, and the indexes on its rows' payloads."""

    shape: IndexShape
    fields: tuple[FieldIndex, ...] = ()


def wanted(view: ClusterView) -> Iterator[Wanted]:
    """Yield the indexes of a cluster: one for each collection, two for a graph with vectors."""
    for each in view.collections.values():
        shape = IndexShape(
            each.uid, each.dimension, each.distance, each.hnsw_m, each.hnsw_ef_construct
        )
        yield Wanted(shape, each.payload_indexes)
    for graph in view.graphs.values():
        if graph.dimension:
            for above in VECTORS.values():
                yield Wanted(IndexShape(graph.uid + above, graph.dimension, graph.distance))


class Audience(Protocol):
    """Who has copies of the indexes: told of every change before it is acknowledged, in order."""

    def rows_changed(self, changed: Changed) -> None:
        """Rows of a shard have entered and left an index."""
        ...

    def reshaped(self) -> None:
        """Something else has changed: a copy of before is of no use any more."""
        ...


class Indexing:
    """Implements `cluster.raft.driver.Observer`. `machines` are the shards that this node holds.

    `load_graphs` begins to make a shard's graphs anew, elsewhere.
    """

    def __init__(
        self,
        indexes: IndexSet,
        machines: Mapping[int, ShardMachine],
        load_graphs: Callable[[ShardMachine], object] = lambda _: None,
    ) -> None:
        self._indexes = indexes
        self._machines = machines
        self._load_graphs = load_graphs
        self._open: set[int] = set()
        self.audience: Audience | None = None

    def applied(self, replica: Replica) -> None:
        """A batch was committed."""
        machine = replica.machine
        if isinstance(machine, MetadataMachine):
            self.follow(machine.view)
            self._reshaped()
        else:
            self._take(replica, machine.take_changes())

    def installed(self, replica: Replica) -> None:
        """The state became another replica's."""
        machine = replica.machine
        if isinstance(machine, MetadataMachine):
            self.follow(machine.view)
            self._reshaped()
            return
        machine.take_changes()
        for uid in sorted(self._open):
            self._reconcile(uid, replica.shard, machine)
        self._load_graphs(machine)
        self._reshaped()

    def _reshaped(self) -> None:
        """Whoever has copies shall know before this is acknowledged."""
        if self.audience is not None:
            self.audience.reshaped()

    def follow(self, view: ClusterView | None) -> None:
        """Open the indexes of collections that appeared, drop those of collections that went."""
        if view is None:
            return
        live = {each.shape.uid: each for each in wanted(view)}
        before = self._indexes.uids()
        for uid in [uid for uid in sorted(self._open) if uid not in live]:
            self._open.discard(uid)
            self._indexes.drop(uid)
        for uid, (shape, fields) in sorted(live.items()):
            index = self._indexes.open(*shape, hidden=uid not in self._open)
            if uid not in self._open:
                for shard, machine in sorted(self._machines.items()):
                    self._reconcile(uid, shard, machine)
                self._open.add(uid)
            self._indexes.show(uid)
            if index.payloads.fields != fields:
                index.payloads.set_fields(fields, partial(self._payloads, uid))
                self._reshaped()
        if self._indexes.uids() != before:
            self._reshaped()

    def shard_opened(self, shard: int) -> None:
        """A shard's state was opened: its rows may be newer than the saved indexes."""
        for uid in sorted(self._open):
            self._reconcile(uid, shard, self._machines[shard])
        self._reshaped()

    def _reconcile(self, uid: int, shard: int, machine: ShardMachine) -> None:
        def fetch(seqs: list[int]) -> list[Row]:
            rows = machine.rows_by_seq(uid, seqs, with_vector=True, with_payload=False)
            return [(row.seq, row.version, row.id, row.vector or b"") for row in rows]

        self._indexes.reconcile(uid, shard, machine.index_keys(uid), fetch)

    def _payloads(self, uid: int, shard: int, seqs: Sequence[int]) -> Iterator[FetchedPayload]:
        """Yield what a payload index reads of rows that came without; on the builder's thread."""
        machine = self._machines.get(shard)
        if machine is not None:
            rows = machine.rows_by_seq(uid, seqs, with_vector=False, with_payload=True)
            yield from ((row.seq, row.version, row.payload or b"{}") for row in rows)

    def _take(self, replica: Replica, changes: list[Change]) -> None:
        by_collection: dict[int, list[Change]] = {}
        for change in changes:
            by_collection.setdefault(change.collection, []).append(change)
        for uid, changed in by_collection.items():
            index = self._indexes.get(uid)
            if index is None or uid not in self._open:
                continue  # reconciled when the collection appears in the view
            gone = [change.seq for change in changed if change.vector is None]
            kept = [change[1:5] for change in changed if change.vector is not None]
            rows = cast(list[Row], kept)
            payloads: list[bytes | None] = []
            if index.payloads.has_fields:
                payloads = [change.payload for change in changed if change.vector is not None]
            index.defer(replica.shard, rows, gone, payloads)
            if self.audience is not None:
                shown = replica.shown_index
                told = Changed(uid, replica.shard, shown, rows, gone, payloads)
                self.audience.rows_changed(told)
