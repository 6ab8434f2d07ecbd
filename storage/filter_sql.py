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
* SQLite's parser has a stack of 100 places. Deep conditions come first, so that it has finished
  them before it holds anything of their neighbours, and no parenthesis is idle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, assert_never

import orjson

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
from storage.filter_time import TIME_SQL
from storage.ids import keyed_range
from storage.records import IS_KEYED_SQL, KEY_SQL


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

_ElementCondition = MatchValue | MatchAny | MatchExcept | MatchText | NumberRange | TimeRange

_TRUE: Final = SqlFilter("1", [])
_FALSE: Final = SqlFilter("0", [])
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_ID_PARTS: Final = """id IN (
WITH RECURSIVE part (start) AS (
  SELECT 1 UNION ALL SELECT start + {} FROM part WHERE start + {} <= {}
) SELECT substr({}, start, {}) FROM part)"""
_KEYED_IDS: Final = """id IN (
WITH RECURSIVE part (start) AS (
  SELECT 1 UNION ALL SELECT start + {} FROM part WHERE start + {} <= {}
) SELECT keyed.id FROM part CROSS JOIN records AS keyed WHERE keyed.collection = {}
AND keyed.id >= substr({}, start, {}) AND keyed.id < substr({}, start, {}))"""


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
    clauses: list[tuple[int, Callable[[], SqlFilter]]] = [
        (_depth(each), partial(_condition, each)) for each in f.must
    ]
    if f.should:
        clauses.append((_depth(f.should), lambda: _chain(f.should, " OR ")))
    if f.must_not:
        clauses.append((_depth(f.must_not), lambda: _sql("{} = 0", _chain(f.must_not, " OR "))))
    few = f.min_should
    if few is not None:
        least = _value(few.min_count)
        chosen = few.conditions
        clauses.append((_depth(chosen), lambda: _sql("{} >= {}", _chain(chosen, " + "), least)))
    clauses.sort(key=lambda clause: -clause[0])
    return _sql("({})", _join((write() for _, write in clauses), " AND ")) if clauses else _TRUE


def _chain(conditions: Sequence[Condition], operator: str) -> SqlFilter:
    written = map(_condition, sorted(conditions, key=_depth, reverse=True))
    return next(written) if len(conditions) == 1 else _sql("({})", _join(written, operator))


def _depth(condition: Condition | Sequence[Condition]) -> int:
    """Return how many filters lie within each other."""
    if isinstance(condition, Filter):
        few = condition.min_should.conditions if condition.min_should else ()
        inner = (*condition.must, *condition.should, *condition.must_not, *few)
        return 1 + _depth(inner)
    return max(map(_depth, condition), default=0) if isinstance(condition, Sequence) else 0


def _condition(condition: Condition) -> SqlFilter:
    """Return an operand: in parentheses, and 0 or 1."""
    if isinstance(condition, Filter):
        return _filter(condition)
    if isinstance(condition, HasId | HasKeyedId | HasKey):
        return _about_id(condition)
    place = _place(condition.key)
    match condition:
        case IsEmpty():
            return _not(_somewhere(place, _is_filled(place)))
        case IsNull():
            return _somewhere(place, _sql("{} IS 'null'", place.type))
        case ValueEmpty(expected=False):
            return _somewhere(place, _is_filled(place))
        case ValueEmpty():
            return _found_or_nothing(place, _sql("NOT {}", _is_filled(place)))
        case ValueNull(expected=True):
            return _somewhere(place, _any_element(place, _is_null))
        case ValueNull():
            return _found_or_nothing(place, _sql("NOT {}", _any_element(place, _is_null)))
        case ValuesCount(bounds=bounds):
            return _somewhere(place, _count_within(place, bounds))
        case _:
            return _somewhere(place, _any_element(place, _element_test(condition)))


def _element_test(condition: _ElementCondition) -> _Test:
    match condition:
        case MatchValue(value=value):
            return lambda kind, each: _equals(kind, each, value)
        case MatchAny(values=values):
            return lambda kind, each: _listed(kind, each, values)
        case MatchExcept(values=values):
            return lambda kind, each: _not_listed(kind, each, values)
        case MatchText(texts=texts):
            return lambda kind, each: _contains(kind, each, texts)
        case NumberRange(bounds=bounds):
            return lambda kind, each: _number_within(kind, each, bounds)
        case TimeRange(bounds=bounds):
            return lambda kind, each: _time_within(kind, each, bounds)
        case _:
            assert_never(condition)


def _is_null(kind: SqlFilter, _: SqlFilter) -> SqlFilter:
    return _sql("{} IS 'null'", kind)


def _contains(kind: SqlFilter, each: SqlFilter, texts: Sequence[str]) -> SqlFilter:
    if len(texts) == 1:
        return _sql("{} IS 'text' AND instr({}, {}) > 0", kind, each, _value(texts[0]))
    words = _value(orjson.dumps(texts).decode())
    found = _sql("SELECT 1 FROM json_each({}) AS w WHERE instr({}, w.value) > 0", words, each)
    return _sql("{} IS 'text' AND EXISTS ({})", kind, found)


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
        f"{{}} IS '{name}' AND {{}} IN (SELECT value FROM json_each({{}}))",  # noqa: S608
        kind,
        each,
        inside,
    )


def _not_listed(kind: SqlFilter, each: SqlFilter, values: Sequence[int | str]) -> SqlFilter:
    return _sql("ifnull({}, 'null') <> 'null' AND NOT ({})", kind, _listed(kind, each, values))


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
    lowest, highest = min(lowest, INTEGER_MAX), max(highest, INTEGER_MIN)
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


def _somewhere(place: _Place, test: SqlFilter) -> SqlFilter:
    """Return whether the test holds at one of the values, as an operand."""
    if place.rows is None:
        return _sql("({})", test)
    return _sql("EXISTS (SELECT 1 FROM {} AND {})", place.rows, test)


def _found_or_nothing(place: _Place, test: SqlFilter) -> SqlFilter:
    """Return whether the test holds at one of the values, or there are none."""
    there = _sql("{} IS NOT NULL", place.type)
    found = _somewhere(place, _sql("{} AND {}", there, test))
    return _sql("({} OR {})", found, _not(_somewhere(place, there)))


def _not(operand: SqlFilter) -> SqlFilter:
    return _sql("({} = 0)", operand)


def _place(key: Key) -> _Place:
    """Follow a key: by one JSON path as far as it goes, by a join where it spreads."""
    document, path = SqlFilter("payload", []), "$"
    tables: list[SqlFilter] = []
    names: list[SqlFilter] = []
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


def _about_id(condition: HasId | HasKeyedId | HasKey) -> SqlFilter:
    match condition:
        case HasId(ids=ids):
            return _has_id(ids)
        case HasKeyedId(collection=collection, ids=ids):
            return _has_keyed_id(collection, ids)
        case HasKey(keys=keys):
            return _has_key(keys)
        case _:
            assert_never(condition)


def _has_id(ids: Sequence[bytes]) -> SqlFilter:
    """Cut ids of one length from one value; an index on `id` finds each."""
    terms = []
    for size in sorted({len(each) for each in ids}):
        packed = b"".join(each for each in ids if len(each) == size)
        width, total = _value(size), _value(len(packed))
        terms.append(_sql(_ID_PARTS, width, width, total, _value(packed), width))
    return _sql("({})", _join(terms, " OR ")) if terms else _FALSE


def _has_keyed_id(collection: int, ids: Sequence[bytes]) -> SqlFilter:
    """Find the identities of each id by a range of the index on `id`."""
    terms = []
    for size in sorted({len(each) for each in ids}):
        ranges = [keyed_range(each) for each in ids if len(each) == size]
        first, last = (_value(b"".join(bounds)) for bounds in zip(*ranges, strict=True))
        width, total = _value(size + 1), _value((size + 1) * len(ranges))
        lookup = (_value(collection), first, width, last, width)
        terms.append(_sql(_KEYED_IDS, width, width, total, *lookup))
    return _sql("({})", _join(terms, " OR ")) if terms else _FALSE


def _has_key(keys: Sequence[bytes]) -> SqlFilter:
    listed = _join(map(_value, keys), ", ")
    return _sql(f"({IS_KEYED_SQL} AND {KEY_SQL} IN ({{}}))", listed)
