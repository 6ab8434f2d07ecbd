"""A filter in two parts: what Postgres looks at, and what is left to be asked of each row.

`storage.filter_match` defines the filter language. A second definition in the SQL of Postgres would
have to agree with it on every value that JSON can hold, so Postgres is given only what is plain in
its columns: the reward, the outcome, the session and ids. That is what searches of patterns ask
about. Whatever else there is goes through `matches`, row by row, nearest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from storage.filter_nodes import (
    Bounds,
    Condition,
    Filter,
    HasId,
    MatchValue,
    NumberRange,
)
from storage.ids import decode_id


class Term(NamedTuple):
    """A comparison with one parameter, whose place is `{}`."""

    sql: str
    value: Any


def split(f: Filter | None) -> tuple[list[Term], Filter | None]:
    """Return terms that must all hold, and a filter that must hold besides, if there is one."""
    terms: list[Term] = []
    rest: list[Condition] = []
    for condition in () if f is None else _conjunction(f):
        found = _terms(condition)
        if found is None:
            rest.append(condition)
        else:
            terms += found
    return terms, Filter(must=tuple(rest)) if rest else None


def _conjunction(f: Filter) -> Iterator[Condition]:
    """Yield conditions that together mean the same as the filter."""
    for condition in f.must:
        if isinstance(condition, Filter):
            yield from _conjunction(condition)
        else:
            yield condition
    if f.should or f.must_not or f.min_should:
        yield Filter(should=f.should, must_not=f.must_not, min_should=f.min_should)


def _terms(condition: Condition) -> list[Term] | None:
    match condition:
        case NumberRange(key=("reward",), bounds=bounds):
            return _reward(bounds)
        case MatchValue(key=("success",), value=bool() as value):
            return [Term("success = {}", value)]
        case MatchValue(key=("sessionId",), value=str() as value):
            return [Term("session_id = {}", value)]
        case HasId(ids=ids):
            return [Term("id = ANY({}::text[])", [str(decode_id(each)) for each in ids])]
        case _:
            return None


def _reward(bounds: Bounds) -> list[Term] | None:
    limits = {">": bounds.gt, ">=": bounds.gte, "<": bounds.lt, "<=": bounds.lte}
    given = {operator: limit for operator, limit in limits.items() if limit is not None}
    if any(float(limit) != limit for limit in given.values()):
        return None  # an integer that no double holds: Postgres would round it
    terms = [Term(f"reward {operator} {{}}", float(limit)) for operator, limit in given.items()]
    return terms or [Term("reward >= {}", float("-inf"))]
