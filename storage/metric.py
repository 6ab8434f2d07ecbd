"""The four distances as one quantity to minimise, and vectors made safe to compare.

Inside the index a row has a *key*, a float32 that is smaller the closer the row is: minus the dot
product, the squared Euclidean or the Manhattan distance. Keys become scores, in the collection's
own sense, only when hits leave.

Three rules keep keys finite and precise, so that no NaN ever reaches a graph or a sort:
- rows and queries are finite float32 of the right length, else ValueError;
- a norm above `NORM_MAX` is scaled down to it: |q||v| bounds every partial sum of a dot product
  (Cauchy-Schwarz), and (|q|+|v|)^2 that of a squared distance, below float32's 3.4e38;
- a query is normalised under Cosine, and under Dot multiplied by the power of two (exact) that
  brings its norm to [0.5, 1), because hnswlib computes 1 - q.v, which loses digits unless q.v is
  about 1. The score is multiplied back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
"""float32[n, dimension], C-contiguous."""
Keys = npt.NDArray[np.float32]
Distance = Literal["Cosine", "Euclid", "Dot", "Manhattan"]
Space = Literal["ip", "l2"]

NORM_MAX: Final = 9.0e18
_SQUARE_MAX: Final = NORM_MAX**2
_PRODUCT_BYTES: Final = 1 << 20
_CACHED_BYTES: Final = 1 << 19
_UNIT_TOLERANCE: Final = 1e-5
_SORTED_MAX: Final = 256
"""To sort so many is quicker than to look for the smallest first."""
_SPACES: Final[dict[str, Space | None]] = {
    "Cosine": "ip",
    "Dot": "ip",
    "Euclid": "l2",
    "Manhattan": None,
}


class Query(NamedTuple):
    """A prepared query vector, and the factor that its scores are multiplied with."""

    vector: Keys
    scale: float


class Metric:
    """One of the four distances, for vectors of one dimension."""

    def __init__(self, distance: str, dimension: int) -> None:
        if distance not in _SPACES:
            raise ValueError(f"unknown distance '{distance}'")
        if dimension < 1:
            raise ValueError("a dimension is at least 1")
        self.distance = distance
        self.dimension = dimension
        self.space: Final = _SPACES[distance]
        """hnswlib's space, or None when it has none and every search is exact."""

    def rows(self, vectors: Sequence[bytes]) -> Matrix:
        """Return little-endian float32 vectors as a matrix that is safe to index.

        Raises:
            ValueError: a wrong length or a non-finite element, naming the row.
        """
        width = 4 * self.dimension
        for position, raw in enumerate(vectors):
            if len(raw) != width:
                raise ValueError(f"row {position}: {len(raw)} bytes, not {width}")
        matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), self.dimension)
        return self._bounded(matrix)

    def query(self, vector: npt.ArrayLike) -> Query:
        """Validate and prepare a query vector of shape (dimension,).

        Raises:
            ValueError: a wrong shape, a non-finite element, or under Cosine a zero norm.
        """
        if isinstance(vector, np.ndarray) and self._is_ready(vector):
            return Query(vector, 1.0)
        prepared = _as_float32(vector)
        if prepared.shape != (self.dimension,):
            raise ValueError(f"a vector of shape {prepared.shape}, not ({self.dimension},)")
        square = _square(prepared)
        if not square < _SQUARE_MAX:
            bounded = self._bounded(prepared.reshape(1, -1))[0]
            prepared = prepared if self.space == "ip" else bounded
        if self.distance == "Cosine":
            return Query(_normalised(prepared, square), 1.0)
        if self.distance == "Dot":
            return _scaled(prepared)
        return Query(prepared, 1.0)

    def queries(self, vectors: Matrix, *, unit: bool = False) -> tuple[list[Query], Matrix]:
        """Prepare each of vectors[n, dimension] as `query` does; return them as rows, too.

        `unit`: under Cosine they are known to be finite and of length 1.
        """
        rows = list(vectors)
        if unit and self.distance == "Cosine":
            return [Query(row, 1.0) for row in rows], vectors
        prepared = list(map(self.query, rows))
        if all(query.vector is row for query, row in zip(prepared, rows, strict=True)):
            return prepared, vectors
        return prepared, np.stack([query.vector for query in prepared])

    def _is_ready(self, vector: Keys) -> bool:
        """Return whether there is nothing to do: the usual case, and the path is hot."""
        if self.distance != "Cosine" or vector.shape != (self.dimension,):
            return False
        if vector.dtype != np.float32 or not vector.flags.c_contiguous:
            return False
        return is_unit(vector, _UNIT_TOLERANCE)

    def keys(self, rows: Matrix, query: Keys, out: Keys) -> None:
        """Write the key of each of rows[n, dimension] to out[n]."""
        if self.space == "ip":
            self._dot(rows, query, out)
            np.negative(out, out=out)
            return
        step = max(1, _CACHED_BYTES // (4 * self.dimension))
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            self._distances(rows[piece], query, out[piece])

    def keys_many(self, rows: Matrix, queries: Matrix, out: Matrix) -> None:
        """Write the keys of rows[n, dimension] for queries[m, dimension] to out[m, n].

        A piece of the rows that is in the processor's cache is compared with all queries; all in
        one call, since between two a thread may wait for the interpreter.
        """
        if self.space != "ip" or len(queries) == 1:
            for query, keys in zip(queries, out, strict=True):
                self.keys(rows, query, keys)
            return
        step, count = max(1, _CACHED_BYTES // (4 * self.dimension)), len(rows)
        even = count - count % step
        if even:
            pieces = rows[:even].reshape(-1, 1, step, self.dimension)
            keys = out[:, :even].reshape(len(queries), -1, step)
            np.matmul(pieces, queries[:, :, None], out=keys.transpose(1, 0, 2)[..., None])
        if even < count:
            np.matmul(rows[even:], queries[:, :, None], out=out[:, even:, None])
        np.negative(out, out=out)

    def _distances(self, rows: Matrix, query: Keys, out: Keys) -> None:
        difference = np.subtract(rows, query)
        if self.space == "l2":
            np.einsum("ij,ij->i", difference, difference, out=out)
            return
        np.abs(difference, out=difference)
        difference.sum(axis=1, out=out)

    def _dot(self, rows: Matrix, query: Keys, out: Keys) -> None:
        """Multiply in pieces, all in one call, since larger products would wake other threads."""
        step = max(1, _PRODUCT_BYTES // (4 * self.dimension))
        even = len(rows) // step * step if len(rows) > step else 0
        if even:
            pieces = rows[:even].reshape(-1, step, self.dimension)
            np.matmul(pieces, query, out=out[:even].reshape(-1, step))
        if even < len(rows):
            # np.dot would copy rows that are not contiguous
            np.matmul(rows[even:], query, out=out[even:])

    def graph_keys(self, distances: Keys) -> Keys:
        """Return the keys of hnswlib's distances: 1 - q.v in its ip space, |q-v|^2 in l2."""
        return distances - np.float32(1.0) if self.space == "ip" else distances

    def scores(self, keys: list[float], scale: float) -> list[float]:
        """Return scores in the collection's sense for keys of a query of that scale."""
        if self.space == "ip":
            return [(0.0 - key) * scale for key in keys]
        if self.space == "l2":
            return [math.sqrt(key) for key in keys]
        return keys

    def _bounded(self, matrix: Matrix) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("ij,ij->i", matrix, matrix)
        suspects = np.flatnonzero(~(squares < _SQUARE_MAX))
        if not len(suspects):
            return matrix
        matrix = matrix.copy()
        for row in suspects.tolist():
            norm = _norm(matrix[row])
            if not math.isfinite(norm):
                raise ValueError(f"row {row}: a vector's elements are finite numbers")
            matrix[row] = matrix[row].astype(np.float64) * (NORM_MAX * 0.999 / norm)
        return matrix


def smallest(keys: Keys, limit: int) -> npt.NDArray[np.int64]:
    """Return the positions of the `limit` smallest keys, ascending; equals in their order."""
    if len(keys) <= max(4 * limit, _SORTED_MAX):
        return keys.argsort(kind="stable")[:limit]
    last = np.partition(keys, limit - 1)[limit - 1]
    candidates: npt.NDArray[np.int64] = (keys <= last).nonzero()[0]
    return candidates[keys[candidates].argsort(kind="stable")][:limit]


def is_unit(vector: Keys, tolerance: float = 1e-6) -> bool:
    """Return whether a float32 vector's squared length is 1: by default as float32 can tell."""
    return abs(_square(vector) - 1.0) < tolerance


def _square(vector: Keys) -> float:
    """Return the squared norm; infinity or NaN where it is not a finite float32.

    `vdot`, unlike `dot`, neither warns then nor offers the interpreter to other threads.
    """
    return float(np.vdot(vector, vector))


def _norm(vector: Keys) -> float:
    """Return the norm in float64, in which no finite float32 vector over- or underflows."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def _as_float32(vector: npt.ArrayLike) -> Keys:
    if isinstance(vector, np.ndarray) and vector.dtype == np.float32:
        return np.ascontiguousarray(vector)
    with np.errstate(over="ignore"):  # it becomes an infinity, which is refused by name
        return np.ascontiguousarray(vector, dtype=np.float32)


def _scaled(vector: Keys) -> Query:
    norm = _norm(vector)
    if norm == 0.0:
        return Query(vector, 1.0)
    _, exponent = math.frexp(norm)
    return Query(np.ldexp(vector, -exponent), math.ldexp(1.0, exponent))


def _normalised(vector: Keys, square: float) -> Keys:
    if abs(square - 1.0) < _UNIT_TOLERANCE:
        return vector
    norm = _norm(vector)
    if norm == 0.0:
        raise ValueError("a vector of norm zero has no direction, which Cosine compares")
    return np.asarray(vector.astype(np.float64) / norm, dtype=np.float32)
