"""Request schemas of points and their payloads, in the shape of Qdrant's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import (
    ID_SCHEMA,
    IDS_SCHEMA,
    KEYS_SCHEMA,
    NULL,
    SHOWN_VECTOR_SCHEMA,
    SOME_IDS_SCHEMA,
    VECTOR_SCHEMA,
    FieldList,
    FilterIn,
    IdList,
    Limit,
    PointIdIn,
    RequestBody,
    ShardKeysIn,
    VectorIn,
    Version,
    WithPayload,
    WithVector,
)


class PointIn(RequestBody):
    """One point to write. A `vector` object would be named or sparse, which is not served.

    `if_version`: the point must exist with exactly this version; `if_absent`: it must not exist.
    """

    described: ClassVar[Mapping[str, Any]] = {"id": ID_SCHEMA, "vector": VECTOR_SCHEMA}

    id: PointIdIn
    vector: VectorIn | dict[str, Any]
    payload: dict[str, Any] | UnsetType | None = UNSET
    if_version: Version | UnsetType | None = UNSET
    if_absent: bool | UnsetType | None = UNSET


class BatchIn(RequestBody):
    """Points by column: equally long lists."""

    described: ClassVar[Mapping[str, Any]] = {
        "ids": SOME_IDS_SCHEMA,
        "vectors": {"type": "array", "items": VECTOR_SCHEMA},
    }

    ids: Annotated[IdList, Meta(min_length=1)]
    vectors: list[VectorIn] | dict[str, Any]
    payloads: list[dict[str, Any] | None] | UnsetType | None = UNSET


class UpsertPoints(RequestBody):
    """Body of `PUT .../points`: either `points` or `batch`."""

    lacking: ClassVar[frozenset[str]] = frozenset({"update_filter"})

    one_of: ClassVar[tuple[str, ...]] = ("points", "batch")
    described: ClassVar[Mapping[str, Any]] = {
        "update_mode": {"enum": ["upsert", None]},
        "shard_key": KEYS_SCHEMA,
    }

    points: Annotated[list[PointIn], Meta(min_length=1)] | UnsetType = UNSET
    batch: BatchIn | UnsetType = UNSET
    update_mode: Literal["upsert", "insert_only", "update_only"] | UnsetType | None = UNSET
    shard_key: ShardKeysIn = UNSET
    update_filter: Any = UNSET


class RetrievePoints(RequestBody):
    """Body of `POST .../points`."""

    described: ClassVar[Mapping[str, Any]] = {
        "ids": IDS_SCHEMA,
        "with_vector": SHOWN_VECTOR_SCHEMA,
        "shard_key": KEYS_SCHEMA,
    }

    ids: Annotated[IdList, Meta(max_length=10_000)]
    with_payload: WithPayload = UNSET
    with_vector: WithVector = UNSET
    shard_key: ShardKeysIn = UNSET


class SelectPoints(RequestBody):
    """Points by id or by filter: exactly one of the two."""

    one_of: ClassVar[tuple[str, ...]] = ("points", "filter")
    described: ClassVar[Mapping[str, Any]] = {
        "points": {"anyOf": [SOME_IDS_SCHEMA, NULL]},
        "shard_key": KEYS_SCHEMA,
    }

    points: Annotated[IdList, Meta(min_length=1)] | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    shard_key: ShardKeysIn = UNSET


class DeletePoints(SelectPoints, kw_only=True):
    """Body of `POST .../points/delete`; `if_version` goes with a single id."""

    if_version: Version | UnsetType | None = UNSET


class SetPayload(SelectPoints, kw_only=True):
    """Body of `POST|PUT .../points/payload`: merge into, or replace, the payload."""

    lacking: ClassVar[frozenset[str]] = frozenset({"key"})

    payload: dict[str, Any]
    key: Any = UNSET


class DeletePayload(SelectPoints, kw_only=True):
    """Body of `POST .../points/payload/delete`."""

    keys: Annotated[FieldList, Meta(min_length=1)]


class ScrollPoints(RequestBody):
    """Body of `POST .../points/scroll`."""

    lacking: ClassVar[frozenset[str]] = frozenset({"order_by"})
    described: ClassVar[Mapping[str, Any]] = {
        "offset": {"anyOf": [ID_SCHEMA, NULL]},
        "with_vector": SHOWN_VECTOR_SCHEMA,
        "shard_key": KEYS_SCHEMA,
    }

    offset: PointIdIn | UnsetType | None = UNSET
    limit: Limit | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    with_payload: WithPayload = UNSET
    with_vector: WithVector = UNSET
    shard_key: ShardKeysIn = UNSET
    order_by: Any = UNSET


class CountPoints(RequestBody):
    """Body of `POST .../points/count`; the count is always exact."""

    described: ClassVar[Mapping[str, Any]] = {"shard_key": KEYS_SCHEMA}

    filter: FilterIn | UnsetType | None = UNSET
    exact: bool | UnsetType | None = UNSET
    shard_key: ShardKeysIn = UNSET
