"""Vectors that came as bytes: float32, little-endian, one after the other.

A MessagePack body may hold them where JSON has lists of numbers. They stand in a decoded body as
a list without elements of its own, so that a schema says once what a vector is; whoever needs the
numbers takes the array, which is a view of the bytes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster.errors import BadRequest

ITEM: Final = np.dtype("<f4")


class PackedVector(list[Any]):
    """One vector, or the rows of a matrix, as bytes."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes, field: str) -> None:
        """Take the bytes; raises BadRequest naming `field` unless they are whole float32."""
        super().__init__()
        if len(raw) % ITEM.itemsize:
            raise BadRequest("a binary vector has 4 bytes an element", field=field)
        self._raw = raw

    def array(self) -> npt.NDArray[np.float32]:
        """Return all numbers as float32[n], a view that cannot be written to."""
        return np.frombuffer(self._raw, dtype=ITEM)

    def rows(self, count: int, dimension: int, field: str) -> npt.NDArray[np.float32]:
        """Return the bytes as float32[count, dimension], a view that cannot be written to.

        Raises:
            BadRequest: there are more or fewer numbers.
        """
        numbers = self.array()
        if len(numbers) != count * dimension:
            text = f"{len(numbers)} numbers are not {count} vectors of {dimension}"
            raise BadRequest(text, field=field)
        return numbers.reshape(count, dimension)
