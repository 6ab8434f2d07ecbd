"""Patterns in SQL: `reasoning_patterns` follows the collection, with or without pgvector."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from cluster.command import Delete
from cluster.shard import ShardMachine
from storage.checkpoint.patterns import refresh_patterns
from storage.checkpoint.reading import checkpoint
from storage.ids import encode_id
from tests.postgres import checkpoint_shard, fresh_database
from tests.shard_commands import TTL_MS, apply, command, point, upsert, vector

PATTERN = {
    "task": "sail",
    "input": "wind",
    "output": "waves",
    "critique": "reef earlier",
    "reward": 0.5,
    "success": True,
    "sessionId": "s1",
    "metadata": {"boat": "small"},
}


@pytest.fixture
async def database(postgres):
    async with fresh_database(postgres) as (found, _):
        yield found


async def refreshed(database, machine, folder, collection=1):
    """Checkpoint a shard, and let the table follow."""
    manifest = await checkpoint_shard(database, machine, folder)
    found = await checkpoint(database, manifest.checkpoint)
    return await refresh_patterns(database, found, collection, 2)


def stored(number, element=1.0, **changes):
    payload = json.dumps({**PATTERN, **changes}).encode()
    return point(number, payload, element)


async def test_a_pattern_has_its_columns(database, tmp_path):
    """Every field of a pattern is a column of the type that people expect."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(stored(1))))
    count = await refreshed(database, machine, tmp_path)
    row = await database.run(lambda c: c.fetchrow("SELECT * FROM reasoning_patterns"))
    found = dict(row)

    assert count == 1
    assert json.loads(found.pop("metadata")) == {"boat": "small"}
    assert found.pop("created_at") == found.pop("updated_at") == datetime.fromtimestamp(1, UTC)
    assert np.frombuffer(found.pop("embedding")[4:], ">f4").tolist() == [1.0, 0.5]
    assert found == {
        "cluster": 1,
        "id": "1",
        "session_id": "s1",
        "task": "sail",
        "reward": 0.5,
        "success": True,
        "input": "wind",
        "output": "waves",
        "critique": "reef earlier",
        "version": 2,
    }


async def test_the_table_follows(database, tmp_path):
    """What was changed, deleted or added between two checkpoints is so in the table, once."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(*(stored(number) for number in range(5)))))
    counts = [await refreshed(database, machine, tmp_path)]
    apply(machine, command(upsert(stored(1, reward=2), stored(9, task="row"))))
    apply(machine, command(Delete(1, [encode_id(0)])))
    counts += [await refreshed(database, machine, tmp_path) for _ in range(2)]
    query = "SELECT id, task, reward FROM reasoning_patterns ORDER BY id"
    rows = await database.run(lambda c: c.fetch(query))

    assert counts == [5, 2, 0]
    assert [tuple(row) for row in rows] == [
        ("1", "sail", 2),
        ("2", "sail", 0.5),
        ("3", "sail", 0.5),
        ("4", "sail", 0.5),
        ("9", "row", 0.5),
    ]


async def test_odd_payloads_are_taken(database, tmp_path):
    """A point that somebody wrote into the collection by hand has what fits, and no more."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    odd = stored(1, reward="much", success=1, metadata=[1], task={"a": 1})
    apply(machine, command(upsert(odd, point(2))))
    await refreshed(database, machine, tmp_path)
    query = "SELECT task, reward, success, metadata FROM reasoning_patterns ORDER BY id"
    rows = await database.run(lambda c: c.fetch(query))

    assert [tuple(row) for row in rows] == [
        ('{"a":1}', None, None, "[1]"),
        (None, None, None, None),
    ]


async def test_another_collection_takes_the_table(database, tmp_path):
    """When the collection was dropped and made anew, nothing of the old one stays."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(stored(1))), command(upsert(stored(2), collection=5)))
    await refreshed(database, machine, tmp_path)
    await refreshed(database, machine, tmp_path, collection=5)
    rows = await database.run(lambda c: c.fetch("SELECT id FROM reasoning_patterns"))

    assert [row["id"] for row in rows] == ["2"]


async def test_the_nearest_are_found_by_index(database, tmp_path):
    """With pgvector the column has its size, and an HNSW index that a search by cosine uses."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(*(stored(number, 0.1 * number) for number in range(9)))))
    await refreshed(database, machine, tmp_path)
    definition = await database.run(
        lambda c: c.fetchval(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'reasoning_patterns_by_embedding'"
        )
    )
    nearest = "SELECT id FROM reasoning_patterns ORDER BY embedding <=> '[0.5,0.5]' LIMIT 1"
    found = await database.run(lambda c: c.fetchval(nearest))

    assert "USING hnsw (embedding vector_cosine_ops)" in definition
    assert "(m='16', ef_construction='200')" in definition
    assert found == "5"


async def test_without_pgvector_embeddings_are_bytes(database, tmp_path):
    """Where the extension is not to be had, everything else works."""
    await database.run(
        lambda c: c.execute(
            "ALTER TABLE reasoning_patterns DROP COLUMN embedding; "
            "ALTER TABLE reasoning_patterns ADD COLUMN embedding bytea"
        )
    )
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(stored(1))))
    await refreshed(database, machine, tmp_path)
    embedding = await database.run(lambda c: c.fetchval("SELECT embedding FROM reasoning_patterns"))

    assert embedding == vector(1.0, 0.5)


async def test_a_session_may_have_a_long_name(database, tmp_path):
    """A text that no B-tree holds stops neither the table nor looking it up."""
    name = "".join(map(chr, np.random.default_rng(1).integers(33, 126, 20_000)))
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(stored(1, sessionId=name))))
    await refreshed(database, machine, tmp_path)
    found = await database.run(
        lambda c: c.fetchval("SELECT id FROM reasoning_patterns WHERE session_id = $1", name)
    )

    assert found == "1"
