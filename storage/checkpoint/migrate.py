"""Brings the schema in Postgres up to this version: numbered scripts, each run once.

All that lacks is run in one transaction under a lock, so any number of nodes may do this at the
same time, and a crash leaves the schema as it was. A database that a newer version has migrated is
refused: this one would not know what it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from storage.checkpoint.database import Database
from storage.checkpoint.errors import DatabaseRefused, FormatMismatch

_LOCK: Final = 0x5243_4C54_4D49_4752
_JOURNAL: Final = """
CREATE TABLE IF NOT EXISTS recollect_migrations (
  number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One script."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Return all scripts of this version, in order."""
    found = []
    for file in files("storage.checkpoint.migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_text()))
    ordered = sorted(found, key=lambda each: each.number)
    numbers = [each.number for each in ordered]
    assert numbers == list(range(1, len(numbers) + 1)), "migrations are numbered without gaps"
    return ordered


async def migrate(database: Database) -> int:
    """Run the scripts that lack; return how many those were.

    Raises:
        FormatMismatch: the database is of a newer version.
        DatabaseRefused: it does not keep text as UTF-8, or we may not make tables.
    """
    return await database.run(_migrate)


async def _migrate(connection: Any) -> int:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise DatabaseRefused(f"the database keeps text as {encoding}, not as UTF8")
    if not await connection.fetchval("SELECT to_regclass('recollect_migrations') IS NOT NULL"):
        await connection.execute(_JOURNAL)
    known = migrations()
    last = await connection.fetchval("SELECT coalesce(max(number), 0) FROM recollect_migrations")
    if last > len(known):
        raise FormatMismatch(
            f"the database has schema {last}, this version knows {len(known)}: use a newer one"
        )
    for each in known[last:]:
        await connection.execute(each.sql)
        await connection.execute(
            "INSERT INTO recollect_migrations (number, name) VALUES ($1, $2)",
            each.number,
            each.name,
        )
    return len(known) - int(last)
