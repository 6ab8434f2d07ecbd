"""What resembles some examples and not others.

Two strategies, with Qdrant's names and formulas (its documentation, "Explore the data"):

- average_vector: search for avg(positive) + avg(positive) - avg(negative), or for avg(positive);
- best_score: a point is compared with every example. If the closest positive one is closer than
  the closest negative one, its score is s(similarity to it), else -s(similarity to the negative
  one), with s(x) = (x / (1 + |x|) + 1) / 2.

No index knows best scores, so candidates are found by searching near each positive example. They
are enough once the last wanted one is at least as good as anything that was not found can be: what
is in no list is less similar to each example than that example's last candidate, and a negative
example can only lower its score. This is the threshold algorithm of Fagin, Lotem and Naor,
"Optimal aggregation algorithms for middleware", PODS 2001.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cluster.model import Distance
from cluster.similarity import Matrix, Scores, sigmoid, similarities


def average(positive: Matrix, negative: Matrix) -> npt.NDArray[np.float32]:
    """Return the vector to search for; either matrix is [n, dimension], `positive` not empty."""
    assert len(positive), "an average of something"
    middle = positive.astype(np.float64).mean(axis=0)
    if len(negative):
        middle = 2.0 * middle - negative.astype(np.float64).mean(axis=0)
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float32] = middle.astype(np.float32)
    return found


def best_scores(rows: Matrix, positive: Matrix, negative: Matrix, distance: Distance) -> Scores:
    """Return the score of each of rows[n, dimension], more is better."""
    near = _closest(rows, positive, distance)
    far = _closest(rows, negative, distance)
    wins = near > far
    return np.where(wins, _sigmoids(near), -_sigmoids(far))


def score_bound(lasts: Iterable[float]) -> float:
    """Return what no point scores above that is in no list of candidates.

    `lasts`: for each positive example the similarity of its last candidate, or minus infinity when
    its list has every point.
    """
    return sigmoid(max(lasts))


def _closest(rows: Matrix, examples: Matrix, distance: Distance) -> Scores:
    closest = np.full(len(rows), -np.inf)
    for example in examples:
        closest = np.maximum(closest, similarities(rows, example, distance))
    return closest


def _sigmoids(values: Scores) -> Scores:
    with np.errstate(invalid="ignore"):
        found = 0.5 * (values / (1.0 + np.abs(values)) + 1.0)
    return np.where(np.isneginf(values), 0.0, found)
