"""A checkpoint from its beginning to its end, and how old ones go.

    begin         a row in `checkpoints`, not finished
    write_shard   for each shard one transaction: what a cut replaces is closed, its rows come, and
                  the manifest says that they have
    finish        once every shard has its manifest; from then on the checkpoint counts
    retain        checkpoints beyond the newest few go, and row versions that none of the rest needs

A crash between any two leaves the last finished checkpoint as it was: closed rows are still its
own. What an unfinished one has written is not lost either, a shard's next cut builds upon it.

Every step can be repeated. Of two who write one shard the one with the newer checkpoint wins, and
the other is told so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from storage.checkpoint.cut import Cut
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointMissing, ShardMoved, Superseded
from storage.checkpoint.model import FORMAT_VERSION, NOT_WRITTEN, Begun, Manifest, Task
from storage.checkpoint.reading import MANIFEST_COLUMNS, read_manifest
from storage.checkpoint.tables import (
    CLOSINGS,
    COLUMNS,
    REPLACED,
    REPLACED_COLUMNS,
    REPLACED_ELEMENTS,
    VERSIONED,
)

_ENTER: Final = """
SET LOCAL synchronous_commit = off;
CREATE TEMP TABLE IF NOT EXISTS {replaced} ({replaced_columns}) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS {elements} ({elements_columns}) ON COMMIT DELETE ROWS;
SELECT pg_advisory_xact_lock(hashtextextended('recollect {cluster:d}/{shard:d}', 0));
"""
"""All in one question, and the lock last: what is asked next sees what its last holder committed.

A shard alone is worth no wait for the disk: what `finish` commits is on disk with all before."""
_CLUSTER: Final = """
INSERT INTO clusters (cluster_id) VALUES ($1)
ON CONFLICT (cluster_id) DO UPDATE SET cluster_id = excluded.cluster_id RETURNING cluster
"""
_BEGIN: Final = """
INSERT INTO checkpoints (cluster, cluster_id, shards, format_version) VALUES ($1, $2, $3, $4)
RETURNING id
"""
_BASES: Final = """
SELECT DISTINCT ON (shard) shard, applied_index FROM manifests WHERE cluster = $1
ORDER BY shard, checkpoint_id DESC
"""
_STATE: Final = f"""
SELECT c.finished_at IS NULL AS is_open, last.* FROM checkpoints c LEFT JOIN LATERAL (
  SELECT {MANIFEST_COLUMNS} FROM manifests WHERE cluster = $1 AND shard = $2
  ORDER BY checkpoint_id DESC LIMIT 1
) last ON TRUE WHERE c.cluster = $1 AND c.id = $3 FOR KEY SHARE OF c
"""  # noqa: S608
"""Whether a checkpoint may be written, which stays there meanwhile; its shard's last manifest."""
_TEMPORARY: Final = {
    "replaced": REPLACED,
    "replaced_columns": "collection bigint, id bytea",
    "elements": REPLACED_ELEMENTS,
    "elements_columns": "graph bigint, kind integer, id text",
}
_NEWLY_DROPPED: Final = """
INSERT INTO dropped_collections (cluster, shard, from_checkpoint, collection)
SELECT $1, $2, $3, unnest($4::bigint[]) ON CONFLICT DO NOTHING RETURNING collection
"""
_CLOSE: Final = """
closed_{table} AS (
  UPDATE {table} SET to_checkpoint = $3 WHERE ctid = ANY (ARRAY(
    SELECT found.place FROM {source} r CROSS JOIN LATERAL (
      SELECT t.ctid AS place FROM {table} t
      WHERE t.cluster = $1 AND t.shard = $2 AND t.to_checkpoint IS NULL AND {match} LIMIT 1
    ) found WHERE {condition}
  ))
)
"""
"""Said so that each is looked up in the index of what is current: a plain join is planned by
statistics, which after the first checkpoint there are none of, and reads the whole shard."""
_CLOSE_NAMED: Final = {
    name: "WITH"
    + ",".join(
        _CLOSE.format(table=table, source=source, condition=condition, match=match)
        for table, source, condition, match in CLOSINGS
        if source == name
    )
    + "SELECT"
    for name in REPLACED_COLUMNS
}
"""All closings that a file of what is replaced stands for, in one statement."""
_CLOSE_ALL: Final = """
UPDATE {table} SET to_checkpoint = $3
WHERE cluster = $1 AND shard = $2 AND to_checkpoint IS NULL
"""
_CLOSE_DROPPED: Final = _CLOSE_ALL + " AND {column} = ANY($4::bigint[])"
_MANIFEST: Final = """
INSERT INTO manifests (checkpoint_id, cluster, cluster_id, shard, epoch, applied_index, term,
  state_hash, records, tombstones, nodes, hyperedges, collections, rows_written, next_row, clock_ms,
  format_version)
SELECT $1, $2, cluster_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
FROM clusters WHERE cluster = $2
"""
_FINISH: Final = """
UPDATE checkpoints SET finished_at = coalesce(finished_at, now()), catalog = $2
WHERE id = $1 AND shards = (SELECT count(*) FROM manifests WHERE checkpoint_id = $1)
RETURNING id
"""
_RETAINED: Final = """
SELECT id FROM checkpoints WHERE cluster = $1 AND finished_at IS NOT NULL
ORDER BY id DESC LIMIT $2
"""
_FORGET: Final = "DELETE FROM checkpoints WHERE cluster = $1 AND id < $2 AND NOT id = ANY($3)"
_SWEEP: Final = """
DELETE FROM {table} WHERE cluster = $1 AND to_checkpoint <= $2 AND NOT EXISTS (
  SELECT FROM unnest($3::bigint[]) kept WHERE from_checkpoint <= kept AND kept < to_checkpoint
)
"""


async def begin(database: Database, cluster_id: str, shards: int) -> Begun:
    """Begin a checkpoint."""

    async def work(connection: Any) -> Begun:
        cluster = await connection.fetchval(_CLUSTER, cluster_id)
        number = await connection.fetchval(_BEGIN, cluster, cluster_id, shards, FORMAT_VERSION)
        bases = await connection.fetch(_BASES, cluster)
        return Begun(number, cluster, {row["shard"]: row["applied_index"] for row in bases})

    return await database.run(work)


async def write_shard(database: Database, cut: Cut) -> Manifest:
    """Write a cut; return the manifest that is in Postgres now.

    Raises:
        ShardMoved: the cut builds upon a checkpoint that is not the shard's last one.
        CheckpointMissing: the checkpoint was removed, or finished, meanwhile.
    """

    async def work(connection: Any) -> Manifest:
        return await _write(connection, cut)

    return await database.run(work)


async def finish(database: Database, checkpoint: int, catalog: Mapping[str, Any]) -> None:
    """Make a checkpoint count.

    Raises:
        CheckpointMissing: it lacks a shard.
    """

    async def work(connection: Any) -> Any:
        return await connection.fetchval(_FINISH, checkpoint, json.dumps(catalog))

    if await database.run(work) is None:
        raise CheckpointMissing(f"checkpoint {checkpoint} lacks shards")


async def retain(database: Database, cluster: int, kept: int) -> list[int]:
    """Forget all but the newest `kept` finished checkpoints, and what only those needed.

    Returns the checkpoints that are kept. Unfinished ones go when a newer one is finished.
    """
    assert kept >= 1, "the last checkpoint stays"

    async def work(connection: Any) -> list[int]:
        retained = [row["id"] for row in await connection.fetch(_RETAINED, cluster, kept)]
        if retained:
            await connection.execute(_FORGET, cluster, max(retained), retained)
            for table in VERSIONED:
                query = _SWEEP.format(table=table)
                await connection.execute(query, cluster, max(retained), retained)
        return sorted(retained)

    return await database.run(work)


async def _write(connection: Any, cut: Cut) -> Manifest:
    task = cut.task
    await connection.execute(_ENTER.format(cluster=task.cluster, shard=task.shard, **_TEMPORARY))
    state = await connection.fetchrow(_STATE, task.cluster, task.shard, task.checkpoint)
    if state is None:
        raise CheckpointMissing(f"checkpoint {task.checkpoint} is gone")
    last = None if state["checkpoint_id"] is None else read_manifest(state)
    if last is not None and last.checkpoint > task.checkpoint:
        raise Superseded(f"shard {task.shard} is in checkpoint {last.checkpoint} already")
    if last is not None and last.checkpoint == task.checkpoint:
        return last
    if (last.applied_index if last else NOT_WRITTEN) != task.base_index:
        raise ShardMoved(f"shard {task.shard}: another checkpoint came between")
    if not state["is_open"]:
        raise CheckpointMissing(f"checkpoint {task.checkpoint} is finished")
    await _close_replaced(connection, cut)
    for table in VERSIONED:
        await _copy(connection, cut, table, COLUMNS[table])
    await _insert_manifest(connection, task, cut.manifest)
    return cut.manifest


async def _close_replaced(connection: Any, cut: Cut) -> None:
    """Close what is current in Postgres and not in the shard any more."""
    key = (cut.task.cluster, cut.task.shard, cut.task.checkpoint)
    if cut.task.is_first:
        for table in VERSIONED:
            await connection.execute(_CLOSE_ALL.format(table=table), *key)
    for name, columns in REPLACED_COLUMNS.items():
        if cut.spool.rows.get(name):
            await _copy(connection, cut, name, columns)
            await connection.execute(_CLOSE_NAMED[name], *key)
    if cut.dropped:
        found = await connection.fetch(_NEWLY_DROPPED, *key, cut.dropped)
        dropped = [row["collection"] for row in found]
        for table, column in VERSIONED.items() if dropped else ():
            query = _CLOSE_DROPPED.format(table=table, column=column)
            await connection.execute(query, *key, dropped)


async def _copy(connection: Any, cut: Cut, name: str, columns: Sequence[str]) -> None:
    if cut.spool.rows[name]:
        await connection.copy_to_table(
            name, source=cut.spool.read(name), columns=columns, format="binary"
        )


async def _insert_manifest(connection: Any, task: Task, manifest: Manifest) -> None:
    counts = manifest.counts
    collections = {str(uid): count for uid, count in sorted(counts.collections.items())}
    await connection.execute(
        _MANIFEST,
        task.checkpoint,
        task.cluster,
        task.shard,
        task.epoch,
        manifest.applied_index,
        manifest.term,
        manifest.state_hash,
        counts.records,
        counts.tombstones,
        counts.nodes,
        counts.hyperedges,
        json.dumps(collections),
        manifest.rows_written,
        manifest.next_row,
        manifest.clock_ms,
        FORMAT_VERSION,
    )
