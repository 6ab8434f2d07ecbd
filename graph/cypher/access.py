"""Where a pattern begins: the nodes that may be its first one.

What an index or an id gives are candidates; labels and conditions are checked on each of them. An
index knows the state that the query began with; what the query itself has written is added. All
of that for a range, and for a value only what has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, assert_never

from graph.cypher.expressions import compiled
from graph.cypher.plan import Access
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.stage import node_in
from graph.cypher.values import Evaluate, Row, kind
from graph.errors import BadQuery
from graph.model import Arc, Node

Find = Callable[[Row], Iterable[Node]]


def candidates(access: Access, name: str, scope: Scope, run: Runtime) -> Find:
    """Compile an access: a function from the row so far to nodes."""
    match access.kind:
        case "bound":
            return _bound(scope.position(name), run)
        case "relationship":
            return _ends(scope.position(access.relationship), run)
        case "id":
            return _by_id(access, scope, run)
        case "index":
            return _equal(access, scope, run)
        case "range":
            return _between(access, scope, run)
        case "label" | "all":
            return lambda _row: run.state.nodes()
        case _:
            assert_never(access.kind)


def _bound(position: int, run: Runtime) -> Find:
    def find(row: Row) -> Iterable[Node]:
        value = row[position]
        return () if value is None else (run.current(node_in(value)),)

    return find


def _ends(position: int, run: Runtime) -> Find:
    def find(row: Row) -> Iterable[Node]:
        value = row[position]
        if value is None:
            return ()
        if not isinstance(value, Arc):
            raise BadQuery(f"{kind(value)} stands where a pattern has a relationship")
        arc = run.current(value)
        return [run.state.node(slot) for slot in dict.fromkeys((arc.source, arc.target))]

    return find


def _values(access: Access, scope: Scope, run: Runtime) -> Callable[[Row], list[Any]]:
    assert access.values is not None, "a look-up has values"
    value = compiled(access.values, scope, run)

    def values(row: Row) -> list[Any]:
        found = value(row)
        if found is None:
            return []
        if not access.many:
            return [found]
        if type(found) is not list:
            raise BadQuery(f"IN takes a list, not {kind(found)}")
        return [each for each in found if each is not None]

    return values


def _by_id(access: Access, scope: Scope, run: Runtime) -> Find:
    values = _values(access, scope, run)

    def find(row: Row) -> Iterator[Node]:
        ids = [value for value in values(row) if type(value) is str]
        for each in dict.fromkeys(ids):
            run.spend(1)
            node = run.state.find_node(each)
            if node is not None:
                yield node

    return find


def _equal(access: Access, scope: Scope, run: Runtime) -> Find:
    values = _values(access, scope, run)
    indexes = run.context.indexes
    assert indexes is not None, "a plan with an index has one"

    def find(row: Row) -> Iterable[Node]:
        slots: dict[int, None] = {}
        for value in values(row):
            found = indexes.candidates(access.label, access.key, run.base, equal=value)
            if found is None:
                return run.state.nodes()
            run.spend(1)
            slots |= dict.fromkeys(found)
            written = run.written.equal(access.label, access.key, value, run.state, run.spend)
            slots |= dict.fromkeys(written)
        return _nodes(slots, run)

    return find


def _between(access: Access, scope: Scope, run: Runtime) -> Find:
    bounds: dict[str, Evaluate] = {}
    for name, bound in (("low", access.low), ("high", access.high)):
        if bound is not None:
            bounds[name] = compiled(bound, scope, run)
    indexes = run.context.indexes
    assert indexes is not None, "a plan with an index has one"

    def find(row: Row) -> Iterable[Node]:
        given = {name: bound(row) for name, bound in bounds.items()}
        if None in given.values():
            return ()
        found = indexes.candidates(access.label, access.key, run.base, **given)
        return run.state.nodes() if found is None else _nodes((*found, *run.written.slots()), run)

    return find


def _nodes(slots: Iterable[int], run: Runtime) -> Iterator[Node]:
    state = run.state
    for slot in dict.fromkeys(slots):
        node = state.vertex(slot).node if slot < state.slots else None
        if node is not None:
            yield node
