"""Brings a schema in Postgres up to this version: numbered scripts, each run once.

All that lacks is run in one transaction under a lock, so any number of nodes may do this at the
same time, and a crash leaves the schema as it was. A database that a newer version has migrated is
refused: this one would not know what it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final

from storage.checkpoint.database import Database
from storage.checkpoint.errors import DatabaseRefused, FormatMismatch

_JOURNAL: Final = """
CREATE TABLE IF NOT EXISTS {journal} (
  number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Schema:
    """A series of scripts: the package they are in, the table of those that were run, and the
    number of the lock. `home` is a schema of Postgres that is made for it."""

    package: str
    journal: str
    lock: int
    home: str = ""


CHECKPOINTS: Final = Schema(
    "storage.checkpoint.migrations", "recollect_migrations", 0x5243_4C54_4D49_4752
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One script."""

    number: int
    name: str
    sql: str


def migrations(schema: Schema = CHECKPOINTS) -> list[Migration]:
    """Return all scripts of this version, in order."""
    found = []
    for file in files(schema.package).iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_text()))
    ordered = sorted(found, key=lambda each: each.number)
    numbers = [each.number for each in ordered]
    assert numbers == list(range(1, len(numbers) + 1)), "migrations are numbered without gaps"
    return ordered


async def migrate(database: Database, schema: Schema = CHECKPOINTS) -> int:
    """Run the scripts that lack; return how many those were.

    Raises:
        FormatMismatch: the database is of a newer version.
        DatabaseRefused: it does not keep text as UTF-8, or we may not make tables.
    """
    return await database.run(partial(_migrate, schema))


async def _migrate(schema: Schema, connection: Any) -> int:
    journal = schema.journal
    await connection.execute("SELECT pg_advisory_xact_lock($1)", schema.lock)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise DatabaseRefused(f"the database keeps text as {encoding}, not as UTF8")
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", journal):
        if schema.home:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema.home}")
        await connection.execute(_JOURNAL.format(journal=journal))
    known = migrations(schema)
    last = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {journal}")  # noqa: S608
    if last > len(known):
        raise FormatMismatch(
            f"the database has schema {last}, this version knows {len(known)}: use a newer one"
        )
    for each in known[last:]:
        await connection.execute(each.sql)
        await connection.execute(
            f"INSERT INTO {journal} (number, name) VALUES ($1, $2)",  # noqa: S608
            each.number,
            each.name,
        )
    return len(known) - int(last)
