"""Filters over payloads: the parser, the tree, and the predicate.

`matches` is the meaning of a filter, written as plainly as it can be. What runs over stored rows is
the SQL of `storage.filter_sql`, which must agree with it on every payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from storage.datetimes import parse_datetime_ms
from storage.filter_parser import FilterError, parse_filter
from storage.filter_tree import (
    Condition,
    DatetimeRange,
    FieldCondition,
    Filter,
    HasId,
    IsEmpty,
    IsNull,
    Match,
    MatchAny,
    MatchExcept,
    MatchText,
    Range,
    ValueEmpty,
    ValueNull,
    ValuesCount,
)
from storage.ids import PointId, encode_id
from storage.payload_path import values_at

__all__ = ["Filter", "FilterError", "matches", "parse_filter"]


def matches(f: Filter, point_id: PointId, payload: Mapping[str, Any]) -> bool:
    """Return whether a point with this id and payload passes the filter."""

    def holds(condition: Condition) -> bool:
        match condition:
            case Filter():
                return matches(condition, point_id, payload)
            case HasId(ids):
                return encode_id(point_id) in ids
            case _:
                return _field_holds(condition, list(values_at(payload, condition.key)))

    at_least = f.min_should
    return (
        all(map(holds, f.must))
        and (not f.should or any(map(holds, f.should)))
        and not any(map(holds, f.must_not))
        and (at_least is None or sum(map(holds, at_least.conditions)) >= at_least.min_count)
    )


def _field_holds(condition: FieldCondition, values: list[Any]) -> bool:
    match condition:
        case IsEmpty():
            return all(value is None or value == [] for value in values)
        case IsNull():
            return any(value is None for value in values)
        case ValueEmpty():
            found = [value is None or value == [] for value in values]
            return condition.expected in found if found else condition.expected
        case ValueNull():
            found = [value is None or _has_null(value) for value in values]
            return condition.expected in found if found else not condition.expected
        case ValuesCount():
            return any(_within(condition, _count(value)) for value in values)
        case _:
            return any(_element_holds(condition, element) for element in _elements(values))


def _element_holds(
    condition: Match | MatchAny | MatchExcept | MatchText | Range | DatetimeRange, value: Any
) -> bool:
    match condition:
        case Match():
            return _is_same(value, condition.value)
        case MatchAny():
            return any(_is_same(value, wanted) for wanted in condition.values)
        case MatchExcept():
            return value is not None and not any(_is_same(value, each) for each in condition.values)
        case MatchText():
            return isinstance(value, str) and any(text in value for text in condition.texts)
        case Range():
            return type(value) in (int, float) and _within(condition, float(value))
        case DatetimeRange():
            instant = parse_datetime_ms(value) if isinstance(value, str) else None
            return instant is not None and _within(condition, instant)
        case _:
            assert_never(condition)


def _elements(values: list[Any]) -> list[Any]:
    return [
        element for value in values for element in (value if isinstance(value, list) else [value])
    ]


def _has_null(value: Any) -> bool:
    return isinstance(value, list) and any(element is None for element in value)


def _count(value: Any) -> int:
    if value is None:
        return 0
    return len(value) if isinstance(value, list) else 1


def _is_same(value: Any, wanted: str | int | bool) -> bool:  # noqa: FBT001
    return type(value) is type(wanted) and bool(value == wanted)


def _within(bounds: Range | DatetimeRange | ValuesCount, value: float) -> bool:
    return (
        (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
    )
