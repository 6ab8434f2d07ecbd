"""Names and ids as they arrive in paths and bodies: checked once, at the border.

A collection's name is decoded once (by the router of aiohttp) and then only compared, never
joined to a path. A UUID is accepted in the forms that other servers accept (hyphenated, bare,
urn) and always becomes lower-case hyphenated text; Python's own reader would accept more.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Final

from cluster.errors import BadRequest
from storage.ids import ID_MAX, PointId

NAME_PATTERN: Final = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}$"

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_FORMS: Final = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}", re.IGNORECASE
)
_DIGITS: Final = re.compile(r"[0-9]{1,20}")


def collection_name(text: str, field: str = "collection_name") -> str:
    """Return a valid collection name.

    Raises:
        BadRequest: outside `[A-Za-z0-9_.-]{1,255}`, or starting with a dot.
    """
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "a collection name has 1 to 255 of A-Z a-z 0-9 _ . - and does not start with a dot",
            field=field,
        )
    return text


def graph_name(text: str, field: str = "name") -> str:
    """Return a valid graph name, as `collection_name` does; raises BadRequest."""
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "a graph name has 1 to 255 of A-Z a-z 0-9 _ . - and does not start with a dot",
            field=field,
        )
    return text


def point_id(value: int | str, field: str) -> PointId:
    """Return a valid id in its canonical form.

    Raises:
        BadRequest: an integer outside 0..2^64-1, or text that is no UUID.
    """
    if type(value) is int:
        if 0 <= value <= ID_MAX:
            return value
    elif isinstance(value, str):
        if _UUID.fullmatch(value):
            return value
        if _UUID_FORMS.fullmatch(value):
            return str(uuid.UUID(value))
    raise BadRequest("an id is an unsigned 64-bit integer or a UUID", field=field)


def point_ids(values: Iterable[int | str], field: str) -> list[PointId]:
    """Return valid ids; the first bad one is named by its position."""
    return [point_id(value, f"{field}[{at}]") for at, value in enumerate(values)]


def path_id(text: str, field: str = "id") -> PointId:
    """Return the id that a URL names: digits are an integer."""
    if _DIGITS.fullmatch(text):
        return point_id(int(text), field)
    return point_id(text, field)
