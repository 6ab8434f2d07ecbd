"""The rows of a shard, and how they change inside one transaction.

* A record is (collection, id) with a version: the log index of the entry that wrote it. `seq`,
  its row number here, is given once and never again, so an index may keep it as a label.
* An id may have a key in it (`storage.ids`); what is under one key has an index of its own, which
  costs nothing where there are no keys.
* Vectors lie in a table of their own: scans of payloads do not drag them through the cache.
  Payloads are stored as text, which is what SQLite's JSON functions take.
* A deleted record leaves a tombstone until it is written again or its collection is dropped.
* `record_hash` covers rows and tombstones. Each row keeps its own digest, so replacing it costs
  no second look at the old vector.

Callers validate; what arrives here is applied whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from storage.bulk_insert import BulkInsert
from storage.payloads import PayloadChange, PayloadOverflow
from storage.record_hash import DIGEST_BYTES, SetHash, row_digest, row_digests, tombstone_digest
from storage.state_file import read_meta, write_meta

IS_KEYED_SQL: Final = "substr(id, 1, 1) = x'07'"
KEY_SQL: Final = "substr(id, CASE substr(id, 2, 1) WHEN x'01' THEN 11 ELSE 19 END)"
"""Whether the id in the column `id` has a key, and that key; an index is on just these words."""

RECORDS_SCHEMA: Final = """
CREATE TABLE records (
  seq INTEGER PRIMARY KEY, collection INTEGER NOT NULL, id BLOB NOT NULL,
  version INTEGER NOT NULL, payload TEXT NOT NULL, created_ms INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL, expires_ms INTEGER, digest BLOB NOT NULL
);
CREATE UNIQUE INDEX records_by_id ON records (collection, id);
CREATE INDEX records_by_version ON records (collection, version);
CREATE TABLE vectors (seq INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE tombstones (
  collection INTEGER NOT NULL, id BLOB NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY (collection, id)
) WITHOUT ROWID;
CREATE TABLE dropped (collection INTEGER PRIMARY KEY);
"""
RECORDS_BY_KEY: Final = f"""
CREATE INDEX records_by_key ON records (collection, {KEY_SQL}, id) WHERE {IS_KEYED_SQL};
"""
RECORDS_CHANGES: Final = """
CREATE INDEX tombstones_by_version ON tombstones (collection, version);
CREATE TABLE drops (collection INTEGER PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL);
CREATE INDEX drops_by_version ON drops (version);
"""
"""What it takes to say which changes came after a version: see `storage.changes`."""
_CHUNKS: Final = (8, 32, 256)
"""Sizes of IN lists. Few, so that a query has few texts and is prepared once."""

_PUT_RECORDS: Final = BulkInsert(
    "INSERT INTO records (seq, collection, id, version, payload, created_ms, updated_ms, digest)",
    8,
    """ON CONFLICT (seq) DO UPDATE SET version = excluded.version, payload = excluded.payload,
    updated_ms = excluded.updated_ms, digest = excluded.digest""",
)
_PUT_VECTORS: Final = BulkInsert("REPLACE INTO vectors", 2)
_ANY_BETWEEN: Final = """
SELECT EXISTS (SELECT 1 FROM records WHERE collection = ?1 AND id BETWEEN ?2 AND ?3),
       EXISTS (SELECT 1 FROM tombstones WHERE collection = ?1 AND id BETWEEN ?2 AND ?3)
"""
"""New ids often lie beside all that are there: one look then spares a look for each."""
_FIND: Final = """
SELECT id, seq, created_ms, digest FROM records WHERE collection = ? AND id IN ({places})
"""
_FIND_VERSION: Final = """
SELECT id, version FROM records WHERE collection = ? AND id IN ({places})
"""
_FIND_WHOLE: Final = """
SELECT records.seq, id, created_ms, digest, CAST(payload AS BLOB), vector
FROM records CROSS JOIN vectors ON vectors.seq = records.seq
WHERE collection = ? AND id IN ({places})
"""
_UNBURY: Final = """
DELETE FROM tombstones WHERE collection = ? AND id IN ({places}) RETURNING id, version
"""


class Stamp(NamedTuple):
    """What a change is made under: the entry's log index, and the command's time."""

    version: int
    now_ms: int


class Written(NamedTuple):
    """A row that was written, or, when `vector` is None, deleted."""

    seq: int
    id: bytes
    vector: bytes | None
    payload: bytes | None = None


class _Stored(NamedTuple):
    seq: int
    created_ms: int
    digest: bytes


_Row = tuple[int, bytes, int, bytes, bytes]
"""seq, id, created_ms, payload, vector"""


class RecordWriter:
    """Changes records within one open transaction; `finish` before it commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        meta = read_meta(connection)
        self._connection = connection
        self.hash = SetHash(meta.get("record_hash", bytes(DIGEST_BYTES)))
        """Over all rows and tombstones; who writes tables beside these adds its rows to it."""
        self._next_seq: int = meta.get("next_seq", 1)
        self._dropped: dict[int, bool] = {}
        """What was asked in this transaction."""

    def state_hash(self) -> bytes:
        """Return the hash over all rows and tombstones as they stand."""
        return self.hash.digest()

    def is_dropped(self, collection: int) -> bool:
        """Return whether the collection was dropped; its uid is never used again."""
        dropped = self._dropped.get(collection)
        if dropped is None:
            dropped = self._dropped[collection] = is_dropped(self._connection, collection)
        return dropped

    def versions(self, collection: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Return the versions of those ids that exist."""
        return dict(select_in(self._connection, _FIND_VERSION, collection, ids))

    def upsert(
        self, collection: int, stamp: Stamp, points: Mapping[bytes, tuple[bytes, bytes]]
    ) -> list[Written]:
        """Insert or replace points, id -> (vector, canonical payload), in the mapping's order.

        A replaced row keeps its seq and its creation time.
        """
        ids = list(points)
        known, buried = self._any_between(collection, ids)
        stored = self._stored(collection, ids) if known else {}
        if buried:
            self._unbury(collection, [record_id for record_id in ids if record_id not in stored])
        rows = []
        for record_id, (vector, payload) in points.items():
            old = stored.get(record_id)
            seq, created_ms = (old.seq, old.created_ms) if old else (self.take_seq(), stamp.now_ms)
            rows.append((seq, record_id, created_ms, payload, vector))
        self.hash.remove(old.digest for old in stored.values())
        self._put(collection, stamp, rows)
        _PUT_VECTORS.run(self._connection, [(row[0], row[4]) for row in rows])
        return _written(rows)

    def set_payload(
        self,
        collection: int,
        stamp: Stamp,
        ids: Sequence[bytes],
        change: PayloadChange,
        *,
        bytes_max: int = 0,
    ) -> list[Written]:
        """Rewrite the payloads of those ids that exist.

        Raises PayloadOverflow, with nothing changed, when one would grow beyond `bytes_max`.
        """
        rows, digests = [], []
        found = select_in(self._connection, _FIND_WHOLE, collection, ids)
        for seq, record_id, created_ms, digest, payload, vector in found:
            changed = change(payload)
            if 0 < bytes_max < len(changed) and len(changed) > len(payload):
                raise PayloadOverflow
            digests.append(digest)
            rows.append((seq, record_id, created_ms, changed, vector))
        self.hash.remove(digests)
        self._put(collection, stamp, rows)
        return _written(rows)

    def delete(self, collection: int, stamp: Stamp, ids: Sequence[bytes]) -> list[Written]:
        """Delete those ids that exist, and leave a tombstone for each."""
        stored = self._stored(collection, ids)
        seqs = [(old.seq,) for old in stored.values()]
        self._connection.executemany("DELETE FROM records WHERE seq = ?", seqs)
        self._connection.executemany("DELETE FROM vectors WHERE seq = ?", seqs)
        self.hash.remove(old.digest for old in stored.values())
        self.bury(collection, stamp, list(stored))
        return [Written(old.seq, record_id, None) for record_id, old in stored.items()]

    def drop(self, collection: int) -> int:
        """Forget a collection's rows and tombstones, remember its uid; return how many rows."""
        query = self._connection.execute
        where = "WHERE collection = ?"
        key = (collection,)
        count = 0
        for (digest,) in query(f"SELECT digest FROM records {where}", key):  # noqa: S608
            self.hash.remove([digest])
            count += 1
        buried = query(f"SELECT id, version FROM tombstones {where}", key)  # noqa: S608
        self.hash.remove(tombstone_digest(collection, each, version) for each, version in buried)
        query(f"DELETE FROM vectors WHERE seq IN (SELECT seq FROM records {where})", key)  # noqa: S608
        query(f"DELETE FROM records {where}", key)  # noqa: S608
        query(f"DELETE FROM tombstones {where}", key)  # noqa: S608
        query("INSERT OR IGNORE INTO dropped VALUES (?)", key)
        self._dropped[collection] = True
        return count

    def note_drop(self, collection: int, stamp: Stamp, name: str) -> None:
        """Remember, for who follows the changes, when a collection was first dropped."""
        values = (collection, stamp.version, name)
        self._connection.execute("INSERT OR IGNORE INTO drops VALUES (?, ?, ?)", values)

    def bury(self, collection: int, stamp: Stamp, ids: Sequence[bytes]) -> None:
        """Leave a tombstone for each of these, which have none."""
        self._connection.executemany(
            "INSERT INTO tombstones VALUES (?, ?, ?)",
            [(collection, each, stamp.version) for each in ids],
        )
        self.hash.add(tombstone_digest(collection, each, stamp.version) for each in ids)

    def unbury(self, collection: int, ids: Sequence[bytes]) -> None:
        """Remove the tombstones of those that have one."""
        if self._any_between(collection, ids)[1]:
            self._unbury(collection, ids)

    def _unbury(self, collection: int, ids: Sequence[bytes]) -> None:
        gone = select_in(self._connection, _UNBURY, collection, ids)
        self.hash.remove(tombstone_digest(collection, each, version) for each, version in gone)

    def take_seq(self) -> int:
        """Return a row number that was never given before."""
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        return seq

    def finish(self) -> None:
        """Write what is kept beside the tables."""
        values = {"record_hash": self.hash.digest(), "next_seq": self._next_seq}
        write_meta(self._connection, values)

    def _any_between(self, collection: int, ids: Sequence[bytes]) -> tuple[bool, bool]:
        """Return whether a row, and a tombstone, has an id between the lowest and the highest."""
        if not ids:
            return False, False
        span = (collection, min(ids), max(ids))
        row, tombstone = self._connection.execute(_ANY_BETWEEN, span).fetchone()
        return bool(row), bool(tombstone)

    def _stored(self, collection: int, ids: Sequence[bytes]) -> dict[bytes, _Stored]:
        found = select_in(self._connection, _FIND, collection, ids)
        return {record_id: _Stored(*rest) for record_id, *rest in found}

    def _put(self, collection: int, stamp: Stamp, rows: Sequence[_Row]) -> None:
        """Write rows whose old digests, if any, were removed from the hash."""
        version, now_ms = stamp
        digests = row_digests(collection, version, now_ms, rows)
        self.hash.add(digests)
        records = [
            (seq, collection, each, version, payload.decode(), created_ms, now_ms, digest)
            for (seq, each, created_ms, payload, _), digest in zip(rows, digests, strict=True)
        ]
        _PUT_RECORDS.run(self._connection, records)


def _written(rows: Sequence[_Row]) -> list[Written]:
    return [Written(seq, each, vector, payload) for seq, each, _, payload, vector in rows]


def is_dropped(connection: sqlite3.Connection, collection: int) -> bool:
    """Return whether a collection was dropped."""
    query = "SELECT 1 FROM dropped WHERE collection = ?"
    return connection.execute(query, (collection,)).fetchone() is not None


def select_in(
    connection: sqlite3.Connection, query: str, collection: int, values: Sequence[Any]
) -> list[Any]:
    """Run a query with `{places}` for distinct values, some at a time; return all its rows."""
    assert len(set(values)) == len(values), "a value asked twice would be found twice"
    rows: list[Any] = []
    for start in range(0, len(values), _CHUNKS[-1]):
        part = values[start : start + _CHUNKS[-1]]
        size = next(size for size in _CHUNKS if size >= len(part))
        text = query.format(places=",".join("?" * size))
        padding = (None,) * (size - len(part))
        rows += connection.execute(text, (collection, *part, *padding)).fetchall()
    return rows


def recomputed_hash(connection: sqlite3.Connection) -> SetHash:
    """Return the hash of all rows and tombstones from their content, not from kept digests."""
    total = SetHash()
    rows = connection.execute("""
        SELECT collection, id, version, created_ms, updated_ms, CAST(payload AS BLOB), vector
        FROM records JOIN vectors ON vectors.seq = records.seq
    """)
    for collection, each, version, created_ms, updated_ms, payload, vector in rows:
        key, times_ms = (collection, each), (created_ms, updated_ms)
        total.add([row_digest(key, version, times_ms, payload, vector)])
    buried = connection.execute("SELECT collection, id, version FROM tombstones")
    total.add(tombstone_digest(*row) for row in buried)
    return total
