"""A shard's state machine: points of all collections, and graphs, changed by its log's commands.

Pure but for its file: time and ids come with the command, and nothing but the shard itself is
read. A command is validated before anything is touched, so it is applied whole or answered with
a typed error: `bad_command` for what no correct leader proposes, `collection_dropped` for
writes that were on their way when their collection went, `version_conflict` when a condition does
not hold, `node_missing` and `node_in_use` for changes that would leave an edge without a node.

A command whose request id was applied before, and is not forgotten (`storage.requests`), gets its
first result and changes nothing. A `version_conflict` is such a result, and so are refusals of
graph changes: a repeated request must not be carried out after it was told that it was not. Other
errors are not remembered. Replicas must be given the
same `request_id_ttl_ms`: it decides what is applied.

After `apply`, `take_changes` is what the vector index has to learn, last state per row. It says
nothing of dropped collections (their index goes as a whole), and is empty after `install` and
`load`: the index has to be reconciled with the rows then. `graphs` follows by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

from cluster.command import (
    Body,
    Command,
    Delete,
    DropCollection,
    DropGraph,
    Result,
    SetPayload,
    Transaction,
    Upsert,
    VersionFound,
    keep_result,
    kept_result,
    kept_version,
    name_and_digest,
    uids_of,
)
from cluster.command_checks import (
    BadCommand,
    check_vectors,
    conditions_of,
    decoded,
    distinct,
    payload_change,
    points_of,
)
from cluster.errors import GraphNotFound
from cluster.graph_memory import GraphMemory
from cluster.graph_rows import (
    Applied,
    GraphChange,
    GraphRefusal,
    chunks,
    graph_version,
    stored_edges,
    stored_nodes,
)
from cluster.state_machine import Change, Entry, FileMachine
from graph.errors import GraphError
from graph.model import GraphDelta
from graph.state import GraphState
from graph.validation import check_changes
from storage.changes import ChangeReads
from storage.graph_rows import GRAPH_UIDS, GraphWriter, add_elements_to, graphs_of
from storage.payloads import (
    PayloadOverflow,
)
from storage.record_reads import RecordReads
from storage.records import (
    RecordWriter,
    Stamp,
    Written,
    is_dropped,
    recomputed_hash,
)
from storage.requests import RequestMemory, recompute_request_hash
from storage.shard_schema import open_shard_state


class ShardMachine(FileMachine["_ShardBatch"], RecordReads, ChangeReads):
    """The records of one shard, in the state file `path`, or in memory without one.

    Raises CorruptState when the file cannot be used.
    """

    _changes: list[Change]

    def __init__(self, path: Path | None, *, request_id_ttl_ms: int) -> None:
        assert request_id_ttl_ms > 0, "request ids are remembered for some time"
        self._request_id_ttl_ms = request_id_ttl_ms
        self.graphs = GraphMemory(self._read_graph)
        """This shard's graphs as readers walk them."""
        super().__init__(open_shard_state(path), self._batch, self._committed, self.graphs.forget)

    def take_changes(self) -> list[Change]:
        """Return, once, what the last apply changed, in the order of its last changes."""
        changes, self._changes = self._changes, []
        return changes

    def recompute_hash(self) -> bytes:
        """Return the state hash computed from all content; reads everything."""
        with self._state.reader() as connection:
            total = recomputed_hash(connection)
            add_elements_to(total, connection)
            return total.digest()

    def graph_uids(self) -> list[int]:
        """Return the numbers of the graphs that were ever written here and not dropped."""
        with self._state.reader() as connection:
            return graphs_of(connection)

    def request_hash(self) -> bytes:
        """Return the 16-byte hash over the remembered requests."""
        with self._state.reader() as connection:
            return recompute_request_hash(connection)

    def remembered(self, request_id: str) -> Result | None:
        """Return what a request gave that was applied before and is still kept."""
        name, digest = name_and_digest(request_id)
        with self._state.reader() as connection:
            kept = RequestMemory.result_of(connection, name)
        return None if kept is None else kept_result(kept, digest, self.position()[0])

    def _batch(self, connection: sqlite3.Connection) -> _ShardBatch:
        self._changes = []
        return _ShardBatch(connection, self._request_id_ttl_ms)

    def _committed(self, batch: _ShardBatch) -> None:
        self._changes = list(batch.changes.values())
        self.graphs.take(batch.graph_deltas, batch.dropped_graphs, batch.born_graphs)

    def load_graphs(self) -> None:
        """Make all graphs in memory that are not; blocks, for seconds when they are large."""
        for uid in self.graph_uids():
            self.graphs.get(uid)

    def _read_graph(self, uid: int, pause: Callable[[], None]) -> GraphState:
        with self._state.reader() as connection:
            if is_dropped(connection, uid):
                raise GraphNotFound("the graph was dropped")
            version = graph_version(connection, uid)
            state = GraphState()
            for nodes in chunks(stored_nodes(connection, uid)):
                state = state.apply(GraphDelta(version, nodes))
                pause()
            for edges in chunks(stored_edges(connection, uid)):
                state = state.apply(GraphDelta(version, (), edges))
                pause()
            return state


_change = partial(tuple.__new__, Change)  # quicker than a call with six arguments


class _ShardBatch:
    """One transaction of entries; `changes` by seq."""

    def __init__(self, connection: sqlite3.Connection, request_id_ttl_ms: int) -> None:
        self._records = RecordWriter(connection)
        self._graphs = GraphWriter(connection, self._records)
        self.changes: dict[int, Change] = {}
        self.graph_deltas: dict[int, list[GraphDelta]] = {}
        self.dropped_graphs: list[int] = []
        self.born_graphs: list[int] = []
        self._requests = RequestMemory(connection, request_id_ttl_ms, kept_version)

    def execute(self, entry: Entry) -> Result:
        """Apply one command, whole or not at all."""
        try:
            return self._once(decoded(entry.command), entry.index)
        except BadCommand:
            return Result(version=entry.index, error="bad_command")
        except PayloadOverflow:
            return Result(version=entry.index, error="payload_too_large")

    def finish(self, index: int) -> None:
        """Write what is kept once per transaction, whose last entry is `index`."""
        self._records.finish()
        self._requests.finish(index)

    def state_hash(self) -> bytes:
        """Return the hash over all rows and tombstones."""
        return self._records.state_hash()

    def _once(self, command: Command, index: int) -> Result:
        now_ms = self._requests.now_ms(command.now_ms)
        name, digest = name_and_digest(command.request_id)
        kept = self._requests.recall(name, now_ms, index)
        if kept is not None:
            return kept_result(kept, digest, index)
        body = command.body
        if not isinstance(body, DropCollection | DropGraph) and self._any_dropped(body):
            return Result(version=index, error="collection_dropped")
        found = self._conflict(body)
        if found is None:
            try:
                result = Result(version=index, affected=self._change(body, Stamp(index, now_ms)))
            except GraphRefusal as refusal:
                result = Result(version=index, error=refusal.code, found=refusal.found)
        else:
            result = Result(version=index, error="version_conflict", found=found)
        self._requests.remember(name, keep_result(result, digest), now_ms)
        return result

    def _any_dropped(self, body: Body) -> bool:
        return any(self._records.is_dropped(uid) for uid in uids_of(body))

    def _conflict(self, body: Body) -> VersionFound | None:
        """Return the first record that does not fit its condition."""
        if isinstance(body, Transaction):
            found = (self._conflict(each) for each in body.points)
            return next((each for each in found if each is not None), None)
        conditions = conditions_of(body)
        if not conditions or isinstance(body, DropGraph):
            return None
        versions = self._records.versions(body.collection, list(conditions))
        for record_id, wanted in conditions.items():
            version = versions.get(record_id, 0)
            if version != wanted:
                return VersionFound(record_id, version)
        return None

    def _change(self, body: Body, stamp: Stamp) -> int:
        """Change the rows; return how many points, nodes and edges that was.

        Raises GraphRefusal or BadCommand, with nothing changed.
        """
        match body:
            case Upsert() | Delete():
                written = self._prepared(body, stamp)()
            case SetPayload():
                written = self._set_payload(body, stamp)
            case DropCollection():
                self._forget_changes(range(body.collection, body.collection + 1))
                self._records.note_drop(body.collection, stamp, body.name)
                return self._records.drop(body.collection)
            case Transaction():
                return self._transact(body, stamp)
            case DropGraph():
                return self._drop_graph(body.graph)
            case _:
                assert_never(body)
        self._note(body.collection, stamp.version, written)
        return len(written)

    def _prepared(self, body: Upsert | Delete, stamp: Stamp) -> Callable[[], list[Written]]:
        """Check a change of points, with nothing done; what is returned carries it out."""
        if isinstance(body, Upsert):
            return partial(self._records.upsert, body.collection, stamp, points_of(body))
        return partial(self._records.delete, body.collection, stamp, distinct(body.ids))

    def _set_payload(self, body: SetPayload, stamp: Stamp) -> list[Written]:
        change, ids = payload_change(body), distinct(body.ids)
        return self._records.set_payload(
            body.collection, stamp, ids, change, bytes_max=body.bytes_max
        )

    def _transact(self, body: Transaction, stamp: Stamp) -> int:
        prepared = [(each.collection, self._prepared(each, stamp)) for each in body.points]
        applied = self._change_graph(body, stamp)
        affected = 0
        for collection, carry_out in prepared:
            points = carry_out()
            self._note(collection, stamp.version, points)
            affected += len(points)
        if applied is not None and applied.affected:
            for collection, written in applied.vectors:
                self._note(collection, stamp.version, written)
            self.graph_deltas.setdefault(body.graph, []).append(applied.delta)
            if applied.first:
                self.born_graphs.append(body.graph)
            affected += applied.affected
        return affected

    def _change_graph(self, body: Transaction, stamp: Stamp) -> Applied | None:
        if not body.graph:
            return None
        try:
            check_changes(body.changes)
            check_vectors(body)
            change = GraphChange(self._graphs, self._records, body.graph, body.changes)
        except (GraphError, ValueError) as error:
            raise BadCommand(str(error)) from None
        return change.carry_out(change.check(body.if_version), stamp)

    def _drop_graph(self, uid: int) -> int:
        count = self._graphs.counts(uid)
        self._forget_changes(range(uid, uid + GRAPH_UIDS))
        self.graph_deltas.pop(uid, None)
        self.dropped_graphs.append(uid)
        self._graphs.drop(uid)
        return count.nodes + count.edges

    def _forget_changes(self, uids: range) -> None:
        kept = ((seq, each) for seq, each in self.changes.items() if each.collection not in uids)
        self.changes = dict(kept)

    def _note(self, uid: int, version: int, written: Sequence[Written]) -> None:
        changes = self.changes
        for seq, record_id, vector, payload in written:
            # Moved to the end: the order of the changes is that of their versions.
            changes.pop(seq, None)
            changes[seq] = _change((uid, seq, version, record_id, vector, payload))
