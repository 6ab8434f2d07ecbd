"""A node's part in checkpoints: it cuts through replicas that it holds, and sends the cuts.

A cut has all that was acknowledged before it was asked for: the shard's leader is asked for its
read index, and the replica waits until it has applied that. One that cannot in a few seconds is
refused: somebody else has a better one.

One shard at a time, so that what is spooled on the disk is never more than the largest shard; but
cuts that fit into memory are sent together, see `cluster.checkpoint_sender`. The cut is made on a
thread, the sending is on the event loop, which only moves bytes.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster.checkpoint_elements import GraphElements
from cluster.checkpoint_methods import ShardWritten, WriteShard
from cluster.checkpoint_sender import Sender
from cluster.errors import Unavailable
from storage.checkpoint.cut import Cut, take_cut
from storage.checkpoint.database import Database
from storage.checkpoint.model import Manifest, Task
from storage.checkpoint.spool import Spool
from storage.checkpoint.writing import write_shard

if TYPE_CHECKING:
    from cluster.config import Config
    from cluster.routing import ShardReplica
    from cluster.surroundings import Surroundings


CATCH_UP_S: Final = 5.0
CUTS_MAX: Final = 16
"""Shards under way at once: their cuts may be in memory, some hundred KiB each, at most two MiB."""

ReadIndex = Callable[[int, float], Awaitable[int]]


@dataclass(kw_only=True)
class ShardWriter:
    """See the module. `replicas` are this node's, by shard, and may grow.

    `read_index` asks a shard's leader, and takes the time until when.
    """

    config: Config
    replicas: Mapping[int, ShardReplica]
    surroundings: Surroundings
    read_index: ReadIndex
    clock: Callable[[], float]
    _in_memory: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CUTS_MAX))
    _sender: Sender = field(default_factory=Sender)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._folder: Path = self.config.data_dir / "checkpoint"
        self._thread = self.surroundings.threads(1, "cut")
        shutil.rmtree(self._folder, ignore_errors=True)

    async def write(self, database: Database, request: WriteShard) -> ShardWritten:
        """Write a shard of a checkpoint, from this node's replica.

        Raises Unavailable when this node should not do it, and CheckpointError.
        """
        async with self._in_memory:
            with self._sender.expected():
                made = await self._cut(database, request)
            if isinstance(made, Cut):
                made = await self._sender.send(database, made)
            return self._written(made)

    async def _cut(self, database: Database, request: WriteShard) -> Cut | Manifest:
        """Return a cut that is in memory, or the manifest of one that was not, and was sent."""
        replica = await self._replica(request.shard)
        task = Task(
            checkpoint=request.checkpoint,
            cluster=request.cluster,
            shard=request.shard,
            epoch=request.epoch,
            base_index=request.base_index,
        )
        async with self._turn:
            spool = Spool(
                self._folder, 2 * self.config.disk_free_bytes_min, self.surroundings.pause
            )
            try:
                cut = await asyncio.get_running_loop().run_in_executor(
                    self._thread,
                    partial(take_cut, task, replica.machine.snapshot(), GraphElements(), spool),
                )
                return await write_shard(database, cut) if spool.on_disk else cut
            finally:
                if spool.on_disk:
                    await asyncio.to_thread(spool.discard)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def _replica(self, shard: int) -> ShardReplica:
        """Return this node's replica, which reflects all that was acknowledged so far."""
        replica = self.replicas.get(shard)
        if replica is None or not replica.fresh(self.config.max_staleness_ms):
            raise Unavailable(f"{self.config.node_id} has no fresh replica of shard {shard}")
        until_s = self.clock() + CATCH_UP_S
        await replica.wait_applied(await self.read_index(shard, until_s), until_s)
        return replica

    def _written(self, manifest: Manifest) -> ShardWritten:
        counts = manifest.counts
        return ShardWritten(
            manifest.shard,
            self.config.node_id,
            manifest.applied_index,
            manifest.state_hash.hex(),
            counts.records,
            counts.tombstones,
            counts.nodes,
            counts.hyperedges,
            manifest.rows_written,
        )
