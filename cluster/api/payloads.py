"""Payloads: bounds on what is stored, and selection of what is returned.

A selection names fields by path: `a.b` goes into objects, `a[].b` into the objects of an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import UNSET, UnsetType

from cluster.api.schema import PayloadSelector
from cluster.errors import BadRequest, UnsupportedFeature

DEPTH_MAX: Final = 32
"""Nested containers in a payload, the payload itself included."""

Payload = Mapping[str, Any]


def check_payload(payload: dict[str, Any], bytes_max: int, field: str) -> None:
    """Check a payload's size as JSON and its depth.

    Raises:
        BadRequest: larger than `bytes_max`, or deeper than 32 containers.
    """
    if not payload:
        return
    text = orjson.dumps(payload)
    if len(text) > bytes_max:
        raise BadRequest(f"the payload is larger than {bytes_max} bytes of JSON", field=field)
    # Brackets bound the depth from above at the speed of a byte scan; few payloads need more.
    if text.count(b"{") + text.count(b"[") > DEPTH_MAX and _depth_exceeds(payload, DEPTH_MAX):
        raise BadRequest(f"the payload is nested deeper than {DEPTH_MAX}", field=field)


class PayloadSelection:
    """What of a payload is returned: all of it, some fields, all but some, or nothing."""

    __slots__ = ("_exclude", "_include", "wanted")

    def __init__(
        self,
        *,
        wanted: bool,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> None:
        self.wanted = wanted
        self._include = None if include is None else [_steps(path) for path in include]
        self._exclude = None if exclude is None else [_steps(path) for path in exclude]

    def apply(self, payload: dict[str, Any] | None) -> dict[str, Any]:
        """Return the selected part; a point without payload has an empty one."""
        if payload is None:
            return {}
        if self._include is not None:
            return _included(payload, self._include)
        if self._exclude is not None:
            return _excluded(payload, self._exclude)
        return payload


ALL: Final = PayloadSelection(wanted=True)
NONE: Final = PayloadSelection(wanted=False)


def payload_selection(
    value: bool | list[str] | PayloadSelector | UnsetType | None,  # noqa: FBT001
    default: PayloadSelection,
    field: str,
) -> PayloadSelection:
    """Read `with_payload`.

    Raises:
        BadRequest: an object without `include` or `exclude`, or with both.
    """
    if value is UNSET or value is None:
        return default
    if isinstance(value, bool):
        return ALL if value else NONE
    if isinstance(value, list):
        return PayloadSelection(wanted=True, include=value)
    if isinstance(value.include, list) == isinstance(value.exclude, list):
        raise BadRequest("give either include or exclude", field=field)
    if isinstance(value.include, list):
        return PayloadSelection(wanted=True, include=value.include)
    assert isinstance(value.exclude, list), "one of the two is a list"
    return PayloadSelection(wanted=True, exclude=value.exclude)


def vector_wanted(
    value: bool | list[str] | UnsetType | None,  # noqa: FBT001
    field: str,
) -> bool:
    """Read `with_vector`.

    Raises:
        UnsupportedFeature: names of vectors, which only named vectors have.
    """
    if isinstance(value, list):
        raise UnsupportedFeature("named vectors are not supported", field=field)
    return value is True


def _depth_exceeds(value: Any, room: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return room == 0 or any(_depth_exceeds(item, room - 1) for item in items)


_Steps = list[str]


def _steps(path: str) -> _Steps:
    return path.split(".")


def _included(payload: Payload, paths: list[_Steps]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in payload.items():
        if [key] in paths:
            kept[key] = value
            continue
        inner = [steps[1:] for steps in paths if len(steps) > 1 and steps[0] == key]
        elements = [steps[1:] for steps in paths if steps[0] == f"{key}[]"]
        if inner and isinstance(value, dict):
            part = _included(value, inner)
            if part:
                kept[key] = part
        elif elements and isinstance(value, list):
            kept[key] = _included_elements(value, elements)
    return kept


def _included_elements(values: list[Any], paths: list[_Steps]) -> list[Any]:
    if [] in paths:
        return values
    return [_included(value, paths) for value in values if isinstance(value, dict)]


def _excluded(payload: Payload, paths: list[_Steps]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in payload.items():
        if [key] in paths or [f"{key}[]"] in paths:
            continue
        inner = [steps[1:] for steps in paths if len(steps) > 1 and steps[0] == key]
        elements = [steps[1:] for steps in paths if steps[0] == f"{key}[]"]
        if inner and isinstance(value, dict):
            kept[key] = _excluded(value, inner)
        elif elements and isinstance(value, list):
            kept[key] = [
                _excluded(item, elements) if isinstance(item, dict) else item for item in value
            ]
        else:
            kept[key] = value
    return kept
