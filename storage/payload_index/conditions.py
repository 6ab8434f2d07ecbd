"""Turns a filter into nodes over columns; it holds exactly where `filter_match.matches` does.

A condition that no column answers becomes `Anything`, and then the whole is no longer exact unless
what stands around it does not care. What is left is to read the payloads of those that may pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, assert_never

from storage.filter_nodes import (
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
from storage.payload_index.column import Column
from storage.payload_index.fields import (
    EMPTY,
    FILLED,
    HAS_NULL,
    NOT_NULL,
    NULL,
    OTHER,
    STRAY,
    FieldType,
    answers,
    float_key,
    is_word,
    words_of,
)
from storage.payload_index.nodes import (
    All,
    Anything,
    Between,
    Marked,
    Node,
    NoneOf,
    Not,
    OneOf,
    Some,
    WithId,
)
from storage.slots import Records

Answering = Callable[[Condition, Key], Column | None]

_LEAVES: Final = (
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


class Table(NamedTuple):
    """What a filter is asked of: columns by path, the slots' records, and how many slots."""

    columns: Mapping[Key, Sequence[Column]]
    records: Records
    used: int


class Compiled(NamedTuple):
    """A filter as a node; `narrowed` says whether a column has a part in it."""

    node: Node
    narrowed: bool


def compiled(f: Filter, table: Table) -> Compiled:
    """Return a filter over the columns of a table."""
    compiler = _Compiler(table)
    return Compiled(compiler.filter(f), compiler.narrowed)


def unindexed(f: Filter, fields: Mapping[Key, Sequence[FieldType]]) -> Iterator[Key]:
    """Yield the paths of conditions that no index of these types helps with."""
    for condition in _conditions(f):
        if isinstance(condition, Filter):
            yield from unindexed(condition, fields)
        elif isinstance(condition, _LEAVES):
            kinds = fields.get(condition.key, ())
            if not any(answers(kind, condition) for kind in kinds):
                yield condition.key


def seeks_texts(f: Filter) -> bool:
    """Return whether a filter looks for parts of texts, which takes a look at every text."""
    return any(
        seeks_texts(each) if isinstance(each, Filter) else isinstance(each, MatchText)
        for each in _conditions(f)
    )


def _conditions(f: Filter) -> tuple[Condition, ...]:
    few = f.min_should.conditions if f.min_should is not None else ()
    return (*f.must, *f.should, *f.must_not, *few)


class _Compiler:
    def __init__(self, table: Table) -> None:
        self._table = table
        self.narrowed = False

    def filter(self, f: Filter) -> Node:
        used = self._table.used
        parts = [self._condition(each) for each in f.must]
        if f.should:
            parts.append(self._some(f.should))
        if f.must_not:
            any_of = self._some(f.must_not)
            parts.append(Not(any_of, used) if any_of.exact else self._without(f.must_not))
        if f.min_should is not None:
            parts.append(self._some(f.min_should.conditions, f.min_should.min_count))
        return parts[0] if len(parts) == 1 else All(parts, used)

    def _some(self, conditions: Sequence[Condition], least: int = 1) -> Node:
        parts = [self._condition(each) for each in conditions]
        return parts[0] if least == len(parts) == 1 else Some(parts, self._table.used, least)

    def _without(self, conditions: Sequence[Condition]) -> Node:
        """Exclude what is known to hold of conditions of which some are not known."""
        used = self._table.used
        parts = [self._condition(each) for each in conditions]
        known = [Not(part, used) for part in parts if part.exact]
        return All([*known, Anything(used)], used)

    def _condition(self, condition: Condition) -> Node:
        match condition:
            case Filter():
                return self.filter(condition)
            case HasId(ids=ids):
                return WithId(self._table.records, ids)
            case HasKeyedId() | HasKey():
                return Anything(self._table.used)
            case _:
                for column in self._table.columns.get(condition.key, ()):
                    if answers(column.kind, condition):
                        self.narrowed = True
                        return self._leaf(column, condition)
                return Anything(self._table.used)

    def _leaf(self, column: Column, condition: Condition) -> Node:
        match condition:
            case MatchValue(value=value):
                return OneOf(column, _codes(column, (value,)))
            case MatchAny(values=values):
                return OneOf(column, _codes(column, values))
            case MatchExcept(values=values):
                return NoneOf(column, _codes(column, values), OTHER)
            case MatchText(texts=texts):
                return self._texts(column, texts)
            case NumberRange(bounds=bounds):
                read = _float_range if column.kind == "float" else _integer_range
                return Between(column, *read(bounds), STRAY if column.strays else 0)
            case TimeRange(bounds=bounds):
                return Between(column, *_integer_range(bounds))
            case IsEmpty() | IsNull() | ValueEmpty() | ValueNull():
                return _marked(column, condition)
            case Filter() | HasId() | HasKeyedId() | HasKey() | ValuesCount():
                raise AssertionError("a column does not answer this")
            case _:
                assert_never(condition)

    def _texts(self, column: Column, texts: Sequence[str]) -> Node:
        return Some([self._text(column, text) for text in texts], self._table.used)

    def _text(self, column: Column, text: str) -> Node:
        """Find texts that contain one: whole texts by keyword, else by all of its words.

        Inside a text its first word may be the end of a longer one, and its last the beginning.
        """
        assert column.dictionary is not None, "text has codes"
        parts = [text] if column.kind == "keyword" else words_of(text)
        found: list[Node] = [OneOf(column, column.dictionary.containing(part)) for part in parts]
        if column.kind == "text" and not is_word(text):
            found.append(Anything(self._table.used))
        return found[0] if len(found) == 1 else All(found, self._table.used)


def _marked(column: Column, condition: IsEmpty | IsNull | ValueEmpty | ValueNull) -> Node:
    match condition:
        case IsEmpty():
            return Marked(column, FILLED, present=False)
        case IsNull():
            return Marked(column, NULL, present=True)
        case ValueEmpty(expected=expected):
            return Marked(column, EMPTY if expected else FILLED, present=True)
        case ValueNull(expected=expected):
            return Marked(column, HAS_NULL if expected else NOT_NULL, present=True)
        case _:
            assert_never(condition)


def _codes(column: Column, values: Sequence[bool | int | str]) -> list[int]:
    """Return the keys of values; those that no slot has are left out."""
    if column.dictionary is None:
        return [int(value) for value in values]
    found = (column.dictionary.find(str(value)) for value in values)
    return [code for code in found if code is not None]


def _integer_range(bounds: Bounds) -> tuple[int, int]:
    """Return the smallest and the largest integer within bounds, inside of 64 bits."""
    low, high = INTEGER_MIN, INTEGER_MAX
    if bounds.gt is not None:
        low = max(low, math.floor(bounds.gt) + 1)
    if bounds.gte is not None:
        low = max(low, math.ceil(bounds.gte))
    if bounds.lt is not None:
        high = min(high, math.ceil(bounds.lt) - 1)
    if bounds.lte is not None:
        high = min(high, math.floor(bounds.lte))
    return (low, high) if low <= high else (1, 0)


def _float_range(bounds: Bounds) -> tuple[int, int]:
    """Return the keys of the smallest and the largest double within bounds."""
    low, high = INTEGER_MIN, INTEGER_MAX
    for limit, open_end in ((bounds.gt, True), (bounds.gte, False)):
        if limit is not None:
            number = float(limit)
            beyond = number < limit or (open_end and number == limit)
            low = max(low, float_key(number) + beyond)
    for limit, open_end in ((bounds.lt, True), (bounds.lte, False)):
        if limit is not None:
            number = float(limit)
            beyond = number > limit or (open_end and number == limit)
            high = min(high, float_key(number) - beyond)
    return (low, high) if low <= high else (1, 0)
