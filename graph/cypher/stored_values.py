"""Values on their way into the graph: properties as canonical JSON, and an edge's own fields.

A map that a query gives for a relationship mixes both: `confidence`, `valid_at` and `invalid_at`
are fields of the hyperedge, `id` names a new one, and what is only ever read is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

from graph.cypher.elements import EDGE_KEYS
from graph.cypher.values import is_number, kind
from graph.errors import BadQuery
from graph.model import PROPERTIES_BYTES_MAX

DEPTH_MAX: Final = 64
FIELDS: Final = ("confidence", "valid_at", "invalid_at")
READ_ONLY: Final = tuple(key for key in EDGE_KEYS if key not in FIELDS)
_BITS_MIN, _BITS_MAX = -(2**63), 2**64 - 1


def packed(properties: Mapping[str, Any]) -> bytes:
    """Return properties as canonical JSON, without those that are null."""
    given = {key: value for key, value in properties.items() if value is not None}
    room = _Room()
    for key, value in given.items():
        _check(value, key, 0, room)
    _check_text("a property's name", *given)
    raw = orjson.dumps(given, option=orjson.OPT_SORT_KEYS)
    if len(raw) > PROPERTIES_BYTES_MAX:
        raise _too_long()
    return raw


class _Room:
    """What is left for properties. Each value takes a byte, a text one for each character, and
    more as JSON: a list that holds another many times ends here before it is written down."""

    def __init__(self) -> None:
        self._left = PROPERTIES_BYTES_MAX

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _too_long()


def _too_long() -> BadQuery:
    return BadQuery(
        f"the properties of an element have at most {PROPERTIES_BYTES_MAX} bytes as JSON"
    )


def _check(value: Any, key: str, depth: int, room: _Room) -> None:
    if depth > DEPTH_MAX:
        raise BadQuery(f"the property {key} nests more than {DEPTH_MAX} deep")
    room.take(len(value) if type(value) is str else 1)
    if type(value) is list:
        for each in value:
            _check(each, key, depth + 1, room)
    elif type(value) is dict:
        _check_text(f"a key in {key}", *value)
        for each in value.values():
            _check(each, key, depth + 1, room)
    elif type(value) is str:
        _check_text(f"the property {key}", value)
    elif type(value) is float and not math.isfinite(value):
        raise BadQuery(f"the property {key} cannot be {value}")
    elif type(value) is int and not _BITS_MIN <= value <= _BITS_MAX:
        raise BadQuery(f"the property {key} has more than 64 bits")
    elif value is not None and type(value) not in (bool, int, float):
        raise BadQuery(f"the property {key} cannot be {kind(value)}")


def _check_text(what: str, *texts: str) -> None:
    for text in texts:
        if "\0" in text:
            raise BadQuery(f"{what} cannot hold U+0000")


def field_value(key: str, value: Any) -> Any:
    """Return the value for one of FIELDS; null gives its default."""
    if key == "confidence":
        if value is None:
            return 1.0
        if not is_number(value) or not 0 <= value <= 1:
            raise BadQuery("a relationship's confidence is a number from 0 to 1")
        return float(value)
    if value is not None and type(value) is not int:
        raise BadQuery(f"{key} is an integer: milliseconds since 1970")
    return value


def parted(properties: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields and the properties in a map for a relationship."""
    fields = {key: field_value(key, properties[key]) for key in FIELDS if key in properties}
    for key in READ_ONLY:
        if properties.get(key) is not None:
            raise BadQuery(f"{key} of a relationship cannot be set")
    rest = {key: value for key, value in properties.items() if key not in EDGE_KEYS}
    return fields, rest


def as_map(value: Any) -> Mapping[str, Any]:
    """Return a value that has to be a map."""
    if type(value) is not dict:
        raise BadQuery(f"properties are a map, not {kind(value)}")
    return value
