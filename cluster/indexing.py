"""Keeps the node's vector indexes in step with its shards. Runs on the apply thread.

The indexes are caches of what SQLite holds: a committed batch's changes go in before the write
is answered, so a write is searchable when it is acknowledged. What this node could not know at
that time (a collection that its metadata replica had not heard of, a shard that came as a
snapshot, a start after a crash) is made equal by reconciliation against the store.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.metadata import ClusterView, MetadataMachine
from cluster.replica import Replica
from cluster.shard import ShardMachine
from cluster.state_machine import Change
from storage.index_set import IndexSet

Row = tuple[int, int, bytes, bytes]
"""(seq, version, id, vector)."""


class Indexing:
    """Implements `cluster.raft.driver.Observer`. `machines` are the shards that this node holds."""

    def __init__(self, indexes: IndexSet, machines: Mapping[int, ShardMachine]) -> None:
        self._indexes = indexes
        self._machines = machines
        self._open: dict[int, str] = {}

    def applied(self, replica: Replica) -> None:
        """A batch was committed."""
        machine = replica.machine
        if isinstance(machine, MetadataMachine):
            self.follow(machine.view)
        else:
            self._take(replica.shard, machine.take_changes())

    def installed(self, replica: Replica) -> None:
        """The state became another replica's."""
        machine = replica.machine
        if isinstance(machine, MetadataMachine):
            self.follow(machine.view)
            return
        machine.take_changes()
        for uid in self._open:
            self._reconcile(uid, replica.shard, machine)

    def follow(self, view: ClusterView | None) -> None:
        """Open the indexes of collections that appeared, drop those of collections that went."""
        if view is None:
            return
        live = {collection.uid: collection for collection in view.collections.values()}
        for uid in [uid for uid in self._open if uid not in live]:
            del self._open[uid]
            self._indexes.drop(uid)
        for uid, collection in sorted(live.items()):
            if uid not in self._open:
                self._indexes.open(
                    uid,
                    collection.dimension,
                    collection.distance,
                    collection.hnsw_m,
                    collection.hnsw_ef_construct,
                    hidden=True,
                )
                for shard, machine in sorted(self._machines.items()):
                    self._reconcile(uid, shard, machine)
                self._open[uid] = collection.name
                self._indexes.show(uid)

    def shard_opened(self, shard: int) -> None:
        """A shard's state was opened: its rows may be newer than the saved indexes."""
        for uid in self._open:
            self._reconcile(uid, shard, self._machines[shard])

    def _reconcile(self, uid: int, shard: int, machine: ShardMachine) -> None:
        def fetch(seqs: list[int]) -> list[Row]:
            rows = machine.rows_by_seq(uid, seqs, with_vector=True, with_payload=False)
            return [(row.seq, row.version, row.id, row.vector or b"") for row in rows]

        self._indexes.reconcile(uid, shard, machine.index_keys(uid), fetch)

    def _take(self, shard: int, changes: list[Change]) -> None:
        by_collection: dict[int, list[Change]] = {}
        for change in changes:
            by_collection.setdefault(change.collection, []).append(change)
        for uid, changed in by_collection.items():
            index = self._indexes.get(uid)
            if index is None or uid not in self._open:
                continue  # reconciled when the collection appears in the view
            gone = [change.seq for change in changed if change.vector is None]
            rows = [
                (change.seq, change.version, change.id, change.vector)
                for change in changed
                if change.vector is not None
            ]
            index.defer(shard, rows, gone)
