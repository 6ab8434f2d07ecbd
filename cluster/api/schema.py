"""The ground of all request schemas.

A request is decoded by msgspec straight into its Struct: strict types, unknown fields refused.
Optional fields default to UNSET, so that the number of keys that were decoded is known; it is
compared with the number in the text to find duplicate keys. A field that Qdrant has and this
product lacks is declared, named in `lacking`, and may be null only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from storage.ids import ID_MAX, KEY_LENGTH_MAX

T = TypeVar("T")
D = TypeVar("D")

COUNT_MAX: Final = 2**53 - 1
"""Largest count a tuning field may hold: what every JSON reader represents exactly."""

ID_SCHEMA: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": ID_MAX},
        {"type": "string", "format": "uuid"},
    ]
}
PointIdIn = int | str
"""An id as it is sent; its range and form are checked by `identity.point_id`."""

IdList = list[PointIdIn]
VectorIn = list[float]
"""A vector as it is sent; dimension and finiteness are checked by `vectors`."""

NULL: Final = {"type": "null"}
IDS_SCHEMA: Final = {"type": "array", "items": ID_SCHEMA}
SOME_IDS_SCHEMA: Final = {**IDS_SCHEMA, "minItems": 1}
VECTOR_SCHEMA: Final = {"type": "array", "items": {"type": "number"}, "minItems": 1}
SHOWN_VECTOR_SCHEMA: Final = {"type": ["boolean", "null"]}

KEYS_MAX: Final = 256
"""Keys that a request may name at once."""
KEY_SCHEMA: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": ID_MAX},
        {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX},
    ]
}
KEYS_SCHEMA: Final = {
    "anyOf": [
        *KEY_SCHEMA["anyOf"],
        {"type": "array", "items": KEY_SCHEMA, "minItems": 1, "maxItems": KEYS_MAX},
        NULL,
    ]
}
ShardKeyIn = int | str
"""A key as it is sent; its range and length are checked by `sharding`."""
ShardKeysIn = (
    ShardKeyIn
    | Annotated[list[ShardKeyIn], Meta(min_length=1, max_length=KEYS_MAX)]
    | UnsetType
    | None
)

Natural = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Positive = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Version = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""A record's version as a condition names it."""
Limit = Annotated[int, Meta(ge=1, le=10_000)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
FilterIn = Annotated[dict[str, Any], Meta(description="A filter: must, should, must_not, ...")]
FieldList = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=256)]


class RequestBody(msgspec.Struct, forbid_unknown_fields=True):
    """Base of request bodies and of the objects inside them."""

    lacking: ClassVar[frozenset[str]] = frozenset()
    """Fields of the public shape that are not served: null is accepted, a value is a 400."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Fields of which exactly one is given, for the API description."""
    examples: ClassVar[frozenset[str]] = frozenset()
    """Fields that take vectors or ids, for what may be binary."""
    described: ClassVar[Mapping[str, Any]] = {}
    """Schemas of fields that are narrower than what is decoded to be refused by name."""


class PayloadSelector(RequestBody):
    """Which payload fields to return: those included, or all but those excluded."""

    one_of: ClassVar[tuple[str, ...]] = ("include", "exclude")

    include: FieldList | UnsetType = UNSET
    exclude: FieldList | UnsetType = UNSET


WithPayload = bool | FieldList | PayloadSelector | UnsetType | None
WithVector = bool | list[str] | UnsetType | None


def given(value: T | UnsetType | None, default: D) -> T | D:
    """Return a field's value, or the default when it is absent or null."""
    return default if value is UNSET or value is None else value
