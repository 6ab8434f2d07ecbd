"""WITH and RETURN: columns, DISTINCT, ORDER BY, SKIP, LIMIT and the WHERE behind WITH.

ORDER BY and WHERE see the new columns and, unless rows were merged by DISTINCT or an aggregating
function, the old variables too. For ORDER BY with a LIMIT only the rows that can still be among
the first are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from graph.cypher import tree
from graph.cypher.aggregates import Grouping
from graph.cypher.expressions import compiled, condition
from graph.cypher.runtime import HELD_MAX, Runtime
from graph.cypher.scope import Scope
from graph.cypher.tree_walks import aggregates, replaced
from graph.cypher.values import Evaluate, Row, group_key, kind, merge_key, sort_key
from graph.errors import BadQuery

Rows = Iterator[Row]
OrderKeys = list[list[Any]]
_ROOM: int = 1024
"""Rows beyond those wanted that are gathered before the last ones are dropped."""


class Made(NamedTuple):
    """A row and, after ORDER BY, its keys."""

    row: Row
    keys: OrderKeys | None


class Projection:
    """Makes the rows of one WITH or RETURN; `scope` is theirs."""

    def __init__(self, clause: tree.Projection, scope: Scope, run: Runtime) -> None:
        self._run, self._clause = run, clause
        items = columns(clause, scope)
        names = [item.name for item in items]
        self.scope = Scope(names)
        self._width = len(names)
        grouped = any(aggregates(item.expression) for item in items)
        narrow = grouped or clause.distinct
        inner = self.scope if narrow else scope.extended(names)
        self._grouping = Grouping(items, scope, run) if grouped else None
        self._values = [] if grouped else [compiled(i.expression, scope, run) for i in items]
        self._keep_old = not narrow

        def over(expr: tree.Expr) -> tree.Expr:
            return _over_columns(expr, items) if narrow else expr

        self._sorts = [
            (compiled(over(each.expression), inner, run), each.descending) for each in clause.order
        ]
        self._where: Evaluate | None = None
        if clause.where is not None:
            self._where = condition(over(clause.where), inner, run)
        given = run.context.parameters
        self._skip = row_count("SKIP", clause.skip, given) or 0
        self._limit = row_count("LIMIT", clause.limit, given)
        if run.context.unsliced and clause.final and self._limit is not None:
            self._limit += self._skip
        if run.context.unsliced and clause.final:
            self._skip = 0

    @property
    def ordered(self) -> bool:
        """Whether there is an ORDER BY."""
        return bool(self._sorts)

    def operator(self, rows: Rows) -> Rows:
        """Yield the new rows."""
        for made in self.made(rows):
            yield made.row

    def made(self, rows: Rows) -> Iterator[Made]:
        """Yield the new rows with their keys."""
        flow = self._wide(rows)
        if self._clause.distinct:
            flow = self._distinct(flow)
        sliced = self._sliced(self._sorted(flow) if self._sorts else ((row, None) for row in flow))
        for row, keys in sliced:
            if self._where is None or self._where(row) is True:
                assert len(row) >= self._width, "a row has all columns"
                yield Made(row[-self._width :], keys)

    def _wide(self, rows: Rows) -> Rows:
        """Yield the columns, behind the old row where that can still be seen."""
        if self._grouping is not None:
            yield from self._grouping.rows(rows)
            return
        for row in rows:
            self._run.spend(1)
            new = [value(row) for value in self._values]
            yield row + new if self._keep_old else new

    def _distinct(self, rows: Rows) -> Rows:
        seen: dict[Any, None] = {}
        for row in rows:
            key = tuple(group_key(value, self._run.spend) for value in row)
            if key in seen:
                continue
            if not self._run.hold():
                return
            seen[key] = None
            yield row

    def _sorted(self, rows: Rows) -> Iterator[tuple[Row, OrderKeys | None]]:
        wanted = HELD_MAX if self._limit is None else self._skip + self._limit
        if self._limit is None and self._clause.final:
            wanted = self._skip + self._run.context.rows_max + 1
        kept_max = min(wanted, HELD_MAX)
        held: list[tuple[Any, Row, OrderKeys]] = []
        count = 0
        for row in rows:
            count += 1
            keys = [
                [*sort_key(value(row), self._run.spend), descending]
                for value, descending in self._sorts
            ]
            held.append((merge_key(keys), row, keys))
            if len(held) >= kept_max + max(kept_max, _ROOM):
                held.sort(key=lambda each: each[0])
                del held[kept_max:]
        if count > kept_max and (wanted > HELD_MAX or self._limit is None):
            self._run.stop("rows")
        held.sort(key=lambda each: each[0])
        assert len(held) < kept_max + max(kept_max, _ROOM), "rows that come late are dropped"
        for _, row, keys in held[:kept_max]:
            yield row, keys

    def _sliced(
        self, rows: Iterator[tuple[Row, OrderKeys | None]]
    ) -> Iterator[tuple[Row, OrderKeys | None]]:
        if self._run.writes:
            rows = iter(list(rows))
        stop = None if self._limit is None else self._skip + self._limit
        return islice(rows, self._skip, stop)


def columns(clause: tree.Projection, scope: Scope) -> list[tree.Item]:
    """Return the columns, those that `*` stands for included."""
    items = list(clause.items)
    if clause.star:
        visible = scope.visible()
        if not visible and not items:
            raise BadQuery("* stands for all variables, but there are none")
        given = [item.name for item in items]
        items = [
            tree.Item(tree.Variable(name), name, aliased=False)
            for name in visible
            if name not in given
        ] + items
    return items


def _over_columns(expr: tree.Expr, items: list[tree.Item]) -> tree.Expr:
    """Return the expression with what is a column replaced by the column's name."""

    names = {item.expression: item.name for item in items}

    def change(inner: tree.Expr) -> tree.Expr | None:
        return tree.Variable(names[inner]) if inner in names else None

    return replaced(expr, change)


def row_count(word: str, expr: tree.Expr | None, parameters: Mapping[str, Any]) -> int | None:
    """Return what SKIP or LIMIT says: a number or a parameter."""
    if expr is None:
        return None
    if isinstance(expr, tree.Parameter):
        value = parameters.get(expr.name)
    elif isinstance(expr, tree.Constant):
        value = expr.value
    else:
        raise BadQuery(f"{word} takes a number or a parameter")
    if type(value) is not int or value < 0:
        found = value if type(value) is int else kind(value)
        raise BadQuery(f"{word} takes an integer of 0 or more, not {found}")
    return value
