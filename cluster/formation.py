"""How a cluster comes to be, and how a node comes to its shards.

The configured nodes only form the metadata group. Its first leader commits `init`: cluster id,
number of shards, replication, the shard map and the collection that patterns live in. From then
on the committed view is the truth; a node opens the replicas that the view gives it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from cluster.config import Config
from cluster.errors import RecollectError
from cluster.metadata import ClusterView
from cluster.metadata_command import CreateCollection, Init, encode_metadata
from cluster.opening import when_there_is_space
from cluster.placement import plan

if TYPE_CHECKING:
    from cluster.node import Node

log = logging.getLogger("recollect.formation")

METADATA: Final = 0
"""Raft group of the metadata; shard s is group s + 1."""
PATTERNS: Final = "patterns"
LOOK_EVERY_S: Final = 0.05
PROPOSE_S: Final = 5.0


class Formation:
    """Forms the cluster or joins it, then keeps indexes in step with the view."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.opened = False

    async def run(self) -> None:
        """Run until cancelled."""
        while not self.opened:
            view = await self._current()
            if view is None:
                await self._form()
            else:
                await self._open_shards(view)
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
        config, nodes = self._node.config, list(self._node.config.peers())
        replication = min(config.replication, len(nodes))
        embedder = self._node.embedder
        init = Init(
            cluster_id=self._node.surroundings.identifier(),
            shards=config.shards,
            replication=replication,
            shard_map=plan(nodes, config.shards, replication, config.virtual_nodes),
            nodes=nodes,
            collections=(
                CreateCollection(
                    PATTERNS, embedder.dimension, "Cosine", embedding_space=embedder.space
                ),
            ),
            request_id_ttl_ms=config.request_id_ttl_ms,
            command_bytes_max=config.command_bytes_max,
        )
        command = encode_metadata(init, now_ms=self._node.surroundings.wall_ms())
        try:
            await metadata.propose(command, self._node.surroundings.clock() + PROPOSE_S)
        except RecollectError as error:
            log.info("forming the cluster again: %s", error)

    async def _open_shards(self, view: ClusterView) -> None:
        """Open this node's replicas as the committed shard map says."""
        node = self._node
        for note in disagreements(view, node.config):
            log.warning("%s", note)
        for shard, members in enumerate(view.shard_map):
            if node.config.node_id not in members:
                continue
            path = node.config.data_dir / "groups" / f"shard-{shard:04d}"
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
    """Return a sentence for each setting that differs from what the cluster was formed with.

    The cluster's value counts, and the node starts: with a value of its own it would forget other
    requests than the other replicas, and to refuse would make an outage of a harmless difference.
    """
    agreed = {
        "shards": view.shards,
        "request_id_ttl_ms": view.request_id_ttl_ms,
        "command_bytes_max": view.command_bytes_max,
    }
    return [
        f"{name} is {value} in this cluster since it was formed; {getattr(config, name)} is ignored"
        for name, value in agreed.items()
        if value not in {0, getattr(config, name)}
    ]
