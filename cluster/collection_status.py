"""How far a collection's index is, over all nodes that hold a part of it.

`green` is a promise about every replica: every node answered, is in touch with the leaders of its
shards, and has nothing left to put into the search graph. Anything else is `yellow`; reads and
writes work either way, because what is not in the graph yet is searched exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cluster.errors import RecollectError
from cluster.fan_out import fan_out
from cluster.model import Collection, Options
from cluster.peer_methods import DESCRIBE_INDEX, DescribeIndex, IndexState
from cluster.read_path import ReadPath
from cluster.routing import Routing
from storage.index_set import IndexSet

INDEX_STATE_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection holds, over all its shards.

    `indexed_count`: points that are in the search graph of every replica that answered.
    """

    points_count: int
    indexed_count: int
    status: Literal["green", "yellow"]
    shards: int
    replication: int


@dataclass(frozen=True)
class CollectionStatus:
    """Asks all nodes about a collection."""

    routing: Routing
    indexes: IndexSet
    reads: ReadPath

    async def describe(self, collection: Collection, options: Options) -> CollectionInfo:
        """Return counts and status. Raises ShardsUnavailable when points cannot be counted."""
        points = await self.reads.count(collection, None, options)
        view = self.routing.view()
        holders = sorted({node for members in view.shard_map for node in members})
        until_s = min(options.deadline_s, self.routing.clock() + INDEX_STATE_WAIT_S)
        answers = await fan_out([self._state(node, collection.uid, until_s) for node in holders])
        states = [answer for answer in answers if not isinstance(answer, RecollectError)]
        waiting = max((state.waiting for state in states), default=points)
        complete = all(state.fresh and not state.waiting for state in states)
        green = complete and len(states) == len(holders)
        return CollectionInfo(
            points_count=points,
            indexed_count=max(0, points - waiting),
            status="green" if green else "yellow",
            shards=view.shards,
            replication=view.replication,
        )

    def register(self) -> None:
        """Answer other nodes."""
        self.routing.peers.serve(DESCRIBE_INDEX, self._serve)

    async def _serve(self, request: DescribeIndex) -> IndexState:
        return self._own_state(request.collection)

    async def _state(self, node: str, collection: int, until_s: float) -> IndexState:
        if node == self.routing.me:
            return self._own_state(collection)
        request = DescribeIndex(collection)
        return await self.routing.peers.call(node, DESCRIBE_INDEX, request, until_s)

    def _own_state(self, collection: int) -> IndexState:
        staleness_ms = self.routing.config.max_staleness_ms
        fresh = all(replica.fresh(staleness_ms) for replica in self.routing.replicas.values())
        index = self.indexes.get(collection)
        if index is None:
            return IndexState(waiting=0, fresh=False)
        return IndexState(waiting=index.tail_size, fresh=fresh)
