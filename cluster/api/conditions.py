"""Compare-and-set: what a request demands of a record's version, and telling when it is not so."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UnsetType

from cluster.api.schema import given
from cluster.errors import BadRequest, VersionConflict
from cluster.model import Point
from storage.filters import Filter
from storage.ids import PointId

Given = int | UnsetType | None


def read_condition(
    if_version: Given,
    if_absent: bool | UnsetType | None,  # noqa: FBT001
    field: str,
) -> int | None:
    """Return a condition as `cluster.model.Point` has it; raises BadRequest for two at once."""
    version = given(if_version, None)
    if if_absent is not True:
        return version
    if version is not None:
        raise BadRequest("a point cannot be absent and have a version", field=field)
    return 0


def read_sole_condition(if_version: Given, selector: Sequence[PointId] | Filter) -> int | None:
    """Return the condition of a deletion; raises BadRequest unless it is about one id."""
    version = given(if_version, None)
    if version is not None and (not isinstance(selector, Sequence) or len(selector) != 1):
        raise BadRequest("a condition goes with exactly one id", field="if_version")
    return version


def placed(conflict: VersionConflict, points: Sequence[Point]) -> VersionConflict:
    """Name the point whose condition did not hold; an id with a condition comes once."""
    place = next(at for at, point in enumerate(points) if point.id == conflict.point)
    conflict.field = f"points[{place}]"
    return conflict
