"""Where captions stand: beside their line, off the boxes and off each other where that can be.

A caption is tried at some places along its line, above or below it. What it would cover decides:
boxes and captions are not to be covered, lines rather not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np

from graph.drawing_curves import Box, Curve, Point
from graph.drawing_scene import CAPTION_SIZE
from graph.drawing_text import text_width

_CELL: Final = 80.0
_CLEAR: Final = 2.5
_DOT: Final = 7.0
"""A line is taken as dots that are so far apart."""
_DOT_AREA: Final = 9.0
"""What covering a dot counts as."""
_GRID: Final = 3.0
_GRID_CELLS_MAX: Final = 1_500
_MIDDLE: Final = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74)
_BEGIN: Final = (0.2, 0.28, 0.14, 0.36, 0.44)
_END: Final = (0.76, 0.68, 0.82, 0.6, 0.52)
_LATE: Final = (0.72, 0.8, 0.64, 0.87, 0.92, 0.56)
_EARLY: Final = tuple(1 - share for share in _LATE)
PLACES: Final = {"begin": _BEGIN, "early": _EARLY, "middle": _MIDDLE, "late": _LATE, "end": _END}
"""For a caption of a line's begin, middle or end: shares of the line's length, the best first."""


class Caption(NamedTuple):
    """A text with its place."""

    text: str
    box: Box


class Captions:
    """Places captions one after the other."""

    def __init__(self, boxes: Sequence[Box], curves: Sequence[Curve]) -> None:
        self._cells: dict[tuple[int, int], list[Box]] = {}
        self._lines = _Lines([dot for curve in curves for dot in _dots(curve)])
        for box in boxes:
            self._take(box)

    def place(self, text: str, curve: Curve, where: str) -> Caption:
        """Return a caption at the place along a curve where it covers least, the best first."""
        width, height = text_width(text, CAPTION_SIZE) + 2, CAPTION_SIZE + 1
        points = curve.points()
        tried: list[tuple[float, int, Box]] = []
        for share in PLACES[where]:
            x, y, (nx, ny) = _along(points, share)
            for side in (1, -1):
                off = side * ((abs(nx) * width + abs(ny) * height) / 2 + _CLEAR)
                box = Box(x + nx * off, y + ny * off, width, height)
                covered = sum(box.overlap(other) for other in self._near(box))
                covered += _DOT_AREA * self._lines.within(box)
                tried.append((covered, len(tried), box))
        best = min(tried)[2]
        self._take(best)
        return Caption(text, best)

    def _take(self, box: Box) -> None:
        for cell in _cells(box):
            self._cells.setdefault(cell, []).append(box)

    def _near(self, box: Box) -> dict[Box, None]:
        return dict.fromkeys(other for cell in _cells(box) for other in self._cells.get(cell, ()))


class _Lines:
    """How many dots lie in a box: sums over a grid, so that asking is cheap."""

    def __init__(self, dots: Sequence[Point]) -> None:
        places = np.array(dots or [(0.0, 0.0)])
        self._low = places.min(axis=0)
        extent = float((places.max(axis=0) - self._low).max())
        self._step = max(_GRID, extent / _GRID_CELLS_MAX)
        cells = ((places - self._low) / self._step).astype(int)
        counts = np.zeros(cells.max(axis=0) + 2, int)
        np.add.at(counts, (cells[:, 0] + 1, cells[:, 1] + 1), 1)
        self._sums = counts.cumsum(axis=0).cumsum(axis=1)

    def within(self, box: Box) -> int:
        """Return the dots in the cells whose middles a box covers."""
        middle = np.array((box.x, box.y)) - self._low
        half = np.array((box.width, box.height)) / 2
        begin = np.rint((middle - half) / self._step).astype(int)
        end = np.rint((middle + half) / self._step).astype(int)
        (x0, y0), (x1, y1) = np.clip((begin, end), 0, np.array(self._sums.shape) - 1).tolist()
        sums = self._sums
        return int(sums[x1, y1] - sums[x0, y1] - sums[x1, y0] + sums[x0, y0])


def _cells(box: Box) -> list[tuple[int, int]]:
    left, right = (int((box.x + sign * box.width / 2) // _CELL) for sign in (-1, 1))
    top, low = (int((box.y + sign * box.height / 2) // _CELL) for sign in (-1, 1))
    return [(x, y) for x in range(left, right + 1) for y in range(top, low + 1)]


def _dots(curve: Curve) -> Iterator[Point]:
    for (x0, y0), (x1, y1) in pairwise(curve.points()):
        count = 1 + int(math.dist((x0, y0), (x1, y1)) / _DOT)
        for part in range(count):
            yield x0 + (x1 - x0) * part / count, y0 + (y1 - y0) * part / count


def _along(points: Sequence[Point], share: float) -> tuple[float, float, Point]:
    """Return the point at a share of a line's length, and the direction that leads up from it."""
    lengths = list(accumulate((math.dist(*pair) for pair in pairwise(points)), initial=0.0))
    wanted = share * lengths[-1]
    at = max(1, next(index for index, length in enumerate(lengths) if length >= wanted))
    step = max(1e-9, lengths[at] - lengths[at - 1])
    part = (wanted - lengths[at - 1]) / step
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    up = (y1 - y0) / step, (x0 - x1) / step
    if up[1] > 0:
        up = -up[0], -up[1]
    return x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, up
