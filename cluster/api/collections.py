"""Collections: create, describe, list, drop; and payload indexes.

Creating a name that exists is a conflict even with equal parameters, as in Qdrant. Every payload
field can be filtered; an index on one makes that fast.
"""

from __future__ import annotations

from typing import Any, Final

from cluster.api import answers, patterns
from cluster.api.backend import CollectionInfo, TextEmbedder
from cluster.api.collection_schema import (
    CreateCollection,
    CreateFieldIndex,
    FieldSchema,
    FieldTypeIn,
    HnswConfig,
    VectorParams,
)
from cluster.api.envelope import Answer
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.strict_json import convert, refuse_lacking
from cluster.errors import BadRequest, CollectionNotFound, UnsupportedFeature
from cluster.model import Collection
from storage.filters import FilterError
from storage.payload_index.fields import FieldIndex, FieldType

DEFAULT_SPACE: Final = "default"
M_DEFAULT: Final = 16
M_MIN: Final = 2
EF_CONSTRUCT_DEFAULT: Final = 200
FIELD_NAME_MAX: Final = 255
KIND_DEFAULT: Final[FieldType] = "keyword"


async def list_collections(call: Call) -> Answer:
    """Return the names of all collections."""
    await call.api.router.catch_up(call.options)
    names = sorted(item.name for item in call.api.router.collections() if item.state == "live")
    return Answer({"collections": [{"name": name} for name in names]})


async def collection_exists(call: Call) -> Answer:
    """Return whether the collection exists."""
    try:
        await call.collection()
    except CollectionNotFound:
        return Answer({"exists": False})
    return Answer({"exists": True})


async def create_collection(call: Call, body: CreateCollection) -> Answer:
    """Create a collection; 409 when the name is taken."""
    name = call.collection_name
    vectors = read_vector_params(body, call.api.config.dimension_max)
    custom_sharding = body.sharding_method == "custom"
    if custom_sharding and name == patterns.COLLECTION:
        raise BadRequest("patterns have no keys", field="sharding_method")
    m, ef_construct = read_hnsw(body.hnsw_config, vectors.hnsw_config)
    await call.api.router.create_collection(
        name,
        dimension=vectors.size,
        distance=vectors.distance,
        hnsw_m=m,
        hnsw_ef_construct=ef_construct,
        embedding_space=read_space(body, call.api.embedder, vectors.size),
        options=call.write_options(name),
        must_be_new=True,
        custom_sharding=custom_sharding,
    )
    return Answer(result=True, session=call.api.router.session(call.options.session))


async def drop_collection(call: Call) -> Answer:
    """Drop a collection; the result is false when there was none."""
    name = call.collection_name
    dropped = await call.api.router.drop_collection(name, call.write_options(name))
    return Answer(result=dropped, session=call.api.router.session(call.options.session))


async def describe_collection(call: Call) -> Answer:
    """Return counts, index status and the configuration that is really in effect."""
    collection = await call.collection()
    info = await call.api.router.collection_info(collection.name, call.options)
    return Answer(_description(collection, info))


async def create_index(call: Call, body: CreateFieldIndex) -> Answer:
    """Index a payload field; `acknowledged` when this node has not read all its points in time."""
    schema = body.field_schema
    kind: FieldTypeIn
    kind = schema.type if isinstance(schema, FieldSchema) else given(schema, KIND_DEFAULT)
    if kind == "geo":
        raise UnsupportedFeature("geo filters are not supported", field="field_schema")
    field = FieldIndex(body.field_name, kind)
    try:
        field.path()
    except FilterError as error:
        raise BadRequest(error.message, field="field_name") from None
    collection = await call.collection()
    options = call.write_options(str(collection.uid))
    filled = await call.api.router.put_index(collection, field, options)
    return _index_changed(call, "completed" if filled else "acknowledged")


async def delete_index(call: Call) -> Answer:
    """Remove the index on a payload field."""
    name = call.path["field_name"]
    if len(name) > FIELD_NAME_MAX:
        raise BadRequest("a field name has at most 255 characters", field="field_name")
    collection = await call.collection()
    options = call.write_options(f"{collection.uid}/{name}")
    await call.api.router.drop_index(collection, name, options)
    return _index_changed(call, "completed")


def _index_changed(call: Call, status: str) -> Answer:
    session = call.api.router.session(call.options.session)
    return Answer({"operation_id": None, "status": status}, session=session)


def read_vector_params(body: CreateCollection, dimension_max: int) -> VectorParams:
    """Return the parameters of the one unnamed vector.

    Raises:
        UnsupportedFeature: a map of named vectors, or a datatype other than float32.
        BadRequest: not of the schema, or a dimension that is too large.
    """
    raw: dict[str, Any] = body.vectors
    if raw and not raw.keys() & set(VectorParams.__struct_fields__):
        name, value = next(iter(raw.items()))
        if isinstance(value, dict):
            raise UnsupportedFeature("named vectors are not supported", field=f"vectors.{name}")
    params = convert(raw, VectorParams, "vectors")
    refuse_lacking(params, "vectors.")
    if params.size > dimension_max:
        raise BadRequest(f"size is outside 1..{dimension_max}", field="vectors.size")
    if given(params.datatype, "float32") != "float32":
        raise UnsupportedFeature("vectors are stored as float32", field="vectors.datatype")
    return params


def read_space(body: CreateCollection, embedder: TextEmbedder, size: int) -> str | None:
    """Return the embedding space that a new collection declares.

    Raises:
        BadRequest: the server's own space with another dimension.
    """
    space = given(body.embedding_space, None)
    if space == DEFAULT_SPACE:
        space = embedder.space
    if space == embedder.space and size != embedder.dimension:
        raise BadRequest(
            f"this server's text embedding has {embedder.dimension} dimensions",
            field="vectors.size",
        )
    return space


def read_hnsw(*configs: Any) -> tuple[int, int]:
    """Return `m` and `ef_construct`; of several configurations a later one wins."""
    m, ef_construct = 0, EF_CONSTRUCT_DEFAULT
    for config in configs:
        if isinstance(config, HnswConfig):
            m = given(config.m, m)
            ef_construct = given(config.ef_construct, ef_construct)
    return (max(m, M_MIN) if m else M_DEFAULT), ef_construct


def _description(collection: Collection, info: CollectionInfo) -> dict[str, Any]:
    return {
        "status": info.status,
        "optimizer_status": "ok",
        "indexed_vectors_count": info.indexed_count,
        "points_count": info.points_count,
        "segments_count": info.shards,
        "config": {
            "params": {
                "vectors": {"size": collection.dimension, "distance": collection.distance},
                "shard_number": info.shards,
                "sharding_method": "custom" if collection.custom_sharding else "auto",
                "replication_factor": info.replication,
                "write_consistency_factor": info.replication // 2 + 1,
                "on_disk_payload": True,
            },
            "hnsw_config": {
                "m": collection.hnsw_m,
                "ef_construct": collection.hnsw_ef_construct,
                "full_scan_threshold": 0,
                "max_indexing_threads": 1,
                "on_disk": False,
            },
            **_COMPATIBILITY,
        },
        "payload_schema": {
            field.name: {"data_type": field.type, "points": info.field_counts.get(field.name, 0)}
            for field in collection.payload_indexes
        },
        "embedding_space": collection.embedding_space,
    }


_COMPATIBILITY: Final = {
    "optimizer_config": {
        "deleted_threshold": 0.3,
        "vacuum_min_vector_number": 100,
        "default_segment_number": 1,
        "max_segment_size": None,
        "memmap_threshold": None,
        "indexing_threshold": None,
        "flush_interval_sec": 0,
        "max_optimization_threads": 1,
    },
    "wal_config": {"wal_capacity_mb": 16, "wal_segments_ahead": 1},
    "quantization_config": None,
}

_COLLECTION = "/collections/{collection_name}"

ROUTES: Final = (
    Route(
        "GET", "/collections", list_collections, "List collections", answer=answers.CollectionList
    ),
    Route(
        "GET",
        _COLLECTION,
        describe_collection,
        "Describe a collection",
        answer=answers.CollectionShape,
        errors=(404,),
    ),
    Route(
        "PUT",
        _COLLECTION,
        create_collection,
        "Create a collection",
        body=CreateCollection,
        answer=bool,
        writes=True,
        errors=(409,),
    ),
    Route("DELETE", _COLLECTION, drop_collection, "Drop a collection", answer=bool, writes=True),
    Route(
        "GET",
        f"{_COLLECTION}/exists",
        collection_exists,
        "Tell whether a collection exists",
        answer=answers.Existence,
    ),
    Route(
        "PUT",
        f"{_COLLECTION}/index",
        create_index,
        "Index a payload field",
        body=CreateFieldIndex,
        answer=answers.UpdateShape,
        writes=True,
        errors=(404,),
    ),
    Route(
        "DELETE",
        f"{_COLLECTION}/index/{{field_name}}",
        delete_index,
        "Remove the index on a payload field",
        answer=answers.UpdateShape,
        writes=True,
        errors=(404,),
    ),
)
