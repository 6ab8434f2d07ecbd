"""Request schemas of searches, in the shape of Qdrant's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import (
    ID_SCHEMA,
    KEYS_SCHEMA,
    NULL,
    SHOWN_VECTOR_SCHEMA,
    VECTOR_SCHEMA,
    FilterIn,
    Limit,
    Name,
    PointIdIn,
    Positive,
    RequestBody,
    ShardKeysIn,
    VectorIn,
    WithPayload,
    WithVector,
)

EXAMPLES_MAX: Final = 256
"""Positive and negative examples of a recommendation."""
CANDIDATES_MAX: Final = 1000
"""Among so many results diverse ones are chosen."""

_VECTOR_OR_ID: Final = {"anyOf": [VECTOR_SCHEMA, ID_SCHEMA]}
_EXAMPLES: Final = {
    "anyOf": [{"type": "array", "items": _VECTOR_OR_ID, "maxItems": EXAMPLES_MAX}, NULL]
}
_STRATEGY: Final = {"enum": ["average_vector", "best_score", None]}
_MMR: Final = {
    "type": "object",
    "properties": {
        "diversity": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "candidates_limit": {"type": ["integer", "null"], "minimum": 1, "maximum": CANDIDATES_MAX},
    },
    "additionalProperties": False,
}
QUERY_SCHEMA: Final = {
    "anyOf": [
        VECTOR_SCHEMA,
        ID_SCHEMA,
        {
            "type": "object",
            "properties": {"nearest": _VECTOR_OR_ID, "mmr": {"anyOf": [_MMR, NULL]}},
            "required": ["nearest"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "recommend": {
                    "type": "object",
                    "properties": {
                        "positive": _EXAMPLES,
                        "negative": _EXAMPLES,
                        "strategy": _STRATEGY,
                    },
                    "required": ["positive"],
                    "additionalProperties": False,
                }
            },
            "required": ["recommend"],
            "additionalProperties": False,
        },
        NULL,
    ]
}

Offset = Annotated[int, Meta(ge=0, le=100_000)]
ExamplesIn = (
    Annotated[list[VectorIn | PointIdIn | dict[str, Any]], Meta(max_length=EXAMPLES_MAX)]
    | UnsetType
    | None
)


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


class LookupLocation(RequestBody):
    """Where the points that are named are looked up: another collection, perhaps under keys."""

    lacking: ClassVar[frozenset[str]] = frozenset({"vector"})
    described: ClassVar[Mapping[str, Any]] = {"shard_key": KEYS_SCHEMA}

    collection: Name
    shard_key: ShardKeysIn = UNSET
    vector: Any = UNSET


class QueryPoints(RequestBody):
    """Body of `POST .../points/query`.

    `query` is a vector, a point id, {"nearest", "mmr"}, {"recommend"} or null.
    """

    lacking: ClassVar[frozenset[str]] = frozenset(
        {"prefetch", "using", "group_by", "group_size", "with_lookup"}
    )
    described: ClassVar[Mapping[str, Any]] = {
        "query": QUERY_SCHEMA,
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
    lookup_from: LookupLocation | UnsetType | None = UNSET
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


class RecommendPoints(RequestBody):
    """Body of `POST .../points/recommend`: examples are vectors, or ids of stored points."""

    lacking: ClassVar[frozenset[str]] = frozenset({"using"})
    examples: ClassVar[frozenset[str]] = frozenset({"positive", "negative"})
    described: ClassVar[Mapping[str, Any]] = {
        "positive": _EXAMPLES,
        "negative": _EXAMPLES,
        "strategy": _STRATEGY,
        "with_vector": SHOWN_VECTOR_SCHEMA,
        "shard_key": KEYS_SCHEMA,
    }

    limit: Limit
    positive: ExamplesIn = UNSET
    negative: ExamplesIn = UNSET
    strategy: str | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    params: SearchParams | UnsetType | None = UNSET
    score_threshold: float | UnsetType | None = UNSET
    offset: Offset | UnsetType | None = UNSET
    with_payload: WithPayload = UNSET
    with_vector: WithVector = UNSET
    shard_key: ShardKeysIn = UNSET
    lookup_from: LookupLocation | UnsetType | None = UNSET
    using: Any = UNSET
