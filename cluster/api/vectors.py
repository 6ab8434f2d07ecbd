"""Vectors as they arrive: numbers, or bytes of them, that become finite float32 or are refused.

The schema has seen to it that every element is a number. Here: the exact dimension, finite after
the conversion to float32, and under Cosine a norm that is neither zero nor beyond float32. The
squared norm is taken in float64, where no sum of squares of finite float32 overflows or vanishes,
so it tells at once whether a vector is finite and whether it has a direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from cluster.api.packed import PackedVector
from cluster.errors import BadRequest
from cluster.model import Distance, Vector

SQUARE_MAX: Final = float(np.finfo(np.float32).max) ** 2

VectorLike = Sequence[float] | np.ndarray[Any, np.dtype[np.float32]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class VectorSpace(Protocol):
    """A collection or a graph: what its vectors are like."""

    @property
    def name(self) -> str:
        """The name that users know it by."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    @property
    def distance(self) -> Distance:
        """How they are compared."""

    @property
    def embedding_space(self) -> str | None:
        """The model that they come from, if it is known."""


def check_vector(values: VectorLike, collection: VectorSpace, field: str) -> Vector:
    """Return one vector as float32[dimension].

    Raises:
        BadRequest: wrong dimension, not finite, or without a direction under Cosine.
    """
    row: Vector = check_vectors([values], collection, lambda _: field)[0]
    return row


def check_vectors(
    rows: Sequence[VectorLike] | Matrix, collection: VectorSpace, field_of: Callable[[int], str]
) -> Matrix:
    """Return vectors as float32[n, dimension]; `field_of(i)` names row i.

    A matrix is returned as it is; its rows have the right length.

    Raises:
        BadRequest: naming the first row that cannot be stored.
    """
    matrix: Any = rows if isinstance(rows, np.ndarray) else _stacked(rows, collection, field_of)
    squares = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)
    _refuse_first(~np.isfinite(squares), "is not finite in float32", field_of)
    if collection.distance == "Cosine":
        _refuse_first(squares == 0.0, "has no direction: its norm is zero", field_of)
        _refuse_first(squares > SQUARE_MAX, "has a norm that overflows float32", field_of)
    return matrix  # type: ignore[no-any-return]


def _stacked(
    rows: Sequence[VectorLike], collection: VectorSpace, field_of: Callable[[int], str]
) -> Matrix:
    """Return rows of the collection's dimension as a matrix. Raises BadRequest."""
    dimension = collection.dimension
    rows = [row.array() if isinstance(row, PackedVector) else row for row in rows]
    for position, row in enumerate(rows):
        if len(row) != dimension:
            raise BadRequest(
                f"the vector has {len(row)} elements, the collection has {dimension}",
                field=field_of(position),
            )
    with np.errstate(over="ignore"):
        matrix: Any = np.array(rows, dtype=np.float32).reshape(len(rows), dimension)
    return matrix  # type: ignore[no-any-return]


def _refuse_first(
    bad: np.ndarray[Any, np.dtype[np.bool_]], reason: str, field_of: Callable[[int], str]
) -> None:
    if bad.any():
        raise BadRequest(f"the vector {reason}", field=field_of(int(bad.argmax())))
