"""The rows of a shard as they come out of Postgres: hashed, counted, compared with the manifest.

Verifying looks at every byte and keeps nothing; restoring does the same and hands the rows on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointDamaged
from storage.checkpoint.model import Counts, Manifest
from storage.checkpoint.reading import (
    TABLES,
    cluster_number,
    dropped_collections,
    shard_rows,
)
from storage.graph_rows import Kind
from storage.record_hash import SetHash, element_digest, row_digest, tombstone_digest

Take = Callable[[str, Sequence[Any], Sequence[bytes]], None]
"""Takes rows of a table, with their digests where the table has any. Runs on a thread."""


def _ignore(table: str, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    del table, rows, digests


class _Tally:
    """Hash and counts of what has passed."""

    def __init__(self, take: Take) -> None:
        self.hash = SetHash()
        self.collections: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self._take = take

    def add(self, table: str, rows: Sequence[Any]) -> None:
        """Count rows, and hand them on."""
        digests = [_digest(table, row) for row in rows] if table != "graph_counts" else []
        self.hash.add(digests)
        self.counts[table] += len(rows)
        if table == "records":
            self.collections.update(row["collection"] for row in rows)
        self._take(table, rows, digests)

    def compare(self, manifest: Manifest) -> None:
        """Raise CheckpointDamaged unless all was as the manifest says."""
        found = Counts(
            records=self.counts["records"],
            tombstones=self.counts["tombstones"],
            nodes=self.counts["nodes"],
            hyperedges=self.counts["hyperedges"],
            collections=dict(self.collections),
        )
        where = f"shard {manifest.shard} of checkpoint {manifest.checkpoint}"
        if found != manifest.counts:
            raise CheckpointDamaged(f"{where} has {found}, not {manifest.counts}")
        if self.hash.digest() != manifest.state_hash:
            raise CheckpointDamaged(
                f"{where} has the hash {self.hash.digest().hex()}, not {manifest.state_hash.hex()}"
            )


async def verify_shard(
    database: Database, manifest: Manifest, *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Read all rows of a shard as of a checkpoint, and prove them; `advance` is told of each lot.

    Raises:
        CheckpointDamaged: hash or counts are not the manifest's.
    """
    await read_shard(database, manifest, take=_ignore, advance=advance)


async def read_shard(
    database: Database,
    manifest: Manifest,
    *,
    take: Take,
    advance: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Read all rows of a shard as of a checkpoint, under one snapshot, and prove them.

    They are handed to `take` on a thread; it is not told when reading begins anew, so it must be
    made for one reading: nothing is tried again here. Returns the collections that were dropped.
    """

    async def work(connection: Any) -> list[int]:
        tally = _Tally(take)
        cluster = await cluster_number(connection, manifest.checkpoint)
        for table in TABLES:
            async for rows in shard_rows(connection, table, cluster, manifest):
                await asyncio.to_thread(tally.add, table, rows)
                advance(len(rows))
        tally.compare(manifest)
        return await dropped_collections(connection, cluster, manifest)

    return await database.once(work, isolation="repeatable_read", readonly=True)


def _digest(table: str, row: Any) -> bytes:
    if table == "records":
        key, times = (row["collection"], row["id"]), (row["created_ms"], row["updated_ms"])
        return row_digest(key, row["version"], times, row["payload"].encode(), row["vector"])
    if table == "tombstones":
        return tombstone_digest(row["collection"], row["id"], row["version"])
    expired = row["expired_ms"] if table == "hyperedges" else None
    kind = Kind.EDGE if table == "hyperedges" else Kind.NODE
    return element_digest(
        row["graph"],
        kind,
        row["id"],
        row["version"],
        row["created_ms"],
        row["updated_ms"],
        expired,
        row["content"],
    )
