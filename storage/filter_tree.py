"""A filter as a tree of values, in the semantics of Qdrant's filters.

A filter holds if all of `must`, one of `should` (when there are any), none of `must_not` and at
least `min_should.min_count` of its conditions hold. A condition on a key looks at the values that
the key's path leads to: none, one, or with `[]` in the path several; one of them has to satisfy it.
An array satisfies a match or range if one of its elements does; only one level is opened.

Comparison is strict by type: true is not 1, and 1.0 is not the integer 1. Structs are tagged, so
that a tree travels between nodes as MessagePack.
"""

from __future__ import annotations

import msgspec

Path = tuple[str | int | None, ...]
"""Steps from the payload's top: a key, an array index, or None for all elements of an array."""


class Match(msgspec.Struct, frozen=True, tag="match"):
    """A value that is equal, and of the same type."""

    key: Path
    value: str | int | bool


class MatchAny(msgspec.Struct, frozen=True, tag="any"):
    """A value that is in the list."""

    key: Path
    values: tuple[str | int, ...]


class MatchExcept(msgspec.Struct, frozen=True, tag="except"):
    """A value, null aside, that is not in the list; one of another type is not in it."""

    key: Path
    values: tuple[str | int, ...]


class MatchText(msgspec.Struct, frozen=True, tag="text"):
    """A string that contains one of the texts, as it is written."""

    key: Path
    texts: tuple[str, ...]


class Range(msgspec.Struct, frozen=True, tag="range"):
    """A number, as float64, within all the bounds given."""

    key: Path
    lt: float | None = None
    lte: float | None = None
    gt: float | None = None
    gte: float | None = None


class DatetimeRange(msgspec.Struct, frozen=True, tag="datetime"):
    """A string that is a datetime within the bounds, in milliseconds since 1970 UTC."""

    key: Path
    lt: int | None = None
    lte: int | None = None
    gt: int | None = None
    gte: int | None = None


class ValuesCount(msgspec.Struct, frozen=True, tag="count"):
    """A value with so many elements: null has none, an array its length, any other one."""

    key: Path
    lt: int | None = None
    lte: int | None = None
    gt: int | None = None
    gte: int | None = None


class IsEmpty(msgspec.Struct, frozen=True, tag="is_empty"):
    """No values but nulls and empty arrays."""

    key: Path


class IsNull(msgspec.Struct, frozen=True, tag="is_null"):
    """A value that is null."""

    key: Path


class ValueEmpty(msgspec.Struct, frozen=True, tag="value_empty"):
    """A value that is null or an empty array; with expected=False one that is not.

    Without any value it holds if it was expected.
    """

    key: Path
    expected: bool


class ValueNull(msgspec.Struct, frozen=True, tag="value_null"):
    """A value that is null or an array with a null; with expected=False one that is not.

    Without any value it holds if it was not expected.
    """

    key: Path
    expected: bool


class HasId(msgspec.Struct, frozen=True, tag="has_id"):
    """A point with one of these canonical ids."""

    ids: tuple[bytes, ...]


class MinShould(msgspec.Struct, frozen=True):
    """At least `min_count` of the conditions."""

    conditions: tuple[Condition, ...]
    min_count: int


class Filter(msgspec.Struct, frozen=True, tag="filter"):
    """Conditions, joined as the module says. Without any it holds for every point."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()
    min_should: MinShould | None = None


FieldCondition = (
    Match
    | MatchAny
    | MatchExcept
    | MatchText
    | Range
    | DatetimeRange
    | ValuesCount
    | IsEmpty
    | IsNull
    | ValueEmpty
    | ValueNull
)
Condition = FieldCondition | HasId | Filter
