"""What an index on a payload field keeps of each payload, and which questions that answers.

A field is a path, as filters have them, and a type. Of all values that the path leads to, and of
the elements of those that are arrays, those of the type are kept as keys: integers whose equality
and order are the values' own, or text, which becomes a number by `dictionary`. What else there is
leaves marks, one bit each, which is enough to answer exactly as if every payload had been read:

    keyword    each text
    uuid       each text that is a UUID in its canonical form
    text       each word of each text
    integer    each integer of 64 bits
    float      each number that is a double exactly
    bool       true and false
    datetime   each text that is a date and time, in microseconds since 1970
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from storage.filter_match import values_at
from storage.filter_nodes import (
    INTEGER_MAX,
    INTEGER_MIN,
    Condition,
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
)
from storage.filter_parse import parse_key
from storage.filter_time import read_time

FieldType = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text"]

FIELDS_MAX: Final = 64
"""Indexes that a collection may have: each costs 25 bytes a point, and its dictionary."""

KNOWN: Final = 1
"""The payload was read."""
OTHER: Final = 2
"""An element that is neither null nor of the type."""
STRAY: Final = 4
"""A number that is not of the type."""
FILLED: Final = 8
"""A value that is neither null nor an empty array."""
EMPTY: Final = 16
"""A value that is null or an empty array; or no value at all."""
NULL: Final = 32
"""A value that is null."""
HAS_NULL: Final = 64
"""A value that is null or an array with a null."""
NOT_NULL: Final = 128
"""A value that is neither; or no value at all."""

RawKey = int | str
_WORD: Final = re.compile(r"\w+")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXACT_MAX: Final = 2**53
"""Integers up to here are doubles exactly."""
_SIGN: Final = np.int64(INTEGER_MAX)


class FieldIndex(msgspec.Struct, frozen=True):
    """The definition of an index: a field's name, as it was given, and its type."""

    name: str
    type: FieldType

    def path(self) -> Key:
        """Return the field's path. Raises FilterError when the name is none."""
        return parse_key(self.name, "field_name")


class Extract(NamedTuple):
    """What an index keeps of one payload: its marks, and its distinct keys."""

    marks: int
    keys: tuple[RawKey, ...]


def extract(path: Key, kind: FieldType, payload: Mapping[str, Any]) -> Extract:
    """Return what an index of this type on this path keeps of a payload."""
    read = _READERS[kind]
    values = list(values_at(payload, path))
    marks = KNOWN if values else KNOWN | EMPTY | NOT_NULL
    keys: list[RawKey] = []
    for value in values:
        elements = value if isinstance(value, list) else (value,)
        marks |= _marks_of(value)
        for each in elements:
            if each is not None:
                marks |= read(each, keys)
    return Extract(marks, tuple(dict.fromkeys(keys)))


def _marks_of(value: Any) -> int:
    if value is None:
        return EMPTY | NULL | HAS_NULL
    if not isinstance(value, list):
        return FILLED | NOT_NULL
    filled = FILLED if value else EMPTY
    return filled | (HAS_NULL if None in value else NOT_NULL)


def words_of(text: str) -> list[str]:
    """Return the words of a text: its longest runs of letters, digits and underscores."""
    return _WORD.findall(text)


def is_word(text: str) -> bool:
    """Return whether a text is one word."""
    return _WORD.fullmatch(text) is not None


def float_key(number: float) -> int:
    """Return an integer that orders as the double does; both zeros have one."""
    bits = np.float64(number + 0.0).view(np.int64)
    return int(bits if bits >= 0 else bits ^ _SIGN)


def _keyword(element: Any, keys: list[RawKey]) -> int:
    if not isinstance(element, str):
        return OTHER
    keys.append(element)
    return 0


def _uuid(element: Any, keys: list[RawKey]) -> int:
    if not (isinstance(element, str) and _UUID.fullmatch(element)):
        return OTHER
    keys.append(element)
    return 0


def _text(element: Any, keys: list[RawKey]) -> int:
    if not isinstance(element, str):
        return OTHER
    keys += words_of(element)
    return 0


def _integer(element: Any, keys: list[RawKey]) -> int:
    if type(element) is int and INTEGER_MIN <= element <= INTEGER_MAX:
        keys.append(element)
        return 0
    return OTHER | STRAY if type(element) in (int, float) else OTHER


def _float(element: Any, keys: list[RawKey]) -> int:
    if type(element) is float or (type(element) is int and abs(element) <= _EXACT_MAX):
        keys.append(float_key(element))
        return 0
    return OTHER | STRAY if type(element) is int else OTHER


def _bool(element: Any, keys: list[RawKey]) -> int:
    if not isinstance(element, bool):
        return OTHER
    keys.append(int(element))
    return 0


def _datetime(element: Any, keys: list[RawKey]) -> int:
    moment = read_time(element) if isinstance(element, str) else None
    if moment is None:
        return OTHER
    keys.append(moment)
    return 0


_READERS: Final[dict[FieldType, Callable[[Any, list[RawKey]], int]]] = {
    "keyword": _keyword,
    "integer": _integer,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "uuid": _uuid,
    "text": _text,
}
TEXTUAL: Final[frozenset[FieldType]] = frozenset({"keyword", "uuid", "text"})
"""Types whose keys are text."""


def answers(kind: FieldType, condition: Condition) -> bool:
    """Return whether an index of this type helps to tell where a condition on its path holds."""
    match condition:
        case IsEmpty() | IsNull() | ValueEmpty() | ValueNull():
            return True
        case MatchValue(value=value):
            return _has_key(kind, value)
        case MatchAny(values=values) | MatchExcept(values=values):
            return kind != "text" and all(_has_key(kind, value) for value in values)
        case MatchText(texts=texts):
            return kind == "keyword" or (kind == "text" and all(map(_WORD.search, texts)))
        case NumberRange():
            return kind in ("integer", "float")
        case TimeRange():
            return kind == "datetime"
        case _:
            return False


def _has_key(kind: FieldType, value: bool | int | str) -> bool:  # noqa: FBT001
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, int):
        return kind == "integer"
    return kind == "keyword" or (kind == "uuid" and _UUID.fullmatch(value) is not None)
