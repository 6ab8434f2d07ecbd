"""Vectors to search in, queries, and their true nearest neighbours: a folder, or generated.

A folder holds vectors.f16.npy, queries.f16.npy and neighbors.i32.npy (the true neighbours by
cosine, best first). Generated vectors lie around centres, as embeddings do; between isotropic ones
there would be nothing to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

K: Final = 10
GENERATED_ROWS: Final = 20_000
_DIMENSION: Final = 384
_QUERIES: Final = 2_000
_SPREAD: Final = 0.6

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Neighbours = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Dataset:
    """vectors[n, d] and queries[m, d] of unit length, truth[m, K] by cosine."""

    name: str
    vectors: Matrix
    queries: Matrix
    truth: Neighbours


def opened(folder: Path | None, rows: int = 0, queries: int = 0) -> Dataset:
    """Return a folder's data, or the first rows and queries of it; without one, generated."""
    if folder is None:
        return _generated(rows or GENERATED_ROWS, queries or _QUERIES)
    everything = np.load(folder / "vectors.f16.npy")
    vectors = _unit(everything[: rows or None])
    asked = _unit(np.load(folder / "queries.f16.npy")[: queries or None])
    if len(vectors) == len(everything):
        truth = np.load(folder / "neighbors.i32.npy")[: len(asked), :K]
    else:
        truth = neighbours(vectors, asked)
    return Dataset(folder.name, vectors, asked, truth)


def recall(found: list[list[int]], truth: Neighbours) -> float:
    """Return the mean share of the true nearest that were found."""
    pairs = zip(found, truth[: len(found)].tolist(), strict=True)
    return sum(len(set(ids) & set(row)) for ids, row in pairs) / (K * len(found))


def _generated(rows: int, queries: int) -> Dataset:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((max(8, rows // 100), _DIMENSION))
    drawn = centres[rng.integers(len(centres), size=rows + queries)]
    points = _unit(drawn + _SPREAD * rng.standard_normal(drawn.shape))
    vectors, asked = points[:rows], points[rows:]
    return Dataset("generated", vectors, asked, neighbours(vectors, asked))


def _unit(raw: np.ndarray[Any, Any]) -> Matrix:
    wide: Matrix = raw.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def neighbours(vectors: Matrix, asked: Matrix) -> Neighbours:
    """Return the K nearest of vectors to each query by cosine; both are of unit length."""
    parts = []
    for start in range(0, len(asked), 200):
        scores = asked[start : start + 200] @ vectors.T
        parts.append(np.argsort(-scores, axis=1)[:, :K].astype(np.int32))
    return np.concatenate(parts)
