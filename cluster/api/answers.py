"""The shapes of results, for the API description; tests hold every answer against them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from storage.ids import PointId, ShardKey
from storage.payload_index.fields import FieldType


class Shape(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of result shapes."""


class Product(Shape):
    """Name and version."""

    title: str
    version: str


class Healthy(Shape):
    """The process answers."""

    status: Literal["ok"]


class Ready(Shape):
    """The node can serve."""

    ready: Literal[True]


class CollectionName(Shape):
    """One listed collection."""

    name: str


class CollectionList(Shape):
    """All collections."""

    collections: list[CollectionName]


class Existence(Shape):
    """Whether a collection exists."""

    exists: bool


class VectorsShape(Shape):
    """Dimension and distance."""

    size: int
    distance: str


class ParamsShape(Shape):
    """What the collection really is."""

    vectors: VectorsShape
    shard_number: int
    sharding_method: Literal["auto", "custom"]
    replication_factor: int
    write_consistency_factor: int
    on_disk_payload: bool


class HnswShape(Shape):
    """The index graph's parameters."""

    m: int
    ef_construct: int
    full_scan_threshold: int
    max_indexing_threads: int
    on_disk: bool


class OptimizerShape(Shape):
    """Present for compatibility."""

    deleted_threshold: float
    vacuum_min_vector_number: int
    default_segment_number: int
    max_segment_size: int | None
    memmap_threshold: int | None
    indexing_threshold: int | None
    flush_interval_sec: int
    max_optimization_threads: int | None


class WalShape(Shape):
    """Present for compatibility."""

    wal_capacity_mb: int
    wal_segments_ahead: int


class ConfigShape(Shape):
    """A collection's configuration."""

    params: ParamsShape
    hnsw_config: HnswShape
    optimizer_config: OptimizerShape
    wal_config: WalShape
    quantization_config: None


class FieldIndexShape(Shape):
    """An index on a payload field; `points` have a value of its type."""

    data_type: FieldType
    points: int


class CollectionShape(Shape):
    """A collection; `embedding_space` names the model its vectors come from, if it is known."""

    status: Literal["green", "yellow"]
    optimizer_status: Literal["ok"]
    indexed_vectors_count: int
    points_count: int
    segments_count: int
    config: ConfigShape
    payload_schema: dict[str, FieldIndexShape]
    embedding_space: str | None


class UpdateShape(Shape):
    """A finished write; `version`, also `operation_id`, is the highest version it produced."""

    operation_id: int | None
    status: Literal["completed", "acknowledged"]
    version: int | UnsetType = UNSET


class RecordShape(Shape):
    """A stored point; `shard_key` is what it was written under, if it was."""

    id: PointId
    version: int
    shard_key: ShardKey | UnsetType = UNSET
    payload: dict[str, Any] | UnsetType = UNSET
    vector: list[float] | UnsetType = UNSET


class HitShape(RecordShape, kw_only=True):
    """A search result."""

    score: float


class QueryShape(Shape):
    """Results of a query, best first."""

    points: list[HitShape]


class GroupShape(Shape):
    """A group of hits, best first; `id` is the value that they share."""

    id: int | str
    hits: list[HitShape]
    lookup: RecordShape | UnsetType | None = UNSET


class GroupsShape(Shape):
    """Groups, that of the best hit first."""

    groups: list[GroupShape]


class ScrollShape(Shape):
    """A page of points in id order, and where the next one starts."""

    points: list[RecordShape]
    next_page_offset: PointId | None


class CountShape(Shape):
    """How many points match."""

    count: int


class PatternStored(Shape):
    """A stored pattern."""

    id: PointId
    version: int


class PatternHit(Shape):
    """A pattern that resembles the task; what it lacks is null."""

    id: PointId
    score: float
    task: Any
    input: Any
    output: Any
    critique: Any
    reward: Any
    success: Any
    sessionId: Any  # noqa: N815 - the wire's spelling
    metadata: Any
    createdAt: Any  # noqa: N815 - the wire's spelling


class ErrorStatus(Shape):
    """The error as one sentence."""

    error: str


class ErrorDetail(Shape):
    """What programs need to know of an error."""

    code: str
    field: str | None
    retryable: bool
    shards: list[int] | UnsetType = UNSET
    reasons: list[str] | UnsetType = UNSET
    point: PointId | UnsetType = UNSET
    current_version: int | UnsetType = UNSET


class ErrorEnvelope(Shape):
    """Every error's body."""

    status: ErrorStatus
    error: ErrorDetail
    time: float
