"""Results that resemble the query but not each other: maximal marginal relevance.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and
Producing Summaries", SIGIR 1998. Candidates are picked one by one; the next is the one with the
greatest

    (1 - diversity) * similarity to the query - diversity * similarity to the closest picked one

so that diversity 0 is the order of the search, and 1 looks away from what is picked already. As
nothing is picked yet, the first is the one that is most similar to the query.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from cluster.model import Distance
from cluster.similarity import Matrix, similarities

_LEAST: Final = float(np.finfo(np.float64).min)


def diverse(
    rows: Matrix,
    query: npt.NDArray[np.float32],
    distance: Distance,
    *,
    limit: int,
    diversity: float,
) -> list[int]:
    """Return the positions of up to `limit` of rows[n, dimension], in the order they are picked.

    Of equals the first is picked. Takes O(limit * n * dimension) and memory for n numbers.
    """
    assert 0.0 <= diversity <= 1.0, "a part of 1"
    relevance = similarities(rows, query, distance)
    closest = np.full(len(rows), -np.inf)
    is_open = np.ones(len(rows), dtype=np.bool_)
    picked: list[int] = []
    while len(picked) < min(limit, len(rows)):
        gain = relevance if not picked else (1.0 - diversity) * relevance - diversity * closest
        # Of vectors too far apart for float32 a gain is no finite number; it is the least one then.
        gain = np.nan_to_num(gain, nan=_LEAST, neginf=_LEAST)
        best = int(np.argmax(np.where(is_open, gain, -np.inf)))
        assert is_open[best], "nothing is picked twice"
        picked.append(best)
        is_open[best] = False
        closest = np.maximum(closest, similarities(rows, rows[best], distance))
    return picked
