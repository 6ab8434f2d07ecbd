"""Small graphs over stretches of the fresh tail: they find rows before the large graph has them.

To add a row to a graph of 100,000 takes five times as long as to one of some thousands, and it
excludes searches. Where rows come faster than the large graph takes them in, the tail grows, and
a search compares all of it. A segment is a graph of its own over consecutive slots of the tail: it
is built where nobody else sees it, shared when it is complete, and never changes after that. So to
build it excludes nobody, and to search it needs no lock but what keeps its rows in the tail.

The tail remains the truth: it keeps every row until the large graph has it, exact and filtered
searches compare its rows, and a segment is dropped when the last of its rows has left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from storage.copies import digests_of
from storage.hnsw import Hnsw, Slots
from storage.metric import Keys, Matrix
from storage.seq_slots import Numbers
from storage.slots import Flags

ROWS_MIN: Final = 4096
"""To compare fewer rows one by one takes a search less than half a millisecond."""
ROWS_MAX: Final = 16_384
COVERED_MAX: Final = 131_072
COVERED_BYTES_MAX: Final = 200 << 20
"""Vectors that segments hold are in memory twice; what is beyond is compared."""
MERGED: Final = 4
"""So many small segments become one, which costs a search little more than each of them did."""
EF_CONSTRUCT_MAX: Final = 64
"""So 4,096 rows of 384 dimensions take 0.07 ms each, not 0.14 as with 200, and a search as wide as
one of the large graph still finds as much in a segment as there (recall@10 0.98 to 0.99)."""
_NARROW: Final = 3
_FEW: Final = 4
"""A narrow search is a third as wide; a quarter of the hits are no longer few."""
_ROWS_PER_CALL: Final = 64
"""What is between two calls of hnswlib holds the interpreter for a fifth of a millisecond."""


@dataclass(frozen=True, eq=False, slots=True)
class Segment:
    """A graph of the slots [first, last); it labels rows by their distance from `first`."""

    first: int
    last: int
    graph: Hnsw
    copies: dict[int, Numbers]
    """Of a row that stands for others with the same vector, too: all their labels."""

    def expand(self, labels: Numbers, keys: Keys) -> tuple[Numbers, Keys]:
        """Return the slots of labels that were found, with those that have the same vectors."""
        found = [self.copies.get(label) for label in labels.tolist()] if self.copies else []
        if not any(each is not None for each in found):
            return labels + self.first, keys
        alone = labels.reshape(-1, 1)
        parts = [alone[at] if each is None else each for at, each in enumerate(found)]
        keys = np.repeat(keys, [len(part) for part in parts])
        return np.concatenate(parts) + self.first, keys

    def moved(self, offset: int) -> Segment:
        """Return the same rows under other slots."""
        return Segment(self.first + offset, self.last + offset, self.graph, self.copies)

    def validate(self, alive: Flags) -> None:
        """Assert that every living row is found once; slow, for tests."""
        labels = np.sort(self.graph.slots()) if self.graph.count else np.empty(0, dtype=np.int64)
        slots, _ = self.expand(labels, np.zeros(len(labels), dtype=np.float32))
        assert len(np.unique(slots)) == len(slots), "no row is found twice"
        assert ((slots >= self.first) & (slots < self.last)).all(), "a segment keeps to its slots"
        living = np.flatnonzero(alive[self.first : self.last]) + self.first
        assert np.isin(living, slots).all(), "every living row is found"


def next_stretch(
    built: int, used: int, segments: Sequence[Segment], covered_max: int = COVERED_MAX
) -> tuple[int, int] | None:
    """Return the slots [first, last) that the next segment is to cover, if it is time for one.

    The tail has the slots [built, used). Rows that no segment covers come first: each search
    compares them.
    """
    end = max([built, *(each.last for each in segments)])
    room = covered_max - sum(each.last - max(each.first, built) for each in segments)
    if used - end >= ROWS_MIN and room >= ROWS_MIN:
        return end, min(used, end + min(ROWS_MAX, room))
    for at in range(len(segments) - MERGED + 1):
        few = segments[at : at + MERGED]
        side_by_side = all(a.last == b.first for a, b in pairwise(few))
        if side_by_side and all(each.last - each.first < 2 * ROWS_MIN for each in few):
            return max(built, few[0].first), few[-1].last
    return None


class Reach(NamedTuple):
    """How far segments are searched for n queries."""

    width: int
    limit: int
    bounds: Keys
    """Of each query, the key that a row must be below to be among the `limit` nearest."""


Nearest = tuple[Segment, list[Numbers], list[Keys]]
"""What a segment found for each of n queries, labels and keys."""


def nearest(
    segments: Sequence[tuple[Segment, int]], vectors: Matrix, reach: Reach
) -> list[Nearest]:
    """Search segments, each with how many of its rows live, for each of vectors[n, dimension].

    Some may not answer. Where rows have died a search is as much wider as they are many.

    Few rows of a segment are among the nearest of all, as a rule, and for these a narrow search
    does. Where it finds that they are not few, it is done again as wide as the large graph's.
    """
    found = []
    for segment, living in segments:
        assert 0 < living <= segment.last - segment.first, "one without living rows is not asked"
        dead = (segment.last - segment.first) / living
        narrow = max(2 * reach.limit, reach.width // _NARROW)
        answer = _ask(segment, vectors, math.ceil(narrow * dead))
        if answer is None:
            continue
        many = (answer[1] < reach.bounds[:, None]).sum(axis=1) * _FEW > reach.limit
        labels, keys = list(answer[0]), list(answer[1])
        again = np.flatnonzero(many)
        wide = _ask(segment, vectors[again], math.ceil(reach.width * dead)) if len(again) else None
        if wide is not None:
            for at, its_labels, its_keys in zip(again.tolist(), *wide, strict=True):
                labels[at], keys[at] = its_labels, its_keys
        found.append((segment, labels, keys))
    return found


def _ask(segment: Segment, vectors: Matrix, width: int) -> tuple[Slots, Keys] | None:
    count = segment.graph.count
    return segment.graph.query_many(vectors, min(width, count)) if count else None


class Draft:
    """A segment in the making. Equal vectors share a row of its graph, as in the large one."""

    def __init__(self, graph: Hnsw, views: Sequence[Matrix], alive: Flags, first: int) -> None:
        assert sum(map(len, views)) == len(alive) > 0, "a segment has rows"
        self._graph = graph
        self._parts = [
            view[start : start + _ROWS_PER_CALL]
            for view in views
            for start in range(0, len(view), _ROWS_PER_CALL)
        ]
        self._parts.reverse()
        self._alive = alive
        self._first = first
        self._read = 0
        self._known: dict[int, tuple[int, Keys]] = {}
        """By digest, the label and the vector that came first."""
        self._copies: dict[int, list[int]] = {}

    def step(self, limit: int) -> int:
        """Add about `limit` rows, at least one; return how many."""
        before = self._read
        while self._parts and self._read - before < limit:
            self._add(self._parts.pop())
        return self._read - before

    @property
    def first(self) -> int:
        """The first slot of the segment."""
        return self._first

    def segment(self) -> Segment | None:
        """Return the segment when it is complete."""
        if self._parts:
            return None
        self._graph.gather()
        copies = {label: np.array(labels) for label, labels in self._copies.items()}
        return Segment(self._first, self._first + len(self._alive), self._graph, copies)

    def _add(self, rows: Matrix) -> None:
        start, self._read = self._read, self._read + len(rows)
        places = np.flatnonzero(self._alive[start : self._read])
        rows, labels = rows[places], places + start
        new = np.array(
            [*map(self._is_new, rows, labels.tolist(), digests_of(rows))], dtype=np.bool_
        )
        if new.any():
            self._graph.add(rows[new], labels[new])

    def _is_new(self, row: Keys, label: int, digest: int) -> bool:
        """Return whether a row needs one of the graph; else note for whom it has one."""
        known, vector = self._known.setdefault(digest, (label, row))
        if known == label or not np.array_equal(vector, row):
            return True
        self._copies.setdefault(known, [known]).append(label)
        return False
