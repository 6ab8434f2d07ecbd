"""Folders of new clusters from checkpoints: what each node finds when it starts."""

import os
import random
from typing import Any

import msgspec
import pytest

from cluster.checkpoint_catalog import Catalog, catalog_of, read_catalog
from cluster.config import Config
from cluster.data_folder import open_folder
from cluster.data_lock import claim
from cluster.errors import CommandFailed
from cluster.metadata import MetadataMachine
from cluster.metadata_command import ClusterView
from cluster.model import Collection, Graph
from cluster.ports import free_base
from cluster.raft.core import Timing
from cluster.raft.disk import FolderDisk
from cluster.raft.host import GroupHost
from cluster.raft.wal import Wal
from cluster.restoration import Restoration
from cluster.shard import ShardMachine
from cluster.supervisor import Shape, supervised
from storage.checkpoint.errors import CheckpointDamaged
from storage.checkpoint.reading import checkpoint
from storage.checkpoint.writing import begin, finish, write_shard
from storage.payload_index.fields import FieldIndex
from tests.postgres import cut_of, dump, fresh_database
from tests.shard_commands import TTL_MS, apply, command, point, upsert

SHARDS = 3
SEA = Collection(uid=1, name="sea", dimension=2, distance="Cosine")
GONE = Collection(uid=2, name="gone", dimension=2, distance="Dot")
WHY = Graph(uid=4, name="why", dimension=2)
CATALOG = Catalog(
    epoch=4,
    shards=SHARDS,
    replication=3,
    next_uid=9,
    request_id_ttl_ms=TTL_MS,
    command_bytes_max=4096,
    collections=[SEA, msgspec.structs.replace(GONE, state="dropping")],
    graphs=[WHY],
)


@pytest.fixture
async def database(postgres):
    async with fresh_database(postgres) as (found, _):
        yield found


@pytest.fixture
async def machines(database, tmp_path):
    """Three shards, the last of which was never written, in a checkpoint."""
    made = [ShardMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(SHARDS)]
    for shard, machine in enumerate(made[:-1]):
        apply(machine, command(upsert(point(shard), point(shard + 10), collection=1)))
    begun = await begin(database, "old", SHARDS)
    for shard, machine in enumerate(made):
        await write_shard(database, cut_of(machine, begun.task(shard, 4), tmp_path / "spool"))
    await finish(database, begun.checkpoint, msgspec.to_builtins(CATALOG))
    return made


async def restore(database, folder, nodes):
    restoration = Restoration(
        database=database,
        checkpoint=await checkpoint(database),
        nodes=nodes,
        cluster_id="new",
        config=Config.tiny(),
    )
    rows: list[int] = []
    with open_folder(folder) as opened:
        await restoration.carry_out(opened, rows.append)
    return sum(rows)


def groups_of(data):
    """Open a node's log, and each group as a node does; return where each of them stands."""
    wal = Wal(FolderDisk(data / "log"), Config.tiny().segment_bytes, lambda: 7)
    host = GroupHost(data.parent.name, wal, clock=lambda: 0.0, timing=Timing())
    host.open()
    found = {}
    for path in sorted((data / "groups").iterdir()):
        name = path.name.partition(".")[0]
        machine: MetadataMachine | ShardMachine
        if name == "metadata":
            machine, group = MetadataMachine(data / "groups" / name, request_id_ttl_ms=TTL_MS), 0
        else:
            machine = ShardMachine(data / "groups" / name, request_id_ttl_ms=TTL_MS)
            group = int(name.removeprefix("shard-")) + 1
        raft = host.open_group(group, (data.parent.name,), machine.position(), random.Random(1))
        assert raft.log.may_vote
        found[group] = (machine.position(), raft.log.base_index, raft.term)
        machine.close()
    return found


@pytest.mark.parametrize("nodes", [1, 2, 5])
async def test_nodes_begin_where_the_shards_stood(database, machines, tmp_path, nodes):
    """Every replica is the shard of the checkpoint, and its group stands there in the log."""
    folder = tmp_path / "new"
    rows = await restore(database, folder, nodes)
    with open_folder(folder) as opened:
        parameters = opened.parameters()
    names = [f"node{number}" for number in range(1, nodes + 1)]
    members = names[:5]
    replicas = []
    for name in names:
        data = folder / name / "data"
        os.close(claim(data, name, members))
        for group, (position, base, term) in groups_of(data).items():
            assert (base, term) == position
            if group:
                machine = ShardMachine(
                    data / "groups" / f"shard-{group - 1:04d}", request_id_ttl_ms=TTL_MS
                )
                assert dump(machine) == dump(machines[group - 1])
                machine.close()
                replicas.append(group - 1)

    assert rows == 4
    assert parameters is not None
    assert (parameters.nodes, parameters.shards) == (nodes, SHARDS)
    assert sorted(folder.iterdir()) == sorted(
        [folder / "recollect.json", folder / "recollect.lock", *(folder / name for name in names)]
    )
    assert sorted(replicas) == sorted([*range(SHARDS)] * min(3, nodes))


async def test_the_catalog_is_the_old_one(database, machines, tmp_path):
    """Names keep their numbers, what was going still goes, and no number is given twice."""
    await restore(database, tmp_path / "new", 3)
    path = tmp_path / "new" / "node2" / "data" / "groups" / "metadata"
    machine = MetadataMachine(path, request_id_ttl_ms=TTL_MS)
    view = machine.view
    assert view is not None
    found = (machine.next_uid(), machine.state_hash() == machine.recompute_hash())
    machine.close()

    assert (view.cluster_id, view.epoch, view.shards, view.replication) == ("new", 5, SHARDS, 3)
    assert (view.collections, view.graphs) == ({"sea": SEA}, {"why": WHY})
    assert [each.uid for each in view.dropping] == [GONE.uid]
    assert sorted(view.nodes) == ["node1", "node2", "node3"]
    assert found == (9, True)


async def test_damage_leaves_nothing_behind(database, machines, tmp_path):
    """When a shard cannot be proved there is no cluster, and the folder can be used again."""
    await database.run(lambda c: c.execute("UPDATE records SET version = 7 WHERE id_text = '1'"))
    folder = tmp_path / "new"
    with pytest.raises(CheckpointDamaged):
        await restore(database, folder, 3)

    assert [each.name for each in folder.iterdir()] == ["recollect.lock"]
    await database.run(lambda c: c.execute("UPDATE records SET version = 2 WHERE id_text = '1'"))
    assert await restore(database, folder, 3) == 4


async def test_a_killed_restoration_can_be_repeated(database, machines, tmp_path):
    """What one that was killed left is in a folder of its own, which the next one clears."""
    left = tmp_path / "new" / "restoring" / "node1" / "data" / "groups"
    left.mkdir(parents=True)
    (left / "shard-0000.1").write_bytes(b"half")

    assert await restore(database, tmp_path / "new", 1) == 4
    assert not (tmp_path / "new" / "restoring").exists()


@pytest.mark.parametrize("moved", [(), ("node1",), ("node1", "node2", "node4")])
async def test_what_a_killed_restoration_left_is_no_cluster(database, machines, tmp_path, moved):
    """However far it was with moving nodes to their place: `up` refuses, a second one clears it."""
    folder = tmp_path / "new"
    (folder / "restoring").mkdir(parents=True)
    for name in moved:
        (folder / name / "data").mkdir(parents=True)
    with (
        pytest.raises(CommandFailed, match="not finished"),
        supervised(folder, Shape(), port=free_base(3, random.Random()), environment={}),
    ):
        pass
    assert not (folder / "recollect.json").exists()
    await restore(database, folder, 2)

    assert {each.name for each in folder.iterdir()} == {
        "node1", "node2", "recollect.json", "recollect.lock",
    }  # fmt: skip
    with pytest.raises(CommandFailed, match="not empty: it holds node1"):
        await restore(database, folder, 2)


async def test_a_full_folder_is_left_alone(database, machines, tmp_path):
    """Whatever is in a folder, nothing is restored into it."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "letter").write_text("dear")
    with pytest.raises(CommandFailed, match="not empty: it holds letter"):
        await restore(database, tmp_path / "new", 3)

    assert (tmp_path / "new" / "letter").read_text() == "dear"


def test_what_was_dropped_meanwhile_is_dropping():
    """A collection that goes while a checkpoint is made may have rows in it, so it goes later."""
    shape: dict[str, Any] = {
        "shards": 3,
        "replication": 3,
        "shard_map": [],
        "nodes": [],
        "applied_index": 5,
    }
    first = ClusterView(
        cluster_id="c", epoch=1, collections={"sea": SEA, "gone": GONE}, dropping=[],
        graphs={"why": WHY}, **shape,
    )  # fmt: skip
    fields = (FieldIndex("a[].b", "keyword"),)
    young = Collection(uid=7, name="young", dimension=2, distance="Dot", payload_indexes=fields)
    last = ClusterView(
        cluster_id="c", epoch=1, collections={"sea": SEA, "young": young}, dropping=[], **shape
    )
    found = catalog_of(last, 8, catalog_of(first, 7))
    everything: list[Any] = [*found.collections, *found.graphs]
    states = {each.name: each.state for each in everything}

    assert states == {"sea": "live", "young": "live", "gone": "dropping", "why": "dropping"}
    assert found.next_uid == 8
    assert read_catalog(msgspec.to_builtins(found)) == found
    assert found.collections[1].payload_indexes == fields


def test_a_foreign_catalog_is_refused():
    """What another version wrote is named as such."""
    with pytest.raises(CommandFailed, match="catalog cannot be read"):
        read_catalog({"x": 1})
