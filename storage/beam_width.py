"""How wide a graph is searched when nobody says: as wide as its own queries need.

How much of the true neighbours a beam finds depends on the data and on what is asked for. Stored
rows are no measure of it: on 117,659 x 384 sentence embeddings a beam of 32 finds 0.994 of the
neighbours of stored rows, and 0.935 of those of real queries, which lie between the rows. So a few
of the queries that come are kept, and searched again at leisure: with a beam so wide that it misses
next to nothing, then with wider and wider ones, until enough is found. (Comparing every row would
take fifty times as long, much of it with the interpreter's lock, for the same answer.) Until there
are enough queries the width is `DEFAULT_EF`.

Pure but for the searches that it is given, and deterministic: each `SAMPLE_EVERY`-th query is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import numpy as np

from storage.metric import Keys

DEFAULT_EF: Final = 72
"""Gives recall@10 of 0.978 on 117,659 x 384 sentence embeddings at M=16."""
WIDTHS: Final = (32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512)
TRUTH_WIDTH: Final = 4096
"""Found all that an exact search finds for 300 queries of the embeddings above, in 8 ms each."""
NEIGHBOURS: Final = 10
RECALL_MIN: Final = 0.97
SAMPLES: Final = 256
SAMPLE_EVERY: Final = 16
ROWS_MIN: Final = 10_000
"""A smaller graph is searched in no time by any width."""
GROWTH: Final = 1.5
"""A graph that has grown by as much is measured again."""

Search = Callable[[Keys, int], Sequence[Hashable]]
"""Returns the NEIGHBOURS nearest rows of a query with a beam width."""


class BeamWidth:
    """The width of one graph. `note` may be called from any thread, the rest from one."""

    def __init__(self) -> None:
        self.width = DEFAULT_EF
        self._seen = 0
        self._samples: deque[Keys] = deque(maxlen=SAMPLES)
        self._rows = 0
        """Rows of the graph when it was measured."""

    def note(self, query: Keys, rows: int) -> bool:
        """Take notice of a query of a graph of so many rows; True: it is time to measure."""
        self._seen += 1
        if self._seen % SAMPLE_EVERY:
            return False
        self._samples.append(query.copy())
        return self.is_due(rows)

    def is_due(self, rows: int) -> bool:
        """Return whether a graph of so many rows is to be measured."""
        enough = len(self._samples) == SAMPLES and rows >= ROWS_MIN
        return enough and rows >= GROWTH * self._rows

    def measure(self, rows: int, search: Search) -> None:
        """Set the width to the narrowest that finds enough, allowing for the sample's error."""
        queries = list(self._samples)
        truth = [frozenset(search(query, TRUTH_WIDTH)) for query in queries]
        if not any(truth):
            return  # all rows have died meanwhile: there is nothing to find
        for width in WIDTHS:
            found = zip(truth, (search(query, width) for query in queries), strict=True)
            if is_enough(
                [len(true.intersection(hits)) / len(true) for true, hits in found if true]
            ):
                break
        self.width, self._rows = width, rows


def is_enough(recalls: Sequence[float]) -> bool:
    """Return whether the mean recall is at least RECALL_MIN, by two standard errors."""
    error = float(np.std(recalls)) / len(recalls) ** 0.5
    return bool(np.mean(recalls) - 2 * error >= RECALL_MIN)
