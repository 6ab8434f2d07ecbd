"""A filter as an SQL condition over `records`, evaluated by SQLite's JSON functions.

The condition is over the columns `id` (canonical bytes) and `payload` (canonical JSON as bytes, so
keys stand unescaped). Its text depends on the filter's shape alone; every path, number and string
is a parameter. Each piece is 0 or 1 and never NULL, so that NOT and counting mean what they say.

A test on a key is a CASE over the JSON type of what the path leads to; an array is opened with
`json_each`, which would open an object as well. A `[]` within the path becomes a `json_each` of
its own, whose `fullkey` is where the rest of the path goes on.

Bounds are given as the shortest text of the number and cast by SQLite: it then reads bound and
payload with the same routine, so that equal numbers are equal although SQLite 3.40 does not round
every decimal correctly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, assert_never

import orjson

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
    Path,
    Range,
    ValueEmpty,
    ValueNull,
    ValuesCount,
)
from storage.sql_datetime import INSTANT_MS, IS_DATETIME
from storage.sql_text import Sql, compose, join, value

_TYPE: Final = "json_type(CAST(payload AS TEXT), {})"
_VALUE: Final = "json_extract(CAST(payload AS TEXT), {})"
_LENGTH: Final = "json_array_length(CAST(payload AS TEXT), {})"
_EACH: Final = "json_each(CAST(payload AS TEXT), {})"
_OPENED: Final = "EXISTS (SELECT 1 FROM json_each(CAST(payload AS TEXT), {}) AS v WHERE {})"
_IN: Final = "{} IN (SELECT value FROM json_each({}))"
_NOT_IN: Final = "{} NOT IN (SELECT value FROM json_each({}))"
_IS_INSTANT: Final = "EXISTS (SELECT 1 FROM (SELECT {} AS t) WHERE {} AND {})"
_TRUE: Final = Sql("1")
_FALSE: Final = Sql("0")
_ID_PLACES_MAX: Final = 20_000
"""Ids that are parameters of their own, so that the index on ids serves; SQLite has 32,766."""

_Test = Callable[[Sql], Sql]
"""A test on a value; a scalar's SQL expression, or the place of a JSON value."""
_Bounded = Range | DatetimeRange | ValuesCount


class SqlFilter(NamedTuple):
    """A condition over the columns `id` and `payload`, and its parameters in order."""

    where: str
    parameters: list[Any]


def to_sql(f: Filter) -> SqlFilter:
    """Return the condition that holds for the rows that `storage.filters.matches` accepts."""
    composed = _Composer().filter(f)
    return SqlFilter(composed.text, list(composed.parameters))


class _Composer:
    def __init__(self) -> None:
        self._id_places_left = _ID_PLACES_MAX

    def filter(self, f: Filter) -> Sql:
        parts = [self._condition(each) for each in f.must]
        if f.should:
            parts.append(_or(self._condition(each) for each in f.should))
        parts += [compose("NOT {}", self._condition(each)) for each in f.must_not]
        if f.min_should is not None:
            counted = [Sql("0"), *map(self._condition, f.min_should.conditions)]
            parts.append(compose("({}) >= {}", join(" + ", counted), value(f.min_should.min_count)))
        return join(" AND ", parts) if parts else Sql("1")

    def _condition(self, condition: Condition) -> Sql:
        match condition:
            case Filter():
                return compose("({})", self.filter(condition))
            case HasId(ids):
                return self._has_id(ids)
            case _:
                return compose("({})", _field(condition))

    def _has_id(self, ids: tuple[bytes, ...]) -> Sql:
        if len(ids) <= self._id_places_left:
            self._id_places_left -= len(ids)
            return compose("(id IN ({}))", join(", ", map(value, ids)) if ids else Sql("NULL"))
        listed = orjson.dumps([each.hex().upper() for each in ids]).decode()
        return compose("(hex(id) IN (SELECT value FROM json_each({})))", value(listed))


def _field(condition: FieldCondition) -> Sql:
    key = condition.key
    match condition:
        case IsEmpty():
            filled = {"null": _always(_FALSE), "array": _of_place(f"{_LENGTH} > 0")}
            return compose("NOT {}", _somewhere(key, _by_type(filled, others=_TRUE)))
        case IsNull():
            return _somewhere(key, _by_type({"null": _always(_TRUE)}, others=_FALSE))
        case ValueEmpty(expected=expected):
            array = _of_place(f"({_LENGTH} = 0) = {int(expected)}")
            return _or_absent(key, _by_expectation(array, expected), absent=expected)
        case ValueNull(expected=expected):
            has_null = compose(_OPENED, Sql("{}"), Sql("v.type = 'null'")).text
            array = _of_place(f"{has_null} = {int(expected)}")
            return _or_absent(key, _by_expectation(array, expected), absent=not expected)
        case ValuesCount():
            arms: dict[str, _Test] = {
                "null": _always(_within(condition, _FALSE)),
                "array": lambda place: _within(condition, compose(_LENGTH, place)),
            }
            return _somewhere(key, _by_type(arms, others=_within(condition, _TRUE)))
        case MatchExcept():
            return _somewhere(key, _by_element(_element_tests(condition), others=_TRUE))
        case _:
            return _somewhere(key, _by_element(_element_tests(condition), others=_FALSE))


def _element_tests(
    condition: Match | MatchAny | MatchExcept | MatchText | Range | DatetimeRange,
) -> dict[str, _Test]:
    """Return the tests of an element's value, for the JSON types that the condition is about."""
    match condition:
        case Match(value=bool(wanted)):
            return {"true" if wanted else "false": _always(_TRUE)}
        case Match(value=wanted):
            return {_type_of(wanted): lambda each: compose("{} = {}", each, value(wanted))}
        case MatchAny(values=wanted):
            return {_type_of(each): _listed(_IN, wanted) for each in wanted[:1]}
        case MatchExcept(values=wanted):
            unlisted = {_type_of(each): _listed(_NOT_IN, wanted) for each in wanted[:1]}
            return {"null": _always(_FALSE)} | unlisted
        case MatchText(texts=texts):
            return {
                "text": lambda each: _or(
                    compose("instr({}, {}) > 0", each, value(text)) for text in texts
                )
            }
        case Range():
            return dict.fromkeys(
                ("integer", "real"),
                lambda each: _within(condition, compose("CAST({} AS REAL)", each)),
            )
        case DatetimeRange():
            within = _within(condition, Sql(INSTANT_MS))
            return {"text": lambda each: compose(_IS_INSTANT, each, Sql(IS_DATETIME), within)}
        case _:
            assert_never(condition)


def _somewhere(path: Path, test: _Test) -> Sql:
    """Return whether a test holds at one of the places that a path leads to."""
    first, *rest = _between_arrays(path)
    place = value(f"${first}")
    if not rest:
        return test(place)
    tables, conditions = [], []
    for depth, steps in enumerate(rest):
        tables.append(compose(f"{_EACH} AS e{depth}", place))
        conditions.append(compose(f"{_TYPE} = 'array'", place))
        place = compose(f"e{depth}.fullkey || {{}}", value(steps))
    conditions.append(test(place))
    return compose(
        "EXISTS (SELECT 1 FROM {} WHERE {})", join(", ", tables), join(" AND ", conditions)
    )


def _by_element(tests: dict[str, _Test], *, others: Sql) -> _Test:
    """Return a test of a place: its value passes, or if it is an array one of its elements."""

    def of_array(place: Sql) -> Sql:
        arms = {name: test(Sql("v.value")) for name, test in tests.items()}
        return compose(_OPENED, place, _case(Sql("v.type"), arms, others))

    def of_scalar(test: _Test) -> _Test:
        return lambda place: test(compose(_VALUE, place))

    arms = {"array": of_array} | {name: of_scalar(test) for name, test in tests.items()}
    return _by_type(arms, others=others)


def _by_expectation(array: _Test, expected: bool) -> _Test:  # noqa: FBT001
    null, others = Sql(str(int(expected))), Sql(str(int(not expected)))
    return _by_type({"null": _always(null), "array": array}, others=others)


def _or_absent(path: Path, test: _Test, *, absent: bool) -> Sql:
    """Return whether a test holds somewhere, or `absent` if the path leads nowhere."""
    holds = _somewhere(path, test)
    if not absent:
        return holds
    present = _somewhere(path, _of_place(f"{_TYPE} IS NOT NULL"))
    return compose("{} OR NOT {}", holds, present)


def _by_type(arms: dict[str, _Test], *, others: Sql) -> _Test:
    """Return a test of a place by its value's JSON type; it fails where there is no value."""

    def test(place: Sql) -> Sql:
        tail = others
        if others != _FALSE:
            tail = compose(f"({_TYPE} IS NOT NULL AND {{}})", place, others)
        return _case(compose(_TYPE, place), {name: arm(place) for name, arm in arms.items()}, tail)

    return test


def _case(subject: Sql, arms: dict[str, Sql], others: Sql) -> Sql:
    if not arms:
        return others
    listed = [compose(f"WHEN '{name}' THEN {{}}", arm) for name, arm in arms.items()]
    return compose("CASE {} {} ELSE {} END", subject, join(" ", listed), others)


def _within(condition: _Bounded, number: Sql) -> Sql:
    def compare(sign: str, bound: float) -> Sql:
        if isinstance(condition, Range):
            return compose(f"{{}} {sign} CAST({{}} AS REAL)", number, value(repr(bound)))
        return compose(f"{{}} {sign} {{}}", number, value(bound))

    bounds = {"<": condition.lt, "<=": condition.lte, ">": condition.gt, ">=": condition.gte}
    parts = [compare(sign, bound) for sign, bound in bounds.items() if bound is not None]
    return compose("({})", join(" AND ", parts)) if parts else _TRUE


def _always(sql: Sql) -> _Test:
    return lambda _: sql


def _of_place(template: str) -> _Test:
    return lambda place: compose(template, place)


def _listed(template: str, wanted: tuple[str | int, ...]) -> _Test:
    listed = value(orjson.dumps(wanted).decode())
    return lambda each: compose(template, each, listed)


def _or(parts: Iterable[Sql]) -> Sql:
    listed = list(parts)
    return compose("({})", join(" OR ", listed)) if listed else _FALSE


def _type_of(wanted: str | int) -> str:
    return "text" if isinstance(wanted, str) else "integer"


def _between_arrays(path: Path) -> list[str]:
    """Return SQLite's JSON paths of the steps before, between and behind the `[]` of a path."""
    parts = [""]
    for step in path:
        if step is None:
            parts.append("")
        else:
            parts[-1] += f'."{step}"' if isinstance(step, str) else f"[{step}]"
    return parts
