"""Where things stand in a picture.

Each connected part is laid out for itself: in layers from left to right where the story has a
direction, and else by springs, after which boxes that overlap are moved apart. Then the parts are
put side by side. The same graph always gives the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse import csgraph

from graph.layout_columns import Pair, Point
from graph.layout_layers import layered

Size = tuple[float, float]
Array = npt.NDArray[np.float64]

_RELAXATIONS: Final = 80
_LINK: Final = 64.0
"""How long a line between the borders of two boxes wants to be."""
_MARGIN: Final = (18.0, 16.0)
_BROAD: Final = (1.35, 1.0)
"""Boxes are broad, so a picture has to be."""
_SIDEWAYS: Final = 2.0
"""Boxes rather give way to the side, even if that is so much further."""
_TALL: Final = 1_500.0
_ROUNDS: Final = 400


class Layout(NamedTuple):
    """Centres of the boxes, and for pairs in layers the points that their line goes through."""

    points: list[Point]
    routes: dict[Pair, list[Point]]


def laid_out(sizes: Sequence[Size], links: Sequence[tuple[int, int, float]]) -> Layout:
    """Return a layout of boxes and links (from, to, room that its captions take)."""
    room: dict[Pair, float] = {}
    for source, target, width in links:
        room[source, target] = max(width, room.get((source, target), 0.0))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(sizes)))
    graph.add_edges_from(room)
    points: list[Point] = [(0.0, 0.0)] * len(sizes)
    routes: dict[Pair, list[Point]] = {}
    groups = sorted((sorted(each) for each in nx.connected_components(graph)), key=_largest_first)
    layouts = [_component(group, sizes, room) for group in groups]
    boxes = [
        _bounds(layout, [sizes[index] for index in group])
        for group, layout in zip(groups, layouts, strict=True)
    ]
    shifts = _packed([(right - left, low - top) for left, top, right, low in boxes])
    for group, layout, box, (x, y) in zip(groups, layouts, boxes, shifts, strict=True):
        dx, dy = x - box[0], y - box[1]
        for index, point in zip(group, layout.points, strict=True):
            points[index] = (point[0] + dx, point[1] + dy)
        for (source, target), line in layout.routes.items():
            routes[group[source], group[target]] = [(x + dx, y + dy) for x, y in line]
    return Layout(points, routes)


def _largest_first(group: list[int]) -> tuple[int, int]:
    return -len(group), group[0]


def _component(group: list[int], all_sizes: Sequence[Size], room: dict[Pair, float]) -> Layout:
    """Lay out one connected part; indexes are those in the group."""
    index = {each: at for at, each in enumerate(group)}
    sizes = [all_sizes[each] for each in group]
    own = {
        (index[source], index[target]): width
        for (source, target), width in room.items()
        if source in index
    }
    if len(group) == 1:
        return Layout([(0.0, 0.0)], {})
    layers = layered(sizes, list(own), own)
    if layers is not None:
        layout = Layout(*layers)
        left, top, right, low = _bounds(layout, sizes)
        if low - top <= max(_TALL, 2 * (right - left)):
            return layout
    return Layout(_sprung(sizes, own), {})


def _bounds(layout: Layout, sizes: Sequence[Size]) -> tuple[float, float, float, float]:
    corners = [
        (x + sign * width / 2, y + sign * height / 2)
        for (x, y), (width, height) in zip(layout.points, sizes, strict=True)
        for sign in (-1, 1)
    ]
    corners += [point for line in layout.routes.values() for point in line]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _packed(boxes: Sequence[Size]) -> list[Point]:
    """Return the top left corners of boxes put on shelves, in their order."""
    gap = 48.0
    area = sum((width + gap) * (height + gap) for width, height in boxes)
    widest = max([math.sqrt(area * 1.6), *(width for width, _ in boxes)], default=0.0)
    corners: list[Point] = []
    x = y = shelf = 0.0
    for width, height in boxes:
        if x and x + width > widest:
            x, y, shelf = 0.0, y + shelf + gap, 0.0
        corners.append((x, y))
        x, shelf = x + width + gap, max(shelf, height)
    return corners


# -- springs --------------------------------------------------------------------------------------


def _sprung(sizes: Sequence[Size], room: dict[Pair, float]) -> list[Point]:
    graph = nx.Graph()
    graph.add_nodes_from(range(len(sizes)))
    for (source, target), width in room.items():
        if source != target:
            reach = sum(sum(sizes[end]) / 4 for end in (source, target))
            graph.add_edge(source, target, length=reach + max(_LINK, width))
    points = _relaxed(graph, _rings(graph))
    points = _turned(points, list(room)) * np.array(_BROAD)
    return [(float(x), float(y)) for x, y in _apart(points, np.array(sizes, float))]


def _relaxed(graph: nx.Graph, start: Array) -> Array:
    """Return places as far from each other as the way between them is long: least squares,
    relative to the length, by majorization."""
    lengths = csgraph.shortest_path(nx.to_scipy_sparse_array(graph, weight="length"))
    np.fill_diagonal(lengths, 1.0)
    weights = lengths**-2.0
    np.fill_diagonal(weights, 0.0)
    inverse = np.linalg.inv(np.diag(weights.sum(axis=1)) - weights + 1 / len(start))
    points: Array = start * lengths.max() / 2
    for _ in range(_RELAXATIONS):
        apart = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2)
        pull = -weights * lengths / np.maximum(apart, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        points = inverse @ (pull @ points)
    return points


def _rings(graph: nx.Graph) -> Array:
    """Return first places within a unit circle: rings around the figure of most links, on which
    families stand side by side."""
    hub = max(graph.nodes, key=lambda each: (graph.degree(each), -each))
    tree = nx.bfs_tree(graph, hub)
    leaves: dict[int, int] = {}
    for vertex in reversed(list(nx.topological_sort(tree))):
        leaves[vertex] = sum(leaves[child] for child in tree.successors(vertex)) or 1
    sectors = {hub: (0.0, 2 * math.pi, 0)}
    places: dict[int, Point] = {}
    for vertex in nx.topological_sort(tree):
        begin, end, depth = sectors[vertex]
        middle = (begin + end) / 2
        places[vertex] = depth * math.cos(middle), depth * math.sin(middle)
        for child in tree.successors(vertex):
            share = (end - begin) * leaves[child] / leaves[vertex]
            sectors[child] = begin, begin + share, depth + 1
            begin += share
    points = np.array([places[vertex] for vertex in range(len(places))], float)
    return points / max(1.0, float(np.abs(points).max()))


def _turned(points: Array, pairs: Sequence[Pair]) -> Array:
    """Lay the longest extent across, and let arrows rather go to the right than to the left."""
    centred = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned: Array = centred @ axes.T
    if sum(turned[target, 0] - turned[source, 0] for source, target in pairs) < 0:
        turned = -turned
    return turned


def _apart(points: Array, sizes: Array) -> Array:
    """Move boxes until none touches another."""
    need = (sizes[:, None, :] + sizes[None, :, :]) / 2 + np.array(_MARGIN)
    points = points + np.arange(len(points))[:, None] * np.array([1e-6, 1e-6])
    for turn in range(_ROUNDS):
        delta = points[:, None, :] - points[None, :, :]
        lack = need - np.abs(delta)
        close = (lack > 0).all(axis=2)
        np.fill_diagonal(close, val=False)
        if not close.any():
            break
        across = lack[:, :, 0] < _SIDEWAYS * lack[:, :, 1]
        push = np.sign(delta) * lack / 2 * 0.8
        points[:, 0] += (push[:, :, 0] * (close & across)).sum(axis=1).clip(-60, 60)
        points[:, 1] += (push[:, :, 1] * (close & ~across)).sum(axis=1).clip(-60, 60)
        if turn % 10 == 9:
            points *= 1.03
    return points
