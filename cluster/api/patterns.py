"""Patterns: what an agent tried, how it went, and finding it again by resemblance.

A pattern is a point of the collection `patterns`: its vector embeds the task, its payload holds
the rest. `reward` is any finite number; its scale is the caller's. With an idempotency key the
new id is derived from the key, so that a repeated store is the same store.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any, Final

import orjson

from cluster.api import answers
from cluster.api.conditions import read_condition
from cluster.api.embedding import embed_text, given_embedding
from cluster.api.envelope import Answer
from cluster.api.identity import collection_name, point_id
from cluster.api.pattern_schema import SearchPatterns, SearchVectors, StorePattern
from cluster.api.payloads import ALL, check_payload
from cluster.api.points import check_limit
from cluster.api.query import Query
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.search import coverage, nearest, render_hits
from cluster.api.selection import read_filter
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest, VersionConflict
from cluster.model import Collection, Hit, Point, Vector
from storage.filters import Filter
from storage.ids import PointId
from storage.postgres_patterns.rows import time_text

COLLECTION: Final = "patterns"
K_DEFAULT: Final = 5
STORED: Final = (
    "task",
    "input",
    "output",
    "critique",
    "reward",
    "success",
    "sessionId",
    "metadata",
)
SHOWN: Final = (*STORED, "createdAt")


async def store_pattern(call: Call, body: StorePattern) -> Answer:
    """Store a pattern; only its task is needed."""
    if_version = _condition(body)
    payload = _payload(body, call.api.wall_ms())
    _check_payload(payload, call.api.config.payload_bytes_max)
    collection = await call.api.router.collection(COLLECTION, call.options)
    options = call.write_options(str(collection.uid))
    if isinstance(body.embedding, list):
        space = given(body.embeddingSpace, None)
        vector = given_embedding(body.embedding, space, collection, "embedding")
    else:
        vector = await embed_text(call, body.task, collection, "task")
    chosen = _chosen_id(call, body, options.request_id)
    point = Point(chosen, vector, payload, if_version)
    try:
        ack = await call.api.router.upsert(collection, [point], options)
    except VersionConflict as conflict:
        conflict.field = "id"
        raise
    return call.written({"id": chosen, "version": ack.version}, ack)


async def search_patterns(call: Call, body: SearchPatterns) -> Answer:
    """Return the patterns that resemble a task, best first."""
    wanted = _wanted(
        call,
        given(body.k, K_DEFAULT),
        given(body.threshold, None),
        field="embedding",
        where=_pattern_filter(body),
    )
    text, values = given(body.task, None), given(body.embedding, None)
    if (text is None) == (values is None):
        raise BadRequest("give either task or embedding", field="task")
    collection = await call.api.router.collection(COLLECTION, call.options)
    vector = await _vector(call, collection, text, values, given(body.embeddingSpace, None))
    answer = await nearest(call, collection, wanted, vector)
    return Answer([_shown(hit) for hit in answer.hits], beside=coverage(call, [answer]))


async def search_vectors(call: Call, body: SearchVectors) -> Answer:
    """Return the points nearest to a text or a vector, with their payloads."""
    name = collection_name(given(body.collection, COLLECTION), "collection")
    wanted = _wanted(
        call,
        given(body.k, K_DEFAULT),
        given(body.threshold, None),
        field="query",
        where=read_filter(body.filter),
    )
    collection = await call.api.router.collection(name, call.options)
    if isinstance(body.query, str):
        vector = await embed_text(call, body.query, collection, "query")
    else:
        vector = check_vector(body.query, collection, "query")
    answer = await nearest(call, collection, wanted, vector)
    return Answer(render_hits(answer.hits, wanted), beside=coverage(call, [answer]))


async def _vector(
    call: Call,
    collection: Collection,
    text: str | None,
    values: list[float] | None,
    space: str | None,
) -> Vector:
    if values is not None:
        return given_embedding(values, space, collection, "embedding")
    assert text is not None, "a task or an embedding is given"
    return await embed_text(call, text, collection, "task")


def _payload(body: StorePattern, now_ms: int) -> dict[str, Any]:
    payload = {name: given(getattr(body, name), None) for name in STORED}
    kept = {name: value for name, value in payload.items() if value is not None}
    kept["createdAt"] = time_text(datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC))
    return kept


def _check_payload(payload: dict[str, Any], bytes_max: int) -> None:
    """Check depth and size; when all fields together are too large, the largest is named."""
    check_payload({"metadata": payload.get("metadata")}, bytes_max, "metadata")
    largest = max(payload, key=lambda name: len(orjson.dumps(payload[name])))
    check_payload(payload, bytes_max, largest)


def _condition(body: StorePattern) -> int | None:
    condition = read_condition(body.ifVersion, body.ifAbsent, "ifAbsent")
    if condition is not None and not isinstance(body.id, int | str):
        raise BadRequest("a condition is about the pattern of an id", field="id")
    return condition


def _chosen_id(call: Call, body: StorePattern, request_id: str) -> PointId:
    if isinstance(body.id, int | str):
        return point_id(body.id, "id")
    if request_id:
        return str(uuid.UUID(hex=request_id, version=5))
    return call.api.new_id()


def _pattern_filter(body: SearchPatterns) -> Filter | None:
    successes, failures = given(body.onlySuccesses, None), given(body.onlyFailures, None)
    if successes and failures:
        raise BadRequest("onlySuccesses and onlyFailures exclude each other", field="onlyFailures")
    conditions: list[dict[str, Any]] = []
    minimum = given(body.minReward, None)
    if minimum is not None:
        conditions.append({"key": "reward", "range": {"gte": minimum}})
    if successes or failures:
        conditions.append({"key": "success", "match": {"value": bool(successes)}})
    parts = [read_filter({"must": conditions}) if conditions else None, read_filter(body.filter)]
    joined = tuple(part for part in parts if part is not None)
    return joined[0] if len(joined) == 1 else Filter(must=joined) if joined else None


def _wanted(call: Call, k: int, threshold: float | None, *, field: str, where: Any) -> Query:
    return Query(
        target=None,
        field=field,
        limit=check_limit(k, call.api.config, "k"),
        offset=0,
        where=where,
        exact=False,
        ef=None,
        threshold=threshold,
        selection=ALL,
        with_vector=False,
    )


def _shown(hit: Hit) -> dict[str, Any]:
    payload = hit.payload or {}
    shown = {"id": hit.id, "score": hit.score}
    return shown | {name: payload.get(name) for name in SHOWN}


ROUTES: Final = (
    Route(
        "POST",
        "/patterns/store",
        store_pattern,
        "Store a pattern",
        body=StorePattern,
        answer=answers.PatternStored,
        writes=True,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/patterns/search",
        search_patterns,
        "Find patterns that resemble a task",
        body=SearchPatterns,
        answer=list[answers.PatternHit],
        searches=True,
        errors=(404,),
    ),
    Route(
        "POST",
        "/vectors/search",
        search_vectors,
        "Find points by text or vector",
        body=SearchVectors,
        answer=list[answers.HitShape],
        searches=True,
        errors=(404,),
    ),
)
