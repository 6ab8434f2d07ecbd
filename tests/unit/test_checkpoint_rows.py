"""Checkpoints of shards in a real Postgres: what is written comes back, whole and from any time."""

import asyncio
import uuid
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cluster.checkpoint_elements import GraphElements
from cluster.command import Delete
from cluster.graph_rows import stored_edges, stored_nodes
from cluster.shard import ShardMachine
from storage.checkpoint import closing, spool
from storage.checkpoint.contents import verify_shard
from storage.checkpoint.errors import CheckpointDamaged, CheckpointMissing
from storage.checkpoint.reading import checkpoint, checkpoints
from storage.checkpoint.writing import begin, retain
from storage.embedded_postgres import EmbeddedPostgres
from storage.graph_rows import Kind, graph_elements
from tests.postgres import checkpoint_shard, dump, fresh_database, on, quick_folder, restored
from tests.shard_commands import TTL_MS, apply, command, point, upsert
from tests.shard_histories import CHAPTERS, GRAPH

relaxed = settings(
    max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres):
    """A database for all tests of this module; each example is a cluster of its own."""
    with asyncio.Runner() as runner:
        database = fresh_database(postgres)
        _, found = runner.run(database.__aenter__())
        yield found
        runner.run(database.__aexit__(None, None, None))


def new_shard():
    return ShardMachine(None, request_id_ttl_ms=TTL_MS)


async def tell(database, chapters):
    """Checkpoint a shard after each chapter; restore every checkpoint, and a full one at the end.

    Returns what the shard was, and what was restored, of each.
    """
    machine = new_shard()
    with quick_folder() as name:
        folder, cluster_id = Path(name), uuid.uuid4().hex
        manifests, wanted = [], []
        for commands in chapters:
            apply(machine, *commands)
            manifests.append(await checkpoint_shard(database, machine, folder, cluster_id))
            wanted.append(dump(machine))
        full = await checkpoint_shard(database, machine, folder, f"{cluster_id} again")
        found = []
        for manifest in (*manifests, full):
            copy = await restored(database, manifest, folder / f"state-{manifest.checkpoint}")
            assert copy.recompute_hash() == copy.state_hash() == manifest.state_hash
            found.append(dump(copy))
            copy.close()
    machine.close()
    return [*wanted, wanted[-1]], found


@relaxed
@given(CHAPTERS)
def test_every_checkpoint_comes_back(url, chapters):
    """Incremental or full, early or late: each restored shard is the shard row by row."""
    wanted, found = on(url, lambda database: tell(database, chapters))

    assert found == wanted


@settings(relaxed, max_examples=5)
@given(CHAPTERS)
def test_old_checkpoints_go_and_others_stay(url, chapters):
    """What is retained can be restored; what only forgotten ones needed is deleted."""

    async def story(database):
        machine = new_shard()
        cluster_id, kept = uuid.uuid4().hex, {}
        with quick_folder() as name:
            for commands in chapters:
                apply(machine, *commands)
                manifest = await checkpoint_shard(database, machine, Path(name), cluster_id)
                kept[manifest.checkpoint] = (manifest, dump(machine))
            number = await database.run(
                lambda c: c.fetchval("SELECT cluster FROM clusters WHERE cluster_id=$1", cluster_id)
            )
            retained = await retain(database, number, 2)
            assert retained == sorted(kept)[-2:]
            for each in retained:
                manifest, wanted = kept[each]
                copy = await restored(database, manifest, Path(name) / f"state-{each}")
                assert dump(copy) == wanted
                copy.close()
            count = """SELECT count(*) FROM records WHERE cluster = $1 AND to_checkpoint <= $2"""
            return await database.run(lambda c: c.fetchval(count, number, retained[0]))

    assert on(url, story) == 0


def test_an_increment_writes_what_changed(url, tmp_path):
    """After one of fifty points has changed, one row is written; after nothing, none."""

    async def story(database):
        machine = new_shard()
        points = [point(number) for number in range(50)]
        apply(machine, command(upsert(*points)))
        written = [await checkpoint_shard(database, machine, tmp_path, "few")]
        apply(machine, command(upsert(point(7, b'{"new":true}'))))
        written += [await checkpoint_shard(database, machine, tmp_path, "few") for _ in range(2)]
        return [each.rows_written for each in written]

    assert on(url, story) == [50, 1, 0]


def test_much_that_is_replaced_goes_in_pieces(url, tmp_path, monkeypatch):
    """More than fits into memory or into one statement: all of it is replaced, and nothing else."""
    monkeypatch.setattr(spool, "PIECE_BYTES", 4096)
    monkeypatch.setattr(closing, "KEYS_MAX", 300)
    monkeypatch.setattr(closing, "PARSED_HERE_BYTES", 100)

    async def story(database):
        machine = new_shard()
        apply(machine, command(upsert(*(point(number) for number in range(2000)))))
        await checkpoint_shard(database, machine, tmp_path, "pieces")
        apply(machine, command(upsert(*(point(number, b'{"n":1}') for number in range(1500)))))
        apply(machine, command(Delete(1, ids=[point(1700).id])))
        manifest = await checkpoint_shard(database, machine, tmp_path, "pieces")
        copy = await restored(database, manifest, tmp_path / "state")
        return manifest.rows_written, dump(copy), dump(machine)

    written, found, wanted = on(url, story)

    assert written == 1501
    assert found == wanted


def test_damage_is_found(url, tmp_path):
    """A changed byte and a lost row are both told from what was written."""

    async def story(database, change):
        machine = new_shard()
        apply(machine, command(upsert(point(1, b'{"a":1}'), point(2))))
        manifest = await checkpoint_shard(database, machine, tmp_path, uuid.uuid4().hex)
        await verify_shard(database, manifest)
        await database.run(lambda c: c.execute(change, manifest.checkpoint))
        with pytest.raises(CheckpointDamaged, match=f"checkpoint {manifest.checkpoint} has"):
            await verify_shard(database, manifest)

    payload = "UPDATE records SET payload = '{\"a\":2}' WHERE id_text = '1'"
    for change in (payload, "DELETE FROM records WHERE id_text = '2'"):
        on(url, partial(story, change=f"{change} AND from_checkpoint = $1"))


def test_only_finished_checkpoints_are_there(url, tmp_path):
    """One that was begun is in no list, and cannot be read."""

    async def story(database):
        machine = new_shard()
        whole = await checkpoint_shard(database, machine, tmp_path, "begun")
        begun = (await begin(database, "begun", 1)).checkpoint
        with pytest.raises(CheckpointMissing, match=f"no finished checkpoint {begun}"):
            await checkpoint(database, begun)
        listed = await checkpoints(database, "begun")
        newest = await checkpoint(database, cluster_id="begun")
        return [each.id for each in listed], newest.manifests, whole

    ids, manifests, whole = on(url, story)

    assert ids == [whole.checkpoint]
    assert manifests == (whole,)


@settings(relaxed, max_examples=20)
@given(CHAPTERS)
def test_facts_of_elements_are_those_of_the_graph(chapters):
    """What people see of nodes and hyperedges is what the graph itself reads from their content."""
    machine, reader = new_shard(), GraphElements()
    for commands in chapters:
        apply(machine, *commands)
    with machine.snapshot() as connection:
        nodes = [reader.node(row.content) for row in graph_elements(connection, GRAPH, Kind.NODE)]
        edges = [reader.edge(row.content) for row in graph_elements(connection, GRAPH, Kind.EDGE)]
        wanted_nodes = [(each.labels, each.properties) for each in stored_nodes(connection, GRAPH)]
        wanted_edges = [
            (e.label, e.members, e.confidence, e.properties, e.valid_at, e.invalid_at)
            for e in stored_edges(connection, GRAPH)
        ]

    assert nodes == wanted_nodes
    assert edges == wanted_edges
