"""Changes that could not be applied: listing them, sending their rows again, putting one aside.

A replay never sends what it finds in the dead letter, which may be older than what the collection
has: it reads the row as it is now, or finds it gone, and queues that behind all that waits. Writers
are locked out for that moment, so nothing of the same key can be between the reading and the queue.

A dead letter is also settled by the next change of its key that is applied.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from storage.checkpoint.database import Database
from storage.outbox.errors import OutboxRefused
from storage.outbox.installing import lock_writers_out
from storage.outbox.model import APPLY_S
from storage.outbox.schema import source_of

_LIST = """
SELECT id, op, key, reason, detail, died_at FROM recollect_outbox.dead_letters
WHERE source = $1 ORDER BY id LIMIT $2
"""
_TAKE = """
DELETE FROM recollect_outbox.dead_letters WHERE source = $1 AND (
  $2::bigint IS NULL OR id = $2
  OR key = (SELECT key FROM recollect_outbox.dead_letters WHERE source = $1 AND id = $2)
) RETURNING key
"""
_DELETE_MISSING = """
INSERT INTO recollect_outbox.events (source, op, key)
SELECT $1, 'delete', key FROM unnest($2::text[]) AS gone (key)
WHERE NOT EXISTS (
  SELECT FROM recollect_outbox.events e
  WHERE e.source = $1 AND e.seq > $3 AND e.key = gone.key AND e.op = 'upsert'
)
"""
_UNDER_WAY = """
SELECT EXISTS (
  SELECT FROM recollect_outbox.events e
  WHERE e.source = s.source AND e.key = $2 AND e.seq = ANY (s.in_flight)
) AND s.taken_at + make_interval(secs => $3) > clock_timestamp()
FROM recollect_outbox.sources s WHERE s.source = $1 FOR UPDATE OF s
"""
_NACK = """
WITH gone AS (
  DELETE FROM recollect_outbox.events WHERE source = $1 AND key = $2 RETURNING *
), left_over AS (
  UPDATE recollect_outbox.sources SET in_flight = '{}'
  WHERE source = $1 AND in_flight && ARRAY(SELECT seq FROM gone)
)
INSERT INTO recollect_outbox.dead_letters
  (id, source, op, key, image, written_at, reason, detail)
SELECT seq, source, op, key, image, written_at, 'manual_nack', 'put aside by hand' FROM gone
"""


class DeadLetter(NamedTuple):
    """A change that could not be applied."""

    id: int
    op: str
    key: str | None
    reason: str
    detail: str
    died_at: datetime


async def listed(database: Database, collection: str, limit: int) -> list[DeadLetter]:
    """Return a collection's dead letters, the oldest first; raises OutboxRefused."""

    async def work(connection: Any) -> list[DeadLetter]:
        source = await source_of(connection, collection)
        return [DeadLetter(*row) for row in await connection.fetch(_LIST, source.source, limit)]

    return await database.run(work, readonly=True)


async def replay(database: Database, collection: str, letter: int | None = None) -> int:
    """Queue the rows of dead letters as they are now; return how many dead letters that settles.

    `letter`: this one and others of its key; None: all.

    Raises OutboxRefused when there is no such dead letter.
    """

    async def work(connection: Any) -> int:
        source = await source_of(connection, collection)
        await lock_writers_out(connection, source)
        gone = [row["key"] for row in await connection.fetch(_TAKE, source.source, letter)]
        if letter is not None and not gone:
            raise OutboxRefused(f"there is no dead letter {letter}")
        keys = sorted({key for key in gone if key is not None})
        newest = await connection.fetchval(
            "SELECT coalesce(max(seq), 0) FROM recollect_outbox.events WHERE source = $1",
            source.source,
        )
        await connection.execute("SELECT recollect_outbox.fill($1, $2)", source.source, keys)
        await connection.execute(_DELETE_MISSING, source.source, keys, newest)
        return len(gone)

    return await database.run(work)


async def put_aside(database: Database, collection: str, key: str) -> int:
    """Make dead letters of the changes of a key that wait; return how many those were.

    Raises OutboxRefused while they may be on their way.
    """

    async def work(connection: Any) -> int:
        source = await source_of(connection, collection)
        if await connection.fetchval(_UNDER_WAY, source.source, key, APPLY_S):
            raise OutboxRefused(
                f"row {key} is being applied: pause the outbox, and try again in half a minute"
            )
        done = await connection.execute(_NACK, source.source, key)
        return int(done.split()[-1])

    return await database.run(work)
