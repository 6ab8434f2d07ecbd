"""What a node has to do with checkpoints, for its API and for other nodes.

Every node writes shards when it is asked, and lists what there is; those of the metadata group can
coordinate. Without RECOLLECT_CHECKPOINT_URL nothing of this exists, and requests are told so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cluster.checkpoint_methods import (
    ASK_CHECKPOINT,
    BEGIN_CHECKPOINT,
    WRITE_SHARD,
    AskCheckpoint,
    BeginCheckpoint,
    CheckpointState,
    ShardWritten,
    WriteShard,
)
from cluster.checkpoint_writer import ShardWriter
from cluster.checkpointer import Checkpointer
from cluster.errors import BadRequest, CheckpointFailed, NotLeader, NotReady
from cluster.routing import METADATA_GROUP
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError
from storage.checkpoint.model import Checkpoint
from storage.checkpoint.reading import checkpoints

if TYPE_CHECKING:
    from cluster.leaders import Leaders
    from cluster.model import Options
    from cluster.node import Node
    from cluster.routing import Routing

CONNECTIONS: Final = 4
POLL_FIRST_S: Final = 0.01
POLL_MAX_S: Final = 0.1
"""How long to wait before asking again: a checkpoint of a small change takes some tens of ms."""
LISTED_MAX: Final = 1000


@dataclass(kw_only=True)
class Checkpoints:
    """See the module. `coordinator` is None on nodes outside the metadata group."""

    url: str
    writer: ShardWriter
    coordinator: Checkpointer | None = None
    routing: Routing
    leaders: Leaders
    _opened: Database | None = None

    async def run(self) -> None:
        """Be ready to write shards, and coordinate, until cancelled."""
        async with Database.opened(self.url, connections=CONNECTIONS) as database:
            self._opened = database
            self._register()
            if self.coordinator is not None:
                await self.coordinator.run(database)
            await asyncio.Event().wait()

    def _register(self) -> None:
        self.routing.peers.serve(WRITE_SHARD, self.write)
        self.routing.peers.serve(BEGIN_CHECKPOINT, self._serve_begin)
        self.routing.peers.serve(ASK_CHECKPOINT, self._serve_ask)

    async def write(self, request: WriteShard) -> ShardWritten:
        """Write a shard from this node's replica; raises RecollectError."""
        try:
            return await self.writer.write(self._database, request)
        except CheckpointError as error:
            raise CheckpointFailed(str(error)) from None

    async def make(self, options: Options) -> CheckpointState:
        """Make a checkpoint; return how it stands when it is done, or when time is up.

        Raises CheckpointFailed.
        """
        state = await self._at_leader(BeginCheckpoint(), options)
        pause_s = POLL_FIRST_S
        while state.state == "running" and self._left_s(options) > 2 * POLL_MAX_S:
            await self.routing.sleep(pause_s)
            pause_s = min(1.5 * pause_s, POLL_MAX_S)
            state = await self._at_leader(AskCheckpoint(state.run), options)
        if state.state == "failed":
            raise CheckpointFailed(state.problem)
        return state

    async def listed(self) -> list[Checkpoint]:
        """Return this cluster's finished checkpoints, newest first; raises CheckpointFailed."""
        try:
            return await checkpoints(self._database, self.routing.view().cluster_id)
        except CheckpointError as error:
            raise CheckpointFailed(str(error)) from None

    @property
    def _database(self) -> Database:
        if self._opened is None:
            raise NotReady("the node is starting")
        return self._opened

    @property
    def problem(self) -> str:
        """What is wrong with checkpoints, as far as this node knows."""
        return "" if self.coordinator is None else self.coordinator.problem

    async def _at_leader(
        self, request: BeginCheckpoint | AskCheckpoint, options: Options
    ) -> CheckpointState:
        async def ask(node: str, until_s: float) -> CheckpointState:
            if node == self.routing.me:
                return self._answer(request)
            if isinstance(request, BeginCheckpoint):
                return await self.routing.peers.call(node, BEGIN_CHECKPOINT, request, until_s)
            return await self.routing.peers.call(node, ASK_CHECKPOINT, request, until_s)

        return await self.leaders.change_at_leader(METADATA_GROUP, ask, options.deadline_s)

    async def _serve_begin(self, request: BeginCheckpoint) -> CheckpointState:
        return self._answer(request)

    async def _serve_ask(self, request: AskCheckpoint) -> CheckpointState:
        return self._answer(request)

    def _answer(self, request: BeginCheckpoint | AskCheckpoint) -> CheckpointState:
        coordinator = self.coordinator
        if coordinator is None or not coordinator.metadata.is_leader:
            leader = None if coordinator is None else coordinator.metadata.leader
            raise NotLeader("another node coordinates checkpoints", leader=leader)
        if isinstance(request, BeginCheckpoint):
            return coordinator.begin()
        if request.run != coordinator.current.run:
            raise BadRequest("the coordinator of that checkpoint is another node by now")
        return coordinator.current

    def _left_s(self, options: Options) -> float:
        return options.deadline_s - self.routing.clock()


def checkpoints_of(node: Node, routing: Routing, leaders: Leaders) -> Checkpoints:
    """Return a node's part in checkpoints."""
    config = node.config
    writer = ShardWriter(
        config=config,
        replicas=node.shards,
        surroundings=node.surroundings,
        read_index=leaders.read_index,
        clock=routing.clock,
    )
    made = Checkpoints(url=config.checkpoint_url, writer=writer, routing=routing, leaders=leaders)
    if node.metadata is not None and node.metadata_machine is not None:
        made.coordinator = Checkpointer(
            me=config.node_id,
            interval_s=config.checkpoint_interval_s,
            kept=config.checkpoints_kept,
            metadata=node.metadata,
            machine=node.metadata_machine,
            peers=routing.peers,
            leader_of=leaders.likely,
            write_here=made.write,
            clock=routing.clock,
        )
    return made


def required(found: Checkpoints | None) -> Checkpoints:
    """Return a node's checkpoints; raises BadRequest when it has none."""
    if found is None:
        raise BadRequest(
            "checkpoints are not configured: RECOLLECT_CHECKPOINT_URL says where they go"
        )
    return found


def described(found: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as JSON-able data."""
    counts = [manifest.counts for manifest in found.manifests]
    return {
        "id": found.id,
        "started_at": found.started_at.isoformat(),
        "finished_at": found.finished_at.isoformat() if found.finished_at else None,
        "shards": found.shards,
        "records": sum(each.records for each in counts),
        "tombstones": sum(each.tombstones for each in counts),
        "nodes": sum(each.nodes for each in counts),
        "hyperedges": sum(each.hyperedges for each in counts),
        "rows_written": sum(manifest.rows_written for manifest in found.manifests),
    }
