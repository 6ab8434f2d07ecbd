"""The only module that touches hnswlib, which trusts its caller completely.

What it does unchecked, and what stands in front of it here:
- NaN or infinity poisons the graph, a wrong dimension reads past the buffer: rows and queries come
  from `storage.metric` and are asserted to have the right shape and type;
- M=0 or a query before the first row crash, k above what the graph reaches raises: `__init__`
  checks parameters, `query` returns None;
- a file that is not its own writes outside memory: `load` compares the header with what the
  caller knows before hnswlib opens the file, and the caller has verified its checksum;
- comparing rows one by one asks it for each, which is slow: `storage.hnsw_memory` looks where they
  lie, if it can;
- the beam width `ef` is a field shared by all threads: it stays at 1, and a query asks for k = ef
  rows instead, because hnswlib uses max(ef, k). More rows than needed cost nothing measurable.

Adding must exclude everything else; queries may run together. Labels are the caller's slots.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import hnswlib
import numpy as np
import numpy.typing as npt

from storage.hnsw_memory import Layout, Words, locate
from storage.metric import Keys, Matrix, Metric

Slots = npt.NDArray[np.int64]

M_RANGE: Final = range(2, 513)
EF_CONSTRUCT_RANGE: Final = range(4, 10_001)
_CAPACITY_MIN: Final = 1024
_GROWTH: Final = 1.5
_ROWS_PER_COPY: Final = 64
"""get_items holds the interpreter lock at about 15 us a row; this keeps each hold near 1 ms."""
_BYTES_PER_SCAN: Final = 192 * 1024
"""Rows that are compared at a time: they stay in the processor's cache, and on this thread."""
_COPY_COST: Final = 10.0
_SCAN_COST: Final = 0.06
"""What comparing one row costs, in rows of a search's beam: it takes 15 us to copy a row, 0.1 to
0.2 us to read it where it lies."""

_GATHER_AGAIN: Final = 1.1
"""Rows are gathered in huge pages again when a tenth of them is new."""

_HEADER: Final = struct.Struct("<QQQQQQiIQQQdQ")


class _Header(NamedTuple):
    """The start of hnswlib 0.8's file, as HierarchicalNSW::saveIndex writes it."""

    offset_level0: int
    max_elements: int
    rows: int
    size_per_element: int
    label_offset: int
    data_offset: int
    max_level: int
    entry_point: int
    max_m: int
    max_m0: int
    m: int
    level_multiplier: float
    ef_construction: int


class _Scratch(threading.local):
    """Memory of a thread for rows that it compares.

    It is kept: memory that is taken and given back for each search has new pages each time, and to
    get these takes ten times as long as the comparing.
    """

    words: Words = np.empty(0, dtype=np.float32)

    def rows(self, count: int, words: int) -> Words:
        """Return room for float32[count, words]."""
        if len(self.words) < count * words:
            self.words = np.empty(count * words, dtype=np.float32)
        return self.words[: count * words].reshape(count, words)


_scratch: Final = _Scratch()


class Hnsw:
    """A graph of rows by slot. Not safe for threads by itself: see `storage.rwlock`."""

    def __init__(
        self, metric: Metric, *, m: int, ef_construct: int, seed: int, capacity: int = 0
    ) -> None:
        """Make an empty graph with room for `capacity` rows. It grows beyond them, and holds the
        interpreter lock while it does: for 5 to 17 ms where it has thousands of rows.

        Raises:
            ValueError: a parameter out of range.
        """
        assert metric.space is not None, "hnswlib has no such space"
        if m not in M_RANGE:
            raise ValueError(f"m is {M_RANGE.start}..{M_RANGE.stop - 1}")
        if ef_construct not in EF_CONSTRUCT_RANGE:
            stop = EF_CONSTRUCT_RANGE.stop - 1
            raise ValueError(f"ef_construct is {EF_CONSTRUCT_RANGE.start}..{stop}")
        self._metric = metric
        self._m = m
        self._layout = Layout(4 * (2 * m + 1), 4 * metric.dimension)
        self._ef_construct = ef_construct
        self._seed = seed
        self.count = self._gathered = 0
        self._index = self._new_index()
        room = max(capacity, _CAPACITY_MIN)
        self._index.init_index(room, M=m, ef_construction=ef_construct, random_seed=seed)
        self._settle()

    def add(self, rows: Matrix, slots: Slots, *, threads: int = 1) -> None:
        """Insert rows[n, dimension] under new slots[n]. Needs the graph for itself.

        Raises:
            MemoryError: the graph could not grow.
        """
        assert rows.shape == (len(slots), self._metric.dimension), "a row for each slot"
        assert rows.dtype == np.float32, "hnswlib would reinterpret other types"
        self._reserve(self.count + len(slots))
        self._index.add_items(rows, slots.astype(np.uint64), num_threads=threads)
        self.count = self._index.get_current_count()
        self._place_new()

    def query(self, vector: Keys, k: int) -> tuple[Slots, Keys] | None:
        """Return the k nearest slots with their keys, nearest first, found with beam width k.

        None: the graph does not reach k rows, which can be with many equal vectors.
        """
        found = self.query_many(vector.reshape(1, -1), k)
        return None if found is None else (found[0][0], found[1][0])

    def query_many(self, vectors: Matrix, k: int) -> tuple[Slots, Keys] | None:
        """Return slots[n, k] and keys[n, k] for vectors[n, dimension]; None as in `query`."""
        assert 1 <= k <= self.count, "hnswlib would read what is not there"
        assert vectors.shape[1] == self._metric.dimension, "it would read past the buffer"
        try:
            slots, distances = self._index.knn_query(vectors, k=k)
        except RuntimeError:
            return None
        return slots.view(np.int64), self._metric.graph_keys(distances)

    def rows(self, slots: Slots) -> Matrix:
        """Return the vectors of slots that were added, as float32[n, dimension]."""
        rows = np.empty((len(slots), self._metric.dimension), dtype=np.float32)
        for part, vectors in self._gathered_rows(slots):
            rows[part] = vectors
        return rows

    def keys(self, slots: Slots, vector: Keys) -> Keys:
        """Return the keys of slots that were added, compared one by one."""
        keys = np.empty(len(slots), dtype=np.float32)
        for part, vectors in self._gathered_rows(slots):
            self._metric.keys(vectors, vector, keys[part])
        return keys

    def _gathered_rows(self, slots: Slots) -> Iterator[tuple[slice, Matrix]]:
        """Yield the vectors of slots[n] in pieces; one holds until the next is asked for."""
        if self._memory is None:
            for start in range(0, len(slots), _ROWS_PER_COPY):
                part = slice(start, min(start + _ROWS_PER_COPY, len(slots)))
                yield part, np.asarray(self._index.get_items(slots[part]), dtype=np.float32)
            return
        words, places = self._memory.words(self.count), self._places.take(slots)
        step = max(1, _BYTES_PER_SCAN // self._layout.row)
        room = _scratch.rows(min(step, len(slots)), words.shape[1])
        for start in range(0, len(slots), step):
            part = slice(start, min(start + step, len(slots)))
            gathered = room[: part.stop - start]
            # Places are right; "clip" lets numpy write to `out` without a copy in between.
            words.take(places[part], axis=0, out=gathered, mode="clip")
            yield part, self._memory.vectors(gathered)

    @property
    def reads_in_place(self) -> bool:
        """Whether rows can be compared where they lie, and need not be handed out."""
        return self._memory is not None

    @property
    def row_cost(self) -> float:
        """What comparing one row costs, in rows of a search's beam."""
        return _COPY_COST if self._memory is None else _SCAN_COST

    def slots(self) -> Slots:
        """Return every slot that was added, in no particular order."""
        return np.array(self._index.get_ids_list(), dtype=np.int64)

    def gather(self) -> None:
        """Have the rows where searches read them faster, unless that was done for most of them.

        Searches may go on meanwhile; it takes 0.35 s for 200 MB.
        """
        if self._memory is not None and self.count > self._gathered * _GATHER_AGAIN:
            self._memory.gather(self.count)
            self._gathered = self.count

    def save(self, path: Path) -> None:
        """Write the graph. Holds the interpreter lock for as long as it takes.

        Raises:
            OSError: not all of it was written; hnswlib itself does not look.
        """
        self._index.save_index(str(path))
        if path.stat().st_size != self._index.index_file_size():
            raise OSError(errno.ENOSPC, "the graph was not written whole", str(path))

    def load(self, path: Path, count: int) -> None:
        """Replace this empty graph by a file that `save` wrote and whose checksum was verified.

        Raises:
            ValueError: the file's header is not that of `count` rows with these parameters.
            RuntimeError: hnswlib found the file inconsistent.
        """
        assert not self.count, "load fills an empty graph"
        self._check_header(path, count)
        self._index = self._new_index()
        self._index.load_index(str(path), max_elements=max(count, _CAPACITY_MIN))
        self._settle()

    def _new_index(self) -> hnswlib.Index:
        return hnswlib.Index(space=self._metric.space, dim=self._metric.dimension)

    def _settle(self) -> None:
        self._index.set_num_threads(1)
        self._index.set_ef(1)
        self.count = self._index.get_current_count()
        self._memory = locate(self._index, self._layout)
        self._places = np.zeros(_CAPACITY_MIN, dtype=np.int32)
        """Of each slot, its row in hnswlib's array."""
        self._placed = self._gathered = 0
        self._place_new()

    def _place_new(self) -> None:
        """Learn where the rows are that came since the last call."""
        if self._memory is None or self._placed == self.count:
            return
        labels = self._memory.labels(self._memory.words(self.count)[self._placed :])
        needed = int(labels.max()) + 1
        if needed > len(self._places):
            places = np.zeros(max(needed, int(len(self._places) * _GROWTH)), dtype=np.int32)
            places[: len(self._places)] = self._places
            self._places = places
        self._places[labels] = np.arange(self._placed, self.count)
        self._placed = self.count

    def _reserve(self, count: int) -> None:
        capacity = self._index.get_max_elements()
        if count > capacity:
            try:
                self._index.resize_index(max(count, int(capacity * _GROWTH)))
                self._gathered = 0  # the rows have moved
            except RuntimeError as error:
                raise MemoryError(str(error)) from None

    def _check_header(self, path: Path, count: int) -> None:
        with path.open("rb") as file:
            raw = file.read(_HEADER.size)
        if len(raw) < _HEADER.size:
            raise ValueError("shorter than its header")
        header = _Header._make(_HEADER.unpack(raw))
        links, vector = self._layout
        expected = header._replace(
            offset_level0=0,
            rows=count,
            size_per_element=self._layout.row,
            label_offset=links + vector,
            data_offset=links,
            max_m=self._m,
            max_m0=2 * self._m,
            m=self._m,
            ef_construction=max(self._ef_construct, self._m),
        )
        if header != expected or header.max_elements < count or header.entry_point >= max(count, 1):
            raise ValueError("not the header of this graph")
