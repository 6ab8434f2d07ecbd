"""What a search asks for, in all its shapes: its target, how many results, and what of each.

Pure reading; nothing here talks to the router.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType

from cluster.api.identity import collection_name
from cluster.api.payloads import NONE, PayloadSelection, payload_selection, vector_wanted
from cluster.api.points import check_limit
from cluster.api.query_target import (
    Asked,
    Diversity,
    Lookup,
    Recommendation,
    Target,
    read_recommendation,
    read_target,
)
from cluster.api.schema import given
from cluster.api.search_schema import (
    CANDIDATES_MAX,
    LookupLocation,
    QueryPoints,
    RecommendPoints,
    SearchParams,
    SearchPoints,
)
from cluster.api.selection import read_filter
from cluster.api.sharding import Keys, read_keys
from cluster.config import Config
from cluster.errors import BadRequest, UnsupportedFeature

LIMIT_DEFAULT: Final = 10
EF_MAX: Final = 10_000
"""A broader graph search is a scan; wider requests are served at this breadth."""


class Query(Struct, frozen=True):
    """A validated query; `target` is what it is about, None for any point."""

    target: Target
    field: str
    """Path of the target, to name it in a refusal."""
    limit: int
    offset: int
    where: Any
    exact: bool
    ef: int | None
    threshold: float | None
    selection: PayloadSelection
    with_vector: bool
    keys: Keys | None = None
    path: str = ""
    """Where the query stands, to name its fields."""
    diversity: Diversity | None = None
    lookup: Lookup | None = None


def read_query(body: QueryPoints, config: Config, path: str = "") -> Query:
    """Read a body of `.../points/query`; fields are named below `path`.

    Raises:
        BadRequest: malformed; UnsupportedFeature: a kind of query that is not served.
    """
    return _read(body, read_target(body.query, f"{path}query"), config, path)


def read_search(body: SearchPoints, config: Config, path: str = "") -> Query:
    """Read a body of `.../points/search`; fields are named below `path`."""
    if not isinstance(body.vector, list):
        raise UnsupportedFeature("named vectors are not supported", field=f"{path}vector")
    return _read(body, Asked(body.vector, f"{path}vector"), config, path)


def read_recommend(body: RecommendPoints, config: Config) -> Query:
    """Read a body of `.../points/recommend`."""
    target = read_recommendation(body.positive, body.negative, body.strategy, "")
    return _read(body, Asked(target, "positive"), config, "")


def _read(
    body: QueryPoints | SearchPoints | RecommendPoints, asked: Asked, config: Config, path: str
) -> Query:
    params = body.params
    exact, ef = False, None
    if isinstance(params, SearchParams):
        exact = given(params.exact, False)  # noqa: FBT003
        ef = given(params.hnsw_ef, None)
    query = Query(
        target=asked.target,
        field=asked.field,
        diversity=asked.diversity,
        lookup=None if isinstance(body, SearchPoints) else _read_lookup(body.lookup_from, path),
        limit=check_limit(given(body.limit, LIMIT_DEFAULT), config, f"{path}limit"),
        offset=given(body.offset, 0),
        where=read_filter(body.filter, f"{path}filter"),
        exact=exact,
        ef=None if ef is None else min(ef, EF_MAX),
        threshold=given(body.score_threshold, None),
        selection=payload_selection(body.with_payload, NONE, f"{path}with_payload"),
        with_vector=vector_wanted(body.with_vector, f"{path}with_vector"),
        keys=read_keys(body.shard_key, f"{path}shard_key"),
        path=path,
    )
    _check_width(query, config)
    return query


def _check_width(query: Query, config: Config) -> None:
    """Refuse what would take more candidates than may be compared.

    Raises:
        BadRequest: naming the limit.
    """
    end, field = query.offset + query.limit, f"{query.path}limit"
    if query.diversity is not None and end > CANDIDATES_MAX:
        text = f"with mmr, offset and limit are at most {CANDIDATES_MAX} together"
        raise BadRequest(text, field=field)
    target = query.target
    if isinstance(target, Recommendation) and target.strategy == "best_score":
        examples = len(target.positive)
        if (end + examples + len(target.negative)) * examples > config.limit_max:
            text = (
                f"best_score compares at most {config.limit_max} results near {examples} examples"
            )
            raise BadRequest(text, field=field)


def _read_lookup(location: LookupLocation | UnsetType | None, path: str) -> Lookup | None:
    if location is None or location is UNSET:
        return None
    name = collection_name(location.collection, f"{path}lookup_from.collection")
    return Lookup(name, read_keys(location.shard_key, f"{path}lookup_from.shard_key"))
