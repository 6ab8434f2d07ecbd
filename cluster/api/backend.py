"""What the API needs from the rest of a node, by shape.

The router, the embedder and the clocks are given to `build_app`; tests give it a router that
keeps points in a dict. Nothing else of a node is reachable from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

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
from storage.filters import Filter
from storage.ids import PointId
from storage.payload_index.fields import FieldIndex

if TYPE_CHECKING:
    from cluster.api.body import BodyBudget
    from cluster.api.metrics import Metrics
    from cluster.api.streams import Streams
    from cluster.change_feed import ChangeFeed
    from cluster.checkpoints import Checkpoints
    from cluster.config import Config
    from cluster.graph_router import GraphRouter
    from cluster.outbox import Outbox
    from cluster.quick_search import QuickSearch

PayloadMode = Literal["merge", "replace", "remove", "clear"]


class CollectionInfo(Protocol):
    """What a collection holds, over all its shards."""

    @property
    def points_count(self) -> int:
        """Points that are stored."""

    @property
    def indexed_count(self) -> int:
        """Points that are in the search graph of every replica."""

    @property
    def status(self) -> str:
        """`green` when every replica has indexed everything, else `yellow`."""

    @property
    def shards(self) -> int:
        """Number of shards."""

    @property
    def replication(self) -> int:
        """Replicas of each shard."""

    @property
    def field_counts(self) -> Mapping[str, int]:
        """For each payload index, the points that have a value in it."""


class PatternBackend(Protocol):
    """What patterns need. Every method may raise the errors of cluster.errors."""

    def session(self, seen: Session) -> Session:
        """Return `seen` with what this node knows of collections."""

    async def collection(self, name: str, options: Options) -> Collection:
        """Return a collection; raises CollectionNotFound."""

    async def upsert(
        self, collection: Collection, points: Sequence[Point], options: Options
    ) -> WriteAck:
        """Write points."""

    async def search(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        """Return the nearest points."""


class Backend(PatternBackend, Protocol):
    """The router, as the API calls it."""

    @property
    def graphs(self) -> GraphRouter:
        """What concerns graphs."""

    @property
    def quick(self) -> QuickSearch | None:
        """What answers searches at once that this node can answer alone; None when nothing can."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """What concerns checkpoints; None when they are not configured."""

    @property
    def outbox(self) -> Outbox | None:
        """What concerns outboxes; None when none is configured."""

    @property
    def changes(self) -> ChangeFeed:
        """What changes, to be followed."""

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
        """Create a collection; an equal one is found, or, if it `must_be_new`, refused."""

    async def drop_collection(self, name: str, options: Options) -> bool:
        """Drop a collection; False when there was none."""

    def collections(self) -> list[Collection]:
        """Return the collections that this node knows."""

    async def catch_up(self, options: Options) -> None:
        """Make what this node knows of collections as new as the options demand."""

    async def put_index(self, collection: Collection, field: FieldIndex, options: Options) -> bool:
        """Index a payload field; return whether the index is filled here."""

    async def drop_index(self, collection: Collection, name: str, options: Options) -> None:
        """Remove the index on a payload field."""

    def unindexed(self, collection: Collection, where: Filter) -> list[str]:
        """Return the paths that a filter tests without help of an index."""

    async def collection_info(self, name: str, options: Options) -> CollectionInfo:
        """Return counts and index status; raises CollectionNotFound."""

    async def delete(
        self,
        collection: Collection,
        selector: Any,
        options: Options,
        *,
        if_version: int | None = None,
    ) -> WriteAck:
        """Delete points by ids or by a filter; one id may have a condition on its version."""

    async def set_payload(
        self,
        collection: Collection,
        selector: Any,
        mode: PayloadMode,
        payload: Mapping[str, Any],
        keys: Sequence[str],
        options: Options,
    ) -> WriteAck:
        """Change payloads of points selected by ids or by a filter."""

    async def retrieve(
        self,
        collection: Collection,
        ids: Sequence[PointId],
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> list[Record]:
        """Return the points that exist, in the order asked."""

    async def search_many(
        self, collection: Collection, requests: Sequence[SearchRequest], options: Options
    ) -> list[SearchAnswer]:
        """Return the nearest points of each request, in their order."""

    async def scroll(  # noqa: PLR0913 - all that a page is
        self,
        collection: Collection,
        where: Any,
        limit: int,
        offset: PointId | None,
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> tuple[list[Record], PointId | None]:
        """Return points in id order from `offset` on, and the id that follows them.

        All points of the last id are in the page, which may therefore exceed `limit`.
        """

    async def count(self, collection: Collection, where: Any, options: Options) -> int:
        """Count the points that a filter matches."""

    async def cluster_status(self) -> dict[str, Any]:
        """Describe nodes, leaders, shards and replicas."""


class TextEmbedder(Protocol):
    """Turns text into unit vectors of one embedding space; `embed` blocks, or is a coroutine."""

    @property
    def space(self) -> str:
        """Identity of the embedding space."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    def embed(self, texts: Sequence[str]) -> Any:
        """Return float32[len(texts), dimension], or an awaitable of it."""


@dataclass(frozen=True, slots=True)
class Api:
    """Everything a handler may use."""

    router: Backend
    config: Config
    embedder: TextEmbedder
    readiness: Callable[[], Sequence[str]]
    clock: Callable[[], float]
    wall_ms: Callable[[], int]
    new_id: Callable[[], str]
    version: str
    bodies: BodyBudget
    metrics: Metrics
    streams: Streams
