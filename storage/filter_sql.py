"""A filter as an SQL condition over the columns `id` and `payload` of `records`.

Invariants:
* The text is made of this file's own words; whatever came from a user, keys included, is a
  parameter. Long lists are one parameter each, so their number keeps below SQLite's limit.
* A condition is 0 or 1 and never NULL, for NOT and + would carry a NULL on.
* It holds exactly where `filter_match.matches` does. Payloads are canonical JSON, which matters
  to names: SQLite compares a path with a name as it is written, escapes and all. A name that JSON
  escapes is therefore looked up among the members instead of by a path.
* `json_each` reads text as JSON, so a stored text that looks like JSON must not come near it:
  each step asks for the type first.
* Deep conditions come first, so that SQLite's parser, whose stack has 100 places, has finished
  them before it holds anything of their neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from storage.filter_time import TIME_SQL
from storage.filter_tree import (
    EVERY,
    INTEGER_MAX,
    INTEGER_MIN,
    Bounds,
    Condition,
    Filter,
    HasId,
    IsEmpty,
    IsNull,
    Key,
    MatchAny,
    MatchExcept,
    MatchText,
    MatchValue,
    NumberRange,
    TimeRange,
    ValuesCount,
)


class SqlFilter(NamedTuple):
    """A piece of SQL, and a value for each `?` in it, in order."""

    where: str
    parameters: list[Any]


class _Place(NamedTuple):
    """Where a key leads: the rows to go through, and of each the value's type and content."""

    rows: SqlFilter | None
    type: SqlFilter
    value: SqlFilter
    elements: SqlFilter
    length: SqlFilter


_Test = Callable[[SqlFilter, SqlFilter], SqlFilter]
"""Makes a condition of the type and the content of a value."""

_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_ID_PARTS: Final = """id IN (
WITH RECURSIVE part (start) AS (
  SELECT 1 UNION ALL SELECT start + {} FROM part WHERE start + {} <= {}
) SELECT substr({}, start, {}) FROM part)"""


def to_sql(f: Filter) -> SqlFilter:
    """Return the condition that holds for the records that pass the filter."""
    return _filter(f)


def _sql(template: str, *parts: SqlFilter) -> SqlFilter:
    """Put pieces into the places `{}` of a template, and their values into one list."""
    text = template.format(*(part.where for part in parts))
    values = [value for part in parts for value in part.parameters]
    assert text.count("?") == len(values), "a value for each place"
    return SqlFilter(text, values)


def _value(value: Any) -> SqlFilter:
    return SqlFilter("?", [value])


def _join(parts: Iterable[SqlFilter], operator: str) -> SqlFilter:
    listed = list(parts)
    return _sql(operator.join("{}" for _ in listed), *listed)


def _filter(f: Filter) -> SqlFilter:
    terms = list(map(_condition, _deep_first(f.must)))
    if f.should:
        terms.append(_sql("({})", _join(map(_condition, _deep_first(f.should)), " OR ")))
    if f.must_not:
        terms.append(_sql("NOT ({})", _join(map(_condition, _deep_first(f.must_not)), " OR ")))
    if f.min_should is not None:
        conditions = map(_condition, _deep_first(f.min_should.conditions))
        least = min(f.min_should.min_count, INTEGER_MAX)
        terms.append(_sql("({}) >= {}", _join(conditions, " + "), _value(least)))
    return _join(terms, " AND ") if terms else SqlFilter("1", [])


def _deep_first(conditions: Sequence[Condition]) -> list[Condition]:
    return sorted(conditions, key=_depth, reverse=True)


def _depth(condition: Condition) -> int:
    if not isinstance(condition, Filter):
        return 0
    few = condition.min_should.conditions if condition.min_should else ()
    inner = (*condition.must, *condition.should, *condition.must_not, *few)
    return 1 + max(map(_depth, inner), default=0)


def _condition(condition: Condition) -> SqlFilter:
    """Return an operand: in parentheses, and 0 or 1."""
    match condition:
        case Filter():
            return _sql("({})", _filter(condition))
        case HasId(ids=ids):
            return _has_id(ids)
        case IsEmpty(key=key):
            return _sql("(NOT {})", _somewhere(_place(key), _is_filled))
        case IsNull(key=key, within=False):
            return _somewhere(_place(key), lambda place: _sql("{} IS 'null'", place.type))
        case ValuesCount(key=key, bounds=bounds):
            return _somewhere(_place(key), lambda place: _count_within(place, bounds))
    test = _element_test(condition)
    return _somewhere(_place(condition.key), lambda place: _any_element(place, test))


def _element_test(
    condition: MatchValue | MatchAny | MatchExcept | MatchText | NumberRange | TimeRange | IsNull,
) -> _Test:
    match condition:
        case MatchValue(value=value):
            return lambda kind, each: _equals(kind, each, value)
        case MatchAny(values=values):
            return lambda kind, each: _listed(kind, each, values)
        case MatchExcept(values=values):
            return lambda kind, each: _sql(
                "ifnull({}, 'null') <> 'null' AND NOT ({})", kind, _listed(kind, each, values)
            )
        case MatchText(text=text):
            return lambda kind, each: _sql(
                "{} IS 'text' AND instr({}, {}) > 0", kind, each, _value(text)
            )
        case NumberRange(bounds=bounds):
            return lambda kind, each: _number_within(kind, each, bounds)
        case TimeRange(bounds=bounds):
            return lambda kind, each: _time_within(kind, each, bounds)
        case IsNull():
            return lambda kind, _: _sql("{} IS 'null'", kind)


def _equals(kind: SqlFilter, each: SqlFilter, value: bool | int | str) -> SqlFilter:  # noqa: FBT001
    if isinstance(value, bool):
        return _sql("{} IS 'true'" if value else "{} IS 'false'", kind)
    name = "text" if isinstance(value, str) else "integer"
    return _sql(f"{{}} IS '{name}' AND {{}} = {{}}", kind, each, _value(value))


def _listed(kind: SqlFilter, each: SqlFilter, values: Sequence[int | str]) -> SqlFilter:
    """Compare with a list of one type; it travels as JSON, and SQLite reads it once."""
    name = "text" if values and isinstance(values[0], str) else "integer"
    inside = _value(orjson.dumps(values).decode())
    return _sql(
        f"{{}} IS '{name}' AND {{}} IN (SELECT value FROM json_each({{}}))", kind, each, inside
    )


def _number_within(kind: SqlFilter, each: SqlFilter, bounds: Bounds) -> SqlFilter:
    terms = [_sql("ifnull({}, '') IN ('integer', 'real')", kind)]
    limits = ((">", bounds.gt), (">=", bounds.gte), ("<", bounds.lt), ("<=", bounds.lte))
    for operator, limit in limits:
        if limit is not None:
            terms.append(_sql(f"{{}} {operator} {{}}", each, _value(limit)))
    return _join(terms, " AND ")


def _time_within(kind: SqlFilter, each: SqlFilter, bounds: Bounds) -> SqlFilter:
    moment = _sql(TIME_SQL, each)
    return _sql("{} IS 'text' AND ifnull({}, 0)", kind, _between(moment, bounds))


def _count_within(place: _Place, bounds: Bounds) -> SqlFilter:
    count = _sql(
        "CASE {} WHEN 'null' THEN 0 WHEN 'array' THEN {} ELSE 1 END", place.type, place.length
    )
    return _sql("{} IS NOT NULL AND {}", place.type, _between(count, bounds))


def _between(number: SqlFilter, bounds: Bounds) -> SqlFilter:
    """Compare an integer with bounds that are integers."""
    lowest, highest = INTEGER_MIN, INTEGER_MAX
    for limit, step in ((bounds.gt, 1), (bounds.gte, 0)):
        if limit is not None:
            lowest = max(lowest, int(limit) + step)
    for limit, step in ((bounds.lt, 1), (bounds.lte, 0)):
        if limit is not None:
            highest = min(highest, int(limit) - step)
    return _sql("{} BETWEEN {} AND {}", number, _value(lowest), _value(highest))


def _is_filled(place: _Place) -> SqlFilter:
    return _sql(
        "CASE ifnull({}, 'null') WHEN 'null' THEN 0 WHEN 'array' THEN {} > 0 ELSE 1 END",
        place.type,
        place.length,
    )


def _any_element(place: _Place, test: _Test) -> SqlFilter:
    element = test(SqlFilter("e.type", []), SqlFilter("e.value", []))
    return _sql(
        "CASE {} WHEN 'array' THEN EXISTS (SELECT 1 FROM {} AS e WHERE {}) ELSE {} END",
        place.type,
        place.elements,
        element,
        test(place.type, place.value),
    )


def _somewhere(place: _Place, test: Callable[[_Place], SqlFilter]) -> SqlFilter:
    if place.rows is None:
        return _sql("({})", test(place))
    return _sql("EXISTS (SELECT 1 FROM {} AND {})", place.rows, test(place))


def _place(key: Key) -> _Place:
    """Follow a key: by one JSON path as far as it goes, by a join where it spreads."""
    document, path, tables, names = SqlFilter("payload", []), "$", [], []
    for step in key:
        if isinstance(step, int):
            path += f"[{step}]"
        elif isinstance(step, str) and not _ESCAPED.search(step):
            path += f'."{step}"'
        else:
            row = f"s{len(tables)}"
            kind = "array" if step is EVERY else "object"
            tables.append(_sql(f"{{}} AS {row}", _members(document, path, kind)))
            names += [] if step is EVERY else [_sql(f"{row}.key = {{}}", _value(step))]
            inner = f"CASE WHEN {row}.type IN ('array', 'object') THEN {row}.value END"
            document, path = SqlFilter(inner, []), "$"
    rows = None
    if tables:
        rows = _sql("{} WHERE {}", _join(tables, " CROSS JOIN "), _join([_TRUE, *names], " AND "))
    return _arrive(document, path, rows, f"s{len(tables) - 1}")


_TRUE: Final = SqlFilter("1", [])


def _members(document: SqlFilter, path: str, kind: str) -> SqlFilter:
    at = _value(path)
    return _sql(
        f"json_each(CASE WHEN json_type({{}}, {{}}) = '{kind}' THEN {{}} END, {{}})",
        document,
        at,
        document,
        at,
    )


def _arrive(document: SqlFilter, path: str, rows: SqlFilter | None, last: str) -> _Place:
    at = _value(path)
    if path == "$":
        kind, value = SqlFilter(f"{last}.type", []), SqlFilter(f"{last}.value", [])
    else:
        kind = _sql("json_type({}, {})", document, at)
        value = _sql("json_extract({}, {})", document, at)
    elements = _sql("json_each({}, {})", document, at)
    length = _sql("json_array_length({}, {})", document, at)
    return _Place(rows, kind, value, elements, length)


def _has_id(ids: Sequence[bytes]) -> SqlFilter:
    """Cut ids of one length from one value; an index on `id` finds each."""
    terms = []
    for size in sorted({len(each) for each in ids}):
        packed = b"".join(each for each in ids if len(each) == size)
        width, total = _value(size), _value(len(packed))
        terms.append(_sql(_ID_PARTS, width, width, total, _value(packed), width))
    return _sql("({})", _join(terms, " OR ")) if terms else SqlFilter("0", [])
