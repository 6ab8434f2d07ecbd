"""Graphs: which there are, and how they come and go. As collections do: see `cluster.catalog`.

A graph lies whole in one shard, that of its name, hashed as a shard key is. So points that are
written under that name as their shard key lie beside it, and can change with it in one log entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cluster.catalog import FENCE_S, Catalog, raise_refusal
from cluster.command import DropGraph as DropRows
from cluster.command import encode_body
from cluster.errors import CollectionExists, GraphNotFound, NotReady, RecollectError
from cluster.fan_out import fan_out
from cluster.metadata import CreateGraph, DropGraph, PurgeGraph
from cluster.model import Graph, Options
from cluster.ring import shard_of
from cluster.routing import METADATA_GROUP, Routing
from storage.ids import key_bytes


@dataclass(frozen=True)
class GraphCatalog:
    """Finds, creates and drops graphs."""

    routing: Routing
    catalog: Catalog

    def shard(self, name: str) -> int:
        """Return the shard of a name."""
        return shard_of(key_bytes(name), self.routing.view().shards)

    def graphs(self) -> list[Graph]:
        """Return the graphs that this node knows; empty before the cluster is formed."""
        try:
            return list(self.routing.view().graphs.values())
        except NotReady:
            return []

    async def graph(self, name: str, options: Options) -> Graph:
        """Return a graph. Raises GraphNotFound, or Unavailable when nobody can tell."""
        await self.catalog.catch_up_for(options)
        found = self.routing.view().graphs.get(name)
        if found is None and not options.strong:
            await self.catalog.catch_up(options.deadline_s)
            found = self.routing.view().graphs.get(name)
        if found is None:
            raise GraphNotFound(f"there is no graph '{name}'", field="name")
        return found

    async def create(self, wanted: CreateGraph, options: Options) -> bool:
        """Create a graph; return False when the equal one exists. Raises CollectionExists."""
        result = await self.catalog.propose(wanted, f"create_graph/{wanted.name}", options)
        if result.error == "collection_exists":
            text = f"graph '{wanted.name}' exists with other parameters"
            raise CollectionExists(text, field="name")
        raise_refusal(result)
        await self.catalog.show(result.version, options.deadline_s)
        await self._fence(wanted.name, options.deadline_s)
        await self.graph(wanted.name, options)
        return result.affected > 0

    async def drop(self, name: str, options: Options) -> bool:
        """Take a graph's name away; return whether there was one."""
        result = await self.catalog.propose(DropGraph(name), f"drop_graph/{name}", options)
        raise_refusal(result)
        await self.catalog.show(result.version, options.deadline_s)
        await self._fence(name, options.deadline_s)
        return result.affected > 0

    async def purge_dropped(self) -> int:
        """Remove what is left of dropped graphs; return how many are gone. See the catalogue's."""
        metadata, view = self.routing.metadata, self.routing.local_view()
        if metadata is None or not metadata.is_leader or view is None:
            return 0
        purged = 0
        for graph in view.dropping_graphs:
            deadline_s = self.routing.deadline_after(self.routing.config.request_timeout_ms)
            purged += await self._purge(graph, deadline_s)
        return purged

    async def _fence(self, name: str, deadline_s: float) -> None:
        until_s = min(deadline_s, self.routing.clock() + FENCE_S)
        for graph in self.routing.view().dropping_graphs:
            if graph.name == name:
                await self._purge(graph, until_s)

    async def _purge(self, graph: Graph, deadline_s: float) -> bool:
        body, shard = encode_body(DropRows(graph.uid)), self.shard(graph.name)
        propose = self.catalog.leaders.propose
        request = f"purge_graph/{graph.uid}"
        (done,) = await fan_out([propose(shard, request, body, deadline_s)])
        if isinstance(done, RecollectError) or done.error is not None:
            return False
        purge = msgspec.msgpack.encode(PurgeGraph(graph.uid))
        (purged,) = await fan_out([propose(METADATA_GROUP, request, purge, deadline_s)])
        return not isinstance(purged, RecollectError)
