"""What changed in a shard after a place in its history, from its state alone.

The log is compacted, but each row and each tombstone says which entry wrote it: its version. So
what came after version V is every row and tombstone with a higher one. What was written twice
since then is met once, as it stands now; nothing is missed, because a newer write moves a row
towards the end.

An entry may write many rows, and a look may end, or a reader stop, between two of them. The order
is therefore total: by version, then collection, then id, whatever was overwritten meanwhile. A
`Place` with an id stands behind that row; one without stands behind all that its entry wrote. A
number of rows would not do: it would mean other rows as soon as one of them is written again.

The vectors of graphs lie in collections of their own, which nobody asks for by name: left out.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from storage.graph_rows import GRAPH_UIDS, graphs_of
from storage.state_file import StateFile, read_meta

_CHANGED: Final = """
WITH RECURSIVE found (uid) AS (
  SELECT min(collection) FROM {table}
  UNION ALL
  SELECT (SELECT min(collection) FROM {table} WHERE collection > uid) FROM found
  WHERE uid IS NOT NULL
)
SELECT uid FROM found
WHERE uid IS NOT NULL AND (SELECT max(version) FROM {table} WHERE collection = uid) >= ?
"""
_ROWS: Final = """
SELECT version, collection, id, {seq} FROM {table}
WHERE collection = ? AND (version, id) > (?, ?) ORDER BY version, id
"""
_TABLES: Final = {"records": "seq", "tombstones": "NULL"}
_DROPS: Final = (
    "SELECT version, collection, x'', name FROM drops WHERE version > ? ORDER BY version"
)
_KEY_BYTES: Final = 48
"""What a change costs beside its id, its payload and its vector."""

_Key = tuple[int, int, bytes, Any]
"""version, collection, id, and the row's seq, or a dropped collection's name."""


class Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Behind all that the entry `index` wrote, or, with an id, behind that row of it."""

    index: int
    collection: int = 0
    id: bytes = b""

    def before(self, collection: int) -> tuple[int, bytes]:
        """Return the (version, id) behind which a collection's changes are still to be read."""
        if self.id and collection == self.collection:
            return self.index, self.id
        later = not self.id or collection < self.collection
        return self.index + later, b""


class StoredChange(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row as it was written; one that is `gone`; or, without an id, a collection's end."""

    version: int
    collection: int
    id: bytes
    gone: bool = False
    payload: bytes | None = None
    vector: bytes | None = None
    name: str = ""
    """What a collection that ended was called, if that is known."""


class Changes(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Changes in their order, and the place behind them: the next look goes on there."""

    found: list[StoredChange]
    place: Place


class Demand(NamedTuple):
    """Which changes are wanted, of all collections but those of `skip`, and how many at most.

    One change is given whatever its size.
    """

    skip: Sequence[int] = ()
    rows_max: int = 1000
    bytes_max: int = 1 << 20
    with_payload: bool = True
    with_vector: bool = False


class ChangeReads:
    """The changes in a state file that has the tables of records and of graphs."""

    _state: StateFile

    def changes(self, after: Place, demand: Demand) -> Changes:
        """Return what changed after a place, as one committed state has it. Blocks."""
        with self._state.reader() as connection:
            applied = int(read_meta(connection)["applied_index"])
            if applied < after.index:
                return Changes([], after)
            keys = _keys(connection, after, demand)
            found = _filled(connection, keys[: demand.rows_max], demand)
        if len(found) == len(keys):
            return Changes(found, Place(applied))
        return Changes(found, _place(keys[len(found) - 1], keys[len(found)]))


def _keys(connection: sqlite3.Connection, after: Place, demand: Demand) -> list[_Key]:
    """Return the first keys behind a place, one more than are wanted when there are so many."""
    hidden = dict.fromkeys(demand.skip)
    for graph in graphs_of(connection):
        hidden.update(dict.fromkeys(range(graph, graph + GRAPH_UIDS)))
    first = after.index if after.id else after.index + 1
    with ExitStack() as opened:
        ordered: list[Iterator[_Key]] = []
        for table, seq in _TABLES.items():
            rows = _ROWS.format(table=table, seq=seq)
            for (uid,) in connection.execute(_CHANGED.format(table=table), (first,)).fetchall():
                if uid not in hidden:
                    cursor = connection.execute(rows, (uid, *after.before(uid)))
                    ordered.append(opened.enter_context(closing(cursor)))
        ordered.append(opened.enter_context(closing(connection.execute(_DROPS, (after.index,)))))
        merged = heapq.merge(*ordered, key=lambda key: key[:3])
        return list(islice(merged, demand.rows_max + 1))


def _filled(
    connection: sqlite3.Connection, keys: Sequence[_Key], demand: Demand
) -> list[StoredChange]:
    """Return the changes of as many keys as fit."""
    query = _content(demand)
    found: list[StoredChange] = []
    size = 0
    for version, collection, canonical, seq in keys:
        if not canonical:
            change = StoredChange(version, collection, b"", gone=True, name=seq)
        elif seq is None:
            change = StoredChange(version, collection, canonical, gone=True)
        else:
            payload, vector = (
                connection.execute(query, (seq,)).fetchone() if query else (None, None)
            )
            change = StoredChange(version, collection, canonical, payload=payload, vector=vector)
        size += _KEY_BYTES + sum(
            len(each or b"") for each in (change.id, change.payload, change.vector)
        )
        if found and size > demand.bytes_max:
            break
        found.append(change)
    return found


def _content(demand: Demand) -> str:
    """Return the query for a row's content; "" when only keys are wanted."""
    payload = "CAST(payload AS BLOB)" if demand.with_payload else "NULL"
    if demand.with_vector:
        joined = "JOIN vectors ON vectors.seq = records.seq"
        return f"SELECT {payload}, vector FROM records {joined} WHERE records.seq = ?"  # noqa: S608
    return f"SELECT {payload}, NULL FROM records WHERE seq = ?" if demand.with_payload else ""  # noqa: S608


def _place(last: _Key, following: _Key) -> Place:
    """Return the place behind `last`: inside an entry when the next is of the same one."""
    version, collection, canonical, _ = last
    return Place(version, collection, canonical) if following[0] == version else Place(version)
