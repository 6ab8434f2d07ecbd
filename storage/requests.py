"""Requests that were applied, by id, so that a repeated one gets its first result again.

Time is the largest stamp of any applied command, so it never runs back and all replicas agree
on it. A request is forgotten once that time has passed its expiry. Whether an id is known is
decided by the asking command's own time, and rows are swept by the clock, so neither depends on
how entries are cut into batches.
"""

from __future__ import annotations

import sqlite3
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


class RequestMemory:
    """The table of requests within one open transaction; `finish` before it commits.

    `ttl_ms` is how long a request is remembered from now on.
    """

    def __init__(self, connection: sqlite3.Connection, ttl_ms: int) -> None:
        assert 0 < ttl_ms <= TIME_MS_MAX, "a time to live is positive"
        meta = read_meta(connection)
        self._connection = connection
        self.ttl_ms = ttl_ms
        self._hash = SetHash(meta.get("requests_hash", bytes(DIGEST_BYTES)))
        self._clock_ms: int = meta.get("clock_ms", 0)

    def now_ms(self, stamp_ms: int) -> int:
        """Return the time of a command: its stamp, or the clock where that is ahead."""
        assert 0 <= stamp_ms <= TIME_MS_MAX, "stamps are validated before"
        return max(stamp_ms, self._clock_ms)

    def recall(self, request_id: str, now_ms: int) -> bytes | None:
        """Return the result of a request that is not forgotten by now; an empty id has none."""
        if not request_id:
            return None
        row = self._connection.execute(
            "SELECT result FROM requests WHERE request_id = ? AND expires_ms > ?",
            (request_id, now_ms),
        ).fetchone()
        return None if row is None else row[0]

    def remember(self, request_id: str, result: bytes, now_ms: int) -> None:
        """Set the clock to the time of a command that was applied, and keep its result."""
        assert now_ms >= self._clock_ms, "the clock never runs back"
        self._clock_ms = now_ms
        if not request_id:
            return
        self._forget("request_id = ?", request_id)
        expires_ms = now_ms + self.ttl_ms
        self._connection.execute(
            "INSERT INTO requests VALUES (?, ?, ?)", (request_id, result, expires_ms)
        )
        self._hash.add([request_digest(request_id, result, expires_ms)])

    def finish(self) -> None:
        """Sweep what has expired, and write the clock and the hash."""
        self._forget("expires_ms <= ?", self._clock_ms)
        values = {"requests_hash": self._hash.digest(), "clock_ms": self._clock_ms}
        write_meta(self._connection, values)

    def _forget(self, where: str, value: str | int) -> None:
        query = f"SELECT request_id, result, expires_ms FROM requests WHERE {where}"  # noqa: S608
        expired = self._connection.execute(query, (value,)).fetchall()
        if expired:
            self._connection.execute(f"DELETE FROM requests WHERE {where}", (value,))  # noqa: S608
            self._hash.remove(request_digest(*row) for row in expired)


def recompute_request_hash(connection: sqlite3.Connection) -> bytes:
    """Return the hash of all remembered requests from the table itself."""
    total = SetHash()
    rows = connection.execute("SELECT request_id, result, expires_ms FROM requests")
    total.add(request_digest(*row) for row in rows)
    return total.digest()
