"""A checkpoint from its beginning to its end, and how old ones go.

    begin         a row in `checkpoints`, not finished
    write_shards  for each shard in one transaction, its own or that of several: what a cut replaces
                  is closed, its rows come, and the manifest says that they have
    finish        once every shard has its manifest; from then on the checkpoint counts
    retain        checkpoints beyond the newest few go, and row versions that none of the rest needs

A crash between any two leaves the last finished checkpoint as it was: closed rows are still its
own. What an unfinished one has written is not lost either, a shard's next cut builds upon it.

Every step can be repeated. Of two who write one shard the one with the newer checkpoint wins, and
the other is told so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from storage.checkpoint.closing import close_replaced
from storage.checkpoint.copy_format import HEADER, TRAILER
from storage.checkpoint.cut import Cut
from storage.checkpoint.database import Database
from storage.checkpoint.errors import (
    CheckpointError,
    CheckpointMissing,
    DatabaseUnavailable,
    ShardMoved,
    Superseded,
)
from storage.checkpoint.model import FORMAT_VERSION, NOT_WRITTEN, Begun, Manifest, Task
from storage.checkpoint.reading import MANIFEST_COLUMNS, read_manifest
from storage.checkpoint.tables import COLUMNS, VERSIONED

_ENTER: Final = "SET LOCAL synchronous_commit = off;"
_LOCK: Final = (
    "SELECT pg_advisory_xact_lock(hashtextextended('recollect {cluster:d}/{shard:d}', 0));"
)
"""All in one question, and the locks last, in the order of shards: what is asked next sees what
their last holders committed.

A shard alone is worth no wait for the disk: what `finish` commits is on disk with all before."""
_BEGIN: Final = """
WITH ours AS (
  INSERT INTO clusters (cluster_id) VALUES ($1)
  ON CONFLICT (cluster_id) DO UPDATE SET cluster_id = excluded.cluster_id RETURNING cluster
), begun AS (
  INSERT INTO checkpoints (cluster, cluster_id, shards, format_version)
  SELECT cluster, $1, $2, $3 FROM ours RETURNING id, cluster
)
SELECT begun.id, begun.cluster, base.shard, base.applied_index FROM begun LEFT JOIN LATERAL (
  SELECT DISTINCT ON (shard) shard, applied_index FROM manifests WHERE cluster = begun.cluster
  ORDER BY shard, checkpoint_id DESC
) base ON TRUE
"""
"""A checkpoint's number, its cluster's, and how far each shard was in its last manifest, if any."""
_STATES: Final = f"""
SELECT asked.shard AS asked, c.finished_at IS NULL AS is_open, last.*
FROM checkpoints c CROSS JOIN unnest($3::text[]::integer[]) AS asked(shard) LEFT JOIN LATERAL (
  SELECT {MANIFEST_COLUMNS} FROM manifests m WHERE m.cluster = $1 AND m.shard = asked.shard
  ORDER BY checkpoint_id DESC LIMIT 1
) last ON TRUE WHERE c.cluster = $1 AND c.id = $2 FOR KEY SHARE OF c
"""  # noqa: S608
"""Whether a checkpoint may be written, which stays there meanwhile; its shards' last manifests."""
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
        rows = await connection.fetch(_BEGIN, cluster_id, shards, FORMAT_VERSION)
        bases = {row["shard"]: row["applied_index"] for row in rows if row["shard"] is not None}
        return Begun(rows[0]["id"], rows[0]["cluster"], bases)

    return await database.run(work)


async def write_shard(database: Database, cut: Cut) -> Manifest:
    """Write a cut; return the manifest that is in Postgres now.

    Raises:
        ShardMoved: the cut builds upon a checkpoint that is not the shard's last one.
        CheckpointMissing: the checkpoint was removed, or finished, meanwhile.
    """
    (outcome,) = await write_shards(database, [cut])
    if isinstance(outcome, CheckpointError):
        raise outcome
    return outcome


async def write_shards(database: Database, cuts: Sequence[Cut]) -> list[Manifest | CheckpointError]:
    """Write cuts through several shards, of one checkpoint, in one transaction.

    Returns for each what `write_shard` returns or raises. A shard that is refused does not keep
    the others back; when Postgres refuses all of them together, each is written alone.
    """

    async def work(connection: Any) -> list[Manifest | CheckpointError]:
        return await _write(connection, cuts)

    try:
        return await database.run(work)
    except DatabaseUnavailable as error:
        return [error] * len(cuts)
    except CheckpointError as error:
        if len(cuts) == 1:
            return [error]
    return [outcome for cut in cuts for outcome in await write_shards(database, [cut])]


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


async def _write(connection: Any, cuts: Sequence[Cut]) -> list[Manifest | CheckpointError]:
    shards = sorted(cut.task.shard for cut in cuts)
    cluster, checkpoint = cuts[0].task.cluster, cuts[0].task.checkpoint
    locks = (_LOCK.format(cluster=cluster, shard=shard) for shard in shards)
    await connection.execute("".join((_ENTER, *locks)))
    found = await connection.fetch(_STATES, cluster, checkpoint, [*map(str, shards)])
    states = {state["asked"]: state for state in found}
    settled = {cut.task.shard: _settled(cut.task, states.get(cut.task.shard)) for cut in cuts}
    if written := [cut for cut in cuts if settled[cut.task.shard] is None]:
        await close_replaced(connection, written)
        for table in VERSIONED:
            await _copy(connection, written, table)
        await connection.executemany(_MANIFEST, [_manifest_row(cut) for cut in written])
    return [settled[cut.task.shard] or cut.manifest for cut in cuts]


def _settled(task: Task, state: Any) -> Manifest | CheckpointError | None:
    """Return what a shard's part comes to without being written; None: it is to be written."""
    if state is None:
        return CheckpointMissing(f"checkpoint {task.checkpoint} is gone")
    last = None if state["checkpoint_id"] is None else read_manifest(state)
    if last is not None and last.checkpoint > task.checkpoint:
        return Superseded(f"shard {task.shard} is in checkpoint {last.checkpoint} already")
    if last is not None and last.checkpoint == task.checkpoint:
        return last
    if (last.applied_index if last else NOT_WRITTEN) != task.base_index:
        return ShardMoved(f"shard {task.shard}: another checkpoint came between")
    if not state["is_open"]:
        return CheckpointMissing(f"checkpoint {task.checkpoint} is finished")
    return None


async def _copy(connection: Any, cuts: Sequence[Cut], table: str) -> None:
    filled = [cut for cut in cuts if cut.spool.rows[table]]

    async def source() -> AsyncIterator[bytes]:
        yield HEADER
        for cut in filled:
            async for piece in cut.spool.read(table):
                yield piece
        yield TRAILER

    if filled:
        await connection.copy_to_table(
            table, source=source(), columns=COLUMNS[table], format="binary"
        )


def _manifest_row(cut: Cut) -> tuple[Any, ...]:
    task, manifest, counts = cut.task, cut.manifest, cut.manifest.counts
    collections = {str(uid): count for uid, count in sorted(counts.collections.items())}
    return (
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
