"""The way of a search: the fewest nodes that cover all shards, one search on each, the best k.

Usually this node covers everything. Then nothing is scattered: if every replica here is fresh
and the search has no filter, it goes straight to the lanes, which answer it in one hop to a
thread, payloads included. A search with a filter that payload indexes answer is done here, too: at
once where it is a matter of comparing a few rows, else by a lane. Everything else takes the
general way: find hits on each node, merge, fetch the rows of the winners from the nodes that found
them.

A hit whose row is gone by the time it is fetched was deleted meanwhile, and is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import orjson

from cluster.errors import BadRequest
from cluster.local_queries import fetch_rows, with_ids
from cluster.local_reads import LocalReads
from cluster.merge import best_of, more_is_better, passes
from cluster.model import (
    SEEN_METADATA,
    Collection,
    Hit,
    Options,
    SearchAnswer,
    SearchRequest,
    Session,
    Vector,
)
from cluster.peer_methods import Fetch, FoundId, Nearest
from cluster.read_path import ReadPath, Rows, ids_by_shard
from cluster.routing import Routing
from cluster.scatter import Scatter
from cluster.scope import scope_of
from cluster.search_lanes import ROWS_AT_ONCE, Passing, SearchLanes
from storage.filters import Filter
from storage.ids import decode_id, shard_key_of
from storage.index_set import IndexSet
from storage.metric import is_unit
from storage.vector_index import IndexHit, NotIndexed, VectorIndex

FoundType = TypeVar("FoundType", bound="Found")


class Found(Protocol):
    """A hit as the index or another node gives it."""

    @property
    def id(self) -> bytes:
        """Canonical bytes of the id."""
        ...

    @property
    def shard(self) -> int:
        """The shard that it is in."""
        ...

    @property
    def version(self) -> int:
        """The shard index of the entry that wrote it."""
        ...

    @property
    def score(self) -> float:
        """Similarity or distance."""
        ...


@dataclass(frozen=True, slots=True)
class _Call:
    """What searches have to have in common to share a call."""

    index: VectorIndex
    limit: int
    ef: int | None


@dataclass(frozen=True)
class SearchPath:
    """Finds the points nearest to a vector."""

    routing: Routing
    indexes: IndexSet
    local: LocalReads
    lanes: SearchLanes
    scatter: Scatter
    reads: ReadPath

    async def search(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        """Return the best hits.

        Raises BadRequest for a vector that does not fit the collection, ShardsUnavailable when a
        shard is missing and partial answers are not allowed.
        """
        return await self._search(collection, request, options, alone=True)

    async def _search(
        self, collection: Collection, request: SearchRequest, options: Options, *, alone: bool
    ) -> SearchAnswer:
        vector = searchable(collection, request.vector)
        shards = self.routing.view().shards
        index = self._index_for_all(collection, request, options, shards)
        hits = None
        if index is not None:
            hits = await self._search_here(collection, request, vector, index, alone=alone)
        if hits is None:
            return await self._scattered(
                collection, msgspec.structs.replace(request, vector=vector), options
            )
        self.local.note(options.reflected, range(shards))
        return SearchAnswer(hits, tuple(range(shards)))

    async def search_many(
        self, collection: Collection, requests: Sequence[SearchRequest], options: Options
    ) -> list[SearchAnswer]:
        """Return the best hits of each request; raises as `search` does.

        Those without a filter that this node can answer at once share calls of the index; the
        others run side by side.
        """
        vectors = searchable_rows(collection, [request.vector for request in requests])
        asked = [
            msgspec.structs.replace(request, vector=vector)
            for request, vector in zip(requests, vectors, strict=True)
        ]
        shards = self.routing.view().shards
        alike: dict[_Call, list[int]] = {}
        answers: dict[int, SearchAnswer] = {}
        here = self._index_here(collection, options, shards)
        async with asyncio.TaskGroup() as group:
            for at, request in enumerate(asked):
                index = None if request.exact else here
                if index is None or request.filter is not None:
                    found = self._one(collection, request, options, alone=len(requests) == 1)
                    group.create_task(_into(answers, [at], found))
                else:
                    call = _Call(index, request.limit + request.offset, request.ef)
                    alike.setdefault(call, []).append(at)
            for call, places in alike.items():
                chosen = [asked[at] for at in places]
                found = self._together(call, collection, chosen, options)
                group.create_task(_into(answers, places, found))
        return [answers[at] for at in range(len(requests))]

    async def _one(
        self, collection: Collection, request: SearchRequest, options: Options, *, alone: bool
    ) -> list[SearchAnswer]:
        return [await self._search(collection, request, options, alone=alone)]

    async def _together(
        self,
        call: _Call,
        collection: Collection,
        requests: Sequence[SearchRequest],
        options: Options,
    ) -> list[SearchAnswer]:
        asked = [(each.vector, partial(self._finish, collection, each)) for each in requests]
        found = await self.lanes.nearest_many(call.index, asked, call.limit, call.ef)
        shards = tuple(range(self.routing.view().shards))
        self.local.note(options.reflected, shards)
        return [SearchAnswer(hits, shards) for hits in found]

    async def _search_here(
        self,
        collection: Collection,
        request: SearchRequest,
        vector: Vector,
        index: VectorIndex,
        *,
        alone: bool,
    ) -> list[Hit] | None:
        """Return the best hits of this node's index; None: payloads have to be read for it.

        A search that is not `alone` is one of many, which together would hold the event loop up.
        """
        finish = partial(self._finish, collection, request)
        limit = request.limit + request.offset
        if request.filter is None:
            return await self.lanes.nearest(index, vector, limit, request.ef, finish)
        rows = index.payloads.restriction(request.filter, None)
        bare = not (request.with_payload or request.with_vector)
        try:
            if alone and bare and index.is_quiet:
                row = vector.reshape(1, -1)
                hits = index.filtered.at_once(row, limit, rows, ROWS_AT_ONCE, ef=request.ef)
                if hits is not None:
                    return finish(hits)
            passing = Passing(index, rows)
            return await self.lanes.nearest(passing, vector, limit, request.ef, finish)
        except NotIndexed:
            return None

    def _index_for_all(
        self, collection: Collection, request: SearchRequest, options: Options, shards: int
    ) -> VectorIndex | None:
        """Return this node's index if it alone can answer at once; this is the hot path."""
        if request.exact or (request.filter is not None and collection.custom_sharding):
            return None
        return self._index_here(collection, options, shards)

    def _index_here(
        self, collection: Collection, options: Options, shards: int
    ) -> VectorIndex | None:
        """Return this node's index if it has all that a read with these options may see."""
        if options.strong:
            return None
        if options.shard_keys is not None:
            return None
        fresh = self.local.serves_all(shards, options.max_staleness_ms)
        if not (fresh and self._has_seen(options.session)):
            return None
        return self.indexes.get(collection.uid)

    def _has_seen(self, session: Session) -> bool:
        replicas = self.routing.replicas
        return not session.indexes or all(
            shard in replicas and replicas[shard].applied_index >= index
            for shard, index in session.indexes.items()
            if shard != SEEN_METADATA
        )

    def _finish(
        self, collection: Collection, request: SearchRequest, found: Sequence[IndexHit]
    ) -> list[Hit]:
        """Turn this node's hits into an answer; on a thread."""
        chosen = cut(found, collection, request)
        if collection.custom_sharding:
            replicas = self.routing.replicas
            machines = {shard: replica.machine for shard, replica in replicas.items()}
            chosen = with_ids(machines, collection.uid, chosen)
        if not (request.with_payload or request.with_vector):
            return list(map(bare_hit, chosen))
        query = _fetch_of(chosen, collection, request)
        rows: Rows = {}
        for shard, ids in query.ids.items():
            machine = self.routing.replicas[shard].machine
            rows.update((row.id, row) for row in fetch_rows(machine, query, ids))
        return hits_of(chosen, rows)

    async def _scattered(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        scope = scope_of(collection, options.shard_keys)
        shards = scope.shards(self.routing.view().shards)
        terms = replace(
            await self.reads.terms(options, shards), allow_partial=options.allow_partial
        )
        query = _nearest_of(collection, request, scope.filter(request.filter))
        gathered = await self.scatter.gather(self.local.search, lambda _: query, shards, terms)
        descending = more_is_better(collection.distance)
        best = best_of(gathered.found, query.limit, descending=descending)
        chosen = cut(best, collection, request)
        failed = set(gathered.missing)
        if request.with_payload or request.with_vector:
            fetch = _fetch_of(chosen, collection, request)
            rows, missing = await self.reads.rows(fetch, terms, gathered.answered_by)
            failed |= missing
            hits = hits_of(chosen, rows)
        else:
            hits = list(map(bare_hit, chosen))
        answered = tuple(shard for shard in shards if shard not in failed)
        return SearchAnswer(hits, answered, tuple(sorted(failed)))


def searchable(collection: Collection, vector: Vector) -> Vector:
    """Return the vector as the index wants it, of length 1 under Cosine.

    Raises BadRequest when it does not fit the collection.
    """
    if vector.shape != (collection.dimension,):
        text = f"the vector has {vector.size} elements, not {collection.dimension}"
        raise BadRequest(text, field="vector")
    if collection.distance == "Cosine" and is_unit(vector):
        return vector.astype("<f4", copy=False)
    wide = vector.astype(np.float64)
    square = float(np.dot(wide, wide))
    if not np.isfinite(square):
        raise BadRequest("the vector is not finite", field="vector")
    if collection.distance != "Cosine":
        return vector.astype("<f4", copy=False)
    if square == 0:
        raise BadRequest("the vector has length 0, which has no direction", field="vector")
    unit: Vector = (wide / np.sqrt(square)).astype("<f4")
    return unit


async def _into(
    answers: dict[int, SearchAnswer],
    places: Sequence[int],
    found: Awaitable[Sequence[SearchAnswer]],
) -> None:
    """Put what was found in its places."""
    answers.update(zip(places, await found, strict=True))


def searchable_rows(collection: Collection, vectors: Sequence[Vector]) -> Sequence[Vector]:
    """Return vectors as `searchable` does, at the price of one."""
    if any(vector.shape != (collection.dimension,) for vector in vectors) or not vectors:
        return [searchable(collection, vector) for vector in vectors]
    cosine = collection.distance == "Cosine"
    units = [cosine and is_unit(vector) for vector in vectors]
    if all(units):
        return [vector.astype("<f4", copy=False) for vector in vectors]
    wide = np.stack(vectors).astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    if not (np.isfinite(squares) & (squares > 0)).all():
        return [searchable(collection, vector) for vector in vectors]
    if collection.distance == "Cosine":
        wide /= np.sqrt(squares)[:, np.newaxis]
        return [
            vector.astype("<f4", copy=False) if ready else row
            for vector, ready, row in zip(vectors, units, wide.astype("<f4"), strict=True)
        ]
    return list(wide.astype("<f4"))


def cut(
    found: Sequence[FoundType], collection: Collection, request: SearchRequest
) -> Sequence[FoundType]:
    """Return the hits that are good enough, from the offset on, at most `limit`."""
    chosen = found[request.offset : request.offset + request.limit]
    if request.score_threshold is None:
        return chosen
    descending = more_is_better(collection.distance)
    return [
        hit for hit in chosen if passes(hit.score, request.score_threshold, descending=descending)
    ]


def bare_hit(found: Found) -> Hit:
    """Return a hit without what its row holds."""
    identity = found.id
    return Hit(decode_id(identity), found.version, found.score, shard_key=shard_key_of(identity))


def hits_of(found: Sequence[Found], rows: Rows) -> list[Hit]:
    """Return hits with what their rows hold; a hit without a row was deleted meanwhile."""
    hits = []
    for hit in found:
        row = rows.get(hit.id)
        if row is not None:
            vector = None if row.vector is None else np.frombuffer(row.vector, "<f4")
            payload = None if row.payload is None else orjson.loads(row.payload)
            key = shard_key_of(hit.id)
            hits.append(Hit(decode_id(hit.id), row.version, hit.score, vector, payload, key))
    return hits


def _nearest_of(collection: Collection, request: SearchRequest, where: Filter | None) -> Nearest:
    return Nearest(
        collection.uid,
        request.vector.tobytes(),
        request.limit + request.offset,
        request.ef,
        request.exact,
        where,
    )


def _fetch_of(chosen: Sequence[Found], collection: Collection, request: SearchRequest) -> Fetch:
    found = (FoundId(hit.id, hit.shard) for hit in chosen)
    return Fetch(collection.uid, ids_by_shard(found), request.with_vector, request.with_payload)
