"""Which points a request means: a filter, or a list of ids, and never both."""

from __future__ import annotations

from typing import Any

from msgspec import UnsetType

from cluster.api.identity import point_ids
from cluster.api.point_schema import SelectPoints
from cluster.errors import BadRequest, UnsupportedFeature
from storage.filters import Filter, FilterError, parse_filter
from storage.ids import PointId


def read_filter(raw: dict[str, Any] | UnsetType | None, field: str = "filter") -> Filter | None:
    """Return the parsed filter, or None when there is none.

    Raises:
        BadRequest: malformed, naming the condition.
        UnsupportedFeature: a condition that is known but not served.
    """
    if not isinstance(raw, dict):
        return None
    try:
        return parse_filter(raw, field)
    except FilterError as error:
        kind = UnsupportedFeature if error.unsupported else BadRequest
        raise kind(error.message, field=error.field) from None


def read_selector(body: SelectPoints, ids_max: int) -> list[PointId] | Filter:
    """Return the ids or the filter that select points.

    Raises:
        BadRequest: neither or both, no ids, too many ids, or a malformed one.
    """
    chosen = read_filter(body.filter)
    if not isinstance(body.points, list):
        if chosen is None:
            raise BadRequest("give either points or filter", field="points")
        return chosen
    if chosen is not None:
        raise BadRequest("give either points or filter, not both", field="filter")
    if len(body.points) > ids_max:
        raise BadRequest(f"more than {ids_max} points", field="points")
    return point_ids(body.points, "points")
