"""Request schemas of searches, in the shape of Qdrant's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import (
    ID_SCHEMA,
    KEYS_SCHEMA,
    NULL,
    SHOWN_VECTOR_SCHEMA,
    VECTOR_SCHEMA,
    FilterIn,
    Limit,
    PointIdIn,
    Positive,
    RequestBody,
    ShardKeysIn,
    VectorIn,
    WithPayload,
    WithVector,
)

Offset = Annotated[int, Meta(ge=0, le=100_000)]


class QuantizationParams(RequestBody):
    """Accepted for compatibility: vectors are kept as they are."""

    ignore: bool | UnsetType | None = UNSET
    rescore: bool | UnsetType | None = UNSET
    oversampling: Annotated[float, Meta(ge=1)] | UnsetType | None = UNSET


class AcornParams(RequestBody):
    """Accepted for compatibility: a filtered search always finds all that match."""

    enable: bool | UnsetType | None = UNSET
    max_selectivity: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET


class SearchParams(RequestBody):
    """How hard to search. `exact` scans; `hnsw_ef` is the breadth of the graph search."""

    lacking: ClassVar[frozenset[str]] = frozenset({"idf"})

    hnsw_ef: Positive | UnsetType | None = UNSET
    exact: bool | UnsetType | None = UNSET
    quantization: QuantizationParams | UnsetType | None = UNSET
    indexed_only: bool | UnsetType | None = UNSET
    acorn: AcornParams | UnsetType | None = UNSET
    idf: Any = UNSET


class QueryPoints(RequestBody):
    """Body of `POST .../points/query`: `query` is a vector, a point id, {"nearest"} or null."""

    lacking: ClassVar[frozenset[str]] = frozenset(
        {"prefetch", "using", "lookup_from", "group_by", "group_size", "with_lookup"}
    )
    described: ClassVar[Mapping[str, Any]] = {
        "query": {
            "anyOf": [
                VECTOR_SCHEMA,
                ID_SCHEMA,
                {
                    "type": "object",
                    "properties": {"nearest": {"anyOf": [VECTOR_SCHEMA, ID_SCHEMA]}, "mmr": NULL},
                    "required": ["nearest"],
                    "additionalProperties": False,
                },
                NULL,
            ]
        },
        "with_vector": SHOWN_VECTOR_SCHEMA,
        "shard_key": KEYS_SCHEMA,
    }

    query: VectorIn | PointIdIn | dict[str, Any] | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    params: SearchParams | UnsetType | None = UNSET
    score_threshold: float | UnsetType | None = UNSET
    limit: Limit | UnsetType | None = UNSET
    offset: Offset | UnsetType | None = UNSET
    with_payload: WithPayload = UNSET
    with_vector: WithVector = UNSET
    shard_key: ShardKeysIn = UNSET
    prefetch: Any = UNSET
    using: Any = UNSET
    lookup_from: Any = UNSET
    group_by: Any = UNSET
    group_size: Any = UNSET
    with_lookup: Any = UNSET


class QueryBatch(RequestBody):
    """Body of `POST .../points/query/batch`."""

    searches: Annotated[list[QueryPoints], Meta(min_length=1, max_length=1000)]


class SearchPoints(RequestBody):
    """Body of `POST .../points/search`."""

    described: ClassVar[Mapping[str, Any]] = {
        "vector": VECTOR_SCHEMA,
        "with_vector": SHOWN_VECTOR_SCHEMA,
        "shard_key": KEYS_SCHEMA,
    }

    vector: VectorIn | dict[str, Any]
    limit: Limit
    filter: FilterIn | UnsetType | None = UNSET
    params: SearchParams | UnsetType | None = UNSET
    score_threshold: float | UnsetType | None = UNSET
    offset: Offset | UnsetType | None = UNSET
    with_payload: WithPayload = UNSET
    with_vector: WithVector = UNSET
    shard_key: ShardKeysIn = UNSET


class SearchBatch(RequestBody):
    """Body of `POST .../points/search/batch`."""

    searches: Annotated[list[SearchPoints], Meta(min_length=1, max_length=1000)]
