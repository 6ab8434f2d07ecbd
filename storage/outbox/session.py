"""The consumer's connection to a user's Postgres: locks, the batch in flight, news.

Who consumes a source holds its advisory lock, which ends with the connection. A connection that
says nothing for half a minute is cut by Postgres: so a process that was stopped loses its place,
and another one can go on. Every step is a short transaction; none is open while a batch is
applied.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from storage.checkpoint.database import failures_named
from storage.checkpoint.errors import DatabaseRefused
from storage.outbox.errors import OutboxMoved
from storage.outbox.model import (
    APPLY_S,
    BATCH_BYTES,
    BATCH_ROWS,
    DETAIL_MAX,
    IMAGE_BYTES_MAX,
    Batch,
    Event,
    Rejected,
    Source,
)
from storage.outbox.schema import CHANNEL, LOCK_CLASS, is_installed, read_source, select_sources

CONNECT_S: Final = 10.0
COMMAND_S: Final = 10.0
_CLOSE_S: Final = 2.0
_SETTINGS: Final = {
    "application_name": "recollect outbox",
    "idle_session_timeout": "30000",
    "idle_in_transaction_session_timeout": "30000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_EVENT: Final = f"""
SELECT seq, op, key, CASE WHEN NOT large THEN image::text END AS image, large,
  CASE WHEN large THEN 0 ELSE coalesce(octet_length(image::text), 0) END AS bytes
FROM (
  SELECT *, CASE WHEN pg_column_size(image) > {IMAGE_BYTES_MAX} THEN true
    ELSE coalesce(octet_length(image::text) > {IMAGE_BYTES_MAX}, false) END AS large
  FROM recollect_outbox.events
"""  # noqa: S608
_NEXT: Final = f"""
SELECT seq, op, key, image, large FROM (
  SELECT *, sum(bytes) OVER (ORDER BY seq) - bytes AS before
  FROM ({_EVENT} WHERE source = $1 ORDER BY seq LIMIT $2) AS found) AS sized
) AS summed WHERE before < $3 ORDER BY seq
"""  # noqa: S608
_AGAIN: Final = f"""
SELECT seq, op, key, image, large FROM (
  {_EVENT} WHERE source = $1 AND seq = ANY ($2)) AS found
) AS sized ORDER BY seq
"""  # noqa: S608
_APPLIED: Final = """
UPDATE recollect_outbox.sources SET in_flight = '{}', attempts = 0, applied = applied + $3,
  repeated = repeated + $4, applied_seq = greatest(applied_seq, $5), applied_at = now(),
  circuit = 'closed', problem = NULL
WHERE source = $1 AND in_flight = $2 RETURNING source
"""
_SETTLED: Final = """
DELETE FROM recollect_outbox.dead_letters d
USING unnest($2::text[], $3::bigint[]) AS applied (key, seq)
WHERE d.source = $1 AND d.key = applied.key AND d.id < applied.seq
"""
_BURY: Final = """
INSERT INTO recollect_outbox.dead_letters
  (id, source, op, key, image, written_at, reason, detail)
SELECT seq, source, op, key, image, written_at, reason, detail
FROM recollect_outbox.events
JOIN unnest($2::bigint[], $3::text[], $4::text[]) AS rejected (id, reason, detail) ON id = seq
WHERE source = $1
"""


class Session:
    """See the module. Belongs to one task."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._woken = asyncio.Event()
        self._locked: set[int] = set()

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator[Session]:
        """Yield a session with the database of a URL, listening; raises CheckpointError."""
        with failures_named():
            try:
                connection = await asyncpg.connect(
                    url,
                    timeout=CONNECT_S,
                    command_timeout=COMMAND_S,
                    server_settings=dict(_SETTINGS),
                )
            except ValueError:
                raise DatabaseRefused("the URL of the outbox cannot be read") from None
        try:
            session = cls(connection)
            await session._listen()
            yield session
        finally:
            await _close(connection)

    async def _listen(self) -> None:
        with failures_named():
            await self._connection.add_listener(CHANNEL, lambda *_: self._woken.set())
        self._connection.add_termination_listener(lambda _: self._woken.set())

    async def wait(self, timeout_s: float) -> None:
        """Return when a change may have come, or when time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        self._woken.clear()

    async def sources(self) -> list[Source]:
        """Return all sources; raises CheckpointError, as everything here."""
        with failures_named():
            if not await is_installed(self._connection):
                return []
            return [read_source(row) for row in await self._connection.fetch(select_sources())]

    async def lock(self, source: int) -> bool:
        """Return whether this session, and so nobody else, consumes a source."""
        if source not in self._locked:
            with failures_named():
                if not await self._connection.fetchval(
                    "SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, source
                ):
                    return False
            self._locked.add(source)
        return True

    async def take(self, source: int, cluster_id: str) -> Batch | None:
        """Return the batch in flight, or put the next one in flight; None when nothing waits.

        Raises OutboxMoved when another cluster consumes the source, or nothing does any more.
        """
        with failures_named():
            async with self._connection.transaction():
                found = await self._connection.fetchrow(
                    "SELECT in_flight, attempts, cluster_id, coalesce("
                    "taken_at + make_interval(secs => $2) <= clock_timestamp(), true) AS sole "
                    "FROM recollect_outbox.sources WHERE source = $1 FOR UPDATE",
                    source,
                    APPLY_S,
                )
                if found is None or found["cluster_id"] not in (None, cluster_id):
                    raise OutboxMoved("the source belongs to another cluster, or is gone")
                rows, attempts, sole = [], 0, True
                if found["in_flight"]:
                    rows = await self._connection.fetch(_AGAIN, source, found["in_flight"])
                    attempts, sole = found["attempts"], found["sole"]
                if not rows:
                    rows = await self._connection.fetch(_NEXT, source, BATCH_ROWS, BATCH_BYTES)
                    attempts, sole = 0, True
                await self._connection.execute(
                    "UPDATE recollect_outbox.sources SET in_flight = $2, attempts = $3, "
                    "cluster_id = $4, taken_at = clock_timestamp() WHERE source = $1",
                    source,
                    [row["seq"] for row in rows],
                    attempts + 1,
                    cluster_id,
                )
        return Batch(tuple(Event(*row) for row in rows), attempts, sole) if rows else None

    async def acknowledge(self, source: int, batch: Batch) -> None:
        """Remove an applied batch, and the dead letters that it settles; raises OutboxMoved."""
        seqs = [event.seq for event in batch.events]
        repeated = len(seqs) if batch.attempts else 0
        with failures_named():
            async with self._connection.transaction():
                values = (source, seqs, len(seqs), repeated, seqs[-1])
                if await self._connection.fetchval(_APPLIED, *values) is None:
                    raise OutboxMoved("another batch is in flight")
                await self._remove(seqs)
                keys = [event.key for event in batch.events]
                await self._connection.execute(_SETTLED, source, keys, seqs)

    async def set_aside(self, source: int, batch: Batch, rejected: Sequence[Rejected]) -> None:
        """Make dead letters of changes of the batch in flight; raises OutboxMoved."""
        gone = [each.event.seq for each in rejected]
        seqs = [event.seq for event in batch.events]
        left = [seq for seq in seqs if seq not in frozenset(gone)]
        with failures_named():
            async with self._connection.transaction():
                moved = await self._connection.fetchval(
                    "UPDATE recollect_outbox.sources SET in_flight = $3, attempts = 0, "
                    "taken_at = NULL WHERE source = $1 AND in_flight = $2 RETURNING source",
                    source,
                    seqs,
                    left,
                )
                if moved is None:
                    raise OutboxMoved("another batch is in flight")
                reasons = [each.reason for each in rejected]
                details = [each.detail[:DETAIL_MAX] for each in rejected]
                await self._connection.execute(_BURY, source, gone, reasons, details)
                await self._remove(gone)

    async def report(self, source: int, circuit: str, problem: str) -> None:
        """Leave word of how a source fares, for whoever asks for its status."""
        with failures_named():
            await self._connection.execute(
                "UPDATE recollect_outbox.sources SET circuit = $2, problem = $3 WHERE source = $1",
                source,
                circuit,
                problem[:DETAIL_MAX],
            )

    async def _remove(self, seqs: Sequence[int]) -> None:
        await self._connection.execute(
            "DELETE FROM recollect_outbox.events WHERE seq = ANY ($1)", seqs
        )


async def _close(connection: Any) -> None:
    """Close a connection; one that does not answer is cut."""
    try:
        await connection.close(timeout=_CLOSE_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()
