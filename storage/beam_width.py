"""How wide a graph is searched when nobody says: as wide as its own queries need.

How much of the true neighbours a beam finds depends on the data and on what is asked for. Stored
rows are no measure of it: on 117,659 x 384 sentence embeddings a beam of 32 finds 0.994 of the
neighbours of stored rows, and 0.935 of those of real queries, which lie between the rows. So a few
of the queries that come are kept, and searched again at leisure: with a beam so wide that it misses
next to nothing, then with wider and wider ones, until enough is found. (Comparing every row would
take fifty times as long, much of it with the interpreter's lock, for the same answer.) Until there
are enough queries the width is `DEFAULT_EF`.

A share of a few hundred queries may err by a hundredth, and a beam for a hundredth more is a fifth
slower. So rounds of measuring follow each other, their results are added up, and the width becomes
as narrow as what is known by then allows. What is known is kept with the graph (`beam_file`), so a
node that starts again goes on where it was; queries that wait for a round are not.

Pure but for the searches that it is given, and deterministic: each `SAMPLE_EVERY`-th query is kept,
later fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

import msgspec

from storage.metric import Keys

DEFAULT_EF: Final = 72
"""Gives recall@10 of 0.978 on 117,659 x 384 sentence embeddings at M=16."""
WIDTHS: Final = (*range(32, 80, 4), *range(80, 128, 8), 128, 160, 192, 256, 320, 384, 512)
TRUTH_WIDTH: Final = 1024
"""Found 0.99995 of what an exact search finds for 2,000 queries of the embeddings above, in 2.8 ms
each."""
NEIGHBOURS: Final = 10
RECALL_MIN: Final = 0.97
SAMPLES: Final = 256
"""Queries of a round."""
ROUNDS: Final = 16
"""After so many rounds a graph is left alone: the error of a share like 0.97 is about 0.0013."""
SAMPLE_EVERY: Final = 4
SAMPLE_LATER_EVERY: Final = 256
"""After `EARLY_ROUNDS`: what a round takes, a second, is then little of a busy node's time."""
EARLY_ROUNDS: Final = 4
FEW: Final = EARLY_ROUNDS * SAMPLES
FEW_ERRORS: Final = 2.0
"""By so many standard errors few queries have to find enough: a width that was lucky with them is
narrower than it should be until later rounds tell. With one, one of three runs had 0.969."""
ROWS_MIN: Final = 10_000
"""A smaller graph is searched in no time by any width."""
TAIL_MAX: Final = 256
"""Rows that wait for the graph beside which it is measured: every search compares them."""
GROWTH: Final = 1.5
"""A graph that has grown by as much is measured anew."""
_ROWS_MAX: Final = 1 << 31
_ROUNDING: Final = 1.0 + 1e-9
_STEPS_BACK: Final = 2
"""A round begins with a width that is narrower by so many steps than the one before it chose."""

Search = Callable[[Sequence[Keys], int], Sequence[Sequence[Hashable]]]
"""Returns the NEIGHBOURS nearest rows of each query with a beam width."""


class Recalls(NamedTuple):
    """What one width found of each query's neighbours, 0..1, added up."""

    queries: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, recalls: Sequence[float]) -> Recalls:
        """Return the sums with more recalls."""
        squares = sum(each * each for each in recalls)
        return Recalls(
            self.queries + len(recalls), self.total + sum(recalls), self.squares + squares
        )

    @property
    def mean(self) -> float:
        """What the width found of a query's neighbours."""
        return self.total / self.queries

    @property
    def are_enough(self) -> bool:
        """Whether the mean is at least RECALL_MIN, by as many standard errors as it takes."""
        variance = max(0.0, self.squares / self.queries - self.mean * self.mean)
        errors = FEW_ERRORS if self.queries <= FEW else 1.0
        return self.mean - errors * math.sqrt(variance / self.queries) >= RECALL_MIN

    @property
    def are_possible(self) -> bool:
        """Whether they may be the sums of some recalls; NaN never is."""
        return (
            self.queries > 0
            and 0.0 <= self.total <= self.queries * _ROUNDING
            and 0.0 <= self.squares <= self.total * _ROUNDING
            and self.total * self.total <= self.squares * self.queries * _ROUNDING
        )


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the rounds have found of a graph."""

    width: int
    rows: int
    """Rows of the graph when its first round was measured."""
    rounds: int
    recalls: dict[int, Recalls]
    """By width, over all rounds of this graph."""

    def check(self) -> None:
        """Raise ValueError unless rounds may have found this."""
        queries_max = 2 * SAMPLES * ROUNDS  # threads that note at once may keep some more
        if not (ROWS_MIN <= self.rows < _ROWS_MAX and 0 < self.rounds <= ROUNDS):
            raise ValueError("no graph is measured so")
        if not self.recalls.keys() <= set(WIDTHS):
            raise ValueError("another width was measured")
        for known in self.recalls.values():
            if known.queries > queries_max or not known.are_possible:
                raise ValueError("what was found contradicts itself")
        chosen = self.recalls.get(self.width)
        if chosen is None or not (chosen.mean >= RECALL_MIN or self.width == WIDTHS[-1]):
            raise ValueError("the width is not what was found")


class BeamWidth:
    """The width of one graph. `note` may be called from any thread, the rest from one."""

    def __init__(self) -> None:
        self.width = DEFAULT_EF
        self._seen = 0
        self._samples: list[Keys] = []
        self._rows = 0
        """Rows of the graph when its first round was measured."""
        self._rounds = 0
        self._recalls: dict[int, Recalls] = {}
        """By width, over all rounds of this graph."""

    @property
    def measured(self) -> Measured | None:
        """What is known of the graph; None before the first round."""
        if not self._rounds:
            return None
        return Measured(self.width, self._rows, self._rounds, dict(self._recalls))

    def restore(self, measured: Measured) -> None:
        """Go on from what was measured, and checked, before."""
        assert not self._rounds, "only a graph of which nothing is known"
        self.width, self._rows, self._rounds = measured.width, measured.rows, measured.rounds
        self._recalls = dict(measured.recalls)

    def note(self, query: Keys, rows: int) -> bool:
        """Take notice of a query of a graph of so many rows; True: it is time to measure."""
        self._seen += 1
        if self._seen % (SAMPLE_EVERY if self.is_early(rows) else SAMPLE_LATER_EVERY):
            return False
        if len(self._samples) >= SAMPLES or not self._is_new(rows):
            return False
        self._samples.append(query.copy())
        return self.is_due(rows)

    def take_samples(self) -> list[Keys]:
        """Return the queries that were kept, and keep them no longer."""
        taken, self._samples = self._samples, []
        return taken

    def add_samples(self, queries: Sequence[Keys], rows: int) -> bool:
        """Keep queries that somebody else kept; True: it is time to measure."""
        room = SAMPLES - len(self._samples)
        if not queries or not self._is_new(rows):
            return False
        self._samples += queries[:room]
        return self.is_due(rows)

    def is_due(self, rows: int) -> bool:
        """Return whether a round is to be measured on a graph of so many rows."""
        return len(self._samples) >= SAMPLES and self._is_new(rows)

    def is_early(self, rows: int) -> bool:
        """Return whether little is known of a graph of so many rows, and that of few queries."""
        if rows < ROWS_MIN:
            return False
        return self._rounds < EARLY_ROUNDS or self._has_grown(rows)

    def _is_new(self, rows: int) -> bool:
        return rows >= ROWS_MIN and (self._rounds < ROUNDS or self._has_grown(rows))

    def _has_grown(self, rows: int) -> bool:
        return rows >= GROWTH * self._rows

    def measure(self, rows: int, search: Search) -> None:
        """Set the width to the narrowest that finds enough, allowing for the samples' error."""
        queries, self._samples = self._samples, []
        truth = list(map(frozenset, search(queries, TRUTH_WIDTH)))
        if not any(truth):
            return  # all rows have died meanwhile: there is nothing to find
        first = 0
        if self._has_grown(rows):
            self._rows, self._rounds, self._recalls = rows, 0, {}
        else:
            first = max(0, WIDTHS.index(self.width) - _STEPS_BACK)
        self._rounds += 1
        for width in WIDTHS[first:]:
            found = zip(truth, search(queries, width), strict=True)
            known = self._recalls.get(width, Recalls())
            shares = [len(true.intersection(hits)) / len(true) for true, hits in found if true]
            self._recalls[width] = known.plus(shares)
            if self._recalls[width].are_enough:
                break
        self.width = width
