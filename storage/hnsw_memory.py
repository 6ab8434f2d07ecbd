"""hnswlib's own memory, read where it lies: the vectors of many rows at memory speed.

hnswlib hands a row out as a list of Python floats, at about 15 us; a search that compares a
thousand admitted rows cannot wait for that, and a second copy of all vectors would double the
memory. So this module finds the array in which hnswlib 0.8 keeps its rows, and offers it as a
read-only numpy array. A row of that array is: links of the lowest level, vector, label.

Nothing is taken on trust. Sizes that the caller knows must stand where they are expected before a
pointer next to them is followed, and the first rows must read as hnswlib itself gives them. Where
anything differs (another build, another version) there is no view, and the caller asks hnswlib.

A view is valid until the graph grows; its owner excludes growth while it is read.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Final, NamedTuple

import hnswlib
import numpy as np
import numpy.typing as npt

from storage import huge_pages

Words = npt.NDArray[np.float32]
"""float32[rows, words]: each row of hnswlib's array, links and label read as floats, too."""

_WORD: Final = 8
_OBJECT_WORDS: Final = 3
"""Of the Python object: reference count, type, and the address of the C++ object."""
_INDEX_WORDS: Final = 10
_INDEX_DIMENSION: Final = 4
_INDEX_COUNT: Final = 8
_INDEX_GRAPH: Final = 9
"""Places, in words, in hnswlib's class Index."""
_GRAPH_WORDS: Final = 40
_GRAPH_CAPACITY: Final = 1
_SIGNATURE_FROM: Final = 20
"""Behind mutexes and vectors, whose sizes differ between platforms."""


class Layout(NamedTuple):
    """How one row lies in hnswlib's array, in bytes."""

    links: int
    vector: int

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.links + self.vector + _WORD


class GraphMemory:
    """The place of one graph's array; `locate` finds it."""

    def __init__(self, layout: Layout, capacity_at: int, rows_at: int) -> None:
        self._layout = layout
        self._capacity = ctypes.c_uint64.from_address(capacity_at)
        self._rows = ctypes.c_uint64.from_address(rows_at)
        self._seen = (0, 0)
        self._view: Words = np.empty((0, layout.row // 4), dtype=np.float32)

    def words(self, count: int) -> Words:
        """Return the array's first `count` rows, as a view that the next growth invalidates."""
        assert count <= self._capacity.value, "hnswlib has room for its rows"
        place = (self._rows.value, count)
        if place != self._seen:
            shape = (count, self._layout.row // 4)
            self._view, self._seen = np.asarray(_Interface(place[0], shape)), place
        return self._view

    def gather(self, count: int) -> None:
        """Have the array's first `count` rows in huge pages, where the system can."""
        huge_pages.gather(self._rows.value, count * self._layout.row)

    def vectors(self, words: Words) -> Words:
        """Return the columns of `words` that are the vectors."""
        start = self._layout.links // 4
        return words[:, start : start + self._layout.vector // 4]

    def labels(self, words: Words) -> npt.NDArray[np.int64]:
        """Return the labels in `words`."""
        return np.ascontiguousarray(words[:, -2:]).view(np.int64)[:, 0]


class _Interface:
    """What numpy asks an object for that wants to be seen as an array."""

    def __init__(self, address: int, shape: tuple[int, int]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "<f4",
            "shape": shape,
            "data": (address, True),
        }


def locate(index: hnswlib.Index, layout: Layout) -> GraphMemory | None:
    """Return the memory of an initialised index, or None where it is not as expected."""
    if sys.implementation.name != "cpython" or sys.byteorder != "little":
        return None
    if struct.calcsize("P") != _WORD or layout.row % 4:
        return None
    address = _read(id(index), _OBJECT_WORDS)[2]
    fields = _read(address, _INDEX_WORDS)
    known = (fields[_INDEX_DIMENSION] & 0xFFFFFFFF, fields[_INDEX_COUNT])
    if known != (layout.vector // 4, index.get_current_count()):
        return None
    graph = fields[_INDEX_GRAPH]
    at = _signature_at(_read(graph, _GRAPH_WORDS), index, layout)
    if at is None:
        return None
    found = GraphMemory(layout, graph + _WORD * _GRAPH_CAPACITY, graph + _WORD * at)
    return found if _reads_as_given(found, index) else None


def _signature_at(words: list[int], index: hnswlib.Index, layout: Layout) -> int | None:
    """Return the place of the array's address, from the sizes that stand before it."""
    m = index.M
    sizes = [index.max_elements, index.element_count, layout.row, 4 * m + 4, 0, m, m, 2 * m]
    if words[_GRAPH_CAPACITY : _GRAPH_CAPACITY + len(sizes)] != sizes:
        return None
    signature = [layout.links, layout.links, 0, layout.links + layout.vector]
    for at in range(_SIGNATURE_FROM, _GRAPH_WORDS - len(signature)):
        if words[at : at + len(signature)] == signature:
            return at + len(signature)
    return None


def _reads_as_given(found: GraphMemory, index: hnswlib.Index) -> bool:
    words = found.words(min(index.element_count, 2))
    if not len(words):
        return True
    given = np.asarray(index.get_items(found.labels(words)), dtype=np.float32)
    return np.array_equal(given, found.vectors(words))


def _read(address: int, count: int) -> list[int]:
    return list((ctypes.c_uint64 * count).from_address(address))
