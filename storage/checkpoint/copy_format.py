"""Rows in the form in which Postgres takes them fastest: that of its binary COPY.

A row is the number of its fields, then each field as a length and that many bytes, all big-endian;
a length of -1 is NULL. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = struct.pack(">h", -1)
NULL: Final = struct.pack(">i", -1)
_TEXT_OID: Final = 25
_BIGINT_OID: Final = 20
_LENGTH: Final = struct.Struct(">i")
_INTEGER: Final = struct.Struct(">ii")
_BIGINT: Final = struct.Struct(">iq")
_DOUBLE: Final = struct.Struct(">id")
_COUNT: Final = struct.Struct(">h")
_ARRAY: Final = struct.Struct(">iiiii")


def row(fields: Sequence[bytes]) -> bytes:
    """Return a row of fields that the functions below made."""
    return b"".join((_COUNT.pack(len(fields)), *fields))


def raw(value: bytes | None) -> bytes:
    """Return a field of bytes, of text in UTF-8, or of JSON."""
    return NULL if value is None else _LENGTH.pack(len(value)) + value


def text(value: str | None) -> bytes:
    """Return a field of text."""
    return NULL if value is None else raw(value.encode())


def integer(value: int) -> bytes:
    """Return an `integer`."""
    return _INTEGER.pack(4, value)


def bigint(value: int | None) -> bytes:
    """Return a `bigint`."""
    return NULL if value is None else _BIGINT.pack(8, value)


def double(value: float) -> bytes:
    """Return a `double precision`."""
    return _DOUBLE.pack(8, value)


def texts(values: Sequence[str]) -> bytes:
    """Return a `text[]`."""
    return _array(_TEXT_OID, [text(value) for value in values])


def bigints(values: Sequence[int]) -> bytes:
    """Return a `bigint[]`."""
    return _array(_BIGINT_OID, [bigint(value) for value in values])


def fields_of(rows: bytes) -> list[list[bytes]]:
    """Return what the fields of rows hold, none of which is NULL."""
    found, at = [], 0
    while at < len(rows):
        (count,) = _COUNT.unpack_from(rows, at)
        at += _COUNT.size
        fields = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(rows, at)
            assert length >= 0, "no field is NULL"
            at += _LENGTH.size + length
            fields.append(rows[at - length : at])
        found.append(fields)
    return found


def _array(element: int, fields: Sequence[bytes]) -> bytes:
    """One dimension, counted from 1; an empty array has none."""
    if not fields:
        return raw(struct.pack(">iii", 0, 0, element))
    return raw(_ARRAY.pack(1, 0, element, len(fields), 1) + b"".join(fields))
