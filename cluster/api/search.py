"""Searches: points/query and points/search.

A missing shard is an error, unless the caller allowed a partial answer; the envelope then says
which shards it reflects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cluster.api import answers
from cluster.api.envelope import Answer
from cluster.api.query import Query, read_query, read_recommend, read_search
from cluster.api.route import Call, Route
from cluster.api.search_schema import QueryPoints, RecommendPoints, SearchPoints
from cluster.api.sharding import scoped
from cluster.api.targets import Found, Search, find_target
from cluster.api.usage import usage_of
from cluster.api.vectors import check_vector
from cluster.model import Collection, Hit, Options, SearchAnswer, SearchRequest, Vector


async def query(call: Call, body: QueryPoints) -> Answer:
    """Return the points that fit a query best."""
    wanted = read_query(body, call.api.config)
    collection = await call.collection()
    hits, answer = await find(call, collection, wanted)
    beside = beside_results(call, collection, [wanted], [answer])
    return Answer({"points": render_hits(hits, wanted)}, beside=beside)


async def search(call: Call, body: SearchPoints) -> Answer:
    """Return the points nearest to a vector."""
    wanted = read_search(body, call.api.config)
    collection = await call.collection()
    hits, answer = await find(call, collection, wanted)
    beside = beside_results(call, collection, [wanted], [answer])
    return Answer(render_hits(hits, wanted), beside=beside)


async def recommend(call: Call, body: RecommendPoints) -> Answer:
    """Return the points that resemble some examples and not others."""
    wanted = read_recommend(body, call.api.config)
    collection = await call.collection()
    hits, answer = await find(call, collection, wanted)
    beside = beside_results(call, collection, [wanted], [answer])
    return Answer(render_hits(hits, wanted), beside=beside)


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


def beside_results(
    call: Call,
    collection: Collection,
    wanted: Sequence[Query],
    found: Sequence[SearchAnswer | None],
) -> dict[str, Any] | None:
    """Return what joins the results in the envelope, if anything does."""
    used = usage_of(call, collection, *(item.where for item in wanted))
    return {**used, **(coverage(call, found) or {})} or None


async def nearest(
    call: Call, collection: Collection, wanted: Query, vector: Vector
) -> SearchAnswer:
    """Run one search through the router."""
    options = options_of(call, collection, wanted)
    return await call.api.router.search(collection, request_of(wanted, vector), options)


def request_of(wanted: Query, vector: Vector) -> SearchRequest:
    """Return what the router is asked for."""
    return SearchRequest(
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


def options_of(call: Call, collection: Collection, wanted: Query) -> Options:
    """Return the options of a search under its keys; raises BadRequest for keys that cannot be."""
    return scoped(call.options, collection, wanted.keys, f"{wanted.path}shard_key")


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


async def find(call: Call, collection: Collection, wanted: Query) -> Found:
    """Return the hits of a query of any kind."""
    target = wanted.target
    if target is None:
        return await _any_points(call, collection, wanted), None
    if isinstance(target, list) and wanted.diversity is None:
        vector = check_vector(target, collection, wanted.field)
        answer = await nearest(call, collection, wanted, vector)
        return answer.hits, answer
    options = options_of(call, collection, wanted)

    async def near(query: Query, vectors: Sequence[Vector]) -> list[SearchAnswer]:
        requests = [request_of(query, vector) for vector in vectors]
        return await call.api.router.search_many(collection, requests, options)

    return await find_target(Search(call, collection, wanted, options, near))


async def _any_points(call: Call, collection: Collection, wanted: Query) -> list[Hit]:
    """Answer a query without a target: points in id order, with a score of zero."""
    start, skip = None, wanted.offset
    router = call.api.router
    options = options_of(call, collection, wanted)
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
        Hit(each.id, each.version, 0.0, each.vector, each.payload, each.shard_key)
        for each in records[skip : skip + wanted.limit]
    ]


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
        filters=True,
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
        filters=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/recommend",
        recommend,
        "Find the points that resemble some examples and not others",
        body=RecommendPoints,
        answer=list[answers.HitShape],
        searches=True,
        filters=True,
        errors=(404,),
    ),
)
