"""What the HTTP API calls: every request of a user, on any node, whoever holds the data.

    request ── WritePath ── Leaders ── the leader of each shard, here or one forward away
          ├─── ReadPath, SearchPath ── Scatter ── LocalReads, here or on the fewest other nodes
          └─── Catalog ── the metadata group

This is a facade: it puts the parts together and names the operations. The rules stand where they
are kept: retries and forwarding in `leaders`, batches in `batch`, admission of stale replicas in
`local_reads`, failover of reads in `scatter`.

Every call ends by its deadline (`Options.deadline_s`, on `clock`) with an answer or an error of
the tree in `cluster.errors`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cluster.batch import Share, Splitting
from cluster.call_threads import Calls
from cluster.catalog import Catalog, raise_refusal
from cluster.change_feed import ChangeFeed
from cluster.change_reader import ChangeReader
from cluster.change_signal import ChangeSignal
from cluster.checkpoints import Checkpoints
from cluster.cluster_status import ClusterStatus
from cluster.collection_status import CollectionInfo, CollectionStatus
from cluster.config import Config
from cluster.disk_guard import DiskGuard
from cluster.field_indexes import FieldIndexes
from cluster.graph_catalog import GraphCatalog
from cluster.graph_local import LocalGraphs
from cluster.graph_router import GraphRouter
from cluster.graph_threads import GraphThreads
from cluster.leaders import Leaders
from cluster.local_reads import LocalReads
from cluster.memory_guard import MemoryGuard
from cluster.metadata import ClusterView, CreateCollection, ShardsRestored
from cluster.model import (
    Collection,
    Distance,
    Options,
    Point,
    Record,
    SearchAnswer,
    SearchRequest,
    Session,
    WriteAck,
)
from cluster.outbox import Outbox
from cluster.peer import PeerChannel, Peers
from cluster.quick_search import QuickSearch
from cluster.read_path import ReadPath
from cluster.routing import GroupReplica, Routing, ShardReplica
from cluster.scatter import Scatter
from cluster.scope import scope_of
from cluster.search_calls import SearchCalls
from cluster.search_lanes import SearchLanes
from cluster.search_path import SearchPath
from cluster.search_turns import SearchTurns
from cluster.write_commands import (
    PayloadChange,
    PayloadMode,
    delete_shares,
    payload_shares,
    upsert_shares,
)
from cluster.write_path import WritePath
from storage.filters import Filter
from storage.ids import PointId
from storage.index_set import IndexSet
from storage.payload_index.fields import FieldIndex

Selector = Sequence[PointId] | Filter

LIGHT_POINTS: Final = 8
"""So many points are prepared on the event loop: it takes less than handing them to a thread."""


@dataclass(kw_only=True)
class Router:
    """See the module.

    `replicas` are this node's, by shard, and may grow; `metadata` is its replica of the metadata
    group, if it has one; `view` what that replica has applied. `metadata_members` are the nodes
    of that group; by default the first of `cluster_nodes`. `view_learned` is told of views that
    a node outside the group fetched. `memory` and `disk` refuse writes that would not fit; by
    default all do. Indexes are searched on `search_threads`, and what takes long with graphs is
    done on `graph_threads`; `pause` lets others in while a question is answered.
    """

    config: Config
    node: str
    metadata: GroupReplica | None
    view: Callable[[], ClusterView | None]
    replicas: Mapping[int, ShardReplica]
    channel: PeerChannel
    indexes: IndexSet
    executor: Executor
    clock: Callable[[], float]
    wall_ms: Callable[[], int]
    request_ids: Callable[[], str]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    metadata_members: Sequence[str] = ()
    view_learned: Callable[[ClusterView], None] | None = None
    search_threads: Calls | None = None
    thread_clock: Callable[[], float] = time.thread_time
    memory: MemoryGuard | None = None
    disk: DiskGuard | None = None
    graph_threads: GraphThreads | None = None
    pause: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._routing = self._new_routing()
        lanes = SearchLanes(SearchCalls(self.thread_clock), self.search_threads or self.executor)
        self.turns = SearchTurns(lanes)
        self._leaders = Leaders(self._routing)
        guards = [guard for guard in (self.memory, self.disk) if guard is not None]
        self._writes = WritePath(self._routing, self._leaders, self.request_ids, guards)
        self.local = local = LocalReads(self._routing, self.indexes, lanes)
        scatter = Scatter(self._routing, local)
        self._reads = ReadPath(self._routing, self._leaders, self.local, scatter)
        self._searches = SearchPath(self._routing, self.indexes, local, lanes, scatter, self._reads)
        self.quick = QuickSearch(self._routing, self.indexes, local, self.turns)
        self._catalog = Catalog(self._routing, self._leaders, self.request_ids)
        self._field_indexes = FieldIndexes(self._routing, self._catalog, self.indexes)
        self._collection_status = CollectionStatus(self._routing, self.indexes, self._reads)
        self._cluster_status = ClusterStatus(self._routing)
        self.graphs = self._new_graphs(scatter)
        reader, signal = ChangeReader(self._routing, local, scatter), ChangeSignal(self._routing)
        self.changes = ChangeFeed(self._routing, self._catalog, self._reads, reader, signal)
        self.checkpoints: Checkpoints | None = None
        self.outbox: Outbox | None = None

    def add_checkpoints(self, build: Callable[[Routing, Leaders], Checkpoints]) -> None:
        """Serve checkpoints, too."""
        self.checkpoints = build(self._routing, self._leaders)

    def add_outbox(self, build: Callable[[Routing], Outbox]) -> None:
        """Serve outboxes, too."""
        self.outbox = build(self._routing)

    def _new_graphs(self, scatter: Scatter) -> GraphRouter:
        here = self.executor
        local = LocalGraphs(
            routing=self._routing,
            indexes=self.indexes,
            local=self.local,
            threads=self.graph_threads or GraphThreads(here, here, here),
            admit_growth=self._writes.admit_growth,
            pause=self.pause,
            identifier=self.request_ids,
        )
        return GraphRouter(
            self._routing,
            self._leaders,
            self._writes,
            self._reads,
            scatter,
            GraphCatalog(self._routing, self._catalog),
            local,
        )

    def _new_routing(self) -> Routing:
        return Routing(
            config=self.config,
            me=self.node,
            metadata=self.metadata,
            local_view=self.view,
            replicas=self.replicas,
            peers=Peers(self.channel),
            executor=self.executor,
            clock=self.clock,
            wall_ms=self.wall_ms,
            sleep=self.sleep,
            metadata_members=self.metadata_members or self.config.metadata_members(),
            view_learned=self.view_learned,
        )

    def register_handlers(self) -> None:
        """Answer other nodes' calls. None of them is ever forwarded."""
        self._leaders.register()
        self.local.register()
        self._catalog.register()
        self._collection_status.register()
        self._cluster_status.register()
        self.graphs.register()
        self.changes.register()

    def collections(self) -> list[Collection]:
        """Return the collections that this node knows, in the order of their creation."""
        return self._catalog.collections()

    async def collection(self, name: str, options: Options) -> Collection:
        """Return a collection. Raises CollectionNotFound, or Unavailable when nobody can tell."""
        return await self._catalog.collection(name, options)

    async def create_collection(  # noqa: PLR0913 - all that a collection is
        self,
        name: str,
        *,
        dimension: int,
        distance: Distance,
        hnsw_m: int,
        hnsw_ef_construct: int,
        embedding_space: str | None,
        options: Options,
        must_be_new: bool = False,
        custom_sharding: bool = False,
    ) -> Collection:
        """Create a collection, or find the equal one unless it `must_be_new`.

        Raises CollectionExists.
        """
        wanted = CreateCollection(
            name,
            dimension,
            distance,
            hnsw_m,
            hnsw_ef_construct,
            embedding_space,
            custom_sharding,
        )
        return await self._catalog.create(wanted, options, must_be_new=must_be_new)

    async def drop_collection(self, name: str, options: Options) -> bool:
        """Drop a collection; False when there was none. See `catalog` for when its rows go."""
        return await self._catalog.drop(name, options)

    async def put_index(self, collection: Collection, field: FieldIndex, options: Options) -> bool:
        """Have an index on a payload field; see `FieldIndexes.put`."""
        return await self._field_indexes.put(collection, field, options)

    async def drop_index(self, collection: Collection, name: str, options: Options) -> None:
        """Have no index on a payload field. Raises CollectionNotFound."""
        await self._field_indexes.drop(collection, name, options)

    def unindexed(self, collection: Collection, where: Filter) -> list[str]:
        """Return the paths that a filter tests without help of an index."""
        return self._field_indexes.unindexed(collection, where)

    async def collection_info(self, name: str, options: Options) -> CollectionInfo:
        """Return counts and index status over all replicas. Raises CollectionNotFound."""
        collection = await self._catalog.collection(name, options)
        return await self._collection_status.describe(collection, options)

    async def refresh_view(self, deadline_s: float) -> None:
        """Make this node's view as new as the metadata group's; nodes outside it poll this."""
        await self._catalog.catch_up(deadline_s)

    async def read_index(self, shard: int, deadline_s: float) -> int:
        """Return how far a shard's leader has committed, at least; this node need not hold it.

        Raises Unavailable or DeadlineExceeded.
        """
        return await self._leaders.read_index(shard, deadline_s)

    async def shards_restored(self, deadline_s: float) -> None:
        """Tell the metadata group that this node has its shards; see `ShardsRestored`."""
        told, options = ShardsRestored(self.node), Options(deadline_s)
        raise_refusal(await self._catalog.propose(told, f"restored/{self.node}", options))

    async def catch_up(self, options: Options) -> None:
        """Make this node's view as new as a strong read, or the session, demands."""
        await self._catalog.catch_up_for(options)

    def session(self, seen: Session) -> Session:
        """Return `seen` with the place of this node's view in the metadata group's log."""
        return self._routing.session(seen)

    async def purge_dropped(self) -> int:
        """Do the janitor's round; return how many collections and graphs are gone."""
        return await self._catalog.purge_dropped() + await self.graphs.catalog.purge_dropped()

    async def upsert(
        self, collection: Collection, points: Sequence[Point], options: Options
    ) -> WriteAck:
        """Write points, all or nothing per shard, under a key where the collection has keys.

        Raises BadRequest or PayloadTooLarge naming the point, with nothing written;
        VersionConflict, ShardsUnavailable or StorageFull, listing what became of each shard.
        """
        key = scope_of(collection, options.shard_keys).key()
        prepare = partial(upsert_shares, collection, points, key=key)
        light = len(points) <= LIGHT_POINTS
        return await self._writes.commit(collection, prepare, options, grows=True, light=light)

    async def delete(
        self,
        collection: Collection,
        selector: Selector,
        options: Options,
        *,
        if_version: int | None = None,
    ) -> WriteAck:
        """Delete points by id, or those that pass a filter as of a strong read.

        `if_version`: the version that the only point must have. Raises VersionConflict when not.
        """
        prepare = partial(delete_shares, collection.uid, if_version=if_version)
        return await self._write_selected(collection, selector, prepare, options, grows=False)

    async def set_payload(
        self,
        collection: Collection,
        selector: Selector,
        mode: PayloadMode,
        payload: Mapping[str, Any],
        keys: Sequence[str],
        options: Options,
    ) -> WriteAck:
        """Change payloads of points by id, or of those that pass a filter as of a strong read."""
        change = PayloadChange(mode, payload, keys, self.config.payload_bytes_max)

        def prepare(ids: Sequence[bytes], splitting: Splitting) -> list[Share]:
            return payload_shares(collection.uid, ids, change, splitting)

        return await self._write_selected(collection, selector, prepare, options, grows=True)

    async def retrieve(
        self,
        collection: Collection,
        ids: Sequence[PointId],
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> list[Record]:
        """Return the points that exist, in the order asked; see `ReadPath.retrieve`."""
        return await self._reads.retrieve(
            collection, ids, with_payload=with_payload, with_vector=with_vector, options=options
        )

    async def search(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        """Return the nearest points; raises ShardsUnavailable unless partial answers will do."""
        return await self._searches.search(collection, request, options)

    async def search_many(
        self, collection: Collection, requests: Sequence[SearchRequest], options: Options
    ) -> list[SearchAnswer]:
        """Return the nearest points of each request, in their order; raises as `search` does."""
        return await self._searches.search_many(collection, requests, options)

    async def scroll(  # noqa: PLR0913 - all that a page is
        self,
        collection: Collection,
        where: Filter | None,
        limit: int,
        offset: PointId | None,
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> tuple[list[Record], PointId | None]:
        """Return points in id order from `offset` on, and the id that follows them, if any.

        Where an id may be under several keys, a page has all points of its last id.
        """
        return await self._reads.scroll(
            collection,
            where,
            limit,
            offset,
            with_payload=with_payload,
            with_vector=with_vector,
            options=options,
        )

    async def count(self, collection: Collection, where: Filter | None, options: Options) -> int:
        """Return how many points there are, or pass a filter. Raises ShardsUnavailable."""
        return await self._reads.count(collection, where, options)

    async def cluster_status(self) -> dict[str, Any]:
        """Return nodes, leaders and replicas, missing ones named; never waits long."""
        return await self._cluster_status.describe()

    async def _write_selected(
        self,
        collection: Collection,
        selector: Selector,
        prepare: Callable[[Sequence[bytes], Splitting], list[Share]],
        options: Options,
        *,
        grows: bool,
    ) -> WriteAck:
        if isinstance(selector, Sequence):
            ids = scope_of(collection, options.shard_keys).canonical_ids(selector, "points")
            return await self._writes.commit(
                collection, partial(prepare, ids), options, grows=grows
            )
        pages = self._reads.pages_of_ids(collection, selector, options)
        return await self._writes.commit_pages(collection, pages, prepare, options, grows=grows)
