"""A cut through a shard: all that changed since its last checkpoint, as of one committed state.

It is read under one snapshot of SQLite, into files. While that snapshot is held the shard's log
cannot be cut, so it must not wait for Postgres: a slow one would in the end hold up writes. What
was written to files can be sent at leisure, and again after a failure.

A file of rows goes with one of what they replace: the identities that were written, deleted or
dropped. Whatever Postgres has as current of these is closed before the new rows come. A shard that
is in no checkpoint yet has nothing to close.

Blocking, for a thread.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from storage.checkpoint.copy_format import (
    NULL,
    bigint,
    bigints,
    double,
    integer,
    raw,
    row,
    text,
    texts,
)
from storage.checkpoint.errors import ReplicaBehind
from storage.checkpoint.model import Counts, ElementReader, Manifest, Task
from storage.checkpoint.spool import Spool
from storage.checkpoint.tables import COLUMNS, REPLACED, REPLACED_ELEMENTS, WHOLE_GRAPH
from storage.graph_rows import Kind, element_id, element_name, members_of
from storage.ids import EDGE_TAG, NODE_TAG, decode_id, shard_key_of
from storage.record_hash import DIGEST_BYTES
from storage.state_file import read_meta

Snapshot = AbstractContextManager[sqlite3.Connection]

_COLLECTIONS: Final = """
WITH RECURSIVE found (uid) AS (
  SELECT min({column}) FROM {table}
  UNION ALL
  SELECT (SELECT min({column}) FROM {table} WHERE {column} > uid) FROM found
  WHERE uid IS NOT NULL
)
SELECT uid FROM found WHERE uid IS NOT NULL
"""
_RECORDS: Final = """
SELECT collection, version, created_ms, updated_ms, records.seq, id, CAST(payload AS BLOB), vector
FROM records CROSS JOIN vectors ON vectors.seq = records.seq
"""
_ELEMENTS: Final = """
SELECT graph, id, version, created_ms, updated_ms, expired_ms, seq, content, members
FROM graph_elements
"""
_SIZES: Final = {
    "tombstones": "SELECT count(*) FROM tombstones",
    "nodes": "SELECT count(*) FROM graph_elements WHERE kind = 8",
    "hyperedges": "SELECT count(*) FROM graph_elements WHERE kind = 9",
}


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut that waits in its spool to be sent, and what it will be recorded as.

    `dropped` are all collections that were ever dropped: there are few, and nothing says when.
    """

    task: Task
    manifest: Manifest
    spool: Spool
    dropped: list[int]


def take_cut(task: Task, snapshot: Snapshot, reader: ElementReader, spool: Spool) -> Cut:
    """Read what changed in a shard since the task's base into the spool.

    Raises:
        ReplicaBehind: this replica has not applied what the last checkpoint has.
        NoRoom: the disk has no space for it.
    """
    with snapshot as connection:
        meta = read_meta(connection)
        if meta["applied_index"] < task.base_index:
            raise ReplicaBehind(
                f"shard {task.shard} stands at {meta['applied_index']} here, and at "
                f"{task.base_index} in its last checkpoint"
            )
        _Cutter(task, connection, reader, spool).write()
        dropped = connection.execute("SELECT collection FROM dropped ORDER BY collection")
        uids = [uid for (uid,) in dropped]
        return Cut(task, _manifest(task, connection, meta, spool), spool, uids)


class _Cutter:
    """Writes the files of one cut."""

    def __init__(
        self, task: Task, connection: sqlite3.Connection, reader: ElementReader, spool: Spool
    ) -> None:
        self._task, self._connection = task, connection
        self._reader, self._spool = reader, spool
        self._place = integer(task.cluster) + integer(task.shard) + bigint(task.checkpoint) + NULL

    def write(self) -> None:
        """Write them all."""
        spool = self._spool
        spool.write("records", self._records())
        spool.write("tombstones", self._tombstones())
        spool.write("nodes", self._nodes())
        spool.write("hyperedges", self._hyperedges())
        spool.write("graph_counts", self._graph_counts())
        if not self._task.is_first:
            spool.write(REPLACED, self._replaced())
            spool.write(REPLACED_ELEMENTS, self._replaced_elements())

    def _records(self) -> Iterator[bytes]:
        start = b"".join((struct.pack(">h", len(COLUMNS["records"])), self._place))
        for row_ in self._changed("records", "collection", _RECORDS, "records.seq"):
            collection, version, created, updated, seq, record_id, payload, vector = row_
            name, key = _shown(record_id)
            yield b"".join(
                (
                    start,
                    _FIVE.pack(8, collection, 8, version, 8, created, 8, updated, 8, seq),
                    raw(record_id),
                    text(name),
                    text(key),
                    raw(payload),
                    raw(vector),
                )
            )

    def _tombstones(self) -> Iterator[bytes]:
        query = "SELECT collection, version, id FROM tombstones WHERE version > ?"
        for collection, version, record_id in self._query(query):
            name, _ = _shown(record_id)
            yield self._row(bigint(collection), bigint(version), raw(record_id), text(name))

    def _nodes(self) -> Iterator[bytes]:
        for each in self._elements(Kind.NODE):
            graph, name, version, created, updated, expired, seq, content, _ = each
            assert expired is None, "nodes do not expire"
            facts = self._reader.node(content)
            yield self._row(
                *map(bigint, (graph, version, created, updated, seq)),
                text(name),
                texts(facts.labels),
                raw(facts.properties),
                raw(content),
            )

    def _hyperedges(self) -> Iterator[bytes]:
        for each in self._elements(Kind.EDGE):
            graph, name, version, created, updated, expired, seq, content, members = each
            facts = self._reader.edge(content)
            times = (expired, facts.valid_at_ms, facts.invalid_at_ms)
            yield self._row(
                *map(bigint, (graph, version, created, updated, seq, *times)),
                double(facts.confidence),
                text(name),
                text(facts.label),
                texts(facts.members),
                bigints(members_of(members)),
                raw(facts.properties),
                raw(content),
            )

    def _graph_counts(self) -> Iterator[bytes]:
        for each in self._query(
            "SELECT graph, version, nodes, edges FROM graphs WHERE version > ?"
        ):
            yield self._row(*map(bigint, each))

    def _replaced(self) -> Iterator[bytes]:
        query = "SELECT collection, id FROM records"
        for collection, record_id in self._changed("records", "collection", query, "seq"):
            yield row((bigint(collection), raw(record_id)))
        for collection, record_id in self._query(
            "SELECT collection, id FROM tombstones WHERE version > ?"
        ):
            yield row((bigint(collection), raw(record_id)))
        query = "SELECT graph, kind, id FROM graph_elements"
        for graph, kind, name in self._changed("graph_elements", "graph", query, "seq"):
            yield row((bigint(graph), raw(element_id(Kind(kind), name))))

    def _replaced_elements(self) -> Iterator[bytes]:
        query = "SELECT graph, kind, id FROM graph_elements"
        for graph, kind, name in self._changed("graph_elements", "graph", query, "seq"):
            yield row((bigint(graph), integer(kind), text(name)))
        for graph, raw_id in self._query("SELECT collection, id FROM tombstones WHERE version > ?"):
            if raw_id[0] in (NODE_TAG, EDGE_TAG):
                yield row((bigint(graph), integer(raw_id[0]), text(element_name(raw_id))))
        for (graph,) in self._query("SELECT graph FROM graphs WHERE version > ?"):
            yield row((bigint(graph), integer(WHOLE_GRAPH), text("")))

    def _elements(self, kind: Kind) -> Iterator[Any]:
        condition = f"kind = {int(kind)}"
        return self._changed("graph_elements", "graph", _ELEMENTS, "seq", condition)

    def _changed(
        self, table: str, column: str, query: str, order: str, condition: str = "TRUE"
    ) -> Iterator[Any]:
        """Yield the rows of a query on a table that are newer than the base.

        The first time that is all of them, in the order in which they lie; later they are found by
        an index on collection and version.
        """
        if self._task.is_first:
            yield from self._connection.execute(f"{query} WHERE {condition} ORDER BY {order}")
            return
        found = _COLLECTIONS.format(table=table, column=column)
        for (uid,) in self._connection.execute(found).fetchall():
            newer = f"{query} WHERE {column} = ? AND version > ? AND {condition}"
            yield from self._connection.execute(newer, (uid, self._task.base_index))

    def _query(self, query: str) -> Iterator[Any]:
        yield from self._connection.execute(query, (self._task.base_index,))

    def _row(self, *fields: bytes) -> bytes:
        return b"".join((struct.pack(">h", 4 + len(fields)), self._place, *fields))


_FIVE: Final = struct.Struct(">iqiqiqiqiq")


def _manifest(
    task: Task, connection: sqlite3.Connection, meta: dict[str, Any], spool: Spool
) -> Manifest:
    by_collection = "SELECT collection, count(*) FROM records GROUP BY collection"
    collections = dict(connection.execute(by_collection))
    sizes = {name: connection.execute(query).fetchone()[0] for name, query in _SIZES.items()}
    data = ("records", "tombstones", "nodes", "hyperedges")
    return Manifest(
        checkpoint=task.checkpoint,
        shard=task.shard,
        epoch=task.epoch,
        applied_index=meta["applied_index"],
        term=meta["applied_term"],
        state_hash=meta.get("record_hash", bytes(DIGEST_BYTES)),
        counts=Counts(records=sum(collections.values()), collections=collections, **sizes),
        rows_written=sum(spool.rows[name] for name in data),
        next_row=meta.get("next_seq", 1),
        clock_ms=meta.get("clock_ms", 0),
    )


def _shown(record_id: bytes) -> tuple[str, str | None]:
    """Return an identity as people read it: its id, and its shard key if it has one."""
    if record_id[0] in (NODE_TAG, EDGE_TAG):
        return element_name(record_id), None
    key = shard_key_of(record_id)
    return str(decode_id(record_id)), None if key is None else str(key)
