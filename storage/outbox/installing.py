"""Installs an outbox behind a table, takes it away, pauses it.

Everything is done in one transaction under a lock on the table, which waits for those who write to
it and makes others wait: so each row is either among those that are queued now, or its change comes
behind them. The lock is given up after a while rather than hold up the table's users.

Whatever is made is named by Postgres' own quoting; no text of a user becomes SQL here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.checkpoint.database import Database
from storage.outbox.errors import OutboxRefused
from storage.outbox.model import SOURCES_MAX, Source
from storage.outbox.schema import prepare, source_of

LOCK_WAIT_MS: Final = 10_000
_RELATION: Final = """
SELECT c.oid, relkind = 'r' AND relpersistence = 'p'
  AND NOT relispartition AND NOT relhassubclass AS plain,
  relowner = proowner OR owner.rolsuper AS trusted, owner.rolname AS owner
FROM pg_class c JOIN pg_roles owner ON owner.oid = relowner
JOIN pg_proc p ON p.oid = 'recollect_outbox.capture()'::regprocedure
WHERE c.oid = to_regclass($1)
"""
"""`trusted`: to read a row as JSON runs functions that the table's owner may have made for its
types, and the trigger does it with the rights of whoever made the schema."""
_COLUMNS: Final = """
SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
"""
_UNIQUE: Final = """
SELECT EXISTS (
  SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
  WHERE indrelid = $1 AND attname = $2 AND indnkeyatts = 1 AND indisunique AND indimmediate
    AND indisvalid AND indpred IS NULL AND indexprs IS NULL
)
"""
_INSERT: Final = """
INSERT INTO recollect_outbox.sources
  (relation, collection, id_column, text_column, vector_column, payload_columns)
VALUES ($1::oid, $2, $3, $4, $5, $6) RETURNING source
"""
_MATCHES: Final = """
SELECT relation = $2::oid AND id_column = $3 AND text_column IS NOT DISTINCT FROM $4
  AND vector_column IS NOT DISTINCT FROM $5 AND payload_columns IS NOT DISTINCT FROM $6
FROM recollect_outbox.sources WHERE source = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to install. `payload` None: all columns but the vector's."""

    table: str
    collection: str
    id_column: str
    text_column: str | None = None
    vector_column: str | None = None
    payload: tuple[str, ...] | None = ()

    def columns(self) -> list[str]:
        """Return all columns that are named."""
        named = (self.id_column, self.text_column, self.vector_column, *(self.payload or ()))
        return [name for name in named if name is not None]


async def install(database: Database, wanted: Wanted, *, existing: bool = True) -> int | None:
    """Let the rows of a table flow into a collection; return how many `existing` ones were queued.

    None: it was there already. Triggers that were gone come back, and the rows are queued again.

    Raises:
        OutboxRefused: no such table or column, or not one that can be followed; or another outbox
            fills the collection.
    """
    await prepare(database)

    async def work(connection: Any) -> int | None:
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
        await connection.execute("LOCK TABLE recollect_outbox.sources IN SHARE ROW EXCLUSIVE MODE")
        relation = await _relation(connection, wanted)
        values = (wanted.id_column, wanted.text_column, wanted.vector_column, wanted.payload)
        known = await connection.fetchval(
            "SELECT source FROM recollect_outbox.sources WHERE collection = $1", wanted.collection
        )
        if known is None:
            source = await _insert(connection, relation, wanted.collection, values)
        elif not await connection.fetchval(_MATCHES, known, relation, *values):
            raise OutboxRefused(
                f"another outbox fills the collection '{wanted.collection}': remove it first"
            )
        elif await connection.fetchval("SELECT recollect_outbox.attached($1)", known):
            return None
        else:
            source = known
        await connection.execute("SELECT recollect_outbox.attach($1)", source)
        return await _fill(connection, source) if existing else 0

    return await database.run(work)


async def remove(database: Database, collection: str) -> int:
    """Take an outbox away, and the schema with the last one; return how many changes waited.

    Raises OutboxRefused when nothing fills the collection.
    """

    async def work(connection: Any) -> int:
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
        source = (await source_of(connection, collection)).source
        await connection.execute("SELECT recollect_outbox.detach($1)", source)
        waiting = 0
        for table in ("events", "dead_letters"):
            gone = await connection.execute(
                f"DELETE FROM recollect_outbox.{table} WHERE source = $1",  # noqa: S608
                source,
            )
            waiting += int(gone.split()[-1])
        await connection.execute("DELETE FROM recollect_outbox.sources WHERE source = $1", source)
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM recollect_outbox.sources)"):
            await connection.execute("DROP SCHEMA recollect_outbox CASCADE")
        return waiting

    return await database.run(work)


async def pause(database: Database, collection: str) -> None:
    """Let changes wait until `resume`; a batch that is under way is finished."""

    async def work(connection: Any) -> None:
        await _set_paused(connection, await source_of(connection, collection), paused=True)

    await database.run(work)


async def resume(database: Database, collection: str, *, take_over: bool = False) -> None:
    """Let changes flow again. `take_over`: into whichever cluster consumes them next, to which
    all rows are sent again."""

    async def work(connection: Any) -> None:
        source = await source_of(connection, collection)
        await _set_paused(connection, source, paused=False)
        if take_over:
            await connection.execute(
                "UPDATE recollect_outbox.sources SET cluster_id = NULL, uid = gen_random_uuid() "
                "WHERE source = $1",
                source.source,
            )
            await lock_writers_out(connection, source)
            await _fill(connection, source.source)
        await connection.execute("SELECT pg_notify('recollect_outbox', '')")

    await database.run(work)


async def lock_writers_out(connection: Any, source: Source) -> None:
    """Let nobody write to a source's table until the transaction ends; raises OutboxRefused."""
    if not source.table:
        raise OutboxRefused("the table was dropped")
    await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
    await connection.execute(f"LOCK TABLE {source.table} IN SHARE MODE")


async def _set_paused(connection: Any, source: Source, *, paused: bool) -> None:
    await connection.execute(
        "UPDATE recollect_outbox.sources SET paused = $2 WHERE source = $1", source.source, paused
    )


async def _fill(connection: Any, source: int) -> int:
    return int(await connection.fetchval("SELECT recollect_outbox.fill($1)", source))


async def _insert(connection: Any, relation: int, collection: str, values: Sequence[Any]) -> int:
    count = await connection.fetchval("SELECT count(*) FROM recollect_outbox.sources")
    if count >= SOURCES_MAX:
        raise OutboxRefused(f"there are {SOURCES_MAX} outboxes already")
    return int(await connection.fetchval(_INSERT, relation, collection, *values))


async def _relation(connection: Any, wanted: Wanted) -> int:
    """Return the number of the table; raises OutboxRefused unless it can be followed."""
    found = await connection.fetchrow(_RELATION, wanted.table)
    if found is None:
        raise OutboxRefused(f"there is no table {wanted.table}")
    if not found["plain"]:
        raise OutboxRefused(
            f"{wanted.table} is not an ordinary, logged table without partitions or heirs"
        )
    if not found["trusted"]:
        raise OutboxRefused(
            f"{wanted.table} belongs to {found['owner']}, who could do through its outbox whatever "
            "the owner of the schema recollect_outbox may: install it as that user"
        )
    oid: int = found["oid"]
    columns = {row["attname"]: row["attnotnull"] for row in await connection.fetch(_COLUMNS, oid)}
    for name in wanted.columns():
        if name not in columns:
            raise OutboxRefused(f"{wanted.table} has no column '{name}'")
    unique = await connection.fetchval(_UNIQUE, oid, wanted.id_column)
    if not (unique and columns[wanted.id_column]):
        raise OutboxRefused(
            f"'{wanted.id_column}' has to be NOT NULL and, by itself, a primary key or unique, not "
            "deferrable"
        )
    return oid
