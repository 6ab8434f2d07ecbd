"""From layers to places: each layer becomes a column, with room for captions between columns.

Lines are level where they pass a column, so that they cross each other only between columns. A
first or last layer of many figures is staggered: it takes two columns, and the lines of the outer
one lead through the gaps of the inner.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

Point = tuple[float, float]
Pair = tuple[int, int]

ROW_GAP: Final = 20.0
_COLUMN_GAP: Final = 56.0
_STAGGERED_MIN: Final = 13
_STAGGERED_PITCH: Final = 0.63
_STAGGERED_GAP: Final = 22.0
_FAN_GAP: Final = 90.0
"""The width in which many lines fan out; those of a staggered layer have their captions behind."""
_NEAR: Final = 16.0
"""A point of a line that is so near to its end says nothing new."""


class Layers(NamedTuple):
    """Places of the figures, and for each pair the points that its line goes through."""

    points: list[Point]
    routes: dict[Pair, list[Point]]


class Grid(NamedTuple):
    """Vertices in layers: figures, then bends. `ways` are the vertices that lines lead through."""

    layers: list[list[int]]
    ways: dict[Pair, list[int]]
    heights: list[float]
    figures: int

    def layer_of(self) -> dict[int, int]:
        """Return the number of each vertex's layer."""
        return {vertex: at for at, layer in enumerate(self.layers) for vertex in layer}

    def staggered(self, at: int) -> bool:
        """Return whether a layer is in two columns: the first or last one, if it is long."""
        layer = self.layers[at]
        outer = at in (0, len(self.layers) - 1)
        return outer and len(layer) >= _STAGGERED_MIN

    def pitches(self, at: int) -> list[float]:
        """Return how far below the one before each vertex of a layer has to be at least."""
        layer = self.layers[at]
        share = _STAGGERED_PITCH if self.staggered(at) else 1.0
        heights = [self.heights[vertex] for vertex in layer]
        return [share * ((above + below) / 2 + ROW_GAP) for above, below in pairwise(heights)]


class _Columns(NamedTuple):
    """Where each layer's column begins and ends, and where each figure's middle is."""

    left: list[float]
    right: list[float]
    middle: dict[int, float]


def placed(
    grid: Grid,
    sizes: Sequence[tuple[float, float]],
    levels: Sequence[float],
    room: dict[Pair, float],
) -> Layers:
    """Return places for a grid whose vertices have their levels."""
    columns = _columns(grid, sizes, room)
    layer_of = grid.layer_of()
    routes = {}
    for pair, way in grid.ways.items():
        line: list[Point] = []
        for at, vertex in enumerate(way):
            begin, end = columns.left[layer_of[vertex]], columns.right[layer_of[vertex]]
            if vertex < grid.figures:
                middle, half = columns.middle[vertex], sizes[vertex][0] / 2
                begin, end = (begin, middle - half) if at else (middle + half, end)
            line += [(begin, levels[vertex]), (end, levels[vertex])]
        routes[pair] = _thinned(line)
        routes[pair[::-1]] = routes[pair][::-1]
    points = [(columns.middle[vertex], levels[vertex]) for vertex in range(grid.figures)]
    return Layers(points, routes)


def _thinned(line: Sequence[Point]) -> list[Point]:
    (first, *middle, last) = line
    return [first, *(p for p in middle if first[0] + _NEAR < p[0] < last[0] - _NEAR), last]


def _columns(grid: Grid, sizes: Sequence[tuple[float, float]], room: dict[Pair, float]) -> _Columns:
    columns = _Columns([], [], {})
    gaps = _gaps(grid, room)
    last = len(grid.layers) - 1
    before, after = [0.0] * (last + 1), [0.0] * (last + 1)
    if last and grid.staggered(last):
        before[last], gaps[last - 1] = gaps[last - 1], _FAN_GAP
    if last and grid.staggered(0):
        after[0], gaps[0] = gaps[0], _FAN_GAP
    begin = 0.0
    for at, layer in enumerate(grid.layers):
        figures = [vertex for vertex in layer if vertex < grid.figures]
        width = max((sizes[vertex][0] for vertex in figures), default=0.0)
        aside = (width + _STAGGERED_GAP) if grid.staggered(at) else 0.0
        end = begin + before[at] + width + aside + after[at]
        columns.left.append(begin)
        columns.right.append(end)
        for number, vertex in enumerate(figures):
            columns.middle[vertex] = begin + before[at] + width / 2 + aside * (number % 2)
        begin = end + gaps[at]
    return columns


def _gaps(grid: Grid, room: dict[Pair, float]) -> list[float]:
    """Return the width after each layer: what the captions of the lines there take."""
    layer_of = grid.layer_of()
    gaps = [_COLUMN_GAP] * len(grid.layers)
    for (source, target), width in room.items():
        begin, end = sorted((layer_of[source], layer_of[target]))
        for gap in range(begin, end):
            gaps[gap] = max(gaps[gap], width / (end - begin))
    return gaps
