"""Aggregating functions, and the grouping that goes with them.

Columns without an aggregating function are what is grouped by. Within a column that has one,
whatever else it names must be grouped by as well, else it would have no single value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from graph.cypher import tree
from graph.cypher.arithmetic import checked
from graph.cypher.expressions import compiled
from graph.cypher.runtime import Runtime
from graph.cypher.scope import HIDDEN, Scope
from graph.cypher.tree_walks import aggregates, free_names, is_aggregate, replaced
from graph.cypher.values import Evaluate, Row, group_key, is_number, kind, sort_key
from graph.errors import BadQuery


class Aggregate(Protocol):
    """What takes the values of a group, never null, and has a result."""

    def add(self, value: Any, /) -> None:
        """Take a value."""

    def result(self) -> Any:
        """Return what the values come to."""


class _Count:
    def __init__(self, _run: Runtime) -> None:
        self._count = 0

    def add(self, _value: Any) -> None:
        self._count += 1

    def result(self) -> int:
        return self._count


class _Total:
    name: str

    def __init__(self, _run: Runtime) -> None:
        self.total: Any = 0
        self.count = 0

    def add(self, value: Any) -> None:
        if not is_number(value):
            raise BadQuery(f"{self.name}() does not take {kind(value)}")
        self.total += value
        self.count += 1


class _Sum(_Total):
    name = "sum"

    def result(self) -> Any:
        return checked(self.total) if type(self.total) is int else self.total


class _Average(_Total):
    name = "avg"

    def result(self) -> Any:
        return self.total / self.count if self.count else None


class _Extreme:
    """The first or the last in the order of ORDER BY."""

    def __init__(self, run: Runtime, *, largest: bool) -> None:
        self._spend = run.spend
        self._largest = largest
        self._best: Any = None
        self._key: Any = None

    def add(self, value: Any) -> None:
        key = sort_key(value, self._spend)
        if self._key is None or (key > self._key if self._largest else key < self._key):
            self._best, self._key = value, key

    def result(self) -> Any:
        return self._best


class _Collect:
    def __init__(self, run: Runtime) -> None:
        self._hold = run.hold
        self._items: list[Any] = []

    def add(self, value: Any) -> None:
        if self._hold():
            self._items.append(value)

    def result(self) -> list[Any]:
        return self._items


class _Distinct:
    """Hands each value on once."""

    def __init__(self, inner: Aggregate, run: Runtime) -> None:
        self._inner, self._run = inner, run
        self._seen: dict[Any, None] = {}

    def add(self, value: Any) -> None:
        key = group_key(value, self._run.spend)
        if key not in self._seen and self._run.hold():
            self._seen[key] = None
            self._inner.add(value)

    def result(self) -> Any:
        return self._inner.result()


_AGGREGATES: Final[dict[str, Callable[[Runtime], Aggregate]]] = {
    "count": _Count,
    "sum": _Sum,
    "avg": _Average,
    "min": lambda run: _Extreme(run, largest=False),
    "max": lambda run: _Extreme(run, largest=True),
    "collect": _Collect,
}


def _aggregate(call: tree.Call, run: Runtime) -> Aggregate:
    made = _AGGREGATES[call.name](run)
    return _Distinct(made, run) if call.distinct else made


class Grouping:
    """Turns rows into one row of columns for each group."""

    def __init__(self, items: Sequence[tree.Item], scope: Scope, run: Runtime) -> None:
        self._run = run
        keys = [item.expression for item in items if not aggregates(item.expression)]
        self._keys = [compiled(key, scope, run) for key in keys]
        self._calls: dict[tree.Call, str] = {}
        names = {key: f"{HIDDEN}{at}" for at, key in enumerate(keys)}
        columns = [self._rewritten(item.expression, names) for item in items]
        self._arguments = [_argument(call, scope, run) for call in self._calls]
        inner = Scope((*(f"{HIDDEN}{at}" for at in range(len(keys))), *self._calls.values()))
        self._columns = [compiled(column, inner, run) for column in columns]

    def rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the groups' rows, in the order in which the groups were met."""
        run = self._run
        groups: dict[Any, tuple[Row, list[Aggregate]]] = {}
        if not self._keys:
            groups[()] = self._group([])
        for row in rows:
            run.spend(1)
            refusals = run.refusals
            values = [key(row) for key in self._keys]
            name = tuple(group_key(value, run.spend) for value in values)
            if name not in groups:
                if not run.hold():
                    break
                groups[name] = self._group(values)
            for argument, aggregate in zip(self._arguments, groups[name][1], strict=True):
                value = argument(row)
                if value is not None:
                    aggregate.add(value)
            if run.refusals > refusals:
                break
        assert self._keys or len(groups) == 1, "without keys all rows are one group"
        for values, made in groups.values():
            inner = values + [aggregate.result() for aggregate in made]
            yield [column(inner) for column in self._columns]

    def _group(self, values: Row) -> tuple[Row, list[Aggregate]]:
        return values, [_aggregate(call, self._run) for call in self._calls]

    def _rewritten(self, expr: tree.Expr, keys: dict[tree.Expr, str]) -> tree.Expr:
        """Return the expression over a group's row: keys and calls have become variables."""

        def change(inner: tree.Expr) -> tree.Expr | None:
            if inner in keys:
                return tree.Variable(keys[inner])
            if not isinstance(inner, tree.Call) or not is_aggregate(inner):
                return None
            name = f"{HIDDEN}aggregate{len(self._calls)}"
            return tree.Variable(self._calls.setdefault(inner, name))

        rewritten = replaced(expr, change)
        for name in free_names(rewritten):
            if not name.startswith(HIDDEN):
                raise BadQuery(f"{name} beside an aggregate has to be a column of its own")
        return rewritten


def _argument(call: tree.Call, scope: Scope, run: Runtime) -> Evaluate:
    if call.star:
        return lambda _row: True
    if len(call.arguments) != 1:
        raise BadQuery(f"{call.name}() takes one argument")
    return compiled(call.arguments[0], scope, run)
