"""How a cluster comes to be, and how a node comes to its shards.

The configured nodes only form the metadata group. Its first leader commits `init`: cluster id,
number of shards, replication, the shard map and the collection that patterns live in. From then
on the committed view is the truth; a node opens the replicas that the view gives it.

With RECOLLECT_RESTORE the cluster is formed from a checkpoint instead: `init` has its catalog and
says what its shards are, and each node makes its own before it opens them
(`cluster.restored_shards`). As long as that checkpoint cannot be read there is no cluster: an empty
one would take writes, and could not be exchanged for the lost one any more.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from cluster.checkpoint_catalog import read_catalog
from cluster.checkpoint_choice import restored_from, wanted_checkpoint
from cluster.config import Config
from cluster.errors import CommandFailed, RecollectError
from cluster.metadata import ClusterView
from cluster.metadata_command import CreateCollection, Init, encode_metadata
from cluster.opening import when_there_is_space
from cluster.placement import plan
from cluster.restored_shards import PATIENCE_S, RestoredShards
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError, DatabaseRefused
from storage.checkpoint.migrate import migrate

if TYPE_CHECKING:
    from cluster.node import Node

log = logging.getLogger("recollect.formation")

METADATA: Final = 0
"""Raft group of the metadata; shard s is group s + 1."""
PATTERNS: Final = "patterns"
LOOK_EVERY_S: Final = 0.05
PROPOSE_S: Final = 5.0
RETRY_S: Final = 5.0


class Formation:
    """Forms the cluster or joins it, then keeps indexes in step with the view."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._restored = RestoredShards(node)
        self._unformed = ""
        self.opened = False

    @property
    def problem(self) -> str:
        """Why the shards are not opened yet, as a sentence."""
        unknown = "the cluster is not formed yet, or this node has not joined it"
        return self._unformed or self._restored.problem or unknown

    async def run(self) -> None:
        """Run until cancelled."""
        while not self.opened:
            view = await self._current()
            if view is None:
                await self._form()
            else:
                await self._open_when_ready(view)
            await asyncio.sleep(LOOK_EVERY_S)
        await self._follow_from_outside()

    async def _current(self) -> ClusterView | None:
        if self._node.metadata is None:
            await self._fetch()
        return self._node.view()

    async def _fetch(self) -> None:
        """Ask the metadata group, from outside of it, for its view."""
        try:
            await self._node.router.refresh_view(self._node.surroundings.clock() + PROPOSE_S)
        except RecollectError as error:
            log.info("the cluster's view is not known yet: %s", error)

    async def _form(self) -> None:
        """Propose `init` if this node leads the metadata group; only the first one counts."""
        metadata = self._node.metadata
        if metadata is None or not metadata.is_leader:
            return
        try:
            init = self._fresh() if not self._node.config.restore else await self._from_checkpoint()
        except (CheckpointError, CommandFailed) as error:
            self._unformed = f"the cluster is not formed from a checkpoint: {error}"
            log.warning("%s; it is tried again", self._unformed)
            await asyncio.sleep(RETRY_S)
            return
        command = encode_metadata(init, now_ms=self._node.surroundings.wall_ms())
        try:
            await metadata.propose(command, self._node.surroundings.clock() + PROPOSE_S)
        except RecollectError as error:
            log.info("forming the cluster again: %s", error)

    def _fresh(self) -> Init:
        """Return the beginning of an empty cluster."""
        config, embedder = self._node.config, self._node.embedder
        patterns = CreateCollection(
            PATTERNS, embedder.dimension, "Cosine", embedding_space=embedder.space
        )
        return msgspec.structs.replace(
            self._placed(config.shards),
            collections=(patterns,),
            request_id_ttl_ms=config.request_id_ttl_ms,
            command_bytes_max=config.command_bytes_max,
        )

    async def _from_checkpoint(self) -> Init:
        """Return the beginning of a cluster from the checkpoint that the settings name.

        Raises CheckpointError or CommandFailed.
        """
        config = self._node.config
        if not config.checkpoint_url:
            raise DatabaseRefused("RECOLLECT_CHECKPOINT_URL is not set")
        async with Database.opened(
            config.checkpoint_url, connections=1, patience_s=PATIENCE_S
        ) as database:
            await migrate(database)
            found = await wanted_checkpoint(database, config.restore)
        catalog = read_catalog(found.catalog)
        log.info("forming the cluster from checkpoint %d of cluster %s", found.id, found.cluster_id)
        return msgspec.structs.replace(
            self._placed(catalog.shards),
            request_id_ttl_ms=catalog.request_id_ttl_ms,
            command_bytes_max=catalog.command_bytes_max,
            restored=restored_from(found),
        )

    def _placed(self, shards: int) -> Init:
        """Return the beginning of a cluster of this many shards on the configured nodes."""
        config, nodes = self._node.config, list(self._node.config.peers())
        replication = min(config.replication, len(nodes))
        return Init(
            cluster_id=self._node.surroundings.identifier(),
            shards=shards,
            replication=replication,
            shard_map=plan(nodes, shards, replication, config.virtual_nodes),
            nodes=nodes,
        )

    async def _open_when_ready(self, view: ClusterView) -> None:
        self._unformed = ""
        if await self._restored.ready(view):
            await self._open_shards(view)

    async def _open_shards(self, view: ClusterView) -> None:
        """Open this node's replicas as the committed shard map says."""
        node = self._node
        for note in disagreements(view, node.config):
            log.warning("%s", note)
        for shard, members in enumerate(view.shard_map):
            if node.config.node_id not in members:
                continue
            path = node.config.shard_path(shard)
            ttl_ms = view.request_id_ttl_ms or node.config.request_id_ttl_ms
            machine = await when_there_is_space(
                partial(node.surroundings.shard, path, ttl_ms), f"shard {shard}"
            )
            machine.graphs.pause = node.surroundings.pause
            machine.graphs.later = node.on_graph_threads
            node.machines[shard] = machine
        await self._open_indexes(view)
        for machine in node.machines.values():
            await node.router.graphs.local.load(machine)
        for shard, machine in node.machines.items():
            members = tuple(view.shard_map[shard])
            node.shards[shard] = node.driver.add(shard + 1, members, machine)
        self.opened = True
        log.info("holding %d shards of cluster %s", len(node.shards), view.cluster_id)

    async def _open_indexes(self, view: ClusterView) -> None:
        """Open and reconcile the indexes where nothing is applied meanwhile."""
        await self._node.driver.lane.run(self._index, view)

    def _index(self, view: ClusterView) -> None:
        with self._node.indexes.filling():
            self._node.indexing.follow(view)
            for shard in sorted(self._node.machines):
                self._node.indexing.shard_opened(shard)

    async def _follow_from_outside(self) -> None:
        """A node outside the metadata group learns of collections by asking."""
        while self._node.metadata is None:
            await asyncio.sleep(LOOK_EVERY_S * 4)
            await self._fetch()
            await self._node.driver.lane.run(self._node.indexing.follow, self._node.view())


def disagreements(view: ClusterView, config: Config) -> list[str]:
    """Return a sentence for each setting that counts only when a cluster is formed, and differs.

    The cluster's value counts, and the node starts: with a value of its own it would forget other
    requests than the other replicas, and to refuse would make an outage of a harmless difference.
    """
    agreed = {
        "shards": view.shards,
        "request_id_ttl_ms": view.request_id_ttl_ms,
        "command_bytes_max": view.command_bytes_max,
    }
    notes = [
        f"{name} is {value} in this cluster since it was formed; {getattr(config, name)} is ignored"
        for name, value in agreed.items()
        if value not in {0, getattr(config, name)}
    ]
    if config.restore and not view.awaits(config.node_id):
        notes.append("restore is ignored: the cluster was formed before")
    return notes
