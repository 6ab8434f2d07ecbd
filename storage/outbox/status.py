"""How far each source is, read from Postgres alone: it tells of a backlog that nobody works on.

Ages are taken in the time of Postgres. What counts is when a change was committed; where Postgres
does not keep that (track_commit_timestamp), when it was written, which is earlier by as long as its
transaction went on.
"""

from __future__ import annotations

from typing import Any, Final

from storage.checkpoint.database import Database
from storage.outbox.model import Status
from storage.outbox.schema import LOCK_CLASS, is_installed, read_source, select_sources

PENDING_MAX: Final = 100_000
"""So many are counted."""
_OLDEST_ROWS: Final = 1000
_FIGURES: Final = f"""
, s.applied_seq, s.applied, s.repeated, s.circuit, s.problem,
  recollect_outbox.attached(s.source) AS attached,
  (SELECT count(*) FROM (
    SELECT FROM recollect_outbox.events e WHERE e.source = s.source LIMIT {PENDING_MAX}
  ) AS counted) AS pending,
  (SELECT max(seq) FROM recollect_outbox.events e WHERE e.source = s.source) AS newest,
  (SELECT extract(epoch FROM clock_timestamp() - min(committed_at)) * 1000 FROM (
    SELECT coalesce(
      CASE WHEN current_setting('track_commit_timestamp') = 'on'
        THEN pg_xact_commit_timestamp(e.xid::xid) END,
      e.written_at
    ) AS committed_at
    FROM recollect_outbox.events e WHERE e.source = s.source ORDER BY e.seq LIMIT {_OLDEST_ROWS}
  ) AS oldest) AS lag_ms,
  EXISTS (
    SELECT FROM pg_locks l JOIN pg_database b ON b.oid = l.database
    WHERE b.datname = current_database() AND l.locktype = 'advisory' AND l.granted
      AND l.classid = {LOCK_CLASS}::oid AND l.objid = s.source::oid AND l.objsubid = 2
  ) AS attended
"""  # noqa: S608


async def statuses(database: Database) -> list[Status]:
    """Return how far every source is; raises CheckpointError."""

    async def work(connection: Any) -> list[Status]:
        if not await is_installed(connection):
            return []
        return [_read(row) for row in await connection.fetch(select_sources(_FIGURES))]

    return await database.run(work, readonly=True)


def _read(row: Any) -> Status:
    return Status(
        source=read_source(row),
        lag_ms=round(max(0.0, float(row["lag_ms"] or 0)), 3),
        pending=row["pending"],
        committed_seq=max(row["newest"] or 0, row["applied_seq"]),
        applied_seq=row["applied_seq"],
        applied=row["applied"],
        repeated=row["repeated"],
        attended=row["attended"],
        attached=row["attached"],
        circuit=row["circuit"],
        problem=row["problem"],
    )
