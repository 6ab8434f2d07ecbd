"""Checkpoints of the whole cluster, coordinated by whoever leads the metadata group.

    begin - every shard by one node that holds it, a follower if one keeps up - catalog - finish

Then the table of patterns follows, and old checkpoints go. One checkpoint is under way at a time;
should a new leader begin another one, Postgres lets the newer win. Whatever fails leaves the last
checkpoint as it was, and the next one is tried after a while: writes to the cluster never wait.

The interval counts from the last finished checkpoint in Postgres, whoever made it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from cluster.checkpoint_catalog import Catalog, catalog_of
from cluster.checkpoint_methods import WRITE_SHARD, CheckpointState, ShardWritten, WriteShard
from cluster.errors import CheckpointFailed, NotReady, RecollectError
from cluster.fan_out import fan_out
from cluster.formation import PATTERNS
from cluster.metadata import ClusterView, MetadataMachine
from cluster.peer import Peers
from cluster.routing import GroupReplica
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError
from storage.checkpoint.migrate import migrate
from storage.checkpoint.model import Begun, Task
from storage.checkpoint.patterns import refresh_patterns
from storage.checkpoint.reading import age_s, checkpoint
from storage.checkpoint.writing import begin, finish, retain

log = logging.getLogger("recollect.checkpoint")

SHARD_S: Final = 3600.0
"""How long one shard may take: Postgres may be slow, and the first time is long."""
CATALOG_S: Final = 10.0
ROUNDS: Final = 3
ROUND_PAUSE_S: Final = 1.0
ATTEMPTS_S: Final = 90.0
"""No node is asked for a shard after so long: each is as patient with Postgres as the last one."""
WHOLE_AT_ONCE: Final = 2
"""Shards that are written whole at the same time: rows of the one are made while those of the other
are sent. More of them would leave writes no processor where nodes and Postgres share a machine."""
LOOK_S: Final = 1.0
RETRY_S: Final = 60.0
STALE_INTERVALS: Final = 3

WriteHere = Callable[[WriteShard], Any]


@dataclass(kw_only=True)
class Checkpointer:
    """See the module. `write_here` writes a shard from this node's own replica."""

    me: str
    interval_s: int
    kept: int
    metadata: GroupReplica
    machine: MetadataMachine
    peers: Peers
    leader_of: Callable[[int], str | None]
    write_here: WriteHere
    clock: Callable[[], float]
    current: CheckpointState = field(default_factory=lambda: CheckpointState(run=0, state="failed"))
    """The checkpoint that is under way, or was the last one."""
    _due_s: float | None = None
    _finished_s: float | None = None
    _migrated: bool = False
    _busy: Counter[str] = field(default_factory=Counter)
    _whole: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WHOLE_AT_ONCE))

    async def run(self, database: Database) -> None:
        """Make checkpoints when they are due, and when `begin` is called, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._database = database
            while True:
                await asyncio.sleep(LOOK_S)
                if not self.metadata.is_leader:
                    self._due_s = None
                elif self.interval_s and await self._looked():
                    self.begin()

    def begin(self) -> CheckpointState:
        """Begin a checkpoint unless one is under way; return how that one stands."""
        if self.current.run == 0 or self.current.state != "running":
            self._note(run=self.current.run + 1, id=0, state="running", shards=(), problem="")
            self._tasks.create_task(self._make_and_tell())
        return self.current

    @property
    def problem(self) -> str:
        """What is wrong with checkpoints, as a sentence; empty when nothing is known to be."""
        if self.current.run and self.current.state == "failed":
            return f"the last checkpoint failed: {self.current.problem}"
        age_s = self.age_s
        if age_s is not None and 0 < STALE_INTERVALS * self.interval_s < age_s:
            return f"the last checkpoint is {age_s:.0f} seconds old"
        return ""

    @property
    def age_s(self) -> float | None:
        """How long ago the last checkpoint was finished, as far as this node knows."""
        return None if self._finished_s is None else self.clock() - self._finished_s

    def _note(self, **changes: Any) -> None:
        self.current = msgspec.structs.replace(self.current, **changes)

    async def _looked(self) -> bool:
        """Return whether a checkpoint is due; whatever is wrong with Postgres, the node goes on."""
        try:
            return await self._is_due()
        except Exception:
            log.exception("whether a checkpoint is due is not known")
            self._due_s = self.clock() + RETRY_S
            return False

    async def _is_due(self) -> bool:
        """Look at the clock; who has just become leader looks into Postgres first."""
        if self.current.state == "running":
            return False
        if self._due_s is None:
            try:
                view = self._view()
                if view.restoring:
                    return False
                await self._migrate()
                found = await age_s(self._database, view.cluster_id)
            except (CheckpointError, RecollectError) as error:
                log.warning("no checkpoint can be made now: %s", error)
                self._due_s = self.clock() + min(RETRY_S, self.interval_s)
                return False
            self._finished_s = None if found is None else self.clock() - found
            wait_s = 0.0 if found is None else self.interval_s - found
            self._due_s = self.clock() + max(0.0, wait_s)
        return self.clock() >= self._due_s

    async def _make_and_tell(self) -> None:
        began_s = self.clock()
        try:
            begun = await self._make()
        except (CheckpointError, RecollectError) as error:
            self._fail(str(error), began_s)
        except Exception:
            log.exception("a checkpoint failed")
            self._fail("an internal error; the node's log has it", began_s)
        else:
            self._finished_s = self.clock()
            self._due_s = self.clock() + self.interval_s
            seconds = round(self.clock() - began_s, 3)
            self._note(state="finished", seconds=seconds)
            rows = sum(each.rows_written for each in self.current.shards)
            log.info("checkpoint %d: %d rows in %.1f s", begun.checkpoint, rows, seconds)
            await self._tidy(begun)

    def _fail(self, problem: str, began_s: float) -> None:
        log.warning("checkpoint %d failed: %s", self.current.id, problem)
        self._due_s = self.clock() + min(RETRY_S, self.interval_s or RETRY_S)
        seconds = round(self.clock() - began_s, 3)
        self._note(state="failed", problem=problem, seconds=seconds)

    async def _make(self) -> Begun:
        await self._migrate()
        view, before = self._view(), await self._catalog(None)
        begun = await begin(self._database, view.cluster_id, view.shards)
        self._note(id=begun.checkpoint)
        written = await fan_out([self._turn(view, begun, shard) for shard in range(view.shards)])
        for each in written:
            if isinstance(each, RecollectError):
                raise each
        catalog = await self._catalog(before)
        await finish(self._database, begun.checkpoint, msgspec.to_builtins(catalog))
        return begun

    async def _migrate(self) -> None:
        """Bring the schema up to date, once: a newer version comes with another process."""
        if not self._migrated:
            await migrate(self._database)
            self._migrated = True

    async def _catalog(self, before: Catalog | None) -> Catalog:
        """Return the catalog as of now at the earliest; raises NotLeader when another leads."""
        until_s = self.clock() + CATALOG_S
        await self.metadata.wait_applied(await self.metadata.read_index(until_s), until_s)
        return catalog_of(self._view(), self.machine.next_uid(), before)

    async def _turn(self, view: ClusterView, begun: Begun, shard: int) -> ShardWritten:
        """Write a shard; one that is written whole waits for its turn."""
        task = begun.task(shard, view.epoch)
        if not task.is_first:
            return await self._write(view, task)
        async with self._whole:
            return await self._write(view, task)

    async def _write(self, view: ClusterView, task: Task) -> ShardWritten:
        shard = task.shard
        request = WriteShard(task.checkpoint, task.cluster, shard, task.epoch, task.base_index)
        last: Exception = CheckpointFailed(f"shard {shard}: no node that holds it is connected")
        until_s = self.clock() + ATTEMPTS_S
        for attempt in range(ROUNDS):
            if attempt:
                await asyncio.sleep(ROUND_PAUSE_S)
            for node in self._candidates(view.shard_map[shard], shard):
                if self.clock() > until_s:
                    break
                self._busy[node] += 1
                try:
                    done = await self._ask(node, request)
                except (RecollectError, CheckpointError) as error:
                    last = error
                else:
                    self._note(shards=(*self.current.shards, done))
                    return done
                finally:
                    self._busy[node] -= 1
        raise CheckpointFailed(f"shard {shard} could not be written: {last}")

    def _candidates(self, members: Sequence[str], shard: int) -> list[str]:
        """Return who may write a shard: the least busy follower first, its leader last."""
        leader = self.leader_of(shard)
        up = [node for node in members if node == self.me or self.peers.connected(node)]
        return sorted(up, key=lambda node: (node == leader, self._busy[node], node))

    async def _ask(self, node: str, request: WriteShard) -> ShardWritten:
        if node == self.me:
            done: ShardWritten = await self.write_here(request)
            return done
        return await self.peers.call(node, WRITE_SHARD, request, self.clock() + SHARD_S)

    async def _tidy(self, begun: Begun) -> None:
        """Let the patterns' table follow, then let old checkpoints go; both can wait."""
        number, cluster, _ = begun
        patterns = self._view().collections.get(PATTERNS)
        try:
            if patterns is not None:
                found = await checkpoint(self._database, number)
                await refresh_patterns(self._database, found, patterns.uid, patterns.dimension)
            await retain(self._database, cluster, self.kept)
        except CheckpointError as error:
            log.warning("behind checkpoint %d nothing was tidied: %s", number, error)

    def _view(self) -> ClusterView:
        view = self.machine.view
        if view is None:
            raise NotReady("the cluster is not formed yet")
        return view
