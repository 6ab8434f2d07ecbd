"""Patterns in columns of their own, to be asked in SQL: the table `reasoning_patterns`.

It follows the collection of patterns from one finished checkpoint to the next, and holds nothing
that is not in `records` too, so it has a transaction of its own: whatever becomes of that, the
checkpoint stands. With pgvector an embedding is a `vector`; its size is set, and its HNSW index
built, when the first patterns come, since an index is built in bulk in a fraction of the time.
Later patterns of another size are there without their embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from storage.checkpoint.database import Database
from storage.checkpoint.model import Checkpoint
from storage.checkpoint.reading import PREFETCH_ROWS, cluster_number

INDEXED_DIMENSION_MAX: Final = 2000
"""pgvector indexes no larger ones."""
COLUMNS: Final = (
    "cluster", "id", "session_id", "task", "reward", "success", "input", "output", "critique",
    "metadata", "version", "created_at", "updated_at", "embedding",
)  # fmt: skip
_LOCK: Final = "LOCK TABLE pattern_progress IN SHARE ROW EXCLUSIVE MODE"
_PROGRESS: Final = "SELECT collection, checkpoint_id FROM pattern_progress WHERE cluster = $1"
_ADVANCE: Final = """
INSERT INTO pattern_progress VALUES ($1, $2, $3) ON CONFLICT (cluster)
DO UPDATE SET collection = excluded.collection, checkpoint_id = excluded.checkpoint_id
"""
_ID: Final = "coalesce(r.shard_key || '/', '') || r.id_text"
_GONE: Final = f"""
DELETE FROM reasoning_patterns p USING records r
WHERE p.cluster = $1 AND p.id = {_ID} AND r.cluster = $1 AND r.collection = $2
  AND r.shard = ANY($3::integer[]) AND r.to_checkpoint > $4 AND r.to_checkpoint <= $5
"""  # noqa: S608
_COME: Final = f"""
SELECT $1::integer AS cluster, {_ID} AS id, payload ->> 'sessionId' AS session_id,
  payload ->> 'task' AS task,
  CASE json_typeof(payload -> 'reward') WHEN 'number' THEN (payload ->> 'reward')::float8 END,
  CASE json_typeof(payload -> 'success') WHEN 'boolean' THEN (payload ->> 'success')::boolean END,
  payload ->> 'input' AS input, payload ->> 'output' AS output, payload ->> 'critique' AS critique,
  payload ->> 'metadata' AS metadata, version,
  to_timestamp(least(created_ms, 253402300799999) / 1000.0),
  to_timestamp(least(updated_ms, 253402300799999) / 1000.0), vector
FROM records r
WHERE cluster = $1 AND collection = $2 AND shard = ANY($3::integer[])
  AND from_checkpoint > $4 AND from_checkpoint <= $5
  AND (to_checkpoint IS NULL OR to_checkpoint > $5)
"""  # noqa: S608
_EMBEDDING: Final = """
SELECT t.typname AS type, n.nspname AS schema, a.atttypmod AS size
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = 'reasoning_patterns'::regclass AND a.attname = 'embedding'
"""
_RESIZE: Final = """
ALTER TABLE reasoning_patterns ALTER COLUMN embedding TYPE {schema}.vector({size})
"""
_INDEX: Final = """
CREATE INDEX IF NOT EXISTS reasoning_patterns_by_embedding ON reasoning_patterns
USING hnsw (embedding {schema}.vector_cosine_ops) WITH (m = 16, ef_construction = 200)
"""
_BUILD_SETTINGS: Final = """
SET LOCAL maintenance_work_mem = '256MB';
SET LOCAL max_parallel_maintenance_workers = 0;
"""
"""Workers would share that memory in /dev/shm, of which containers have little."""

Encoder = Callable[[bytes], bytes | None]


async def refresh_patterns(
    database: Database, checkpoint: Checkpoint, collection: int, dimension: int
) -> int:
    """Make `reasoning_patterns` show a collection as of a checkpoint; return how many came."""

    async def work(connection: Any) -> int:
        cluster = await cluster_number(connection, checkpoint.id)
        await connection.execute(_LOCK)
        last = await connection.fetchrow(_PROGRESS, cluster)
        since = last["checkpoint_id"] if last and last["collection"] == collection else 0
        if since >= checkpoint.id:
            return 0
        key = (cluster, collection, list(range(checkpoint.shards)), since, checkpoint.id)
        if since:
            await connection.execute(_GONE, *key)
        else:
            await connection.execute("DELETE FROM reasoning_patterns WHERE cluster = $1", cluster)
        count = await _take(connection, key, dimension)
        await connection.execute(_ADVANCE, cluster, collection, checkpoint.id)
        return count

    return await database.run(work)


async def _take(connection: Any, key: Sequence[Any], dimension: int) -> int:
    kind = await connection.fetchrow(_EMBEDDING)
    is_vector = kind["type"] == "vector"
    size = kind["size"]
    encode: Encoder = bytes
    if is_vector:
        if size < 0:
            size = dimension
            await connection.execute(_RESIZE.format(schema=kind["schema"], size=size))
        await connection.set_type_codec(
            "vector", schema=kind["schema"], encoder=bytes, decoder=bytes, format="binary"
        )
        encode = _vector_encoder(size)
    count = 0
    cursor = await connection.cursor(_COME, *key)
    while rows := await cursor.fetch(PREFETCH_ROWS):
        records = [(*tuple(row)[:-1], encode(row["vector"])) for row in rows]
        await connection.copy_records_to_table(
            "reasoning_patterns", records=records, columns=COLUMNS
        )
        count += len(records)
    if is_vector and size <= INDEXED_DIMENSION_MAX:
        await connection.execute(_BUILD_SETTINGS)
        await connection.execute(_INDEX.format(schema=kind["schema"]))
    return count


def _vector_encoder(size: int) -> Encoder:
    """Return what makes a stored vector into pgvector's binary form; None: of another size."""
    head = size.to_bytes(2, "big") + bytes(2)

    def encode(raw: bytes) -> bytes | None:
        if len(raw) != 4 * size:
            return None
        return head + np.frombuffer(raw, "<f4").astype(">f4").tobytes()

    return encode
