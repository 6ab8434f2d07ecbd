"""Searches: points/query, points/search and their batches.

A batch is validated whole, then its searches run side by side. A missing shard is an error,
unless the caller allowed a partial answer; the envelope then says which shards it reflects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from cluster.api import answers
from cluster.api.envelope import Answer
from cluster.api.points import ambiguous, render_record
from cluster.api.query import Query, read_query, read_search
from cluster.api.route import Call, Route
from cluster.api.search_schema import QueryBatch, QueryPoints, SearchBatch, SearchPoints
from cluster.api.sharding import scoped
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest, NotFound
from cluster.model import Collection, Hit, Options, SearchAnswer, SearchRequest, Vector
from storage.ids import PointId

BATCH_RESULTS_FACTOR: Final = 10
"""A batch may ask for this many times the results that one search may ask for."""

Found = tuple[list[dict[str, Any]], SearchAnswer | None]


async def query(call: Call, body: QueryPoints) -> Answer:
    """Return the points that fit a query best."""
    wanted = read_query(body, call.api.config)
    points, answer = await _run(call, await call.collection(), wanted)
    return Answer({"points": points}, beside=coverage(call, [answer]))


async def search(call: Call, body: SearchPoints) -> Answer:
    """Return the points nearest to a vector."""
    wanted = read_search(body, call.api.config)
    points, answer = await _run(call, await call.collection(), wanted)
    return Answer(points, beside=coverage(call, [answer]))


async def query_batch(call: Call, body: QueryBatch) -> Answer:
    """Return the results of several queries, in their order."""
    found = await _run_batch(call, body.searches, read_query)
    results = [{"points": points} for points, _ in found]
    return Answer(results, beside=coverage(call, [answer for _, answer in found]))


async def search_batch(call: Call, body: SearchBatch) -> Answer:
    """Return the results of several searches, in their order."""
    found = await _run_batch(call, body.searches, read_search)
    results = [points for points, _ in found]
    return Answer(results, beside=coverage(call, [answer for _, answer in found]))


def coverage(call: Call, found: Sequence[SearchAnswer | None]) -> dict[str, Any] | None:
    """Return which shards the answers reflect; None unless a partial answer was allowed."""
    if not call.options.allow_partial:
        return None
    searched = [answer for answer in found if answer is not None]
    failed = {shard for answer in searched for shard in answer.shards_failed}
    reached = {shard for answer in searched for shard in answer.shards_ok}
    return {
        "partial": bool(failed),
        "shards_ok": sorted(reached - failed),
        "shards_failed": sorted(failed),
    }


async def nearest(
    call: Call, collection: Collection, wanted: Query, vector: Vector
) -> SearchAnswer:
    """Run one search through the router."""
    request = SearchRequest(
        vector=vector,
        limit=wanted.limit,
        offset=wanted.offset,
        filter=wanted.where,
        exact=wanted.exact,
        ef=wanted.ef,
        score_threshold=wanted.threshold,
        with_payload=wanted.selection.wanted,
        with_vector=wanted.with_vector,
    )
    return await call.api.router.search(collection, request, _options(call, collection, wanted))


def render_hits(hits: Sequence[Hit], wanted: Query) -> list[dict[str, Any]]:
    """Return hits as they are answered; what was not asked for is left out."""
    shown: list[dict[str, Any]] = [
        {"id": hit.id, "version": hit.version, "score": hit.score} for hit in hits
    ]
    for item, hit in zip(shown, hits, strict=True):
        if hit.shard_key is not None:
            item["shard_key"] = hit.shard_key
    if wanted.selection.wanted:
        for item, hit in zip(shown, hits, strict=True):
            item["payload"] = wanted.selection.apply(hit.payload)
    if wanted.with_vector:
        for item, hit in zip(shown, hits, strict=True):
            if hit.vector is not None:
                item["vector"] = np.ascontiguousarray(hit.vector)
    return shown


def _options(call: Call, collection: Collection, wanted: Query) -> Options:
    return scoped(call.options, collection, wanted.keys, f"{wanted.path}shard_key")


async def _run(call: Call, collection: Collection, wanted: Query) -> Found:
    target = wanted.target
    if target is None:
        return await _any_points(call, collection, wanted), None
    if isinstance(target, list):
        vector = check_vector(target, collection, wanted.field)
        answer = await nearest(call, collection, wanted, vector)
        return render_hits(answer.hits, wanted), answer
    return await _near_point(call, collection, wanted, target)


async def _near_point(call: Call, collection: Collection, wanted: Query, point: PointId) -> Found:
    """Search by a stored point's vector; the point itself is no result."""
    records = await call.api.router.retrieve(
        collection,
        [point],
        with_payload=False,
        with_vector=True,
        options=_options(call, collection, wanted),
    )
    if not records or records[0].vector is None:
        raise NotFound(f"no point with id {point}", field=wanted.field)
    if len(records) > 1:
        raise ambiguous(point, len(records), f"{wanted.path}shard_key")
    more = replace(wanted, limit=wanted.limit + wanted.offset + 1, offset=0)
    answer = await nearest(call, collection, more, records[0].vector)
    key = records[0].shard_key
    others = [hit for hit in answer.hits if (hit.id, hit.shard_key) != (point, key)]
    page = others[wanted.offset : wanted.offset + wanted.limit]
    return render_hits(page, wanted), answer


async def _any_points(call: Call, collection: Collection, wanted: Query) -> list[dict[str, Any]]:
    """Answer a query without a target: points in id order, with a score of zero."""
    start, skip = None, wanted.offset
    router = call.api.router
    options = _options(call, collection, wanted)
    while skip:
        step = min(skip, call.api.config.limit_max)
        passed, following = await router.scroll(
            collection,
            wanted.where,
            step,
            start,
            with_payload=False,
            with_vector=False,
            options=options,
        )
        if len(passed) > skip:
            break  # a page has all points of its last id: the first one wanted is among these
        if following is None:
            return []
        start, skip = following, skip - max(step, len(passed))
    records, _ = await router.scroll(
        collection,
        wanted.where,
        skip + wanted.limit,
        start,
        with_payload=wanted.selection.wanted,
        with_vector=wanted.with_vector,
        options=options,
    )
    return [
        {
            "score": 0.0,
            **render_record(record, wanted.selection, with_vector=wanted.with_vector),
        }
        for record in records[skip : skip + wanted.limit]
    ]


async def _run_batch(call: Call, bodies: Sequence[Any], read: Callable[..., Query]) -> list[Found]:
    config = call.api.config
    wanted = [read(body, config, f"searches[{at}].") for at, body in enumerate(bodies)]
    results_max = BATCH_RESULTS_FACTOR * config.limit_max
    if sum(item.limit for item in wanted) > results_max:
        raise BadRequest(f"more than {results_max} results in one batch", field="searches")
    collection = await call.collection()
    for item in wanted:
        _options(call, collection, item)
        if isinstance(item.target, list):
            check_vector(item.target, collection, item.field)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(call, collection, item)) for item in wanted]
    return [task.result() for task in tasks]


_POINTS = "/collections/{collection_name}/points"

# First in the table: aiohttp tries routes in their order, and these are the hot ones.
ROUTES: Final = (
    Route(
        "POST",
        f"{_POINTS}/query",
        query,
        "Find the points that fit a query best",
        body=QueryPoints,
        answer=answers.QueryShape,
        searches=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/search",
        search,
        "Find the points nearest to a vector",
        body=SearchPoints,
        answer=list[answers.HitShape],
        searches=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/query/batch",
        query_batch,
        "Run several queries",
        body=QueryBatch,
        answer=list[answers.QueryShape],
        searches=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/search/batch",
        search_batch,
        "Run several searches",
        body=SearchBatch,
        answer=list[list[answers.HitShape]],
        searches=True,
        errors=(404,),
    ),
)
