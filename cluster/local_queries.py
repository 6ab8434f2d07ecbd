"""Reads of some of this node's shards, given their machines. They block: call them on a thread.

A filter that the collection's payload indexes answer is answered by them. Any other becomes SQL
once per query and is run shard by shard, over the rows that the indexes leave when these are few,
else over all. Search then goes through the one vector index that this node has of the collection;
everything else is read from the store by canonical id, whose byte order is the order of pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from cluster.peer_methods import Count, Fetch, Fetched, FetchedRow, FoundHit, FoundId, Nearest, Page
from cluster.shard import ShardMachine
from storage.filter_sql import SqlFilter, to_sql
from storage.filters import Filter
from storage.selection import Selection
from storage.seq_slots import Numbers
from storage.vector_index import IndexHit, NotIndexed, VectorIndex

Machines = Mapping[int, ShardMachine]
"""shard -> its state, for the shards that a read may use."""
_NO_ROWS: Final[Numbers] = np.empty(0, dtype=np.int64)


class AnswerLimits(NamedTuple):
    """How large an answer may grow: its bytes, and the rows read at a time to fill it."""

    bytes_max: int
    slice_rows: int


def nearest(machines: Machines, query: Nearest, index: VectorIndex) -> list[FoundHit]:
    """Return the best points of these shards, best first."""
    vector, shards = np.frombuffer(query.vector, "<f4"), list(machines)
    search = partial(index.search_within, vector, query.limit, ef=query.ef, exact=query.exact)
    if query.filter is None:
        return found_hits(machines, query.collection, search(Selection(shards, None)))
    try:
        hits = search(index.payloads.restriction(query.filter, shards))
    except NotIndexed:
        allowed = _matching(machines, query.collection, query.filter, index)
        hits = search(Selection(shards, allowed))
    return found_hits(machines, query.collection, hits)


def _matching(
    machines: Machines, collection: int, chosen: Filter, index: VectorIndex
) -> dict[int, Numbers]:
    """Return the rows of each shard that pass, from their payloads."""
    where, among = to_sql(chosen), _among(machines, chosen, index, index.size)
    return {
        shard: machine.matching(collection, where, among=_of_shard(among, shard))
        for shard, machine in machines.items()
    }


def _among(
    machines: Machines, chosen: Filter, index: VectorIndex, rows_max: int
) -> Mapping[int, Numbers] | None:
    """Return the only rows of each shard that can pass, where indexes say that they are few."""
    return index.payloads.narrow(chosen, list(machines), rows_max)


def _of_shard(among: Mapping[int, Numbers] | None, shard: int) -> Numbers | None:
    return None if among is None else among.get(shard, _NO_ROWS)


def found_hits(machines: Machines, collection: int, hits: Sequence[IndexHit]) -> list[FoundHit]:
    """Return an index's hits as they travel."""
    named = with_ids(machines, collection, hits)
    return [FoundHit(hit.id, hit.version, hit.score, hit.shard) for hit in named]


def with_ids(machines: Machines, collection: int, hits: Sequence[IndexHit]) -> Sequence[IndexHit]:
    """Return hits with the ids that an index does not keep, those with keys.

    A hit whose row is gone was deleted meanwhile, and is left out.
    """
    nameless: dict[int, list[int]] = {}
    for hit in hits:
        if not hit.id:
            nameless.setdefault(hit.shard, []).append(hit.seq)
    if not nameless:
        return hits
    ids = {
        (shard, row.seq): row.id
        for shard, seqs in nameless.items()
        for row in machines[shard].rows_by_seq(
            collection, seqs, with_vector=False, with_payload=False
        )
    }
    found = ((hit, hit.id or ids.get((hit.shard, hit.seq))) for hit in hits)
    return [hit._replace(id=each) for hit, each in found if each is not None]


def page(machines: Machines, query: Page, index: VectorIndex | None) -> list[FoundId]:
    """Return the first ids over all these shards."""
    where, among = _where(query.filter), None
    if query.filter is not None and index is not None:
        # To find a page in the order of ids takes a look at limit * size / passing rows.
        rows_max = math.isqrt(query.limit * index.size)
        among = _among(machines, query.filter, index, rows_max)
    found = [
        FoundId(row.id, shard)
        for shard, machine in machines.items()
        for row in machine.scroll(
            query.collection,
            inclusive_from=query.start,
            limit=query.limit,
            where=where,
            among=_of_shard(among, shard),
        )
    ]
    return sorted(found)[: query.limit]


def count(machines: Machines, query: Count, index: VectorIndex | None) -> int:
    """Return how many points these shards have, or how many pass."""
    where, among = _where(query.filter), None
    if query.filter is not None and index is not None:
        counted = index.payloads.count(query.filter, list(machines))
        if counted is not None:
            return counted
        among = _among(machines, query.filter, index, index.size)
    return sum(
        machine.count(query.collection, where, among=_of_shard(among, shard))
        for shard, machine in machines.items()
    )


def fetch(machines: Machines, query: Fetch, limits: AnswerLimits) -> Fetched:
    """Return rows until an answer is full, and the ids that are left."""
    rows: list[FetchedRow] = []
    rest: dict[int, list[bytes]] = {}
    room = limits.bytes_max
    for shard, ids in _slices(machines, query.ids, limits.slice_rows):
        if room <= 0:
            rest.setdefault(shard, []).extend(ids)
            continue
        found = fetch_rows(machines[shard], query, ids)
        rows.extend(found)
        room -= sum(map(_row_bytes, found))
    return Fetched(rows, rest)


def fetch_rows(machine: ShardMachine, query: Fetch, ids: Sequence[bytes]) -> list[FetchedRow]:
    """Return the rows of one shard that exist."""
    found = machine.retrieve(
        query.collection, ids, with_vector=query.with_vector, with_payload=query.with_payload
    )
    return [
        FetchedRow(row.id, row.version, row.vector, row.payload, row.created_ms, row.updated_ms)
        for row in found
    ]


def _slices(
    machines: Machines, wanted: Mapping[int, Sequence[bytes]], rows: int
) -> Iterator[tuple[int, Sequence[bytes]]]:
    for shard in machines:
        ids = wanted.get(shard, ())
        for start in range(0, len(ids), rows):
            yield shard, ids[start : start + rows]


def _where(chosen: Filter | None) -> SqlFilter | None:
    return None if chosen is None else to_sql(chosen)


def _row_bytes(row: FetchedRow) -> int:
    return len(row.id) + len(row.vector or b"") + len(row.payload or b"")
