"""The tree of a filter: what is left of a request once `storage.filter_parse` has checked it.

Every node is a tagged Struct, so a tree travels between nodes as msgpack and is decoded by the
type `Filter`. A point passes a filter when all of `must` hold, none of `must_not`, at least one
of `should` if there are any, and at least so many of `min_should`.

A key leads from the payload to any number of values: a name to a member, a position to an
element, `EVERY` to all elements of an array. A test on a key holds when it holds for one of the
values it leads to; a value that is an array passes for its elements, one level down.

A request's filter knows no keys; `with_keyed_ids` adapts it to points that have them.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

EVERY: Final = None
"""The step `[]`: each element of an array."""

Key = tuple[str | int | None, ...]
"""A path from the payload to values: names of members, positions, and `EVERY`."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
"""Integers outside these bounds count as the nearest double; only ranges can meet them."""


class Bounds(Struct, frozen=True, omit_defaults=True):
    """Limits that a number keeps; None is no limit."""

    gt: int | float | None = None
    gte: int | float | None = None
    lt: int | float | None = None
    lte: int | float | None = None


class MatchValue(Struct, frozen=True, tag="value"):
    """Equal, and of one type: true is not 1, and 1.0 is not 1."""

    key: Key
    value: bool | int | str


class MatchAny(Struct, frozen=True, tag="any"):
    """Equal to one of the values, which are all integers or all text."""

    key: Key
    values: tuple[int | str, ...]


class MatchExcept(Struct, frozen=True, tag="except"):
    """Something, null aside, that equals none of the values."""

    key: Key
    values: tuple[int | str, ...]


class MatchText(Struct, frozen=True, tag="text"):
    """Text that contains one of the texts, letter by letter."""

    key: Key
    texts: tuple[str, ...]


class NumberRange(Struct, frozen=True, tag="range"):
    """A number within bounds."""

    key: Key
    bounds: Bounds


class TimeRange(Struct, frozen=True, tag="time"):
    """Text that is a date and time within bounds, in microseconds since 1970."""

    key: Key
    bounds: Bounds


class ValuesCount(Struct, frozen=True, tag="count"):
    """An array with so many elements; null counts 0, any other value 1, a missing key nothing."""

    key: Key
    bounds: Bounds


class IsEmpty(Struct, frozen=True, tag="empty"):
    """The key leads to nothing but null and empty arrays."""

    key: Key


class IsNull(Struct, frozen=True, tag="null"):
    """The key leads to a null."""

    key: Key


class ValueEmpty(Struct, frozen=True, tag="value_empty"):
    """A value that is null or an empty array, or, unless that is expected, one that is not.

    Where the key leads to nothing, emptiness is what is found.
    """

    key: Key
    expected: bool


class ValueNull(Struct, frozen=True, tag="value_null"):
    """A value that is null or an array with a null, or, unless that is expected, one that is not.

    Where the key leads to nothing, no null is found.
    """

    key: Key
    expected: bool


class HasId(Struct, frozen=True, tag="id"):
    """The point's id, in canonical bytes, is one of these."""

    ids: tuple[bytes, ...]


class HasKeyedId(Struct, frozen=True, tag="keyed_id"):
    """The point's id, whatever its key, is one of these; they are looked up in `collection`."""

    collection: int
    ids: tuple[bytes, ...]


class HasKey(Struct, frozen=True, tag="key"):
    """The point's key, in canonical bytes, is one of these."""

    keys: tuple[bytes, ...]


class MinShould(Struct, frozen=True):
    """At least `min_count` of the conditions hold."""

    conditions: tuple[Condition, ...]
    min_count: int


class Filter(Struct, frozen=True, tag="filter", omit_defaults=True):
    """A filter, or a filter that is a condition of another."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()
    min_should: MinShould | None = None


Condition = (
    Filter
    | MatchValue
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
    | HasId
    | HasKeyedId
    | HasKey
)


def with_keyed_ids(f: Filter, collection: int) -> Filter:
    """Return the filter for a collection whose points have keys: a list of ids means any key."""

    def adapted(condition: Condition) -> Condition:
        if isinstance(condition, Filter):
            return with_keyed_ids(condition, collection)
        return HasKeyedId(collection, condition.ids) if isinstance(condition, HasId) else condition

    few = f.min_should
    return Filter(
        tuple(map(adapted, f.must)),
        tuple(map(adapted, f.should)),
        tuple(map(adapted, f.must_not)),
        None if few is None else MinShould(tuple(map(adapted, few.conditions)), few.min_count),
    )
