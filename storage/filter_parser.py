"""Reads a filter as it comes in a request, and names what is wrong with it.

The accepted language is Qdrant's. What Qdrant has and this does not (geo, nested objects, named
vectors) is refused as unsupported, what neither knows as unknown; both by the path of the field.
A key whose value is null counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from storage.datetimes import parse_datetime_ms
from storage.filter_tree import (
    Condition,
    DatetimeRange,
    Filter,
    HasId,
    IsEmpty,
    IsNull,
    Match,
    MatchAny,
    MatchExcept,
    MatchText,
    MinShould,
    Path,
    Range,
    ValueEmpty,
    ValueNull,
    ValuesCount,
)
from storage.ids import encode_id
from storage.payload_path import parse_path

DEPTH_MAX: Final = 16
CONDITIONS_MAX: Final = 256
LIST_MAX: Final = 10_000

_INT64: Final = range(-(2**63), 2**63)
_COUNT_MAX: Final = 2**31
_BOUNDS: Final = ("lt", "lte", "gt", "gte")
_CLAUSES: Final = ("must", "should", "must_not", "min_should")
_TESTS: Final = ("match", "range", "values_count", "is_empty", "is_null")
_UNSUPPORTED: Final = frozenset(
    ("geo_bounding_box", "geo_radius", "geo_polygon", "nested", "has_vector")
)
_NAMES: Final = frozenset((*_CLAUSES, *_TESTS, *_UNSUPPORTED, "key", "has_id"))
_MATCHES: Final = ("value", "any", "except", "text", "text_any", "phrase")


class FilterError(ValueError):
    """A filter that cannot be served; `field` is the path of the culprit."""

    def __init__(self, field: str, message: str, *, unsupported: bool = False) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.unsupported = unsupported


def parse_filter(raw: object, path: str = "filter") -> Filter:
    """Return the tree of a filter that was decoded from JSON.

    Raises:
        FilterError: malformed, too large (depth 16, 256 conditions, lists of 10,000), or with a
            feature that is not served.
    """
    return _Parser().filter(raw, path, 1)


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, raw: object, path: str, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise FilterError(path, f"nested deeper than {DEPTH_MAX}")
        given = _fields(raw, path, _CLAUSES)
        must, should, must_not = (
            tuple(self._clause(given.get(name), f"{path}.{name}", depth))
            for name in ("must", "should", "must_not")
        )
        min_should = given.get("min_should")
        if min_should is None:
            return Filter(must, should, must_not)
        at_least = self._min_should(min_should, f"{path}.min_should", depth)
        return Filter(must, should, must_not, at_least)

    def _clause(self, raw: object, path: str, depth: int) -> Iterator[Condition]:
        if raw is None:
            return
        if not isinstance(raw, list):
            yield self._condition(raw, path, depth)
            return
        for position, condition in enumerate(raw):
            yield self._condition(condition, f"{path}[{position}]", depth)

    def _min_should(self, raw: object, path: str, depth: int) -> MinShould:
        given = _fields(raw, path, ("conditions", "min_count"))
        for name in ("conditions", "min_count"):
            if name not in given:
                raise FilterError(f"{path}.{name}", "is required")
        conditions = tuple(self._clause(given["conditions"], f"{path}.conditions", depth))
        return MinShould(conditions, _count(given["min_count"], f"{path}.min_count"))

    def _condition(self, raw: object, path: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise FilterError(path, f"more than {CONDITIONS_MAX} conditions")
        if not isinstance(raw, dict):
            raise FilterError(path, "a condition is an object")
        if raw.get("key") is not None:
            return _field_condition(raw, path)
        if raw.get("has_id") is not None:
            return _has_id(_fields(raw, path, ("has_id",))["has_id"], f"{path}.has_id")
        for name, kind in (("is_empty", IsEmpty), ("is_null", IsNull)):
            if raw.get(name) is not None:
                target = _fields(raw, path, (name,))[name]
                key = _fields(target, f"{path}.{name}", ("key",)).get("key")
                return kind(_path(key, f"{path}.{name}.key"))
        if any(raw.get(name) is not None for name in _TESTS):
            raise FilterError(f"{path}.key", "is required")
        if not raw:
            raise FilterError(path, "a condition has a key, has_id, is_empty, is_null or a clause")
        return self.filter(raw, path, depth + 1)


def _field_condition(raw: dict[str, Any], path: str) -> Condition:
    given = _fields(raw, path, ("key", *_TESTS))
    key = _path(given.pop("key"), f"{path}.key")
    if len(given) != 1:
        names = ", ".join(_TESTS)
        raise FilterError(path, f"a condition on a key has exactly one of {names}")
    ((name, test),) = given.items()
    path = f"{path}.{name}"
    match name:
        case "match":
            return _match(key, test, path)
        case "range":
            return _range(key, test, path)
        case "values_count":
            bounds = _fields(test, path, _BOUNDS)
            return ValuesCount(
                key, **{bound: _count(value, f"{path}.{bound}") for bound, value in bounds.items()}
            )
        case _:
            if not isinstance(test, bool):
                raise FilterError(path, "is a boolean")
            return ValueEmpty(key, test) if name == "is_empty" else ValueNull(key, test)


def _match(key: Path, raw: object, path: str) -> Condition:
    given = _fields(raw, path, _MATCHES)
    if len(given) != 1:
        raise FilterError(path, f"has exactly one of {', '.join(_MATCHES)}")
    ((name, value),) = given.items()
    path = f"{path}.{name}"
    match name:
        case "value":
            return Match(key, _scalar(value, path))
        case "any":
            return MatchAny(key, _scalars(value, path))
        case "except":
            return MatchExcept(key, _scalars(value, path))
        case "text_any":
            return MatchText(key, tuple(_text(value, path).split()))
        case _:
            return MatchText(key, (_text(value, path),))


def _range(key: Path, raw: object, path: str) -> Condition:
    bounds = _fields(raw, path, _BOUNDS)
    if any(isinstance(value, str) for value in bounds.values()):
        return DatetimeRange(
            key, **{name: _instant(value, f"{path}.{name}") for name, value in bounds.items()}
        )
    return Range(key, **{name: _number(value, f"{path}.{name}") for name, value in bounds.items()})


def _has_id(raw: object, path: str) -> HasId:
    ids = []
    for position, point_id in enumerate(_list(raw, path)):
        try:
            ids.append(encode_id(point_id))
        except ValueError as error:
            raise FilterError(f"{path}[{position}]", str(error)) from None
    return HasId(tuple(ids))


def _fields(raw: object, path: str, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of an object that are not null, all of them known."""
    if not isinstance(raw, dict):
        raise FilterError(path, "is an object")
    for name, value in raw.items():
        if name in known or (value is None and name in _NAMES):
            continue
        if name in _UNSUPPORTED:
            raise FilterError(f"{path}.{name}", "is not supported", unsupported=True)
        raise FilterError(f"{path}.{name}", "unknown field")
    return {name: value for name, value in raw.items() if value is not None}


def _list(raw: object, path: str) -> list[Any]:
    if not isinstance(raw, list):
        raise FilterError(path, "is a list")
    if len(raw) > LIST_MAX:
        raise FilterError(path, f"has more than {LIST_MAX} elements")
    return raw


def _path(raw: object, path: str) -> Path:
    steps = parse_path(_text(raw, path))
    if steps is None:
        raise FilterError(path, "is not a payload path")
    return steps


def _text(raw: object, path: str) -> str:
    if not isinstance(raw, str):
        raise FilterError(path, "is a string")
    try:
        if b"\0" not in raw.encode():
            return raw
    except UnicodeEncodeError:
        pass
    raise FilterError(path, "holds U+0000 or a lone surrogate")


def _scalar(raw: object, path: str) -> str | int | bool:
    if isinstance(raw, str):
        return _text(raw, path)
    if isinstance(raw, int) and raw in _INT64:
        return raw
    raise FilterError(path, "is a string, a 64-bit integer or a boolean")


def _scalars(raw: object, path: str) -> tuple[str | int, ...]:
    values = tuple(
        _scalar(value, f"{path}[{position}]") for position, value in enumerate(_list(raw, path))
    )
    kinds = {type(value) for value in values}
    if len(kinds) > 1 or bool in kinds:
        raise FilterError(path, "is a list of strings or a list of integers")
    return values


def _number(raw: object, path: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise FilterError(path, "is a number, or all bounds are datetimes")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FilterError(path, "is a finite number")
    return number


def _instant(raw: object, path: str) -> int:
    instant = parse_datetime_ms(_text(raw, path))
    if instant is None:
        raise FilterError(path, "is not an RFC 3339 datetime")
    return instant


def _count(raw: object, path: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 0:
        raise FilterError(path, "is an integer of at least 0")
    return min(raw, _COUNT_MAX)
