"""Reads a filter from decoded JSON, and refuses what it does not know by the place where it stands.

Nothing is ignored: a misspelled field would otherwise select too many points, and filters delete.
A field that is null counts as left out. Sizes are bounded before anything is built from them, and
by what SQLite can take: 256 conditions in 16 levels, keys of 32 steps, lists of 10,000 values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from storage.filter_nodes import (
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
    MinShould,
    NumberRange,
    TimeRange,
    ValueEmpty,
    ValueNull,
    ValuesCount,
)
from storage.filter_time import read_time
from storage.ids import encode_id

DEPTH_MAX: Final = 16
CONDITIONS_MAX: Final = 256
LIST_MAX: Final = 10_000
KEY_STEPS_MAX: Final = 32
_QUOTED_MAX: Final = 200

_CLAUSES: Final = ("must", "should", "must_not", "min_should")
_TESTS: Final = ("match", "range", "values_count", "is_empty", "is_null")
_BARE: Final = ("has_id", "is_empty", "is_null")
_CONDITION: Final = ("key", "has_id", *_TESTS, *_CLAUSES)
_MATCHES: Final = ("value", "any", "except", "text", "phrase", "text_any")
_TEXTS: Final = ("text", "phrase", "text_any")
_BOUNDS: Final = ("gt", "gte", "lt", "lte")
_LACKING: Final = (
    "geo_radius",
    "geo_bounding_box",
    "geo_polygon",
    "nested",
    "has_vector",
    "slice",
)
_STEP: Final = re.compile(r'\.?(?:([^.\[\]"]+)|"([^"]*)")|\[([0-9]{1,9})\]|(\[\])')

_Fields = dict[str, Any]


class FilterError(ValueError):
    """A filter that cannot be served.

    `field` is the full path of what is wrong, `message` says why, and `unsupported` is set when
    it is right in Qdrant's language but has no counterpart here.
    """

    def __init__(self, field: str, message: str, *, unsupported: bool = False) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.unsupported = unsupported


def parse_filter(raw: object, path: str = "filter") -> Filter:
    """Return the filter in decoded JSON; `path` names it in errors.

    Raises:
        FilterError: malformed, too large, or unsupported; `field` is the place.
    """
    return _Reader().filter(raw, path, 1)


class _Reader:
    """Reads one filter, and counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, raw: object, path: str, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise FilterError(path, f"a filter has at most {DEPTH_MAX} levels")
        fields = _fields(raw, path, _CLAUSES)
        must, should, must_not = (
            self._conditions_of(fields.get(name), f"{path}.{name}", depth) for name in _CLAUSES[:3]
        )
        few = fields.get("min_should")
        least = None if few is None else self._min_should(few, f"{path}.min_should", depth)
        return Filter(must, should, must_not, least)

    def _min_should(self, raw: object, path: str, depth: int) -> MinShould | None:
        fields = _fields(raw, path, ("conditions", "min_count"))
        for name in ("conditions", "min_count"):
            if name not in fields:
                raise FilterError(f"{path}.{name}", "missing")
        count = _count(fields["min_count"], f"{path}.min_count")
        found = self._conditions_of(fields["conditions"], f"{path}.conditions", depth)
        return MinShould(found, count) if found else None

    def _conditions_of(self, raw: object, path: str, depth: int) -> tuple[Condition, ...]:
        if raw is None:
            return ()
        if not isinstance(raw, list):
            return (self._condition(raw, path, depth),)
        return tuple(
            self._condition(each, f"{path}[{position}]", depth) for position, each in enumerate(raw)
        )

    def _condition(self, raw: object, path: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise FilterError(path, f"a filter has at most {CONDITIONS_MAX} conditions")
        fields = _fields(raw, path, _CONDITION)
        if not fields:
            raise FilterError(path, "an empty condition")
        if "key" in fields:
            return _field_condition(fields, path)
        first = next(iter(fields))
        allowed = _CLAUSES if first in _CLAUSES else (first,)
        for name in fields:
            if name not in _BARE and name not in _CLAUSES:
                raise FilterError(f"{path}.key", f"missing: '{name}' tests a key")
            if name not in allowed:
                raise FilterError(f"{path}.{name}", f"does not go with '{first}'")
        return self.filter(fields, path, depth + 1) if first in _CLAUSES else _bare(fields, path)


def _bare(fields: _Fields, path: str) -> Condition:
    """Read the condition that names its key, if any, inside."""
    ((name, raw),) = fields.items()
    path = f"{path}.{name}"
    if name == "has_id":
        return HasId(_list_of(raw, path, _id))
    inner = _fields(raw, path, ("key",))
    key = parse_key(inner.get("key"), f"{path}.key")
    return IsEmpty(key) if name == "is_empty" else IsNull(key)


def _field_condition(fields: _Fields, path: str) -> Condition:
    tests = [name for name in fields if name != "key"]
    for name in tests:
        if name not in _TESTS:
            raise FilterError(f"{path}.{name}", "does not go with 'key'")
    if len(tests) != 1:
        place = f"{path}.{tests[1]}" if tests else path
        raise FilterError(place, f"a condition on a key takes one of {', '.join(_TESTS)}")
    key = parse_key(fields["key"], f"{path}.key")
    name, path = tests[0], f"{path}.{tests[0]}"
    if name == "match":
        return _match(key, fields[name], path)
    if name == "range":
        return _range(key, fields[name], path)
    if name == "values_count":
        limits = _fields(fields[name], path, _BOUNDS)
        return ValuesCount(key, _bounds(limits, path, _count))
    if not isinstance(fields[name], bool):
        raise FilterError(path, "expected true or false")
    kind = ValueEmpty if name == "is_empty" else ValueNull
    return kind(key, fields[name])


def _match(key: Key, raw: object, path: str) -> Condition:
    fields = _fields(raw, path, _MATCHES)
    if len(fields) != 1:
        raise FilterError(path, f"takes one of {', '.join(_MATCHES)}")
    ((name, value),) = fields.items()
    path = f"{path}.{name}"
    if name == "value":
        return MatchValue(key, value if isinstance(value, bool) else _scalar(value, path))
    if name in _TEXTS:
        text = _text(value, path)
        return MatchText(key, _words(text, path) if name == "text_any" else (text,))
    values = _list_of(value, path, _scalar)
    for position, each in enumerate(values):
        if type(each) is not type(values[0]):
            raise FilterError(f"{path}[{position}]", "text and integers do not mix in one list")
    return MatchAny(key, values) if name == "any" else MatchExcept(key, values)


def _range(key: Key, raw: object, path: str) -> Condition:
    limits = _fields(raw, path, _BOUNDS)
    if any(isinstance(limit, str) for limit in limits.values()):
        return TimeRange(key, _bounds(limits, path, _time))
    return NumberRange(key, _bounds(limits, path, _number))


def _bounds(limits: _Fields, path: str, read: Callable[[Any, str], int | float]) -> Bounds:
    return Bounds(**{name: read(limit, f"{path}.{name}") for name, limit in limits.items()})


def parse_key(raw: object, path: str) -> Key:
    """Read a key like `a.b[].c`, `a[0]`, or `"a.b".c` with a quoted name.

    Raises:
        FilterError: not such a key, or too long; `path` is the place.
    """
    text = _text("" if raw is None else raw, path)
    steps: list[str | int | None] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        starts = found is not None and (found[1] or found[2]) is not None
        if found is None or (text[at] == "." and not steps) or (not steps and not starts):
            raise FilterError(path, "not a key: names are joined by '.', elements are '[]'")
        if steps and starts and text[at] != ".":
            raise FilterError(path, "not a key: a '.' is missing between names")
        steps.append(_step(found))
        at = found.end()
        if len(steps) > KEY_STEPS_MAX:
            raise FilterError(path, f"a key has at most {KEY_STEPS_MAX} steps")
    if not steps:
        raise FilterError(path, "a key is missing")
    return tuple(steps)


def written_key(key: Key) -> str:
    """Return a key as `parse_key` reads it."""
    text = ""
    for step in key:
        if isinstance(step, str):
            plain = step and not any(letter in '.[]"' for letter in step)
            text += ("." if text else "") + (step if plain else f'"{step}"')
        else:
            text += "[]" if step is EVERY else f"[{step}]"
    return text


def _step(found: re.Match[str]) -> str | int | None:
    plain, quoted, position, _ = found.groups()
    if position is not None:
        return int(position)
    if plain is not None:
        return str(plain)
    return EVERY if quoted is None else str(quoted)


def _fields(raw: object, path: str, known: tuple[str, ...]) -> _Fields:
    """Return the fields of an object that are not null."""
    if not isinstance(raw, dict):
        raise FilterError(path, "expected an object")
    for name, value in raw.items():
        place = f"{path}.{name[:_QUOTED_MAX]}"
        if name not in known and name not in _LACKING:
            raise FilterError(place, "unknown field")
        if name not in known and value is not None:
            raise FilterError(place, f"'{name}' is not supported", unsupported=True)
    return {name: value for name, value in raw.items() if value is not None}


def _list_of(raw: object, path: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise FilterError(path, "expected a list")
    if len(raw) > LIST_MAX:
        raise FilterError(path, f"a list has at most {LIST_MAX} values")
    return tuple(read(each, f"{path}[{position}]") for position, each in enumerate(raw))


def _id(raw: Any, path: str) -> bytes:
    try:
        return encode_id(raw)
    except ValueError as error:
        raise FilterError(path, str(error)) from None


def _scalar(raw: Any, path: str) -> int | str:
    if isinstance(raw, str):
        return _text(raw, path)
    if type(raw) is int:
        if not INTEGER_MIN <= raw <= INTEGER_MAX:
            raise FilterError(path, "an integer outside -2^63..2^63-1")
        return raw
    raise FilterError(path, "expected text or an integer; for other numbers use a range")


def _text(raw: Any, path: str) -> str:
    if not isinstance(raw, str):
        raise FilterError(path, "expected text")
    if "\0" in raw:
        raise FilterError(path, "text must not contain NUL")
    if any("\ud800" <= letter <= "\udfff" for letter in raw):
        raise FilterError(path, "text must not contain lone surrogates")
    return raw


def _words(text: str, path: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(text.split()))
    if len(words) > LIST_MAX:
        raise FilterError(path, f"a list has at most {LIST_MAX} words")
    return words


def _count(raw: Any, path: str) -> int:
    if type(raw) is not int or raw < 0:
        raise FilterError(path, "expected an integer of at least 0")
    return min(raw, INTEGER_MAX)


def _number(raw: Any, path: str) -> int | float:
    if type(raw) is int and INTEGER_MIN <= raw <= INTEGER_MAX:
        return raw
    try:
        number = float(raw) if type(raw) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FilterError(path, "expected a number, or dates and times throughout")
    return number


def _time(raw: Any, path: str) -> int:
    moment = read_time(_text(raw, path))
    if moment is None:
        raise FilterError(path, "expected a date and time as of RFC 3339")
    return moment
