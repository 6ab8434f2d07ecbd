"""Queries whose vector must be found first, or whose order takes more than one search.

Stored points that a query names are fetched first, from wherever they are, and are no results of
it; those of another collection may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from cluster.api.payloads import NONE
from cluster.api.points import ambiguous
from cluster.api.query import Query
from cluster.api.query_target import Diversity, Example, Lookup, Recommendation
from cluster.api.route import Call
from cluster.api.sharding import scoped
from cluster.api.vectors import check_vector, check_vectors
from cluster.diversity import diverse
from cluster.errors import BadRequest, CollectionNotFound, EmbeddingSpaceMismatch, NotFound
from cluster.model import Collection, Hit, Options, SearchAnswer, Vector
from cluster.recommendation import average, best_scores, score_bound
from cluster.similarity import Matrix, similarity_of, unit
from storage.ids import PointId, ShardKey

_WIDEN: Final = 4
Identity = tuple[PointId, ShardKey | None]
Found = tuple[list[Hit], SearchAnswer | None]
"""Hits, and which shards they reflect if that is known."""


@dataclass(frozen=True, slots=True)
class Search:
    """A query on its way. `near` and `near_each` search for vectors under the query's terms."""

    call: Call
    collection: Collection
    wanted: Query
    options: Options
    near: Callable[[Query, Sequence[Vector]], Awaitable[list[SearchAnswer]]]


class _Examples(NamedTuple):
    """Vectors[n, dimension] as they are compared, and the points that are no results."""

    positive: Matrix
    negative: Matrix
    avoided: frozenset[Identity]


async def find_target(search: Search) -> Found:
    """Return the hits of a query that names points or examples, or wants diversity.

    Raises:
        NotFound: a point that is named does not exist.
        BadRequest: a vector that does not fit, or an id that several points have.
    """
    target, field = search.wanted.target, search.wanted.field
    assert target is not None, "a query without a target is no search"
    if not isinstance(target, Recommendation):
        examples = await _resolved(search, [Example(target, field)], [])
        return await _nearest_but(search, examples.positive[0], examples.avoided)
    examples = await _resolved(search, target.positive, target.negative)
    if target.strategy == "best_score":
        return await _best(search, examples)
    vector = average(examples.positive, examples.negative)
    vector = check_vector(vector, search.collection, field)
    return await _nearest_but(search, vector, examples.avoided)


async def _resolved(
    search: Search, positive: Sequence[Example], negative: Sequence[Example]
) -> _Examples:
    """Fetch the vectors of examples that are ids."""
    examples = [*positive, *negative]
    home = await _home(search)
    stored, avoided = await _stored(search, home, examples)
    vectors = [
        each.value if isinstance(each.value, list) else stored[each.value] for each in examples
    ]
    matrix = check_vectors(vectors, search.collection, lambda at: examples[at].field)
    rows = unit(matrix, search.collection.distance)
    if home is not search.collection:
        avoided = frozenset()
    return _Examples(rows[: len(positive)], rows[len(positive) :], avoided)


async def _home(search: Search) -> Collection:
    """Return the collection in which ids are looked up.

    Raises:
        CollectionNotFound: there is none of that name.
        BadRequest: its vectors cannot be compared with those that are searched.
    """
    lookup = search.wanted.lookup
    if lookup is None:
        return search.collection
    field = f"{search.wanted.path}lookup_from.collection"
    try:
        home = await search.call.api.router.collection(lookup.collection, search.options)
    except CollectionNotFound as error:
        raise CollectionNotFound(error.message, field=field) from None
    here = search.collection
    if home.uid == here.uid:
        return here
    if home.dimension != here.dimension:
        text = f"its vectors have {home.dimension} elements, not {here.dimension}"
        raise BadRequest(text, field=field)
    spaces = {home.embedding_space, here.embedding_space} - {None}
    if len(spaces) > 1:
        raise EmbeddingSpaceMismatch("its vectors are of another embedding space", field=field)
    return home


async def _stored(
    search: Search, home: Collection, examples: Sequence[Example]
) -> tuple[dict[PointId, Vector], frozenset[Identity]]:
    """Return the vectors of stored points by id, and who they are."""
    named = {each.value: each.field for each in examples if not isinstance(each.value, list)}
    if not named:
        return {}, frozenset()
    lookup: Lookup | None = search.wanted.lookup
    options, key_field = search.options, f"{search.wanted.path}shard_key"
    if lookup is not None:
        key_field = f"{search.wanted.path}lookup_from.shard_key"
        bare = replace(options, shard_keys=None)
        options = scoped(bare, home, lookup.keys, key_field)
    records = await search.call.api.router.retrieve(
        home, list(named), with_payload=False, with_vector=True, options=options
    )
    vectors: dict[PointId, Vector] = {}
    for record in records:
        if record.id in vectors:
            count = sum(each.id == record.id for each in records)
            raise ambiguous(record.id, count, key_field)
        assert record.vector is not None, "vectors were asked for"
        vectors[record.id] = record.vector
    for point, field in named.items():
        if point not in vectors:
            raise NotFound(f"no point with id {point}", field=field)
    return vectors, frozenset((record.id, record.shard_key) for record in records)


async def _nearest_but(search: Search, vector: Vector, avoided: frozenset[Identity]) -> Found:
    """Return the page of what is nearest to a vector, without some points."""
    wanted = search.wanted
    end = wanted.offset + wanted.limit
    diversity = wanted.diversity
    if wanted.offset and diversity is None:
        return await _page_but(search, vector, avoided)
    width = end if diversity is None else max(end, diversity.candidates or end)
    with_vector = wanted.with_vector or diversity is not None
    more = msgspec.structs.replace(
        wanted, limit=width + len(avoided), offset=0, with_vector=with_vector
    )
    (answer,) = await search.near(more, [vector])
    others = _without(answer.hits, avoided)[:width]
    if diversity is not None:
        others = await _diverse(search, others, vector, diversity, end)
    return others[wanted.offset : end], answer


async def _page_but(search: Search, vector: Vector, avoided: frozenset[Identity]) -> Found:
    """Return a page behind an offset; what stands before it is looked at without its rows."""
    wanted = search.wanted
    end = wanted.offset + wanted.limit
    bare = msgspec.structs.replace(
        wanted, limit=end + len(avoided), offset=0, selection=NONE, with_vector=False
    )
    (answer,) = await search.near(bare, [vector])
    places = [at for at, hit in enumerate(answer.hits) if not _is_one_of(hit, avoided)]
    places = places[wanted.offset : end]
    if not places or not (wanted.selection.wanted or wanted.with_vector):
        return [answer.hits[at] for at in places], answer
    more = msgspec.structs.replace(wanted, offset=places[0], limit=places[-1] + 1 - places[0])
    (answer,) = await search.near(more, [vector])
    return _without(answer.hits, avoided)[: wanted.limit], answer


async def _diverse(
    search: Search, hits: list[Hit], vector: Vector, diversity: Diversity, limit: int
) -> list[Hit]:
    if not hits:
        return hits
    distance = search.collection.distance
    (query,) = unit(vector[np.newaxis], distance)

    def chosen() -> list[int]:
        return diverse(_rows(hits), query, distance, limit=limit, diversity=diversity.share)

    return [hits[at] for at in await asyncio.to_thread(chosen)]


async def _best(search: Search, examples: _Examples) -> Found:
    """Return the page of the best scores; see `cluster.recommendation`."""
    wanted = search.wanted
    end = wanted.offset + wanted.limit
    width = end + len(examples.avoided)
    width_max = max(width, search.call.api.config.limit_max // len(examples.positive))
    while True:
        more = msgspec.structs.replace(
            wanted, limit=width, offset=0, threshold=None, with_vector=True
        )
        answers = await search.near(more, list(examples.positive))
        scored = await asyncio.to_thread(_scored, search, examples, answers)
        distance = search.collection.distance
        lasts = [
            similarity_of(answer.hits[-1].score, distance) if len(answer.hits) == width else -np.inf
            for answer in answers
        ]
        settled = len(scored) >= end and scored[end - 1].score >= score_bound(lasts)
        if settled or max(lasts) == -np.inf or width == width_max:
            break
        width = min(width * _WIDEN, width_max)
    threshold = wanted.threshold
    page = scored[wanted.offset : end]
    good = [hit for hit in page if threshold is None or hit.score >= threshold]
    return good, _joined(answers)


def _scored(search: Search, examples: _Examples, answers: Sequence[SearchAnswer]) -> list[Hit]:
    """Return all candidates once, with their scores, best first."""
    newest: dict[Identity, Hit] = {}
    for answer in answers:
        for hit in _without(answer.hits, examples.avoided):
            known = newest.get((hit.id, hit.shard_key))
            if known is None or hit.version > known.version:
                newest[hit.id, hit.shard_key] = hit
    hits = list(newest.values())
    if not hits:
        return hits
    distance = search.collection.distance
    scores = best_scores(_rows(hits), examples.positive, examples.negative, distance)
    order = np.argsort(-scores, kind="stable").tolist()
    return [msgspec.structs.replace(hits[at], score=float(scores[at])) for at in order]


def _without(hits: Sequence[Hit], avoided: frozenset[Identity]) -> list[Hit]:
    return [hit for hit in hits if not _is_one_of(hit, avoided)]


def _is_one_of(hit: Hit, avoided: frozenset[Identity]) -> bool:
    return (hit.id, hit.shard_key) in avoided


def _rows(hits: Sequence[Hit]) -> Matrix:
    vectors = [hit.vector for hit in hits if hit.vector is not None]
    assert len(vectors) == len(hits), "vectors were asked for"
    return np.stack(vectors)


def _joined(answers: Sequence[SearchAnswer]) -> SearchAnswer:
    """Return which shards several answers reflect, all of them."""
    failed = {shard for answer in answers for shard in answer.shards_failed}
    reached = {shard for answer in answers for shard in answer.shards_ok}
    return SearchAnswer([], tuple(sorted(reached - failed)), tuple(sorted(failed)))
