"""The shards of a node whose cluster was formed from a checkpoint, made again after any crash."""

import random
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from cluster.checkpoint_catalog import Catalog
from cluster.checkpoint_choice import newest, restored_from
from cluster.config import Config
from cluster.errors import CommandFailed, Unavailable
from cluster.metadata import ClusterView, Init, MetadataMachine, ShardsRestored, encode_metadata
from cluster.model import Collection
from cluster.raft.core import Timing
from cluster.raft.disk import FolderDisk
from cluster.raft.host import GroupHost
from cluster.raft.wal import Wal
from cluster.restored_shards import RestoredShards
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from cluster.surroundings import REAL
from storage.checkpoint.errors import CheckpointMissing
from storage.checkpoint.reading import checkpoint, checkpoints
from storage.checkpoint.writing import begin, finish, write_shard
from tests.postgres import cut_of, dump, fresh_database
from tests.shard_commands import TTL_MS, apply, command, point, upsert

SHARDS = 3
SEA = Collection(uid=1, name="sea", dimension=2, distance="Cosine")
CATALOG = Catalog(
    epoch=4,
    shards=SHARDS,
    replication=3,
    next_uid=9,
    request_id_ttl_ms=TTL_MS,
    command_bytes_max=4096,
    collections=[SEA],
    graphs=[],
)


class Crash(Exception):
    """The node ends here."""


@dataclass
class Computer:
    """What a node keeps, and what it needs to make its shards. Its process is `boot`."""

    folder: Path
    url: str
    metadata: MetadataMachine
    leaders: dict[int, int] = field(default_factory=dict)
    """Shard -> how far its leader has committed."""
    dies_at: int = 0
    """The group at whose beginning, when it is on disk, the process ends."""
    told: list[str] = field(default_factory=list)

    def boot(self) -> RestoredShards:
        self.config = Config.tiny(
            data_dir=self.folder, checkpoint_url=self.url, node_id="node1", shards=SHARDS
        )
        self.wal = Wal(FolderDisk(self.folder / "log"), self.config.segment_bytes, lambda: 7)
        self.host = GroupHost("node1", self.wal, clock=lambda: 0.0, timing=Timing())
        self.host.open()
        self.surroundings, self.router, self.driver = REAL, self, self
        return RestoredShards(cast("Any", self))

    def view(self) -> ClusterView:
        assert self.metadata.view is not None
        return self.metadata.view

    async def refresh_view(self, deadline_s):
        """The view is up to date."""

    async def read_index(self, shard, deadline_s):
        if shard not in self.leaders:
            raise Unavailable("no leader that answers")
        return self.leaders[shard]

    async def shards_restored(self, deadline_s):
        self.told.append("node1")
        agree(self.metadata, ShardsRestored("node1"))

    async def begin(self, group, state):
        sequence = self.host.begin_group(group, state)
        while (batch := self.wal.take()) is not None:
            self.wal.write(batch)
        assert self.host.is_synced(sequence)
        if group == self.dies_at:
            raise Crash

    def files(self) -> dict[int, int]:
        """Return the inode of each shard's state."""
        found = (self.folder / "groups").glob("shard-????.1")
        return {int(path.name[6:10]): path.stat().st_ino for path in found}

    def opened(self, shard: int) -> tuple[dict[str, Any], Any]:
        """Open a shard as a node does; return what it holds, and its group."""
        path = self.config.shard_path(shard)
        with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
            members = tuple(self.view().shard_map[shard])
            position = machine.position()
            raft = self.host.open_group(shard + 1, members, position, random.Random(1))
            return dump(machine), raft


def agree(metadata: MetadataMachine, body: Any) -> None:
    """Let the metadata group carry out a command."""
    index, _ = metadata.position()
    (result,) = metadata.apply([Entry(index + 1, 1, encode_metadata(body))])
    assert result.error is None


@pytest.fixture
async def database(postgres):
    async with fresh_database(postgres) as found:
        yield found


async def remember(database, folder, cluster_id="old", catalog=CATALOG):
    """Make a checkpoint of three shards, the last of which is empty; return the shards."""
    made = [ShardMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(SHARDS)]
    for shard, machine in enumerate(made[:-1]):
        apply(machine, command(upsert(point(shard), point(shard + 10), collection=1)))
    apply(made[-1], b"")
    begun = await begin(database, cluster_id, SHARDS)
    for shard, machine in enumerate(made):
        await write_shard(database, cut_of(machine, begun.task(shard, 4), folder / "spool"))
    await finish(database, begun.checkpoint, msgspec.to_builtins(catalog))
    return made


async def formed(database, folder, nodes=3):
    """Remember three shards, and form a cluster from them; return them and a node of it."""
    pool, url = database
    machines = await remember(pool, folder)
    names = [f"node{number}" for number in range(1, nodes + 1)]
    metadata = MetadataMachine(None, request_id_ttl_ms=TTL_MS)
    restored = restored_from(await checkpoint(pool))
    shard_map = [names] * SHARDS
    agree(metadata, Init("new", SHARDS, nodes, shard_map, names, restored=restored))
    (folder / "node1").mkdir()
    return machines, Computer(folder / "node1", url, metadata)


async def test_a_node_makes_its_shards_once(database, tmp_path):
    """Each is that of the checkpoint, its group begins where it stands, and the others hear it."""
    machines, computer = await formed(database, tmp_path)
    assert computer.view().restoring
    shards = computer.boot()
    assert await shards.ready(computer.view())
    assert (computer.told, shards.problem, computer.view().restoring) == (["node1"], "", True)
    assert not computer.view().awaits("node1")

    made = computer.files()
    assert await computer.boot().ready(computer.view())
    assert (computer.files(), computer.told) == (made, ["node1"])
    for shard, machine in enumerate(machines):
        held, raft = computer.opened(shard)
        assert held == dump(machine)
        assert (raft.log.base_index, raft.term) == machine.position()
        assert raft.log.may_vote


@pytest.mark.parametrize("group", [1, 2, 3])
async def test_a_crash_between_log_and_state(database, tmp_path, group):
    """What was in place stays as it is, the rest is made again."""
    machines, computer = await formed(database, tmp_path)
    computer.dies_at = group
    with pytest.raises(Crash):
        await computer.boot().ready(computer.view())
    before = computer.files()
    assert (sorted(before), computer.told) == ([*range(group - 1)], [])

    left = computer.folder / "restoring"
    left.mkdir(exist_ok=True)
    (left / f"shard-{group - 1:04d}.1").write_bytes(b"half")
    computer.dies_at = 0
    assert await computer.boot().ready(computer.view())
    assert before.items() <= computer.files().items()
    assert not left.exists()
    for shard, machine in enumerate(machines):
        held, raft = computer.opened(shard)
        assert held == dump(machine)
        assert (raft.log.base_index, raft.log.may_vote) == (machine.position()[0], True)


async def test_a_node_that_was_there_before_waits_to_be_refilled(database, tmp_path):
    """It has forgotten what it acknowledged: no vote before its log is where the leader was."""
    _, computer = await formed(database, tmp_path)
    agree(computer.metadata, ShardsRestored("node1"))
    computer.url = ""
    computer.leaders = {0: 70, 1: 80}
    shards = computer.boot()
    assert not await shards.ready(computer.view())
    assert shards.problem.startswith("waiting for the leader of shard 2, which refills it: no lea")
    assert computer.files() == {}

    computer.leaders[2] = 90
    assert await shards.ready(computer.view())
    for shard, index in computer.leaders.items():
        _, raft = computer.opened(shard)
        assert (raft.log.base_index, raft.log.hold_index) == (1, index)


async def test_one_of_two_begins_at_the_checkpoint_again(database, tmp_path):
    """The other one cannot lead without it, and has all that was ever committed."""
    machines, computer = await formed(database, tmp_path, nodes=2)
    agree(computer.metadata, ShardsRestored("node1"))
    assert await computer.boot().ready(computer.view())
    held, raft = computer.opened(0)

    assert held == dump(machines[0])
    assert raft.log.may_vote


async def test_what_cannot_be_restored_is_not_opened(database, tmp_path):
    """A node without a database, or with a damaged one, says so and makes nothing."""
    pool, url = database
    _, computer = await formed(database, tmp_path)
    number = (await checkpoint(pool)).id
    computer.url = ""
    shards = computer.boot()
    assert not await shards.ready(computer.view())
    at = f"restoring shard 1 of 3 from checkpoint {number}: "
    assert shards.problem == at + "RECOLLECT_CHECKPOINT_URL is not set; it is tried again"

    computer.url = url
    shards = computer.boot()
    await pool.run(lambda c: c.execute("UPDATE records SET version = 7 WHERE id_text = '0'"))
    assert not await shards.ready(computer.view())
    assert shards.problem.startswith(f"{at}shard 0 of checkpoint {number} has the hash")
    await pool.run(lambda c: c.execute("UPDATE manifests SET clock_ms = 5 WHERE shard = 0"))
    assert not await shards.ready(computer.view())
    assert "not what the cluster was formed with" in shards.problem
    await pool.run(lambda c: c.execute("UPDATE checkpoints SET finished_at = NULL"))
    assert not await shards.ready(computer.view())
    assert f"no finished checkpoint {number}" in shards.problem

    assert (computer.files(), computer.told) == ({}, [])


async def test_latest_follows_a_line_of_clusters(database, tmp_path):
    """The newest one counts when it goes on with all others; else one must be named."""
    pool, _ = database
    with pytest.raises(CheckpointMissing):
        newest(await checkpoints(pool))
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    await remember(pool, tmp_path / "first", "a")
    second = msgspec.structs.replace(CATALOG, ancestors=("a",))
    await remember(pool, tmp_path / "second", "b", second)
    found = newest(await checkpoints(pool))
    assert found.cluster_id == "b"
    assert restored_from(found).origin.ancestors == ("a", "b")

    await remember(pool, tmp_path / "third", "c", second)
    with pytest.raises(CommandFailed, match="several clusters") as refused:
        newest(await checkpoints(pool))
    assert f"{found.id} of b" in refused.value.message
