"""Lines between boxes: curves that begin and end at borders, and arrow heads.

A curve is a row of cubic Bézier segments. Where a layout gives a way the curve goes through its
points, level at each. Else it is straight, or bent a little when several lines join the same two
boxes, and the parts inside the boxes are cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

Point = tuple[float, float]
Segment = tuple[Point, Point, Point, Point]

_BEND: Final = 34.0
_LOOP: Final = 22.0
_LOOP_STEP: Final = 14.0
_STEPS: Final = 16
_CLEAR: Final = 3.0
"""How far from a border a line ends."""


class Box(NamedTuple):
    """A rectangle around a centre."""

    x: float
    y: float
    width: float
    height: float

    def holds(self, point: Point, margin: float = 0.0) -> bool:
        """Return whether a point lies inside, or nearer than the margin."""
        return (
            abs(point[0] - self.x) < self.width / 2 + margin
            and abs(point[1] - self.y) < self.height / 2 + margin
        )

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        across = (self.width + other.width) / 2 - abs(self.x - other.x)
        down = (self.height + other.height) / 2 - abs(self.y - other.y)
        return max(0.0, across) * max(0.0, down)


class Curve(NamedTuple):
    """See the module."""

    segments: tuple[Segment, ...]

    def points(self) -> list[Point]:
        """Return points along the curve, ends included."""
        dense = [self.segments[0][0]]
        for segment in self.segments:
            dense += [_at(segment, step / _STEPS) for step in range(1, _STEPS + 1)]
        return dense

    def direction(self) -> Point:
        """Return the direction, of length one, in which the curve ends."""
        begin, first, second, end = self.segments[-1]
        for before in (second, first, begin):
            length = math.dist(before, end)
            if length > 1e-6:
                return (end[0] - before[0]) / length, (end[1] - before[1]) / length
        return 1.0, 0.0

    def path(self) -> str:
        """Return the curve as SVG path data."""
        first = self.segments[0][0]
        return f"M{_pair(first)}" + self.path_onward()

    def path_onward(self) -> str:
        """Return path data that goes on from where the curve begins."""
        return "".join(
            f"C{_pair(first)} {_pair(second)} {_pair(end)}"
            for _, first, second, end in self.segments
        )


def _pair(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def level_curve(points: Sequence[Point]) -> Curve:
    """Return a curve through points that is level at each; its ends stand clear of the borders."""
    (first, *middle, last) = points
    sign = 1.0 if last[0] >= first[0] else -1.0
    ends = [(first[0] + sign * _CLEAR, first[1]), *middle, (last[0] - sign * _CLEAR, last[1])]
    segments = []
    for begin, end in pairwise(ends):
        half = (begin[0] + end[0]) / 2
        segments.append((begin, (half, begin[1]), (half, end[1]), end))
    return Curve(tuple(segments))


def clear_curve(source: Box, target: Box, others: Sequence[Box], bend: float) -> Curve:
    """Return a curve from border to border that passes behind as few other boxes as a bend can
    bring about; `bend` is what it has at least."""
    best = border_curve(source, target, bend)
    fewest = _covered(best, others)
    for more in (1.0, -1.0, 2.0, -2.0):
        if not fewest:
            break
        curve = border_curve(source, target, bend + more)
        covered = _covered(curve, others)
        if covered < fewest:
            best, fewest = curve, covered
    return best


def _covered(curve: Curve, boxes: Sequence[Box]) -> int:
    """Return how many points of a curve lie behind boxes."""
    points = curve.points()
    xs, ys = zip(*points, strict=True)
    left, right, top, low = min(xs), max(xs), min(ys), max(ys)
    return sum(
        sum(box.holds(point, _CLEAR) for point in points)
        for box in boxes
        if box.x + box.width / 2 > left
        and box.x - box.width / 2 < right
        and box.y + box.height / 2 > top
        and box.y - box.height / 2 < low
    )


def border_curve(source: Box, target: Box, bend: float) -> Curve:
    """Return a curve from border to border; `bend` in steps to its left, 0 is straight."""
    begin, end = (source.x, source.y), (target.x, target.y)
    length = max(1.0, math.dist(begin, end))
    aside = (
        (end[1] - begin[1]) / length * bend * _BEND,
        (begin[0] - end[0]) / length * bend * _BEND,
    )
    controls = [
        (
            begin[0] + (end[0] - begin[0]) * share + aside[0],
            begin[1] + (end[1] - begin[1]) * share + aside[1],
        )
        for share in (1 / 3, 2 / 3)
    ]
    segment = (begin, controls[0], controls[1], end)
    low = _leaving(segment, source)
    high = 1 - _leaving(segment[::-1], target)
    if low >= high:
        return Curve((segment,))
    return Curve((_between(segment, low, high),))


def loop_curve(box: Box, number: int) -> Curve:
    """Return the loop above a box that has so many within."""
    reach = _LOOP + _LOOP_STEP * number
    top = box.y - box.height / 2 - _CLEAR
    left, right = box.x - reach * 0.55, box.x + reach * 0.55
    high = top - reach * 1.3
    return Curve((((right, top), (right + reach, high), (left - reach, high), (left, top)),))


def loop_height(count: int) -> float:
    """Return the height that so many loops and their captions take."""
    return _LOOP + _LOOP_STEP * (count - 1) + 14


def shortened_curve(curve: Curve, length: float) -> Curve:
    """Return a curve whose end is drawn back along its direction, to make room for a head."""
    dx, dy = curve.direction()
    *before, (begin, first, second, end) = curve.segments
    back = (end[0] - dx * length, end[1] - dy * length)
    return Curve((*before, (begin, first, (second[0] - dx * length / 2, second[1]), back)))


def head(curve: Curve, size: float) -> str:
    """Return the corners of an arrow head at a curve's end, as for an SVG polygon."""
    (dx, dy), (x, y) = curve.direction(), curve.segments[-1][3]
    back = (x - dx * size, y - dy * size)
    half = size * 0.42
    corners = ((x, y), (back[0] - dy * half, back[1] + dx * half))
    return " ".join(map(_pair, (*corners, (back[0] + dy * half, back[1] - dx * half))))


def _at(segment: Segment, t: float) -> Point:
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = segment
    s = 1 - t
    a, b, c, d = s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t
    return a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3


def _leaving(segment: Segment, box: Box) -> float:
    """Return where a segment that begins in a box has left it for the first time."""
    inside, outside = 0.0, 1.0
    for step in range(1, _STEPS + 1):
        if not box.holds(_at(segment, step / _STEPS), _CLEAR):
            outside = step / _STEPS
            break
        inside = step / _STEPS
    for _ in range(12):
        middle = (inside + outside) / 2
        if box.holds(_at(segment, middle), _CLEAR):
            inside = middle
        else:
            outside = middle
    return outside


def _between(segment: Segment, low: float, high: float) -> Segment:
    """Return the part of a segment between two of its parameters."""
    tail = _split(segment, low)[1]
    return _split(tail, (high - low) / (1 - low))[0] if low < 1 else tail


def _split(segment: Segment, t: float) -> tuple[Segment, Segment]:
    p0, p1, p2, p3 = segment
    a, b, c = _mix(p0, p1, t), _mix(p1, p2, t), _mix(p2, p3, t)
    d, e = _mix(a, b, t), _mix(b, c, t)
    middle = _mix(d, e, t)
    return (p0, a, d, middle), (middle, e, c, p3)


def _mix(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t
