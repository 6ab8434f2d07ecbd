"""Whether a point passes a filter: the definition, in Python, of what `filter_sql` says in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, assert_never

from storage.filter_nodes import (
    EVERY,
    INTEGER_MAX,
    INTEGER_MIN,
    Bounds,
    Condition,
    Filter,
    HasId,
    HasKey,
    HasKeyedId,
    IsEmpty,
    IsNull,
    Key,
    MatchAny,
    MatchExcept,
    MatchText,
    MatchValue,
    NumberRange,
    TimeRange,
    ValueEmpty,
    ValueNull,
    ValuesCount,
)
from storage.filter_time import read_time
from storage.ids import PointId, ShardKey, encode_id, id_part, key_bytes, key_part, keyed_id


def matches(
    f: Filter, point_id: PointId, payload: Mapping[str, Any], shard_key: ShardKey | None = None
) -> bool:
    """Return whether a point with this id, key and JSON payload passes the filter."""
    point = encode_id(point_id)
    if shard_key is not None:
        point = keyed_id(point, key_bytes(shard_key))
    return _passes(f, point, payload)


def elements_at(payload: Mapping[str, Any], key: Key) -> list[Any]:
    """Return the values that a payload has under a key, those of a list one by one."""
    return list(_elements(values_at(payload, key)))


def _passes(f: Filter, point: bytes, payload: Mapping[str, Any]) -> bool:
    def holds(condition: Condition) -> bool:
        if isinstance(condition, Filter):
            return _passes(condition, point, payload)
        if isinstance(condition, HasId):
            return point in condition.ids
        if isinstance(condition, HasKeyedId):
            return id_part(point) in condition.ids
        if isinstance(condition, HasKey):
            return key_part(point) in condition.keys
        return _holds(condition, list(values_at(payload, condition.key)))

    few = f.min_should
    return (
        all(map(holds, f.must))
        and not any(map(holds, f.must_not))
        and (not f.should or any(map(holds, f.should)))
        and (few is None or sum(map(holds, few.conditions)) >= few.min_count)
    )


_Test = (
    MatchValue
    | MatchAny
    | MatchExcept
    | MatchText
    | NumberRange
    | TimeRange
    | ValuesCount
    | IsEmpty
    | IsNull
    | ValueEmpty
    | ValueNull
)
_ElementTest = MatchValue | MatchAny | MatchExcept | MatchText | NumberRange | TimeRange


def _holds(condition: _Test, values: list[Any]) -> bool:
    match condition:
        case IsEmpty():
            return not any(map(_count, values))
        case IsNull():
            return None in values
        case ValueEmpty(expected=expected):
            empty = [not _count(value) for value in values] or [True]
            return expected in empty
        case ValueNull(expected=expected):
            null = [None in _elements([value]) for value in values] or [False]
            return expected in null
        case ValuesCount(bounds=bounds):
            return any(_within(bounds, _count(value)) for value in values)
        case _:
            return any(map(_element_test(condition), _elements(values)))


def _element_test(condition: _ElementTest) -> Callable[[Any], bool]:
    match condition:
        case MatchValue(value=value):
            return partial(_listed, (value,))
        case MatchAny(values=values):
            return partial(_listed, values)
        case MatchExcept(values=values):
            return lambda each: each is not None and not _listed(values, each)
        case MatchText(texts=texts):
            return lambda each: isinstance(each, str) and any(text in each for text in texts)
        case NumberRange(bounds=bounds):
            return partial(_number_within, bounds)
        case TimeRange(bounds=bounds):
            return partial(_time_within, bounds)
        case _:
            assert_never(condition)


def values_at(value: Any, key: Key) -> Iterator[Any]:
    """Yield the values that a key leads to from a value."""
    if not key:
        yield value
        return
    step, rest = key[0], key[1:]
    if isinstance(step, str):
        if isinstance(value, Mapping) and step in value:
            yield from values_at(value[step], rest)
    elif isinstance(value, list):
        for each in value if step is EVERY else value[step : step + 1]:
            yield from values_at(each, rest)


def _elements(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _count(value: Any) -> int:
    if value is None:
        return 0
    return len(value) if isinstance(value, list) else 1


def _listed(wanted: tuple[bool | int | str, ...], value: Any) -> bool:
    return any(type(each) is type(value) and each == value for each in wanted)


def _number_within(bounds: Bounds, value: Any) -> bool:
    if type(value) is int and not INTEGER_MIN <= value <= INTEGER_MAX:
        value = float(value)
    return type(value) in (int, float) and _within(bounds, value)


def _time_within(bounds: Bounds, value: Any) -> bool:
    moment = read_time(value) if isinstance(value, str) else None
    return moment is not None and _within(bounds, moment)


def _within(bounds: Bounds, value: float) -> bool:
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )
