"""Reads of what changed, from this node's replicas and, for shards without one here, from others'.

A replica may be read however stale it is, as long as it has applied what its shard's place has: it
gives the same changes in the same order as any other, if perhaps later. Answers are small, so that
a reader holds little; the next look goes on where this one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cluster.local_queries import Machines
from cluster.local_reads import LocalReads, ReadKind
from cluster.peer_methods import CHANGES, ReadChanges
from cluster.routing import Routing
from cluster.scatter import ReadTerms, Scatter
from storage.changes import Changes, Demand, Place

ROWS_MAX: Final = 1000
BYTES_MAX: Final = 512 << 10
"""Of one look, over all its shards."""
FRAME_SHARE: Final = 4
"""A look takes at most this fraction of a frame, though each shard may answer with any one row."""
STALENESS_MS: Final = 3_600_000


class Look(NamedTuple):
    """What was found in each shard that answered."""

    found: dict[int, Changes]
    missing: tuple[int, ...]


class ChangeReader:
    """See the module."""

    def __init__(self, routing: Routing, local: LocalReads, scatter: Scatter) -> None:
        self._routing, self._local, self._scatter = routing, local, scatter
        self._kind = ReadKind(CHANGES, self._perform)
        config = routing.config
        room = config.frame_bytes_max // FRAME_SHARE
        self.shards_max = max(1, room // (config.payload_bytes_max + 4 * config.dimension_max))
        """Of one look."""

    def register(self) -> None:
        """Answer other nodes' looks."""
        self._local.serve(self._kind)

    async def look(
        self, places: Mapping[int, Place], skip: Sequence[int], shown: Shown, deadline_s: float
    ) -> Look:
        """Return what changed behind these places, as far as one look goes."""
        assert 0 < len(places) <= self.shards_max, "an answer fits a frame"
        terms = ReadTerms(
            deadline_s,
            {shard: place.index for shard, place in places.items()},
            allow_partial=True,
            max_staleness_ms=STALENESS_MS,
        )

        def query_of(shards: Sequence[int]) -> ReadChanges:
            asked = {shard: places[shard] for shard in shards}
            return ReadChanges(asked, list(skip), *shown)

        gathered = await self._scatter.gather(self._kind, query_of, places, terms)
        found = {shard: each for part in gathered.found for shard, each in part.items()}
        return Look(found, tuple(gathered.missing))

    async def _perform(
        self, machines: Machines, query: ReadChanges, _deadline_s: float
    ) -> dict[int, Changes]:
        return await self._routing.run(_read, machines, query)


class Shown(NamedTuple):
    """What is told of a row beside its id."""

    with_payload: bool = True
    with_vector: bool = False


def _read(machines: Machines, query: ReadChanges) -> dict[int, Changes]:
    demand = Demand(
        query.skip,
        rows_max=max(1, ROWS_MAX // len(machines)),
        bytes_max=BYTES_MAX // len(machines),
        with_payload=query.with_payload,
        with_vector=query.with_vector,
    )
    return {
        shard: machine.changes(query.places[shard], demand) for shard, machine in machines.items()
    }
