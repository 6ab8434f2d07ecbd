"""What a query asks for: nearest to a vector, nearest to a stored point, or just the points.

Pure reading of the `query` field and its companions; nothing here talks to the router.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET, UnsetType

from cluster.api.identity import point_id
from cluster.api.payloads import NONE, PayloadSelection, payload_selection, vector_wanted
from cluster.api.points import check_limit
from cluster.api.schema import given
from cluster.api.search_schema import QueryPoints, SearchParams, SearchPoints
from cluster.api.selection import read_filter
from cluster.api.sharding import Keys, read_keys
from cluster.config import Config
from cluster.errors import BadRequest, UnsupportedFeature
from storage.ids import PointId

LIMIT_DEFAULT: Final = 10
EF_MAX: Final = 10_000
"""A broader graph search is a scan; wider requests are served at this breadth."""

UNSUPPORTED_QUERIES: Final = frozenset(
    {
        "recommend",
        "discover",
        "context",
        "order_by",
        "fusion",
        "rrf",
        "formula",
        "sample",
        "relevance_feedback",
        "indices",
        "values",
        "text",
        "image",
        "object",
        "model",
    }
)

Target = list[float] | PointId | None


@dataclass(frozen=True, slots=True)
class Query:
    """A validated query; `target` is a vector of numbers, a point's id, or None for any point."""

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


def read_query(body: QueryPoints, config: Config, path: str = "") -> Query:
    """Read a body of `.../points/query`; fields are named below `path`.

    Raises:
        BadRequest: malformed; UnsupportedFeature: a kind of query that is not served.
    """
    target, field = _read_target(body.query, f"{path}query")
    return _read(body, target, field, config, path)


def read_search(body: SearchPoints, config: Config, path: str = "") -> Query:
    """Read a body of `.../points/search`; fields are named below `path`."""
    if not isinstance(body.vector, list):
        raise UnsupportedFeature("named vectors are not supported", field=f"{path}vector")
    return _read(body, body.vector, f"{path}vector", config, path)


def _read(
    body: QueryPoints | SearchPoints, target: Target, field: str, config: Config, path: str
) -> Query:
    params = body.params
    exact, ef = False, None
    if isinstance(params, SearchParams):
        exact = given(params.exact, False)  # noqa: FBT003
        ef = given(params.hnsw_ef, None)
    return Query(
        target=target,
        field=field,
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


def _read_target(
    query: list[float] | int | str | dict[str, Any] | UnsetType | None, field: str
) -> tuple[Target, str]:
    if query is None or query is UNSET:
        return None, field
    if isinstance(query, list):
        return query, field
    if isinstance(query, dict):
        return _read_nearest(query, field)
    return point_id(query, field), field


def _read_nearest(query: dict[str, Any], field: str) -> tuple[Target, str]:
    for name, value in query.items():
        if name in UNSUPPORTED_QUERIES or (name == "mmr" and value is not None):
            raise UnsupportedFeature(f"'{name}' is not supported", field=f"{field}.{name}")
        if name not in {"nearest", "mmr"}:
            raise BadRequest(f"unknown field '{name[:200]}'", field=f"{field}.{name}")
    nearest = query.get("nearest")
    field = f"{field}.nearest"
    if isinstance(nearest, list):
        return _numbers(nearest, field), field
    if isinstance(nearest, dict):
        raise UnsupportedFeature("only dense vectors and point ids are supported", field=field)
    if type(nearest) is int or isinstance(nearest, str):
        return point_id(nearest, field), field
    raise BadRequest("nearest is a vector or a point id", field=field)


def _numbers(values: list[Any], field: str) -> list[float]:
    for at, value in enumerate(values):
        if type(value) is list:
            raise UnsupportedFeature("multivectors are not supported", field=field)
        if type(value) is not float and type(value) is not int:
            raise BadRequest("expected a number", field=f"{field}[{at}]")
    return values
