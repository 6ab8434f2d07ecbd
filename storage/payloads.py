"""Payloads: JSON objects as bytes in one canonical form, so that replicas agree on every byte.

Canonical is what orjson writes with sorted keys. U+0000 is refused anywhere: SQLite's JSON
functions end a text at it. Lone surrogates, NaN, infinities and numbers that overflow a double
are no JSON to orjson.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

EMPTY_PAYLOAD: Final = b"{}"
# In valid JSON an escape begins at a backslash that an even number of backslashes precedes.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

PayloadChange = Callable[[bytes], bytes]
"""Makes a stored (canonical) payload into the canonical one that takes its place."""


class PayloadOverflow(Exception):
    """A payload would grow beyond its limit."""


def canonical_payload(raw: bytes) -> bytes:
    """Return the canonical bytes of a JSON object.

    Raises:
        ValueError: not a JSON object, nested deeper than 254, or it holds U+0000.
    """
    value = orjson.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("a payload is a JSON object")  # noqa: TRY004
    try:
        text = _dump(value)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None
    if b"\\u0000" in text and _NUL.search(text):
        raise ValueError("a payload holds no U+0000")
    return text


def merging(patch: bytes) -> PayloadChange:
    """Set the patch's top-level keys; `patch` is canonical."""
    fields = orjson.loads(patch)
    return lambda stored: _dump(orjson.loads(stored) | fields)


def replacing(payload: bytes) -> PayloadChange:
    """Put a canonical payload in the place of any other."""
    return lambda _: payload


def removing(keys: Iterable[str]) -> PayloadChange:
    """Drop top-level keys."""
    dropped = frozenset(keys)

    def change(stored: bytes) -> bytes:
        fields = orjson.loads(stored)
        return _dump({key: value for key, value in fields.items() if key not in dropped})

    return change


def _dump(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
