"""The outbox's own schema in the user's database, and what a server must be to hold it."""

from __future__ import annotations

from typing import Any, Final

from storage.checkpoint.database import Database
from storage.checkpoint.migrate import Schema, migrate
from storage.outbox.errors import OutboxRefused
from storage.outbox.model import Source

OUTBOX: Final = Schema(
    package="storage.outbox.migrations",
    journal="recollect_outbox.migrations",
    lock=0x5243_4C54_4F42_4F58,
    home="recollect_outbox",
)
CHANNEL: Final = "recollect_outbox"
LOCK_CLASS: Final = 0x5243_4F42
"""Advisory locks of this class and a source's number: who has one consumes that source."""
_SERVER_MIN: Final = 140000
_SOURCE: Final = """
SELECT s.source, s.uid, s.collection, s.id_column, s.text_column, s.vector_column,
  s.payload_columns, s.cluster_id, s.paused,
  coalesce(recollect_outbox.qualified(s.relation), '') AS place,
  EXISTS (SELECT FROM recollect_outbox.events e WHERE e.source = s.source) AS waiting,
  (SELECT count(*) FROM recollect_outbox.dead_letters d WHERE d.source = s.source) AS dead
"""


async def prepare(database: Database) -> None:
    """Make the schema, or bring it up to date; raises CheckpointError."""

    async def check(connection: Any) -> None:
        number = int(await connection.fetchval("SHOW server_version_num"))
        if number < _SERVER_MIN:
            raise OutboxRefused(f"the outbox needs PostgreSQL 14, this is {number // 10000}")

    await database.run(check)
    await migrate(database, OUTBOX)


async def is_installed(connection: Any) -> bool:
    """Return whether the schema is in this database."""
    found: bool = await connection.fetchval(
        "SELECT to_regclass('recollect_outbox.sources') IS NOT NULL"
    )
    return found


def select_sources(more: str = "") -> str:
    """Return the query of all sources, in order; `more` are further columns."""
    return f"{_SOURCE}{more} FROM recollect_outbox.sources s ORDER BY s.source"


def read_source(row: Any) -> Source:
    """Return the source of a row of that query."""
    columns = row["payload_columns"]
    return Source(
        source=row["source"],
        uid=str(row["uid"]),
        table=row["place"],
        collection=row["collection"],
        id_column=row["id_column"],
        text_column=row["text_column"],
        vector_column=row["vector_column"],
        payload_columns=None if columns is None else tuple(columns),
        cluster_id=row["cluster_id"],
        paused=row["paused"],
        waiting=row["waiting"],
        dead=row["dead"],
    )


async def source_of(connection: Any, collection: str) -> Source:
    """Return the source that fills a collection; raises OutboxRefused."""
    if await is_installed(connection):
        for row in await connection.fetch(select_sources()):
            if row["collection"] == collection:
                return read_source(row)
    raise OutboxRefused(f"no outbox fills the collection '{collection}'")
