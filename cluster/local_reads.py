"""What this node answers from its own replicas, for its own requests and for other nodes'.

Every shard of a read is admitted by itself: this node must hold a replica, the replica must be
fresh (in touch with its leader, and up to what it heard), and must have applied the index that
the read requires, for which it waits while there is time. A shard that is not admitted is
refused with the reason, never answered from what may be too old.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import numpy as np

from cluster import local_queries
from cluster.errors import NotReady, Unavailable
from cluster.local_queries import AnswerLimits, Machines, found_hits
from cluster.peer import Method
from cluster.peer_methods import (
    COUNT,
    FETCH,
    PAGE,
    SEARCH,
    Count,
    Fetch,
    Fetched,
    FoundHit,
    FoundId,
    Nearest,
    Page,
    ShardAnswer,
    ShardRead,
)
from cluster.routing import Routing
from cluster.search_lanes import SearchLanes
from storage.index_set import IndexSet

QueryType = TypeVar("QueryType")
FoundType = TypeVar("FoundType")

FRESH_FOR_MS: Final = 5
"""Looking at every replica for each search would cost more than decoding the search."""
_BELIEVED_PART: Final = 4
"""A copy is believed for at most this part of the age that a read accepts."""
_FRAME_SHARE: Final = 4
"""An answer fills at most this fraction of a frame, and one more slice of the same size."""


@dataclass(frozen=True)
class ReadKind(Generic[QueryType, FoundType]):
    """A read that any node can do over some shards: how it travels, and how it is done here."""

    method: Method[ShardRead[QueryType], ShardAnswer[FoundType]]
    perform: Callable[[Machines, QueryType, float], Awaitable[FoundType]]
    """Takes the time, on this node's clock, after which nobody waits for the answer any more."""


class LocalReads:
    """See the module."""

    def __init__(self, routing: Routing, indexes: IndexSet, lanes: SearchLanes) -> None:
        self._routing = routing
        self._indexes = indexes
        self._lanes = lanes
        config = routing.config
        bytes_max = config.frame_bytes_max // _FRAME_SHARE
        row_bytes_max = config.payload_bytes_max + 4 * config.dimension_max
        self._limits = AnswerLimits(bytes_max, max(1, bytes_max // row_bytes_max))
        self._fresh_for: tuple[int, int | None] | None = None
        self._fresh_until_s = -math.inf
        self.search = ReadKind(SEARCH, self._nearest)
        self.page = ReadKind(PAGE, self._page)
        self.count = ReadKind(COUNT, self._count)
        self.fetch = ReadKind(FETCH, self._fetch)

    def register(self) -> None:
        """Answer other nodes' reads."""
        self.serve(self.search)
        self.serve(self.page)
        self.serve(self.count)
        self.serve(self.fetch)

    def serves_all(self, shards: int, max_staleness_ms: int | None) -> bool:
        """Return whether every shard has a fresh replica on this node.

        That they are is believed for `FRESH_FOR_MS`, by which they must be fresher.
        """
        now_s, asked = self._routing.clock(), (shards, max_staleness_ms)
        if asked == self._fresh_for and now_s < self._fresh_until_s:
            return True
        if not self._are_fresh(shards, self._staleness_ms(max_staleness_ms) - FRESH_FOR_MS):
            return False
        self._fresh_for, self._fresh_until_s = asked, now_s + FRESH_FOR_MS / 1000
        return True

    def stays_fresh_ms(self, most_ms: int) -> int:
        """Return for how long copies of this node's replicas may be believed to be fresh.

        They are fresher by as much; 0: one is not, or a shard has none here.
        """
        view, accepted_ms = self._routing.local_view(), self._staleness_ms(None)
        for_ms = min(most_ms, accepted_ms // _BELIEVED_PART)
        fresh = view is not None and self._are_fresh(view.shards, accepted_ms - for_ms)
        return for_ms if fresh else 0

    def _are_fresh(self, shards: int, staleness_ms: int) -> bool:
        replicas = self._routing.replicas.values()
        return len(replicas) == shards and all(each.fresh(staleness_ms) for each in replicas)

    def has_fresh(self, shard: int, max_staleness_ms: int | None) -> bool:
        """Return whether this node has a fresh replica of a shard."""
        replica = self._routing.replicas.get(shard)
        return replica is not None and replica.fresh(self._staleness_ms(max_staleness_ms))

    def note(self, reflected: dict[int, int], shards: Iterable[int]) -> None:
        """Note up to which index a read of own replicas that ends now may have seen them."""
        replicas = self._routing.replicas
        shown = {shard: replicas[shard].shown_index for shard in shards}
        for shard, index in reflected.items():
            shown[shard] = max(index, shown.get(shard, 0))
        reflected.update(shown)

    async def answer(
        self,
        kind: ReadKind[QueryType, FoundType],
        read: ShardRead[QueryType],
        deadline_s: float,
    ) -> ShardAnswer[FoundType]:
        """Return what is found in the shards that are admitted by the deadline."""
        refused: dict[int, str] = {}
        for shard in read.shards:
            reason = await self._refusal(shard, read, deadline_s)
            if reason is not None:
                refused[shard] = reason
        replicas = self._routing.replicas
        machines = {shard: replicas[shard].machine for shard in read.shards if shard not in refused}
        if not machines:
            return ShardAnswer(refused)
        found = await kind.perform(machines, read.query, deadline_s)
        reflected: dict[int, int] = {}
        self.note(reflected, machines)
        return ShardAnswer(refused, found, reflected)

    def serve(self, kind: ReadKind[QueryType, FoundType]) -> None:
        """Answer other nodes' reads of one kind."""

        async def handler(read: ShardRead[QueryType]) -> ShardAnswer[FoundType]:
            return await self.answer(kind, read, self._routing.deadline_after(read.timeout_ms))

        self._routing.peers.serve(kind.method, handler)

    def _staleness_ms(self, asked_ms: int | None) -> int:
        return self._routing.config.max_staleness_ms if asked_ms is None else asked_ms

    async def _refusal(
        self, shard: int, read: ShardRead[QueryType], deadline_s: float
    ) -> str | None:
        replica, required = self._routing.replicas.get(shard), read.required.get(shard, 0)
        if replica is None:
            return "no replica"
        if not replica.fresh(self._staleness_ms(read.max_staleness_ms)):
            return "not in touch with its leader"
        if replica.applied_index < required:
            try:
                await replica.wait_applied(required, deadline_s)
            except Unavailable:
                return f"has not reached index {required}"
        return None

    async def _nearest(
        self, machines: Machines, query: Nearest, _deadline_s: float
    ) -> list[FoundHit]:
        index = self._indexes.get(query.collection)
        if index is None:
            # The rows may be here before this node has heard of their collection.
            raise NotReady(f"{self._routing.me} has not opened this collection's index yet")
        plain = query.filter is None and not query.exact
        if plain and len(machines) == len(self._routing.replicas):
            vector = np.frombuffer(query.vector, "<f4")
            finish = partial(found_hits, machines, query.collection)
            return await self._lanes.nearest(index, vector, query.limit, query.ef, finish)
        return await self._routing.run(local_queries.nearest, machines, query, index)

    async def _page(self, machines: Machines, query: Page, _deadline_s: float) -> list[FoundId]:
        index = self._indexes.get(query.collection)
        return await self._routing.run(local_queries.page, machines, query, index)

    async def _count(self, machines: Machines, query: Count, _deadline_s: float) -> int:
        index = self._indexes.get(query.collection)
        return await self._routing.run(local_queries.count, machines, query, index)

    async def _fetch(self, machines: Machines, query: Fetch, _deadline_s: float) -> Fetched:
        return await self._routing.run(local_queries.fetch, machines, query, self._limits)
