"""Causes on the left, effects on the right: the layers of a graph that is nearly free of cycles.

The method is Sugiyama's. A few arcs are turned round so that no cycle is left; a figure's layer is
the length of the longest way to it; an arc over several layers gets a bend in each between; within
layers figures are ordered by the mean place of their neighbours, as long as that saves crossings;
then each is put as near to its neighbours' height as the order allows.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

import networkx as nx

from graph.layout_columns import Grid, Layers, Pair, placed

REVERSED_SHARE_MAX: Final = 0.15
"""Above this share of arcs turned round, layers would tell a wrong story."""
BENDS_MAX: Final = 500
_ORDER_ROUNDS: Final = 12
_HEIGHT_ROUNDS: Final = 24
_BEND_HEIGHT: Final = 6.0
_STRAIGHT: Final = 6.0
"""How much more than a figure a bend wants to be level with its neighbour."""


def layered(
    sizes: Sequence[tuple[float, float]], pairs: Sequence[Pair], room: dict[Pair, float]
) -> Layers | None:
    """Return a layout, or None when the graph is no matter for layers.

    `pairs` are distinct; `room` is the width that the captions of a pair's line take.
    """
    forward = _forward(len(sizes), pairs)
    turned = sum(pair not in forward for pair in pairs)
    if turned > REVERSED_SHARE_MAX * len(pairs):
        return None
    grid = _grid(sizes, forward)
    if len(grid.heights) - grid.figures > BENDS_MAX:
        return None
    _order(grid)
    levels = _levels(grid)
    return placed(grid, sizes, levels, room)


def _forward(size: int, pairs: Sequence[Pair]) -> dict[Pair, None]:
    """Return the pairs without those to itself, turned round where they would close a cycle."""
    targets: list[list[int]] = [[] for _ in range(size)]
    entered = [0] * size
    for source, target in pairs:
        if source != target:
            targets[source].append(target)
            entered[target] += 1
    forward: dict[Pair, None] = {}
    state = [0] * size
    for root in sorted(range(size), key=lambda each: (entered[each] > 0, each)):
        stack = [(root, iter(targets[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while stack:
            vertex, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[vertex] = 2
                stack.pop()
            elif state[following] == 1:
                forward[following, vertex] = None
            else:
                forward[vertex, following] = None
                if not state[following]:
                    state[following] = 1
                    stack.append((following, iter(targets[following])))
    return forward


def _grid(sizes: Sequence[tuple[float, float]], forward: Iterable[Pair]) -> Grid:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(sizes)))
    graph.add_edges_from(forward)
    layer_of = {
        vertex: number
        for number, generation in enumerate(nx.topological_generations(graph))
        for vertex in generation
    }
    for vertex in reversed(list(nx.topological_sort(graph))):
        if not graph.in_degree(vertex) and graph.out_degree(vertex):
            layer_of[vertex] = min(layer_of[after] for after in graph.successors(vertex)) - 1
    layers: list[list[int]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for vertex in range(len(sizes)):
        layers[layer_of[vertex]].append(vertex)
    heights = [height for _, height in sizes]
    ways: dict[Pair, list[int]] = {}
    for source, target in forward:
        bends = []
        for layer in range(layer_of[source] + 1, layer_of[target]):
            bends.append(len(heights))
            layers[layer].append(len(heights))
            heights.append(_BEND_HEIGHT)
        ways[source, target] = [source, *bends, target]
    return Grid(layers, ways, heights, len(sizes))


# -- the order within layers ----------------------------------------------------------------------


def _neighbours(grid: Grid) -> tuple[list[list[int]], list[list[int]]]:
    before: list[list[int]] = [[] for _ in grid.heights]
    after: list[list[int]] = [[] for _ in grid.heights]
    for way in grid.ways.values():
        for left, right in pairwise(way):
            after[left].append(right)
            before[right].append(left)
    return before, after


def _order(grid: Grid) -> None:
    """Order each layer, by turns from the left and from the right, and keep the best."""
    before, after = _neighbours(grid)
    best = [list(layer) for layer in grid.layers]
    fewest = _crossings(grid.layers, after)
    for turn in range(_ORDER_ROUNDS):
        rightward = turn % 2 == 0
        near = before if rightward else after
        for layer in grid.layers[1:] if rightward else grid.layers[-2::-1]:
            place = {
                vertex: at / len(other) for other in grid.layers for at, vertex in enumerate(other)
            }
            layer.sort(
                key=lambda vertex: _mean([place[each] for each in near[vertex]], place[vertex])
            )
        crossings = _crossings(grid.layers, after)
        if crossings < fewest:
            fewest, best = crossings, [list(layer) for layer in grid.layers]
    grid.layers[:] = best


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _crossings(layers: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    count = 0
    for left, right in pairwise(layers):
        place = {vertex: at for at, vertex in enumerate(right)}
        met: list[int] = []
        for vertex in left:
            ends = sorted(place[each] for each in after[vertex])
            count += sum(len(met) - bisect_right(met, end) for end in ends)
            for end in ends:
                insort(met, end)
    return count


# -- heights --------------------------------------------------------------------------------------


def _levels(grid: Grid) -> list[float]:
    """Return the y of each vertex."""
    before, after = _neighbours(grid)
    levels = [0.0] * len(grid.heights)
    pitches = [grid.pitches(at) for at in range(len(grid.layers))]
    for layer, apart in zip(grid.layers, pitches, strict=True):
        _spread(layer, [0.0] * len(layer), apart, levels)
    for turn in range(_HEIGHT_ROUNDS):
        rightward = turn % 2 == 0
        sides = [before if rightward else after]
        if turn >= _HEIGHT_ROUNDS - 2:
            sides = [before, after]
        for at in range(len(pitches))[:: 1 if rightward else -1]:
            layer = grid.layers[at]
            wanted = [_wanted(vertex, sides, levels, grid.figures) for vertex in layer]
            _spread(layer, wanted, pitches[at], levels)
    return levels


def _wanted(
    vertex: int, sides: Sequence[Sequence[Sequence[int]]], levels: Sequence[float], figures: int
) -> float:
    near = [each for side in sides for each in side[vertex]]
    if not near:
        return levels[vertex]
    straight = vertex >= figures
    weights = [_STRAIGHT if straight and each >= figures else 1.0 for each in near]
    return sum(w * levels[each] for w, each in zip(weights, near, strict=True)) / sum(weights)


def _spread(
    layer: Sequence[int], wanted: Sequence[float], pitches: Sequence[float], levels: list[float]
) -> None:
    """Put a layer's vertices as near to the wanted levels as their order and pitches allow: least
    squares, by pooling neighbours that would be too near."""
    offsets = list(accumulate(pitches, initial=0.0))
    pools: list[tuple[float, int]] = []
    for level, shift in zip(wanted, offsets, strict=True):
        mean, count = level - shift, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean = (mean * count + other * others) / (count + others)
            count += others
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    for vertex, mean, shift in zip(layer, means, offsets, strict=True):
        levels[vertex] = mean + shift
