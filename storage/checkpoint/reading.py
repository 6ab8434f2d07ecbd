"""What there is in Postgres: checkpoints, manifests, and the rows of a shard as of a checkpoint.

Only finished checkpoints are shown. Rows are read under one snapshot of Postgres, so that neither a
checkpoint that is being written nor the removal of old ones changes them while they are read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointMissing, FormatMismatch
from storage.checkpoint.model import FORMAT_VERSION, Checkpoint, Counts, Manifest

PREFETCH_ROWS: Final = 500
MANIFEST_COLUMNS: Final = (
    "checkpoint_id, shard, epoch, applied_index, term, state_hash, records, tombstones, nodes, "
    "hyperedges, collections, rows_written, next_row, clock_ms, format_version"
)
_CHECKPOINTS: Final = """
SELECT id, cluster_id, started_at, finished_at, shards, format_version, catalog
FROM checkpoints WHERE finished_at IS NOT NULL AND ($1::text IS NULL OR cluster_id = $1)
  AND ($2::bigint IS NULL OR id = $2)
ORDER BY id DESC
"""
_MANIFESTS: Final = (
    f"SELECT {MANIFEST_COLUMNS} FROM manifests WHERE checkpoint_id = ANY($1) ORDER BY shard"  # noqa: S608
)
_AT: Final = """
SELECT {columns} FROM {table} WHERE cluster = $1 AND shard = $2 AND from_checkpoint <= $3
  AND to_checkpoint IS NULL
UNION ALL
SELECT {columns} FROM {table} WHERE cluster = $1 AND shard = $2 AND from_checkpoint <= $3
  AND to_checkpoint > $3
"""
TABLES: Final = {
    "records": "collection, id, version, created_ms, updated_ms, row_number, payload, vector",
    "tombstones": "collection, id, version",
    "nodes": "graph, id, version, created_ms, updated_ms, row_number, content",
    "hyperedges": (
        "graph, id, version, created_ms, updated_ms, row_number, expired_ms, member_rows, content"
    ),
    "graph_counts": "graph, version, nodes, edges",
}
"""What is read of each table, to make a shard of."""
_DROPPED: Final = """
SELECT collection FROM dropped_collections
WHERE cluster = $1 AND shard = $2 AND from_checkpoint <= $3 ORDER BY collection
"""


def read_manifest(found: Any) -> Manifest:
    """Return the manifest of a row with MANIFEST_COLUMNS; raises FormatMismatch."""
    _require_format(found["checkpoint_id"], found["format_version"])
    collections = json.loads(found["collections"])
    return Manifest(
        checkpoint=found["checkpoint_id"],
        shard=found["shard"],
        epoch=found["epoch"],
        applied_index=found["applied_index"],
        term=found["term"],
        state_hash=bytes(found["state_hash"]),
        counts=Counts(
            records=found["records"],
            tombstones=found["tombstones"],
            nodes=found["nodes"],
            hyperedges=found["hyperedges"],
            collections={int(uid): count for uid, count in collections.items()},
        ),
        rows_written=found["rows_written"],
        next_row=found["next_row"],
        clock_ms=found["clock_ms"],
    )


async def checkpoints(database: Database, cluster_id: str | None = None) -> list[Checkpoint]:
    """Return the finished checkpoints of a cluster, or of all, newest first."""

    async def work(connection: Any) -> list[Checkpoint]:
        return await _found(connection, cluster_id, None)

    return await database.run(work, readonly=True)


async def checkpoint(
    database: Database, number: int | None = None, cluster_id: str | None = None
) -> Checkpoint:
    """Return a finished checkpoint, by default the newest one.

    Raises:
        CheckpointMissing: there is none, or it was not finished.
        FormatMismatch: another version wrote it.
    """

    async def work(connection: Any) -> list[Checkpoint]:
        return await _found(connection, cluster_id, number)

    found = await database.run(work, isolation="repeatable_read", readonly=True)
    if not found:
        what = "no finished checkpoint" if number is None else f"no finished checkpoint {number}"
        raise CheckpointMissing(f"the database has {what}")
    return found[0]


async def _found(connection: Any, cluster_id: str | None, number: int | None) -> list[Checkpoint]:
    if not await connection.fetchval("SELECT to_regclass('checkpoints') IS NOT NULL"):
        return []  # nobody has written into this database yet
    rows = await connection.fetch(_CHECKPOINTS, cluster_id, number)
    for row in rows:
        _require_format(row["id"], row["format_version"])
    by_checkpoint: dict[int, list[Manifest]] = {row["id"]: [] for row in rows}
    for found in await connection.fetch(_MANIFESTS, list(by_checkpoint)):
        by_checkpoint[found["checkpoint_id"]].append(read_manifest(found))
    return [
        Checkpoint(
            id=row["id"],
            cluster_id=row["cluster_id"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            shards=row["shards"],
            catalog=json.loads(row["catalog"]),
            manifests=tuple(by_checkpoint[row["id"]]),
        )
        for row in rows
    ]


async def shard_rows(
    connection: Any, table: str, cluster: int, manifest: Manifest
) -> AsyncIterator[list[Any]]:
    """Yield the rows of a table as of a shard's checkpoint, some at a time; see TABLES.

    The connection is in a transaction.
    """
    query = _AT.format(columns=TABLES[table], table=table)
    cursor = await connection.cursor(query, cluster, manifest.shard, manifest.checkpoint)
    while rows := await cursor.fetch(PREFETCH_ROWS):
        yield rows


async def dropped_collections(connection: Any, cluster: int, manifest: Manifest) -> list[int]:
    """Return the collections that a shard had dropped as of a checkpoint."""
    found = await connection.fetch(_DROPPED, cluster, manifest.shard, manifest.checkpoint)
    return [row["collection"] for row in found]


async def cluster_number(connection: Any, number: int) -> int:
    """Return the short number of the cluster of a checkpoint; raises CheckpointMissing."""
    query = "SELECT cluster FROM checkpoints WHERE id = $1 AND finished_at IS NOT NULL"
    cluster = await connection.fetchval(query, number)
    if cluster is None:
        raise CheckpointMissing(f"checkpoint {number} is gone")
    return int(cluster)


def _require_format(number: int, version: int) -> None:
    if version != FORMAT_VERSION:
        raise FormatMismatch(
            f"checkpoint {number} has format {version}, this version reads {FORMAT_VERSION}"
        )


async def age_s(database: Database, cluster_id: str) -> float | None:
    """Return how many seconds ago, by Postgres' clock, a cluster's last checkpoint was finished."""
    query = (
        "SELECT extract(epoch FROM now() - max(finished_at))::float8 FROM checkpoints "
        "WHERE cluster_id = $1"
    )

    async def work(connection: Any) -> float | None:
        found: float | None = await connection.fetchval(query, cluster_id)
        return found

    return await database.run(work, readonly=True)
