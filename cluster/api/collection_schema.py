"""Request schemas of collections and payload indexes, in the shape of Qdrant's REST API.

Tuning fields are validated by type and accepted: this product tunes itself, and reports the
values that it really uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import KEY_SCHEMA, Name, Natural, Positive, RequestBody, ShardKeyIn
from cluster.model import Distance

Memory = Literal["cold", "cached", "pinned"]
Datatype = Literal["float32", "float16", "uint8", "turbo4", "turbo8", "turbo16"]


class HnswConfig(RequestBody):
    """Parameters of the index graph; `m` 0 leaves the choice to the server."""

    m: Annotated[int, Meta(ge=0, le=512)] | UnsetType | None = UNSET
    ef_construct: Annotated[int, Meta(ge=4, le=10_000)] | UnsetType | None = UNSET
    full_scan_threshold: Natural | UnsetType | None = UNSET
    max_indexing_threads: Natural | UnsetType | None = UNSET
    on_disk: bool | UnsetType | None = UNSET
    memory: Memory | UnsetType | None = UNSET
    payload_m: Natural | UnsetType | None = UNSET
    inline_storage: bool | UnsetType | None = UNSET


class VectorParams(RequestBody):
    """Dimension and distance of a collection's one, unnamed vector."""

    lacking: ClassVar[frozenset[str]] = frozenset({"quantization_config", "multivector_config"})
    described: ClassVar[Mapping[str, Any]] = {"datatype": {"enum": ["float32", None]}}

    size: Positive
    distance: Distance
    hnsw_config: HnswConfig | UnsetType | None = UNSET
    on_disk: bool | UnsetType | None = UNSET
    memory: Memory | UnsetType | None = UNSET
    datatype: Datatype | UnsetType | None = UNSET
    quantization_config: Any = UNSET
    multivector_config: Any = UNSET


class OptimizersConfig(RequestBody):
    """Accepted for compatibility."""

    deleted_threshold: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET
    vacuum_min_vector_number: Natural | UnsetType | None = UNSET
    default_segment_number: Natural | UnsetType | None = UNSET
    max_segment_size: Natural | UnsetType | None = UNSET
    memmap_threshold: Natural | UnsetType | None = UNSET
    indexing_threshold: Natural | UnsetType | None = UNSET
    flush_interval_sec: Natural | UnsetType | None = UNSET
    max_optimization_threads: Natural | Literal["auto"] | UnsetType | None = UNSET
    prevent_unoptimized: bool | UnsetType | None = UNSET


class WalConfig(RequestBody):
    """Accepted for compatibility."""

    wal_capacity_mb: Positive | UnsetType | None = UNSET
    wal_segments_ahead: Natural | UnsetType | None = UNSET
    wal_retain_closed: Natural | UnsetType | None = UNSET


class PayloadStorage(RequestBody):
    """Accepted for compatibility."""

    memory: Memory | UnsetType | None = UNSET


class CreateCollection(RequestBody):
    """Body of `PUT /collections/{name}`.

    `embedding_space` says which model the vectors come from: "default" for this server's own,
    whose collections can be searched by text, or any other name, which is kept and compared.
    """

    lacking: ClassVar[frozenset[str]] = frozenset(
        {
            "quantization_config",
            "sparse_vectors",
            "strict_mode_config",
            "metadata",
            "init_from",
        }
    )
    described: ClassVar[Mapping[str, Any]] = {
        "vectors": {"$ref": "#/components/schemas/VectorParams"},
        "sharding_method": {"enum": ["auto", "custom", None]},
    }

    vectors: dict[str, Any]
    hnsw_config: HnswConfig | UnsetType | None = UNSET
    shard_number: Positive | UnsetType | None = UNSET
    sharding_method: Literal["auto", "custom"] | UnsetType | None = UNSET
    replication_factor: Positive | UnsetType | None = UNSET
    write_consistency_factor: Positive | UnsetType | None = UNSET
    on_disk_payload: bool | UnsetType | None = UNSET
    payload: PayloadStorage | UnsetType | None = UNSET
    id_tracker: PayloadStorage | UnsetType | None = UNSET
    optimizers_config: OptimizersConfig | UnsetType | None = UNSET
    wal_config: WalConfig | UnsetType | None = UNSET
    embedding_space: Name | UnsetType | None = UNSET
    quantization_config: Any = UNSET
    sparse_vectors: Any = UNSET
    strict_mode_config: Any = UNSET
    metadata: Any = UNSET
    init_from: Any = UNSET


class CreateShardKey(RequestBody):
    """Body of `PUT /collections/{name}/shards`; all but the key is accepted and has no effect."""

    lacking: ClassVar[frozenset[str]] = frozenset({"initial_state"})
    described: ClassVar[Mapping[str, Any]] = {"shard_key": KEY_SCHEMA}

    shard_key: ShardKeyIn
    shards_number: Positive | UnsetType | None = UNSET
    replication_factor: Positive | UnsetType | None = UNSET
    placement: list[Natural] | UnsetType | None = UNSET
    initial_state: Any = UNSET


class DeleteShardKey(RequestBody):
    """Body of `POST /collections/{name}/shards/delete`."""

    described: ClassVar[Mapping[str, Any]] = {"shard_key": KEY_SCHEMA}

    shard_key: ShardKeyIn


Tokenizer = Literal["prefix", "whitespace", "word", "multilingual", "code"]
FieldTypeIn = Literal["keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"]


class FieldSchema(RequestBody):
    """Parameters of a payload index; all but `type` are tuning and accepted."""

    type: FieldTypeIn
    is_tenant: bool | UnsetType | None = UNSET
    is_principal: bool | UnsetType | None = UNSET
    on_disk: bool | UnsetType | None = UNSET
    memory: Memory | UnsetType | None = UNSET
    enable_hnsw: bool | UnsetType | None = UNSET
    prefix: bool | UnsetType | None = UNSET
    lookup: bool | UnsetType | None = UNSET
    range: bool | UnsetType | None = UNSET
    tokenizer: Tokenizer | UnsetType | None = UNSET
    min_token_len: Natural | UnsetType | None = UNSET
    max_token_len: Natural | UnsetType | None = UNSET
    lowercase: bool | UnsetType | None = UNSET
    ascii_folding: bool | UnsetType | None = UNSET
    phrase_matching: bool | UnsetType | None = UNSET
    stopwords: str | dict[str, Any] | UnsetType | None = UNSET
    stemmer: dict[str, Any] | UnsetType | None = UNSET
    scoring: bool | dict[str, Any] | UnsetType | None = UNSET
    nested: str | UnsetType | None = UNSET


class CreateFieldIndex(RequestBody):
    """Body of `PUT /collections/{name}/index`."""

    field_name: Name
    field_schema: FieldTypeIn | FieldSchema | UnsetType | None = UNSET
