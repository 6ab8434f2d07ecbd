"""The coordinator of checkpoints: who writes, what a failure leaves, when the next one is due."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from cluster.checkpoint_methods import CheckpointState, ShardWritten, WriteShard
from cluster.checkpoint_writer import ShardWriter
from cluster.checkpointer import Checkpointer
from cluster.config import Config
from cluster.errors import CheckpointFailed, DeadlineExceeded, NotLeader, Unavailable
from cluster.metadata_command import ClusterView
from cluster.origin import Origin, ShardOrigin
from cluster.shard import ShardMachine
from cluster.surroundings import Surroundings
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError
from storage.checkpoint.reading import checkpoints
from tests.postgres import database_on, empty_database, small_disk
from tests.shard_commands import TTL_MS, apply, command, point, upsert

NODES = ("node1", "node2", "node3")


@dataclass
class Group:
    """A replica of a group, as its user sees it."""

    machine: Any = None
    is_leader: bool = True
    is_fresh: bool = True
    leader: str = "node1"
    applied_index: int = 1

    def fresh(self, max_staleness_ms):
        return self.is_fresh

    async def read_index(self, deadline_s):
        if not self.is_leader:
            raise NotLeader("another node leads")
        return 1

    async def wait_applied(self, index, deadline_s):
        if index > self.applied_index:
            raise DeadlineExceeded("this replica did not catch up in time")


@dataclass
class Catalog:
    """A metadata machine."""

    view: ClusterView

    def next_uid(self):
        return 1


@dataclass
class World:
    """Three nodes that hold both shards, and write into one Postgres."""

    database: Database
    folder: Any
    down: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)
    now_s: float = 100.0
    acknowledged: int = 1

    def __post_init__(self):
        self.machines = [ShardMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(2)]
        self.metadata = cast("Any", Group())
        self.replicas: dict[str, Any] = {
            name: {shard: Group(machine) for shard, machine in enumerate(self.machines)}
            for name in NODES
        }
        self.writers = {
            name: ShardWriter(
                config=Config.tiny(data_dir=self.folder / name, disk_free_bytes_min=0),
                replicas=self.replicas[name],
                surroundings=Surroundings(),
                read_index=self.read_index,
                clock=lambda: self.now_s,
            )
            for name in NODES
        }
        machine: Any
        peers: Any
        view = ClusterView(
            cluster_id="c", epoch=1, shards=2, replication=3, shard_map=[NODES, NODES],
            nodes=NODES, collections={}, dropping=[], applied_index=1,
        )  # fmt: skip
        machine, peers = Catalog(view), self
        self.coordinator = Checkpointer(
            me="node1",
            interval_s=600,
            kept=2,
            metadata=self.metadata,
            machine=machine,
            peers=peers,
            leader_of=lambda shard: NODES[shard],
            write_here=lambda request: self.write("node1", request),
            clock=lambda: self.now_s,
        )

    async def read_index(self, shard, deadline_s):
        return self.acknowledged

    def connected(self, node):
        return node not in self.down

    async def call(self, node, method, request, deadline_s):
        return await self.write(node, request)

    async def write(self, node, request):
        self.asked.append((node, request.shard))
        try:
            return await self.writers[node].write(self.database, request)
        except CheckpointError as error:
            raise CheckpointFailed(str(error)) from None

    def close(self):
        for writer in self.writers.values():
            writer.close()


@pytest.fixture
async def world(postgres, tmp_path):
    async with empty_database(postgres) as url, small_world(url, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def small_world(url, folder):
    """Run a coordinator over a database."""
    async with (
        Database.opened(url, patience_s=1) as database,
        asyncio.TaskGroup() as tasks,
    ):
        made = World(database, folder)
        running = tasks.create_task(made.coordinator.run(database))
        await asyncio.sleep(0)
        yield made
        running.cancel()
        made.close()


async def outcome(world: World) -> CheckpointState:
    """Let a checkpoint be made to its end."""
    run = world.coordinator.begin().run
    while world.coordinator.current.state == "running":
        await asyncio.sleep(0.01)
    assert world.coordinator.current.run == run
    return world.coordinator.current


async def test_followers_write(world):
    """A shard is written by a node that does not lead it, and the work is spread."""
    apply(world.machines[1], command(upsert(point(1))))
    state = await outcome(world)
    (listed,) = await checkpoints(world.database)

    assert state.state == "finished"
    assert sorted(world.asked) == [("node1", 1), ("node2", 0)]
    assert [each.records for each in sorted(state.shards, key=_shard)] == [0, 1]
    assert listed.id == state.id
    assert world.coordinator.problem == ""


async def transactions(world: World) -> list[int]:
    """Return how many manifests each transaction wrote, fewest first."""
    query = "SELECT count(*) AS shards FROM manifests GROUP BY xmin::text ORDER BY 1"
    return [row["shards"] for row in await world.database.run(lambda c: c.fetch(query))]


async def test_a_node_sends_small_cuts_together(world):
    """Both shards are written by the only node there is, in one transaction."""
    world.down.update(("node2", "node3"))
    await outcome(world)
    first = await transactions(world)
    state = await outcome(world)

    assert state.state == "finished"
    assert await transactions(world) == sorted([*first, 2])


async def test_who_does_not_keep_up_is_passed_over(world):
    """Followers that are down or behind leave a shard to its leader."""
    world.down.add("node2")
    world.replicas["node3"][0].is_fresh = False
    state = await outcome(world)
    written = {each.shard: each.node for each in state.shards}

    assert state.state == "finished"
    assert written[0] == "node1"
    assert ("node3", 0) in world.asked
    assert all(node != "node2" for node, _ in world.asked)


async def test_what_was_acknowledged_before_is_in_it(world):
    """A follower that has not applied it, however fresh it seems, leaves the shard to another."""
    world.acknowledged = 2
    for name in ("node1", "node3"):
        for replica in world.replicas[name].values():
            replica.applied_index = 2
    state = await outcome(world)

    assert state.state == "finished"
    assert ("node2", 0) in world.asked
    assert {each.node for each in state.shards} <= {"node1", "node3"}


async def test_one_at_a_time(world):
    """Who asks while a checkpoint is under way is told of that one."""
    first, second = world.coordinator.begin(), world.coordinator.begin()
    state = await outcome(world)

    assert first.run == second.run == state.run
    assert len(await checkpoints(world.database)) == 1


async def test_a_failure_leaves_what_there_was(world):
    """A shard that nobody can write fails the checkpoint; it is named, and the next one works."""
    whole = await outcome(world)
    for name in NODES:
        world.replicas[name][1].is_fresh = False
    failed = await outcome(world)
    problem = world.coordinator.problem
    listed = [each.id for each in await checkpoints(world.database)]
    for name in NODES:
        world.replicas[name][1].is_fresh = True
    again = await outcome(world)

    assert (failed.state, again.state) == ("failed", "finished")
    assert "shard 1 could not be written" in failed.problem
    assert problem == f"the last checkpoint failed: {failed.problem}"
    assert listed == [whole.id]


async def test_a_coordinator_that_was_deposed_does_not_finish(world):
    """The catalog is read after all shards, from a metadata group that still follows."""
    world.metadata.is_leader = False
    state = await outcome(world)

    assert (state.state, state.problem) == ("failed", "another node leads")
    assert await checkpoints(world.database) == []


async def test_a_database_that_is_gone_fails_the_checkpoint(world):
    """Nothing waits for ever: after the patience the failure is told, and a later one is due."""
    world.coordinator._database = Broken()
    state = await outcome(world)

    assert state.state == "failed"
    assert state.problem == "an internal error; the node's log has it"


@pytest.fixture
def disk(postgres):
    with small_disk(postgres, 32) as folder:
        yield folder


async def test_a_full_database_fails_until_it_has_space(postgres, disk, tmp_path):
    """The reason is told, the last checkpoint stays, writes go on; the next one has them all."""
    filler = disk / "filler"
    async with database_on(postgres, disk) as url, small_world(url, tmp_path) as world:
        whole = await outcome(world)
        fill(filler)
        large = b'{"n":"%s"}' % (b"x" * 4000)
        apply(world.machines[0], command(upsert(*(point(k, large) for k in range(300)))))
        failed = await outcome(world)
        problem = world.coordinator.problem
        apply(world.machines[0], command(upsert(point(300))))
        listed = [each.id for each in await checkpoints(world.database)]
        filler.unlink()
        again = await outcome(world)

    assert (whole.state, failed.state, again.state) == ("finished", "failed", "finished")
    assert "No space left on device" in failed.problem
    assert problem == f"the last checkpoint failed: {failed.problem}"
    assert listed == [whole.id]
    assert sum(each.records for each in again.shards) == 301


def fill(file: Path) -> None:
    """Take all space of a disk."""
    with file.open("ab", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(bytes(4096))


async def test_when_the_next_one_is_due(world):
    """The interval counts from the newest checkpoint in Postgres, whoever wrote it."""
    coordinator = world.coordinator
    first = await coordinator._is_due()
    await outcome(world)
    coordinator._due_s = None
    just_after = await coordinator._is_due()
    world.now_s += 599
    before = await coordinator._is_due()
    world.now_s += 2
    due = await coordinator._is_due()
    world.now_s += 1300
    problem = coordinator.problem

    assert (first, just_after, before, due) == (True, False, False, True)
    assert problem.startswith("the last checkpoint is 190")


async def test_old_checkpoints_go(world):
    """As many as were asked for stay."""
    ids = [(await outcome(world)).id for _ in range(4)]
    listed: list[int] = []
    for _ in range(100):
        listed = [each.id for each in await checkpoints(world.database)]
        if len(listed) == 2:
            break
        await asyncio.sleep(0.02)

    assert listed == ids[:1:-1]


async def test_a_node_without_the_shard_refuses(world):
    """Who has no fresh replica says so, and writes nothing."""
    world.replicas["node2"].clear()
    writer = world.writers["node2"]
    with pytest.raises(Unavailable, match="no fresh replica of shard 0"):
        await writer.write(world.database, WriteShard(1, 1, 0, 1, 0))

    assert not (world.folder / "node2" / "checkpoint").exists()


class Broken:
    """A database whose driver has a bug."""

    async def run(self, *_arguments, **_options):
        raise RuntimeError("no such thing")


def _shard(written: ShardWritten) -> int:
    return written.shard


async def test_none_is_due_while_shards_are_restored(world):
    """A cluster that is formed from a checkpoint makes its first one when majorities have it.

    A node that is lost before it had its shards does not keep it from having checkpoints.
    """
    world.coordinator._database = world.database
    whole = world.coordinator.machine.view
    origin = Origin(checkpoint=1, ancestors=("b",), shards=(ShardOrigin(9, 2, b"", 1, 0),) * 2)
    for settled in ((), NODES[:1]):
        origin = msgspec.structs.replace(origin, settled=settled)
        world.coordinator.machine.view = msgspec.structs.replace(whole, origin=origin)
        assert not await world.coordinator._is_due()
    origin = msgspec.structs.replace(origin, settled=NODES[:2])
    world.coordinator.machine.view = msgspec.structs.replace(whole, origin=origin)
    assert await world.coordinator._is_due()
