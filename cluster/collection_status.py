"""How far a collection's index is, over all nodes that hold a part of it.

`green` is a promise about every replica: every node answered, is in touch with the leaders of its
shards, and has nothing left to put into the search graph. Anything else is `yellow`; reads and
writes work either way, because what is not in the graph yet is searched exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cluster.errors import RecollectError
from cluster.fan_out import fan_out
from cluster.model import Collection, Options
from cluster.peer_methods import DESCRIBE_INDEX, DescribeIndex, IndexState
from cluster.read_path import ReadPath
from cluster.routing import Routing
from storage.index_set import IndexSet
from storage.vector_index import VectorIndex

INDEX_STATE_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection holds, over all its shards.

    `indexed_count`: points that are in the search graph of every replica that answered.
    `field_counts`: for each payload index, the points that have a value in it.
    """

    points_count: int
    indexed_count: int
    status: Literal["green", "yellow"]
    shards: int
    replication: int
    field_counts: Mapping[str, int] = field(default_factory=dict)


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
            field_counts=_field_counts(states),
        )

    def register(self) -> None:
        """Answer other nodes."""
        self.routing.peers.serve(DESCRIBE_INDEX, self._serve)

    async def _serve(self, request: DescribeIndex) -> IndexState:
        return await self._own_state(request.collection)

    async def _state(self, node: str, collection: int, until_s: float) -> IndexState:
        if node == self.routing.me:
            return await self._own_state(collection)
        request = DescribeIndex(collection)
        return await self.routing.peers.call(node, DESCRIBE_INDEX, request, until_s)

    async def _own_state(self, collection: int) -> IndexState:
        staleness_ms = self.routing.config.max_staleness_ms
        fresh = all(replica.fresh(staleness_ms) for replica in self.routing.replicas.values())
        index = self.indexes.get(collection)
        if index is None:
            return IndexState(waiting=0, fresh=False)
        # It takes in rows that wait, and looks at every row: that is no work for the event loop.
        return await self.routing.run(_state_of, index, fresh=fresh)


def _state_of(index: VectorIndex, *, fresh: bool) -> IndexState:
    indexed = index.payloads.points() if index.payloads.has_fields else {}
    return IndexState(waiting=index.tail_size, fresh=fresh, indexed=indexed)


def _field_counts(states: Sequence[IndexState]) -> dict[str, int]:
    """Return how many points each payload index has: of each shard what one node knows most of."""
    counts: dict[str, dict[int, int]] = {}
    for state in states:
        for name, by_shard in state.indexed.items():
            known = counts.setdefault(name, {})
            for shard, count in by_shard.items():
                known[shard] = max(count, known.get(shard, 0))
    return {name: sum(by_shard.values()) for name, by_shard in counts.items()}
