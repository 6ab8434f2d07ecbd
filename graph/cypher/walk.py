"""Walks a pattern: each step of a plan is a generator over the one before.

All steps share one row and the arcs that are in use. A step sets its part of the row, yields, and
when it is resumed takes the next possibility: that is backtracking, laid out flat. An arc is used
once in a MATCH, so cycles end by themselves. Every node and arc looked at is paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from graph.cypher.access import candidates
from graph.cypher.elements import path_along
from graph.cypher.fan import fan_stage
from graph.cypher.plan import Fan, Hop, Relationship, Start, Step, Trace
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.stage import (
    Flow,
    Stage,
    Test,
    Used,
    counting,
    has_labels,
    node_in,
    passing,
)
from graph.cypher.tree import Direction
from graph.cypher.values import Row
from graph.model import Arc
from graph.state import Arcs, Vertex


def stages(steps: Iterable[Step], scope: Scope, run: Runtime) -> list[Stage]:
    """Compile the steps of a plan, in their order."""
    made: list[Stage] = []
    for step in steps:
        passes = passing(step.checks, scope, run)
        if isinstance(step, Start):
            made.append(_start(step, passes, scope, run))
        elif isinstance(step, Trace):
            made.append(_trace(step, passes, scope, run))
        elif isinstance(step, Fan):
            made.append(fan_stage(step, passes, scope, run))
        elif step.relationship.pattern.hops is None:
            made.append(_hop(step, passes, scope, run))
        else:
            made.append(_hops(step, passes, scope, run))
    return made


def _start(step: Start, passes: Test, scope: Scope, run: Runtime) -> Stage:
    find, labels = candidates(step.access, step.node.name, scope, run), step.node.labels
    position, spend = scope.position(step.node.name), run.context.budget.spend

    def stage(before: Flow, row: Row, _used: Used) -> Flow:
        for _ in before:
            for node in find(row):
                spend()
                if has_labels(node, labels):
                    row[position] = node
                    if passes(row):
                        yield

    return stage


def _trace(step: Trace, passes: Test, scope: Scope, run: Runtime) -> Stage:
    chain = step.chain
    assert chain.path is not None, "a trace binds a path"
    position, first = scope.position(chain.path), scope.position(chain.nodes[0].name)
    places = [scope.position(each.name) for each in chain.relationships]
    spend = run.context.budget.spend

    def stage(before: Flow, row: Row, _used: Used) -> Flow:
        for _ in before:
            arcs: list[Arc] = []
            for place in places:
                arcs += row[place] if type(row[place]) is list else (row[place],)
            spend(len(arcs) >> 3)
            row[position] = path_along(run, row[first], arcs)
            if passes(row):
                yield

    return stage


class _Walk:
    """What both kinds of hop need to know."""

    def __init__(self, step: Hop, scope: Scope, run: Runtime) -> None:
        pattern = step.relationship.pattern
        self.place = scope.position(step.relationship.name)
        self.far = scope.position(step.far.name)
        self.labels = step.far.labels
        self.arcs = _arcs(pattern.direction, step.forward)
        self.counts = counting(pattern.types, run)
        self._near, self._far_bound = scope.position(step.near), step.far_bound

    def ends(self, row: Row) -> tuple[int, int | None]:
        """Return the slot to go from and the one to arrive at, None when any will do; -1 is
        nowhere."""
        return _slot(row[self._near]), _slot(row[self.far]) if self._far_bound else None


def _slot(value: Any) -> int:
    return -1 if value is None else node_in(value).slot


def _arcs(direction: Direction, forward: bool) -> Callable[[Vertex], Arcs]:  # noqa: FBT001
    if direction == "both":
        return _both
    return _out if (direction == "out") == forward else _into


def _out(vertex: Vertex) -> Arcs:
    return vertex.out


def _into(vertex: Vertex) -> Arcs:
    return vertex.into


def _both(vertex: Vertex) -> Arcs:
    return (*vertex.out, *(arc for arc in vertex.into if arc.source != arc.target))


def _hop(step: Hop, passes: Test, scope: Scope, run: Runtime) -> Stage:
    walk = _Walk(step, scope, run)
    counts, place, far, labels = walk.counts, walk.place, walk.far, walk.labels
    arcs_at = _only_bound(walk, run) if step.relationship_bound else _all(walk, run)
    spend = run.context.budget.spend

    def stage(before: Flow, row: Row, used: Used) -> Flow:
        state = run.state
        for _ in before:
            here, there = walk.ends(row)
            for arc in arcs_at(here, row):
                spend()
                if arc in used or not counts(arc.edge):
                    continue
                slot = arc.target if arc.source == here else arc.source
                if there is not None and slot != there:
                    continue
                node = state.node(slot)
                if not has_labels(node, labels):
                    continue
                row[place], row[far] = arc, node
                if passes(row):
                    used[arc] = None
                    yield
                    del used[arc]

    return stage


ArcsAt = Callable[[int, Row], Iterable[Arc]]


def _all(walk: _Walk, run: Runtime) -> ArcsAt:
    return lambda slot, _row: () if slot < 0 else walk.arcs(run.state.vertex(slot))


def _only_bound(walk: _Walk, run: Runtime) -> ArcsAt:
    """The relationship is bound before: it may lead on from here, no other one can."""

    def arcs_at(slot: int, row: Row) -> Iterable[Arc]:
        given = run.current(row[walk.place])
        arcs = () if slot < 0 else walk.arcs(run.state.vertex(slot))
        return [arc for arc in arcs if arc is given]

    return arcs_at


Trails = Callable[[int, Row, Used], Iterator[tuple[int, list[Arc]]]]
"""Yields (slot, trail) for each way from a slot that is long enough, depth first. The trail is a
list that goes on changing."""


def _hops(step: Hop, passes: Test, scope: Scope, run: Runtime) -> Stage:
    walk = _Walk(step, scope, run)
    trail_of = _trails(step, walk, scope, run)
    place, far, labels, needed = walk.place, walk.far, walk.labels, step.needed
    turn = 1 if step.forward else -1
    spend = run.context.budget.spend

    def stage(before: Flow, row: Row, used: Used) -> Flow:
        state = run.state
        for _ in before:
            here, there = walk.ends(row)
            for slot, trail in trail_of(here, row, used):
                if there is not None and slot != there:
                    continue
                node = state.node(slot)
                if not has_labels(node, labels):
                    continue
                row[far] = node
                if needed:
                    spend(len(trail) >> 3)
                    row[place] = trail[::turn]
                if passes(row):
                    yield

    return stage


def _trails(step: Hop, walk: _Walk, scope: Scope, run: Runtime) -> Trails:
    relationship = step.relationship
    assert relationship.pattern.hops is not None, "a trail has a length"
    low, high = relationship.pattern.hops
    admits, arcs_at = _admission(relationship, scope, run), _all(walk, run)
    counts, spend = walk.counts, run.context.budget.spend

    def trails(start: int, row: Row, used: Used) -> Iterator[tuple[int, list[Arc]]]:
        trail: list[Arc] = []
        if low == 0 and start >= 0:
            yield start, trail
        waiting = [] if high == 0 else [(start, iter(arcs_at(start, row)))]
        while waiting:
            here, arcs = waiting[-1]
            arc = next(arcs, None)
            if arc is None:
                waiting.pop()
                if trail:
                    del used[trail.pop()]
                continue
            spend()
            if arc in used or not counts(arc.edge) or not admits(arc, row):
                continue
            slot = arc.target if arc.source == here else arc.source
            used[arc] = None
            trail.append(arc)
            if len(trail) >= low:
                yield slot, trail
            if high is None or len(trail) < high:
                waiting.append((slot, iter(arcs_at(slot, row))))
            else:
                del used[trail.pop()]
        assert not trail, "a finished walk is back where it began"

    return trails


def _admission(
    relationship: Relationship, scope: Scope, run: Runtime
) -> Callable[[Arc, Row], bool]:
    """Compile the conditions that hold for each arc of a trail."""
    if not relationship.each:
        return lambda _arc, _row: True
    position, passes = (
        scope.position(relationship.each_name),
        passing(relationship.each, scope, run),
    )

    def admits(arc: Arc, row: Row) -> bool:
        row[position] = arc
        return passes(row)

    return admits
