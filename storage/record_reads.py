"""What can be read of a shard. Every call sees one committed state, on any thread, and blocks.

A filter comes as an SQL condition (`storage.filter_sql` makes them). Ids are canonical bytes, so
their order is scroll order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from storage.records import is_dropped, select_in
from storage.state_file import StateFile

Integers = np.ndarray[tuple[int], np.dtype[np.int64]]

_BATCH_ROWS: Final = 1000
_COLLECTIONS: Final = """
WITH RECURSIVE found (uid) AS (
  SELECT min(collection) FROM records
  UNION ALL
  SELECT (SELECT min(collection) FROM records WHERE collection > uid) FROM found
  WHERE uid IS NOT NULL
)
SELECT uid FROM found WHERE uid IS NOT NULL
"""
_INDEX_ROWS: Final = """
SELECT records.seq, version, id, vector
FROM records CROSS JOIN vectors ON vectors.seq = records.seq
WHERE collection = ? AND (version, records.seq) > (?, ?)
ORDER BY version, records.seq LIMIT ?
"""
_AMONG: Final = " AND records.seq IN (SELECT value FROM json_each(?))"
"""Row numbers as one parameter. With it goes a `+` before `collection`, which keeps SQLite from
walking the collection's index: it is to go to each row."""


class Condition(Protocol):
    """An SQL condition over the columns `id` and `payload`, and the parameters it asks for."""

    @property
    def where(self) -> str:
        """The condition's text, with nothing of a user's in it."""
        ...

    @property
    def parameters(self) -> Sequence[Any]:
        """A value for each `?`, in order."""
        ...


class Row(NamedTuple):
    """A stored record; `vector` and `payload` (JSON) are None when not asked for."""

    id: bytes
    seq: int
    version: int
    vector: bytes | None
    payload: bytes | None
    created_ms: int
    updated_ms: int


class IndexRow(NamedTuple):
    """What an index needs of a record."""

    seq: int
    version: int
    id: bytes
    vector: bytes


class RecordReads:
    """The reads over a state file that has the records' tables."""

    _state: StateFile

    def retrieve(
        self, collection: int, ids: Sequence[bytes], *, with_vector: bool, with_payload: bool
    ) -> list[Row]:
        """Return the records of those ids that exist, in the order asked, each once."""
        query = _select(with_vector, with_payload) + " AND id IN ({places})"
        wanted = list(dict.fromkeys(ids))
        with self._state.reader() as connection:
            found = {row[0]: Row(*row) for row in select_in(connection, query, collection, wanted)}
        return [found[each] for each in wanted if each in found]

    def rows_by_seq(
        self, collection: int, seqs: Sequence[int], *, with_vector: bool, with_payload: bool
    ) -> list[Row]:
        """Return the records of those seqs that exist, in the order asked, each once."""
        query = _select(with_vector, with_payload) + " AND records.seq IN ({places})"
        wanted = list(dict.fromkeys(map(int, seqs)))
        with self._state.reader() as connection:
            found = {row[1]: Row(*row) for row in select_in(connection, query, collection, wanted)}
        return [found[each] for each in wanted if each in found]

    def scroll(  # noqa: PLR0913 - one page is asked for in these terms
        self,
        collection: int,
        *,
        after: bytes | None = None,
        inclusive_from: bytes | None = None,
        limit: int,
        where: Condition | None = None,
        among: Integers | None = None,
        with_vector: bool = False,
        with_payload: bool = False,
    ) -> list[Row]:
        """Return up to `limit` records in the order of their ids, from a lower bound on.

        `among`: the only seqs that count.
        """
        select = _select(with_vector, with_payload)
        query, parameters = _filtered(select, collection, where, among)
        for comparison, bound in ((">", after), (">=", inclusive_from)):
            if bound is not None:
                query += f" AND id {comparison} ?"
                parameters.append(bound)
        rows = self._query(f"{query} ORDER BY id LIMIT ?", [*parameters, limit])
        return [Row(*row) for row in rows]

    def count(
        self, collection: int, where: Condition | None = None, *, among: Integers | None = None
    ) -> int:
        """Return how many records there are, or match; `among`: the only seqs that count."""
        query = "SELECT count(*) FROM records WHERE collection = ?"
        ((count,),) = self._query(*_filtered(query, collection, where, among))
        return int(count)

    def matching(
        self,
        collection: int,
        where: Condition,
        limit: int | None = None,
        *,
        among: Integers | None = None,
    ) -> Integers:
        """Return the seqs of matching records, int64[n], at most `limit`.

        `among`: the only seqs that count.
        """
        query = "SELECT seq FROM records WHERE collection = ?"
        rows = self._limited(*_filtered(query, collection, where, among), limit)
        return np.fromiter((seq for (seq,) in rows), np.int64, len(rows))

    def matching_ids(
        self, collection: int, where: Condition, limit: int | None = None
    ) -> list[bytes]:
        """Return the ids of matching records, ascending, at most `limit`."""
        query = "SELECT id FROM records WHERE collection = ?"
        query, parameters = _filtered(query, collection, where)
        return [each for (each,) in self._limited(f"{query} ORDER BY id", parameters, limit)]

    def index_rows(self, collection: int) -> Iterator[IndexRow]:
        """Yield what an index is rebuilt from, by ascending version.

        Each batch is a state of its own: a record that is written meanwhile is met again with
        its new version, one that is deleted after it was met has to be learned from the changes.
        """
        version, seq = -1, -1
        while True:
            rows = self._query(_INDEX_ROWS, [collection, version, seq, _BATCH_ROWS])
            yield from (IndexRow(*row) for row in rows)
            if len(rows) < _BATCH_ROWS:
                return
            seq, version, *_ = rows[-1]

    def index_keys(self, collection: int) -> tuple[Integers, Integers]:
        """Return (seqs, versions), int64[n] each: what an index of the collection must hold."""
        rows = self._query("SELECT seq, version FROM records WHERE collection = ?", [collection])
        keys = np.array(rows, np.int64).reshape(len(rows), 2)
        return keys[:, 0].copy(), keys[:, 1].copy()

    def collections(self) -> list[int]:
        """Return the uids of the collections that have records here, ascending."""
        return [uid for (uid,) in self._query(_COLLECTIONS, [])]

    def snapshot(self) -> AbstractContextManager[sqlite3.Connection]:
        """Lend a connection whose queries all see one committed state, to who reads all of it."""
        return self._state.reader()

    def is_dropped(self, collection: int) -> bool:
        """Return whether the collection was dropped here; its uid is never used again."""
        with self._state.reader() as connection:
            return is_dropped(connection, collection)

    def _limited(self, query: str, parameters: list[Any], limit: int | None) -> list[Any]:
        return self._query(f"{query} LIMIT ?", [*parameters, -1 if limit is None else limit])

    def _query(self, query: str, parameters: list[Any]) -> list[Any]:
        with self._state.reader() as connection:
            return connection.execute(query, parameters).fetchall()


def _select(with_vector: bool, with_payload: bool) -> str:  # noqa: FBT001
    vector = "vector" if with_vector else "NULL"
    payload = "CAST(payload AS BLOB)" if with_payload else "NULL"
    join = "CROSS JOIN vectors ON vectors.seq = records.seq" if with_vector else ""
    columns = f"id, records.seq, version, {vector}, {payload}, created_ms, updated_ms"
    return f"SELECT {columns} FROM records {join} WHERE collection = ?"  # noqa: S608


def _filtered(
    query: str, collection: int, where: Condition | None, among: Integers | None = None
) -> tuple[str, list[Any]]:
    parameters: list[Any] = [collection]
    if among is not None:
        query = query.replace("collection = ?", "+collection = ?") + _AMONG
        parameters.append(orjson.dumps(among.tolist()).decode())
    if where is None:
        return query, parameters
    return f"{query} AND ({where.where})", [*parameters, *where.parameters]
