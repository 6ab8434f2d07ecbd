"""What no reader of MessagePack checks, checked on the bytes before anything is made of them.

A length in MessagePack is only declared: a reader that takes memory for it can be made to take
any amount. So a body is walked first, token by token, and every length is held against the bytes
that are left. The walk refuses what JSON cannot say or must not (keys that are no text, NaN and
infinities, extension types, NUL characters), and what readers pass over without a word (a key
twice, bytes behind the value), counts values, and notes where binary data stands.

Arrays of numbers, which is what vectors are, are recognised by their first element and judged in
one step, so that a body costs what its other values cost.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import Final, NamedTuple, NoReturn

import numpy as np

from cluster.api.json_location import render_path
from cluster.api.strict_json import NESTING_MAX, VALUES_MAX, field_of_nesting
from cluster.errors import BadRequest, PayloadTooLarge

Path = list[str | int]

_FLOAT32, _FLOAT64 = 0xCA, 0xCB
_NEVER: Final = 0xC1
_TOO_SHORT: Final = "the body is not MessagePack: it ends too early"
_MANY: Final = 8
"""Shorter arrays are not worth a look at whether they hold numbers only."""
BINARIES_MAX: Final = 256 * 1024
"""Binary data in a body: each is a vector, and a body has less room for these."""
_BINARY_DEPTH_MAX: Final = 8
"""Vectors do not lie deeper; the path of each is kept."""
KEYS_MAX: Final = 1024 * 1024
"""Keys of the maps that a place lies in: they are kept, to find one that is there twice."""
_FIXED_INTEGERS: Final = bytes([*range(0x80), *range(0xE0, 0x100)])
_FLOATS: Final = {
    _FLOAT32: np.dtype([("head", "u1"), ("value", ">f4")]),
    _FLOAT64: np.dtype([("head", "u1"), ("value", ">f8")]),
}
_LENGTH_BYTES: Final = {
    0xD9: 1,
    0xDA: 2,
    0xDB: 4,  # text
    0xC4: 1,
    0xC5: 2,
    0xC6: 4,  # binary
    0xDC: 2,
    0xDD: 4,  # array
    0xDE: 2,
    0xDF: 4,  # map
}
_WHOLE: Final = {
    **dict.fromkeys(_FIXED_INTEGERS, 1),
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 1),  # nil, false, true
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,  # unsigned integers
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,  # signed integers
}


class Scan(NamedTuple):
    """What a body holds: how many values, and the paths of its binary data."""

    values: int
    binaries: list[Path]


def scan(raw: bytes) -> Scan:
    """Walk a body whole.

    Raises:
        BadRequest: not one well-formed value, or one that JSON could not have held, or too deep;
            `field` names the place.
        PayloadTooLarge: more values than a body may hold.
    """
    scanner = _Scanner(raw)
    try:
        scanner.value()
    except IndexError:
        raise BadRequest(_TOO_SHORT) from None
    if scanner.at > len(raw):
        raise BadRequest(_TOO_SHORT)
    if scanner.at < len(raw):
        raise BadRequest(f"bytes follow the body's value at byte {scanner.at}")
    return Scan(scanner.values, scanner.binaries)


class _Scanner:
    """A position in a body, and the path to it. Reading past the end raises IndexError."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.values = 0
        self.keys = 0
        """Of the maps that are entered."""
        self.path: Path = []
        self.binaries: list[Path] = []

    def value(self) -> None:
        """Pass over one value."""
        head = self.raw[self.at]
        size = _WHOLE.get(head)
        self._count(1)
        if size is not None:
            self.at += size
        elif head in _FLOATS:
            self._float(head)
        elif 0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB:
            self._text()
        elif 0xC4 <= head <= 0xC6:
            self._binary()
        elif 0x90 <= head <= 0x9F or head in (0xDC, 0xDD):
            self._array(self._length())
        elif 0x80 <= head <= 0x8F or head in (0xDE, 0xDF):
            self._map(self._length())
        elif head == _NEVER:
            self._refuse(f"the body is not MessagePack at byte {self.at}")
        else:
            self._refuse("extension types are not served")

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > VALUES_MAX:
            raise PayloadTooLarge(f"the body holds more than {VALUES_MAX} values")

    def _length(self) -> int:
        """Return the length that a head declares, and stand behind it; fits what is left."""
        head = self.raw[self.at]
        width = _LENGTH_BYTES.get(head, 0)
        start = self.at + 1
        self.at = start + width
        if width:
            length = int.from_bytes(self.raw[start : self.at])
        else:
            length = head & (0x1F if head >= 0xA0 else 0x0F)
        if length > len(self.raw) - self.at:
            raise IndexError
        return length

    def _binary(self) -> None:
        length = self._length()
        self.at += length
        if len(self.path) > _BINARY_DEPTH_MAX:
            field = field_of_nesting(render_path(self.path))
            raise BadRequest("binary data is taken for vectors only", field=field)
        if len(self.binaries) == BINARIES_MAX:
            raise PayloadTooLarge(f"the body holds more than {BINARIES_MAX} binary vectors")
        self.binaries.append(self.path.copy())

    def _text(self) -> str:
        length = self._length()
        part = self.raw[self.at : self.at + length]
        self.at += length
        try:
            text = part.decode()
        except UnicodeDecodeError:
            self._refuse("the body is not valid UTF-8")
        if "\0" in text:
            self._refuse("text must not contain NUL")
        return text

    def _float(self, head: int) -> None:
        kind = _FLOATS[head]
        if self.at + kind.itemsize > len(self.raw):
            raise IndexError
        value = np.frombuffer(self.raw, kind, 1, self.at)["value"][0]
        if not np.isfinite(value):
            self._refuse("NaN and Infinity are not numbers in JSON")
        self.at += kind.itemsize

    def _array(self, length: int) -> None:
        if length >= _MANY and self._numbers(length):
            return
        self._enter()
        for position in range(length):
            self.path[-1] = position
            self.value()
        self.path.pop()

    def _numbers(self, length: int) -> bool:
        """Pass over an array's elements if they are numbers of one kind."""
        head = self.raw[self.at]
        kind = _FLOATS.get(head)
        if kind is not None:
            end = self.at + length * kind.itemsize
            if end > len(self.raw):
                return False
            found = np.frombuffer(self.raw, kind, length, self.at)
            if not (found["head"] == head).all():
                return False
            if not np.isfinite(found["value"]).all():
                self._refuse("NaN and Infinity are not numbers in JSON")
        else:
            end = self.at + length
            if self.raw[self.at : end].translate(None, _FIXED_INTEGERS):
                return False
        self.at = end
        self._count(length)
        return True

    def _map(self, length: int) -> None:
        if 2 * length > len(self.raw) - self.at:
            raise IndexError
        self.keys += length
        if self.keys > KEYS_MAX:
            raise PayloadTooLarge(f"objects in the body hold more than {KEYS_MAX} keys")
        self._enter()
        seen: set[str] = set()
        for _ in range(length):
            head = self.raw[self.at]
            if not (0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB):
                self.path.pop()
                self._refuse("a key is not text")
            key = self._text()
            self.path[-1] = key
            if key in seen:
                self._refuse("a key appears twice in one object")
            seen.add(key)
            self.value()
        self.path.pop()
        self.keys -= length

    def _enter(self) -> None:
        if len(self.path) > NESTING_MAX:
            field = field_of_nesting(render_path(self.path))
            raise BadRequest("nested too deeply", field=field)
        self.path.append("")

    def _refuse(self, message: str) -> NoReturn:
        raise BadRequest(message, field=render_path(self.path) or None)
