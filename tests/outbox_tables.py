"""For tests of outboxes: a user's table in a real Postgres, and what waits behind it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from storage.checkpoint.database import Database
from storage.embedded_postgres import EmbeddedPostgres
from storage.outbox.installing import Wanted, install
from storage.outbox.model import Status
from storage.outbox.status import statuses
from tests.postgres import empty_database

NOTES = "CREATE TABLE notes (id bigint PRIMARY KEY, body text, stars integer)"
WANTED = Wanted(
    table="notes", collection="notes", id_column="id", text_column="body", payload=("body",)
)


@dataclass(frozen=True)
class Place:
    """A database: its pool, a connection of its user, its URL."""

    database: Database
    user: Any
    url: str

    async def waiting(self) -> list[tuple[str, str, dict[str, Any] | None]]:
        """Return the changes that wait, in the order of their sequences."""
        rows = await self.user.fetch(
            "SELECT op, key, image::text FROM recollect_outbox.events ORDER BY seq"
        )
        return [(op, key, None if image is None else json.loads(image)) for op, key, image in rows]

    async def status(self) -> Status:
        """Return how the only source fares."""
        (found,) = await statuses(self.database)
        return found


@contextlib.asynccontextmanager
async def place(server: EmbeddedPostgres, *statements: str) -> AsyncIterator[Place]:
    """Yield a database of its own, after these statements."""
    async with (
        empty_database(server) as url,
        Database.opened(url, patience_s=5) as database,
    ):
        user = await asyncpg.connect(url)
        try:
            for statement in statements:
                await user.execute(statement)
            yield Place(database, user, url)
        finally:
            await user.close()


@contextlib.asynccontextmanager
async def notes(server: EmbeddedPostgres) -> AsyncIterator[Place]:
    """Yield a database whose table `notes` flows into the collection `notes`."""
    async with place(server, NOTES) as found:
        await install(found.database, WANTED)
        yield found
