"""Points: write, read by id, delete, scroll, count.

A batch is validated whole before anything is proposed: the first bad point is named and nothing
is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cluster.api import answers
from cluster.api.conditions import placed, read_condition, read_sole_condition
from cluster.api.envelope import Answer
from cluster.api.identity import path_id, point_id, point_ids
from cluster.api.packed import PackedVector
from cluster.api.payloads import (
    ALL,
    PayloadSelection,
    check_payload,
    payload_selection,
    vector_wanted,
)
from cluster.api.point_schema import (
    BatchIn,
    CountPoints,
    DeletePoints,
    PointIn,
    RetrievePoints,
    ScrollPoints,
    SelectPoints,
    UpsertPoints,
)
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.selection import read_filter, read_selector
from cluster.api.sharding import key_in_url, read_keys, scoped
from cluster.api.usage import usage_of
from cluster.api.vectors import check_vectors
from cluster.config import Config
from cluster.errors import BadRequest, NotFound, UnsupportedFeature, VersionConflict
from cluster.model import Collection, Options, Point, Record, WriteAck
from cluster.scope import Scope
from storage.filters import Filter
from storage.ids import PointId

PAGE_DEFAULT: Final = 10


async def upsert(call: Call, body: UpsertPoints) -> Answer:
    """Insert or replace points."""
    collection = await call.collection()
    points = await call.computed(read_points, body, collection, call.api.config)
    options = call.write_options(str(collection.uid))
    options = scoped(options, collection, read_keys(body.shard_key), check=Scope.key)
    try:
        return finished(call, await call.api.router.upsert(collection, points, options))
    except VersionConflict as conflict:
        raise placed(conflict, points) from None


async def retrieve(call: Call, body: RetrievePoints) -> Answer:
    """Return the points of these ids that exist."""
    ids_max = call.api.config.limit_max
    if len(body.ids) > ids_max:
        raise BadRequest(f"more than {ids_max} ids", field="ids")
    ids = point_ids(body.ids, "ids")
    keys = read_keys(body.shard_key)
    if keys is not None and len(ids) * len(keys) > ids_max:
        raise BadRequest(f"more than {ids_max} points: ids times keys", field="shard_key")
    selection = payload_selection(body.with_payload, ALL, "with_payload")
    with_vector = vector_wanted(body.with_vector, "with_vector")
    collection = await call.collection()
    records = await call.api.router.retrieve(
        collection,
        ids,
        with_payload=selection.wanted,
        with_vector=with_vector,
        options=scoped(call.options, collection, keys),
    )
    return Answer([render_record(record, selection, with_vector=with_vector) for record in records])


async def get_point(call: Call) -> Answer:
    """Return one point with its payload and vector."""
    found = path_id(call.path["id"])
    collection = await call.collection()
    options = scoped(call.options, collection, key_in_url(call.shard_key))
    records = await call.api.router.retrieve(
        collection, [found], with_payload=True, with_vector=True, options=options
    )
    if not records:
        raise NotFound(f"no point with id {found}", field="id")
    if len(records) > 1:
        raise ambiguous(found, len(records))
    return Answer(render_record(records[0], ALL, with_vector=True))


async def delete(call: Call, body: DeletePoints) -> Answer:
    """Delete points by id or filter."""
    selector = read_selector(body, call.api.config.batch_points_max)
    if_version = read_sole_condition(body.if_version, selector)
    collection = await call.collection()
    options = selected(call, body, collection, selector)
    if if_version is not None:
        scoped(options, collection, options.shard_keys, "if_version", Scope.key)
    try:
        ack = await call.api.router.delete(collection, selector, options, if_version=if_version)
    except VersionConflict as conflict:
        conflict.field = "points[0]"
        raise
    return finished(call, ack)


async def scroll(call: Call, body: ScrollPoints) -> Answer:
    """Return a page of points in id order."""
    limit = check_limit(given(body.limit, PAGE_DEFAULT), call.api.config, "limit")
    selection = payload_selection(body.with_payload, ALL, "with_payload")
    with_vector = vector_wanted(body.with_vector, "with_vector")
    offset = body.offset
    where = read_filter(body.filter)
    collection = await call.collection()
    records, following = await call.api.router.scroll(
        collection,
        where,
        limit,
        point_id(offset, "offset") if isinstance(offset, int | str) else None,
        with_payload=selection.wanted,
        with_vector=with_vector,
        options=scoped(call.options, collection, read_keys(body.shard_key)),
    )
    points = [render_record(record, selection, with_vector=with_vector) for record in records]
    result = {"points": points, "next_page_offset": following}
    return Answer(result, beside=usage_of(call, collection, where))


async def count(call: Call, body: CountPoints) -> Answer:
    """Count the points that a filter matches."""
    where = read_filter(body.filter)
    collection = await call.collection()
    options = scoped(call.options, collection, read_keys(body.shard_key))
    counted = await call.api.router.count(collection, where, options)
    return Answer({"count": counted}, beside=usage_of(call, collection, where))


def read_points(body: UpsertPoints, collection: Collection, config: Config) -> list[Point]:
    """Return the validated points of an upsert; pure, so that a thread may do it.

    Raises:
        BadRequest: naming the first bad part; UnsupportedFeature likewise.
    """
    if given(body.update_mode, "upsert") != "upsert":
        raise UnsupportedFeature("conditional updates are not supported", field="update_mode")
    if isinstance(body.points, list) == isinstance(body.batch, BatchIn):
        raise BadRequest("give either points or batch", field="points")
    if isinstance(body.batch, BatchIn):
        return _read_batch(body.batch, collection, config)
    assert isinstance(body.points, list), "one of the two is given"
    return read_list(body.points, collection, config)


def check_limit(limit: int, config: Config, field: str) -> int:
    """Return a limit within the configured bounds; raises BadRequest."""
    if not 1 <= limit <= config.limit_max:
        raise BadRequest(f"{field} is outside 1..{config.limit_max}", field=field)
    return limit


def selected(
    call: Call,
    body: SelectPoints,
    collection: Collection,
    selector: Sequence[PointId] | Filter,
) -> Options:
    """Return the options of a write to points that were selected: ids need their keys."""
    options = call.write_options(str(collection.uid))
    keys = read_keys(body.shard_key)
    if not isinstance(selector, Sequence):
        return scoped(options, collection, keys)
    points_max = call.api.config.batch_points_max
    if keys is not None and len(selector) * len(keys) > points_max:
        raise BadRequest(f"more than {points_max} points: ids times keys", field="shard_key")
    return scoped(options, collection, keys, check=Scope.require_keys)


def ambiguous(point: PointId, count: int, field: str = "shard_key") -> BadRequest:
    """Return the refusal of an id that several points have where one is wanted."""
    return BadRequest(f"{count} points have the id {point}: say under which key", field=field)


def finished(call: Call, ack: WriteAck) -> Answer:
    """Return the answer of a write in Qdrant's shape."""
    result = {"operation_id": ack.version, "status": "completed", "version": ack.version}
    return call.written(result, ack)


def render_record(
    record: Record,
    selection: PayloadSelection,
    *,
    with_vector: bool,
) -> dict[str, Any]:
    """Return a point as it is answered."""
    shown: dict[str, Any] = {"id": record.id, "version": record.version}
    if record.shard_key is not None:
        shown["shard_key"] = record.shard_key
    if selection.wanted:
        shown["payload"] = selection.apply(record.payload)
    if with_vector and record.vector is not None:
        shown["vector"] = np.ascontiguousarray(record.vector)
    return shown


def read_list(items: list[PointIn], collection: Collection, config: Config) -> list[Point]:
    """Return the validated points of a list; raises as `read_points` does."""
    _check_size(len(items), config, "points")
    rows: list[list[float]] = []
    for at, item in enumerate(items):
        if not isinstance(item.vector, list):
            raise UnsupportedFeature(
                "only one unnamed dense vector is supported", field=f"points[{at}].vector"
            )
        rows.append(item.vector)
    ids = [point_id(item.id, f"points[{at}].id") for at, item in enumerate(items)]
    conditions = [
        read_condition(item.if_version, item.if_absent, f"points[{at}].if_absent")
        for at, item in enumerate(items)
    ]
    payloads = [given(item.payload, {}) for item in items]
    for at, payload in enumerate(payloads):
        check_payload(payload, config.payload_bytes_max, f"points[{at}].payload")
    matrix = check_vectors(rows, collection, lambda at: f"points[{at}].vector")
    return _assembled(ids, matrix, payloads, conditions)


def _read_batch(batch: BatchIn, collection: Collection, config: Config) -> list[Point]:
    _check_size(len(batch.ids), config, "batch.ids")
    rows: Any = batch.vectors
    if isinstance(rows, dict):
        raise UnsupportedFeature("named vectors are not supported", field="batch.vectors")
    if isinstance(rows, PackedVector):
        rows = rows.rows(len(batch.ids), collection.dimension, "batch.vectors")
    payloads = [given(item, {}) for item in given(batch.payloads, [None] * len(batch.ids))]
    for name, length in (("vectors", len(rows)), ("payloads", len(payloads))):
        if length != len(batch.ids):
            raise BadRequest("ids, vectors and payloads differ in length", field=f"batch.{name}")
    ids = point_ids(batch.ids, "batch.ids")
    for at, payload in enumerate(payloads):
        check_payload(payload, config.payload_bytes_max, f"batch.payloads[{at}]")
    matrix = check_vectors(rows, collection, lambda at: f"batch.vectors[{at}]")
    return _assembled(ids, matrix, payloads, [None] * len(ids))


def _check_size(length: int, config: Config, field: str) -> None:
    if length > config.batch_points_max:
        raise BadRequest(f"more than {config.batch_points_max} points", field=field)


def _assembled(
    ids: Sequence[int | str],
    matrix: Any,
    payloads: Sequence[dict[str, Any]],
    conditions: Sequence[int | None],
) -> list[Point]:
    return [Point(*parts) for parts in zip(ids, matrix, payloads, conditions, strict=True)]


_POINTS = "/collections/{collection_name}/points"

# Names below .../points/ that are routes, or are in the public shape; anything else is an id.
_RESERVED = "query|search|scroll|count|delete|payload|batch|vectors|recommend|discover"

ROUTES: Final = (
    Route(
        "PUT",
        _POINTS,
        upsert,
        "Insert or replace points",
        body=UpsertPoints,
        answer=answers.UpdateShape,
        writes=True,
        errors=(404, 409),
    ),
    Route(
        "POST",
        _POINTS,
        retrieve,
        "Return points by id",
        body=RetrievePoints,
        answer=list[answers.RecordShape],
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/scroll",
        scroll,
        "Return a page of points in id order",
        body=ScrollPoints,
        answer=answers.ScrollShape,
        filters=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/count",
        count,
        "Count points",
        body=CountPoints,
        answer=answers.CountShape,
        filters=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/delete",
        delete,
        "Delete points by id or filter",
        body=DeletePoints,
        answer=answers.UpdateShape,
        writes=True,
        errors=(404, 409),
    ),
    Route(
        "GET",
        f"{_POINTS}/{{id:(?!(?:{_RESERVED})$)[^/]+}}",
        get_point,
        "Return one point",
        answer=answers.RecordShape,
        keyed=True,
        errors=(404,),
    ),
)
