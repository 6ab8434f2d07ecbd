"""How alike vectors are, as one number of which more is better, whatever the distance.

Cosine and Dot compare by the inner product; stored vectors are of length 1 under Cosine. Euclid
compares by minus the squared distance and Manhattan by minus the distance, as Qdrant does inside.
Queries that weigh several comparisons against each other (diversity, recommendation) use it.
"""

from __future__ import annotations

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from cluster.model import Distance

Matrix = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


def similarities(rows: Matrix, vector: npt.NDArray[np.float32], distance: Distance) -> Scores:
    """Return how alike each of rows[n, dimension] is to vector[dimension], as float64[n]."""
    match distance:
        case "Cosine" | "Dot":
            found = rows @ vector
        case "Euclid":
            difference = rows - vector
            found = -np.einsum("ij,ij->i", difference, difference)
        case "Manhattan":
            found = -np.abs(rows - vector).sum(axis=1)
        case _:
            assert_never(distance)
    return np.asarray(found, dtype=np.float64)


def similarity_of(score: float, distance: Distance) -> float:
    """Return the similarity that a search's score stands for."""
    match distance:
        case "Cosine" | "Dot":
            return score
        case "Euclid":
            return -score * score
        case "Manhattan":
            return -score
        case _:
            assert_never(distance)


def unit(vectors: Matrix, distance: Distance) -> Matrix:
    """Return vectors[n, dimension] as they are compared: of length 1 under Cosine.

    None of them may be zero there.
    """
    if distance != "Cosine":
        return vectors
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    assert (norms > 0).all(), "a vector that is compared by Cosine has a direction"
    scaled: Matrix = (wide / norms[:, np.newaxis]).astype(np.float32)
    return scaled


def sigmoid(value: float) -> float:
    """Return x / (1 + |x|) moved to 0..1: it grows with x, and costs no exponential."""
    if math.isinf(value):
        return 1.0 if value > 0 else 0.0
    return 0.5 * (value / (1.0 + abs(value)) + 1.0)
