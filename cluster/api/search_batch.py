"""Several searches in one request: points/query/batch and points/search/batch.

A batch is validated whole. Searches for vectors go to the router together, which answers those of
one kind with few calls of the index; the others run side by side with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from cluster.api import answers
from cluster.api.envelope import Answer
from cluster.api.query import Query, read_query, read_search
from cluster.api.route import Call, Route
from cluster.api.search import beside_results, find, options_of, render_hits, request_of
from cluster.api.search_schema import QueryBatch, SearchBatch
from cluster.api.targets import Found
from cluster.api.vectors import check_vectors
from cluster.errors import BadRequest
from cluster.model import Collection, Vector

BATCH_RESULTS_FACTOR: Final = 10
"""A batch may ask for this many times the results that one search may ask for."""
ALONE_MAX: Final = 8
"""So many queries by examples, or with diversity, hold their candidates at a time."""


async def query_batch(call: Call, body: QueryBatch) -> Answer:
    """Return the results of several queries, in their order."""
    rendered, beside = await _run(call, body.searches, read_query)
    return Answer([{"points": points} for points in rendered], beside=beside)


async def search_batch(call: Call, body: SearchBatch) -> Answer:
    """Return the results of several searches, in their order."""
    rendered, beside = await _run(call, body.searches, read_search)
    return Answer(rendered, beside=beside)


async def _run(
    call: Call, bodies: Sequence[Any], read: Callable[..., Query]
) -> tuple[list[list[dict[str, Any]]], dict[str, Any] | None]:
    """Return the points of each search, and what joins them in the envelope."""
    config = call.api.config
    wanted = [read(body, config, f"searches[{at}].") for at, body in enumerate(bodies)]
    results_max = BATCH_RESULTS_FACTOR * config.limit_max
    if sum(item.limit for item in wanted) > results_max:
        raise BadRequest(f"more than {results_max} results in one batch", field="searches")
    collection = await call.collection()
    for item in wanted:
        options_of(call, collection, item)
    plain = [at for at, item in enumerate(wanted) if _is_plain(item)]
    targets: list[Any] = [wanted[at].target for at in plain]
    vectors = check_vectors(targets, collection, lambda row: wanted[plain[row]].field)
    found = await _found(call, collection, wanted, dict(zip(plain, vectors, strict=True)))
    rendered = [render_hits(hits, each) for each, (hits, _) in zip(wanted, found, strict=True)]
    return rendered, beside_results(call, collection, wanted, [answer for _, answer in found])


def _is_plain(item: Query) -> bool:
    return isinstance(item.target, list) and item.diversity is None


async def _found(
    call: Call, collection: Collection, wanted: Sequence[Query], vectors: dict[int, Vector]
) -> list[Found]:
    """Return what each query finds; `vectors` are those of plain searches, by place."""
    found: dict[int, Found] = {}
    some = asyncio.Semaphore(ALONE_MAX)

    async def alone(at: int) -> None:
        async with some:
            found[at] = await find(call, collection, wanted[at])

    async def together(places: Sequence[int]) -> None:
        options = options_of(call, collection, wanted[places[0]])
        requests = [request_of(wanted[at], vectors[at]) for at in places]
        searched = await call.api.router.search_many(collection, requests, options)
        found.update(
            (at, (answer.hits, answer)) for at, answer in zip(places, searched, strict=True)
        )

    alike: dict[Any, list[int]] = {}
    for at in vectors:
        alike.setdefault(wanted[at].keys, []).append(at)
    async with asyncio.TaskGroup() as group:
        for places in alike.values():
            group.create_task(together(places))
        for at in range(len(wanted)):
            if at not in vectors:
                group.create_task(alone(at))
    return [found[at] for at in range(len(wanted))]


_POINTS: Final = "/collections/{collection_name}/points"

ROUTES: Final = (
    Route(
        "POST",
        f"{_POINTS}/query/batch",
        query_batch,
        "Run several queries",
        body=QueryBatch,
        answer=list[answers.QueryShape],
        searches=True,
        filters=True,
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
        filters=True,
        errors=(404,),
    ),
)
