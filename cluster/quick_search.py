"""Searches that this node answers alone and at once: no task, no deadline to watch, no merge.

Most searches are of this kind: a vector, no filter or one that payload indexes answer, the default
read, on a node that has a fresh replica of every shard. `begin` takes such a search or says that it
is another kind, which then goes the general way of `cluster.search_path`; so nothing is refused
here, and no rule has two homes: what is taken here is answered as it would be there. The answer is
the JSON of its hits, made where the search was (`search_turns`), payloads spliced in as they are
stored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from cluster.local_queries import fetch_rows
from cluster.model import Collection, Session, Vector
from cluster.payload_cache import PayloadCache, PayloadKey
from cluster.peer_methods import Fetch
from cluster.routing import Routing
from cluster.search_calls import GroupKey, Search
from cluster.search_lanes import ROWS_AT_ONCE, Passing
from storage.filters import Filter
from storage.ids import INTEGER_TAG, decode_id
from storage.index_set import IndexSet
from storage.metric import is_unit
from storage.vector_index import IndexHit, VectorIndex

SQUARE_MAX: Final = float(np.finfo(np.float32).max) ** 2
TOKEN_SHARDS_MAX: Final = 300
"""Shards in the session token of a read; clients take headers of 8 KiB."""


Payload = tuple[bytes, int, bytes]
"""(id, version, JSON) of a point."""


class Where(NamedTuple):
    """A filter, and the text that it was read from."""

    text: bytes
    filter: Filter


class QuickQuery(NamedTuple):
    """What a quick search may ask for: a collection's name, a vector, and how to look."""

    collection: str
    vector: list[float]
    limit: int
    ef: int | None
    with_payload: bool
    where: Where | None = None


class Turns(Protocol):
    """What makes searches: `search_turns`, or `cluster.workers.turn` in a worker."""

    def begin(self, key: GroupKey, search: Search) -> None:
        """Begin a search of (index, limit, ef); its `done` is called some time."""
        ...


class Freshness(Protocol):
    """Knows whether this node's replicas may be read, as `cluster.local_reads` does."""

    def serves_all(self, shards: int, max_staleness_ms: int | None) -> bool:
        """Return whether every shard has a fresh replica on this node."""
        ...


class FreshByOthers:
    """In a search worker the node tells (`cluster.workers.shared_state`), and the worker has asked:
    what its copies of replicas heard of their leaders is as old as they are."""

    def serves_all(self, shards: int, max_staleness_ms: int | None) -> bool:  # noqa: ARG002
        """Return True."""
        return True


@dataclass(slots=True)
class _Token:
    """The last session token, and what it says."""

    seen: tuple[int, ...] = ()
    text: str = ""


class QuickSearch:
    """See the module."""

    def __init__(
        self,
        routing: Routing,
        indexes: IndexSet,
        local: Freshness,
        turns: Turns,
        payloads: PayloadCache | None = None,
    ) -> None:
        self._routing = routing
        self._indexes = indexes
        self._turns = turns
        self._local = local
        self._payloads = payloads or PayloadCache()
        self._token = _Token()

    def in_worker(self, turns: Turns) -> QuickSearch:
        """Return the same for a search worker, with its own maker of searches."""
        freshness, payloads = FreshByOthers(), self._payloads
        return QuickSearch(self._routing, self._indexes, freshness, turns, payloads)

    def begin(self, query: QuickQuery, done: Callable[[bytes | BaseException], None]) -> bool:
        """Begin a search; False: this node cannot answer it at once, or would refuse it.

        `done` is called on this event loop with the JSON array of the hits, best first, or with
        the error that there is instead; for few rows to compare before this returns.
        """
        view = self._routing.local_view()
        collection = None if view is None else view.collections.get(query.collection)
        if view is None or collection is None or collection.custom_sharding:
            return False
        index = self._indexes.get(collection.uid)
        if index is None or not self._local.serves_all(view.shards, None):
            return False
        vector = _prepared(collection, query.vector)
        if vector is None:
            return False
        search = Search(vector, _bare, done, _bare, collection.uid)
        if query.with_payload:
            search.finish = partial(self._with_payloads, collection.uid)
            search.at_once = partial(self._with_known_payloads, collection.uid)
        if query.where is not None:
            return self._begin_among(index, query, query.where, search)
        self._turns.begin((index, query.limit, query.ef), search)
        return True

    def _begin_among(
        self, index: VectorIndex, query: QuickQuery, where: Where, search: Search
    ) -> bool:
        """Begin a search among the rows that pass a filter, if payload indexes answer all of it."""
        rows = index.payloads.plan(where.text, where.filter)
        if rows is None:
            return False
        try:
            hits = None
            if not query.with_payload and index.is_quiet:
                row = search.vector.reshape(1, -1)
                hits = index.filtered.at_once(row, query.limit, rows, ROWS_AT_ONCE, ef=query.ef)
            if hits is None:
                self._turns.begin((Passing(index, rows), query.limit, query.ef), search)
                return True
            answer = search.finish(hits)
        except Exception:  # noqa: BLE001 - the general way meets it again, and explains it
            return False
        search.done(answer)
        return True

    def session_token(self) -> str:
        """Return the token of a read that ends now; empty when a header would not hold it."""
        view = self._routing.view()
        replicas = self._routing.replicas
        shown = [replica.shown_index for replica in replicas.values()]
        seen = (view.applied_index, *shown)
        if seen != self._token.seen:
            session = self._routing.session(Session(dict(zip(replicas, shown, strict=True))))
            text = session.encode() if len(shown) <= TOKEN_SHARDS_MAX else ""
            self._token = _Token(seen, text)
        return self._token.text

    def _with_known_payloads(self, uid: int, hits: Sequence[IndexHit]) -> bytes | None:
        """Return hits with their payloads if none of these has to be read."""
        known = self.known(uid, hits)
        pairs = zip(hits, known, strict=True)
        shown = [_shown(hit, hit.version, payload) for hit, payload in pairs if payload is not None]
        return orjson.dumps(shown) if len(shown) == len(hits) else None

    def known(self, uid: int, hits: Sequence[IndexHit]) -> list[bytes | None]:
        """Return the payload of each hit if it was read lately."""
        return [self._payloads.get(PayloadKey(uid, hit.id, hit.version)) for hit in hits]

    def _with_payloads(self, uid: int, hits: Sequence[IndexHit]) -> bytes:
        """Return hits with their payloads; one whose row is gone was deleted meanwhile."""
        known = self.known(uid, hits)
        rows = self.read(uid, lacking(hits, known))
        return with_payloads(hits, known, {each: (version, raw) for each, version, raw in rows})

    def learn(self, uid: int, rows: Sequence[Payload]) -> None:
        """Keep payloads that were read."""
        for each, version, payload in rows:
            self._payloads.put(PayloadKey(uid, each, version), payload)

    def read(self, uid: int, points: Sequence[tuple[bytes, int]]) -> list[Payload]:
        """Return the payloads of points (id, shard) that are there; reads a disk."""
        by_shard: dict[int, list[bytes]] = {}
        for each, shard in points:
            by_shard.setdefault(shard, []).append(each)
        fetch = Fetch(uid, by_shard, with_vector=False, with_payload=True)
        replicas = self._routing.replicas
        rows = [
            (row.id, row.version, row.payload or b"{}")
            for shard, ids in by_shard.items()
            for row in fetch_rows(replicas[shard].machine, fetch, ids)
        ]
        self.learn(uid, rows)
        return rows


def lacking(hits: Sequence[IndexHit], known: Sequence[bytes | None]) -> list[tuple[bytes, int]]:
    """Return (id, shard) of the hits whose payload is not known."""
    pairs = zip(hits, known, strict=True)
    return [(hit.id, hit.shard) for hit, payload in pairs if payload is None]


def with_payloads(
    hits: Sequence[IndexHit],
    known: Sequence[bytes | None],
    rows: Mapping[bytes, tuple[int, bytes]],
) -> bytes:
    """Return hits as JSON with payloads that are known, or are here by id, with their versions.

    One that is in neither was deleted meanwhile, and is left out.
    """
    shown = []
    for hit, payload in zip(hits, known, strict=True):
        if payload is not None:
            shown.append(_shown(hit, hit.version, payload))
        elif hit.id in rows:
            shown.append(_shown(hit, *rows[hit.id]))
    return orjson.dumps(shown)


def _bare(hits: Sequence[IndexHit]) -> bytes:
    """Return hits as JSON."""
    from_bytes = int.from_bytes
    return orjson.dumps(
        [
            {
                # An integer in place: this is the hot path.
                "id": from_bytes(raw[1:], "big") if raw[0] == INTEGER_TAG else decode_id(raw),
                "version": version,
                "score": score,
            }
            for _, _, version, raw, score in hits
        ]
    )


def _shown(hit: IndexHit, version: int, payload: bytes) -> dict[str, Any]:
    return {
        "id": decode_id(hit.id),
        "version": version,
        "score": hit.score,
        "payload": orjson.Fragment(payload),
    }


@lru_cache(maxsize=64)
def _packing(dimension: int) -> struct.Struct:
    return struct.Struct(f"<{dimension}f")


def _prepared(collection: Collection, values: list[float]) -> Vector | None:
    """Return a vector as the index wants it, or None when its user is to be told of a mistake."""
    if len(values) != collection.dimension:
        return None
    try:
        packed = _packing(len(values)).pack(*values)
    except OverflowError:
        return None
    vector = np.frombuffer(packed, "<f4")
    if collection.distance == "Cosine" and is_unit(vector):
        return vector
    wide = vector.astype(np.float64)
    square = float(wide.dot(wide))
    if not 0.0 < square <= SQUARE_MAX:
        return None
    if collection.distance != "Cosine":
        return vector
    unit: Vector = (wide / np.sqrt(square)).astype("<f4")
    return unit
