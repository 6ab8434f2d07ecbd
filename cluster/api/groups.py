"""Searches whose results come in groups: points/search/groups and points/query/groups.

Groups are filled by searching for more and more hits. A group that fills up quickly can keep
others from being found in a bounded number of hits; then the search goes on among the points of
no known group, and at last in each group that still lacks some. So `limit` groups of `group_size`
are answered whenever there are as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cluster.api import answers
from cluster.api.envelope import Answer
from cluster.api.group_schema import QueryGroups, SearchGroups, WithLookup
from cluster.api.identity import collection_name, point_id
from cluster.api.payloads import ALL, payload_selection, vector_wanted
from cluster.api.points import render_record
from cluster.api.query import Query, read_query, read_search
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.search import beside_results, find, render_hits
from cluster.config import Config
from cluster.errors import BadRequest, CollectionNotFound, UnsupportedFeature
from cluster.grouping import Grouping, GroupValue
from cluster.model import Collection, Hit, SearchAnswer
from storage.filters import Filter, FilterError, parse_key
from storage.ids import PointId

SIZE_DEFAULT: Final = 3
WIDTH_MAX: Final = 1000
"""Hits come with their payloads, so no more are fetched at a time, unless more are wanted."""
_WIDEN: Final = 4


async def search_groups(call: Call, body: SearchGroups) -> Answer:
    """Return the points nearest to a vector, in groups."""
    return await _grouped(call, body, read_search(body, call.api.config))


async def query_groups(call: Call, body: QueryGroups) -> Answer:
    """Return the points that fit a query best, in groups."""
    wanted = read_query(body, call.api.config)
    if wanted.diversity is not None:
        text = "diversity within groups is not supported"
        raise UnsupportedFeature(text, field="query.mmr")
    return await _grouped(call, body, wanted)


async def _grouped(call: Call, body: SearchGroups | QueryGroups, wanted: Query) -> Answer:
    grouping = _read_grouping(body, wanted, call.api.config)
    collection = await call.collection()
    search = _GroupSearch(call, collection, wanted)
    await search.fill(grouping)
    shown: list[dict[str, Any]] = [
        {"id": value, "hits": render_hits(hits, wanted)} for value, hits in grouping.groups.items()
    ]
    if given(body.with_lookup, None) is not None:
        records = await _looked_up(call, body, list(grouping.groups))
        for group in shown:
            group["lookup"] = records.get(group["id"])
    beside = beside_results(call, collection, [wanted], search.answers)
    return Answer({"groups": shown}, beside=beside)


class _GroupSearch:
    """The searches that one request makes."""

    def __init__(self, call: Call, collection: Collection, wanted: Query) -> None:
        self._call = call
        self._collection = collection
        self._wanted = msgspec.structs.replace(wanted, selection=ALL)  # for the groups' key
        self._width_max = min(WIDTH_MAX, call.api.config.limit_max)
        self.answers: list[SearchAnswer | None] = []

    async def fill(self, grouping: Grouping) -> None:
        """Find all that is wanted, or all there is."""
        width = grouping.wanted
        width_max = max(width, self._width_max)
        while True:
            hits = await self._hits(width, None)
            grouping.take_all(hits)
            if grouping.is_full or len(hits) < width:
                return
            if width == width_max:
                break
            width = min(width * _WIDEN, width_max)
        width = grouping.wanted
        while not grouping.has_all:
            known = len(grouping.groups)
            hits = await self._hits(width, grouping.outside())
            grouping.take_new(hits)
            if len(grouping.groups) > known:
                continue
            if len(hits) < width or width == width_max:
                break
            width = min(width * _WIDEN, width_max)  # these have values that make no groups
        for value in grouping.unfilled():
            grouping.fill(value, await self._hits(grouping.size, grouping.within(value)))

    async def _hits(self, limit: int, where: Filter | None) -> list[Hit]:
        parts = tuple(part for part in (self._wanted.where, where) if part is not None)
        both = parts[0] if len(parts) == 1 else Filter(must=parts) if parts else None
        wanted = msgspec.structs.replace(self._wanted, limit=limit, where=both)
        hits, answer = await find(self._call, self._collection, wanted)
        self.answers.append(answer)
        return hits


def _read_grouping(body: SearchGroups | QueryGroups, wanted: Query, config: Config) -> Grouping:
    size = given(body.group_size, SIZE_DEFAULT)
    if wanted.limit * size > config.limit_max:
        text = f"more than {config.limit_max} results: groups times hits of each"
        raise BadRequest(text, field="group_size")
    try:
        key = parse_key(body.group_by, "group_by")
    except FilterError as error:
        raise BadRequest(error.message, field=error.field) from None
    return Grouping(key, limit=wanted.limit, size=size)


async def _looked_up(
    call: Call, body: SearchGroups | QueryGroups, values: Sequence[GroupValue]
) -> dict[GroupValue, dict[str, Any]]:
    """Return the points whose ids are groups' values, as they are answered."""
    lookup = body.with_lookup
    if isinstance(lookup, str):
        lookup = WithLookup(lookup)
    assert isinstance(lookup, WithLookup), "a lookup is wanted"
    field = "with_lookup.collection"
    selection = payload_selection(lookup.with_payload, ALL, "with_lookup.with_payload")
    with_vector = vector_wanted(lookup.with_vectors, "with_lookup.with_vectors")
    name = collection_name(lookup.collection, field)
    try:
        collection = await call.api.router.collection(name, call.options)
    except CollectionNotFound as error:
        raise CollectionNotFound(error.message, field=field) from None
    ids = _ids(values)
    records = await call.api.router.retrieve(
        collection,
        list(ids),
        with_payload=selection.wanted,
        with_vector=with_vector,
        options=call.options,
    )
    # Under several keys an id is several points; the first stands for them.
    return {
        ids[record.id]: render_record(record, selection, with_vector=with_vector)
        for record in reversed(records)
    }


def _ids(values: Sequence[GroupValue]) -> dict[PointId, GroupValue]:
    """Return the values that can be ids, by id."""
    found: dict[PointId, GroupValue] = {}
    for value in values:
        try:
            found[point_id(value, "")] = value
        except BadRequest:
            continue
    return found


_POINTS: Final = "/collections/{collection_name}/points"

ROUTES: Final = (
    Route(
        "POST",
        f"{_POINTS}/search/groups",
        search_groups,
        "Find the points nearest to a vector, in groups",
        body=SearchGroups,
        answer=answers.GroupsShape,
        searches=True,
        filters=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_POINTS}/query/groups",
        query_groups,
        "Find the points that fit a query best, in groups",
        body=QueryGroups,
        answer=answers.GroupsShape,
        searches=True,
        filters=True,
        errors=(404,),
    ),
)
