"""What a query is about: a vector, a stored point, examples, or nothing.

Pure reading of the `query` field; what it means is done by `targets`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from msgspec import UNSET, UnsetType

from cluster.api.identity import point_id
from cluster.api.search_schema import CANDIDATES_MAX, EXAMPLES_MAX
from cluster.api.sharding import Keys
from cluster.errors import BadRequest, UnsupportedFeature
from storage.ids import PointId

UNSUPPORTED_QUERIES: Final = frozenset(
    {
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
_DIVERSITY_DEFAULT: Final = 0.5

Strategy = Literal["average_vector", "best_score"]
Sent = list[float] | int | str | dict[str, Any] | UnsetType | None


class Example(NamedTuple):
    """A vector as it came, or the id of a stored point; `field` names it in a refusal."""

    value: list[float] | PointId
    field: str


class Recommendation(NamedTuple):
    """What results are to resemble, and what not."""

    positive: tuple[Example, ...]
    negative: tuple[Example, ...]
    strategy: Strategy


class Diversity(NamedTuple):
    """How much results are to differ, 0..1, and among how many they are chosen."""

    share: float
    candidates: int | None


class Lookup(NamedTuple):
    """Another collection, in which ids are looked up, under these keys."""

    collection: str
    keys: Keys | None


Target = list[float] | PointId | Recommendation | None


class Asked(NamedTuple):
    """A target, where it stands, and how diverse results are to be."""

    target: Target
    field: str
    diversity: Diversity | None = None


def read_target(query: Sent, field: str) -> Asked:
    """Read `query`.

    Raises:
        BadRequest: malformed; UnsupportedFeature: a kind of query that is not served.
    """
    if query is None or query is UNSET:
        return Asked(None, field)
    if isinstance(query, dict):
        return _read_object(query, field)
    return Asked(query if isinstance(query, list) else point_id(query, field), field)


def read_recommendation(positive: Any, negative: Any, strategy: Any, field: str) -> Recommendation:
    """Read examples and strategy; fields are named below `field`, which ends in a dot or is empty.

    Raises:
        BadRequest: malformed, too many, or no positive example.
        UnsupportedFeature: a strategy that is not served.
    """
    chosen = _strategy(strategy, f"{field}strategy")
    liked = _examples(positive, f"{field}positive")
    disliked = _examples(negative, f"{field}negative")
    if not liked:
        raise BadRequest("a positive example is needed", field=f"{field}positive")
    if len(liked) + len(disliked) > EXAMPLES_MAX:
        raise BadRequest(f"more than {EXAMPLES_MAX} examples", field=f"{field}positive")
    return Recommendation(liked, disliked, chosen)


def _strategy(raw: Any, field: str) -> Strategy:
    if raw is None or raw is UNSET or raw == "average_vector":
        return "average_vector"
    if raw == "best_score":
        return "best_score"
    if raw == "sum_scores":
        raise UnsupportedFeature("'sum_scores' is not supported", field=field)
    raise BadRequest("strategy is average_vector or best_score", field=field)


def _read_object(query: dict[str, Any], field: str) -> Asked:
    for name in query:
        if name in UNSUPPORTED_QUERIES:
            raise UnsupportedFeature(f"'{name}' is not supported", field=f"{field}.{name}")
        if name not in {"nearest", "mmr", "recommend"}:
            raise BadRequest(f"unknown field '{name[:200]}'", field=f"{field}.{name}")
    if query.get("recommend") is None:
        return _read_nearest(query, field)
    place = f"{field}.recommend"
    if len(query) > 1:
        raise BadRequest("recommend stands alone", field=place)
    examples = _members(query["recommend"], place, {"positive", "negative", "strategy"})
    positive, negative = examples.get("positive"), examples.get("negative")
    found = read_recommendation(positive, negative, examples.get("strategy"), f"{place}.")
    return Asked(found, place)


def _read_nearest(query: dict[str, Any], field: str) -> Asked:
    place = f"{field}.nearest"
    value = _vector_or_id(query.get("nearest"), place)
    diversity = query.get("mmr")
    if diversity is None:
        return Asked(value, place)
    return Asked(value, place, _read_diversity(diversity, f"{field}.mmr"))


def _read_diversity(raw: Any, field: str) -> Diversity:
    members = _members(raw, field, {"diversity", "candidates_limit"})
    share, candidates = members.get("diversity"), members.get("candidates_limit")
    if share is None:
        share = _DIVERSITY_DEFAULT
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise BadRequest("diversity is a number from 0 to 1", field=f"{field}.diversity")
    if candidates is not None and not (
        type(candidates) is int and 1 <= candidates <= CANDIDATES_MAX
    ):
        text = f"candidates_limit is an integer from 1 to {CANDIDATES_MAX}"
        raise BadRequest(text, field=f"{field}.candidates_limit")
    return Diversity(float(share), candidates)


def _members(raw: Any, field: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise BadRequest("expected an object", field=field)
    for name in raw:
        if name not in known:
            raise BadRequest(f"unknown field '{name[:200]}'", field=f"{field}.{name}")
    return raw


def _examples(raw: Any, field: str) -> tuple[Example, ...]:
    if raw is None or raw is UNSET:
        return ()
    if not isinstance(raw, list):
        raise BadRequest("expected an array of vectors and point ids", field=field)
    if len(raw) > EXAMPLES_MAX:
        raise BadRequest(f"more than {EXAMPLES_MAX} examples", field=field)
    places = (f"{field}[{at}]" for at in range(len(raw)))
    return tuple(
        Example(_vector_or_id(each, place), place) for each, place in zip(raw, places, strict=True)
    )


def _vector_or_id(value: Any, field: str) -> list[float] | PointId:
    if isinstance(value, list):
        return _numbers(value, field)
    if isinstance(value, dict):
        raise UnsupportedFeature("only dense vectors and point ids are supported", field=field)
    if type(value) is int or isinstance(value, str):
        return point_id(value, field)
    raise BadRequest(f"{field.rpartition('.')[2]} is a vector or a point id", field=field)


def _numbers(values: list[Any], field: str) -> list[float]:
    for at, value in enumerate(values):
        if type(value) is list:
            raise UnsupportedFeature("multivectors are not supported", field=field)
        if type(value) is not float and type(value) is not int:
            raise BadRequest("expected a number", field=f"{field}[{at}]")
    return values
