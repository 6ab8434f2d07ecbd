"""Requests that were applied, by id, so that a repeated one gets its first result again.

Time is the largest stamp of any applied command, so it never runs back and all replicas agree
on it. But stamps come from the leaders' wall clocks: the next leader's may be an hour ahead, and
with it everything would expire between a request and its retry. So a request is forgotten only
once it has expired and is old by the log as well, `YOUNG_ENTRIES` after the entry where it took
effect.

Whether an id is known is decided by the asking command's own time and index, and at the end of a
transaction only rows go that no later command could recall. Later entries expire no earlier, so
rows become forgotten in the order in which they expire, but for equal times: the sweep takes them
from the front until it meets one that is not, and the bounds of that one say when to look again.
Therefore neither results nor rows depend on how entries are cut into batches.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final

from storage.record_hash import DIGEST_BYTES, SetHash, request_digest
from storage.state_file import read_meta, write_meta

REQUESTS_SCHEMA: Final = """
CREATE TABLE requests (
  request_id TEXT PRIMARY KEY, result BLOB NOT NULL, expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_by_expiry ON requests (expires_ms);
"""
TIME_MS_MAX: Final = 2**53
"""Largest stamp; whatever is added to one stays within SQLite's integers."""
YOUNG_ENTRIES: Final = 10_000
"""A request is remembered for as many log entries, whatever the clocks say."""
_INDEX_MAX: Final = 2**63 - 1
_ROW: Final = "SELECT request_id, result, expires_ms FROM requests"
_OLDEST_FIRST: Final = f"{_ROW} INDEXED BY requests_by_expiry ORDER BY expires_ms, request_id"
_Row = tuple[str, bytes, int]


class RequestMemory:
    """The table of requests within one open transaction; `finish` before it commits.

    `ttl_ms` is for how long, at least, a request is remembered from now on; `version_of` returns
    the log index that a result took effect at.
    """

    def __init__(
        self, connection: sqlite3.Connection, ttl_ms: int, version_of: Callable[[bytes], int]
    ) -> None:
        assert 0 < ttl_ms <= TIME_MS_MAX, "a time to live is positive"
        meta = read_meta(connection)
        self._connection = connection
        self.ttl_ms = ttl_ms
        self._version_of = version_of
        self._hash = SetHash(meta.get("requests_hash", bytes(DIGEST_BYTES)))
        self._clock_ms: int = meta.get("clock_ms", 0)
        self._due_ms: int = meta.get("requests_due_ms", 0)
        """Nothing is forgotten before this time,"""
        self._due_index: int = meta.get("requests_due_index", 0)
        """and nothing before this index."""
        self._absent_id = ""

    def now_ms(self, stamp_ms: int) -> int:
        """Return the time of a command: its stamp, or the clock where that is ahead."""
        assert 0 <= stamp_ms <= TIME_MS_MAX, "stamps are validated before"
        return max(stamp_ms, self._clock_ms)

    def recall(self, request_id: str, now_ms: int, index: int) -> bytes | None:
        """Return the result of a request that is not forgotten at a command's time and index.

        An empty id has none.
        """
        if not request_id:
            return None
        row = self._stored(request_id)
        if row is None:
            self._absent_id = request_id
            return None
        return None if self._forgotten(row, now_ms, index) else row[1]

    def remember(self, request_id: str, result: bytes, now_ms: int) -> None:
        """Set the clock to the time of a command that was applied, and keep its result."""
        assert now_ms >= self._clock_ms, "the clock never runs back"
        self._clock_ms = now_ms
        if not request_id:
            return
        if request_id != self._absent_id and (row := self._stored(request_id)):
            self._remove([row])
        self._absent_id = ""
        expires_ms = now_ms + self.ttl_ms
        self._due_ms = min(self._due_ms, expires_ms)
        self._due_index = min(self._due_index, self._version_of(result) + YOUNG_ENTRIES)
        self._connection.execute(
            "INSERT INTO requests VALUES (?, ?, ?)", (request_id, result, expires_ms)
        )
        self._hash.add([request_digest(request_id, result, expires_ms)])

    def finish(self, index: int) -> None:
        """Sweep what is forgotten after the entry `index`, and write the clock and the hash."""
        if self._due_ms <= self._clock_ms and self._due_index <= index:
            self._sweep(index)
        values = {
            "requests_hash": self._hash.digest(),
            "clock_ms": self._clock_ms,
            "requests_due_ms": self._due_ms,
            "requests_due_index": self._due_index,
        }
        write_meta(self._connection, values)

    @staticmethod
    def result_of(connection: sqlite3.Connection, request_id: str) -> bytes | None:
        """Return the result of a request that is still kept; for readers beside a transaction."""
        query = "SELECT result FROM requests WHERE request_id = ?"
        row: tuple[bytes] | None = connection.execute(query, (request_id,)).fetchone()
        return None if row is None else row[0]

    def _stored(self, request_id: str) -> _Row | None:
        query = f"{_ROW} WHERE request_id = ?"
        row: _Row | None = self._connection.execute(query, (request_id,)).fetchone()
        return row

    def _forgotten(self, row: _Row, now_ms: int, index: int) -> bool:
        _, result, expires_ms = row
        return expires_ms <= now_ms and self._version_of(result) + YOUNG_ENTRIES <= index

    def _sweep(self, index: int) -> None:
        rows = self._connection.execute(_OLDEST_FIRST)
        gone = takewhile(lambda row: self._forgotten(row, self._clock_ms, index), rows)
        self._remove(list(gone))
        rows.close()
        oldest = self._connection.execute(f"{_OLDEST_FIRST} LIMIT 1").fetchone()
        self._due_ms, self._due_index = TIME_MS_MAX, _INDEX_MAX
        if oldest is not None:
            self._due_ms, self._due_index = oldest[2], self._version_of(oldest[1]) + YOUNG_ENTRIES

    def _remove(self, rows: Sequence[_Row]) -> None:
        names = [(row[0],) for row in rows]
        self._connection.executemany("DELETE FROM requests WHERE request_id = ?", names)
        self._hash.remove(request_digest(*row) for row in rows)


def recompute_request_hash(connection: sqlite3.Connection) -> bytes:
    """Return the hash of all remembered requests from the table itself."""
    total = SetHash()
    total.add(request_digest(*row) for row in connection.execute(_ROW))
    return total.digest()
